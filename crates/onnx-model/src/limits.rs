//! Bounds that keep a hostile file from taking all memory or all stack. Real models are far below them.

/// The largest protobuf message, hence the largest ONNX file: 2 GiB less one byte. No runtime reads a larger one.
pub const MAX_FILE: u64 = i32::MAX as u64;

/// How deep subgraphs (bodies of If, Loop, Scan) may be nested.
pub const MAX_NESTING: usize = 32;

/// How many fields a model may have: nodes, their inputs, outputs and attributes, initializers, declared types, ...
pub const MAX_FIELDS: usize = 1 << 23;

/// How many dimensions a declared type may have.
pub const MAX_RANK: usize = 1 << 12;

/// How many nodes a graph may have after functions were inlined: functions that call others several times each
/// grow exponentially.
pub const MAX_INLINED: usize = 1 << 20;

/// How deep protobuf groups (an encoding that ONNX does not use) may be nested in an unknown field.
pub(crate) const MAX_GROUPS: usize = 32;
