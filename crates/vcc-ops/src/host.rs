//! ONNX Runtime, safe to call: failures, domains, shapes.

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt::Display;
use std::ptr;

use crate::abi::{
    self, CreateStatus, OrtApi, OrtCustomOpDomain, OrtSessionOptions, OrtTensorTypeAndShapeInfo,
    Status,
};
use crate::operator::Op;

/// Why a call failed, in words for the owner of the model.
pub(crate) struct Failure {
    code: c_int,
    message: String,
}

impl Failure {
    pub(crate) fn new(message: impl Display) -> Self {
        Self {
            code: abi::INVALID_ARGUMENT,
            message: message.to_string(),
        }
    }

    pub(crate) fn from_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or(panic.downcast_ref::<&str>().copied());
        Self {
            code: abi::FAIL,
            message: format!(
                "internal error, please report it: {}",
                text.unwrap_or("panic")
            ),
        }
    }

    pub(crate) fn into_message(self) -> String {
        self.message
    }

    /// Puts what failed in front.
    pub(crate) fn within(self, what: impl Display) -> Self {
        Self {
            message: format!("{what}: {}", self.message),
            ..self
        }
    }

    /// Adds to the end.
    pub(crate) fn with(self, more: impl Display) -> Self {
        Self {
            message: format!("{}{more}", self.message),
            ..self
        }
    }

    /// Hands the failure to the host.
    ///
    /// # Safety
    /// `create` points to the host's `CreateStatus`.
    pub(crate) unsafe fn into_status(self, create: *const CreateStatus) -> Status {
        let message = CString::new(self.message.replace('\0', "?")).unwrap_or_default();
        // SAFETY: the caller's promise; the host copies the message.
        unsafe { (*create)(self.code, message.as_ptr()) }
    }
}

impl From<vcc_core::Error> for Failure {
    fn from(error: vcc_core::Error) -> Self {
        Self::new(error)
    }
}

impl From<crate::launch::Error> for Failure {
    fn from(error: crate::launch::Error) -> Self {
        Self::new(error)
    }
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// An ONNX Runtime of version 1.17 or newer.
#[derive(Clone, Copy)]
pub(crate) struct Host {
    api: &'static OrtApi,
}

impl Host {
    pub(crate) fn new(api: &'static OrtApi) -> Self {
        Self { api }
    }

    pub(crate) fn api(self) -> &'static OrtApi {
        self.api
    }

    /// Hands a failure to the host.
    pub(crate) fn status(self, failure: Failure) -> Status {
        // SAFETY: the host's own function.
        unsafe { failure.into_status(&self.api.create_status) }
    }

    /// Takes what a function of the host returned.
    pub(crate) fn check(self, status: Status) -> Result<()> {
        if status.is_null() {
            return Ok(());
        }
        // SAFETY: a status that the host just returned; it is ours, its message lives as long, and it is released once.
        let message = unsafe {
            let message = CStr::from_ptr((self.api.get_error_message)(status))
                .to_string_lossy()
                .into_owned();
            (self.api.release_status)(status);
            message
        };
        Err(Failure {
            code: abi::FAIL,
            message,
        })
    }

    pub(crate) fn create_domain(self, name: &CStr, ops: Vec<Op>) -> Result<*mut OrtCustomOpDomain> {
        let mut domain = ptr::null_mut();
        // SAFETY: the host copies the name. The operators are never freed, as the host keeps pointers to them.
        unsafe {
            self.check((self.api.create_custom_op_domain)(
                name.as_ptr(),
                &mut domain,
            ))?;
            for op in ops {
                let op = Box::leak(Box::new(op));
                self.check((self.api.custom_op_domain_add)(domain, &raw const op.base))?;
            }
        }
        Ok(domain)
    }

    pub(crate) fn add_domain(
        self,
        options: *mut OrtSessionOptions,
        domain: *mut OrtCustomOpDomain,
    ) -> Result<()> {
        // SAFETY: both belong to this host.
        self.check(unsafe { (self.api.add_custom_op_domain)(options, domain) })
    }

    /// Whether the host was built with an execution provider.
    pub(crate) fn has_provider(self, provider: &CStr) -> bool {
        let (mut names, mut count) = (ptr::null_mut(), 0);
        // SAFETY: the host writes an array of `count` strings, which is given back to it.
        unsafe {
            let got = self.check((self.api.get_available_providers)(&mut names, &mut count));
            if got.is_err() {
                return false;
            }
            let found = (0..usize::try_from(count).unwrap_or(0))
                .any(|at| CStr::from_ptr(*names.add(at)) == provider);
            // That giving it back failed would change nothing.
            let _ = self.check((self.api.release_available_providers)(names, count));
            found
        }
    }

    /// Reads a shape: element type, sizes (-1 where unknown) and, where asked for, names.
    pub(crate) fn read_shape(
        self,
        info: *const OrtTensorTypeAndShapeInfo,
        names: bool,
    ) -> Result<(c_int, Vec<i64>, Vec<String>)> {
        let (mut kind, mut rank) = (abi::UNDEFINED, 0);
        // SAFETY: `info` is a live shape of the host; arrays have the length that is passed; names live as long as `info`.
        unsafe {
            self.check((self.api.get_tensor_element_type)(info, &mut kind))?;
            self.check((self.api.get_dimensions_count)(info, &mut rank))?;
            let mut dims = vec![0; rank];
            self.check((self.api.get_dimensions)(info, dims.as_mut_ptr(), rank))?;
            let mut texts = vec![ptr::null(); rank];
            if names {
                self.check((self.api.get_symbolic_dimensions)(
                    info,
                    texts.as_mut_ptr(),
                    rank,
                ))?;
            }
            let text = |text: *const c_char| match text.is_null() {
                true => String::new(),
                false => CStr::from_ptr(text).to_string_lossy().into_owned(),
            };
            Ok((kind, dims, texts.into_iter().map(text).collect()))
        }
    }
}
