//! Everything that can go wrong here, in words for the person at the terminal: what happened and what to do about it.

use std::fmt;
use std::path::PathBuf;

use crate::tensors::ElementType;

/// One place where a library was looked for, and why it was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The place: a path, a variable, a command.
    pub place: String,
    /// Why it did not do.
    pub reason: String,
}

/// Lists the places tried, one a line.
struct List<'a>(&'a [Tried]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for t in self.0 {
            write!(f, "\n  {}: {}", t.place, t.reason)?;
        }
        Ok(())
    }
}

/// An error of this crate. [`RunError::code`] is stable; the text is not.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No usable ONNX Runtime; exit code 5 in the command line tools.
    #[error(
        "no ONNX Runtime 1.18 or newer was found; tried, in this order:{list}\n\
         install one with `pip install onnxruntime` (1.19 or newer carries the library), or name its libonnxruntime.so \
         with --ort or ORT_DYLIB_PATH",
        list = List(tried)
    )]
    RuntimeNotFound {
        /// What was tried, in order.
        tried: Vec<Tried>,
    },
    /// A process holds one ONNX Runtime; another was asked for.
    #[error(
        "ONNX Runtime is already loaded from {loaded}; a process cannot load another from {asked}: start a new process"
    )]
    RuntimeAlreadyLoaded {
        /// Where the loaded one came from.
        loaded: PathBuf,
        /// The one asked for.
        asked: PathBuf,
    },
    /// `libvcc_ops.so` is nowhere.
    #[error(
        "the operator library libvcc_ops.so was not found; tried, in this order:{list}\n\
         build it with `cargo build --release -p vcc-ops`, or name it with VCC_OPS_LIB; \
         models converted with function bodies or --inline run without it",
        list = List(tried)
    )]
    OpsLibraryNotFound {
        /// What was tried, in order.
        tried: Vec<Tried>,
    },
    /// The engine refused to open a model.
    #[error("{engine} cannot open {model}: {reason}")]
    Open {
        /// The engine's name.
        engine: &'static str,
        /// The model.
        model: String,
        /// The engine's words.
        reason: String,
    },
    /// Running a model failed.
    #[error("{engine} failed while running {model}: {reason}")]
    Run {
        /// The engine's name.
        engine: &'static str,
        /// The model.
        model: String,
        /// The engine's words.
        reason: String,
    },
    /// The engine lacks an operator of a model.
    #[error(
        "{engine} cannot run {model}: it has no operator {operator}, which is node `{node}`; ONNX Runtime runs it (--engine ort)"
    )]
    Operator {
        /// The engine's name.
        engine: &'static str,
        /// The model.
        model: String,
        /// Domain and name of the operator.
        operator: String,
        /// The first node that is one.
        node: String,
    },
    /// An input the model needs was not given.
    #[error("{model} needs the input `{input}`, which was not given; given: {}", given.join(", "))]
    MissingInput {
        /// The model.
        model: String,
        /// The input's name.
        input: String,
        /// The names that were given.
        given: Vec<String>,
    },
    /// An input has another element type than the model declares.
    #[error("input `{input}` of {model} is {declared}, but {given} was given: convert the array")]
    InputType {
        /// The model.
        model: String,
        /// The input's name.
        input: String,
        /// The model's type.
        declared: String,
        /// The type given.
        given: ElementType,
    },
    /// An input or output of a type that is not supported here (strings, sequences, bfloat16 and the like).
    #[error(
        "`{name}` of {model} is {type_name}; supported are tensors of f32, f64, f16, i64, i32, i8, u8 and bool"
    )]
    UnsupportedType {
        /// The model.
        model: String,
        /// The input's or output's name.
        name: String,
        /// Its type.
        type_name: String,
    },
    /// Data that does not fill its shape.
    #[error("an array of shape {shape:?} cannot hold {len} elements")]
    BadArray {
        /// The shape.
        shape: Vec<usize>,
        /// The number of elements.
        len: usize,
    },
    /// The random inputs asked for cannot be made.
    #[error("cannot make a random input `{input}`: {reason}")]
    RandomInput {
        /// The input's name.
        input: String,
        /// What is wrong.
        reason: String,
    },
    /// An .npz file that cannot be read or written.
    #[error("{path}: {reason}")]
    Npz {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The measuring child process failed.
    #[error("measuring the memory of {model} in a child process failed: {reason}")]
    Measure {
        /// The model.
        model: String,
        /// What is wrong.
        reason: String,
    },
}

impl RunError {
    /// A stable code for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RuntimeNotFound { .. } => "runtime-not-found",
            Self::RuntimeAlreadyLoaded { .. } => "runtime-already-loaded",
            Self::OpsLibraryNotFound { .. } => "ops-library-not-found",
            Self::Open { .. } => "model-not-opened",
            Self::Run { .. } => "run-failed",
            Self::Operator { .. } => "operator-not-known",
            Self::MissingInput { .. } => "missing-input",
            Self::InputType { .. } => "input-type",
            Self::UnsupportedType { .. } => "unsupported-type",
            Self::BadArray { .. } => "bad-array",
            Self::RandomInput { .. } => "random-input",
            Self::Npz { .. } => "bad-npz",
            Self::Measure { .. } => "measure-failed",
        }
    }
}
