//! Pass `insert`: runs blocks on compressed rows (mode `vcc`) or on windows (mode `local`).
//!
//! A region, a run of neighbouring `vcc` blocks, is entered once (stream to state) and left once (state to stream). Inside it
//! the stream does not exist; a cut that something else reads (a hidden state that is an output, a head) gets its own expansion, or
//! if only some tokens of it are read ([`crate::demand`]) those; the last block then computes nothing else ([`crate::prune`]).
//! Segments are refined in order until pass `select` gives them scores.

use crate::conversion::{
    Binding, Conversion, Encoder, Partition, PartlyRead, Rewritten, Selection, ShapeReader,
    SideRows, State,
};
use crate::demand::{self, Demand, Tokens};
use crate::emit::{Emit, Size};
use crate::error::Error;
use crate::local;
use crate::mean;
use crate::plan::{BlockMode, Refine};
use crate::prune;
use onnx_model::{AttrValue, DataType, Dimension, Graph, NodeId, Tensor, ValueId, ValueInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use token_axes::layout::{has_batch, has_tokens};
use token_axes::reach::Reach;
use token_axes::site::{self, Copies, Input, Instance, Side, Sides};
use token_axes::{Analysis, Axis, Block, BlockAxes, Layout, Role, StreamOrder};

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let Some(analysis) = c.analysis.take() else {
        return Ok(());
    };
    let reach = Reach::new(&c.model.graph);
    for index in 0..c.encoders.len() {
        let encoder = c.encoders[index].clone();
        encode(c, &analysis, &reach, index, &encoder)?;
    }
    c.analysis = Some(analysis);
    Ok(())
}

/// A cut inside a region, with the state that holds it.
struct Cut {
    value: ValueId,
    state: State,
    order: StreamOrder,
    prefix: String,
    /// The tokens that are read, if not any may be.
    tokens: Option<Tokens>,
    channels: i64,
}

/// What a group of blocks leaves behind.
enum Left {
    State(State),
    /// What is read, in the stream's order of axes: some tokens, or one in place of all with their sum.
    Read(ValueId),
}

