//! ONNX Runtime, safe to use: failures, attributes, tensors, threads and shapes.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt::Display;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use half::f16;

use crate::abi::{
    self, CreateStatus, OrtApi, OrtCustomOpDomain, OrtKernelContext, OrtKernelInfo,
    OrtSessionOptions, OrtTensorTypeAndShapeInfo, OrtValue, Status,
};
use crate::operator::{Op, Port};

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
            (self.host.api.kernel_info_get_attribute_int64)(self.info, name.as_ptr(), &mut value)
        };
        self.host
            .check(status)
            .map_err(Self::missing(name, "int"))?;
        Ok(value)
    }

    pub(crate) fn ints(&self, name: &CStr) -> Result<Vec<i64>> {
        let get = self.host.api.kernel_info_get_attribute_array_int64;
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
            (self.host.api.kernel_info_get_attribute_float)(self.info, name.as_ptr(), &mut value)
        };
        self.host.check(status).map_or(default, |()| value)
    }

    pub(crate) fn string(&self, name: &CStr) -> Result<String> {
        // SAFETY: a live kernel info of the host; see `text`.
        let text = self.text(|out, size| unsafe {
            (self.host.api.kernel_info_get_attribute_string)(self.info, name.as_ptr(), out, size)
        });
        text.map_err(Self::missing(name, "string"))
    }

    pub(crate) fn node_name(&self) -> String {
        // SAFETY: a live kernel info of the host; see `text`.
        self.text(|out, size| unsafe {
            (self.host.api.kernel_info_get_node_name)(self.info, out, size)
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

/// A data type of tensors as the host names it.
///
/// # Safety
/// `KIND` is the host's name for a type of the same size and meaning, every bit pattern of which is a value.
pub(crate) unsafe trait Kind: Copy + Send + Sync + 'static {
    const KIND: c_int;
}

/// An element of a boolean tensor: any byte, 0 is false.
pub(crate) type Bool = u8;

// SAFETY: 32-bit IEEE numbers on both sides.
unsafe impl Kind for f32 {
    const KIND: c_int = abi::FLOAT;
}
// SAFETY: 16-bit IEEE numbers on both sides.
unsafe impl Kind for f16 {
    const KIND: c_int = abi::FLOAT16;
}
// SAFETY: the same type on both sides.
unsafe impl Kind for i64 {
    const KIND: c_int = abi::INT64;
}
// SAFETY: one byte on both sides.
unsafe impl Kind for Bool {
    const KIND: c_int = abi::BOOL;
}

/// An input tensor.
pub(crate) struct Tensor<'a, T> {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: &'a [T],
}

/// A running kernel's inputs, outputs and threads.
pub(crate) struct Context<'a> {
    host: Host,
    context: *mut OrtKernelContext,
    inputs: &'static [Port],
    /// Address ranges of the inputs that were taken, and outputs made so far: neither may meet an output.
    taken: RefCell<Vec<(usize, Range<usize>)>>,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> Context<'a> {
    /// # Safety
    /// `context` is what the host passed to the kernel's compute function, and `'a` ends before that function returns.
    pub(crate) unsafe fn new(
        host: Host,
        context: *mut OrtKernelContext,
        inputs: &'static [Port],
    ) -> Self {
        Self {
            host,
            context,
            inputs,
            taken: RefCell::new(Vec::new()),
            lifetime: PhantomData,
        }
    }

    fn value(&self, index: usize) -> Result<(*const OrtValue, c_int, Vec<usize>)> {
        let (mut value, mut info) = (ptr::null(), ptr::null_mut());
        // SAFETY: a live context of the host, for all calls.
        unsafe {
            self.host.check((self.host.api.kernel_context_get_input)(
                self.context,
                index,
                &mut value,
            ))?;
            if value.is_null() {
                return Err(Failure::new("is missing"));
            }
            self.host
                .check((self.host.api.get_tensor_type_and_shape)(value, &mut info))?;
        }
        let shape = self.host.read_shape(info, false);
        // SAFETY: ours, and not used after this.
        unsafe { (self.host.api.release_tensor_type_and_shape_info)(info) };
        let (kind, dims, _) = shape?;
        let dims = dims
            .into_iter()
            .map(|dim| usize::try_from(dim).map_err(|_| Failure::new("has a negative size")));
        Ok((value, kind, dims.collect::<Result<_>>()?))
    }

    fn name(&self, index: usize) -> &'static str {
        self.inputs.get(index).map_or("?", |port| port.name)
    }

    /// An input of the given rank.
    pub(crate) fn input<T: Kind>(&self, index: usize, rank: usize) -> Result<Tensor<'a, T>> {
        let tensor = || -> Result<_> {
            let (value, kind, shape) = self.value(index)?;
            if kind != T::KIND {
                return Err(Failure::new(format!(
                    "has element type {kind} instead of {}",
                    T::KIND
                )));
            }
            if shape.len() != rank {
                return Err(Failure::new(format!(
                    "has rank {} instead of {rank}",
                    shape.len()
                )));
            }
            let mut data = ptr::null_mut();
            // SAFETY: a live tensor. The function is the only one that gives its data; we do not write through the pointer.
            self.host.check(unsafe {
                (self.host.api.get_tensor_mutable_data)(value.cast_mut(), &mut data)
            })?;
            // SAFETY: the host keeps the tensor of this type and shape unchanged while the kernel runs, except where the kernel itself
            // writes: `output` and `state` see to it that no output that is written overlaps an input that is read.
            Ok(Tensor {
                data: unsafe { slice(data.cast(), shape.iter().product()) },
                shape,
            })
        };
        let tensor = tensor()
            .map_err(|failure| failure.within(format_args!("input {}", self.name(index))))?;
        self.take(index, tensor.data);
        Ok(tensor)
    }

    /// The shapes of all inputs, for a message.
    pub(crate) fn shapes(&self) -> String {
        let one = |index: usize| match self.value(index) {
            Ok((_, _, shape)) => format!("{} {shape:?}", self.name(index)),
            Err(_) => format!("{} ?", self.name(index)),
        };
        format!(
            " (inputs: {})",
            (0..self.inputs.len())
                .map(one)
                .collect::<Vec<_>>()
                .join(", ")
        )
    }

    fn take<T>(&self, index: usize, data: &[T]) {
        let start = data.as_ptr() as usize;
        let range = start..start + size_of_val(data);
        self.taken.borrow_mut().push((index, range));
    }

    fn raw_output<T: Kind>(&self, index: usize, shape: &[usize]) -> Result<*mut T> {
        let failed =
            |failure: Failure| failure.within(format_args!("output {index} of shape {shape:?}"));
        let dims: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
        let (mut value, mut data) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: a live context; the host checks the shape against the memory it has.
        unsafe {
            let status = (self.host.api.kernel_context_get_output)(
                self.context,
                index,
                dims.as_ptr(),
                dims.len(),
                &mut value,
            );
            self.host.check(status).map_err(failed)?;
            if value.is_null() {
                return Err(failed(Failure::new("is missing")));
            }
            self.host
                .check((self.host.api.get_tensor_mutable_data)(value, &mut data))
                .map_err(failed)?;
        }
        Ok(data.cast())
    }

    /// An output, to be written whole: its content is unspecified.
    pub(crate) fn output<T: Kind>(&self, index: usize, shape: &[usize]) -> Result<&'a mut [T]> {
        let data = self.raw_output::<T>(index, shape)?;
        self.claim(index, data, shape.iter().product())
    }

    /// Output `index` with the content of input `index`, in place where the host gave the output that input's memory.
    pub(crate) fn state<T: Kind>(
        &self,
        index: usize,
        rank: usize,
    ) -> Result<(Vec<usize>, &'a mut [T])> {
        let Tensor { shape, data } = self.input::<T>(index, rank)?;
        let (from, len) = (data.as_ptr(), data.len());
        // The input is not read from here on except to copy it, so its range no longer counts.
        self.taken.borrow_mut().retain(|(taken, _)| *taken != index);
        let to = self.raw_output::<T>(index, &shape)?;
        if ptr::eq(from, to) {
            return Ok((shape, self.claim(index, to, len)?));
        }
        self.take(index, data);
        let to = self.claim(index, to, len)?;
        vcc_core::copy(data, to, &self.parallel());
        Ok((shape, to))
    }

    /// Makes a slice of an output, after checking that it meets nothing else that is in use.
    fn claim<T>(&self, index: usize, data: *mut T, len: usize) -> Result<&'a mut [T]> {
        let range = data as usize..data as usize + len * size_of::<T>();
        let mut taken = self.taken.borrow_mut();
        let meets = |other: &Range<usize>| range.start < other.end && other.start < range.end;
        if len > 0 && taken.iter().any(|(_, other)| meets(other)) {
            return Err(Failure::new(format!(
                "output {index} shares memory with another tensor of the node"
            )));
        }
        taken.push((usize::MAX, range));
        // SAFETY: the host gives `len` elements that live until the kernel returns; every bit pattern is a value of `T`; nothing else
        // refers to them, as was just checked.
        Ok(unsafe { slice_mut(data, len) })
    }

    /// The session's threads.
    pub(crate) fn parallel(&self) -> impl Fn(usize, &(dyn Fn(usize) + Sync)) + '_ {
        move |tasks, run| {
            let call = Call {
                run,
                panic: Mutex::new(None),
            };
            let data = (&raw const call).cast_mut().cast();
            // SAFETY: the host calls `call_one` with this pointer and indices below `tasks`, and returns when all calls have, so `call`
            // outlives them.
            let status = unsafe {
                (self.host.api.kernel_context_parallel_for)(self.context, call_one, tasks, 0, data)
            };
            if let Some(panic) = call
                .panic
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)
            {
                resume_unwind(panic);
            }
            if let Err(failure) = self.host.check(status) {
                // Caught where the host called the kernel, and handed to it as a status.
                resume_unwind(Box::new(failure.message));
            }
        }
    }
}

struct Call<'a> {
    run: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

unsafe extern "C" fn call_one(data: *mut c_void, index: usize) {
    // SAFETY: `data` is the `Call` that `parallel` passed, shared by all threads: both of its fields are `Sync`.
    let call = unsafe { &*data.cast::<Call<'_>>() };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (call.run)(index))) {
        *call.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
    }
}

/// # Safety
/// As `slice::from_raw_parts`, but a null or unaligned pointer is allowed for an empty tensor.
unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    // SAFETY: the caller's promise.
    if len == 0 {
        &[]
    } else {
        unsafe { std::slice::from_raw_parts(data, len) }
    }
}

/// # Safety
/// As `slice::from_raw_parts_mut`, but a null or unaligned pointer is allowed for an empty tensor.
unsafe fn slice_mut<'a, T>(data: *mut T, len: usize) -> &'a mut [T] {
    // SAFETY: the caller's promise.
    if len == 0 {
        &mut []
    } else {
        unsafe { std::slice::from_raw_parts_mut(data, len) }
    }
}
