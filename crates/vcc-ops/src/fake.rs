//! A host for unit tests: a function table in which only statuses and the parallel loop do something.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::{offset_of, size_of};
use std::ptr;

use crate::abi::{CreateStatus, OrtApi, OrtKernelContext, OrtStatus, Status};
use crate::host::Host;

type ParallelFor = unsafe extern "system" fn(
    *const OrtKernelContext,
    unsafe extern "C" fn(*mut c_void, usize),
    usize,
    usize,
    *mut c_void,
) -> Status;

/// A status is the address of its message, which is leaked.
unsafe extern "system" fn create_status(_: c_int, message: *const c_char) -> Status {
    // SAFETY: the tests pass strings.
    let text = unsafe { CStr::from_ptr(message) };
    CString::from(text).into_raw().cast()
}

/// The last task first, all in this thread.
unsafe extern "system" fn parallel_for(
    _: *const OrtKernelContext,
    run: unsafe extern "C" fn(*mut c_void, usize),
    total: usize,
    _: usize,
    data: *mut c_void,
) -> Status {
    // SAFETY: as the real host does it.
    (0..total)
        .rev()
        .for_each(|index| unsafe { run(data, index) });
    ptr::null_mut()
}

unsafe extern "system" fn unused() {
    std::process::abort();
}

pub(crate) fn host() -> Host {
    let mut table = [unused as *const (); size_of::<OrtApi>() / size_of::<usize>()];
    table[offset_of!(OrtApi, create_status) / size_of::<usize>()] =
        create_status as CreateStatus as *const ();
    table[offset_of!(OrtApi, kernel_context_parallel_for) / size_of::<usize>()] =
        parallel_for as ParallelFor as *const ();
    let table = Box::leak(Box::new(table));
    // SAFETY: `OrtApi` is a struct of as many pointers; every function in it that is called has its own type.
    Host::new(unsafe { &*ptr::from_ref(table).cast::<OrtApi>() })
}

pub(crate) fn message(status: *mut OrtStatus) -> String {
    // SAFETY: a status of this host.
    unsafe { CStr::from_ptr(status.cast()) }
        .to_string_lossy()
        .into_owned()
}
