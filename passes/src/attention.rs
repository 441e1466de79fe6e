//! Pass `attention`: what depends on the key alone is added to the scores of a rewritten block once, or not at all.
//!
//! The scores get the model's masks and our count bias. Where these are the same for all heads and queries the attention becomes one
//! MultiHeadAttention of com.microsoft: queries get [`CHANNELS`] more channels that are 1, keys as many of which the first holds
//! the sum of masks and count bias and the others are 0, and so the product holds it. Without any other bias nothing of size queries x
//! keys is left in memory, and ONNX Runtime's fused kernel does the work. What differs between queries (relative positions) is its bias
//! input, which turns that kernel off, but still saves passes over the scores (docs/decisions.md has the times). Scales go to the queries
//! first: the bias must not be scaled. Elsewhere masks and count bias are added to each other before they are added to the scores, where
//! they are smaller.
//!
//! Only float32, and float16 for CUDA, where values get more channels too: ONNX Runtime's CPU kernel knows no other. With `--inline` attentions stay as they are, in operators of ONNX.

use crate::canonical::TakenApart;
use crate::conversion::{Conversion, Form};
use crate::emit::{Emit, Size};
use crate::error::Error;
use crate::externals::Taken;
use crate::plan::Device;
use onnx_model::{AttrValue, DataType, Graph, NewNode, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use token_axes::layout::{axis_size, has_batch};
use token_axes::{Analysis, BlockAxes, Dim, Layout, Role};

/// Channels that are added to a head: with 8 the rows of queries and keys stay aligned.
const CHANNELS: i64 = 8;

/// Values from which on a mask that replaces the score and one that is added to it are the same.
const BLOCKED: f64 = -1e30;

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let Some(analysis) = c.analysis.take() else {
        return Ok(());
    };
    let streams = analysis.streams.iter().enumerate();
    let blocks = streams.flat_map(|(index, s)| s.blocks.iter().map(move |b| (index, b)));
    let opset = c.opset();
    let mut fused = BTreeSet::new();
    for (stream, axes) in blocks.filter_map(|(s, b)| Some((s, b.axes.as_ref().ok()?))) {
        let Some(&(count_bias, _)) = c.biases.get(&axes.softmax) else {
            continue;
        };
        // Its operator takes the count bias with its mask, and has a meaning of its own for rows without any key.
        if comes_back(&c.taken_apart, axes.softmax) {
            continue;
        }
        let known = Known {
            analysis: &analysis,
            axes,
            taken: &c.taken,
            count_bias,
            on_cuda: (c.encoders.iter())
                .any(|e| e.stream == stream && e.plan.device == Device::Cuda),
        };
        let whole = (c.form != Form::Inline)
            .then(|| known.attention(&c.model.graph))
            .flatten();
        let site = (c.sites.iter()).find(|s| s.instances.iter().any(|i| i.node == axes.softmax));
        let prefix = site.map_or("vcc", |s| &s.prefix);
        let mut e = Emit::new(&mut c.model.graph, opset, format!("{prefix}/attention"));
        match whole {
            Some(attention) => {
                if let Some(bias) = fuse(&mut e, &attention) {
                    c.relative.insert(axes.scores, bias);
                }
                fused.insert(axes.softmax);
            }
            None => join_biases(&mut e, &known),
        }
    }
    if !fused.is_empty() {
        c.model.import_opset("com.microsoft", 1);
    }
    // They have their operator; the one they came from is not needed.
    for taken in c.taken_apart.extract_if(.., |t| fused.contains(&t.softmax)) {
        c.model.graph.remove_node(taken.fused);
    }
    c.stand_ins.retain(|s| !fused.contains(&s.node));
    c.analysis = Some(analysis);
    Ok(())
}

/// What is known of a rewritten block.
struct Known<'a> {
    analysis: &'a Analysis,
    axes: &'a BlockAxes,
    taken: &'a BTreeMap<ValueId, Taken>,
    count_bias: ValueId,
    on_cuda: bool,
}

/// An attention of a rewritten block that is products, scales, key biases and a softmax.
struct Attention {
    dtype: DataType,
    on_cuda: bool,
    queries: Scaled,
    keys: Scaled,
    values: ValueId,
    heads: i64,
    /// Channels of a head, of its queries and of its values.
    channels: (i64, i64),
    /// Scales of the product.
    scales: Vec<Scale>,
    /// What is added to the scores, the count bias first, and depends on the key alone.
    biases: Vec<Bias>,
    /// What is added and differs between queries and heads.
    relative: Vec<Part>,
    /// The product of weights and values.
    product: NodeId,
}

