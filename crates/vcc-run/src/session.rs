//! One model opened in ONNX Runtime, on the CPU, in sequential mode.

use std::borrow::Cow;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{OutputSelector, RunOptions, SessionInputValue};
use ort::value::{DynValue, TensorElementType, TensorRef, ValueType};

use crate::error::RunError;
use crate::runtime::Runtime;
use crate::tensors::{Array, Data, ElementType, Inputs, Outputs};

/// The name in messages.
const ENGINE: &str = "ONNX Runtime";

/// How far ONNX Runtime may rewrite the graph before running it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Optimization {
    /// Not at all.
    Off,
    /// Constant folding and redundant nodes.
    Basic,
    /// Fusions of operators too.
    Extended,
    /// Memory layouts too: ONNX Runtime's own default.
    #[default]
    All,
}

impl Optimization {
    /// Its name, as [`Optimization::from_name`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Basic => "basic",
            Self::Extended => "extended",
            Self::All => "all",
        }
    }

    /// The level of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Off, Self::Basic, Self::Extended, Self::All]
            .into_iter()
            .find(|l| l.name() == name)
    }
}

/// How to open a model.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Threads inside an operator; 0 lets ONNX Runtime choose.
    pub threads: usize,
    /// How far ONNX Runtime may rewrite the graph.
    pub optimization: Optimization,
    /// The operator library to register. Without one, function bodies run.
    pub ops_library: Option<PathBuf>,
    /// Where to write the model as ONNX Runtime optimised it.
    pub optimized_model: Option<PathBuf>,
}

/// A dimension as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Known.
    Fixed(usize),
    /// Named; equal names promise equal sizes.
    Symbol(String),
    /// Neither.
    Unknown,
}

/// An input or output as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// The name.
    pub name: String,
    /// The element type, where it is one that can be fed and read.
    pub element_type: Option<ElementType>,
    /// The type in the engine's words.
    pub type_name: String,
    /// The dimensions; empty for a scalar, and for what has no shape.
    pub dims: Vec<Dim>,
    /// Whether it has a default (an initializer of the same name) and need not be given.
    pub optional: bool,
}

impl PortInfo {
    fn new(name: &str, kind: &ValueType, optional: bool) -> Self {
        let (element_type, type_name, dims) = match kind {
            ValueType::Tensor {
                ty,
                shape,
                dimension_symbols,
            } => {
                let dims = shape.iter().enumerate().map(|(i, &d)| {
                    let symbol = dimension_symbols.get(i).map_or("", String::as_str);
                    match (usize::try_from(d), symbol) {
                        (Ok(d), _) => Dim::Fixed(d),
                        (Err(_), "") => Dim::Unknown,
                        (Err(_), s) => Dim::Symbol(s.to_owned()),
                    }
                });
                (element_type(*ty), ty.to_string(), dims.collect())
            }
            other => (None, other.to_string(), Vec::new()),
        };
        Self {
            name: name.to_owned(),
            element_type,
            type_name,
            dims,
            optional,
        }
    }
}

/// A model opened in ONNX Runtime.
#[derive(Debug)]
pub struct Session {
    session: ort::session::Session,
    /// The model's path, for messages.
    model: String,
    inputs: Vec<PortInfo>,
    outputs: Vec<PortInfo>,
}

/// ONNX Runtime adds a custom domain to a map of the whole process when a session is opened, and two threads that do so at once
/// are told that it is there already.
static OPENING: Mutex<()> = Mutex::new(());

impl Session {
    /// Opens a model file. External data is looked for beside it.
    pub fn open(
        runtime: &Runtime,
        path: &Path,
        options: &SessionOptions,
    ) -> Result<Self, RunError> {
        let model = path.display().to_string();
        let _one_at_a_time = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        let session =
            builder(runtime, options).and_then(|mut b| b.commit_from_file(path).map_err(reason));
        Self::new(session, model)
    }

    /// Opens a model that is in memory and has no external data. `name` is for messages.
    pub fn from_bytes(
        runtime: &Runtime,
        name: &str,
        bytes: &[u8],
        options: &SessionOptions,
    ) -> Result<Self, RunError> {
        let _one_at_a_time = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        let session =
            builder(runtime, options).and_then(|mut b| b.commit_from_memory(bytes).map_err(reason));
        Self::new(session, name.to_owned())
    }

