//! What can go wrong with a model file. Every message starts with a stable code, says what is wrong and where
//! (byte offset or node), and ends with what to do about it.

use std::path::PathBuf;

/// An error from reading, editing or writing a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    #[error("E-ONNX-IO: {}: {source}; check that the path exists and that you may use it", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },

    #[error(
        "E-ONNX-WRITE: the model could not be written: {0}; check the space and the rights at the target"
    )]
    Write(std::io::Error),

    #[error("E-ONNX-NOT-ONNX: this is not an ONNX model: {reason}; give the path of a .onnx file")]
    NotOnnx { reason: String },

    #[error(
        "E-ONNX-TRUNCATED: {what} at byte {at} runs past the end of what holds it; the file is damaged or cut short, \
         fetch or export it again"
    )]
    Truncated { what: &'static str, at: u64 },

    #[error("E-ONNX-MALFORMED: {what} at byte {at}; the file is damaged, fetch or export it again")]
    Malformed { what: &'static str, at: u64 },

    #[error("E-ONNX-UTF8: {what} at byte {at} is not UTF-8; export the model with UTF-8 names")]
    Utf8 { what: &'static str, at: u64 },

    #[error(
        "E-ONNX-TOO-DEEP: subgraphs at byte {at} are nested more than {limit} deep; flatten the model"
    )]
    TooDeep { at: u64, limit: usize },

    #[error(
        "E-ONNX-TOO-MANY: more than {limit} {what}; this is no model that a runtime would load, split it"
    )]
    TooMany { what: &'static str, limit: usize },

    #[error(
        "E-ONNX-TOO-LARGE: the file has {bytes} bytes, an ONNX file may have {}; store the weights as external data",
        crate::limits::MAX_FILE
    )]
    TooLarge { bytes: u64 },

    #[error(
        "E-ONNX-DUPLICATE-NAME: value `{name}` is defined by {first} and by {second}; a name may be defined once, \
         export the model again"
    )]
    DuplicateName {
        name: String,
        first: String,
        second: String,
    },

    #[error(
        "E-ONNX-UNDEFINED: {user} reads `{name}`, which nothing defines; export the model again"
    )]
    Undefined { name: String, user: String },

    #[error(
        "E-ONNX-CYCLE: node {node} depends on its own output; a graph has no cycles, export the model again"
    )]
    Cycle { node: String },

    #[error("E-ONNX-TENSOR: tensor `{name}`: {what}; export the model again")]
    Tensor { name: String, what: String },

    #[error(
        "E-ONNX-FUNCTION: node {node} calls {function}: {what}; inline the function when exporting"
    )]
    Function {
        node: String,
        function: String,
        what: String,
    },

    #[error(
        "E-ONNX-EXTERNAL: external data `{location}`: {what}; keep it in the directory of the model, under a relative path"
    )]
    External { location: String, what: String },
}

impl Error {
    /// The stable code that the message starts with, such as `E-ONNX-TRUNCATED`.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Io { .. } => "E-ONNX-IO",
            Error::Write(_) => "E-ONNX-WRITE",
            Error::NotOnnx { .. } => "E-ONNX-NOT-ONNX",
            Error::Truncated { .. } => "E-ONNX-TRUNCATED",
            Error::Malformed { .. } => "E-ONNX-MALFORMED",
            Error::Utf8 { .. } => "E-ONNX-UTF8",
            Error::TooDeep { .. } => "E-ONNX-TOO-DEEP",
            Error::TooMany { .. } => "E-ONNX-TOO-MANY",
            Error::TooLarge { .. } => "E-ONNX-TOO-LARGE",
            Error::DuplicateName { .. } => "E-ONNX-DUPLICATE-NAME",
            Error::Undefined { .. } => "E-ONNX-UNDEFINED",
            Error::Cycle { .. } => "E-ONNX-CYCLE",
            Error::Tensor { .. } => "E-ONNX-TENSOR",
            Error::Function { .. } => "E-ONNX-FUNCTION",
            Error::External { .. } => "E-ONNX-EXTERNAL",
        }
    }
}
