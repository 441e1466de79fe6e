//! The CUDA kernels of `crates/vcc-ops/cuda`, executed on the CPU. For tests only: nothing here runs on a device.
//!
//! The sources are those that nvcc compiles; `cuda/emulator` stands in for the language and the device. A kernel that breaks a rule which
//! the engine checks as it goes (a barrier that not all threads reach, a warp operation that not all lanes reach) ends the process.

use std::ffi::{CString, c_char, c_int, c_void};

use vcc_ops::launch::Launch;

unsafe extern "C" {
    fn vcc_emu_launch(
        kernel: *const c_char,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared: u32,
        params: *mut *mut c_void,
    ) -> c_int;
    fn vcc_emu_schedule(order: c_int, seed: u64);
}

/// In which order blocks and threads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// The first ones first.
    Forward,
    /// The last ones first.
    Reverse,
    /// Anyone next, by a seed.
    Random(u64),
}

/// Runs a kernel to its end. An error is the driver's number: 1 for a geometry that no device takes, 500 for a kernel that does not exist.
///
/// # Safety
/// The pointers among the arguments are to host memory of the sizes that the kernel expects.
pub unsafe fn launch(launch: &Launch, schedule: Schedule) -> Result<(), i32> {
    let (order, seed) = match schedule {
        Schedule::Forward => (0, 0),
        Schedule::Reverse => (1, 0),
        Schedule::Random(seed) => (2, seed),
    };
    let name = CString::new(launch.kernel.as_str()).map_err(|_| 500)?;
    let [x, y, z] = launch.grid;
    // SAFETY: the addresses of the arguments live as long as `launch`; for the rest, the caller's promise.
    let error = unsafe {
        vcc_emu_schedule(order, seed);
        vcc_emu_launch(
            name.as_ptr(),
            x,
            y,
            z,
            launch.block,
            1,
            1,
            launch.shared,
            launch.parameters().as_mut_ptr(),
        )
    };
    if error == 0 { Ok(()) } else { Err(error) }
}
