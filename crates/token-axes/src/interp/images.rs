//! Images of a fixed size that is declared dynamic: a table with one row per patch leaves one size only.

use std::collections::BTreeSet;

use onnx_model::Model;

use super::samples::Evaluation;

/// Tokens beside the patches: class, distillation, registers.
const EXTRA_TOKENS: i64 = 8;

/// Edges of square images that would explain the numbers that the graph was found to need, in ascending order.
pub(super) fn candidates(model: &Model, found: &Evaluation) -> Vec<i64> {
    let graph = &model.graph;
    let patch = |id| {
        graph
            .node(id)
            .attr_ints("strides")
            .and_then(|s| s.first().copied())
    };
    let is_conv = |&id: &onnx_model::NodeId| graph.node(id).op_type == "Conv";
    let Some(patch) = graph
        .node_ids()
        .find(is_conv)
        .and_then(patch)
        .filter(|p| (2..=64).contains(p))
    else {
        return Vec::new();
    };
    // Numbers that are the same at all samples; the other size of such a pair comes from the image.
    let numbers = |f: &super::Facts| {
        f.differing
            .iter()
            .flat_map(|&(_, a, b)| [a, b])
            .collect::<BTreeSet<i64>>()
    };
    let Some(common) = found.facts.iter().map(numbers).reduce(|a, b| &a & &b) else {
        return Vec::new();
    };
    let mut edges = BTreeSet::new();
    for number in common {
        for patches in (number - EXTRA_TOKENS..=number).filter(|&n| (4..1 << 20).contains(&n)) {
            let side = patches.isqrt();
            if side * side == patches {
                edges.insert(side * patch);
            }
        }
    }
    edges.into_iter().take(8).collect()
}
