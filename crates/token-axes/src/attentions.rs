//! Softmaxes that may be attentions': those whose input comes from a product of two computed values. Fused attentions that
//! could not be taken apart stand for their softmax, so that their block is found, and refused for what they are.

use crate::dim::Samples;
use crate::flow::describe;
use crate::reach::reads_shape_only;
use crate::refusal::{Code, Refusal};
use onnx_model::{Graph, Node, NodeId, ValueId};
use std::collections::{BTreeSet, VecDeque};

/// How far products are looked for: masks and biases have longer ways.
const MOST_VALUES: usize = 256;

/// A softmax that may be an attention's, with the products around it.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) softmax: NodeId,
    /// The operands of products of computed values before it, the nearest first: queries and keys among them.
    pub(crate) products: Vec<[ValueId; 2]>,
    /// The products of its weights with computed values; the weights themselves if there are none.
    pub(crate) results: Vec<ValueId>,
}

/// Softmaxes whose input is computed, through other than products, from a product of two values that are not weights.
pub(crate) fn find(graph: &Graph, samples: &Samples) -> Vec<Attention> {
    graph
        .node_ids()
        .filter_map(|softmax| {
            let node = graph.node(softmax);
            if is_fused(node) {
                return fused(softmax, node);
            }
            if node.op_type != "Softmax" {
                return None;
            }
            let products = products_before(graph, samples, softmax);
            (!products.is_empty()).then(|| Attention {
                softmax,
                products,
                results: results_of(graph, softmax),
            })
        })
        .collect()
}

/// Whether a node is an attention in one operator.
pub(crate) fn is_fused(node: &Node) -> bool {
    let op = node.op_type.as_str();
    match node.domain.as_str() {
        "" => op == "Attention",
        "com.microsoft" => op.ends_with("Attention"),
        _ => false,
    }
}

fn fused(id: NodeId, node: &Node) -> Option<Attention> {
    let query = node.inputs.first().copied().flatten()?;
    let key = node.inputs.get(1).copied().flatten();
    // With packed projections input 1 is a weight, or missing.
    let packed = matches!(
        node.op_type.as_str(),
        "Attention" | "QAttention" | "PackedAttention"
    );
    let packed = packed && !node.domain.is_empty();
    let key = key.filter(|_| !packed).unwrap_or(query);
    Some(Attention {
        softmax: id,
        products: vec![[query, key]],
        results: node.outputs.iter().flatten().copied().collect(),
    })
}

fn products_before(graph: &Graph, samples: &Samples, softmax: NodeId) -> Vec<[ValueId; 2]> {
    let node = graph.node(softmax);
    let Some(input) = node.inputs.first().copied().flatten() else {
        return Vec::new();
    };
    let axis = node.attr_int("axis").unwrap_or(-1);
    // With each value the axis that the softmax runs over, from the back, as far as it can be followed.
    let axis = if axis < 0 {
        usize::try_from(-1 - axis).ok()
    } else {
        rank(samples, input).and_then(|r| (r - 1).checked_sub(axis as usize))
    };
    let mut queue: VecDeque<(ValueId, Option<usize>)> = VecDeque::from([(input, axis)]);
    let mut seen = BTreeSet::new();
    let mut products = Vec::new();
    while let Some((value, axis)) = queue.pop_front() {
        if !seen.insert(value) || seen.len() > MOST_VALUES {
            continue;
        }
        let Some((producer, _)) = graph.value(value).producer() else {
            continue;
        };
        let before = graph.node(producer);
        if reads_shape_only(graph, producer) || makes_channels(samples, before, value, axis) {
            continue;
        }
        if is_product(&before.op_type) {
            products.extend(operands(graph, before));
            continue;
        }
        let axis = axis.and_then(|a| axis_before(before, a));
        queue.extend(before.inputs.iter().flatten().map(|&v| (v, axis)));
    }
    products
}

fn rank(samples: &Samples, value: ValueId) -> Option<usize> {
    samples.shape(value).map(|s| s.len()).filter(|&r| r > 0)
}

/// Whether a node is a convolution whose channels are the axis: they are a token's features, never its scores.
fn makes_channels(samples: &Samples, node: &Node, value: ValueId, axis: Option<usize>) -> bool {
    node.op_type == "Conv"
        && matches!((axis, rank(samples, value)), (Some(a), Some(r)) if a + 2 == r)
}

