//! Shape and Size nodes that read a value with two token axes would keep it alive after its last reader has gone: they are told
//! its sizes.

use super::Ax;
use crate::conversion::Binding;
use crate::emit::Emit;
use crate::shapes::answer;
use onnx_model::{Graph, NodeId, ValueId};
use std::collections::BTreeSet;
use token_axes::reach::reads_shape_only;
use token_axes::{Axis, Factor, Layout, Role, Samples};

/// Tells the readers of the shape of a value with these axes its sizes.
pub(crate) fn tell(
    e: &mut Emit<'_>,
    samples: &Samples,
    binding: &Binding,
    value: ValueId,
    axes: &[Ax],
) {
    let readers: Vec<NodeId> = e
        .graph
        .value(value)
        .uses()
        .iter()
        .map(|&(node, _)| node)
        .filter(|&node| reads_shape_only(e.graph, node))
        .collect();
    if readers.is_empty() {
        return;
    }
    let Some(layout) = layout(samples, value, axes) else {
        return;
    };
    let before = ancestors(e.graph, &[binding.model_batch, binding.tokens]);
    for reader in readers {
        // What the sizes are computed from has to find its own way.
        if !before.contains(&reader) {
            answer(e, reader, &layout, binding.model_batch, binding.tokens);
        }
    }
}

fn layout(samples: &Samples, value: ValueId, axes: &[Ax]) -> Option<Layout> {
    let shape = samples.shape(value)?;
    let axis = |(&axis, &size): (&Ax, &token_axes::Dim)| -> Option<Axis> {
        let role = match axis {
            Ax::One => return Some(Vec::new()),
            Ax::Batch => Role::Batch,
            Ax::Token(_) | Ax::First | Ax::Second => Role::Token,
            Ax::Feature if size.constant().is_some() => Role::Feature,
            Ax::Feature | Ax::Merged => return None,
        };
        Some(vec![Factor { role, size }])
    };
    let axes: Option<Vec<Axis>> = axes.iter().zip(&shape).map(axis).collect();
    axes.map(Layout)
}

/// All nodes that values depend on, be it by their shapes only.
fn ancestors(graph: &Graph, values: &[ValueId]) -> BTreeSet<NodeId> {
    let mut seen = BTreeSet::new();
    let mut queue = values.to_vec();
    while let Some(value) = queue.pop() {
        if let Some((node, _)) = graph.value(value).producer()
            && seen.insert(node)
        {
            let node = graph.node(node);
            queue.extend(node.inputs.iter().flatten().chain(node.captures()));
        }
    }
    seen
}
