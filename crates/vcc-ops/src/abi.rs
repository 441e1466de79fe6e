//! The part of ONNX Runtime's C ABI that is used, as `onnxruntime_c_api.h` lays it out.
//!
//! The function table is append-only: an entry never moves, and a host of version 1.N has all entries of versions up to N. [`OrtApi`]
//! ends with the last entry that is used here, which every host from 1.17 on has. A test compares the offsets with `ort-sys`.

use std::ffi::{c_char, c_int, c_void};

macro_rules! opaque {
    ($($name:ident)*) => {$(
        #[doc = concat!("`", stringify!($name), "`: only ever behind a pointer.")]
        #[repr(C)]
        pub(crate) struct $name {
            _private: [u8; 0],
        }
    )*};
}

opaque! {
    OrtStatus OrtSessionOptions OrtCustomOpDomain OrtValue OrtTensorTypeAndShapeInfo OrtKernelInfo OrtKernelContext OrtShapeInferContext
    OrtOpAttr
}

/// What most functions return: null or a status that the caller owns.
pub(crate) type Status = *mut OrtStatus;

pub(crate) const FAIL: c_int = 1;
pub(crate) const INVALID_ARGUMENT: c_int = 2;

pub(crate) const FLOAT: c_int = 1;
pub(crate) const INT64: c_int = 7;
pub(crate) const BOOL: c_int = 9;
pub(crate) const FLOAT16: c_int = 10;
pub(crate) const BFLOAT16: c_int = 16;
pub(crate) const UNDEFINED: c_int = 0;

/// Where an input has to be: `OrtMemTypeDefault`, with the provider's tensors, and `OrtMemTypeCPUInput`.
pub(crate) const PROVIDER_MEMORY: c_int = 0;
pub(crate) const HOST_MEMORY: c_int = -2;

pub(crate) const ATTRIBUTE_INT: c_int = 1;
pub(crate) const ATTRIBUTE_INTS: c_int = 2;
pub(crate) const ATTRIBUTE_STRING: c_int = 5;

/// The entry of the library.
#[repr(C)]
pub(crate) struct OrtApiBase {
    pub(crate) get_api: unsafe extern "system" fn(version: u32) -> *const OrtApi,
    pub(crate) get_version_string: unsafe extern "system" fn() -> *const c_char,
}

pub(crate) type CreateStatus =
    unsafe extern "system" fn(code: c_int, message: *const c_char) -> Status;

/// Entries of the table that are not used.
type Skip<const N: usize> = [*const c_void; N];