/// A value and the scales between it and what it was scaled to.
struct Scaled {
    value: ValueId,
    scales: Vec<Scale>,
}

/// A factor or divisor of one element.
struct Scale {
    by: ValueId,
    divides: bool,
}

/// Something that is added to the scores.
#[derive(Clone)]
struct Part {
    value: ValueId,
    /// For each axis of the scores, whether it may have more than one entry.
    sized: Vec<bool>,
}

impl Part {
    fn depends_on_key(&self) -> bool {
        matches!(self.sized[..], [_, false, false, _])
    }
}

/// Something that depends on the key alone.
enum Bias {
    Added(ValueId),
    /// Scores where the condition is not `open` become `blocked`.
    Condition {
        condition: ValueId,
        open: bool,
        blocked: f64,
    },
}

impl Known<'_> {
    fn attention(&self, graph: &Graph) -> Option<Attention> {
        let softmax = graph.node(self.axes.softmax);
        let scores = self.axes.layouts.get(&self.axes.scores)?;
        let heads = self.head_count(scores)?;
        let last = (scores.0.len() as i64) - 1;
        let axis = softmax.attr_int("axis").unwrap_or(-1);
        let plain = softmax.op_type == "Softmax" && (axis == -1 || axis == last);
        let own_axes = (self.axes.query_axis, self.axes.key_axis) == (2, 3);
        let dtype = self.analysis.samples.dtype(self.axes.scores)?;
        let known = dtype == DataType::Float || (dtype == DataType::Float16 && self.on_cuda);
        if !plain || !own_axes || !known {
            return None;
        }
        let (mut scales, mut biases, mut relative) = (Vec::new(), Vec::new(), Vec::new());
        let mut value = (*softmax.inputs.first()?)?;
        let (queries, keys) = loop {
            let (node, _) = graph
                .value(value)
                .producer()
                .filter(|_| is_read_once(graph, value))?;
            let inputs = &graph.node(node).inputs;
            value = match (graph.node(node).op_type.as_str(), &inputs[..]) {
                // What is added before a scale would be scaled too.
                ("Add", &[Some(a), Some(b)]) if scales.is_empty() => {
                    let (scores, parts) = match (self.parts(a), self.parts(b)) {
                        (None, Some(parts)) => (a, parts),
                        (Some(parts), None) => (b, parts),
                        _ => return None,
                    };
                    for part in parts {
                        if part.depends_on_key() {
                            biases.push(Bias::Added(part.value));
                        } else {
                            relative.push(part);
                        }
                    }
                    scores
                }
                ("Where", &[Some(condition), Some(a), Some(b)])
                    if scales.is_empty() && self.depends_on_key(condition) =>
                {
                    let (scores, other, open) = match graph.tensor(b) {
                        Some(other) => (a, other, true),
                        None => (b, graph.tensor(a)?, false),
                    };
                    let blocked = *other.to_f64s().filter(|v| v.len() == 1)?.first()?;
                    biases.push(Bias::Condition {
                        condition,
                        open,
                        blocked,
                    });
                    if blocked > BLOCKED {
                        return None;
                    }
                    scores
                }
                ("Cast", &[Some(same)]) if self.analysis.samples.dtype(same) == Some(dtype) => same,
                ("Mul" | "Div", _) => self.scaled(graph, node, &mut scales)?,
                ("MatMul", &[Some(queries), Some(keys)]) => break (queries, keys),
                _ => return None,
            };
        };
        // The operator's bias input has all queries and keys, and its earlier versions want all heads.
        let has = |axis: usize| relative.iter().any(|p| p.sized.get(axis) == Some(&true));
        let whole = relative.iter().all(|p| p.sized.len() == 4) && (1..4).all(has);
        if !relative.is_empty() && !whole {
            return None;
        }
        let (product, values) = self.weighted(graph)?;
        let head = |value: ValueId, rows: usize, channels: usize| -> Option<i64> {
            let layout = self.axes.layouts.get(&value)?;
            let on_rows = layout.0.get(rows)?.iter().map(|f| f.role).eq([Role::Token])
                || layout
                    .0
                    .get(rows)?
                    .iter()
                    .map(|f| f.role)
                    .eq([Role::Attended]);
            (on_rows && self.head_count(layout)? == heads)
                .then(|| axis_size(&layout.0[channels]).constant())
                .flatten()
        };
        let of_queries = head(queries, 2, 3)?;
        let same = head(keys, 3, 2)? == of_queries;
        let of_values = head(values, 2, 3)?;
        same.then(|| Attention {
            dtype,
            on_cuda: self.on_cuda,
            queries: self.unscaled(graph, queries),
            keys: self.unscaled(graph, keys),
            values,
            heads,
            channels: (of_queries, of_values),
            scales,
            biases,
            relative,
            product,
        })
    }

    /// The heads of `[batch, heads, .., ..]`.
    fn head_count(&self, layout: &Layout) -> Option<i64> {
        let [batch, heads, _, _] = &layout.0[..] else {
            return None;
        };
        let has_batch = batch.iter().map(|f| f.role).eq([Role::Batch]);
        let is_feature = heads.iter().all(|f| f.role == Role::Feature);
        (has_batch && is_feature)
            .then(|| axis_size(heads).constant())
            .flatten()
    }

    /// The product that alone reads the softmax, and its other operand.
    fn weighted(&self, graph: &Graph) -> Option<(NodeId, ValueId)> {
        let weights = (*graph.node(self.axes.softmax).outputs.first()?)?;
        if !is_read_once(graph, weights) {
            return None;
        }
        let &(product, 0) = graph.value(weights).uses().first()? else {
            return None;
        };
        let node = graph.node(product);
        (node.op_type == "MatMul" && node.domain.is_empty())
            .then(|| node.inputs.get(1).copied().flatten())
            .flatten()
            .map(|values| (product, values))
    }

    /// Whether a value has one entry for each key and batch row.
    fn depends_on_key(&self, value: ValueId) -> bool {
        let parts = self.parts(value);
        matches!(parts.as_deref(), Some([part]) if part.depends_on_key())
    }

    /// What a bias of the scores is the sum of; `None` if it is something else.
    fn parts(&self, value: ValueId) -> Option<Vec<Part>> {
        if value == self.count_bias {
            let on_keys = |i| i == 0 || i == self.axes.key_axis;
            let rank = self.axes.layouts.get(&self.axes.scores)?.0.len();
            let sized = (0..rank).map(on_keys).collect();
            return Some(vec![Part { value, sized }]);
        }
        let mut parts = Vec::new();
        let mut queue = vec![self.taken.get(&value)?];
        while let Some(taken) = queue.pop() {
            queue.extend(&taken.addends);
            if taken.addends.is_empty() {
                let (value, sized) = (taken.value, taken.sized.clone());
                parts.push(Part { value, sized });
            }
        }
        Some(parts)
    }

    /// What a product or quotient with one number scales.
    fn scaled(&self, graph: &Graph, node: NodeId, scales: &mut Vec<Scale>) -> Option<ValueId> {
        let node = graph.node(node);
        let [Some(a), Some(b)] = node.inputs[..] else {
            return None;
        };
        let divides = node.op_type == "Div";
        let one = |v: ValueId| {
            let shape = self.analysis.samples.shape(v);
            !self.axes.layouts.contains_key(&v)
                && shape.is_some_and(|s| s.iter().all(|&d| d == Dim::ONE))
        };
        let (value, by) = match (one(a), one(b)) {
            (false, true) => (a, b),
            (true, false) if !divides => (b, a),
            _ => return None,
        };
        scales.push(Scale { by, divides });
        Some(value)
    }

    /// What scales a value is taken off it.
    fn unscaled(&self, graph: &Graph, value: ValueId) -> Scaled {
        let mut scaled = Scaled {
            value,
            scales: Vec::new(),
        };
        while let Some((node, _)) = graph.value(scaled.value).producer()
            && matches!(graph.node(node).op_type.as_str(), "Mul" | "Div")
            && let Some(value) = self.scaled(graph, node, &mut scaled.scales)
        {
            scaled.value = value;
        }
        scaled
    }
}

