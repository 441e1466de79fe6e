//! Bytes that the kernels move, counted, against the least that their operators must move; and conflicts of shared memory's banks.
//!
//! Counted are sectors of 32 bytes: those of all requests (what reaches the second-level cache), and each sector once per launch (what
//! reaches memory if the cache holds what one launch moves). The table below is the budget; a change for the better lowers it.
#![allow(clippy::unwrap_used)]

mod common;

use common::device::Device;
use common::programs::{Mode, Program, Traffic};
use half::f16;
use vcc_core::{Dims, Ladder, Layout};
use vcc_cuda_emu::Schedule;
use vcc_ops::launch::{self, Type};

const N: usize = 1024;
const CHANNELS: usize = 768;
const ROW: usize = CHANNELS * 2;
const HEADS: usize = 12;
const VIPS: usize = 16;

/// Distinct sectors stay within 1.15 of the least, all requests of the operators on rows too. In a partition, every block reads the masks
/// of the whole row. A selection reads the scores three times, and writes and reads its part sums.
///
/// Operator, ladder, most that may be moved relative to the least: by all requests, and by distinct sectors.
const BUDGETS: [(&str, &[i64], f64, f64); 12] = [
    ("partition", &[16, 1], 1.4, 1.15),
    ("coarsen", &[16, 1], 1.15, 1.15),
    ("select", &[16, 1], 5.5, 1.3),
    ("compress", &[16, 1], 1.15, 1.15),
    ("decompress", &[16, 1], 1.15, 1.15),
    ("expand", &[16, 1], 1.15, 1.15),
    ("partition", &[64, 8, 1], 1.75, 1.15),
    ("coarsen", &[64, 8, 1], 1.15, 1.15),
    ("select", &[64, 8, 1], 7.5, 1.2),
    ("compress", &[64, 8, 1], 1.15, 1.15),
    ("decompress", &[64, 8, 1], 1.15, 1.15),
    ("expand", &[64, 8, 1], 1.15, 1.15),
];

/// Passes over the banks of shared memory, relative to as many as without conflicts.
const MOST_PASSES: f64 = 1.05;

