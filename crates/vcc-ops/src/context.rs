//! A running kernel's tensors, threads and stream.
//!
//! Invariant: a slice of an output never overlaps another slice that was handed out, whatever the host does.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};

use crate::abi::{self, OrtKernelContext, OrtValue};
use crate::host::{Failure, Host, Result};
use crate::operator::Port;

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
// SAFETY: 16-bit numbers with the exponent of a 32-bit one on both sides.
unsafe impl Kind for bf16 {
    const KIND: c_int = abi::BFLOAT16;
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

/// A tensor in the memory of the device.
pub(crate) struct DeviceTensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) address: u64,
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
            self.host.check((self.host.api().kernel_context_get_input)(
                self.context,
                index,
                &mut value,
            ))?;
            if value.is_null() {
                return Err(Failure::new("is missing"));
            }
            self.host
                .check((self.host.api().get_tensor_type_and_shape)(
                    value, &mut info,
                ))?;
        }
        let shape = self.host.read_shape(info, false);
        // SAFETY: ours, and not used after this.
        unsafe { (self.host.api().release_tensor_type_and_shape_info)(info) };
        let (kind, dims, _) = shape?;
        let dims = dims
            .into_iter()
            .map(|dim| usize::try_from(dim).map_err(|_| Failure::new("has a negative size")));
        Ok((value, kind, dims.collect::<Result<_>>()?))
    }

    fn name(&self, index: usize) -> &'static str {
        self.inputs.get(index).map_or("?", |port| port.name)
    }

    /// Where an input of the given rank is, and its shape.
    fn raw_input<T: Kind>(&self, index: usize, rank: usize) -> Result<(Vec<usize>, *const T)> {
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
                (self.host.api().get_tensor_mutable_data)(value.cast_mut(), &mut data)
            })?;
            Ok((shape, data.cast_const().cast()))
        };
        tensor().map_err(|failure| failure.within(format_args!("input {}", self.name(index))))
    }

    /// An input of the given rank, in the host's memory.
    pub(crate) fn input<T: Kind>(&self, index: usize, rank: usize) -> Result<Tensor<'a, T>> {
        let (shape, data) = self.raw_input::<T>(index, rank)?;
        // SAFETY: the host keeps the tensor of this type and shape unchanged while the kernel runs, except where the kernel itself
        // writes: `output` and `state` see to it that no output that is written overlaps an input that is read.
        let data = unsafe { slice(data, shape.iter().product()) };
        self.take(index, data.as_ptr(), data.len());
        Ok(Tensor { data, shape })
    }

    /// An input of the given rank, in the device's memory.
    pub(crate) fn device_input<T: Kind>(&self, index: usize, rank: usize) -> Result<DeviceTensor> {
        let (shape, data) = self.raw_input::<T>(index, rank)?;
        self.take(index, data, shape.iter().product());
        let address = data as u64;
        Ok(DeviceTensor { shape, address })
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

    fn take<T>(&self, index: usize, data: *const T, len: usize) {
        self.taken.borrow_mut().push((index, range_of(data, len)));
    }

    fn raw_output<T: Kind>(&self, index: usize, shape: &[usize]) -> Result<*mut T> {
        let failed =
            |failure: Failure| failure.within(format_args!("output {index} of shape {shape:?}"));
        let dims: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
        let (mut value, mut data) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: a live context; the host checks the shape against the memory it has.
        unsafe {
            let status = (self.host.api().kernel_context_get_output)(
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
                .check((self.host.api().get_tensor_mutable_data)(value, &mut data))
                .map_err(failed)?;
        }
        Ok(data.cast())
    }

    /// An output, to be written whole: its content is unspecified.
    pub(crate) fn output<T: Kind>(&self, index: usize, shape: &[usize]) -> Result<&'a mut [T]> {
        let data = self.raw_output::<T>(index, shape)?;
        self.claim(index, data, shape.iter().product())
    }

    /// An output in the device's memory, to be written whole.
    pub(crate) fn device_output<T: Kind>(&self, index: usize, shape: &[usize]) -> Result<u64> {
        let data = self.raw_output::<T>(index, shape)?;
        self.claim_range(index, range_of(data, shape.iter().product()))?;
        Ok(data as u64)
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
        self.take(index, from, len);
        let to = self.claim(index, to, len)?;
        vcc_core::copy(data, to, &self.parallel());
        Ok((shape, to))
    }

    /// As `state`, in the device's memory; `copy` copies a number of bytes from one address to another.
    pub(crate) fn device_state<T: Kind>(
        &self,
        index: usize,
        rank: usize,
        copy: impl Fn(u64, u64, usize) -> Result<()>,
    ) -> Result<DeviceTensor> {
        let (shape, from) = self.raw_input::<T>(index, rank)?;
        let len = shape.iter().product();
        let to = self.raw_output::<T>(index, &shape)?;
        let in_place = ptr::eq(from, to);
        if !in_place {
            self.take(index, from, len);
        }
        self.claim_range(index, range_of(to, len))?;
        if !in_place && len > 0 {
            copy(from as u64, to as u64, len * size_of::<T>())?;
        }
        let address = to as u64;
        Ok(DeviceTensor { shape, address })
    }

    /// The stream of the execution provider that runs the kernel; null for one without streams.
    pub(crate) fn stream(&self) -> Result<*mut c_void> {
        let mut stream = ptr::null_mut();
        // SAFETY: a live context of the host.
        self.host.check(unsafe {
            (self.host.api().kernel_context_get_gpu_compute_stream)(self.context, &mut stream)
        })?;
        Ok(stream)
    }

    /// Checks that an output meets nothing else that is in use.
    fn claim_range(&self, index: usize, range: Range<usize>) -> Result<()> {
        let mut taken = self.taken.borrow_mut();
        let meets = |other: &Range<usize>| range.start < other.end && other.start < range.end;
        if !range.is_empty() && taken.iter().any(|(_, other)| meets(other)) {
            return Err(Failure::new(format!(
                "output {index} shares memory with another tensor of the node"
            )));
        }
        taken.push((usize::MAX, range));
        Ok(())
    }

    /// Makes a slice of an output, after checking that it meets nothing else that is in use.
    fn claim<T>(&self, index: usize, data: *mut T, len: usize) -> Result<&'a mut [T]> {
        self.claim_range(index, range_of(data, len))?;
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
                (self.host.api().kernel_context_parallel_for)(
                    self.context,
                    call_one,
                    tasks,
                    0,
                    data,
                )
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
                resume_unwind(Box::new(failure.into_message()));
            }
        }
    }
}

