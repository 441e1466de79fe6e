//! Faults planted in the sources, and the cases that meet them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use vcc_cuda_emu::Schedule;

use super::cases::{Case, random_case};
use super::operators::check;
use super::programs::{Mode, Patch, Program};

/// A case in which every kernel has work for more than one thread and warp, and most for more than one block.
pub(crate) fn busy(ladder: &[i64], batch: usize, n: usize, channels: usize) -> Case {
    Case {
        batch,
        n,
        channels,
        heads: 3,
        ladder: ladder.to_vec(),
        capacity: 9,
        vip: vec![(0..n).map(|t| t % 11 == 0).collect(); batch],
        valid: vec![(0..n).map(|t| t % 7 != 3).collect(); batch],
        budgets: vec![3, 2, 1, 1, 1, 1, 1, 1],
        shift: 0,
        shuffled: false,
        nan: false,
        ..random_case(n as u64, 4, 8)
    }
}

/// Leaves the kernels of one type, so that the program is built soon.
pub(crate) const ONLY_F32: [Patch; 2] = [
    Patch {
        file: "vcc_kernels.cu",
        from: "VCC_ENTRIES(f16, __half, 8)\nVCC_ENTRIES(f16_any, __half, 1)\nVCC_ENTRIES(bf16, __nv_bfloat16, 8)\n\
               VCC_ENTRIES(bf16_any, __nv_bfloat16, 1)\n",
        to: "",
    },
    Patch {
        file: "emulator/entries.cpp",
        from: ", OF_TYPE(f16), OF_TYPE(f16_any), OF_TYPE(bf16), OF_TYPE(bf16_any)};",
        to: "};",
    },
];

/// Asserts that the cases fail on patched sources, and that the first failure says so in `what`.
#[track_caller]
pub(crate) fn assert_found(mode: Mode, name: &str, what: &str, cases: &[Case], fault: Patch) {
    let [kernels, entries] = ONLY_F32;
    let path = mode.build(name, &[kernels, entries, fault]);
    let found = first_failure(&path, cases).unwrap_or_else(|| "nothing".into());
    assert!(found.contains(what), "{name}: {found}");
}

/// What went wrong first, in words.
fn first_failure(path: &Path, cases: &[Case]) -> Option<String> {
    for case in cases {
        for schedule in [Schedule::Forward, Schedule::Reverse, Schedule::Random(3)] {
            let program = Program::new(path, schedule);
            let checked = catch_unwind(AssertUnwindSafe(|| check::<f32>(case, &program)));
            if let Err(panic) = checked {
                return Some(panic.downcast_ref::<String>().cloned().unwrap_or_default());
            }
        }
    }
    None
}
