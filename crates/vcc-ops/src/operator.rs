//! One operator as the host sees it: its vtable, and where errors and panics stop.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use crate::abi::{
    self, OrtApi, OrtCustomOp, OrtKernelContext, OrtKernelInfo, OrtShapeInferContext, Status,
};
use crate::attributes::Attributes;
use crate::context::Context;
use crate::cuda::{Cuda, Handle, Kernels, Queue};
use crate::host::{Failure, Host, Result};
use crate::shapes::Shapes;

/// An input or output: its name, for messages, and its element type.
pub(crate) struct Port {
    pub(crate) name: &'static str,
    pub(crate) kind: c_int,
}

/// An operator with fixed element types; its value is one node's kernel.
pub(crate) trait Operator: Sized + Send + Sync + 'static {
    const NAME: &'static CStr;
    const INPUTS: &'static [Port];
    const OUTPUTS: &'static [Port];
    /// How many of the first outputs may take over the memory of the input of the same index.
    const IN_PLACE: usize = 0;
    /// The input that is read by the host, whatever the execution provider.
    const ON_HOST: Option<usize> = None;

    /// Reads and checks the node's attributes.
    fn create(attributes: &Attributes) -> Result<Self>;

    /// Checks the inputs and computes the outputs.
    fn compute(&self, context: &Context<'_>) -> Result<()>;

    /// Checks the inputs' shapes and queues the CUDA kernels that compute the outputs.
    fn launch(&self, context: &Context<'_>, queue: &Queue) -> Result<()>;

    /// Tells the host the shapes of the outputs. An error leaves the rest unknown.
    fn infer(shapes: &Shapes) -> Result<()>;
}

/// What the host gets a pointer to: the vtable, and behind it what the vtable's functions need.
#[repr(C)]
pub(crate) struct Op {
    pub(crate) base: OrtCustomOp,
    host: Host,
    /// Of a CUDA operator.
    cuda: Option<Cuda>,
}

impl Op {
    pub(crate) fn new<O: Operator>(host: Host, version: u32, cuda: Option<Cuda>) -> Self {
        let in_place = O::IN_PLACE > 0 && version >= 18;
        let base = OrtCustomOp {
            version,
            create_kernel: None,
            get_name: Some(name::<O>),
            get_execution_provider_type: Some(provider),
            get_input_type: Some(input_type::<O>),
            get_input_type_count: Some(input_count::<O>),
            get_output_type: Some(output_type::<O>),
            get_output_type_count: Some(output_count::<O>),
            kernel_compute: None,
            kernel_destroy: Some(destroy::<O>),
            get_input_characteristic: Some(required),
            get_output_characteristic: Some(required),
            get_input_memory_type: Some(input_memory::<O>),
            get_variadic_input_min_arity: None,
            get_variadic_input_homogeneity: None,
            get_variadic_output_min_arity: None,
            get_variadic_output_homogeneity: None,
            create_kernel_v2: Some(create::<O>),
            kernel_compute_v2: Some(compute::<O>),
            infer_output_shape: Some(infer::<O>),
            get_start_version: Some(start_version),
            get_end_version: Some(end_version),
            get_may_inplace: if in_place {
                Some(may_in_place::<O>)
            } else {
                None
            },
            release_may_inplace: if in_place {
                Some(release_may_in_place)
            } else {
                None
            },
            get_alias_map: None,
            release_alias_map: None,
        };
        Self { base, host, cuda }
    }
}

/// A node: the kernel and what its messages need.
struct Node<O> {
    host: Host,
    name: String,
    operator: O,
    /// Of a CUDA operator.
    kernels: Option<Kernels>,
}

/// `VccCompress node 'encoder/3'`
fn title<O: Operator>(node: &str) -> String {
    format!("{} node '{node}'", O::NAME.to_string_lossy())
}

/// Runs a call of the host; what goes wrong in it becomes a status.
fn guard(host: Host, title: impl Fn() -> String, call: impl FnOnce() -> Result<()>) -> Status {
    // What a panic leaves half done is not used again: outputs are discarded, and a kernel has no state that changes.
    let result = catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|panic| Err(Failure::from_panic(&*panic)));
    match result {
        Ok(()) => ptr::null_mut(),
        Err(failure) => host.status(failure.within(title())),
    }
}

unsafe extern "system" fn create<O: Operator>(
    op: *const OrtCustomOp,
    _api: *const OrtApi,
    info: *const OrtKernelInfo,
    out: *mut *mut c_void,
) -> Status {
    // SAFETY: the host passes the pointer it was given, which is to the first field of a leaked `Op`.
    let &Op { host, cuda, .. } = unsafe { &*op.cast::<Op>() };
    let attributes = Attributes { host, info };
    let name = catch_unwind(AssertUnwindSafe(|| attributes.node_name())).unwrap_or_default();
    guard(
        host,
        || title::<O>(&name),
        || {
            attributes.string(c"dim_prefix")?;
            let operator = O::create(&attributes)?;
            let kernels = cuda.map(Kernels::new);
            let node = Node {
                host,
                name: name.clone(),
                operator,
                kernels: kernels.transpose()?,
            };
            // SAFETY: the host's place for the kernel, which `destroy` frees.
            unsafe { *out = Box::into_raw(Box::new(node)).cast() };
            Ok(())
        },
    )
}

