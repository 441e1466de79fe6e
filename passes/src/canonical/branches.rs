//! An If that always takes the branch that hands a value from outside on, as TorchScript writes them (`if the lengths of queries
//! and keys differ`), becomes an Identity.

use super::input;
use crate::emit::Emit;
use onnx_model::{Graph, Node, NodeId, ValueId};
use token_axes::Samples;

/// How many operators a condition may be made of.
const MOST: usize = 64;

pub(super) fn take_apart(e: &mut Emit<'_>, samples: &Samples, id: NodeId, node: &Node) {
    let [Some(output)] = node.outputs[..] else {
        return;
    };
    let Some(value) = handed_on(e.graph, samples, node) else {
        return;
    };
    e.graph.remove_node(id);
    let result = e.op("Identity", &[value], &[]);
    if let Some((identity, _)) = e.graph.value(result).producer() {
        e.graph.set_output(identity, 0, Some(output));
    }
}

/// The outer value that an If hands on for any inputs of the model.
fn handed_on(graph: &Graph, samples: &Samples, node: &Node) -> Option<ValueId> {
    let name = match always(graph, samples, input(node, 0)?)? {
        false => "else_branch",
        true => "then_branch",
    };
    let branch = node.subgraph(name).ok()??;
    let output = *branch.outputs().first()?;
    let identity = branch.node(branch.value(output).producer()?.0);
    if identity.op_type != "Identity" || !identity.domain.is_empty() {
        return None;
    }
    let inner = input(identity, 0)?;
    if branch.value(inner).producer().is_some() || branch.is_initializer(inner) {
        return None;
    }
    graph.find_value(&branch.value(inner).name)
}

/// What a condition is for all sizes: a constant, or whether two sizes are the same one. (That a size is less than another at all
/// samples says nothing.)
fn always(graph: &Graph, samples: &Samples, mut value: ValueId) -> Option<bool> {
    let mut negated = false;
    for _ in 0..MOST {
        if samples.0.iter().all(|f| f.constant(value)) {
            let [number] = samples.constant_ints(value)?[..] else {
                return None;
            };
            return Some((number != 0) != negated);
        }
        let node = graph.node(graph.value(value).producer()?.0);
        match node.op_type.as_str() {
            "Not" => negated = !negated,
            "Cast" | "Identity" | "Squeeze" | "Unsqueeze" => {}
            "Equal" => {
                let (a, b) = (input(node, 0)?, input(node, 1)?);
                let same = is_size(graph, samples, a)
                    && is_size(graph, samples, b)
                    && samples.int_dims(a)? == samples.int_dims(b)?;
                return same.then_some(!negated);
            }
            _ => return None,
        }
        value = input(node, 0)?;
    }
    None
}

/// Whether a value is taken from shapes as it is: without arithmetic, which may differ beyond the sizes of the samples.
fn is_size(graph: &Graph, samples: &Samples, value: ValueId) -> bool {
    let mut queue = vec![value];
    for _ in 0..MOST {
        let Some(value) = queue.pop() else {
            return true;
        };
        if samples.0.iter().all(|f| f.constant(value)) {
            continue;
        }
        let Some((producer, _)) = graph.value(value).producer() else {
            return false;
        };
        let node = graph.node(producer);
        match node.op_type.as_str() {
            "Shape" | "Size" => {}
            "Slice" | "Gather" | "Squeeze" | "Unsqueeze" | "Cast" | "Identity" => {
                queue.extend(node.inputs.iter().flatten());
            }
            _ => return false,
        }
    }
    false
}