/// The function table, up to `KernelContext_ParallelFor`.
#[repr(C)]
pub(crate) struct OrtApi {
    pub(crate) create_status: CreateStatus,
    _1: Skip<1>,
    pub(crate) get_error_message:
        unsafe extern "system" fn(status: *const OrtStatus) -> *const c_char,
    _3: Skip<23>,
    pub(crate) create_custom_op_domain: unsafe extern "system" fn(
        domain: *const c_char,
        out: *mut *mut OrtCustomOpDomain,
    ) -> Status,
    pub(crate) custom_op_domain_add:
        unsafe extern "system" fn(domain: *mut OrtCustomOpDomain, op: *const OrtCustomOp) -> Status,
    pub(crate) add_custom_op_domain: unsafe extern "system" fn(
        options: *mut OrtSessionOptions,
        domain: *mut OrtCustomOpDomain,
    ) -> Status,
    _29: Skip<22>,
    pub(crate) get_tensor_mutable_data:
        unsafe extern "system" fn(value: *mut OrtValue, out: *mut *mut c_void) -> Status,
    _52: Skip<5>,
    pub(crate) create_tensor_type_and_shape_info:
        unsafe extern "system" fn(out: *mut *mut OrtTensorTypeAndShapeInfo) -> Status,
    pub(crate) set_tensor_element_type:
        unsafe extern "system" fn(info: *mut OrtTensorTypeAndShapeInfo, kind: c_int) -> Status,
    pub(crate) set_dimensions: unsafe extern "system" fn(
        info: *mut OrtTensorTypeAndShapeInfo,
        dims: *const i64,
        count: usize,
    ) -> Status,
    pub(crate) get_tensor_element_type: unsafe extern "system" fn(
        info: *const OrtTensorTypeAndShapeInfo,
        out: *mut c_int,
    ) -> Status,
    pub(crate) get_dimensions_count: unsafe extern "system" fn(
        info: *const OrtTensorTypeAndShapeInfo,
        out: *mut usize,
    ) -> Status,
    pub(crate) get_dimensions: unsafe extern "system" fn(
        info: *const OrtTensorTypeAndShapeInfo,
        dims: *mut i64,
        count: usize,
    ) -> Status,
    pub(crate) get_symbolic_dimensions: unsafe extern "system" fn(
        info: *const OrtTensorTypeAndShapeInfo,
        names: *mut *const c_char,
        count: usize,
    ) -> Status,
    _64: Skip<1>,
    pub(crate) get_tensor_type_and_shape: unsafe extern "system" fn(
        value: *const OrtValue,
        out: *mut *mut OrtTensorTypeAndShapeInfo,
    ) -> Status,
    _66: Skip<19>,
    pub(crate) kernel_info_get_attribute_float: unsafe extern "system" fn(
        info: *const OrtKernelInfo,
        name: *const c_char,
        out: *mut f32,
    ) -> Status,
    pub(crate) kernel_info_get_attribute_int64: unsafe extern "system" fn(
        info: *const OrtKernelInfo,
        name: *const c_char,
        out: *mut i64,
    ) -> Status,
    pub(crate) kernel_info_get_attribute_string: unsafe extern "system" fn(
        info: *const OrtKernelInfo,
        name: *const c_char,
        out: *mut c_char,
        size: *mut usize,
    ) -> Status,
    _88: Skip<2>,
    pub(crate) kernel_context_get_input: unsafe extern "system" fn(
        context: *const OrtKernelContext,
        index: usize,
        out: *mut *const OrtValue,
    ) -> Status,
    pub(crate) kernel_context_get_output: unsafe extern "system" fn(
        context: *mut OrtKernelContext,
        index: usize,
        dims: *const i64,
        count: usize,
        out: *mut *mut OrtValue,
    ) -> Status,
    _92: Skip<1>,
    pub(crate) release_status: unsafe extern "system" fn(status: *mut OrtStatus),
    _94: Skip<5>,
    pub(crate) release_tensor_type_and_shape_info:
        unsafe extern "system" fn(info: *mut OrtTensorTypeAndShapeInfo),
    _100: Skip<25>,
    pub(crate) get_available_providers:
        unsafe extern "system" fn(out: *mut *mut *mut c_char, count: *mut c_int) -> Status,
    pub(crate) release_available_providers:
        unsafe extern "system" fn(names: *mut *mut c_char, count: c_int) -> Status,
    _127: Skip<36>,
    pub(crate) kernel_info_get_attribute_array_int64: unsafe extern "system" fn(
        info: *const OrtKernelInfo,
        name: *const c_char,
        out: *mut i64,
        size: *mut usize,
    ) -> Status,
    _164: Skip<29>,
    pub(crate) kernel_context_get_gpu_compute_stream: unsafe extern "system" fn(
        context: *const OrtKernelContext,
        out: *mut *mut c_void,
    ) -> Status,
    _194: Skip<50>,
    pub(crate) kernel_info_get_node_name: unsafe extern "system" fn(
        info: *const OrtKernelInfo,
        out: *mut c_char,
        size: *mut usize,
    ) -> Status,
    _245: Skip<23>,
    pub(crate) shape_infer_context_get_input_type_shape: unsafe extern "system" fn(
        context: *const OrtShapeInferContext,
        index: usize,
        out: *mut *mut OrtTensorTypeAndShapeInfo,
    ) -> Status,
    pub(crate) shape_infer_context_get_attribute: unsafe extern "system" fn(
        context: *const OrtShapeInferContext,
        name: *const c_char,
        out: *mut *const OrtOpAttr,
    ) -> Status,
    pub(crate) shape_infer_context_set_output_type_shape: unsafe extern "system" fn(
        context: *const OrtShapeInferContext,
        index: usize,
        info: *const OrtTensorTypeAndShapeInfo,
    ) -> Status,
    pub(crate) set_symbolic_dimensions: unsafe extern "system" fn(
        info: *mut OrtTensorTypeAndShapeInfo,
        names: *mut *const c_char,
        count: usize,
    ) -> Status,
    pub(crate) read_op_attr: unsafe extern "system" fn(
        attribute: *const OrtOpAttr,
        kind: c_int,
        data: *mut c_void,
        len: usize,
        out: *mut usize,
    ) -> Status,
    _273: Skip<1>,
    pub(crate) kernel_context_parallel_for: unsafe extern "system" fn(
        context: *const OrtKernelContext,
        run: unsafe extern "C" fn(data: *mut c_void, index: usize),
        total: usize,
        batches: usize,
        data: *mut c_void,
    ) -> Status,
}