    fn new(
        session: Result<ort::session::Session, String>,
        model: String,
    ) -> Result<Self, RunError> {
        let session = session.map_err(|reason| RunError::Open {
            engine: ENGINE,
            model: model.clone(),
            reason,
        })?;
        let mut inputs: Vec<PortInfo> = session
            .inputs()
            .iter()
            .map(|o| PortInfo::new(o.name(), o.dtype(), false))
            .collect();
        inputs.extend(
            session
                .overridable_initializers()
                .iter()
                .map(|o| PortInfo::new(o.name(), o.dtype(), true)),
        );
        let outputs = session
            .outputs()
            .iter()
            .map(|o| PortInfo::new(o.name(), o.dtype(), false))
            .collect();
        Ok(Self {
            session,
            model,
            inputs,
            outputs,
        })
    }

    /// The inputs; those that need not be given come last.
    pub fn inputs(&self) -> &[PortInfo] {
        &self.inputs
    }

    /// The outputs in the model's order.
    pub fn outputs(&self) -> &[PortInfo] {
        &self.outputs
    }

    /// The model's path or name, for messages.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Runs the model. Arrays whose names the model does not have are ignored; inputs are not copied, outputs are.
    pub fn run(&mut self, inputs: &Inputs) -> Result<Outputs, RunError> {
        let all: Vec<String> = self.outputs.iter().map(|p| p.name.clone()).collect();
        self.run_outputs(inputs, &all)
    }

    /// As [`Session::run`], for some of the outputs, in the order of `names`.
    pub fn run_outputs(&mut self, inputs: &Inputs, names: &[String]) -> Result<Outputs, RunError> {
        let model = &self.model;
        // Found before the run: an output that cannot be read is known without paying for it.
        let unread = |p: &&PortInfo| p.element_type.is_none() && names.contains(&p.name);
        if let Some(port) = self.outputs.iter().find(unread) {
            return Err(unsupported(model, port));
        }
        let feeds = feeds(model, &self.inputs, inputs)?;
        let failed = |e: ort::Error| RunError::Run {
            engine: ENGINE,
            model: model.clone(),
            reason: reason(e),
        };
        let selected = names
            .iter()
            .fold(OutputSelector::no_default(), |all, name| all.with(name));
        let options = RunOptions::new().map_err(failed)?.with_outputs(selected);
        let outputs = self
            .session
            .run_with_options(feeds, &options)
            .map_err(failed)?;
        names
            .iter()
            .map(|name| {
                let value = outputs.get(name).ok_or_else(|| RunError::Run {
                    engine: ENGINE,
                    model: model.clone(),
                    reason: format!("the output `{name}` did not come back"),
                })?;
                let array = to_array(value).map_err(failed)?;
                let array = array.ok_or_else(|| RunError::UnsupportedType {
                    model: model.clone(),
                    name: name.clone(),
                    type_name: value.dtype().to_string(),
                })??;
                Ok((name.clone(), array))
            })
            .collect()
    }

    /// Runs the model and drops the outputs where ONNX Runtime put them: what there is to measure, and nothing else.
    pub(crate) fn run_only(&mut self, inputs: &Inputs) -> Result<(), RunError> {
        let feeds = feeds(&self.model, &self.inputs, inputs)?;
        match self.session.run(feeds) {
            Ok(_) => Ok(()),
            Err(e) => Err(RunError::Run {
                engine: ENGINE,
                model: self.model.clone(),
                reason: reason(e),
            }),
        }
    }
}

fn reason(e: impl Display) -> String {
    e.to_string()
}

fn unsupported(model: &str, port: &PortInfo) -> RunError {
    RunError::UnsupportedType {
        model: model.to_owned(),
        name: port.name.clone(),
        type_name: port.type_name.clone(),
    }
}

