//! com.microsoft Skip(Simplified)LayerNormalization whose sum is read: in pre-LN models that sum is the residual stream.

use super::input;
use crate::emit::Emit;
use onnx_model::{AttrValue, Node, NodeId};
use token_axes::Samples;

/// The sum among the outputs.
const SUM: usize = 3;

pub(super) fn take_apart(e: &mut Emit<'_>, _: &Samples, id: NodeId, node: &Node) {
    // The simplified form has no beta: x, skip, gamma, bias.
    let simplified = node.op_type.starts_with("SkipSimplified");
    let (beta, bias) = if simplified {
        (None, input(node, 3))
    } else {
        (input(node, 3), input(node, 4))
    };
    let (Some(x), Some(skip), Some(gamma)) = (input(node, 0), input(node, 1), input(node, 2))
    else {
        return;
    };
    let (Some(normed), Some(sum)) = (
        node.outputs.first().copied().flatten(),
        node.outputs.get(SUM).copied().flatten(),
    ) else {
        return;
    };
    let statistics = node.outputs.iter().take(SUM).skip(1).any(Option::is_some);
    if statistics {
        return;
    }
    let mut added = e.op("Add", &[x, skip], &[]);
    if let Some(bias) = bias {
        added = e.op("Add", &[added, bias], &[]);
    }
    let epsilon = (
        "epsilon",
        AttrValue::Float(node.attr_float("epsilon").unwrap_or(1e-12)),
    );
    let axis = ("axis", AttrValue::Int(-1));
    let result = match (simplified, beta) {
        (true, _) => e.op(
            "SimplifiedLayerNormalization",
            &[added, gamma],
            &[axis, epsilon],
        ),
        (false, Some(beta)) => e.op(
            "LayerNormalization",
            &[added, gamma, beta],
            &[axis, epsilon],
        ),
        (false, None) => e.op("LayerNormalization", &[added, gamma], &[axis, epsilon]),
    };
    let producers = (
        e.graph.value(added).producer(),
        e.graph.value(result).producer(),
    );
    let (Some((add, _)), Some((norm, _))) = producers else {
        return;
    };
    e.graph.remove_node(id);
    // The norm reads the sum under its old name from here on.
    e.graph.set_input(norm, 0, None);
    e.graph.set_output(add, 0, Some(sum));
    e.graph.set_input(norm, 0, Some(sum));
    e.graph.set_output(norm, 0, Some(normed));
}