/// The addresses of `len` elements. The device's are compared like the host's: the driver gives every address one meaning.
fn range_of<T>(data: *const T, len: usize) -> Range<usize> {
    data as usize..data as usize + len * size_of::<T>()
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
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(data, len) }
}

/// # Safety
/// As `slice::from_raw_parts_mut`, but a null or unaligned pointer is allowed for an empty tensor.
unsafe fn slice_mut<'a, T>(data: *mut T, len: usize) -> &'a mut [T] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(data, len) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[test]
    fn every_task_runs_once() {
        // SAFETY: the fake host does not look at the context.
        let context = unsafe { Context::new(fake::host(), ptr::null_mut(), &[]) };
        let calls = Mutex::new(vec![0; 9]);
        context.parallel()(9, &|task| calls.lock().unwrap()[task] += 1);
        assert_eq!(*calls.lock().unwrap(), [1; 9]);
    }

    #[test]
    fn a_panic_in_a_task_comes_out_after_the_loop() {
        // SAFETY: the fake host does not look at the context.
        let context = unsafe { Context::new(fake::host(), ptr::null_mut(), &[]) };
        let calls = Mutex::new(0);
        let run = || {
            context.parallel()(5, &|task| {
                *calls.lock().unwrap() += 1;
                assert_ne!(task, 2, "task two");
            });
        };
        let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        assert!(
            Failure::from_panic(&*panic)
                .into_message()
                .contains("task two")
        );
        assert_eq!(*calls.lock().unwrap(), 5);
    }

    #[test]
    fn outputs_may_not_meet_inputs() {
        // SAFETY: the fake host does not look at the context.
        let context = unsafe { Context::new(fake::host(), ptr::null_mut(), &[]) };
        let mut memory = [0f32; 8];
        context.take(0, memory[2..4].as_ptr(), 2);
        let start = memory.as_mut_ptr();
        assert!(context.claim(0, start, 3).is_err());
        assert!(context.claim(0, start, 2).is_ok());
        assert!(context.claim(1, start.wrapping_add(1), 1).is_err());
        assert!(context.claim(1, start.wrapping_add(4), 4).is_ok());
    }
}