/// One operator, as the host sees it. Entries after `version` that the host's version does not have are not read.
#[repr(C)]
pub(crate) struct OrtCustomOp {
    pub(crate) version: u32,
    pub(crate) create_kernel: Option<unsafe extern "system" fn()>,
    pub(crate) get_name: Option<unsafe extern "system" fn(op: *const OrtCustomOp) -> *const c_char>,
    pub(crate) get_execution_provider_type:
        Option<unsafe extern "system" fn(op: *const OrtCustomOp) -> *const c_char>,
    pub(crate) get_input_type:
        Option<unsafe extern "system" fn(op: *const OrtCustomOp, index: usize) -> c_int>,
    pub(crate) get_input_type_count:
        Option<unsafe extern "system" fn(op: *const OrtCustomOp) -> usize>,
    pub(crate) get_output_type:
        Option<unsafe extern "system" fn(op: *const OrtCustomOp, index: usize) -> c_int>,
    pub(crate) get_output_type_count:
        Option<unsafe extern "system" fn(op: *const OrtCustomOp) -> usize>,
    pub(crate) kernel_compute: Option<unsafe extern "system" fn()>,
    pub(crate) kernel_destroy: Option<unsafe extern "system" fn(kernel: *mut c_void)>,
    pub(crate) get_input_characteristic:
        Option<unsafe extern "system" fn(op: *const OrtCustomOp, index: usize) -> c_int>,
    pub(crate) get_output_characteristic:
        Option<unsafe extern "system" fn(op: *const OrtCustomOp, index: usize) -> c_int>,
    pub(crate) get_input_memory_type:
        Option<unsafe extern "system" fn(op: *const OrtCustomOp, index: usize) -> c_int>,
    pub(crate) get_variadic_input_min_arity: Option<unsafe extern "system" fn()>,
    pub(crate) get_variadic_input_homogeneity: Option<unsafe extern "system" fn()>,
    pub(crate) get_variadic_output_min_arity: Option<unsafe extern "system" fn()>,
    pub(crate) get_variadic_output_homogeneity: Option<unsafe extern "system" fn()>,
    pub(crate) create_kernel_v2: Option<
        unsafe extern "system" fn(
            op: *const OrtCustomOp,
            api: *const OrtApi,
            info: *const OrtKernelInfo,
            out: *mut *mut c_void,
        ) -> Status,
    >,
    pub(crate) kernel_compute_v2: Option<
        unsafe extern "system" fn(kernel: *mut c_void, context: *mut OrtKernelContext) -> Status,
    >,
    pub(crate) infer_output_shape: Option<
        unsafe extern "system" fn(
            op: *const OrtCustomOp,
            context: *mut OrtShapeInferContext,
        ) -> Status,
    >,
    pub(crate) get_start_version:
        Option<unsafe extern "system" fn(op: *const OrtCustomOp) -> c_int>,
    pub(crate) get_end_version: Option<unsafe extern "system" fn(op: *const OrtCustomOp) -> c_int>,
    pub(crate) get_may_inplace: Option<
        unsafe extern "system" fn(inputs: *mut *mut c_int, outputs: *mut *mut c_int) -> usize,
    >,
    pub(crate) release_may_inplace:
        Option<unsafe extern "system" fn(inputs: *mut c_int, outputs: *mut c_int)>,
    pub(crate) get_alias_map: Option<unsafe extern "system" fn()>,
    pub(crate) release_alias_map: Option<unsafe extern "system" fn()>,
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::{OrtApi, OrtCustomOp};

