//! Softmaxes that are written out: operators that a simpler one stands for until pass `restore`.
//!
//! - An Exp whose sum over an axis divides it is a softmax over that axis, its normalisation being done behind it. As long as
//!   an element of -inf becomes a weight of 0 it does not matter how they are scaled.
//! - An Exp of a LogSoftmax is a Softmax.
//! - Scores minus their maximum, on their way to a softmax, are the scores: what is taken off all scores of a query changes no
//!   weight. So it is of no account over which rows the maximum is taken.
//!
//! What comes back is the original arithmetic, over the rows that the block has then, with the count bias before the exponential:
//! it overflows where the original does, and only there.

use crate::emit::Emit;
use onnx_model::{AttrValue, Graph, Node, NodeId, ValueId};
use token_axes::{Dim, Samples};

use super::input;

/// An operator that stands for others.
pub(crate) struct StandIn {
    /// It.
    pub(crate) node: NodeId,
    /// The operator whose result it computes.
    pub(crate) original: NodeId,
    /// What that one reads.
    pub(crate) inputs: Vec<Option<ValueId>>,
    /// The inputs of the original operators that are now the input of this one.
    pub(crate) entries: Vec<(NodeId, usize)>,
}

/// Whether a node may be one that [`take_apart`] replaces, at a glance.
pub(super) fn may_be(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    node.domain.is_empty()
        && match node.op_type.as_str() {
            "Exp" => of_log_softmax(graph, node).is_some() || sum_of(graph, node).is_some(),
            "Sub" => maximum_of(graph, node).is_some(),
            _ => false,
        }
}

pub(super) fn take_apart(e: &mut Emit<'_>, samples: &Samples, id: NodeId) -> Option<StandIn> {
    let node = e.graph.node(id).clone();
    let output = node.outputs.first().copied().flatten()?;
    let (op, axis, value, entries) = if node.op_type == "Sub" {
        let maximum = maximum_of(e.graph, &node)?;
        let scores = input(&node, 0)?;
        let last = samples.shape(scores)?.len() as i64 - 1;
        let axes = axes_of(e.graph, samples, maximum)?;
        let taken = axes.is_empty() || axes.iter().any(|&a| a == -1 || a == last);
        if !taken || !ends_in_softmax(e.graph, samples, output) {
            return None;
        }
        ("Identity", None, scores, vec![(id, 0), (maximum, 0)])
    } else if let Some(log) = of_log_softmax(e.graph, &node) {
        let before = e.graph.node(log);
        let axis = before.attr_int("axis").unwrap_or(-1);
        ("Softmax", Some(axis), input(before, 0)?, vec![(log, 0)])
    } else {
        let sum = sum_of(e.graph, &node)?;
        let [axis] = axes_of(e.graph, samples, sum)?[..] else {
            return None;
        };
        ("Softmax", Some(axis), input(&node, 0)?, vec![(id, 0)])
    };
    let rank = samples.shape(value)?.len() as i64;
    let last = axis.is_none_or(|a| a == -1 || a == rank - 1);
    // Before opset 13 a softmax over another axis is over those behind it too.
    if !last && e.opset < 13 {
        return None;
    }
    let attributes: Vec<_> = axis
        .map(|a| ("axis", AttrValue::Int(if last { -1 } else { a })))
        .into_iter()
        .collect();
    let result = e.op(op, &[value], &attributes);
    let (stand_in, _) = e.graph.value(result).producer()?;
    super::put_aside(e.graph, id, output, result)?;
    for &(node, index) in &entries {
        e.graph.set_input(node, index, None);
    }
    Some(StandIn {
        node: stand_in,
        original: id,
        inputs: node.inputs,
        entries,
    })
}

/// The LogSoftmax that an Exp, and nothing else, reads.
fn of_log_softmax(graph: &Graph, exp: &Node) -> Option<NodeId> {
    let value = input(exp, 0)?;
    let (id, _) = graph.value(value).producer()?;
    let alone = graph.value(value).uses().len() == 1 && !graph.is_output(value);
    (alone && graph.node(id).op_type == "LogSoftmax").then_some(id)
}

/// The sum of an Exp, or of what is made of it by factors: a mask, say.
fn sum_of(graph: &Graph, exp: &Node) -> Option<NodeId> {
    const MOST: usize = 8;
    let mut queue = vec![exp.outputs.first().copied().flatten()?];
    for _ in 0..MOST {
        let value = queue.pop()?;
        for &(reader, _) in graph.value(value).uses() {
            let node = graph.node(reader);
            match node.op_type.as_str() {
                "ReduceSum" => return Some(reader),
                "Mul" | "Identity" | "Cast" | "Dropout" => {
                    queue.extend(node.outputs.first().copied().flatten());
                }
                _ => {}
            }
        }
    }
    None
}

/// The ReduceMax whose result a Sub takes off what the maximum is of, if nothing else reads it.
fn maximum_of(graph: &Graph, sub: &Node) -> Option<NodeId> {
    let mut value = input(sub, 1)?;
    loop {
        let (id, _) = graph.value(value).producer()?;
        let node = graph.node(id);
        if graph.value(value).uses().len() != 1 || graph.is_output(value) {
            return None;
        }
        match node.op_type.as_str() {
            "Unsqueeze" | "Identity" => value = input(node, 0)?,
            "ReduceMax" => return (input(node, 0) == input(sub, 0)).then_some(id),
            _ => return None,
        }
    }
}

/// The axes of a reduction; none for all.
fn axes_of(graph: &Graph, samples: &Samples, id: NodeId) -> Option<Vec<i64>> {
    let node = graph.node(id);
    match (node.attr_ints("axes"), input(node, 1)) {
        (Some(axes), _) => Some(axes),
        (None, Some(axes)) => samples.constant_ints(axes),
        (None, None) => Some(Vec::new()),
    }
}

/// Whether a value is read by nothing but a softmax over its last axis, behind operators that hand on what all keys of a query
/// have in common.
fn ends_in_softmax(graph: &Graph, samples: &Samples, value: ValueId) -> bool {
    const MOST: usize = 16;
    let mut queue = vec![value];
    for _ in 0..MOST {
        let Some(value) = queue.pop() else {
            return true;
        };
        let uses = graph.value(value).uses();
        if uses.is_empty() || graph.is_output(value) || !graph.value(value).captured_by().is_empty()
        {
            return false;
        }
        for &(reader, index) in uses {
            let node = graph.node(reader);
            let same_for_all_keys = |other: usize| {
                let shape = input(node, other).and_then(|v| samples.shape(v));
                shape.is_some_and(|s| s.last().is_none_or(|d| *d == Dim::ONE))
            };
            let goes_on = match node.op_type.as_str() {
                _ if !node.domain.is_empty() => false,
                "Softmax" if last_axis(samples, node) => continue,
                "Identity" | "Cast" | "Add" | "Sub" => true,
                "Mul" => same_for_all_keys(1 - index.min(1)),
                "Div" => index == 0 && same_for_all_keys(1),
                _ => false,
            };
            if !goes_on {
                return false;
            }
            queue.extend(node.outputs.first().copied().flatten());
        }
    }
    false
}

/// Whether a softmax says that it runs over the last axis.
fn last_axis(samples: &Samples, softmax: &Node) -> bool {
    let rank = input(softmax, 0)
        .and_then(|v| samples.shape(v))
        .map(|s| s.len() as i64);
    match softmax.attr_int("axis") {
        Some(axis) => axis == -1 || rank.is_some_and(|r| axis == r - 1),
        None => false,
    }
}
