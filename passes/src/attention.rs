//! Pass `attention`: what depends on the key alone is added to the scores of a rewritten block once, or not at all.
//!
//! The scores get the model's masks and our count bias. Where both are the same for all heads or queries they are added to each
//! other first. Where they are the same for all heads and queries, and nothing else is added, the attention becomes one
//! MultiHeadAttention of com.microsoft without a bias: queries get [`CHANNELS`] more channels that are 1, keys as many of which
//! the first holds the bias and the others are 0, and so the product holds it. Nothing of size queries x keys is left in memory, and ONNX
//! Runtime's fused kernel, which a bias input turns off, does the work (docs/decisions.md has the times). Scales go to the queries first: the
//! bias must not be scaled.
//!
//! Only float32, and float16 for CUDA: ONNX Runtime's CPU kernel knows no other. With `--inline` attentions stay as they are, in operators of ONNX.

use crate::canonical::TakenApart;
use crate::conversion::{Conversion, Form};
use crate::emit::{Emit, Size};
use crate::error::Error;
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
            sized: &c.sized,
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
                fuse(&mut e, &attention);
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
    sized: &'a BTreeMap<ValueId, Vec<bool>>,
    count_bias: ValueId,
    on_cuda: bool,
}

/// An attention of a rewritten block that is products, scales, key biases and a softmax.
struct Attention {
    dtype: DataType,
    queries: Scaled,
    keys: Scaled,
    values: ValueId,
    heads: i64,
    /// Channels of a head, of its queries and of its values.
    channels: (i64, i64),
    /// Scales of the product.
    scales: Vec<Scale>,
    /// What is added to the scores, the count bias first.
    biases: Vec<Bias>,
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
        let (mut scales, mut biases) = (Vec::new(), Vec::new());
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
                    let (scores, bias) = match (self.depends_on_key(a), self.depends_on_key(b)) {
                        (false, true) => (a, b),
                        (true, false) => (b, a),
                        _ => return None,
                    };
                    biases.push(Bias::Added(bias));
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
                ("Mul" | "Div", _) => self.scaled(graph, node, &mut scales)?,
                ("MatMul", &[Some(queries), Some(keys)]) => break (queries, keys),
                _ => return None,
            };
        };
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
            queries: self.unscaled(graph, queries),
            keys: self.unscaled(graph, keys),
            values,
            heads,
            channels: (of_queries, of_values),
            scales,
            biases,
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
        let sized = self.sized.get(&value).map(Vec::as_slice);
        value == self.count_bias || matches!(sized, Some([_, false, false, _]))
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

fn fuse(e: &mut Emit<'_>, attention: &Attention) {
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
    let bias = total(e, attention);
    let bias = e.transpose(bias, &[0, 3, 1, 2]);
    let zero = e.float(attention.dtype, 0.0);
    let bias = with_channels(e, bias, CHANNELS - 1, zero);
    let each_head = e.target(&[1, 1, heads, 1].map(Size::Const));
    let bias = e.op("Expand", &[bias, each_head], &[]);
    let keys = e.concat(&[keys, bias], 3);
    let values = heads_inside(e, attention.values, &[0, 2, 1, 3]);
    let mut inputs = Vec::new();
    for (value, size) in [
        (queries, channels + CHANNELS),
        (keys, channels + CHANNELS),
        (values, of_values),
    ] {
        let joined = [Size::Const(0), Size::Const(0), Size::Const(heads * size)];
        inputs.push(Some(e.reshape(value, &joined)));
    }
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
        Size::Const(of_values),
    ];
    let out = e.reshape(out, &split);
    replace(e, attention.product, out);
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

/// The sum of the biases, `[batch, 1, 1, keys]`.
fn total(e: &mut Emit<'_>, attention: &Attention) -> ValueId {
    let dtype = attention.dtype;
    let mut total = None;
    for bias in &attention.biases {
        let bias = match *bias {
            Bias::Added(value) => value,
            Bias::Condition {
                condition,
                open,
                blocked,
            } => {
                let (free, blocked) = (e.float(dtype, 0.0), e.float(dtype, blocked));
                let (yes, no) = if open {
                    (free, blocked)
                } else {
                    (blocked, free)
                };
                e.op("Where", &[condition, yes, no], &[])
            }
        };
        total = Some(total.map_or(bias, |sum| e.op("Add", &[sum, bias], &[])));
    }
    total.unwrap_or_else(|| e.float(dtype, 0.0))
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

/// `(scores + mask) + bias` becomes `scores + (mask + bias)` where the mask is smaller than the scores.
fn join_biases(e: &mut Emit<'_>, known: &Known<'_>) {
    let axes = known.axes;
    let graph = &e.graph;
    let sum = |value: ValueId| {
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
        .and_then(sum)
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
    let smaller = |value: &ValueId| {
        let sized = known.sized.get(value).filter(|s| s.len() == scores.len());
        sized.is_some_and(|s| {
            (0..s.len()).any(|i| i != axes.key_axis && !has_batch(&scores[i]) && !s[i])
        })
    };
    let Some((node, operands)) = sum(masked) else {
        return;
    };
    if let Some(input) = operands.iter().position(smaller) {
        let joined = e.op("Add", &[operands[input], bias], &[]);
        e.graph.set_input(node, input, Some(joined));
        e.graph.set_input(axes.softmax, 0, Some(masked));
    }
}

fn comes_back(taken_apart: &[TakenApart], softmax: NodeId) -> bool {
    taken_apart
        .iter()
        .any(|t| t.softmax == softmax && t.bias_input.is_some())
}
