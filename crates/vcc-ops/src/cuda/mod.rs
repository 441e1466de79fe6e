//! The operators' CUDA kernels: where they come from, and how a node launches them.
//!
//! - `driver`: the driver's functions, opened at run time;
//! - `kernels`: modules and kernels, one of each per context.
//!
//! Invariants: nothing here waits for the device, allocates its memory or loads code while a node runs, but for the one number that
//! VccPartition reads with capacity `auto`, and for a node that runs in another context than it was made in.
//!
//! `VCC_CUDA_MOCK` names a library that stands for the driver; then the CUDA operators are registered for the CPU execution provider, in
//! place of the CPU operators. It is for tests only.

mod driver;
mod kernels;

use std::ffi::{CStr, CString, OsStr, c_char};
use std::panic::catch_unwind;
use std::sync::OnceLock;

use driver::Driver;
pub(crate) use driver::Handle;
pub(crate) use kernels::{Kernels, Queue};

use crate::host::{Failure, Host};

/// The oldest driver that loads what nvcc 13 makes, as `cuDriverGetVersion` counts.
const OLDEST: i32 = 13_000;
const PROVIDER: &CStr = c"CUDAExecutionProvider";

/// The driver reads 64-bit numbers from the fat binary.
#[repr(align(64))]
struct Aligned<const N: usize>([u8; N]);

/// The kernels for all devices; empty if the library was built without them.
static FAT_BINARY: &[u8] = {
    #[cfg(vcc_cuda)]
    {
        static IMAGE: Aligned<{ include_bytes!(env!("VCC_CUDA_FATBIN")).len() }> =
            Aligned(*include_bytes!(env!("VCC_CUDA_FATBIN")));
        &IMAGE.0
    }
    #[cfg(not(vcc_cuda))]
    {
        static IMAGE: Aligned<0> = Aligned([]);
        &IMAGE.0
    }
};

/// What CUDA operators need.
#[derive(Clone, Copy)]
pub(crate) struct Cuda {
    driver: &'static Driver,
    /// The execution provider that they are registered for.
    pub(crate) provider: &'static CStr,
}

/// Why there are no CUDA operators.
struct Absent {
    reason: String,
    /// There is a driver, but it cannot be used.
    warn: bool,
}

impl Cuda {
    /// Opens the driver, once for the process.
    fn get() -> Result<Self, &'static Absent> {
        static DRIVER: OnceLock<Result<(Driver, &CStr), Absent>> = OnceLock::new();
        let open = || match std::env::var_os("VCC_CUDA_MOCK") {
            Some(mock) => Ok((open(&mock, true)?, c"CPUExecutionProvider")),
            None if FAT_BINARY.is_empty() => Err(Absent {
                reason: "the library was built without CUDA kernels".into(),
                warn: false,
            }),
            None => Ok((open(OsStr::new("libcuda.so.1"), false)?, PROVIDER)),
        };
        let cuda = DRIVER.get_or_init(open).as_ref();
        cuda.map(|&(ref driver, provider)| Self { driver, provider })
    }

    /// For a host that can use CUDA operators. What stands in the way is told on stderr, once.
    pub(crate) fn for_host(host: Host) -> Option<Self> {
        let mock = std::env::var_os("VCC_CUDA_MOCK").is_some();
        // Where the host has no use for a driver, none is opened.
        if !mock && !host.has_provider(PROVIDER) {
            return None;
        }
        match Self::get() {
            Ok(cuda) => Some(cuda),
            Err(absent) => {
                static TOLD: OnceLock<()> = OnceLock::new();
                if absent.warn {
                    TOLD.get_or_init(|| {
                        eprintln!("vcc_ops: no CUDA kernels: {}", absent.reason);
                    });
                }
                None
            }
        }
    }

    /// Whether the CUDA operators take the place of the CPU operators.
    pub(crate) fn is_mock(self) -> bool {
        self.provider != PROVIDER
    }
}

/// Opens a driver library. One that is named must be there; that there is none on a machine without a GPU is as it should be.
fn open(path: &OsStr, named: bool) -> Result<Driver, Absent> {
    let absent = |warn| {
        move |failure: Failure| Absent {
            reason: failure.into_message(),
            warn,
        }
    };
    let library = driver::open(path).map_err(absent(named))?;
    let version = driver::version(&library).map_err(absent(true))?;
    if version < OLDEST {
        return Err(absent(true)(Failure::new(format!(
            "the driver is of CUDA {}; they need CUDA {} (driver 580) or newer",
            driver::dotted(version),
            driver::dotted(OLDEST)
        ))));
    }
    Driver::new(library, version).map_err(absent(true))
}

/// What the library can do with CUDA here, in words; the text is static. Asking initialises the driver.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn VccCudaStatus() -> *const c_char {
    static STATUS: OnceLock<CString> = OnceLock::new();
    let status = || match Cuda::get() {
        Ok(cuda) => {
            let devices = match cuda.driver.devices() {
                Ok(count) => format!("devices: {count}"),
                Err(failure) => format!("no device: {}", failure.into_message()),
            };
            let version = driver::dotted(cuda.driver.version);
            format!("CUDA kernels, driver of CUDA {version}, {devices}")
        }
        Err(absent) => format!("no CUDA kernels: {}", absent.reason),
    };
    let text = catch_unwind(|| STATUS.get_or_init(|| CString::new(status()).unwrap_or_default()));
    text.map_or(c"".as_ptr(), |text| text.as_ptr())
}