fn encode(
    c: &mut Conversion,
    analysis: &Analysis,
    reach: &Reach,
    index: usize,
    encoder: &Encoder,
) -> Result<(), Error> {
    let blocks = &analysis.streams[encoder.stream].blocks;
    let modes = &encoder.plan.blocks;
    // Which cuts others read is seen before anything is rewired.
    let exposed: Vec<bool> = (0..blocks.len())
        .map(|i| is_read_elsewhere(&c.model.graph, reach, &blocks[i], blocks.get(i + 1)))
        .collect();
    let opset = c.opset();
    let mut read: Vec<Option<Demand>> = (blocks.iter().enumerate())
        .map(|(i, block)| {
            let next = blocks.get(i + 1);
            demand::of(&c.model.graph, analysis, reach, opset, block, next, encoder)
        })
        .collect();
    let mut open: Option<State> = None;
    let mut cuts: Vec<Cut> = Vec::new();
    let mut i = 0;
    while i < blocks.len() {
        let (block, mode) = (&blocks[i], modes[i]);
        let Ok(axes) = &block.axes else {
            i += 1;
            continue;
        };
        match (mode, encoder.partition) {
            (BlockMode::Full, _) => i += 1,
            (BlockMode::Local(window), _) => {
                local::rewrite(c, analysis, index, encoder, i, block, axes, window)?;
                i += 1;
            }
            (BlockMode::Vcc, None) => return Err(rewrite_error(index, i, "there is no partition")),
            (BlockMode::Vcc, Some(partition)) => {
                let group = group_of(blocks, modes, &exposed, i, encoder.plan.reselect_every);
                let state = match open.take() {
                    Some(state) => state,
                    None => enter(c, encoder, &partition, axes.order, block.input, i),
                };
                let last = i + group - 1;
                let goes_on = blocks.get(last + 1).is_some_and(|next| {
                    modes[last + 1] == BlockMode::Vcc
                        && next.axes.is_ok()
                        && next.input == blocks[last].output
                });
                let read = read[last].take();
                let left = compressed(
                    c,
                    analysis,
                    index,
                    encoder,
                    &partition,
                    i,
                    &blocks[i..=last],
                    state,
                    read.as_ref().filter(|_| !goes_on),
                )?;
                for block in &blocks[i..last] {
                    redirect_shapes(&mut c.model.graph, block.output, encoder.input);
                }
                i = last + 1;
                let (value, prefix) = (
                    blocks[last].output,
                    format!("{}/block{last}", encoder.prefix),
                );
                let partly = read.as_ref().and_then(|read| {
                    let what = demand::what(read, matches!(left, Left::Read(_)))?;
                    Some(PartlyRead {
                        encoder: index,
                        block: last,
                        what,
                    })
                });
                c.partly_read.extend(partly);
                match (left, read) {
                    (Left::Read(rows), Some(Demand::Tokens(tokens))) => {
                        demand::give(c, index, &prefix, tokens, value, rows);
                    }
                    (Left::Read(sum), Some(Demand::Mean(mean))) => {
                        mean::give(c, index, &prefix, mean, sum);
                    }
                    (Left::Read(_), None) => {}
                    (Left::State(state), _) if goes_on && !exposed[last] => {
                        redirect_shapes(&mut c.model.graph, value, encoder.input);
                        open = Some(state);
                    }
                    (Left::State(state), read) => {
                        open = goes_on.then_some(state);
                        let tokens = match read {
                            Some(Demand::Tokens(tokens)) => Some(tokens),
                            _ => None,
                        };
                        cuts.push(Cut {
                            value,
                            state,
                            order: axes.order,
                            prefix,
                            tokens,
                            channels: axes.channels,
                        });
                    }
                }
            }
        }
    }
    for cut in cuts {
        expand(c, index, encoder, cut);
    }
    Ok(())
}

fn rewrite_error(encoder: usize, block: usize, reason: &str) -> Error {
    Error::Rewrite {
        block: format!("{encoder}.{block}"),
        reason: reason.to_owned(),
    }
}

/// Whether anything but the next block reads a block's output.
fn is_read_elsewhere(graph: &Graph, reach: &Reach, block: &Block, next: Option<&Block>) -> bool {
    let core: BTreeSet<NodeId> = next
        .filter(|n| n.input == block.output)
        .map(|n| n.core.iter().copied().collect())
        .unwrap_or_default();
    let value = graph.value(block.output);
    graph.is_output(block.output)
        || !value.captured_by().is_empty()
        || value.uses().iter().any(|(n, _)| {
            !core.contains(n)
                && reach.is_live(*n)
                && !token_axes::reach::reads_shape_only(graph, *n)
        })
}

/// All cuts have the same shape: readers of the shape of one that vanishes read the first one's.
fn redirect_shapes(graph: &mut Graph, from: ValueId, to: ValueId) {
    let readers: Vec<(NodeId, usize)> = graph.value(from).uses().to_vec();
    for (node, input) in readers {
        if token_axes::reach::reads_shape_only(graph, node) {
            graph.set_input(node, input, Some(to));
        }
    }
}

/// How many blocks from `first` on share one compression.
fn group_of(
    blocks: &[Block],
    modes: &[BlockMode],
    exposed: &[bool],
    first: usize,
    most: usize,
) -> usize {
    let mut size = 1;
    while size < most {
        let (last, next) = (first + size - 1, first + size);
        let joins = next < blocks.len()
            && modes[next] == BlockMode::Vcc
            && blocks[next].axes.is_ok()
            && blocks[next].input == blocks[last].output
            && !exposed[last];
        if !joins {
            break;
        }
        size += 1;
    }
    size
}

