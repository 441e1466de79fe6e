//! Pass `windows`: a block of mode `local` runs for one window after the other, as the body of a Scan.
//!
//! Until here the block reads the first window's rows, tokens and biases, and its result is repeated for all windows; whatever is between
//! goes into the body. Weights and what has tokens of all windows (masks, tables) are captured from outside. One window's values fit
//! into the caches of a processor, those of all windows do not: see docs/decisions.md for what that gives.

use crate::conversion::{Conversion, OneByOne};
use crate::emit::Emit;
use crate::error::Error;
use onnx_model::{AttrValue, Graph, NewNode, NodeId, ValueId, ValueInfo};
use std::collections::BTreeSet;

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let opset = c.opset();
    for block in std::mem::take(&mut c.windows) {
        c.model.graph.remove_dead();
        c.model.graph.sort()?;
        let mut e = Emit::new(&mut c.model.graph, opset, &block.prefix);
        scan(&mut e, &block)?;
    }
    Ok(())
}

fn scan(e: &mut Emit<'_>, block: &OneByOne) -> Result<(), Error> {
    let broken = |reason: &str| Error::Rewrite {
        block: block.prefix.clone(),
        reason: reason.to_owned(),
    };
    let (stack, _) = e
        .graph
        .value(block.stack)
        .producer()
        .ok_or_else(|| broken("its windows have no result"))?;
    let one = e
        .graph
        .node(stack)
        .inputs
        .first()
        .copied()
        .flatten()
        .ok_or_else(|| broken("its window has no result"))?;
    let inside = between(e.graph, &block.slices, one);
    let leaves = |&(reader, _): &(NodeId, usize)| !inside.contains(&reader) && reader != stack;
    for &node in &inside {
        for &value in e.graph.node(node).outputs.iter().flatten() {
            if e.graph.value(value).uses().iter().any(leaves) || e.graph.is_output(value) {
                return Err(broken("a value of one window is read outside of it"));
            }
        }
    }
    let mut nodes: Vec<NodeId> = e.graph.node_ids().filter(|n| inside.contains(n)).collect();
    let (mut read, mut inputs) = (Vec::new(), Vec::new());
    for &slice in &block.slices {
        let Some((node, output)) = e.graph.value(slice).producer() else {
            continue;
        };
        let info = window_info(e.graph, slice);
        read.push(e.graph.node(node).inputs.first().copied().flatten());
        let name = e.name("window");
        let value = e.graph.new_value(&name);
        inputs.push((value, info));
        // [..] of a window to [1, ..], in the slice's place
        let batched = e.unsqueeze(value, &[0]);
        nodes.splice(0..0, e.graph.value(batched).producer().map(|(n, _)| n));
        e.graph.set_output(node, output, None);
        rename(e.graph, batched, slice);
        e.graph.remove_node(node);
    }
    let window = e.squeeze(one, &[0]);
    nodes.extend(e.graph.value(window).producer().map(|(n, _)| n));
    let result = (window, window_info(e.graph, one));
    let scans = read.len() as i64;
    e.graph.remove_node(stack);
    let body = e.graph.outline(&block.prefix, &nodes, &inputs, &[result])?;
    e.graph.add_node(NewNode {
        op_type: "Scan".to_owned(),
        name: e.name("windows"),
        inputs: read,
        outputs: vec![Some(block.stack)],
        attributes: vec![
            ("body".to_owned(), body),
            ("num_scan_inputs".to_owned(), AttrValue::Int(scans)),
        ],
        ..NewNode::default()
    });
    Ok(())
}

/// The nodes on the way from some values to another.
fn between(graph: &Graph, from: &[ValueId], to: ValueId) -> BTreeSet<NodeId> {
    let mut behind = BTreeSet::new();
    let mut values = from.to_vec();
    while let Some(value) = values.pop() {
        for &(node, _) in graph.value(value).uses() {
            if behind.insert(node) {
                values.extend(graph.node(node).outputs.iter().flatten());
            }
        }
    }
    let mut inside = BTreeSet::new();
    let mut values = vec![to];
    while let Some(value) = values.pop() {
        let producer = graph.value(value).producer().map(|(n, _)| n);
        if let Some(node) = producer.filter(|n| behind.contains(n))
            && inside.insert(node)
        {
            values.extend(graph.node(node).inputs.iter().flatten());
        }
    }
    inside
}

/// What a node computes takes the place of a value without a producer.
fn rename(graph: &mut Graph, value: ValueId, place: ValueId) {
    if let Some((node, output)) = graph.value(value).producer() {
        graph.set_output(node, output, Some(place));
    }
}

/// What is known of `[1, ..]`, without its first axis.
fn window_info(graph: &Graph, value: ValueId) -> ValueInfo {
    let mut info = graph.value(value).info().cloned().unwrap_or_default();
    if let Some(dims) = &mut info.dims {
        dims.drain(..1.min(dims.len()));
    }
    info
}