/// The axis of a node's inputs that becomes an axis of its output, both from the back.
fn axis_before(node: &Node, axis: usize) -> Option<usize> {
    match node.op_type.as_str() {
        "Transpose" => {
            let perm = node.attr_ints("perm")?;
            let to = perm.len().checked_sub(axis + 1)?;
            let from = usize::try_from(*perm.get(to)?).ok()?;
            perm.len().checked_sub(from + 1)
        }
        "Add" | "Sub" | "Mul" | "Div" | "Where" | "Cast" | "Identity" | "Dropout" | "Tanh"
        | "Clip" | "Max" | "Min" | "Conv" => Some(axis),
        _ => None,
    }
}

/// What the first products behind a softmax compute, of its weights and a value that is no weight of the model.
fn results_of(graph: &Graph, softmax: NodeId) -> Vec<ValueId> {
    let weights: Vec<ValueId> = graph
        .node(softmax)
        .outputs
        .iter()
        .flatten()
        .copied()
        .collect();
    let mut queue: VecDeque<ValueId> = weights.iter().copied().collect();
    let mut seen = BTreeSet::new();
    let mut results = Vec::new();
    while let Some(value) = queue.pop_front() {
        if !seen.insert(value) || seen.len() > MOST_VALUES {
            continue;
        }
        for &(reader, _) in graph.value(value).uses() {
            if reads_shape_only(graph, reader) {
                continue;
            }
            let node = graph.node(reader);
            let made = node.outputs.iter().flatten().copied();
            if is_product(&node.op_type) && operands(graph, node).is_some() {
                results.extend(made);
            } else {
                queue.extend(made);
            }
        }
    }
    if results.is_empty() { weights } else { results }
}

/// The operands of a product, if neither is a weight.
fn operands(graph: &Graph, product: &Node) -> Option<[ValueId; 2]> {
    let second = match product.op_type.as_str() {
        "QLinearMatMul" | "QGemm" => 3,
        _ => 1,
    };
    let input = |i: usize| product.inputs.get(i).copied().flatten();
    let (a, b) = (input(0)?, input(second)?);
    (!is_weight(graph, a) && !is_weight(graph, b)).then_some([a, b])
}

pub(crate) fn is_product(op: &str) -> bool {
    matches!(
        op,
        "MatMul"
            | "Einsum"
            | "FusedMatMul"
            | "MatMulInteger"
            | "MatMulIntegerToFloat"
            | "QLinearMatMul"
            | "QGemm"
            | "DynamicQuantizeMatMul"
            | "MatMulNBits"
            | "MatMulBnb4"
            | "Gemm"
    )
}

/// Refuses a block's one attention if its queries or keys, in every product before its softmax, do not come from the block's
/// input.
pub(crate) fn over_others(
    graph: &Graph,
    core: &[NodeId],
    input: ValueId,
    all: &[Attention],
) -> Option<Refusal> {
    let mut own = all.iter().filter(|a| core.contains(&a.softmax));
    let (Some(attention), None) = (own.next(), own.next()) else {
        return None;
    };
    let is_own = |v: ValueId| {
        v == input
            || graph
                .value(v)
                .producer()
                .is_some_and(|(n, _)| core.contains(&n))
    };
    let is_self = |operands: &&[ValueId; 2]| operands.iter().all(|&v| is_own(v));
    if attention.products.iter().any(|p| is_self(&p)) {
        return None;
    }
    let foreign = attention.products.first()?.iter().find(|&&v| !is_own(v))?;
    Some(Refusal::new(
        Code::NotSelfAttention,
        describe(graph.node(attention.softmax)),
        format!(
            "Its scores are made with '{}', which does not come from the block's input.",
            graph.value(*foreign).name
        ),
    ))
}

/// Whether a value is a constant, possibly behind operators on constants only.
pub(crate) fn is_weight(graph: &Graph, value: ValueId) -> bool {
    let mut value = value;
    for _ in 0..8 {
        if graph.is_initializer(value) {
            return true;
        }
        let Some((producer, _)) = graph.value(value).producer() else {
            return false;
        };
        let node = graph.node(producer);
        match node.op_type.as_str() {
            "Constant" => return true,
            "Identity" | "Cast" | "DequantizeLinear" | "Transpose" | "Mul" | "Reshape" => {
                match node.inputs.first().copied().flatten() {
                    Some(input) => value = input,
                    None => return false,
                }
            }
            _ => return false,
        }
    }
    false
}