unsafe extern "system" fn compute<O: Operator>(
    kernel: *mut c_void,
    context: *mut OrtKernelContext,
) -> Status {
    // SAFETY: what `create` made, shared by all threads that run the session: it is `Sync` and never changes.
    let node = unsafe { &*kernel.cast::<Node<O>>() };
    guard(
        node.host,
        || title::<O>(&node.name),
        || {
            // SAFETY: the host's context for this call, and not used after it.
            let context = unsafe { Context::new(node.host, context, O::INPUTS) };
            let done = match &node.kernels {
                None => node.operator.compute(&context),
                Some(kernels) => kernels
                    .on(Handle::new(context.stream()?))
                    .and_then(|queue| node.operator.launch(&context, &queue)),
            };
            done.map_err(|failure| failure.with(context.shapes()))
        },
    )
}

unsafe extern "system" fn destroy<O: Operator>(kernel: *mut c_void) {
    // SAFETY: what `create` made, freed once.
    let node = unsafe { Box::from_raw(kernel.cast::<Node<O>>()) };
    // A panic could only come from a destructor, and must not reach the host.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(node)));
}

unsafe extern "system" fn infer<O: Operator>(
    op: *const OrtCustomOp,
    context: *mut OrtShapeInferContext,
) -> Status {
    // SAFETY: as in `create`.
    let host = unsafe { (*op.cast::<Op>()).host };
    guard(
        host,
        || title::<O>("?"),
        || {
            // SAFETY: the host's context for this call, and not used after it.
            let shapes = unsafe { Shapes::new(host, context) }?;
            O::infer(&shapes)
        },
    )
}

unsafe extern "system" fn name<O: Operator>(_: *const OrtCustomOp) -> *const c_char {
    O::NAME.as_ptr()
}

unsafe extern "system" fn provider(op: *const OrtCustomOp) -> *const c_char {
    // SAFETY: as in `create`.
    let cuda = unsafe { (*op.cast::<Op>()).cuda };
    cuda.map_or(c"CPUExecutionProvider", |cuda| cuda.provider)
        .as_ptr()
}

unsafe extern "system" fn input_type<O: Operator>(_: *const OrtCustomOp, index: usize) -> c_int {
    O::INPUTS
        .get(index)
        .map_or(abi::UNDEFINED, |port| port.kind)
}

unsafe extern "system" fn input_count<O: Operator>(_: *const OrtCustomOp) -> usize {
    O::INPUTS.len()
}

unsafe extern "system" fn output_type<O: Operator>(_: *const OrtCustomOp, index: usize) -> c_int {
    O::OUTPUTS
        .get(index)
        .map_or(abi::UNDEFINED, |port| port.kind)
}

unsafe extern "system" fn output_count<O: Operator>(_: *const OrtCustomOp) -> usize {
    O::OUTPUTS.len()
}

/// Every input and output is required: characteristic 0.
unsafe extern "system" fn required(_: *const OrtCustomOp, _: usize) -> c_int {
    0
}

unsafe extern "system" fn input_memory<O: Operator>(_: *const OrtCustomOp, index: usize) -> c_int {
    match O::ON_HOST == Some(index) {
        true => abi::HOST_MEMORY,
        false => abi::PROVIDER_MEMORY,
    }
}

unsafe extern "system" fn start_version(_: *const OrtCustomOp) -> c_int {
    1
}

unsafe extern "system" fn end_version(_: *const OrtCustomOp) -> c_int {
    c_int::MAX
}

/// Pairs (i, i). The host only reads the array.
static SAME_INDEX: [c_int; 3] = [0, 1, 2];

unsafe extern "system" fn may_in_place<O: Operator>(
    inputs: *mut *mut c_int,
    outputs: *mut *mut c_int,
) -> usize {
    let pairs = SAME_INDEX.as_ptr().cast_mut();
    // SAFETY: the host's places for two arrays, given back to `release_may_in_place`.
    unsafe {
        *inputs = pairs;
        *outputs = pairs;
    }
    O::IN_PLACE.min(SAME_INDEX.len())
}

/// The array is static.
unsafe extern "system" fn release_may_in_place(_: *mut c_int, _: *mut c_int) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[test]
    fn errors_and_panics_become_a_status() {
        let title = || "VccThing node 'x'".to_owned();
        assert!(guard(fake::host(), title, || Ok(())).is_null());
        let failed = guard(fake::host(), title, || Err(Failure::new("wrong \0 shape")));
        assert_eq!(fake::message(failed), "VccThing node 'x': wrong ? shape");
        let panicked = guard(fake::host(), title, || panic!("at {}", 3));
        assert!(
            fake::message(panicked).starts_with("VccThing node 'x': internal error")
                && fake::message(panicked).ends_with("at 3")
        );
    }
}