/// From the stream's axis order to `[B, n, d]`.
pub(crate) fn to_rows(e: &mut Emit<'_>, order: StreamOrder, value: ValueId) -> ValueId {
    e.transpose(value, &order.positions())
}

/// From `[B, r, d]` to the stream's axis order.
pub(crate) fn to_stream(e: &mut Emit<'_>, order: StreamOrder, value: ValueId) -> ValueId {
    let mut inverse = [0usize; 3];
    for (i, p) in order.positions().into_iter().enumerate() {
        inverse[p] = i;
    }
    e.transpose(value, &inverse)
}

pub(crate) fn ladder(encoder: &Encoder) -> (&'static str, AttrValue) {
    ("ladder", AttrValue::Ints(encoder.plan.ladder.0.clone()))
}

fn dtype(encoder: &Encoder) -> (&'static str, AttrValue) {
    ("dtype", AttrValue::Int(i64::from(encoder.dtype as i32)))
}

fn enter(
    c: &mut Conversion,
    encoder: &Encoder,
    p: &Partition,
    order: StreamOrder,
    input: ValueId,
    block: usize,
) -> State {
    let opset = c.opset();
    let mut e = Emit::new(
        &mut c.model.graph,
        opset,
        format!("{}/enter{block}", encoder.prefix),
    );
    let x = to_rows(&mut e, order, input);
    let out = e.vcc(
        "VccCoarsen",
        &[x, p.item_token, p.item_count, p.token_slot, p.vote],
        &["value", "scale", "offset"],
        &[ladder(encoder), dtype(encoder)],
    );
    State {
        value: out[0],
        scale: out[1],
        offset: out[2],
    }
}

/// `rows [B, v+q, d]`, `row_token [B, v+q]`, `row_bias [B, v+q]` of context items.
pub(crate) fn compress(
    e: &mut Emit<'_>,
    encoder: &Encoder,
    p: &Partition,
    state: State,
    items: ValueId,
) -> [ValueId; 3] {
    let weight = AttrValue::Float(encoder.plan.count_weight);
    let out = e.vcc(
        "VccCompress",
        &[
            state.value,
            state.scale,
            state.offset,
            items,
            p.item_token,
            p.item_count,
            p.vote,
        ],
        &["rows", "row_token", "row_bias"],
        &[ladder(encoder), ("count_weight", weight), dtype(encoder)],
    );
    [out[0], out[1], out[2]]
}

