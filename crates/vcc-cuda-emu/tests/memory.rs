//! The kernels with every access to memory watched, and faults that the watcher must find.
#![allow(clippy::unwrap_used)]

mod common;

use common::cases::{Case, random_case};
use common::faults::{self, busy};
use common::operators::check;
use common::programs::{Mode, Patch, Program};
use half::{bf16, f16};
use vcc_cuda_emu::Schedule;

/// No race, no access out of bounds, none to memory that was not written.
#[test]
fn nothing_is_found() {
    let path = Mode::Watch.build("kernels", &[]);
    for seed in 0..24 {
        let case = random_case(5000 + seed, 90, 70);
        let schedule =
            [Schedule::Forward, Schedule::Reverse, Schedule::Random(seed)][seed as usize % 3];
        let program = Program::new(&path, schedule);
        match seed % 3 {
            0 => check::<f32>(&case, &program),
            1 => check::<f16>(&case, &program),
            _ => check::<bf16>(&case, &program),
        };
    }
}

/// For faults that one of these meets.
fn cases() -> [Case; 2] {
    [busy(&[16, 4, 1], 2, 150, 72), busy(&[4, 1], 2, 140, 260)]
}

#[track_caller]
fn assert_found(
    mode: Mode,
    name: &str,
    what: &str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
) {
    faults::assert_found(mode, name, what, &cases(), Patch { file, from, to });
}

#[test]
fn a_count_that_is_not_atomic_is_found() {
    let (from, to) = (
        "atomicAdd(&histogram[order >> shift & 255], 1)",
        "histogram[order >> shift & 255] += 1",
    );
    assert_found(
        Mode::Watch,
        "count",
        "watcher: race in vcc_select",
        "select.cuh",
        from,
        to,
    );
}

#[test]
fn a_missing_barrier_is_found() {
    let (from, to) = (
        "if (warp_id() == 0) settle_ties(chosen, before, words, cut.equal);\n  __syncthreads();",
        "if (warp_id() == 0) settle_ties(chosen, before, words, cut.equal);",
    );
    assert_found(
        Mode::Watch,
        "barrier",
        "watcher: race in vcc_select",
        "select.cuh",
        from,
        to,
    );
}

/// A team of several warps shares a row of scores.
#[test]
fn a_missing_barrier_between_warps_of_a_team_is_found() {
    let (from, to) = (
        "if (lane_id() == 0) numbers[warp_id()] = own;\n    __syncthreads();",
        "if (lane_id() == 0) numbers[warp_id()] = own;",
    );
    let what = "watcher: race in vcc_select";
    let fault = Patch {
        file: "select.cuh",
        from,
        to,
    };
    faults::assert_found(
        Mode::Watch,
        "team",
        what,
        &[busy(&[2, 1], 1, 620, 8)],
        fault,
    );
}

#[test]
fn a_missing_barrier_between_teams_is_found() {
    let (from, to) = (
        "Piece<V>::step(e)), part);\n  }\n  __syncthreads();",
        "Piece<V>::step(e)), part);\n  }",
    );
    assert_found(
        Mode::Watch,
        "teams",
        "watcher: race in vcc_select",
        "select.cuh",
        from,
        to,
    );
}

#[test]
fn two_warps_that_write_a_row_are_found() {
    // The rows of the list start where the VIP slots' rows are.
    let (from, to) = (
        "+ own.first + (own.vips ? 0 : layout.vips);",
        "+ own.first;",
    );
    assert_found(
        Mode::Watch,
        "row",
        "watcher: race",
        "compress.cuh",
        from,
        to,
    );
}

#[test]
fn two_blocks_that_write_a_row_are_found() {
    // Every tile of the channels is the first one.
    let (from, to) = ("((int)blockIdx.y * 32 + lane_id()) * V", "lane_id() * V");
    assert_found(
        Mode::Watch,
        "tile",
        "watcher: race between blocks",
        "device.cuh",
        from,
        to,
    );
}

#[test]
fn an_access_out_of_bounds_is_found() {
    let (from, to) = (
        "if (lane_id() < rows) {\n    const int64_t at",
        "if (lane_id() < rows + 1) {\n    const int64_t at",
    );
    assert_found(
        Mode::Watch,
        "bounds",
        "watcher: access out of bounds in vcc_expand",
        "expand.cuh",
        from,
        to,
    );
}

#[test]
fn memory_that_was_not_written_is_found() {
    let (from, to) = (
        "if (threadIdx.x < 256) histogram[threadIdx.x] = 0;",
        "if (threadIdx.x < 255) histogram[threadIdx.x] = 0;",
    );
    assert_found(
        Mode::Watch,
        "unwritten",
        "watcher: uninitialised read in vcc_select",
        "select.cuh",
        from,
        to,
    );
}

#[test]
fn a_barrier_that_not_all_threads_reach_is_found() {
    let (from, to) = (
        "if (warp_id() == 0) settle_ties(chosen, before, words, cut.equal);\n  __syncthreads();",
        "if (warp_id() == 0) {\n settle_ties(chosen, before, words, cut.equal);\n  __syncthreads(); }",
    );
    assert_found(
        Mode::Plain,
        "divergence",
        "barrier divergence",
        "select.cuh",
        from,
        to,
    );
}

#[test]
fn a_warp_operation_that_not_all_lanes_reach_is_found() {
    let (from, to) = (
        "rows[i] = __shfl_sync(kAll, from, base + i);",
        "rows[i] = active ? __shfl_sync(kAll, from, base + i) : -1;",
    );
    assert_found(Mode::Plain, "warp", "warp", "decompress.cuh", from, to);
}

/// Wrong sums, for the comparison with the reference.
#[test]
fn a_wrong_result_is_found() {
    let (from, to) = (
        "path.offset[v] = fmaf(to_float(s.at[v]), path.offset[v], to_float(o.at[v]));",
        "path.offset[v] += to_float(o.at[v]);",
    );
    assert_found(Mode::Plain, "result", "instead of", "tree.cuh", from, to);
}