fn is_read_once(graph: &Graph, value: ValueId) -> bool {
    let v = graph.value(value);
    v.uses().len() == 1 && v.captured_by().is_empty() && !graph.is_output(value)
}

/// Writes the operator; returns its bias input.
fn fuse(e: &mut Emit<'_>, attention: &Attention) -> Option<ValueId> {
    let (heads, (channels, of_values)) = (attention.heads, attention.channels);
    let mut queries = heads_inside(e, attention.queries.value, &[0, 2, 1, 3]);
    let scales = attention
        .queries
        .scales
        .iter()
        .chain(&attention.keys.scales)
        .chain(&attention.scales);
    for scale in scales {
        queries = e.op(
            if scale.divides { "Div" } else { "Mul" },
            &[queries, scale.by],
            &[],
        );
    }
    let one = e.float(attention.dtype, 1.0);
    let queries = with_channels(e, queries, CHANNELS, one);
    let keys = heads_inside(e, attention.keys.value, &[0, 3, 1, 2]);
    // [B, 1, 1, keys] to [B, keys, heads, channels]: the bias, and zeros
    let mut bias = total(e, attention);
    if attention.on_cuda && attention.dtype == DataType::Float {
        bias = bounded(e, bias);
    }
    let bias = e.transpose(bias, &[0, 3, 1, 2]);
    let zero = e.float(attention.dtype, 0.0);
    let bias = with_channels(e, bias, CHANNELS - 1, zero);
    let each_head = e.target(&[1, 1, heads, 1].map(Size::Const));
    let bias = e.op("Expand", &[bias, each_head], &[]);
    let keys = e.concat(&[keys, bias], 3);
    // On CUDA fast attentions in 16 bits want heads of one size.
    let equal = attention.on_cuda && attention.dtype == DataType::Float16 && channels == of_values;
    let more_values = if equal { CHANNELS } else { 0 };
    let mut values = heads_inside(e, attention.values, &[0, 2, 1, 3]);
    if equal {
        values = with_channels(e, values, CHANNELS, zero);
    }
    let relative = sum(e, attention.relative.iter().map(|part| part.value));
    let mut inputs = Vec::new();
    for (value, size) in [
        (queries, channels + CHANNELS),
        (keys, channels + CHANNELS),
        (values, of_values + more_values),
    ] {
        let joined = [Size::Const(0), Size::Const(0), Size::Const(heads * size)];
        inputs.push(Some(e.reshape(value, &joined)));
    }
    // Neither a bias of the projections nor a mask.
    inputs.extend(
        relative
            .map(|bias| [None, None, Some(bias)])
            .into_iter()
            .flatten(),
    );
    let name = e.name("fused");
    let out = e.graph.new_value(&name);
    e.graph.add_node(NewNode {
        op_type: "MultiHeadAttention".to_owned(),
        domain: "com.microsoft".to_owned(),
        name,
        inputs,
        outputs: vec![Some(out)],
        attributes: vec![
            ("num_heads".to_owned(), AttrValue::Int(heads)),
            ("scale".to_owned(), AttrValue::Float(1.0)),
        ],
        ..NewNode::default()
    });
    let split = [
        Size::Const(0),
        Size::Const(0),
        Size::Const(heads),
        Size::Const(of_values + more_values),
    ];
    let mut out = e.reshape(out, &split);
    if equal {
        let (from, to) = (e.ints(&[0]), e.ints(&[of_values]));
        out = e.slice(out, from, to, 3);
    }
    replace(e, attention.product, out);
    relative
}

