//! One model in tract: a second engine, in pure Rust, that shares no code with ONNX Runtime.
//!
//! tract wants all sizes before it runs a model, so a plan is made for the shapes of the inputs and kept until they change. Where
//! sizes depend on what the inputs hold (as many VIP slots as the fullest text needs), a plan is made for that, and used once.
//! tract finds operators by name alone; a name of a foreign domain that means something else to it is refused here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::type_proto::Value as TypeValue;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto, ValueInfoProto};
use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoArcTensor,
    IntoRunnable, IntoTValue, OutletId, TValue, TVec, Tensor, TractError, TractResult,
    TypedRunnableModel,
};
use tract_onnx::tensor::load_tensor;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::konst::Const;

use crate::error::RunError;
use crate::session::{Dim, PortInfo, matched};
use crate::tensors::{Array, Data, ElementType, Inputs, Outputs};

/// The version that the workspace pins.
pub const TRACT_VERSION: &str = "0.23.9";

/// The name in messages.
const ENGINE: &str = "tract";

/// A model opened in tract.
pub struct TractModel {
    graph: InferenceModel,
    model: String,
    inputs: Vec<PortInfo>,
    /// What the inputs that need not be given hold then.
    defaults: Vec<(String, Arc<Tensor>)>,
    outputs: Vec<String>,
    prepared: Option<Prepared>,
}

/// What runs inputs of some shapes. Inputs with a default are constants of the plan.
struct Prepared {
    shapes: Vec<Vec<usize>>,
    constants: Vec<(String, Array)>,
    plan: Arc<TypedRunnableModel>,
}

/// What of the inputs is known when a model is prepared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Their shapes.
    Shapes,
    /// What the integers and booleans are, too: sizes may depend on it.
    Contents,
}

impl TractModel {
    /// Opens a model. Its weights are read now, those in files beside it too.
    pub fn open(path: &Path) -> Result<Self, RunError> {
        let model = path.display().to_string();
        // Declared shapes of values and outputs would be unified with what tract infers; it takes equal names for equal sizes.
        let mut onnx = tract_onnx::onnx()
            .with_ignore_output_shapes(true)
            .with_ignore_value_info(true);
        let failed = |reason: String| RunError::Open {
            engine: ENGINE,
            model: model.clone(),
            reason,
        };
        let mut proto = guarded(|| onnx.proto_model_for_path(path)).map_err(failed)?;
        let folder = path.parent().and_then(Path::to_str);
        let Some(graph) = &mut proto.graph else {
            return Err(failed("it has no graph".to_owned()));
        };
        if let Some((operator, node)) = foreign(graph, &onnx.op_register) {
            return Err(RunError::Operator {
                engine: ENGINE,
                model,
                operator,
                node,
            });
        }
        sizes_as_numbers(graph);
        onnx.op_register.insert(NUMBER, |_, _| {
            Ok((Box::new(cast(DatumType::I64)), Vec::new()))
        });
        // tract takes an input with a default for a constant; without the default it is an input.
        let is_input = |t: &TensorProto| graph.input.iter().any(|v| v.name == t.name);
        let (given, rest): (Vec<_>, Vec<_>) =
            graph.initializer.drain(..).partition(|t| is_input(t));
        graph.initializer = rest;
        let defaults: Vec<(String, Arc<Tensor>)> = guarded(|| {
            let load = |t: &TensorProto| {
                let tensor = load_tensor(&*onnx.provider, t, folder)?;
                Ok((t.name.clone(), Arc::new(tensor)))
            };
            given.iter().map(load).collect()
        })
        .map_err(failed)?;
        let has_default = |name: &str| defaults.iter().any(|(n, _)| n == name);
        let mut inputs: Vec<PortInfo> = graph
            .input
            .iter()
            .map(|v| port(v, has_default(&v.name)))
            .collect();
        inputs.sort_by_key(|p| p.optional);
        let outputs = graph.output.iter().map(|v| v.name.clone()).collect();
        let parsed = guarded(|| onnx.parse(&proto, folder)).map_err(failed)?;
        if let Some(name) = parsed.unresolved_inputs.first() {
            return Err(failed(format!("nothing computes `{name}`")));
        }
        Ok(Self {
            graph: parsed.model,
            model,
            inputs,
            defaults,
            outputs,
            prepared: None,
        })
    }

    /// The inputs; those that need not be given come last.
    pub fn inputs(&self) -> &[PortInfo] {
        &self.inputs
    }

