//! QLinear operators of com.microsoft.
//!
//! A QLinearSoftmax has no place for a count bias: it becomes a softmax between the way from codes to numbers and back, as
//! fused attentions become products. A sum of two computed values may be the residual stream, which is compressed as numbers:
//! its codes go to numbers and back, which changes none of them (a code times its scale, divided by it, is rounded to the
//! code), and pass `restore` takes out the pairs at which nothing was cut.

use super::{TakenApart, input, put_aside};
use crate::emit::Emit;
use onnx_model::{AttrValue, Graph, Node, NodeId, ValueId};
use token_axes::Samples;

/// A way from codes to numbers and back that nothing needs unless the numbers between are compressed.
pub(crate) struct CodePair {
    dequantise: NodeId,
    quantise: NodeId,
}

pub(super) fn softmax(
    e: &mut Emit<'_>,
    samples: &Samples,
    id: NodeId,
    node: &Node,
) -> Option<TakenApart> {
    let [x, x_scale, y_scale] = [input(node, 0)?, input(node, 1)?, input(node, 3)?];
    let output = node.outputs.first().copied().flatten()?;
    // Before opset 13 all axes from this one on are normalised together.
    let rank = samples.shape(x)?.len() as i64;
    let axis = node.attr_int("axis").unwrap_or(-1);
    if axis != -1 && axis != rank - 1 {
        return None;
    }
    let numbers = convert(e, "DequantizeLinear", x, x_scale, input(node, 2));
    let weights = e.op("Softmax", &[numbers], &[("axis", AttrValue::Int(-1))]);
    let (softmax, _) = e.graph.value(weights).producer()?;
    let result = convert(e, "QuantizeLinear", weights, y_scale, input(node, 4));
    let inputs = node.inputs.clone();
    put_aside(e.graph, id, output, result)?;
    Some(TakenApart {
        fused: id,
        inputs,
        softmax,
        masks: Vec::new(),
        output,
        bias_input: None,
    })
}

pub(super) fn sum(e: &mut Emit<'_>, id: NodeId, node: &Node) -> Option<CodePair> {
    let constant = |i: usize| input(node, i).is_some_and(|v| e.graph.is_initializer(v));
    if constant(0) || constant(3) {
        return None;
    }
    let scale = input(node, 6)?;
    let output = node.outputs.first().copied().flatten()?;
    let codes = e.graph.new_value(&e.name("codes"));
    e.graph.set_output(id, 0, Some(codes));
    let numbers = convert(e, "DequantizeLinear", codes, scale, input(node, 7));
    let again = convert(e, "QuantizeLinear", numbers, scale, input(node, 7));
    let (dequantise, _) = e.graph.value(numbers).producer()?;
    let (quantise, _) = e.graph.value(again).producer()?;
    e.graph.set_output(quantise, 0, Some(output));
    Some(CodePair {
        dequantise,
        quantise,
    })
}

fn convert(
    e: &mut Emit<'_>,
    op: &str,
    value: ValueId,
    scale: ValueId,
    zero_point: Option<ValueId>,
) -> ValueId {
    let inputs: Vec<ValueId> = [value, scale].into_iter().chain(zero_point).collect();
    e.op(op, &inputs, &[])
}

/// Takes a pair out again if nothing else reads the numbers between.
pub(crate) fn join(graph: &mut Graph, pair: &CodePair) {
    let first = |values: &[Option<ValueId>]| values.first().copied().flatten();
    let codes = first(&graph.node(pair.dequantise).inputs);
    let numbers = first(&graph.node(pair.dequantise).outputs);
    let again = first(&graph.node(pair.quantise).outputs);
    let (Some(codes), Some(numbers), Some(again)) = (codes, numbers, again) else {
        return;
    };
    let only = graph.value(numbers).uses() == [(pair.quantise, 0)];
    let producer = graph.value(codes).producer();
    if let (true, false, Some((sum, index))) = (only, graph.is_output(numbers), producer) {
        graph.remove_node(pair.quantise);
        graph.remove_node(pair.dequantise);
        graph.set_output(sum, index, Some(again));
    }
}
