//! The operator library for ONNX Runtime: C ABI and CPU kernels.