    /// Runs the model. Arrays whose names the model does not have are ignored.
    pub fn run(&mut self, inputs: &Inputs) -> Result<Outputs, RunError> {
        let given = matched(&self.model, &self.inputs, inputs)?;
        let model = self.model.clone();
        let failed = |reason: String| RunError::Run {
            engine: ENGINE,
            model: model.clone(),
            reason,
        };
        let (constants, fed): (Vec<_>, Vec<_>) = given.iter().partition(|(p, _)| p.optional);
        let feeds: TVec<TValue> = fed
            .iter()
            .map(|(_, array)| Ok(to_tensor(array)?.into_tvalue()))
            .collect::<TractResult<_>>()
            .map_err(|e| failed(reason(&e)))?;
        let shapes: Vec<Vec<usize>> = fed.iter().map(|(_, a)| a.shape().to_vec()).collect();
        let constants: Vec<(String, Array)> = constants
            .iter()
            .map(|(p, a)| (p.name.clone(), Array::clone(a)))
            .collect();
        let kept =
            (self.prepared.take()).filter(|p| p.shapes == shapes && p.constants == constants);
        let prepared = match kept {
            Some(kept) => Ok(kept.plan),
            None => guarded(|| self.prepare(&feeds, &constants, Known::Shapes)),
        };
        let results = match prepared {
            Ok(plan) => {
                let results = guarded(|| plan.run(feeds)).map_err(failed)?;
                self.prepared = Some(Prepared {
                    shapes,
                    constants,
                    plan,
                });
                results
            }
            Err(_) => guarded(|| {
                let plan = self.prepare(&feeds, &constants, Known::Contents)?;
                let is_open = |feed: &TValue| feed.datum_type().is_float();
                plan.run(feeds.into_iter().filter(is_open).collect())
            })
            .map_err(failed)?,
        };
        self.outputs
            .iter()
            .zip(results)
            .map(|(name, value)| {
                let array = to_array(&value).map_err(|e| failed(reason(&e)))?;
                let array = array.ok_or_else(|| RunError::UnsupportedType {
                    model: model.clone(),
                    name: name.clone(),
                    type_name: format!("{:?}", value.datum_type()),
                })??;
                Ok((name.clone(), array))
            })
            .collect()
    }

    /// The model for inputs of these shapes.
    fn prepare(
        &self,
        feeds: &[TValue],
        constants: &[(String, Array)],
        known: Known,
    ) -> TractResult<Arc<TypedRunnableModel>> {
        let mut graph = self.graph.clone();
        for (name, default) in &self.defaults {
            let given = constants.iter().find(|(n, _)| n == name);
            let tensor = match given {
                Some((_, array)) => Arc::new(to_tensor(array)?),
                None => default.clone(),
            };
            let id = graph.node_by_name(name)?.id;
            set_constant(&mut graph, id, tensor)?;
        }
        // Those with a default come last among our inputs, wherever the model has them.
        let required = self.inputs.iter().filter(|p| !p.optional);
        let outlets: Vec<OutletId> = required
            .map(|p| Ok(OutletId::new(graph.node_by_name(&p.name)?.id, 0)))
            .collect::<TractResult<_>>()?;
        let mut fed = Vec::new();
        for (outlet, feed) in outlets.into_iter().zip(feeds) {
            if known == Known::Contents && !feed.datum_type().is_float() {
                set_constant(&mut graph, outlet.node, feed.clone().into_arc_tensor())?;
            } else {
                let fact = InferenceFact::dt_shape(feed.datum_type(), feed.shape());
                graph.set_outlet_fact(outlet, fact)?;
                fed.push(outlet);
            }
        }
        graph.set_input_outlets(&fed)?;
        // Not optimised further: tract's optimiser leaves nodes without an operator in converted graphs, and loses itself in
        // symbolic forms of their masks. The operators compute the same without it.
        graph.into_typed()?.into_runnable()
    }
}

/// Makes a constant of an input.
fn set_constant(graph: &mut InferenceModel, id: usize, tensor: Arc<Tensor>) -> TractResult<()> {
    let fact = InferenceFact::try_from(&tensor)?;
    let node = graph.node_mut(id);
    node.op = Box::new(Const::new(tensor)?);
    for output in &mut node.outputs {
        output.fact = fact.clone();
    }
    Ok(())
}

/// An operator that tract does not have, with its node: of the graph or of one inside it.
fn foreign(graph: &GraphProto, known: &OnnxOpRegister) -> Option<(String, String)> {
    graph.node.iter().find_map(|node| {
        let is_known = known.0.contains_key(&node.op_type)
            && match node.domain.as_str() {
                "" | "ai.onnx" | "ai.onnx.ml" => true,
                // Not the operator of ai.onnx of that name.
                "com.microsoft" => node.op_type != "Attention",
                _ => false,
            };
        if is_known {
            let inner = node.attribute.iter().filter_map(|a| a.g.as_ref());
            return inner.into_iter().find_map(|g| foreign(g, known));
        }
        let domain = match node.domain.as_str() {
            "" => "ai.onnx",
            domain => domain,
        };
        let name = [Some(&node.name), node.output.first()]
            .into_iter()
            .flatten()
            .find(|n| !n.is_empty());
        Some((
            format!("{domain}.{}", node.op_type),
            name.cloned().unwrap_or_default(),
        ))
    })
}

