//! The axes of one block: every core value's layout, its attention, its externals.

use crate::dim::{Dim, Samples};
use crate::flow::{self, Flow, ShapeOperand, Site, describe};
use crate::layout::{Axis, Factor, Layout, Role, feature, has_tokens, varies};
use crate::reach::{Reach, reads_shape_only};
use crate::refusal::{Code, Refusal};
use onnx_model::{DataType, Graph, NodeId, ValueId};
use std::collections::BTreeMap;

/// The order of the axes of the residual stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamOrder {
    /// `[B, n, d]`
    BatchTokenFeature,
    /// `[n, B, d]`
    TokenBatchFeature,
    /// `[B, d, n]`
    BatchFeatureToken,
}

impl StreamOrder {
    /// All orders, the likely one first.
    pub const ALL: [StreamOrder; 3] = [
        StreamOrder::BatchTokenFeature,
        StreamOrder::TokenBatchFeature,
        StreamOrder::BatchFeatureToken,
    ];

    /// The positions of batch, token and feature axis.
    pub fn positions(self) -> [usize; 3] {
        match self {
            StreamOrder::BatchTokenFeature => [0, 1, 2],
            StreamOrder::TokenBatchFeature => [1, 0, 2],
            StreamOrder::BatchFeatureToken => [0, 2, 1],
        }
    }

    /// The order as text.
    pub fn as_str(self) -> &'static str {
        match self {
            StreamOrder::BatchTokenFeature => "[batch, token, feature]",
            StreamOrder::TokenBatchFeature => "[token, batch, feature]",
            StreamOrder::BatchFeatureToken => "[batch, feature, token]",
        }
    }

    /// The layout of a stream of a shape; `None` if the channels are not constant.
    pub fn layout(self, shape: &[Dim]) -> Option<Layout> {
        let [b, t, f] = self.positions();
        let (&batch, &token, &channels) = (shape.get(b)?, shape.get(t)?, shape.get(f)?);
        if shape.len() != 3 || channels.constant().is_none() {
            return None;
        }
        let mut axes: Vec<Axis> = vec![Vec::new(); 3];
        axes[b] = vec![Factor {
            role: Role::Batch,
            size: batch,
        }];
        axes[t] = vec![Factor {
            role: Role::Token,
            size: token,
        }];
        axes[f] = feature(channels);
        Some(Layout(axes))
    }
}

/// The axes of a block that can be converted.
#[derive(Clone, Debug)]
pub struct BlockAxes {
    /// The order of the stream's axes.
    pub order: StreamOrder,
    /// The number of tokens.
    pub tokens: Dim,
    /// The batch size.
    pub batch: Dim,
    /// Channels of the stream.
    pub channels: i64,
    /// The layout of every core value, the block's input included.
    pub layouts: BTreeMap<ValueId, Layout>,
    /// The layouts of values beside the core of which only the shapes are read.
    pub satellites: BTreeMap<ValueId, Layout>,
    /// What every core node does.
    pub flows: BTreeMap<NodeId, Flow>,
    /// The attention's softmax.
    pub softmax: NodeId,
    /// Its input.
    pub scores: ValueId,
    /// The key axis of the scores.
    pub key_axis: usize,
    /// The query axis of the scores.
    pub query_axis: usize,
}

