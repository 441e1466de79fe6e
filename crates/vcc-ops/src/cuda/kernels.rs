//! The kernels, in the context that a node runs in.
//!
//! The module is loaded once per context, and all its kernels looked up, however many sessions and nodes use them. It is never unloaded:
//! contexts live as long as the process, and so may the sessions' streams.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::{Mutex, PoisonError};

use super::driver::Handle;
use super::{Cuda, Driver, FAT_BINARY};
use crate::host::{Failure, Result};
use crate::launch::{self, Launch};

/// The kernels of one context, by name.
type Module = BTreeMap<String, Handle>;

/// By the number of the context.
static MODULES: Mutex<BTreeMap<u64, &'static Module>> = Mutex::new(BTreeMap::new());

fn module(driver: &Driver, context: u64) -> Result<&'static Module> {
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = modules.get(&context) {
        return Ok(module);
    }
    let image = driver.load(FAT_BINARY)?;
    let look_up = |name: String| {
        let text = CString::new(name.as_str()).unwrap_or_default();
        Ok((name, driver.function(image, &text)?))
    };
    let kernels = launch::kernels().into_iter().map(look_up);
    let module: &_ = Box::leak(Box::new(kernels.collect::<Result<_>>()?));
    modules.insert(context, module);
    Ok(module)
}

/// What a node needs to queue kernels.
pub(crate) struct Kernels {
    driver: &'static Driver,
    /// The context that was current when the node was made, and its kernels.
    loaded: Option<(u64, &'static Module)>,
}

impl Kernels {
    /// Loads the kernels into the current context; where none is current yet, that is left to the first run.
    pub(crate) fn new(cuda: Cuda) -> Result<Self> {
        let driver = cuda.driver;
        let loaded = match driver.context() {
            Ok(context) => Some((context, module(driver, context)?)),
            Err(_) => None,
        };
        Ok(Self { driver, loaded })
    }

    /// For a run on a stream of the current context.
    pub(crate) fn on(&self, stream: Handle) -> Result<Queue> {
        let driver = self.driver;
        let context = driver.context()?;
        let kernels = match self.loaded {
            Some((here, kernels)) if here == context => kernels,
            _ => module(driver, context)?,
        };
        Ok(Queue {
            driver,
            kernels,
            stream,
        })
    }
}

/// The stream of a run.
pub(crate) struct Queue {
    driver: &'static Driver,
    kernels: &'static Module,
    stream: Handle,
}

impl Queue {
    /// Queues kernels, in their order.
    ///
    /// # Safety
    /// Every address in the launches is that of a tensor as large as they were made for, live until the stream is past them.
    pub(crate) unsafe fn launch(&self, launches: &[Launch]) -> Result<()> {
        for launch in launches {
            let Some(&kernel) = self.kernels.get(&launch.kernel) else {
                return Err(Failure::new(format!(
                    "there is no kernel {}",
                    launch.kernel
                )));
            };
            // SAFETY: the caller's promise; the launch knows its kernel's parameters.
            unsafe { self.driver.launch(kernel, launch, self.stream) }?;
        }
        Ok(())
    }

    /// Queues a copy of so many bytes on the device.
    ///
    /// # Safety
    /// Both addresses have that many bytes, live until the stream is past the copy.
    pub(crate) unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.driver.copy(from, to, bytes, self.stream) }
    }

    /// Waits for the stream and reads boolean tensors.
    ///
    /// # Safety
    /// Each address has as many bytes.
    pub(crate) unsafe fn read(&self, tensors: &[(u64, usize)]) -> Result<Vec<Vec<bool>>> {
        // SAFETY: the caller's promise.
        unsafe { self.driver.read(tensors, self.stream) }
    }
}