/// The operator that makes a plain int64 of a size.
const NUMBER: &str = "VccNumber";

/// Makes plain int64 of what Shape, Size and casts to int64 give. In tract that is a type of its own, for sizes of yet unknown
/// value, which several operators do not take; here all sizes are known when a model is prepared.
fn sizes_as_numbers(graph: &mut GraphProto) {
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in graph.node.drain(..) {
        for inner in node.attribute.iter_mut().filter_map(|a| a.g.as_mut()) {
            sizes_as_numbers(inner);
        }
        let is_cast = node.op_type == "Cast"
            && (node.attribute.iter()).any(|a| a.name == "to" && a.i == DataType::Int64 as i64);
        if is_cast {
            node.op_type = NUMBER.to_owned();
        } else if let ("Shape" | "Size", [output]) =
            (node.op_type.as_str(), node.output.as_mut_slice())
        {
            let size = format!("{output}/size");
            let number = NodeProto {
                name: format!("{output}/number"),
                input: vec![size.clone()],
                output: vec![std::mem::replace(output, size)],
                op_type: NUMBER.to_owned(),
                ..NodeProto::default()
            };
            nodes.extend([node, number]);
            continue;
        }
        nodes.push(node);
    }
    graph.node = nodes;
}

fn port(value: &ValueInfoProto, optional: bool) -> PortInfo {
    let kind = value.r#type.as_ref().and_then(|t| t.value.as_ref());
    let tensor = kind.map(|TypeValue::TensorType(tensor)| tensor);
    let element_type = tensor
        .and_then(|t| DataType::try_from(t.elem_type).ok())
        .and_then(|t| DatumType::try_from(t).ok())
        .and_then(element_type);
    let dims = tensor.and_then(|t| t.shape.as_ref()).map(|s| &s.dim);
    PortInfo {
        name: value.name.clone(),
        element_type,
        type_name: element_type.map_or_else(
            || "of a type without a tensor in tract".to_owned(),
            |t| t.to_string(),
        ),
        dims: dims
            .into_iter()
            .flatten()
            .map(|d| match &d.value {
                Some(DimValue::DimValue(n)) => usize::try_from(*n).map_or(Dim::Unknown, Dim::Fixed),
                Some(DimValue::DimParam(name)) if !name.is_empty() => Dim::Symbol(name.clone()),
                _ => Dim::Unknown,
            })
            .collect(),
        optional,
    }
}

/// tract's errors, and its panics as errors: a model from a file must not end the process.
fn guarded<T>(f: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|e| reason(&e)),
        Err(panic) => Err(format!(
            "it panicked: {}",
            panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("without a message")
        )),
    }
}

/// The error and its causes.
fn reason(error: &TractError) -> String {
    format!("{error:#}")
}

fn to_tensor(array: &Array) -> TractResult<Tensor> {
    macro_rules! copy {
        ($($variant:ident),*) => {
            match array.data() {
                $(Data::$variant(v) => Tensor::from_shape(array.shape(), v),)*
            }
        };
    }
    copy!(F32, F64, F16, I64, I32, I8, U8, Bool)
}

/// A copy of a tensor; `None` if it is not one of the supported types.
fn to_array(tensor: &Tensor) -> TractResult<Option<Result<Array, RunError>>> {
    // Sizes are symbolic numbers in tract even where they are known.
    let cast = if tensor.datum_type() == DatumType::TDim {
        tensor.cast_to::<i64>()?
    } else {
        std::borrow::Cow::Borrowed(tensor)
    };
    macro_rules! copy {
        ($($variant:ident: $rust:ty),*) => {
            match element_type(cast.datum_type()) {
                $(Some(ElementType::$variant) => {
                    let data = cast.try_as_plain_ram()?.as_slice::<$rust>()?.to_vec();
                    Some(Array::new(cast.shape(), data))
                })*
                None => None,
            }
        };
    }
    Ok(copy!(F32: f32, F64: f64, F16: half::f16, I64: i64, I32: i32, I8: i8, U8: u8, Bool: bool))
}

fn element_type(kind: DatumType) -> Option<ElementType> {
    Some(match kind.unquantized() {
        DatumType::F32 => ElementType::F32,
        DatumType::F64 => ElementType::F64,
        DatumType::F16 => ElementType::F16,
        DatumType::I64 => ElementType::I64,
        DatumType::I32 => ElementType::I32,
        DatumType::I8 => ElementType::I8,
        DatumType::U8 => ElementType::U8,
        DatumType::Bool => ElementType::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    /// What the report calls the version is what is linked.
    #[test]
    fn the_version_is_the_pinned_one() {
        let workspace = include_str!("../../../Cargo.toml");
        let pin = format!("tract-onnx = {{ version = \"={}\"", super::TRACT_VERSION);
        assert!(workspace.contains(&pin), "{pin}");
    }
}
