//! The kernels under the compiler's own sanitizers: a second opinion on what the watcher finds.
#![allow(clippy::unwrap_used)]

mod common;

use common::cases::random_case;
use common::operators::check;
use common::programs::{Mode, Program};
use half::{bf16, f16};
use vcc_cuda_emu::Schedule;

/// No access outside of a buffer or of shared memory, no undefined behaviour.
#[test]
fn address_sanitizer() {
    let path = Mode::Address.build("kernels", &[]);
    for seed in 0..9 {
        let program = Program::new(&path, Schedule::Random(seed));
        let case = random_case(6000 + seed, 60, 40);
        match seed % 3 {
            0 => check::<f32>(&case, &program),
            1 => check::<f16>(&case, &program),
            _ => check::<bf16>(&case, &program),
        };
    }
}
