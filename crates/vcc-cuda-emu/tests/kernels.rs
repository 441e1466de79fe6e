//! Every kernel against the f64 reference, on random shapes, types, ladders, masks and lists, under several schedules.
#![allow(clippy::unwrap_used)]

mod common;

use common::cases::{Case, random_case};
use common::operators::{Number, check, check_selections};
use half::{bf16, f16};
use vcc_cuda_emu::Schedule;

const SCHEDULES: [Schedule; 4] = [
    Schedule::Forward,
    Schedule::Reverse,
    Schedule::Random(1),
    Schedule::Random(2),
];

/// Cases of one type, each under one of the schedules. At most one in twenty may be too close to call.
fn cases<T: Number>(first: u64, count: u64, longest: usize, widest: usize) {
    let mut skipped = 0;
    for seed in first..first + count {
        let case = random_case(seed, longest, widest);
        let schedule = SCHEDULES[(seed % 4) as usize];
        let checked = std::panic::catch_unwind(|| check::<T>(&case, &schedule));
        match checked {
            Ok(true) => {}
            Ok(false) => skipped += 1,
            Err(panic) => {
                eprintln!("{schedule:?}, {case:?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(
        skipped * 20 <= count,
        "{skipped} of {count} cases are near-ties"
    );
}

#[test]
fn float32() {
    cases::<f32>(1000, 120, 150, 300);
}

#[test]
fn float16() {
    cases::<f16>(2000, 120, 150, 300);
}

#[test]
fn bfloat16() {
    cases::<bf16>(3000, 120, 150, 300);
}

/// More than one block in every direction.
#[test]
fn long_rows() {
    cases::<f32>(4000, 6, 5000, 32);
}

/// Selections whose rows take one warp, several, all of a block, and more than a block has registers for; alone and shared out.
#[test]
fn wide_selections() {
    for candidates in [255, 256, 257, 1000, 1024, 8191, 8192, 8193] {
        for (at, (heads, capacity)) in [(2, 5), (7, 31)].into_iter().enumerate() {
            let schedule = SCHEDULES[(candidates + at) % 4];
            // Among so many, the scores at the cut are often too close to call.
            let told = (0..20).any(|seed| {
                let case = selection(candidates, heads, capacity, seed);
                match seed % 2 {
                    0 => check_selections::<f32>(&case, &schedule),
                    _ => check_selections::<f16>(&case, &schedule),
                }
            });
            assert!(told, "{candidates} candidates: near-ties");
        }
    }
}

fn selection(candidates: usize, heads: usize, capacity: usize, seed: u64) -> Case {
    let n = 2 * candidates + capacity;
    Case {
        batch: 1,
        n,
        heads,
        ladder: vec![2, 1],
        capacity,
        vip: vec![(0..n).map(|t| t % 5 == 0 && t < 200).collect()],
        valid: vec![(0..n).map(|t| t % 7 != 3 && t % 31 > 3).collect()],
        budgets: vec![(candidates / 3) as i64],
        ..random_case(seed, 4, 8)
    }
}