/// A value with its axes in another order; an order that it has been brought into before is taken back.
fn heads_inside(e: &mut Emit<'_>, value: ValueId, perm: &[usize]) -> ValueId {
    let earlier = e.graph.value(value).producer().and_then(|(node, _)| {
        let node = e.graph.node(node);
        let first = node
            .attr_ints("perm")
            .filter(|_| node.op_type == "Transpose")?;
        let perm: Option<Vec<usize>> = perm
            .iter()
            .map(|&i| usize::try_from(*first.get(i)?).ok())
            .collect();
        Some((node.inputs.first().copied().flatten()?, perm?))
    });
    match earlier {
        Some((value, perm)) => e.transpose(value, &perm),
        None => e.transpose(value, perm),
    }
}

/// `[.., channels]` with more channels of one value.
fn with_channels(e: &mut Emit<'_>, value: ValueId, more: i64, fill: ValueId) -> ValueId {
    let pads = e.ints(&[0, 0, 0, 0, 0, 0, 0, more]);
    e.op("Pad", &[value, pads, fill], &[])
}

fn sum(e: &mut Emit<'_>, values: impl Iterator<Item = ValueId>) -> Option<ValueId> {
    values.reduce(|sum, value| e.op("Add", &[sum, value], &[]))
}

/// All biases as one, `[batch, 1, 1, keys]`. As in the block, a condition replaces what was added before it: a sum of two
/// masks may be -inf where each of them is finite.
fn total(e: &mut Emit<'_>, attention: &Attention) -> ValueId {
    let dtype = attention.dtype;
    let mut total = None;
    for bias in attention.biases.iter().rev() {
        let sum = match (total, bias) {
            (None, &Bias::Added(value)) => value,
            (Some(sum), &Bias::Added(value)) => e.op("Add", &[sum, value], &[]),
            (
                sum,
                &Bias::Condition {
                    condition,
                    open,
                    blocked,
                },
            ) => {
                let free = sum.unwrap_or_else(|| e.float(dtype, 0.0));
                let blocked = e.float(dtype, blocked);
                let (yes, no) = if open {
                    (free, blocked)
                } else {
                    (blocked, free)
                };
                e.op("Where", &[condition, yes, no], &[])
            }
        };
        total = Some(sum);
    }
    total.unwrap_or_else(|| e.float(dtype, 0.0))
}

