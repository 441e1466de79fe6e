//! Selections at the edges of their kernels: numbers of candidates around those that warps and blocks take, rows of scores without a softmax,
//! batch rows without a vote or a candidate, scores at any address. CUDA must choose what the CPU chooses.
#![allow(clippy::unwrap_used)]

mod common;

use common::cases::Random;
use common::device::{Device, Run};
use common::operators::{Number, narrow};
use common::programs::{Mode, Program};
use half::{bf16, f16};
use vcc_core::{Ladder, Layout, sequential};
use vcc_cuda_emu::Schedule;
use vcc_ops::launch;

const BATCH: usize = 2;
const SCHEDULES: [Schedule; 3] = [Schedule::Forward, Schedule::Reverse, Schedule::Random(5)];

/// What is unusual in a case.
#[derive(Clone, Copy, Debug)]
enum Oddity {
    Nothing,
    NoVote,
    NoCandidate,
    /// One score of a row.
    Score(f64),
    /// All scores of a row.
    Row(f64),
    /// Probabilities that vanish.
    Wide,
}

const ODDITIES: [Oddity; 8] = [
    Oddity::Nothing,
    Oddity::NoVote,
    Oddity::NoCandidate,
    Oddity::Score(f64::NAN),
    Oddity::Score(f64::INFINITY),
    Oddity::Score(f64::NEG_INFINITY),
    Oddity::Row(f64::NEG_INFINITY),
    Oddity::Wide,
];

/// Heads and VIP slots: nobody looks, one looks, one block does it, and several share it.
const LOOKS: [(usize, usize); 5] = [(0, 3), (1, 1), (3, 1), (2, 9), (7, 31)];

/// One selection by the kernels and in Rust. Scores start `skew` elements after an aligned address. Candidates have one of five scores, the same
/// differences in each row, so that none are nearly but not quite equal.
fn check<T: Number>(
    candidates: usize,
    (heads, vips): (usize, usize),
    refine: usize,
    oddity: Oddity,
    skew: usize,
    runner: &dyn Run,
) {
    let ladder = Ladder::new(&[4, 2, 1]).unwrap();
    let layout = Layout::for_tokens(ladder, 4 * candidates + vips, vips).unwrap();
    assert_eq!(layout.roots(), candidates);
    let (rows, items) = (heads * vips, layout.items());
    let mut random = Random::new((candidates * 31 + heads * 7 + vips) as u64);
    let ids: Vec<i64> = layout.level(0).map(|id| id as i64).collect();
    let ids = ids.repeat(BATCH);
    let mut counts: Vec<i64> = (0..BATCH * items)
        .map(|_| random.pick(&[-1, 0, 1, 4, 4, 4]))
        .collect();
    let mut vote: Vec<bool> = (0..BATCH * vips).map(|_| random.below(3) > 0).collect();
    let levels: Vec<f64> = (0..candidates)
        .map(|_| random.below(5) as f64 * 0.5)
        .collect();
    let mut scores: Vec<f64> = (0..BATCH * rows)
        .flat_map(|_| {
            let all = random.number(3.0).round();
            levels.iter().map(move |level| level + all)
        })
        .collect();
    let row = candidates * random.below(BATCH * rows);
    match oddity {
        Oddity::Nothing => {}
        Oddity::NoVote => vote[..vips].fill(false),
        Oddity::NoCandidate => counts[items..].fill(0),
        _ if rows == 0 => {}
        Oddity::Score(score) => scores[row + random.below(candidates)] = score,
        Oddity::Row(score) => scores[row..][..candidates].fill(score),
        Oddity::Wide => scores[row..][..candidates]
            .iter_mut()
            .for_each(|score| *score *= 60.0),
    }
    let scores: Vec<T> = narrow(&scores);

    let (mut children, mut rest) = (
        vec![0; BATCH * refine * 2],
        vec![0; BATCH * (candidates - refine)],
    );
    let selection = vcc_core::Selection {
        level: 0,
        scores: &scores,
        heads,
        candidates: &ids,
        item_count: &counts,
        vote: &vote,
        batch: BATCH,
        refine,
    };
    vcc_core::select(&layout, selection, &mut children, &mut rest, &sequential).unwrap();

    let device = Device::new(runner, 0);
    let sizes = launch::Selection {
        level: 0,
        heads,
        candidates,
        refine,
    };
    let parts = launch::parts(T::TYPE, &layout, sizes);
    let votes: Vec<u8> = vote.iter().map(|&vote| u8::from(vote)).collect();
    let before = vec![T::ZERO; skew];
    let tensors = launch::SelectionTensors {
        scores: device.input(&[before, scores].concat()) + (skew * size_of::<T>()) as u64,
        candidates: device.input(&ids),
        item_count: device.input(&counts),
        vote: device.input(&votes),
        children: device.output::<i64>(children.len()),
        rest: device.output::<i64>(rest.len()),
        sums: device.output::<f32>(BATCH * parts * candidates),
    };
    device.run(launch::select(T::TYPE, &layout, BATCH, sizes, tensors));
    let what = format!(
        "{:?}, {candidates} candidates, {heads} heads, {vips} VIP slots, {refine} refined by {parts} blocks, {oddity:?}, skew {skew}",
        T::TYPE
    );
    assert!(device.read::<i64>(tensors.children) == children, "{what}");
    assert!(device.read::<i64>(tensors.rest) == rest, "{what}");
}

/// All oddities with each number of candidates, and types, shapes, budgets and addresses in turns.
fn check_all(candidates: &[usize]) {
    let cases = candidates
        .iter()
        .flat_map(|c| ODDITIES.map(|odd| (*c, odd)));
    for (at, (candidates, oddity)) in cases.enumerate() {
        let refine = [1, candidates / 2, candidates - 1][at % 3];
        let (looks, schedule) = (LOOKS[at % 5], &SCHEDULES[at / 3 % 3]);
        let skew = at / 2 % 2;
        match at % 4 {
            0 | 1 => check::<f32>(candidates, looks, refine, oddity, skew, schedule),
            2 => check::<f16>(candidates, looks, refine, oddity, skew, schedule),
            _ => check::<bf16>(candidates, looks, refine, oddity, skew, schedule),
        }
    }
}

#[test]
fn a_warp_or_several_take_a_row() {
    check_all(&[2, 3, 31, 32, 33, 255, 256, 257, 513, 1021, 1032]);
}

#[test]
fn a_block_takes_a_row_or_only_part_of_it() {
    check_all(&[8191, 8192, 8193, 8200, 16_389]);
}

#[test]
fn as_many_candidates_as_there_may_be() {
    let most = launch::MAX_CANDIDATES;
    check::<f16>(most, (1, 2), 5000, Oddity::NoVote, 0, &Schedule::Forward);
}

/// Rows that a block reads three times, alone and shared, with every access watched.
#[test]
fn nothing_is_found_in_long_rows() {
    let path = Mode::Watch.build("long", &[]);
    let cases = [(8193, (1, 1)), (8200, (2, 22)), (16_384, (0, 3))];
    for ((candidates, looks), schedule) in cases.into_iter().zip(SCHEDULES) {
        let program = Program::new(&path, schedule);
        for oddity in [Oddity::Nothing, Oddity::NoVote] {
            check::<f16>(candidates, looks, candidates / 3, oddity, 0, &program);
        }
    }
}