/// The blocks of one group, on one compressed sequence.
#[allow(clippy::too_many_arguments)]
fn compressed(
    c: &mut Conversion,
    analysis: &Analysis,
    index: usize,
    encoder: &Encoder,
    p: &Partition,
    first: usize,
    group: &[Block],
    state: State,
    only: Option<&Demand>,
) -> Result<Left, Error> {
    let opset = c.opset();
    let prefix = format!("{}/block{first}", encoder.prefix);
    let order = match &group[0].axes {
        Ok(axes) => axes.order,
        Err(_) => return Err(rewrite_error(index, first, "it was refused")),
    };
    let mut e = Emit::new(&mut c.model.graph, opset, prefix.clone());
    // Level by level: each selects among the children of what the level above refined.
    // A level that refines nothing is the last.
    let mut candidates = p.roots;
    let mut items = Vec::new();
    let mut selects = Vec::new();
    let levels = encoder.plan.refine.0.iter().enumerate();
    let refining = levels.take_while(|(_, r)| p.budgets.is_some() || **r != Refine::Count(0));
    for (level, refine) in refining {
        let budget = match p.budgets {
            None => e.ints(&[refine.budget()]),
            Some(all) => {
                let (from, to) = (e.ints(&[level as i64]), e.ints(&[level as i64 + 1]));
                e.slice(all, from, to, 0)
            }
        };
        let out = e.vcc(
            "VccSelect",
            &[p.uniform, candidates, p.item_count, p.vote, budget],
            &["children", "rest", "sums"],
            &[ladder(encoder), ("level", AttrValue::Int(level as i64))],
        );
        selects.push((out[0], candidates));
        items.insert(0, out[1]);
        candidates = out[0];
    }
    items.insert(0, candidates);
    let items = e.concat(&items, 1);
    let [rows, row_token, row_bias] = compress(&mut e, encoder, p, state, items);
    let count = e.dim(row_token, 1);
    let flat = e.op("Add", &[row_token, encoder.base], &[]);
    let side = SideRows {
        token: row_token,
        flat,
        flat_again: flat,
        count,
    };
    let binding = Binding {
        batch: encoder.batch,
        batch_rows: None,
        model_batch: encoder.batch,
        tokens: encoder.tokens,
        sides: BTreeMap::from([(Side::Rows, side)]),
        batch_dim: declared_batch(e.graph, group[0].input, order, &encoder.prefix),
        rows_dim: Dimension::Param(format!("{prefix}/r")),
    };
    let mut stream = to_stream(&mut e, order, rows);
    let (instances, scores) = selection_instances(&c.model.graph, &group[0])
        .map_err(|reason| rewrite_error(index, first, &reason))?;
    let instances = Rc::new(instances);
    for (value, candidates) in selects {
        if let Some((node, _)) = c.model.graph.value(value).producer() {
            c.selections.push(Selection {
                encoder: index,
                block: first,
                prefix: prefix.clone(),
                node,
                state,
                candidates,
                instances: instances.clone(),
                scores,
            });
        }
    }
    let channels = group[0].axes.as_ref().map_or(1, |a| a.channels);
    for (i, block) in group.iter().enumerate() {
        let Ok(axes) = &block.axes else {
            return Err(rewrite_error(index, first + i, "it was refused"));
        };
        let prefix = format!("{}/block{}", encoder.prefix, first + i);
        let (mut binding, mut streams) = (binding.clone(), BTreeMap::from([(Side::Rows, stream)]));
        let only = match only {
            Some(Demand::Tokens(tokens)) if i + 1 == group.len() => {
                prune::instances(&c.model.graph, block).map(|split| (tokens, split))
            }
            _ => None,
        };
        let mut read = None;
        let mut split = None;
        if let Some((tokens, instances)) = only {
            let mut e = Emit::new(&mut c.model.graph, opset, format!("{prefix}/read"));
            let found = prune::locate(&mut e, encoder, p, items, &tokens.at);
            let all = to_rows(&mut e, order, stream);
            let queries = found.rows(&mut e, encoder, all, channels);
            let queries = to_stream(&mut e, order, queries);
            binding = found.binding(&mut e, encoder, &binding, side);
            streams = BTreeMap::from([(Side::Query, queries), (Side::Key, stream)]);
            (read, split) = (Some(found), Some(instances));
        }
        stream = rewire(
            c, analysis, index, block, axes, &prefix, &binding, &streams, row_bias, split,
        )
        .map_err(|reason| rewrite_error(index, first + i, &reason))?;
        if let Some(read) = read {
            let mut e = Emit::new(&mut c.model.graph, opset, format!("{prefix}/read"));
            let y = to_rows(&mut e, order, stream);
            let before = read.rows(&mut e, encoder, rows, channels);
            let values = read.values(&mut e, encoder, p, state, [y, before], channels);
            return Ok(Left::Read(to_stream(&mut e, order, values)));
        }
    }
    let mut e = Emit::new(&mut c.model.graph, opset, prefix);
    let y = to_rows(&mut e, order, stream);
    if let Some(Demand::Mean(_)) = only {
        let sum = mean::sum(&mut e, encoder, p, items, y);
        return Ok(Left::Read(to_stream(&mut e, order, sum)));
    }
    let update = e.op("Sub", &[y, rows], &[]);
    let gain = gain(&mut e, encoder.dtype, channels);
    let out = e.vcc(
        "VccDecompress",
        &[
            state.value,
            state.scale,
            state.offset,
            items,
            p.item_count,
            p.vote,
            y,
            update,
            gain,
        ],
        &["value", "scale", "offset"],
        &[ladder(encoder), dtype(encoder)],
    );
    Ok(Left::State(State {
        value: out[0],
        scale: out[1],
        offset: out[2],
    }))
}