    macro_rules! same_offsets {
        ($ours:ty, $theirs:ty: $($field:ident = $name:ident),* $(,)?) => {
            $(assert_eq!(offset_of!($ours, $field), offset_of!($theirs, $name), stringify!($name));)*
        };
    }

    #[test]
    fn the_table_lies_where_ort_sys_says() {
        same_offsets!(OrtApi, ort_sys::OrtApi:
            create_status = CreateStatus, get_error_message = GetErrorMessage, create_custom_op_domain = CreateCustomOpDomain,
            custom_op_domain_add = CustomOpDomain_Add, add_custom_op_domain = AddCustomOpDomain,
            get_tensor_mutable_data = GetTensorMutableData, create_tensor_type_and_shape_info = CreateTensorTypeAndShapeInfo,
            set_tensor_element_type = SetTensorElementType, set_dimensions = SetDimensions,
            get_tensor_element_type = GetTensorElementType, get_dimensions_count = GetDimensionsCount, get_dimensions = GetDimensions,
            get_symbolic_dimensions = GetSymbolicDimensions, get_tensor_type_and_shape = GetTensorTypeAndShape,
            kernel_info_get_attribute_float = KernelInfoGetAttribute_float,
            kernel_info_get_attribute_int64 = KernelInfoGetAttribute_int64,
            kernel_info_get_attribute_string = KernelInfoGetAttribute_string, kernel_context_get_input = KernelContext_GetInput,
            kernel_context_get_output = KernelContext_GetOutput, release_status = ReleaseStatus,
            release_tensor_type_and_shape_info = ReleaseTensorTypeAndShapeInfo,
            kernel_info_get_attribute_array_int64 = KernelInfoGetAttributeArray_int64,
            kernel_info_get_node_name = KernelInfo_GetNodeName, get_available_providers = GetAvailableProviders,
            release_available_providers = ReleaseAvailableProviders,
            kernel_context_get_gpu_compute_stream = KernelContext_GetGPUComputeStream,
            shape_infer_context_get_input_type_shape = ShapeInferContext_GetInputTypeShape,
            shape_infer_context_get_attribute = ShapeInferContext_GetAttribute,
            shape_infer_context_set_output_type_shape = ShapeInferContext_SetOutputTypeShape,
            set_symbolic_dimensions = SetSymbolicDimensions, read_op_attr = ReadOpAttr,
            kernel_context_parallel_for = KernelContext_ParallelFor,
        );
    }

    #[test]
    fn an_operator_lies_where_ort_sys_says() {
        same_offsets!(OrtCustomOp, ort_sys::OrtCustomOp:
            version = version, create_kernel = CreateKernel, get_name = GetName,
            get_execution_provider_type = GetExecutionProviderType, get_input_type = GetInputType,
            get_input_type_count = GetInputTypeCount, get_output_type = GetOutputType, get_output_type_count = GetOutputTypeCount,
            kernel_compute = KernelCompute, kernel_destroy = KernelDestroy, get_input_characteristic = GetInputCharacteristic,
            get_output_characteristic = GetOutputCharacteristic, get_input_memory_type = GetInputMemoryType,
            get_variadic_input_min_arity = GetVariadicInputMinArity, get_variadic_input_homogeneity = GetVariadicInputHomogeneity,
            get_variadic_output_min_arity = GetVariadicOutputMinArity,
            get_variadic_output_homogeneity = GetVariadicOutputHomogeneity, create_kernel_v2 = CreateKernelV2,
            kernel_compute_v2 = KernelComputeV2, infer_output_shape = InferOutputShapeFn, get_start_version = GetStartVersion,
            get_end_version = GetEndVersion, get_may_inplace = GetMayInplace, release_may_inplace = ReleaseMayInplace,
            get_alias_map = GetAliasMap, release_alias_map = ReleaseAliasMap,
        );
        assert_eq!(size_of::<OrtCustomOp>(), size_of::<ort_sys::OrtCustomOp>());
    }
}
