//! How far two correct runs of a model may be apart: as far as the original's own runs are when its weights change by next to nothing.
//!
//! - *float32*: 1e-4. In a batch row of padding only, forms may be apart by what the inlined one changes when each weight moves in its last bit:
//!   behind a mask of -10000 scores are rounded to 1/1024.
//! - *float16*: every operator rounds to 11 bits, so whoever adds the same numbers in another order gets another last bit. The limit is what
//!   the original's outputs change by when each weight moves by at most one step of float16.
//! - *quantised*: a value next to the border of two steps of 1/255 goes to either, whatever the reason of its last bit. Most runs have no such value
//!   and agree as those of float32; at least half of a model's runs must. The others may be apart by what such flips do in the original; there
//!   are some when each weight that is not quantised, and each scale, moves by up to 2^-16 of it. ONNX Runtime's optimiser replaces
//!   quantised arithmetic by other arithmetic, in the original by 8e-2 and more; so these models run as they are written, without it.

use onnx_model::{DataType, Graph, Model, Node, NodeId, Tensor, ValueId};
use vcc_run::{Inputs, Optimization, Outputs};

use super::{Engine, Rng, difference, open_at, run};

/// How coarse the numbers of a model are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    Single,
    Half,
    Quantised,
}

impl Precision {
    pub(crate) fn of(model: &Model) -> Precision {
        let graph = &model.graph;
        let nodes = || graph.node_ids().map(|id| graph.node(id));
        if nodes().any(is_quantised) {
            return Precision::Quantised;
        }
        let is_half = |t: Option<Tensor>| t.is_some_and(|t| t.dtype() == DataType::Float16);
        let to_half = |n: &Node| n.op_type == "Cast" && n.attr_int("to") == Some(10);
        if nodes().any(to_half) || graph.value_ids().any(|v| is_half(graph.tensor(v))) {
            return Precision::Half;
        }
        Precision::Single
    }

    /// How far ONNX Runtime optimises both models that are compared.
    pub(crate) fn optimization(self) -> Optimization {
        match self {
            Precision::Quantised => Optimization::Off,
            Precision::Single | Precision::Half => Optimization::All,
        }
    }

    /// The largest difference that the model's runs may have.
    pub(crate) fn limit(self, name: &str, model: &[u8], runs: &[(&Inputs, &Outputs)]) -> f64 {
        match self {
            Precision::Single => 1e-4,
            Precision::Half => sensitivity(name, model, runs, -10, self.optimization()),
            Precision::Quantised => sensitivity(name, model, runs, -16, self.optimization()),
        }
    }
}

fn is_quantised(node: &Node) -> bool {
    let op = &node.op_type;
    op.ends_with("QuantizeLinear")
        || op == "DequantizeLinear"
        || op.contains("Integer")
        || op.starts_with("DynamicQuantize")
        || ["QLinear", "QGemm", "QAttention"]
            .iter()
            .any(|p| op.starts_with(p))
}

/// By how much the outputs change when every weight moves by up to `2^exponent` of it: the largest change of two tries.
pub(crate) fn sensitivity(
    name: &str,
    model: &[u8],
    runs: &[(&Inputs, &Outputs)],
    exponent: i32,
    at: Optimization,
) -> f64 {
    let tries = (0..2).map(|seed| {
        let moved = moved(model, exponent, seed);
        let mut session = open_at(name, &moved, Engine::Bodies, at);
        let changes = runs.iter().map(|(inputs, before)| {
            let after = run(&mut session, inputs);
            let outputs = before
                .iter()
                .map(|(name, a)| difference(a, after.get(name).unwrap()));
            outputs.fold(0.0, f64::max)
        });
        changes.fold(0.0, f64::max)
    });
    let largest = tries.fold(0.0, f64::max);
    assert!(
        largest < 0.5,
        "{name}: nothing can be said about it, its outputs change by {largest:.1e}"
    );
    largest
}

fn moved(model: &[u8], exponent: i32, seed: u64) -> Vec<u8> {
    let mut model = Model::from_bytes(model.to_vec().into(), None).unwrap();
    let graph = &mut model.graph;
    let mut rng = Rng(seed);
    let mut weight = |t: &Tensor| -> Option<Tensor> {
        let is_float = matches!(t.dtype(), DataType::Float | DataType::Float16);
        let values = is_float.then(|| t.to_f64s()).flatten()?;
        let step = 2f64.powi(exponent);
        // Numbers that stand for minus infinity stay.
        let values: Vec<f64> = values
            .iter()
            .map(|x| {
                if x.abs() < 1e4 {
                    x * (1.0 + step * rng.unit())
                } else {
                    *x
                }
            })
            .collect();
        Tensor::from_f64s(t.dtype(), t.dims(), &values)
    };
    // Single numbers are exponents, epsilons and the like, unless they are a scale.
    let is_weight = |graph: &Graph, v: ValueId, t: &Tensor| {
        let is_scale = |&(node, input): &(NodeId, usize)| {
            let node = graph.node(node);
            input == 1 && matches!(node.op_type.as_str(), "QuantizeLinear" | "DequantizeLinear")
        };
        t.len().is_some_and(|n| n > 1) || graph.value(v).uses().iter().any(is_scale)
    };
    let values: Vec<ValueId> = graph.value_ids().collect();
    for v in values {
        let Some(old) = graph.tensor(v).filter(|t| is_weight(graph, v, t)) else {
            continue;
        };
        let Some(new) = weight(&old) else { continue };
        let new = graph.add_initializer("moved", new);
        graph.replace_uses(v, new);
    }
    model.to_vec().unwrap()
}