/// The copies of a block's nodes that lead from VIP rows as queries and segment rows as keys to the scores.
fn selection_instances(
    graph: &Graph,
    block: &Block,
) -> Result<(Vec<Instance>, (usize, usize)), String> {
    let axes = block.axes.as_ref().map_err(|r| r.to_string())?;
    let rank = axes.layouts.get(&axes.scores).map_or(0, |l| l.0.len());
    let mut sides: Sides = vec![None; rank];
    for (axis, side) in [(axes.query_axis, Side::Query), (axes.key_axis, Side::Key)] {
        if let Some(slot) = sides.get_mut(axis) {
            *slot = Some(side);
        }
    }
    site::instances(
        graph,
        axes,
        &block.core,
        block.input,
        axes.scores,
        sides,
        Copies::PerSide(None),
    )
    .map_err(|r| r.to_string())
}

/// One per channel: tokens of a segment keep their own value and add the row's change.
fn gain(e: &mut Emit<'_>, dtype: DataType, channels: i64) -> ValueId {
    let ones = vec![1.0; channels.max(0) as usize];
    let tensor = Tensor::from_f64s(dtype, &[channels], &ones)
        .unwrap_or_else(|| Tensor::from_f32s(&[0], &[]));
    let name = e.name("gain");
    e.graph.add_initializer(&name, tensor)
}

