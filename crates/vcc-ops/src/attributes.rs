//! A node's attributes and name.

use std::ffi::{CStr, c_char};
use std::ptr;

use crate::abi::{OrtKernelInfo, Status};
use crate::host::{Failure, Host, Result};

/// A node's attributes, when its kernel is made.
pub(crate) struct Attributes {
    pub(crate) host: Host,
    pub(crate) info: *const OrtKernelInfo,
}

impl Attributes {
    fn missing(name: &CStr, kind: &str) -> impl Fn(Failure) -> Failure {
        let what = format!(
            "attribute {} ({kind}) cannot be read",
            name.to_string_lossy()
        );
        move |failure| failure.within(&what)
    }

    pub(crate) fn int(&self, name: &CStr) -> Result<i64> {
        let mut value = 0;
        // SAFETY: a live kernel info of the host.
        let status = unsafe {
            (self.host.api().kernel_info_get_attribute_int64)(self.info, name.as_ptr(), &mut value)
        };
        self.host
            .check(status)
            .map_err(Self::missing(name, "int"))?;
        Ok(value)
    }

    pub(crate) fn ints(&self, name: &CStr) -> Result<Vec<i64>> {
        let get = self.host.api().kernel_info_get_attribute_array_int64;
        let mut len = 0;
        // SAFETY: a live kernel info of the host; with null it writes the length only.
        let status = unsafe { get(self.info, name.as_ptr(), ptr::null_mut(), &mut len) };
        self.host
            .check(status)
            .map_err(Self::missing(name, "ints"))?;
        let mut values = vec![0; len];
        // SAFETY: as before; the array has `len` elements.
        let status = unsafe { get(self.info, name.as_ptr(), values.as_mut_ptr(), &mut len) };
        self.host
            .check(status)
            .map_err(Self::missing(name, "ints"))?;
        Ok(values)
    }

    /// An attribute with a default.
    pub(crate) fn float_or(&self, name: &CStr, default: f32) -> f32 {
        let mut value = default;
        // SAFETY: a live kernel info of the host.
        let status = unsafe {
            (self.host.api().kernel_info_get_attribute_float)(self.info, name.as_ptr(), &mut value)
        };
        self.host.check(status).map_or(default, |()| value)
    }

    pub(crate) fn string(&self, name: &CStr) -> Result<String> {
        // SAFETY: a live kernel info of the host; see `text`.
        let text = self.text(|out, size| unsafe {
            (self.host.api().kernel_info_get_attribute_string)(self.info, name.as_ptr(), out, size)
        });
        text.map_err(Self::missing(name, "string"))
    }

    pub(crate) fn node_name(&self) -> String {
        // SAFETY: a live kernel info of the host; see `text`.
        self.text(|out, size| unsafe {
            (self.host.api().kernel_info_get_node_name)(self.info, out, size)
        })
        .unwrap_or_default()
    }

    /// Calls a function that writes a string: first with null, for the size with the final 0, then with that much room.
    fn text(&self, get: impl Fn(*mut c_char, *mut usize) -> Status) -> Result<String> {
        let mut size = 0;
        self.host.check(get(ptr::null_mut(), &mut size))?;
        let mut bytes = vec![0u8; size.max(1)];
        self.host.check(get(bytes.as_mut_ptr().cast(), &mut size))?;
        Ok(CStr::from_bytes_until_nul(&bytes)
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned())
    }
}
