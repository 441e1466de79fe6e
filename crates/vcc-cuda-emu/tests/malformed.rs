//! Indices and scores that are not what the specification promises: the results are unspecified, and no kernel leaves its buffers.
#![allow(clippy::unwrap_used)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use common::cases::Random;
use common::device::Device;
use common::faults::ONLY_F32;
use common::programs::{Mode, Patch, Program};
use vcc_core::{Dims, Ladder, Layout};
use vcc_cuda_emu::Schedule;
use vcc_ops::launch::{self, Type};

const BATCH: usize = 2;
const N: usize = 70;
const VIPS: usize = 9;
const Q: usize = 21;

/// Valid ids, ids just outside, and numbers of any size.
fn indices(random: &mut Random, len: usize) -> Vec<i64> {
    let edges = [
        -1,
        0,
        N as i64,
        150,
        i64::from(i32::MAX),
        1 << 32,
        (1 << 32) + 20,
        i64::MIN,
        i64::MAX,
    ];
    (0..len)
        .map(|_| match random.below(3) {
            0 => random.pick(&edges),
            1 => random.below(120) as i64,
            _ => random.number(9e18) as i64,
        })
        .collect()
}

/// What the watcher says of all kernels on such inputs. Races are left out: a list that names an item twice has them.
fn findings(path: &Path, seed: u64) -> Vec<String> {
    let mut random = Random::new(seed);
    let ladder = random.pick(&[&[16, 4, 1][..], &[5, 1]]);
    let layout = Layout::for_tokens(Ladder::new(ladder).unwrap(), N, VIPS).unwrap();
    let channels = random.pick(&[8, 7]);
    let (items, segments) = (layout.items(), layout.segments());
    let dims = Dims {
        batch: BATCH,
        channels,
    };
    let program = Program::new(path, Schedule::Random(seed));
    let device = Device::new(&program, 0);
    let rows = |rows: usize| device.input(&vec![1f32; BATCH * rows * channels]);
    let mut any = |len: usize| device.input(&indices(&mut random, BATCH * len));
    let (token, counts, slots, list) = (any(items), any(items), any(N), any(Q));
    let state = [rows(items), rows(segments), rows(segments)];
    let (c, level) = (layout.roots(), 0);
    let refine = c / 2;
    let sizes = launch::Selection {
        level,
        heads: 3,
        candidates: c,
        refine,
    };
    let parts = launch::parts(Type::F32, &layout, sizes);
    let tensors = launch::SelectionTensors {
        scores: device.input(&vec![f32::NAN; BATCH * 3 * VIPS * c]),
        candidates: any(c),
        item_count: counts,
        vote: device.input(&[1u8; BATCH * VIPS]),
        children: device.output::<i64>(BATCH * refine * layout.ladder().children(level)),
        rest: device.output::<i64>(BATCH * (c - refine)),
        sums: device.output::<f32>(BATCH * parts * c),
    };
    let out = launch::Rows {
        rows: rows(VIPS + Q),
        row_token: device.output::<i64>(BATCH * (VIPS + Q)),
        row_bias: device.output::<f32>(BATCH * (VIPS + Q)),
    };
    let update = launch::Update {
        y: rows(VIPS + Q),
        update: rows(VIPS + Q),
        gain: rows(1),
    };
    let (ty, x) = (Type::F32, rows(N));
    let launches = [
        launch::coarsen(ty, &layout, dims, N, x, token, counts, state),
        launch::select(ty, &layout, BATCH, sizes, tensors),
        launch::compress(ty, &layout, dims, Q, 1.0, state, list, token, counts, out),
        launch::decompress(ty, &layout, dims, Q, list, counts, update, state),
        launch::expand(ty, &layout, dims, N, state, slots, x),
    ];
    let mut found = vec![];
    for launches in launches {
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| device.run(launches))) else {
            continue;
        };
        let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        let lines = said.lines().map(str::to_owned);
        let only_races = said.contains("exit status: 3");
        found.extend(lines.filter(|line| !(only_races && line.contains("watcher: race"))));
    }
    found
}

#[test]
fn kernels_stay_in_their_buffers() {
    let path = Mode::Watch.build("malformed", &ONLY_F32);
    for seed in 0..8 {
        let found = findings(&path, seed);
        assert!(found.is_empty(), "{seed}: {found:#?}");
    }
}

/// An index that is taken as it comes.
#[track_caller]
fn assert_found(name: &str, file: &'static str, from: &'static str, to: &'static str) {
    let [kernels, entries] = ONLY_F32;
    let path = Mode::Watch.build(name, &[kernels, entries, Patch { file, from, to }]);
    let found: Vec<String> = (0..8).flat_map(|seed| findings(&path, seed)).collect();
    assert!(!found.is_empty(), "{name}");
}

#[test]
fn an_unchecked_token_is_found() {
    let (from, to) = (
        "return token >= 0 && token < n ? (int)token : 0;",
        "return (int)token;",
    );
    assert_found("token", "coarsen.cuh", from, to);
}

#[test]
fn an_unchecked_item_is_found() {
    let (from, to) = (
        "id >= layout.vips && id < layout.items ? (int)id : -1;",
        "id >= layout.vips ? (int)id : -1;",
    );
    assert_found("item", "tree.cuh", from, to);
}

#[test]
fn an_unchecked_slot_is_found() {
    let (from, to) = ("at >= 0 && at < layout.slots ? (int)at : 0;", "(int)at;");
    assert_found("slot", "expand.cuh", from, to);
}