/// Rewires a block's nodes to other rows and returns its output's rows. `split`: the copies of its nodes, where queries and keys are
/// different rows.
#[allow(clippy::too_many_arguments)]
pub(crate) fn rewire(
    c: &mut Conversion,
    analysis: &Analysis,
    encoder: usize,
    block: &Block,
    axes: &BlockAxes,
    prefix: &str,
    binding: &Binding,
    streams: &BTreeMap<Side, ValueId>,
    row_bias: ValueId,
    split: Option<Vec<Instance>>,
) -> Result<ValueId, String> {
    let opset = c.opset();
    let layout = axes.layouts.get(&block.input).cloned().unwrap_or_default();
    let sides = layout
        .0
        .iter()
        .map(|a| has_tokens(a).then_some(Side::Rows))
        .collect();
    let graph = &mut c.model.graph;
    let is_split = split.is_some();
    let mut instances = match split {
        Some(instances) => instances,
        None => site::instances(
            graph,
            axes,
            &block.core,
            block.input,
            block.output,
            sides,
            Copies::One(Side::Rows),
        )
        .map(|(instances, _)| instances)
        .map_err(|r| r.to_string())?,
    };
    // Readers of shapes are told the model's sizes, not the rows'.
    for (&value, layout) in axes.layouts.iter().chain(&axes.satellites) {
        if value == block.output || value == block.input {
            continue;
        }
        note_shape_readers(graph, &mut c.shape_readers, value, layout, encoder);
        let known = axes.layouts.contains_key(&value) && !is_split;
        let info = known.then(|| rows_info(analysis, value, layout, binding));
        graph.set_info(value, info);
    }
    for instance in &instances {
        let equation = axes
            .flows
            .get(&instance.node)
            .and_then(|f| f.equation.as_ref());
        if let Some(equation) = equation {
            let equation = AttrValue::Str(equation.clone());
            graph.set_attr(instance.node, "equation", &equation);
        }
    }
    let mut e = Emit::new(graph, opset, prefix);
    if is_split {
        prune::separate(&mut e, &mut instances);
    }
    for instance in &instances {
        for (i, input) in instance.inputs.iter().enumerate() {
            if let Input::Rows(side) = input {
                let stream = streams.get(side).copied();
                let stream = stream.ok_or_else(|| format!("rows of {side:?} are not known"))?;
                e.graph.set_input(instance.node, i, Some(stream));
            }
        }
    }
    let scores_layout = axes.layouts.get(&axes.scores).cloned().unwrap_or_default();
    let scores_type = analysis
        .samples
        .dtype(axes.scores)
        .unwrap_or(DataType::Float);
    let bias = arrange_bias(
        &mut e,
        row_bias,
        scores_type,
        &scores_layout,
        axes.key_axis,
        binding.batch,
    );
    // The scores may be the block's own value under a new reader only.
    let scores = e
        .graph
        .node(axes.softmax)
        .inputs
        .first()
        .copied()
        .flatten()
        .ok_or("the softmax has no input")?;
    c.biases.insert(axes.softmax, (bias, scores_type));
    for fused in c
        .taken_apart
        .iter_mut()
        .filter(|f| f.softmax == axes.softmax)
    {
        if is_split {
            // Its inputs may be copies now, and it does not matter for so few queries.
            fused.bias_input = None;
        }
        for slot in &mut fused.inputs {
            if *slot == Some(block.input) {
                *slot = streams.get(&Side::Rows).copied();
            }
        }
    }
    let biased = e.op("Add", &[scores, bias], &[]);
    e.graph.set_input(axes.softmax, 0, Some(biased));
    let (producer, output) = e
        .graph
        .value(block.output)
        .producer()
        .ok_or("its output has no producer")?;
    let name = e.name("y");
    let y = e.graph.new_value(&name);
    e.graph.set_output(producer, output, Some(y));
    if let Some(&stream) = streams.get(&Side::Rows) {
        let info = rows_info(analysis, block.output, &layout, binding);
        e.graph.set_info(y, Some(info.clone()));
        e.graph.set_info(stream, Some(info));
        let info = rows_info(analysis, axes.scores, &scores_layout, binding);
        e.graph.set_info(biased, Some(info));
    }
    c.sites.push(Rewritten {
        prefix: prefix.to_owned(),
        binding: binding.clone(),
        instances,
    });
    Ok(y)
}

/// The shape of a value of the block at its rows.
fn rows_info(analysis: &Analysis, value: ValueId, layout: &Layout, binding: &Binding) -> ValueInfo {
    let dims = layout.0.iter().map(|axis| match axis[..] {
        [] => Dimension::Value(1),
        [factor] => match factor.role {
            Role::Batch => binding.batch_dim.clone(),
            Role::Token | Role::Attended => binding.rows_dim.clone(),
            Role::Feature => factor
                .size
                .constant()
                .map_or(Dimension::Unknown, Dimension::Value),
        },
        _ => layout_constant(axis).map_or(Dimension::Unknown, Dimension::Value),
    });
    ValueInfo {
        dtype: analysis.samples.dtype(value),
        dims: Some(dims.collect()),
    }
}

fn layout_constant(axis: &Axis) -> Option<i64> {
    let varies = has_tokens(axis) || has_batch(axis);
    token_axes::layout::axis_size(axis)
        .constant()
        .filter(|_| !varies)
}

/// The batch dimension of the stream as the model declares it.
pub(crate) fn declared_batch(
    graph: &Graph,
    stream: ValueId,
    order: StreamOrder,
    prefix: &str,
) -> Dimension {
    let declared = graph.value(stream).info().and_then(|i| i.dims.clone());
    match declared.as_ref().and_then(|d| d.get(order.positions()[0])) {
        Some(known @ (Dimension::Value(_) | Dimension::Param(_))) => known.clone(),
        _ => Dimension::Param(format!("{prefix}/batch")),
    }
}