/// Masks of no less than [`BLOCKED`]; what is -inf stays. ONNX Runtime's CUDA kernel multiplies scores by log2(e), so that the lowest float would
/// become -inf, and a row all of whose keys are masked would be NaN instead of an average.
fn bounded(e: &mut Emit<'_>, bias: ValueId) -> ValueId {
    let lowest = e.float(DataType::Float, BLOCKED);
    let bounded = e.op("Max", &[bias, lowest], &[]);
    let never = e.float(DataType::Float, f64::NEG_INFINITY);
    let is_never = e.op("Equal", &[bias, never], &[]);
    e.op("Where", &[is_never, bias, bounded], &[])
}

/// The product's readers read `[batch, queries, heads, channels]`, in its own order of axes where they do not bring it into that one.
fn replace(e: &mut Emit<'_>, product: NodeId, inside: ValueId) {
    let Some(output) = e.graph.node(product).outputs.first().copied().flatten() else {
        return;
    };
    for (node, _) in e.graph.value(output).uses().to_vec() {
        let reader = e.graph.node(node);
        let back =
            reader.op_type == "Transpose" && reader.attr_ints("perm") == Some(vec![0, 2, 1, 3]);
        if let Some(moved) = reader
            .outputs
            .first()
            .copied()
            .flatten()
            .filter(|&m| back && !e.graph.is_output(m))
        {
            e.graph.replace_uses(moved, inside);
        }
    }
    let outside = e.transpose(inside, &[0, 2, 1, 3]);
    e.graph.replace_uses(output, outside);
}

/// `(scores + mask) + bias` becomes `scores + (mask + bias)` where the mask, or a part of it, is smaller than the scores.
fn join_biases(e: &mut Emit<'_>, known: &Known<'_>) {
    let axes = known.axes;
    let graph = &e.graph;
    let addition = |value: ValueId| {
        let (node, _) = graph.value(value).producer()?;
        match (
            graph.node(node).op_type.as_str(),
            &graph.node(node).inputs[..],
        ) {
            ("Add", &[Some(a), Some(b)]) if is_read_once(graph, value) => Some((node, [a, b])),
            _ => None,
        }
    };
    let biased = graph.node(axes.softmax).inputs.first().copied().flatten();
    let Some((_, [masked, bias])) = biased
        .and_then(addition)
        .filter(|(_, [_, b])| *b == known.count_bias)
    else {
        return;
    };
    let scores = axes
        .layouts
        .get(&axes.scores)
        .cloned()
        .unwrap_or_default()
        .0;
    let smaller = |part: &Part| {
        let sized = Some(&part.sized).filter(|s| s.len() == scores.len());
        sized.is_some_and(|s| {
            (0..s.len()).any(|i| i != axes.key_axis && !has_batch(&scores[i]) && !s[i])
        })
    };
    let Some((node, operands)) = addition(masked) else {
        return;
    };
    for (input, &operand) in operands.iter().enumerate() {
        let parts = known.parts(operand).unwrap_or_default();
        let (small, large): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(smaller);
        if small.is_empty() {
            continue;
        }
        let values = |parts: Vec<Part>| parts.into_iter().map(|p| p.value);
        let small = sum(e, values(small).chain([bias]));
        let joined = sum(e, values(large).chain(small));
        e.graph.set_input(node, input, joined);
        e.graph.set_input(axes.softmax, 0, Some(masked));
        return;
    }
}

fn comes_back(taken_apart: &[TakenApart], softmax: NodeId) -> bool {
    taken_apart
        .iter()
        .any(|t| t.softmax == softmax && t.bias_input.is_some())
}
