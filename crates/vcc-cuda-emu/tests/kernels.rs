//! Every kernel against the f64 reference, on random shapes, types, ladders, masks and lists, under several schedules.
#![allow(clippy::unwrap_used)]

mod common;

use common::cases::random_case;
use common::operators::{Number, check};
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