/// Operator, least bytes, what was counted.
type Counted = (&'static str, usize, Traffic);

#[test]
fn bytes_are_within_their_budgets() {
    let path = Mode::Watch.build("traffic", &[]);
    let mut broken = vec![];
    for ladder in [&[16, 1][..], &[64, 8, 1]] {
        for (operator, least, traffic) in count(&Program::new(&path, Schedule::Forward), ladder) {
            let (_, _, all, distinct) = BUDGETS
                .iter()
                .find(|budget| budget.0 == operator && budget.1 == ladder)
                .unwrap();
            let times = |sectors: u64| sectors as f64 * 32.0 / least as f64;
            let passes = traffic.shared_steps as f64 / traffic.shared_least.max(1) as f64;
            let line = format!(
                "{operator:10} {ladder:?}: least {least} bytes, all requests {:.3}, distinct {:.3}, shared {passes:.3}",
                times(traffic.sectors),
                times(traffic.distinct_sectors),
            );
            println!("{line}");
            if times(traffic.sectors) > *all
                || times(traffic.distinct_sectors) > *distinct
                || passes > MOST_PASSES
            {
                broken.push(line);
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Runs all operators of a block once, and sums up what each moved.
fn count(program: &Program, sizes: &[i64]) -> Vec<Counted> {
    let layout = Layout::for_tokens(Ladder::new(sizes).unwrap(), N, VIPS).unwrap();
    let levels = layout.ladder().levels();
    let (items, segments) = (layout.items(), layout.segments());
    let dims = Dims {
        batch: 1,
        channels: CHANNELS,
    };
    let device = Device::new(program, 0);
    let rows = |rows: usize| device.input(&vec![f16::ZERO; rows * CHANNELS]);
    let mut counted = vec![];
    let mut note = |operator, least| {
        let mut sum = Traffic::default();
        for (_, traffic) in program.traffic.borrow_mut().drain(..) {
            sum.sectors += traffic.sectors;
            sum.distinct_sectors += traffic.distinct_sectors;
            sum.shared_steps += traffic.shared_steps;
            sum.shared_least += traffic.shared_least;
        }
        counted.push((operator, least, sum));
    };

    let vip: Vec<u8> = (0..N).map(|t| u8::from(t < VIPS)).collect();
    let (vip, valid) = (device.input(&vip), device.input(&[1u8; N]));
    let partition = launch::Partition {
        item_token: device.output::<i64>(items),
        item_count: device.output::<i64>(items),
        token_slot: device.output::<i64>(N),
        vote: device.output::<u8>(VIPS),
        roots: device.output::<i64>(layout.roots()),
    };
    device.run(launch::partition(&layout, 1, N, vip, valid, partition));
    note(
        "partition",
        2 * N + 8 * N + 16 * items + VIPS + 8 * layout.roots(),
    );
    let (token, counts) = (partition.item_token, partition.item_count);

    let state = [rows(items), rows(segments), rows(segments)];
    device.run(launch::coarsen(
        Type::F16,
        &layout,
        dims,
        N,
        rows(N),
        token,
        counts,
        state,
    ));
    note(
        "coarsen",
        (N + items + 2 * segments) * ROW + 8 * (layout.slots() + items),
    );

    // Every fourth candidate of each level is refined, in the order that VccSelect writes.
    let (mut candidates, mut rest): (Vec<i64>, Vec<i64>) =
        (layout.level(0).map(|id| id as i64).collect(), vec![]);
    let mut ancestors = 0;
    for level in 0..levels {
        let refined: Vec<i64> = candidates.iter().copied().step_by(4).collect();
        rest.extend(candidates.iter().filter(|id| !refined.contains(id)));
        let (fan, start) = (
            layout.ladder().children(level),
            layout.level(level).start as i64,
        );
        let first = if level + 1 == levels {
            layout.vips()
        } else {
            layout.level(level + 1).start
        } as i64;
        if level == 0 {
            let (c, h) = (candidates.len(), refined.len());
            let tensors = launch::SelectionTensors {
                scores: device.input(&vec![f16::ONE; HEADS * VIPS * c]),
                candidates: device.input(&candidates),
                item_count: counts,
                vote: partition.vote,
                children: device.output::<i64>(h * fan),
                rest: device.output::<i64>(c - h),
            };
            let sizes = launch::Selection {
                level,
                heads: HEADS,
                candidates: c,
                refine: h,
            };
            device.run(launch::select(Type::F16, &layout, 1, sizes, tensors));
            note(
                "select",
                HEADS * VIPS * c * 2 + 16 * c + VIPS + 8 * (h * fan + c - h),
            );
        }
        ancestors += refined.len();
        candidates = refined
            .iter()
            .flat_map(|id| {
                (0..fan as i64).map(move |child| first + (id - start) * fan as i64 + child)
            })
            .collect();
    }
    let (slots, listed) = (candidates.len(), rest.len());
    let list = [candidates, rest].concat();
    let (q, r) = (list.len(), layout.vips() + list.len());
    let list = device.input(&list);

    let out = launch::Rows {
        rows: rows(r),
        row_token: device.output::<i64>(r),
        row_bias: device.output::<f32>(r),
    };
    device.run(launch::compress(
        Type::F16,
        &layout,
        dims,
        q,
        1.0,
        state,
        list,
        token,
        counts,
        out,
    ));
    note(
        "compress",
        (2 * r + 2 * ancestors) * ROW + 8 * q + (16 + 12) * r,
    );

    let update = launch::Update {
        y: out.rows,
        update: rows(r),
        gain: rows(1),
    };
    device.run(launch::decompress(
        Type::F16,
        &layout,
        dims,
        q,
        list,
        counts,
        update,
        state,
    ));
    // Listed segments below the first level have ancestors, whose maps they read.
    let above = ancestors
        - if levels == 1 {
            ancestors
        } else {
            slots / layout.ladder().children(levels - 1)
        };
    let moved = 2 * (layout.vips() + slots) + 7 * listed + 3 * ancestors + 2 * above + 1;
    note("decompress", moved * ROW + 8 * q + 8 * (q + ancestors));

    device.run(launch::expand(
        Type::F16,
        &layout,
        dims,
        N,
        state,
        partition.token_slot,
        rows(N),
    ));
    note("expand", (2 * N + 2 * segments) * ROW + 8 * N);
    counted
}
