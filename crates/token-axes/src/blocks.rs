//! Finding the blocks of every residual stream by data flow.
//!
//! A *cut* is a value that every data path from the stream's source to the primary output crosses. Scanning the nodes between
//! the two in topological order, a value is a cut exactly if, once it is produced, nothing else that was produced is still to
//! be read. Between two neighbouring cuts lies a segment; a block begins at the cut before a segment with an attention and
//! ends where the next begins.

use crate::attentions::{self, Attention, is_product, is_weight};
use crate::block::{self, BlockAxes, StreamOrder};
use crate::dim::{Dim, Samples};
use crate::flow::describe;
use crate::masks;
use crate::reach::{Reach, reads_shape_only};
use crate::refusal::{Code, Refusal};
use onnx_model::{DataType, Graph, Model, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// One block of a stream.
#[derive(Clone, Debug)]
pub struct Block {
    /// The cut it begins at.
    pub input: ValueId,
    /// The cut it ends at.
    pub output: ValueId,
    /// Its core nodes in topological order.
    pub core: Vec<NodeId>,
    /// A name for messages: the longest common prefix of its nodes' names.
    pub name: String,
    /// Its axes, or why it cannot be converted.
    pub axes: Result<Box<BlockAxes>, Refusal>,
}

/// A residual stream with its blocks.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its blocks in order, also those that cannot be converted.
    pub blocks: Vec<Block>,
    /// The graph output that its cuts were found against.
    pub output: ValueId,
}

/// Finds the streams of a graph and analyses their blocks.
pub fn find(model: &Model, samples: &Samples) -> Vec<Stream> {
    let graph = &model.graph;
    let reach = Reach::new(graph);
    let opset = model.opset("").unwrap_or(0);
    let candidates = attentions::find(graph, samples);
    let mut assigned: BTreeSet<NodeId> = BTreeSet::new();
    let mut streams = Vec::new();
    for attention in &candidates {
        if assigned.contains(&attention.softmax) {
            continue;
        }
        let Some((chain, output)) = best_chain(graph, samples, &reach, attention, &candidates)
        else {
            continue;
        };
        let blocks = split(graph, samples, opset, &reach, &chain, &candidates, output);
        let found: BTreeSet<NodeId> = candidates
            .iter()
            .map(|a| a.softmax)
            .filter(|s| blocks.iter().any(|b| b.core.contains(s)))
            .collect();
        if found.is_disjoint(&BTreeSet::from([attention.softmax])) {
            assigned.insert(attention.softmax);
        }
        // A stream is told once: blocks whose attention an earlier stream holds already are not new.
        let new: Vec<Block> = blocks
            .into_iter()
            .filter(|b| {
                candidates
                    .iter()
                    .any(|a| b.core.contains(&a.softmax) && !assigned.contains(&a.softmax))
            })
            .collect();
        assigned.extend(found);
        streams.extend(
            by_token_axis(new)
                .into_iter()
                .map(|blocks| Stream { blocks, output }),
        );
    }
    streams
}

/// Splits blocks where the tokens become others (pooling, a token joined, attention over another axis) or their channels: each run
/// has its own partition. A refused block stays with the blocks before it.
fn by_token_axis(blocks: Vec<Block>) -> Vec<Vec<Block>> {
    let mut runs: Vec<Vec<Block>> = Vec::new();
    let mut current: Option<(Dim, Dim, i64, StreamOrder)> = None;
    for block in blocks {
        let sizes = block
            .axes
            .as_ref()
            .ok()
            .map(|a| (a.batch, a.tokens, a.channels, a.order));
        let same = match (current, sizes) {
            (Some(before), Some(here)) => before == here,
            _ => true,
        };
        current = sizes.or(current);
        match runs.last_mut() {
            Some(run) if same => run.push(block),
            _ => {
                current = sizes;
                runs.push(vec![block]);
            }
        }
    }
    runs
}

