//! The kernels under the compiler's own sanitizers: a second opinion on what the watcher finds.
#![allow(clippy::unwrap_used)]

mod common;

use common::cases::{Case, random_case};
use common::faults::{ONLY_F32, assert_found, busy};
use common::operators::check;
use common::programs::{Mode, Patch, Program};
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

#[test]
fn an_access_out_of_bounds_is_found() {
    assert_told(
        Mode::Address,
        "bounds",
        "AddressSanitizer: heap-buffer-overflow",
        "expand.cuh",
        "if (lane_id() < rows) {\n    const int64_t at",
        "if (lane_id() < rows + 1) {\n    const int64_t at",
    );
}

#[test]
fn a_shift_by_too_much_is_found() {
    assert_told(
        Mode::Address,
        "shift",
        "shift exponent 32 is too large",
        "select.cuh",
        "(1u << lane_id()) - 1",
        "(2u << (lane_id() + 1)) - 1",
    );
}

/// Several warps in every kernel and several blocks in most, but few of either: each thread is one of the system.
fn for_threads() -> Case {
    busy(&[16, 4, 1], 1, 70, 132)
}

/// No race, however the threads are preempted.
#[test]
fn thread_sanitizer() {
    let path = Mode::Threads.build("kernels", &ONLY_F32);
    let program = Program::new(&path, Schedule::Forward);
    assert!(check::<f32>(&for_threads(), &program));
}

#[track_caller]
fn assert_told(
    mode: Mode,
    name: &str,
    what: &str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
) {
    let fault = Patch { file, from, to };
    assert_found(mode, name, what, &[for_threads()], fault);
}

#[track_caller]
fn assert_race(name: &str, file: &'static str, from: &'static str, to: &'static str) {
    let what = "ThreadSanitizer: data race";
    assert_told(Mode::Threads, name, what, file, from, to);
}

#[test]
fn a_count_that_is_not_atomic_is_a_race() {
    assert_race(
        "count",
        "select.cuh",
        "atomicAdd(&histogram[order >> shift & 255], 1)",
        "histogram[order >> shift & 255] += 1",
    );
}

#[test]
fn a_missing_barrier_is_a_race() {
    assert_race(
        "barrier",
        "select.cuh",
        "if (warp_id() == 0) settle_ties(chosen, before, words, cut.equal);\n  __syncthreads();",
        "if (warp_id() == 0) settle_ties(chosen, before, words, cut.equal);",
    );
}

#[test]
fn two_warps_that_write_a_row_are_a_race() {
    assert_race(
        "row",
        "compress.cuh",
        "+ own.first + (own.vips ? 0 : layout.vips);",
        "+ own.first;",
    );
}

#[test]
fn two_blocks_that_write_a_row_are_a_race() {
    assert_race(
        "tile",
        "device.cuh",
        "((int)blockIdx.y * 32 + lane_id()) * V",
        "lane_id() * V",
    );
}
