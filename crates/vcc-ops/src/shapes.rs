//! Shape inference: what the host can know about a node's outputs before it runs.
//!
//! Invariant: every dimension that is not a known number gets a name. The host takes equal names as a promise of equal sizes, and an
//! unnamed unknown as equal to every other unnamed one, so names start with the node's own `dim_prefix`.

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;

use crate::abi::{self, OrtOpAttr, OrtShapeInferContext};
use crate::host::{Failure, Host, Result};

/// A dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dim {
    Known(usize),
    Named(String),
}

impl Dim {
    pub(crate) fn known(&self) -> Option<usize> {
        match self {
            Self::Known(size) => Some(*size),
            Self::Named(_) => None,
        }
    }
}

/// A node's inputs, attributes and outputs, during shape inference.
pub(crate) struct Shapes {
    host: Host,
    context: *mut OrtShapeInferContext,
    prefix: String,
}

impl Shapes {
    /// # Safety
    /// `context` is what the host passed to the shape inference function, and outlives `self`.
    pub(crate) unsafe fn new(host: Host, context: *mut OrtShapeInferContext) -> Result<Self> {
        let mut shapes = Self {
            host,
            context,
            prefix: String::new(),
        };
        let bytes = shapes.attribute::<u8>(c"dim_prefix", abi::ATTRIBUTE_STRING)?;
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        shapes.prefix = String::from_utf8_lossy(text).into_owned();
        Ok(shapes)
    }

    /// Reads an attribute of elements of type `A`, which the given kind of the host has.
    fn attribute<A: Copy + Default>(&self, name: &CStr, kind: c_int) -> Result<Vec<A>> {
        let api = self.host.api();
        let mut attribute: *const OrtOpAttr = ptr::null();
        // SAFETY: a live context of the host.
        self.host.check(unsafe {
            (api.shape_infer_context_get_attribute)(self.context, name.as_ptr(), &mut attribute)
        })?;
        if attribute.is_null() {
            return Err(Failure::new(format!(
                "attribute {} is missing",
                name.to_string_lossy()
            )));
        }
        let mut values = vec![A::default(); 64];
        let mut bytes = 0;
        let mut read = |values: &mut Vec<A>| -> Result<usize> {
            let room = size_of_val(values.as_slice());
            // SAFETY: a live attribute; `values` has `room` bytes.
            self.host.check(unsafe {
                (api.read_op_attr)(
                    attribute,
                    kind,
                    values.as_mut_ptr().cast::<c_void>(),
                    room,
                    &mut bytes,
                )
            })?;
            Ok(bytes)
        };
        // Too little room is an error that says how much is needed, which the second call has.
        let len = match read(&mut values) {
            Ok(len) => len,
            Err(_) => {
                values = vec![A::default(); 1 << 16];
                read(&mut values)?
            }
        };
        values.truncate(len / size_of::<A>());
        Ok(values)
    }

    pub(crate) fn int(&self, name: &CStr) -> Result<i64> {
        self.attribute(name, abi::ATTRIBUTE_INT)?
            .first()
            .copied()
            .ok_or_else(|| Failure::new("an empty int"))
    }

    pub(crate) fn ints(&self, name: &CStr) -> Result<Vec<i64>> {
        self.attribute(name, abi::ATTRIBUTE_INTS)
    }

    /// A name of this node.
    pub(crate) fn own(&self, what: &str) -> Dim {
        Dim::Named(format!("{}_{what}", self.prefix))
    }

    /// A number, or a name of this node.
    pub(crate) fn number_or(&self, number: Option<usize>, what: &str) -> Dim {
        number.map_or_else(|| self.own(what), Dim::Known)
    }

    /// The element type of an input. The host asks one of the operators that it merged for all of them, so this may be another type than
    /// the operator's own.
    pub(crate) fn kind(&self, input: usize) -> c_int {
        self.shape(input)
            .map_or(abi::UNDEFINED, |(kind, _, _)| kind)
    }

    /// A dimension of an input of the given rank; where nothing is known of it, a name of this node.
    pub(crate) fn dim(&self, input: usize, rank: usize, axis: usize, what: &str) -> Dim {
        match self.shape(input) {
            Ok((_, dims, names)) if dims.len() == rank => {
                match (usize::try_from(dims[axis]), names[axis].is_empty()) {
                    (Ok(size), true) => Dim::Known(size),
                    (_, false) => Dim::Named(names[axis].clone()),
                    (Err(_), true) => self.own(what),
                }
            }
            _ => self.own(what),
        }
    }

    fn shape(&self, input: usize) -> Result<(c_int, Vec<i64>, Vec<String>)> {
        let mut info = ptr::null_mut();
        // SAFETY: a live context of the host.
        self.host.check(unsafe {
            (self.host.api().shape_infer_context_get_input_type_shape)(
                self.context,
                input,
                &mut info,
            )
        })?;
        if info.is_null() {
            return Err(Failure::new("no shape"));
        }
        // The host owns this one, unlike the shape of a value.
        self.host.read_shape(info, true)
    }

    /// Sets the element type and shape of an output.
    pub(crate) fn set(&self, output: usize, kind: c_int, dims: &[Dim]) -> Result<()> {
        let api = self.host.api();
        let sizes: Vec<i64> = dims
            .iter()
            .map(|dim| dim.known().map_or(-1, |size| size as i64))
            .collect();
        let text = |dim: &Dim| match dim {
            Dim::Known(_) => CString::default(),
            Dim::Named(name) => CString::new(name.as_str()).unwrap_or_default(),
        };
        let names: Vec<CString> = dims.iter().map(text).collect();
        let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let mut info = ptr::null_mut();
        // SAFETY: `info` is made and released here; arrays have the length that is passed and are copied by the host.
        unsafe {
            self.host
                .check((api.create_tensor_type_and_shape_info)(&mut info))?;
            let mut set = || -> Result<()> {
                self.host.check((api.set_tensor_element_type)(info, kind))?;
                self.host
                    .check((api.set_dimensions)(info, sizes.as_ptr(), sizes.len()))?;
                self.host.check((api.set_symbolic_dimensions)(
                    info,
                    pointers.as_mut_ptr(),
                    pointers.len(),
                ))?;
                self.host
                    .check((api.shape_infer_context_set_output_type_shape)(
                        self.context,
                        output,
                        info,
                    ))
            };
            let result = set();
            (api.release_tensor_type_and_shape_info)(info);
            result
        }
    }
}