/// Analyses a block from `input` to `output` whose core nodes are given in topological order.
pub fn analyse(
    graph: &Graph,
    samples: &Samples,
    opset: i64,
    core: &[NodeId],
    input: ValueId,
    output: ValueId,
) -> Result<BlockAxes, Refusal> {
    let first = core
        .first()
        .map(|&n| describe(graph.node(n)))
        .unwrap_or_default();
    let shape = samples.shape(input).ok_or_else(|| {
        let what = format!("the block's input '{}'", graph.value(input).name);
        flow::shape_unknown(graph, samples, input, &first, &what)
    })?;
    let dtype = samples.dtype(input);
    if !matches!(
        dtype,
        Some(DataType::Float | DataType::Float16 | DataType::Bfloat16)
    ) {
        return Err(Refusal::new(
            Code::DataType,
            first,
            format!(
                "The residual stream '{}' has data type {}.",
                graph.value(input).name,
                dtype.map_or("unknown", DataType::short_name)
            ),
        ));
    }
    // The orders are hypotheses: only the right one gets through all operators. The first order's failure is the one to tell,
    // unless another got further.
    let mut failure: Option<(usize, Refusal)> = None;
    for order in StreamOrder::ALL {
        let Some(layout) = order.layout(&shape) else {
            continue;
        };
        match follow(graph, samples, opset, core, input, output, order, layout) {
            Ok(axes) => return Ok(axes),
            Err((depth, refusal)) => {
                if failure.as_ref().is_none_or(|(d, _)| depth > *d) {
                    failure = Some((depth, refusal));
                }
            }
        }
    }
    Err(failure.map(|(_, r)| r).unwrap_or_else(|| {
        let name = &graph.value(input).name;
        match shape[..] {
            [rows, _] if rows.constant().is_none() => Refusal::new(
                Code::Axes,
                first,
                format!("The residual stream '{name}' of shape {shape:?} has batch and tokens in one axis."),
            ),
            _ => Refusal::new(
                Code::NotSelfAttention,
                first,
                format!(
                    "It begins at '{name}' of shape {shape:?}, which is no residual stream [batch, token, feature] in any order."
                ),
            ),
        }
    }))
}

#[allow(clippy::too_many_arguments)]
fn follow(
    graph: &Graph,
    samples: &Samples,
    opset: i64,
    core: &[NodeId],
    input: ValueId,
    output: ValueId,
    order: StreamOrder,
    layout: Layout,
) -> Result<BlockAxes, (usize, Refusal)> {
    let [b, t, f] = order.positions();
    let size = |i: usize| crate::layout::axis_size(&layout.0[i]);
    let (batch, tokens, channels) = (size(b), size(t), size(f).constant().unwrap_or(1));
    let mut layouts = BTreeMap::from([(input, layout.clone())]);
    let mut flows = BTreeMap::new();
    let mut softmaxes = Vec::new();
    for (depth, &id) in core.iter().enumerate() {
        let node = graph.node(id);
        let site = Site {
            graph,
            samples,
            opset,
            tokens,
            batch,
            core: &layouts,
            id,
            node,
        };
        let flow = flow::apply(&site)
            .and_then(|flow| check_shapes(&site, &flow).map(|()| flow))
            .and_then(|flow| check_lengths(&site, &flow).map(|()| flow))
            .map_err(|r| {
                // Attention over what this reading takes for the batch: it has the two mixed up, however far it got.
                let told = if flow::attends_to_batch(&site) {
                    0
                } else {
                    depth
                };
                let trail = trail(graph, &layouts, &core[..depth]);
                (told, Refusal { trail, ..r })
            })?;
        if let Some(key_axis) = flow.softmax {
            softmaxes.push((id, key_axis));
        }
        layouts.extend(flow.outputs.iter().cloned());
        flows.insert(id, flow);
    }
    let end = core.len();
    let refuse = |node: NodeId, code, reason: String| {
        (
            end,
            Refusal {
                code,
                node: describe(graph.node(node)),
                reason,
                trail: Vec::new(),
            },
        )
    };
    let Some(&last) = core.last() else {
        return Err((
            0,
            Refusal {
                code: Code::Internal,
                node: String::new(),
                reason: "The block is empty.".into(),
                trail: Vec::new(),
            },
        ));
    };
    if softmaxes.is_empty() {
        return Err(refuse(
            last,
            Code::NotSelfAttention,
            "What it attends to are not the block's own tokens.".into(),
        ));
    }
    let [(softmax, key_axis)] = softmaxes[..] else {
        return Err(refuse(
            last,
            Code::ManyAttentions,
            format!("The block has {} attentions.", softmaxes.len()),
        ));
    };
    let scores = graph.node(softmax).inputs.first().copied().flatten();
    let (Some(scores), Some(scores_layout)) = (scores, scores.and_then(|v| layouts.get(&v))) else {
        return Err(refuse(
            softmax,
            Code::Axes,
            "Its input is not computed from the block's input.".into(),
        ));
    };
    let queries: Vec<usize> = (0..scores_layout.0.len())
        .filter(|&i| i != key_axis && has_tokens(&scores_layout.0[i]))
        .collect();
    let [query_axis] = queries[..] else {
        return Err(refuse(
            softmax,
            Code::NotSelfAttention,
            format!(
                "The scores {scores_layout} have {} query axes.",
                queries.len()
            ),
        ));
    };
    match layouts.get(&output) {
        Some(out) if *out == layout => {}
        Some(out) => {
            return Err(refuse(
                last,
                Code::Axes,
                format!("The block leaves as {out}, but enters as {layout}."),
            ));
        }
        None => {
            return Err(refuse(
                last,
                Code::Axes,
                "The block's output is not computed from its input.".into(),
            ));
        }
    }
    let batch_axis = scores_layout
        .0
        .iter()
        .find(|axis| crate::layout::has_batch(axis));
    let mixed = scores_layout
        .0
        .get(query_axis)
        .is_some_and(|axis| axis.len() != 1)
        || batch_axis.is_some_and(|axis| axis.first().is_some_and(|f| f.role != Role::Batch));
    if mixed {
        return Err(refuse(
            softmax,
            Code::Axes,
            format!("Its scores {scores_layout} have queries or batch merged with other axes."),
        ));
    }
    let satellites = BTreeMap::new();
    Ok(BlockAxes {
        satellites,
        order,
        tokens,
        batch,
        channels,
        layouts,
        flows,
        softmax,
        scores,
        key_axis,
        query_axis,
    })
}

