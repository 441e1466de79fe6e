//! Pass `select`: gives every VccSelect its scores.
//!
//! Everything from the block's input to the softmax's input is cloned, with the VIP slots as queries and the candidate segments
//! as keys; masks and biases are taken at the slots' and segments' tokens. Nothing is re-implemented from weights.

use crate::conversion::{Binding, Conversion, Encoder, Selection, SideRows};
use crate::emit::{Emit, Size};
use crate::error::Error;
use crate::externals::Gathered;
use crate::insert::{compress, to_stream};
use crate::shapes;
use onnx_model::{DataType, Dimension, NodeId, ValueId};
use std::collections::BTreeMap;
use token_axes::layout::{has_batch, has_tokens};
use token_axes::site::{Input, Instance, Side};
use token_axes::{Analysis, BlockAxes, Layout};

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let Some(analysis) = c.analysis.take() else {
        return Ok(());
    };
    for selection in std::mem::take(&mut c.selections) {
        let encoder = c.encoders[selection.encoder].clone();
        score(c, &analysis, &encoder, &selection).map_err(|reason| Error::Rewrite {
            block: format!("{}.{}", selection.encoder, selection.block),
            reason: format!("its selection cannot be built: {reason}"),
        })?;
    }
    c.analysis = Some(analysis);
    Ok(())
}

fn score(
    c: &mut Conversion,
    analysis: &Analysis,
    encoder: &Encoder,
    s: &Selection,
) -> Result<(), String> {
    let block = &analysis.streams[encoder.stream].blocks[s.block];
    let axes = block.axes.as_ref().map_err(|r| r.to_string())?;
    let p = encoder.partition.ok_or("there is no partition")?;
    let opset = c.opset();
    let tables = &mut c.tables;
    let mut e = Emit::new(&mut c.model.graph, opset, format!("{}/select", s.prefix));
    let [rows, row_token, _] = compress(&mut e, encoder, &p, s.state, s.candidates);
    let (start, end) = (e.ints(&[0]), e.ints(&[i64::MAX]));
    let candidates = e.dim(s.candidates, 1);
    let mut sides = BTreeMap::new();
    let mut streams = BTreeMap::new();
    for (side, from, to, count) in [
        (Side::Query, start, p.slots, p.slots),
        (Side::Key, p.slots, end, candidates),
    ] {
        let side_rows = e.slice(rows, from, to, 1);
        let token = e.slice(row_token, from, to, 1);
        let flat = e.op("Add", &[token, encoder.base], &[]);
        sides.insert(
            side,
            SideRows {
                token,
                flat,
                flat_again: flat,
                count,
            },
        );
        streams.insert(side, to_stream(&mut e, axes.order, side_rows));
    }
    let binding = Binding {
        batch: encoder.batch,
        batch_rows: None,
        model_batch: encoder.batch,
        tokens: encoder.tokens,
        sides,
        batch_dim: Dimension::Unknown,
        rows_dim: Dimension::Unknown,
    };
    let scores = clone_scores(
        &mut e,
        Gathered::new(&analysis.samples, tables),
        &s.instances,
        s.scores,
        &binding,
        &streams,
    )?;
    let layout = axes.layouts.get(&axes.scores).cloned().unwrap_or_default();
    let mut scores = arrange(
        &mut e,
        scores,
        &layout,
        axes,
        [encoder.batch, p.slots, candidates],
    )?;
    if !matches!(
        analysis.samples.dtype(axes.scores),
        Some(DataType::Float | DataType::Float16)
    ) {
        scores = e.cast(scores, DataType::Float);
    }
    e.graph.set_input(s.node, 0, Some(scores));
    Ok(())
}

/// Clones the nodes before the softmax and returns the clone of its input.
fn clone_scores(
    e: &mut Emit<'_>,
    mut gathered: Gathered<'_>,
    instances: &[Instance],
    (place, output): (usize, usize),
    binding: &Binding,
    streams: &BTreeMap<Side, ValueId>,
) -> Result<ValueId, String> {
    let mut copies: Vec<NodeId> = Vec::with_capacity(instances.len());
    for instance in instances {
        let name = e.name(&e.graph.node(instance.node).name.clone());
        // Inputs of the rewired block are those of the compressed rows; each one that matters is replaced here.
        let copy = e.graph.clone_node(instance.node, &name);
        for (i, input) in instance.inputs.iter().enumerate() {
            match input {
                Input::Keep => {}
                Input::Rows(side) => {
                    let rows = streams
                        .get(side)
                        .copied()
                        .ok_or("a row of selection is neither query nor key")?;
                    e.graph.set_input(copy, i, Some(rows));
                }
                Input::Instance(other, output) => {
                    let value = e
                        .graph
                        .node(copies[*other])
                        .outputs
                        .get(*output)
                        .copied()
                        .flatten();
                    e.graph.set_input(copy, i, value);
                }
                Input::External(external, sides) => {
                    let value = gathered
                        .gather(e, binding, instance, external, sides)?
                        .value;
                    e.graph.set_input(copy, i, Some(value));
                }
                Input::Operand(kind, data, result) => {
                    shapes::rebuild(e, binding, copy, kind, data, result)?
                }
            }
        }
        copies.push(copy);
    }
    let copy = copies
        .get(place)
        .ok_or("the scores are not computed in the block")?;
    e.graph
        .node(*copy)
        .outputs
        .get(output)
        .copied()
        .flatten()
        .ok_or_else(|| "the scores have no value".to_owned())
}

/// Scores as `[B, heads, VIP slots, candidates]`.
fn arrange(
    e: &mut Emit<'_>,
    scores: ValueId,
    layout: &Layout,
    axes: &BlockAxes,
    [batch, slots, candidates]: [ValueId; 3],
) -> Result<ValueId, String> {
    let rank = layout.0.len();
    let batch_axis = (0..rank).find(|&i| has_batch(&layout.0[i]));
    let mut perm: Vec<usize> = batch_axis.into_iter().collect();
    perm.extend(
        (0..rank).filter(|&i| Some(i) != batch_axis && i != axes.key_axis && i != axes.query_axis),
    );
    perm.extend([axes.query_axis, axes.key_axis]);
    if let Some(b) = batch_axis {
        let mixed = layout.0[b]
            .iter()
            .position(|f| f.role == token_axes::Role::Batch)
            != Some(0)
            || has_tokens(&layout.0[b]);
        if mixed {
            return Err("the batch is not the outer part of its axis in the scores".into());
        }
    }
    let scores = e.transpose(scores, &perm);
    let plain = rank == 4 && batch_axis.is_some_and(|b| layout.0[b].len() == 1);
    if plain {
        return Ok(scores);
    }
    Ok(e.reshape(
        scores,
        &[
            Size::Value(batch),
            Size::Const(-1),
            Size::Value(slots),
            Size::Value(candidates),
        ],
    ))
}
