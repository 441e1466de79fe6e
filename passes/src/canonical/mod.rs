//! Pass `canonical`: takes fused attentions apart into projections, products and a softmax, and residual norms that carry the
//! stream (SkipLayerNormalization with its sum as an output) into an addition and a norm. The other way round, one operator
//! stands for a softmax that is written out. An If that always takes the same branch becomes that branch. A QLinearSoftmax becomes
//! a softmax on numbers, and a quantised residual stream has its numbers between two ways to codes. Positions of a
//! RotaryEmbedding are written out.
//!
//! The analysis, the count bias and selection need the scores before the softmax. The fused operators are kept aside and put
//! back by pass `restore`: in blocks that were left alone as they were, in rewritten blocks those of ai.onnx, with their mask and
//! the count bias in one. The operators of com.microsoft stay apart there: ONNX Runtime before 1.21 wants their bias input
//! spread over batch and heads, and with a bias they are no faster than the products (pass `attention` makes others without one). Attentions that no block can have
//! (caches, causal masks, cross-attention layouts) stay as they are and are refused by the analysis.

mod attention23;
mod branches;
mod heads;
mod multi_head;
mod packed;
mod positions;
mod quantised;
mod skip_norm;
mod stand_ins;

use crate::conversion::Conversion;
use crate::emit::Emit;
use crate::error::Error;
use onnx_model::{Graph, Node, NodeId, ValueId};
pub(crate) use positions::Positions;
pub(crate) use quantised::{CodePair, join};
pub(crate) use stand_ins::StandIn;
use token_axes::Samples;

/// A fused attention that primitive operators stand for.
pub(crate) struct TakenApart {
    /// The fused node, without inputs while it is aside.
    pub(crate) fused: NodeId,
    /// Its inputs.
    pub(crate) inputs: Vec<Option<ValueId>>,
    /// The softmax of the primitive operators.
    pub(crate) softmax: NodeId,
    /// The nodes that apply its masks to the scores: additions, or a Where on a condition that is true for what may be attended.
    pub(crate) masks: Vec<Mask>,
    /// The value that the fused node computed.
    pub(crate) output: ValueId,
    /// The input that holds the mask and takes the count bias with it; `None` for an operator that stays apart in rewritten
    /// blocks.
    pub(crate) bias_input: Option<usize>,
}

/// One node that masks the scores.
#[derive(Clone, Copy)]
pub(crate) enum Mask {
    /// `scores + mask`, the mask at input 1.
    Added(NodeId),
    /// `Where(condition, scores, -inf)`, the condition at input 0.
    Condition(NodeId),
}

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let wanted: Vec<NodeId> = c
        .model
        .graph
        .node_ids()
        .filter(|&id| is_fused(c.model.graph.node(id)) || stand_ins::may_be(&c.model.graph, id))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    c.model.graph.sort()?;
    let samples = Samples(token_axes::interp::evaluate_samples(&c.model));
    let opset = c.opset();
    // Whether scores end in a softmax is seen when those written out are one.
    let (maxima, others): (Vec<NodeId>, Vec<NodeId>) = wanted
        .into_iter()
        .partition(|&id| c.model.graph.node(id).op_type == "Sub");
    for id in others.into_iter().chain(maxima) {
        let node = c.model.graph.node(id).clone();
        let mut e = Emit::new(&mut c.model.graph, opset, name(&node));
        match (node.domain.as_str(), node.op_type.as_str()) {
            ("", "Exp" | "Sub") => c
                .stand_ins
                .extend(stand_ins::take_apart(&mut e, &samples, id)),
            ("", "If") => branches::take_apart(&mut e, &samples, id, &node),
            ("", _) => c
                .taken_apart
                .extend(attention23::take_apart(&mut e, &samples, id, &node)),
            (_, "MultiHeadAttention") => c
                .taken_apart
                .extend(multi_head::take_apart(&mut e, &samples, id, &node)),
            (_, "Attention") => c
                .taken_apart
                .extend(packed::take_apart(&mut e, &samples, id, &node)),
            (_, "QAttention") => c
                .taken_apart
                .extend(packed::take_apart_codes(&mut e, &samples, id, &node)),
            (_, "RotaryEmbedding") => c
                .positions
                .extend(positions::write_out(&mut e, &samples, id, &node)),
            (_, "QLinearSoftmax") => c
                .taken_apart
                .extend(quantised::softmax(&mut e, &samples, id, &node)),
            (_, "QLinearAdd") => c.code_pairs.extend(quantised::sum(&mut e, id, &node)),
            _ => skip_norm::take_apart(&mut e, &samples, id, &node),
        }
    }
    Ok(())
}

fn is_fused(node: &Node) -> bool {
    match (node.domain.as_str(), node.op_type.as_str()) {
        ("", "Attention" | "If") => true,
        (
            "com.microsoft",
            "Attention" | "MultiHeadAttention" | "QAttention" | "QLinearAdd" | "QLinearSoftmax"
            | "RotaryEmbedding",
        ) => true,
        ("com.microsoft", "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization") => {
            node.outputs.get(3).copied().flatten().is_some()
        }
        _ => false,
    }
}

fn name(node: &Node) -> String {
    if node.name.is_empty() {
        node.op_type.to_lowercase()
    } else {
        node.name.clone()
    }
}

/// Input `index` of a node.
fn input(node: &Node, index: usize) -> Option<ValueId> {
    node.inputs.get(index).copied().flatten()
}

/// Whether a node has no output but the first.
fn one_output(node: &Node) -> bool {
    node.outputs.iter().skip(1).all(Option::is_none)
}

/// Puts a fused node aside: `result` becomes its output, its inputs are taken from it.
fn put_aside(graph: &mut Graph, id: NodeId, output: ValueId, result: ValueId) -> Option<()> {
    let (producer, index) = graph.value(result).producer()?;
    let kept = graph.new_value("aside");
    graph.set_output(id, 0, Some(kept));
    graph.set_output(producer, index, Some(output));
    for i in 0..graph.node(id).inputs.len() {
        graph.set_input(id, i, None);
    }
    Some(())
}
