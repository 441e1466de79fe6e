//! A head that reads nothing of the last cut but its mean, or its sum, over the valid tokens.
//!
//! The tokens of a segment that are valid have the segment's row as their mean, before a block and, since all are moved by the row's
//! change, behind it. So their sum is the row times their number, and the sum over all tokens is one over the rows: the state
//! is neither updated nor expanded. Padding has the number 0 and counts in no row, as it has the factor 0 in the model.

use crate::conversion::{Conversion, Encoder, Partition};
use crate::emit::Emit;
use crate::prune::{gather_elements, listed};
use onnx_model::{DataType, Graph, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use token_axes::flow::{self, Site};
use token_axes::layout::{has_batch, has_tokens};
use token_axes::reach::reads_shape_only;
use token_axes::{Analysis, Block, BlockAxes};

/// The readers of a cut that take its mean or its sum.
pub(crate) struct Mean {
    reductions: Vec<Reduction>,
    /// The products with the mask that those read; nothing else reads them.
    products: Vec<NodeId>,
    /// Readers of its shape.
    shapes: Vec<NodeId>,
}

#[derive(Clone, Copy)]
struct Reduction {
    node: NodeId,
    /// Whether it divides by the number of tokens itself.
    divides: bool,
}

/// What is read of a block's output, if nothing but sums over its valid tokens. The nodes `next` do not count.
pub(crate) fn of(
    graph: &Graph,
    analysis: &Analysis,
    opset: i64,
    block: &Block,
    encoder: &Encoder,
    next: &BTreeSet<NodeId>,
) -> Option<Mean> {
    let axes = block.axes.as_ref().ok()?;
    let [_, token, _] = axes.order.positions();
    let mask = match &encoder.plan.mask_input[..] {
        "" => None,
        _ if encoder.plan.mask_zero_is_valid => return None,
        name => Some(graph.find_value(name)?),
    };
    let in_block = |id: NodeId| {
        let mut blocks = analysis.streams.iter().flat_map(|s| &s.blocks);
        blocks.any(|b| b.core.contains(&id))
    };
    let read = |id: NodeId| reduction(graph, analysis, id, token);
    let mut mean = Mean {
        reductions: Vec::new(),
        products: Vec::new(),
        shapes: Vec::new(),
    };
    let readers = only_read(graph, block.output)?;
    for id in readers.into_iter().filter(|id| !next.contains(id)) {
        if reads_shape_only(graph, id) {
            mean.shapes.push(id);
            continue;
        }
        if in_block(id) {
            return None;
        }
        match mask {
            None => mean.reductions.push(read(id)?),
            Some(mask) => {
                mean.products.push(id);
                let product = masked(graph, analysis, opset, axes, block.output, id, mask)?;
                for id in only_read(graph, product)? {
                    // The model divides by the number of valid tokens, which is not the number of all.
                    mean.reductions.push(read(id).filter(|r| !r.divides)?);
                }
            }
        }
    }
    (!mean.reductions.is_empty()).then_some(mean)
}

/// The readers of a value that is neither an output nor read by a subgraph.
fn only_read(graph: &Graph, value: ValueId) -> Option<BTreeSet<NodeId>> {
    let v = graph.value(value);
    let is_inside = !graph.is_output(value) && v.captured_by().is_empty();
    is_inside.then(|| v.uses().iter().map(|&(node, _)| node).collect())
}

/// A node that adds up its input's axis `token` and no other.
fn reduction(graph: &Graph, analysis: &Analysis, id: NodeId, token: usize) -> Option<Reduction> {
    let node = graph.node(id);
    let divides = match (node.domain.as_str(), node.op_type.as_str()) {
        ("", "ReduceSum") => false,
        ("", "ReduceMean") => true,
        _ => return None,
    };
    let axes = match node.inputs.get(1).copied().flatten() {
        Some(axes) => analysis.samples.constant_ints(axes)?,
        None => node.attr_ints("axes")?,
    };
    let is_token = |a: i64| (if a < 0 { a + 3 } else { a }) == token as i64;
    (axes.len() == 1 && axes.iter().all(|&a| is_token(a)))
        .then_some(Reduction { node: id, divides })
}

/// The product of a cut and the mask, spread over the features.
fn masked(
    graph: &Graph,
    analysis: &Analysis,
    opset: i64,
    axes: &BlockAxes,
    cut: ValueId,
    id: NodeId,
    mask: ValueId,
) -> Option<ValueId> {
    let node = graph.node(id);
    let core = BTreeMap::from([(cut, axes.layouts.get(&cut)?.clone())]);
    let site = Site {
        graph,
        samples: &analysis.samples,
        opset,
        tokens: axes.tokens,
        batch: axes.batch,
        core: &core,
        id,
        node,
    };
    let flow = flow::apply(&site).ok().filter(|_| node.op_type == "Mul")?;
    let [external] = &flow.externals[..] else {
        return None;
    };
    // Batch meets batch and tokens meet tokens.
    let is_there = |role: fn(&token_axes::Axis) -> bool| {
        external.frame.iter().any(|a| a.present && role(&a.axis))
    };
    let is_mask = is_there(has_batch)
        && is_there(has_tokens)
        && external.frame.len() == 3
        && made_of(graph, external.value, mask);
    let product = node.outputs.first().copied().flatten()?;
    is_mask.then_some(product)
}

/// Whether a value is the mask itself in another type or spread over other axes.
fn made_of(graph: &Graph, mut value: ValueId, mask: ValueId) -> bool {
    while value != mask {
        let Some((producer, _)) = graph.value(value).producer() else {
            return false;
        };
        let node = graph.node(producer);
        let is_same = node.domain.is_empty()
            && matches!(
                node.op_type.as_str(),
                "Cast" | "Unsqueeze" | "Expand" | "Identity"
            );
        match node.inputs.first().copied().flatten() {
            Some(input) if is_same => value = input,
            _ => return false,
        }
    }
    true
}

/// The sum over the valid tokens, `[B, 1, d]`, from the rows `y [B, r, d]` behind the block.
pub(crate) fn sum(
    e: &mut Emit<'_>,
    encoder: &Encoder,
    p: &Partition,
    items: ValueId,
    y: ValueId,
) -> ValueId {
    let listed = listed(e, encoder, p, items);
    let count = gather_elements(e, p.item_count, listed);
    let count = e.cast(count, DataType::Float);
    let mut weight = e.op("Relu", &[count], &[]);
    if encoder.dtype != DataType::Float {
        weight = e.cast(weight, encoder.dtype);
    }
    let weight = e.unsqueeze(weight, &[1]);
    e.op("MatMul", &[weight, y], &[])
}

/// The readers take `sum`, in the stream's order of axes, with one token that stands for all.
pub(crate) fn give(c: &mut Conversion, encoder: usize, prefix: &str, mean: Mean, sum: ValueId) {
    let encoder = c.encoders[encoder].clone();
    let opset = c.opset();
    let mut e = Emit::new(&mut c.model.graph, opset, format!("{prefix}/read"));
    // All cuts have the shape of the first one.
    for node in mean.shapes {
        e.graph.set_input(node, 0, Some(encoder.input));
    }
    for reduction in mean.reductions {
        let mut value = sum;
        if reduction.divides {
            let tokens = e.cast(encoder.tokens, encoder.dtype);
            value = e.op("Div", &[sum, tokens], &[]);
        }
        e.graph.set_input(reduction.node, 0, Some(value));
    }
    for product in mean.products {
        e.graph.remove_node(product);
    }
}