/// The chain of cuts with the most blocks, and the graph output that it leads to.
fn best_chain(
    graph: &Graph,
    samples: &Samples,
    reach: &Reach,
    attention: &Attention,
    all: &[Attention],
) -> Option<(Vec<ValueId>, ValueId)> {
    let outputs = primary_outputs(graph, reach, attention, all);
    let chain = |output: ValueId| chain_to(graph, samples, reach, attention, all, output);
    // The first one, unless it is a value inside a block that is read out, before the output that lies behind: then it is no cut
    // on the way to that one, which has as many blocks.
    let is_interior = |output: ValueId, (blocks, cuts): &(usize, Vec<ValueId>)| {
        outputs.iter().any(|&other| {
            other != output
                && reach.ancestors(graph, other).contains(&output)
                && cuts
                    .first()
                    .is_some_and(|&s| !reach.cuts(graph, s, other).contains(&output))
                && chain(other).is_some_and(|(more, _)| more >= *blocks)
        })
    };
    let found = || outputs.iter().filter_map(|&o| Some((o, chain(o)?)));
    found()
        .find(|(output, chain)| !is_interior(*output, chain))
        .or_else(|| found().next())
        .map(|(output, (_, cuts))| (cuts, output))
}

/// The number of blocks and the chain of cuts to an output with the most of them, among those that begin at a common ancestor of
/// queries and keys. Blocks that begin at numbers count more than any others: a stream does not begin at token ids.
fn chain_to(
    graph: &Graph,
    samples: &Samples,
    reach: &Reach,
    attention: &Attention,
    all: &[Attention],
    output: ValueId,
) -> Option<(usize, Vec<ValueId>)> {
    let softmaxes: BTreeSet<NodeId> = all.iter().map(|a| a.softmax).collect();
    let is_float = |v: ValueId| {
        !samples
            .dtype(v)
            .is_some_and(|t| matches!(t, DataType::Int64 | DataType::Int32 | DataType::Bool))
    };
    let mut best: Option<((usize, usize), Vec<ValueId>)> = None;
    // Relative positions make products too; those of weights have no common source, others no chain of blocks.
    for &[a, b] in &attention.products {
        for source in common_sources(graph, reach, a, b) {
            let chain = reach.cuts(graph, source, output);
            let begins: Vec<ValueId> = chain
                .windows(2)
                .filter(|w| {
                    let segment = reach.between(graph, w[0], w[1]);
                    segment.iter().filter(|n| softmaxes.contains(n)).count() == 1
                })
                .map(|w| w[0])
                .collect();
            let of_numbers = begins.iter().filter(|&&v| is_float(v)).count();
            let blocks = (of_numbers, begins.len());
            if best.as_ref().is_none_or(|(most, _)| blocks > *most) {
                best = Some((blocks, chain));
            }
        }
        if best.as_ref().is_some_and(|((_, blocks), _)| *blocks > 0) {
            break;
        }
    }
    best.filter(|((_, blocks), _)| *blocks > 0)
        .map(|((_, blocks), chain)| (blocks, chain))
}

/// Values that both operands of a product are computed from, in topological order. Of very many the first and the last.
fn common_sources(graph: &Graph, reach: &Reach, a: ValueId, b: ValueId) -> Vec<ValueId> {
    const MOST: usize = 96;
    let (left, right) = (reach.ancestors(graph, a), reach.ancestors(graph, b));
    let place = |v: ValueId| {
        graph
            .value(v)
            .producer()
            .map_or(0, |(n, _)| reach.position(n) + 1)
    };
    let mut sources: Vec<(usize, ValueId)> = left
        .intersection(&right)
        .filter(|&&v| !is_weight(graph, v))
        .map(|&v| (place(v), v))
        .collect();
    sources.sort();
    if sources.len() > MOST {
        sources.drain(MOST / 3..sources.len() - 2 * MOST / 3);
    }
    sources.into_iter().map(|(_, v)| v).collect()
}

/// The graph outputs that depend on what the most attentions make of their weights, this one among them. The weights alone, as
/// an output, are not what an attention is for.
fn primary_outputs(
    graph: &Graph,
    reach: &Reach,
    attention: &Attention,
    all: &[Attention],
) -> Vec<ValueId> {
    let mut most = 0;
    let mut outputs = Vec::new();
    for &output in graph.outputs() {
        let ancestors = reach.ancestors(graph, output);
        let depends = |a: &Attention| a.results.iter().any(|v| ancestors.contains(v));
        if !depends(attention) {
            continue;
        }
        let count = all.iter().filter(|a| depends(a)).count();
        if count > most {
            outputs.clear();
            most = count;
        }
        if count == most {
            outputs.push(output);
        }
    }
    outputs
}