impl BlockAxes {
    /// Follows the axes into nodes beside the core whose values nothing reads, only their shapes (a transposed key whose
    /// length slices a mask): readers of those shapes must be told the model's sizes.
    pub(crate) fn follow_satellites(
        &mut self,
        graph: &Graph,
        samples: &Samples,
        opset: i64,
        reach: &Reach,
        core: &[NodeId],
    ) -> Result<(), Refusal> {
        for id in reach.satellites(graph, core) {
            let node = graph.node(id);
            let flow = {
                let site = Site {
                    graph,
                    samples,
                    opset,
                    tokens: self.tokens,
                    batch: self.batch,
                    core: &self.layouts,
                    id,
                    node,
                };
                flow::apply(&site)?
            };
            self.satellites.extend(flow.outputs);
            self.layouts
                .extend(self.satellites.iter().map(|(v, l)| (*v, l.clone())));
        }
        for value in self.satellites.keys() {
            self.layouts.remove(value);
        }
        Ok(())
    }
}

/// The nodes followed so far with the layouts of their outputs.
pub fn trail(graph: &Graph, layouts: &BTreeMap<ValueId, Layout>, nodes: &[NodeId]) -> Vec<String> {
    let layout = |id: NodeId| {
        graph
            .node(id)
            .outputs
            .iter()
            .flatten()
            .find_map(|v| layouts.get(v))
    };
    nodes
        .iter()
        .filter_map(|&id| Some(format!("{} -> {}", describe(graph.node(id)), layout(id)?)))
        .collect()
}

/// A feature whose size follows from the model's number of tokens is known by its operators only: no shape can be told with it.
fn check_lengths(site: &Site<'_>, flow: &Flow) -> Result<(), Refusal> {
    let read = |value: ValueId| {
        let uses = site.graph.value(value).uses();
        uses.iter().any(|&(n, _)| reads_shape_only(site.graph, n))
    };
    for (value, layout) in &flow.outputs {
        if !layout.0.iter().any(varies) {
            continue;
        }
        if matches!(flow.operand, Some(ShapeOperand::Reshape)) {
            return Err(site.refuse(
                Code::TokenMixing,
                format!("It makes {layout} of tokens and of an axis whose length follows from theirs, as to shift scores of relative positions."),
            ));
        }
        if matches!(flow.operand, Some(ShapeOperand::Expand)) || read(*value) {
            return Err(site.refuse(
                Code::External,
                format!("Its output {layout} has an axis whose length follows from the number of tokens, and its shape is used."),
            ));
        }
    }
    Ok(())
}

/// The layouts must have the sizes that the samples show: a disagreement would be a defect of the analysis.
fn check_shapes(site: &Site<'_>, flow: &Flow) -> Result<(), Refusal> {
    for (value, layout) in &flow.outputs {
        let Some(shape) = site.samples.shape(*value) else {
            continue;
        };
        let sizes: Vec<Dim> = layout.0.iter().map(crate::layout::axis_size).collect();
        if sizes != shape {
            return Err(site.refuse(
                Code::Internal,
                format!("Its output was followed as {layout}, but has shape {shape:?}."),
            ));
        }
    }
    Ok(())
}
