//! The operator library for ONNX Runtime: the six operators of domain `ai.vcc` (`docs/operators.md`) as CPU and CUDA kernels.
//!
//! `libvcc_ops.so` exports `RegisterCustomOps`, which ONNX Runtime calls when the library is registered with a session, and
//! `VccCudaStatus`, which says in words what there is of CUDA. Hosts from 1.17 on are served; from 1.18 on the state is updated in place.
//!
//! - `abi`: the part of ONNX Runtime's C ABI that is used, as its header lays it out;
//! - `host`, `attributes`, `context`, `shapes`: the same, safe;
//! - `operator`: one operator's vtable, its errors and panics;
//! - `ops`: the operators;
//! - `launch`: which CUDA kernels an operator launches;
//! - `cuda`: the driver, and the kernels in it.
//!
//! Invariants: no panic and no error crosses the ABI except as an `OrtStatus`; nothing is written outside the tensors that the host
//! handed out; all state that outlives a call is immutable.

mod abi;
mod attributes;
mod context;
mod cuda;
#[cfg(test)]
mod fake;
mod host;
pub mod launch;
mod operator;
mod ops;
mod shapes;

use std::ffi::CStr;
use std::panic::catch_unwind;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use abi::{OrtApi, OrtApiBase, OrtCustomOpDomain, OrtSessionOptions, OrtStatus};
use cuda::Cuda;
use host::{Failure, Host};

/// The oldest host: `InferOutputShapeFn` and `ParallelFor` came with 1.17.
const OLDEST: u32 = 17;
/// The newest API that is used: in-place outputs came with 1.18.
const NEWEST: u32 = 18;
const DOMAIN: &CStr = c"ai.vcc";

/// Adds the operators to a session's options. Called by ONNX Runtime.
///
/// Returns null, or a status that says what is wrong; the caller owns it.
///
/// # Safety
/// `options` and `base` come from the same ONNX Runtime, which stays loaded as long as this library is in use.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "system" fn RegisterCustomOps(
    options: *mut OrtSessionOptions,
    base: *const OrtApiBase,
) -> *mut OrtStatus {
    // SAFETY: the caller's promise.
    let Some(base) = (unsafe { base.as_ref() }) else {
        return ptr::null_mut();
    };
    // SAFETY: a function of the host that takes nothing and returns a static string.
    let version = unsafe { CStr::from_ptr((base.get_version_string)()) };
    let minor = minor_version(&version.to_string_lossy());
    // SAFETY: a function of the host; it returns null for a version that it does not have.
    let api = unsafe { (base.get_api)(minor.min(NEWEST)) };
    if api.is_null() {
        return ptr::null_mut();
    }
    if minor < OLDEST {
        let message = format!(
            "the ai.vcc operators need ONNX Runtime 1.{OLDEST} or newer; this is {}",
            version.to_string_lossy()
        );
        // SAFETY: `api` is a table of the host; this function is in every version of it.
        return unsafe { Failure::new(message).into_status(&raw const (*api).create_status) };
    }
    // SAFETY: tables are static in the host, and from version 17 on have all the entries of `OrtApi`.
    let host = Host::new(unsafe { &*api });
    match catch_unwind(|| register(host, options, minor.min(NEWEST))) {
        Ok(Ok(())) => ptr::null_mut(),
        Ok(Err(failure)) => host.status(failure),
        Err(panic) => host.status(Failure::from_panic(&*panic)),
    }
}

/// `23` of `1.23.2`. A later major version has everything that is asked of it here.
fn minor_version(version: &str) -> u32 {
    let mut parts = version.split('.').map(|part| part.parse::<u32>());
    match (parts.next(), parts.next()) {
        (Some(Ok(1)), Some(Ok(minor))) => minor,
        (Some(Ok(major)), _) if major > 1 => NEWEST,
        _ => 0,
    }
}

/// What was registered with a host: its table and the domain with the operators. Both live as long as the process: sessions hold on to
/// them, and a host has one of each however many sessions it makes.
struct Registered {
    api: *const OrtApi,
    domain: *mut OrtCustomOpDomain,
}

// SAFETY: the pointers are only compared and handed back to the host, which allows any thread.
unsafe impl Send for Registered {}

static REGISTERED: Mutex<Vec<Registered>> = Mutex::new(Vec::new());

fn register(host: Host, options: *mut OrtSessionOptions, version: u32) -> Result<(), Failure> {
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = registered
        .iter()
        .find(|known| ptr::eq(known.api, host.api()));
    let domain = match known {
        Some(known) => known.domain,
        None => {
            let domain =
                host.create_domain(DOMAIN, ops::all(host, version, Cuda::for_host(host)))?;
            registered.push(Registered {
                api: host.api(),
                domain,
            });
            domain
        }
    };
    host.add_domain(options, domain)
}

#[cfg(test)]
mod tests {
    use super::minor_version;

    #[test]
    fn reads_versions() {
        for (version, minor) in [
            ("1.17.3", 17),
            ("1.23.2", 23),
            ("1.24.0-dev", 24),
            ("2.0.0", 18),
            ("1", 0),
            ("", 0),
            ("x.y", 0),
        ] {
            assert_eq!(minor_version(version), minor, "{version}");
        }
    }
}