/// Splits a chain of cuts into blocks and analyses each.
fn split(
    graph: &Graph,
    samples: &Samples,
    opset: i64,
    reach: &Reach,
    chain: &[ValueId],
    all: &[Attention],
    primary: ValueId,
) -> Vec<Block> {
    let softmaxes: BTreeSet<NodeId> = all.iter().map(|a| a.softmax).collect();
    let segments: Vec<Vec<NodeId>> = chain
        .windows(2)
        .map(|w| reach.between(graph, w[0], w[1]))
        .collect();
    let attended: Vec<usize> = (0..segments.len())
        .filter(|&i| segments[i].iter().any(|n| softmaxes.contains(n)))
        .collect();
    // A stream is compressed as numbers: where it goes on as codes a block begins, or ends, at the numbers before them.
    let before_codes = |mut cut: usize, first: usize| {
        let place = cut;
        while cut > first && is_codes(samples, chain[cut]) {
            cut -= 1;
        }
        if is_codes(samples, chain[cut]) {
            place
        } else {
            cut
        }
    };
    let starts: Vec<usize> = (attended.iter().enumerate())
        .map(|(k, &i)| {
            let before = k.checked_sub(1).and_then(|p| attended.get(p));
            before_codes(i, before.map_or(0, |b| b + 1))
        })
        .collect();
    let mut blocks = Vec::new();
    for (k, &start) in starts.iter().enumerate() {
        let end = match (
            starts.get(k + 1),
            k.checked_sub(1).and_then(|p| starts.get(p)),
        ) {
            (Some(&next), _) => next,
            (None, Some(&previous)) => {
                let end = (start + (start - previous)).min(segments.len());
                before_codes(end, attended[k] + 1)
            }
            (None, None) => before_codes(
                single_block_end(graph, &segments, attended[k]),
                attended[k] + 1,
            ),
        };
        let end = last_of_stream(samples, chain, start, end);
        let core: Vec<NodeId> = segments[start..end].concat();
        let (input, output) = (chain[start], chain[end]);
        let own = core
            .iter()
            .copied()
            .filter(|n| softmaxes.contains(n))
            .collect();
        let windowed = windowed_attention(graph, samples, &own, &softmaxes);
        let axes = check_block(
            graph, samples, opset, reach, &core, input, output, &softmaxes, primary,
        );
        // Other tokens' keys, or windows, are the reason behind whatever the analysis stumbled over first.
        let axes = axes.map_err(|refusal| match refusal.code {
            Code::NotSelfAttention => refusal,
            _ => attentions::over_others(graph, &core, input, all)
                .or(windowed)
                .unwrap_or(refusal),
        });
        blocks.push(Block {
            input,
            output,
            name: common_name(graph, &core),
            core,
            axes: axes.map(Box::new),
        });
    }
    blocks
}

/// Whether a value holds integers, as quantised numbers.
fn is_codes(samples: &Samples, value: ValueId) -> bool {
    samples.dtype(value).is_some_and(|d| {
        !matches!(
            d,
            DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double
        )
    })
}

/// A softmax over a number of keys that is neither the number of its queries nor the length of any input: each query sees a
/// window of the tokens.
fn windowed_attention(
    graph: &Graph,
    samples: &Samples,
    own: &BTreeSet<NodeId>,
    all: &BTreeSet<NodeId>,
) -> Option<Refusal> {
    let shape = |id: NodeId| samples.shape(graph.node(id).outputs.first().copied().flatten()?);
    if own.iter().any(|&id| graph.node(id).op_type != "Softmax") {
        return None;
    }
    // A softmax of unknown shape is judged by its like.
    let like = if own.iter().any(|&id| shape(id).is_none()) {
        all
    } else {
        own
    };
    let lengths: BTreeSet<Dim> = graph
        .inputs()
        .iter()
        .filter(|&&v| !graph.is_initializer(v))
        .filter_map(|&v| samples.shape(v))
        .flatten()
        .collect();
    let softmaxes = like
        .iter()
        .filter(|&&id| graph.node(id).op_type == "Softmax");
    softmaxes.into_iter().find_map(|&id| {
        let node = graph.node(id);
        let shape = shape(id)?;
        let (keys, others) = shape.split_last()?;
        if others.contains(keys) || lengths.contains(keys) {
            return None;
        }
        Some(Refusal::new(
            Code::BlockLocal,
            describe(node),
            format!("Its queries {others:?} attend to {keys:?} keys each, not to all tokens."),
        ))
    })
}

/// Where a block ends: not in what follows the stream (a head that takes single tokens, or pools them), and not in another order
/// of the axes, but at the last value with the stream's shape.
fn last_of_stream(samples: &Samples, chain: &[ValueId], start: usize, end: usize) -> usize {
    let shape = |i: usize| chain.get(i).and_then(|&v| samples.shape(v));
    let is_stream = |&i: &usize| shape(i).is_some() && shape(i) == shape(start);
    (start + 1..=end).rev().find(is_stream).unwrap_or(end)
}