/// Registers Shape and Size nodes that read a value whose rows change.
pub(crate) fn note_shape_readers(
    graph: &Graph,
    readers: &mut Vec<ShapeReader>,
    value: ValueId,
    layout: &Layout,
    encoder: usize,
) {
    for &(node, _) in graph.value(value).uses() {
        if token_axes::reach::reads_shape_only(graph, node) {
            readers.push(ShapeReader {
                node,
                layout: layout.clone(),
                encoder,
            });
        }
    }
}

/// `[B', r]` as it is added to scores of a layout.
fn arrange_bias(
    e: &mut Emit<'_>,
    bias: ValueId,
    dtype: DataType,
    layout: &Layout,
    key_axis: usize,
    batch: ValueId,
) -> ValueId {
    let mut bias = if dtype == DataType::Float {
        bias
    } else {
        e.cast(bias, dtype)
    };
    let batch_axis = layout.0.iter().position(has_batch);
    if batch_axis.is_some_and(|b| b > key_axis) {
        bias = e.transpose(bias, &[1, 0]);
    }
    let merged = batch_axis.is_some_and(|b| layout.0[b].len() > 1);
    let mut atoms = Vec::new();
    let mut expanded = Vec::new();
    for (i, axis) in layout.0.iter().enumerate() {
        if i == key_axis {
            atoms.push(Size::Const(-1));
            expanded.push(Size::Const(1));
        } else if Some(i) == batch_axis {
            for factor in axis {
                let is_batch = factor.role == Role::Batch;
                atoms.push(match is_batch {
                    true if i == 0 && atoms.is_empty() => Size::Const(0),
                    true => Size::Value(batch),
                    false => Size::Const(1),
                });
                expanded.push(Size::Const(if is_batch {
                    1
                } else {
                    factor.size.constant().unwrap_or(1)
                }));
            }
        } else {
            atoms.push(Size::Const(1));
            expanded.push(Size::Const(1));
        }
    }
    bias = e.reshape(bias, &atoms);
    if !merged {
        return bias;
    }
    let shape = e.target(&expanded);
    bias = e.op("Expand", &[bias, shape], &[]);
    let mut sizes = Vec::new();
    for (i, axis) in layout.0.iter().enumerate() {
        sizes.push(if i == key_axis {
            Size::Const(-1)
        } else if Some(i) == batch_axis {
            let parts: Vec<Size> = axis
                .iter()
                .map(|f| match f.role {
                    Role::Batch => Size::Value(batch),
                    _ => Size::Const(f.size.constant().unwrap_or(1)),
                })
                .collect();
            e.product(&parts)
        } else {
            Size::Const(1)
        });
    }
    e.reshape(bias, &sizes)
}

/// Gives a cut its value back, or those of its tokens that are read.
fn expand(c: &mut Conversion, index: usize, encoder: &Encoder, cut: Cut) {
    let Some(p) = encoder.partition else { return };
    let opset = c.opset();
    if let Some(tokens) = cut.tokens {
        let mut e = Emit::new(&mut c.model.graph, opset, format!("{}/leave", cut.prefix));
        let rows = prune::of_state(&mut e, encoder, &p, cut.state, &tokens.at, cut.channels);
        let rows = to_stream(&mut e, cut.order, rows);
        demand::give(c, index, &cut.prefix, tokens, cut.value, rows);
        return;
    }
    let mut e = Emit::new(&mut c.model.graph, opset, format!("{}/leave", cut.prefix));
    let out = e.vcc(
        "VccExpand",
        &[
            cut.state.value,
            cut.state.scale,
            cut.state.offset,
            p.token_slot,
            p.vote,
        ],
        &["x"],
        &[ladder(encoder), dtype(encoder)],
    );
    let x = to_stream(&mut e, cut.order, out[0]);
    if let Some((producer, output)) = c.model.graph.value(x).producer() {
        c.model.graph.set_output(producer, output, Some(cut.value));
    }
}
