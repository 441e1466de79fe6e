//! Pass `restore`: fused attentions that pass `canonical` took apart are put back, and softmaxes that were written out.
//!
//! In a block that was left alone the node comes back as it was. In a rewritten block an ai.onnx Attention reads the rows'
//! queries, keys and values, and its mask at the rows' tokens with the count bias; ONNX Runtime gives rows without any key
//! a meaning of its own there, which the products do not have. The mask is spread over the query axis, since that operator
//! does not broadcast it there. Other fused attentions stay apart.

use crate::canonical::{self, Mask, StandIn, TakenApart};
use crate::conversion::Conversion;
use crate::emit::{Emit, Size};
use crate::error::Error;
use onnx_model::{DataType, Graph, NodeId, ValueId};
use std::collections::BTreeSet;

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let opset = c.opset();
    let rewritten: BTreeSet<NodeId> = (c.sites.iter())
        .flat_map(|s| s.instances.iter().map(|i| i.node))
        .collect();
    for stand_in in std::mem::take(&mut c.stand_ins) {
        let rewritten = rewritten.contains(&stand_in.node);
        put_originals_back(&mut c.model.graph, &stand_in, rewritten);
    }
    for positions in std::mem::take(&mut c.positions) {
        if !rewritten.contains(&positions.node) {
            let (node, input) = (positions.node, positions.input);
            c.model
                .graph
                .set_input(node, input, Some(positions.original));
        }
    }
    for pair in std::mem::take(&mut c.code_pairs) {
        canonical::join(&mut c.model.graph, &pair);
    }
    for fused in std::mem::take(&mut c.taken_apart) {
        let mut e = Emit::new(&mut c.model.graph, opset, "vcc/fused");
        match (c.biases.get(&fused.softmax), fused.bias_input) {
            (None, _) => put_back(&mut e, &fused, None),
            (Some(&(bias, dtype)), Some(input)) => {
                let bias = total_bias(&mut e, &fused, bias, dtype);
                put_back(&mut e, &fused, Some((input, bias)));
            }
            (Some(_), None) => e.graph.remove_node(fused.fused),
        }
    }
    Ok(())
}

/// The operators that one stood for read what that one reads by now.
fn put_originals_back(graph: &mut Graph, stand_in: &StandIn, rewritten: bool) {
    let node = graph.node(stand_in.node);
    let (Some(&input), Some(&output)) = (node.inputs.first(), node.outputs.first()) else {
        return;
    };
    for (i, &value) in stand_in.inputs.iter().enumerate() {
        graph.set_input(stand_in.original, i, value);
    }
    for &(node, index) in &stand_in.entries {
        graph.set_input(node, index, input);
        // What is declared of the values between them is not so for other rows.
        let mut between = node;
        while rewritten && between != stand_in.original {
            let Some(value) = graph.node(between).outputs.first().copied().flatten() else {
                break;
            };
            graph.set_info(value, None);
            let Some(&(reader, _)) = graph.value(value).uses().first() else {
                break;
            };
            between = reader;
        }
    }
    let aside = graph.new_value("aside");
    graph.set_output(stand_in.node, 0, Some(aside));
    graph.set_output(stand_in.original, 0, output);
}

/// The masks at the rows' tokens and the count bias, `[.., queries, keys]`.
fn total_bias(e: &mut Emit<'_>, fused: &TakenApart, bias: ValueId, dtype: DataType) -> ValueId {
    let rows = e.dim(bias, 3);
    let mut total = bias;
    for mask in &fused.masks {
        total = match mask {
            Mask::Added(node) => match e.graph.node(*node).inputs.get(1).copied().flatten() {
                Some(mask) => e.op("Add", &[mask, total], &[]),
                None => total,
            },
            Mask::Condition(node) => match e.graph.node(*node).inputs.first().copied().flatten() {
                Some(condition) => {
                    let blocked = e.float(dtype, f64::NEG_INFINITY);
                    e.op("Where", &[condition, total, blocked], &[])
                }
                None => total,
            },
        };
    }
    let shape = e.target(&[
        Size::Const(1),
        Size::Const(1),
        Size::Value(rows),
        Size::Const(1),
    ]);
    e.op("Expand", &[total, shape], &[])
}

fn put_back(e: &mut Emit<'_>, fused: &TakenApart, bias: Option<(usize, ValueId)>) {
    let mut inputs = fused.inputs.clone();
    if let Some((input, bias)) = bias {
        if inputs.len() <= input {
            inputs.resize(input + 1, None);
        }
        inputs[input] = Some(bias);
    }
    for (i, value) in inputs.into_iter().enumerate() {
        e.graph.set_input(fused.fused, i, value);
    }
    // The primitive operators compute what the block's result is now called; it may have been renamed by the rewrite.
    let Some((producer, index)) = result(e, fused) else {
        return;
    };
    let output = e.graph.node(producer).outputs.get(index).copied().flatten();
    let aside = e.graph.new_value("aside");
    e.graph.set_output(producer, index, Some(aside));
    e.graph.set_output(fused.fused, 0, output);
}

fn result(e: &Emit<'_>, fused: &TakenApart) -> Option<(onnx_model::NodeId, usize)> {
    e.graph.value(fused.output).producer()
}