/// Where a lone block ends: after the feed-forward segment, and after the norm behind it if there was one behind the attention.
fn single_block_end(graph: &Graph, segments: &[Vec<NodeId>], start: usize) -> usize {
    let products = |i: usize| {
        segments[i]
            .iter()
            .filter(|&&n| is_product(&graph.node(n).op_type))
            .count()
    };
    let Some(feed_forward) = (start + 1..segments.len()).find(|&i| products(i) >= 2) else {
        return segments.len().min(start + 1);
    };
    // Post-LN has as many segments behind the feed-forward as between attention and feed-forward.
    (feed_forward + 1 + (feed_forward - start - 1)).min(segments.len())
}

#[allow(clippy::too_many_arguments)]
fn check_block(
    graph: &Graph,
    samples: &Samples,
    opset: i64,
    reach: &Reach,
    core: &[NodeId],
    input: ValueId,
    output: ValueId,
    softmaxes: &BTreeSet<NodeId>,
    primary: ValueId,
) -> Result<BlockAxes, Refusal> {
    let inside: Vec<NodeId> = core
        .iter()
        .copied()
        .filter(|n| softmaxes.contains(n))
        .collect();
    if inside.len() > 1 {
        return Err(Refusal {
            code: Code::ManyAttentions,
            node: inside
                .iter()
                .map(|&n| describe(graph.node(n)))
                .collect::<Vec<_>>()
                .join(", "),
            reason: format!(
                "There is no cut of the residual stream between {} attentions.",
                inside.len()
            ),
            trail: Vec::new(),
        });
    }
    let mut axes = block::analyse(graph, samples, opset, core, input, output)?;
    axes.follow_satellites(graph, samples, opset, reach, core)?;
    leaks(graph, reach, core, output, primary)?;
    masks::check(graph, samples, &axes, core)?;
    Ok(axes)
}

/// Nothing but the block's output may be read outside, except by Shape.
fn leaks(
    graph: &Graph,
    reach: &Reach,
    core: &[NodeId],
    output: ValueId,
    primary: ValueId,
) -> Result<(), Refusal> {
    let nodes: BTreeSet<NodeId> = core.iter().copied().collect();
    for &id in core {
        for &value in graph.node(id).outputs.iter().flatten() {
            if value == output {
                continue;
            }
            let refuse = |by: String| Refusal {
                code: Code::Exposed,
                node: describe(graph.node(id)),
                reason: format!(
                    "Its output '{}' is read outside the block by {by}.",
                    graph.value(value).name
                ),
                trail: Vec::new(),
            };
            if graph.is_output(value) || value == primary {
                return Err(refuse("the model's outputs".into()));
            }
            if let Some(&by) = graph.value(value).captured_by().first() {
                return Err(refuse(describe(graph.node(by))));
            }
            for &(reader, _) in graph.value(value).uses() {
                if nodes.contains(&reader)
                    || reads_shape_only(graph, reader)
                    || !reach.is_live(reader)
                {
                    continue;
                }
                return Err(refuse(describe(graph.node(reader))));
            }
        }
    }
    Ok(())
}

/// The longest common prefix of the node names, cut at a separator.
fn common_name(graph: &Graph, core: &[NodeId]) -> String {
    let mut names = core
        .iter()
        .map(|&n| graph.node(n).name.as_str())
        .filter(|n| !n.is_empty());
    let Some(first) = names.next() else {
        return String::new();
    };
    let mut prefix = first.to_owned();
    for name in names {
        let common = prefix
            .char_indices()
            .zip(name.chars())
            .find(|((_, a), b)| a != b)
            .map_or_else(|| prefix.len().min(name.len()), |((i, _), _)| i);
        prefix.truncate(common);
    }
    match prefix.rfind(['/', '.']) {
        Some(end) if prefix.len() < first.len() => prefix[..end].trim_matches('/').to_owned(),
        _ => prefix.trim_matches('/').to_owned(),
    }
}

/// The number of blocks by refusal code and those converted, for summaries.
pub fn tally(streams: &[Stream]) -> (usize, BTreeMap<Code, usize>) {
    let mut refused = BTreeMap::new();
    let mut convertible = 0;
    for block in streams.iter().flat_map(|s| &s.blocks) {
        match &block.axes {
            Ok(_) => convertible += 1,
            Err(r) => *refused.entry(r.code).or_insert(0) += 1,
        }
    }
    (convertible, refused)
}
