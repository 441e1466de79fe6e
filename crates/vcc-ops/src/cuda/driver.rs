//! NVIDIA's driver, opened at run time: the library never links CUDA.
//!
//! Functions and types are those of the driver API (`cuda.h`); all have been in it since CUDA 12.0.
//!
//! Invariant: opening it, asking for its version and loading kernels into a context that is there initialises nothing. A driver that was
//! initialised cannot be used by processes that are forked later, so that is for the host to decide; only `devices` does it.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use libloading::Library;

use crate::host::{Failure, Result};
use crate::launch::Launch;

type Code = c_int;

/// A loaded module, a kernel in it, a stream: the driver's, and never freed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle(*mut c_void);

// SAFETY: handles are only handed back to the driver, which allows any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// A handle that ONNX Runtime gave.
    pub(crate) fn new(handle: *mut c_void) -> Self {
        Self(handle)
    }
}

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`
const MAX_DYNAMIC_SHARED: c_int = 8;
/// Blocks may have this much dynamic shared memory without asking.
const SHARED_UNASKED: u32 = 48 << 10;

macro_rules! driver {
    ($($field:ident = $symbol:literal: fn($($argument:ty),* $(,)?);)*) => {
        /// The functions that are used, and the library that holds them.
        pub(crate) struct Driver {
            $($field: unsafe extern "system" fn($($argument),*) -> Code,)*
            /// The newest CUDA that it serves: 13000 is 13.0.
            pub(super) version: c_int,
            _library: Library,
        }

        impl Driver {
            /// Of a library that serves CUDA 12.4 or newer.
            pub(super) fn new(library: Library, version: c_int) -> Result<Self> {
                Ok(Self {
                    // SAFETY: the driver API's signatures, which never change under one name.
                    $($field: *unsafe { library.get($symbol) }.map_err(missing)?,)*
                    version,
                    _library: library,
                })
            }
        }
    };
}

/// Opens a driver library.
pub(super) fn open(path: &OsStr) -> Result<Library> {
    // SAFETY: the driver's initialisers may run at any time; a library that is named for tests is trusted as well.
    unsafe { Library::new(path) }
        .map_err(|error| Failure::new(format!("{} cannot be used: {error}", path.display())))
}

/// The newest CUDA that a driver library serves, however old it is.
pub(super) fn version(library: &Library) -> Result<c_int> {
    type GetVersion = unsafe extern "system" fn(*mut c_int) -> Code;
    // SAFETY: the driver API's signature.
    let get = unsafe { library.get::<GetVersion>(b"cuDriverGetVersion\0") }.map_err(missing)?;
    let mut version = 0;
    // SAFETY: writes a number; needs no device.
    match unsafe { get(&mut version) } {
        0 => Ok(version),
        code => Err(Failure::new(format!(
            "the driver does not say its version: error {code}"
        ))),
    }
}

fn missing(error: libloading::Error) -> Failure {
    Failure::new(format!("the driver lacks a function: {error}"))
}

driver! {
    init = b"cuInit\0": fn(c_uint);
    device_get_count = b"cuDeviceGetCount\0": fn(*mut c_int);
    get_error_name = b"cuGetErrorName\0": fn(Code, *mut *const c_char);
    ctx_get_id = b"cuCtxGetId\0": fn(*mut c_void, *mut u64);
    module_load_data = b"cuModuleLoadData\0": fn(*mut *mut c_void, *const c_void);
    module_get_function = b"cuModuleGetFunction\0": fn(*mut *mut c_void, *mut c_void, *const c_char);
    func_load = b"cuFuncLoad\0": fn(*mut c_void);
    func_set_attribute = b"cuFuncSetAttribute\0": fn(*mut c_void, c_int, c_int);
    launch_kernel = b"cuLaunchKernel\0": fn(
        *mut c_void, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *mut *mut c_void, *mut *mut c_void,
    );
    memcpy_device_to_device = b"cuMemcpyDtoDAsync_v2\0": fn(u64, u64, usize, *mut c_void);
    memcpy_device_to_host = b"cuMemcpyDtoHAsync_v2\0": fn(*mut c_void, u64, usize, *mut c_void);
    stream_is_capturing = b"cuStreamIsCapturing\0": fn(*mut c_void, *mut c_int);
    stream_synchronize = b"cuStreamSynchronize\0": fn(*mut c_void);
}

impl Driver {
    fn check(&self, code: Code, what: impl FnOnce() -> String) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let mut name = ptr::null();
        // SAFETY: the driver writes a static string, or leaves null for a code that it does not know.
        let name = unsafe {
            (self.get_error_name)(code, &mut name);
            match name.is_null() {
                true => "an unknown error".into(),
                false => CStr::from_ptr(name).to_string_lossy(),
            }
        };
        Err(Failure::new(format!("{}: {name} ({code})", what())))
    }

    /// Initialises the driver and counts the devices.
    pub(super) fn devices(&self) -> Result<c_int> {
        let mut count = 0;
        // SAFETY: takes flags, of which there are none.
        let code = unsafe { (self.init)(0) };
        self.check(code, || "the driver does not start".into())?;
        // SAFETY: writes a number.
        let code = unsafe { (self.device_get_count)(&mut count) };
        self.check(code, || "the devices cannot be counted".into())?;
        Ok(count)
    }

    /// The number of the calling thread's context. No two contexts of a process ever have the same.
    pub(crate) fn context(&self) -> Result<u64> {
        let mut id = 0;
        // SAFETY: writes a number; null asks for the current context.
        let code = unsafe { (self.ctx_get_id)(ptr::null_mut(), &mut id) };
        self.check(code, || "no CUDA context is current".into())?;
        Ok(id)
    }

    /// Loads a fat binary into the calling thread's context.
    pub(crate) fn load(&self, image: &'static [u8]) -> Result<Handle> {
        let mut module = ptr::null_mut();
        // SAFETY: the image says its own length, as the compiler wrote it.
        let code = unsafe { (self.module_load_data)(&mut module, image.as_ptr().cast()) };
        self.check(code, || {
            format!(
                "the CUDA kernels cannot be loaded (the driver is of CUDA {})",
                dotted(self.version)
            )
        })?;
        Ok(Handle(module))
    }

    /// A kernel of a module of the calling thread's context, loaded: by default the driver would leave that to the first launch.
    pub(crate) fn function(&self, module: Handle, name: &CStr) -> Result<Handle> {
        let mut function = ptr::null_mut();
        // SAFETY: a module that `load` made.
        let code = unsafe { (self.module_get_function)(&mut function, module.0, name.as_ptr()) };
        self.check(code, || {
            format!("kernel {} is not in the module", name.to_string_lossy())
        })?;
        // SAFETY: a kernel of the current context.
        let code = unsafe { (self.func_load)(function) };
        self.check(code, || {
            format!("kernel {} cannot be loaded", name.to_string_lossy())
        })?;
        Ok(Handle(function))
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// `function` is the kernel that `launch` is for; every address in its arguments is of memory that is live until the stream is past the
    /// kernel, as large as the kernel takes it to be.
    pub(crate) unsafe fn launch(
        &self,
        function: Handle,
        launch: &Launch,
        stream: Handle,
    ) -> Result<()> {
        let &Launch {
            ref kernel,
            grid,
            block,
            shared,
            ..
        } = launch;
        let what =
            || format!("kernel {kernel}, grid {grid:?}, block {block}, shared memory {shared}");
        if shared > SHARED_UNASKED {
            // SAFETY: sets a number of a kernel of the current context.
            let code = unsafe {
                (self.func_set_attribute)(function.0, MAX_DYNAMIC_SHARED, shared.cast_signed())
            };
            self.check(code, what)?;
        }
        let mut parameters = launch.parameters();
        // SAFETY: the caller's promise; the driver copies the arguments before it returns.
        let code = unsafe {
            (self.launch_kernel)(
                function.0,
                grid[0],
                grid[1],
                grid[2],
                block,
                1,
                1,
                shared,
                stream.0,
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.check(code, what)
    }

    /// Queues a copy within the device's memory.
    ///
    /// # Safety
    /// Both addresses are of `bytes` bytes that are live until the stream is past the copy.
    pub(crate) unsafe fn copy(
        &self,
        from: u64,
        to: u64,
        bytes: usize,
        stream: Handle,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        let code = unsafe { (self.memcpy_device_to_device)(to, from, bytes, stream.0) };
        self.check(code, || format!("copying {bytes} bytes on the device"))
    }

    /// Waits for the stream and reads boolean tensors of the device: addresses and lengths.
    ///
    /// # Safety
    /// Each address has as many bytes.
    pub(crate) unsafe fn read(
        &self,
        tensors: &[(u64, usize)],
        stream: Handle,
    ) -> Result<Vec<Vec<bool>>> {
        let what = || "the number of VIP tokens cannot be read from the device".to_owned();
        let mut capturing = 0;
        // SAFETY: writes a number.
        let code = unsafe { (self.stream_is_capturing)(stream.0, &mut capturing) };
        self.check(code, what)?;
        if capturing != 0 {
            return Err(Failure::new(format!(
                "{} while a CUDA graph is captured; convert the model with --vip-capacity N",
                what()
            )));
        }
        let mut bytes: Vec<Vec<u8>> = tensors.iter().map(|&(_, len)| vec![0; len]).collect();
        let mut codes = Vec::new();
        for (&(address, len), to) in tensors.iter().zip(&mut bytes) {
            // SAFETY: the caller's promise; `bytes` lives until the stream was waited for.
            codes.push(unsafe {
                (self.memcpy_device_to_host)(to.as_mut_ptr().cast(), address, len, stream.0)
            });
        }
        // SAFETY: a stream of the current context.
        codes.push(unsafe { (self.stream_synchronize)(stream.0) });
        codes
            .into_iter()
            .try_for_each(|code| self.check(code, what))?;
        let bools = |bytes: Vec<u8>| bytes.into_iter().map(|byte| byte != 0).collect();
        Ok(bytes.into_iter().map(bools).collect())
    }
}

/// `13.0` of 13000.
pub(super) fn dotted(version: c_int) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}