fn builder(runtime: &Runtime, options: &SessionOptions) -> Result<SessionBuilder, String> {
    let level = match options.optimization {
        Optimization::Off => GraphOptimizationLevel::Disable,
        Optimization::Basic => GraphOptimizationLevel::Level1,
        Optimization::Extended => GraphOptimizationLevel::Level2,
        Optimization::All => GraphOptimizationLevel::All,
    };
    let mut builder = ort::session::Session::builder(runtime.environment())
        .map_err(reason)?
        .with_optimization_level(level)
        .map_err(reason)?
        .with_parallel_execution(false)
        .map_err(reason)?
        // One block of memory for all values of a run, planned in the first run at a length, comes on top of what the first run took.
        .with_memory_pattern(false)
        .map_err(reason)?
        // Errors come back as errors; printed too, they and the warnings would drown the report.
        .with_log_level(ort::logging::LogLevel::Fatal)
        .map_err(reason)?
        // Idle threads of one session would otherwise spin into the time of the next one measured.
        .with_config_entry("session.force_spinning_stop", "1")
        .map_err(reason)?;
    if options.threads > 0 {
        builder = builder
            .with_intra_threads(options.threads)
            .map_err(reason)?;
    }
    if let Some(path) = &options.ops_library {
        builder = builder
            .with_operator_library(path)
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    if let Some(path) = &options.optimized_model {
        builder = builder.with_optimized_model_path(path).map_err(reason)?;
    }
    Ok(builder)
}

type Feed<'a> = (Cow<'a, str>, SessionInputValue<'a>);

/// The arrays for the inputs that the model declares, in that order; an input with a default may be missing.
pub(crate) fn matched<'a>(
    model: &str,
    ports: &'a [PortInfo],
    inputs: &'a Inputs,
) -> Result<Vec<(&'a PortInfo, &'a Array)>, RunError> {
    let mut all = Vec::with_capacity(ports.len());
    for port in ports {
        let Some(array) = inputs.get(&port.name) else {
            if port.optional {
                continue;
            }
            let given = inputs.iter().map(|(n, _)| n.to_owned()).collect();
            return Err(RunError::MissingInput {
                model: model.to_owned(),
                input: port.name.clone(),
                given,
            });
        };
        if port.element_type != Some(array.element_type()) {
            return Err(RunError::InputType {
                model: model.to_owned(),
                input: port.name.clone(),
                declared: port.type_name.clone(),
                given: array.element_type(),
            });
        }
        all.push((port, array));
    }
    Ok(all)
}

/// What ONNX Runtime is fed.
fn feeds<'a>(
    model: &str,
    ports: &'a [PortInfo],
    inputs: &'a Inputs,
) -> Result<Vec<Feed<'a>>, RunError> {
    let feed = |(port, array): (&'a PortInfo, &'a Array)| {
        let value = to_value(array).map_err(|e| RunError::Run {
            engine: ENGINE,
            model: model.to_owned(),
            reason: reason(e),
        })?;
        Ok((Cow::Borrowed(port.name.as_str()), value))
    };
    matched(model, ports, inputs)?
        .into_iter()
        .map(feed)
        .collect()
}

/// A view of the array for ONNX Runtime.
fn to_value(array: &Array) -> Result<SessionInputValue<'_>, ort::Error> {
    let shape = array.shape().to_vec();
    macro_rules! view {
        ($($variant:ident),*) => {
            match array.data() {
                $(Data::$variant(v) => TensorRef::from_array_view((shape, v.as_slice()))?.into(),)*
            }
        };
    }
    Ok(view!(F32, F64, F16, I64, I32, I8, U8, Bool))
}

/// A copy of a tensor; `None` if it is not one of the supported types.
fn to_array(value: &DynValue) -> Result<Option<Result<Array, RunError>>, ort::Error> {
    let ValueType::Tensor { ty, .. } = value.dtype() else {
        return Ok(None);
    };
    macro_rules! copy {
        ($($variant:ident: $rust:ty),*) => {
            match element_type(*ty) {
                $(Some(ElementType::$variant) => {
                    let (shape, data) = value.try_extract_tensor::<$rust>()?;
                    let shape: Vec<usize> = shape.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
                    Some(Array::new(shape, data.to_vec()))
                })*
                None => None,
            }
        };
    }
    Ok(copy!(F32: f32, F64: f64, F16: half::f16, I64: i64, I32: i32, I8: i8, U8: u8, Bool: bool))
}

fn element_type(ty: TensorElementType) -> Option<ElementType> {
    Some(match ty {
        TensorElementType::Float32 => ElementType::F32,
        TensorElementType::Float64 => ElementType::F64,
        TensorElementType::Float16 => ElementType::F16,
        TensorElementType::Int64 => ElementType::I64,
        TensorElementType::Int32 => ElementType::I32,
        TensorElementType::Int8 => ElementType::I8,
        TensorElementType::Uint8 => ElementType::U8,
        TensorElementType::Bool => ElementType::Bool,
        _ => return None,
    })
}
