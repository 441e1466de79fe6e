//! ONNX files: lossless reading and writing, graph arena, verifier, text form.
