//! The padding mask of a stream: which value of the graph tells its valid tokens from padding.
//!
//! It is looked for backwards from what meets the scores, along values that still have the tokens: an input that was counted or summed
//! on the way (lengths, `mask_index`) is not the mask, what is compared with the count is. Which of the mask's values means padding is
//! read off the blocked scores at the samples.

use crate::block::BlockAxes;
use crate::bounds::cannot_block;
use crate::dim::{Dim, Samples};
use crate::flow::External;
use crate::interp::{Content, Facts};
use crate::layout::has_tokens;
use crate::masks::{strides, token_axes};
use crate::reach::Reach;
use onnx_model::{DataType, Graph, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// The padding mask of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PaddingMask {
    /// A graph input, or what the model makes of its inputs: shape `[B, n]`, or `[n]` for all batch rows, axes of size 1 aside.
    pub value: ValueId,
    /// Whether 0 (or false) marks a valid token, as in PyTorch's `key_padding_mask` and where the input is added to the scores.
    pub zero_is_valid: bool,
}

/// What meets the scores: the node and its input.
struct Reader {
    node: NodeId,
    external: External,
    /// What it is computed from, token by token.
    sources: BTreeSet<ValueId>,
}

/// The value that the attention masks of a stream tell padding by: a graph input, else the first value that is 0 or 1 for every token.
pub fn padding_mask(
    graph: &Graph,
    samples: &Samples,
    blocks: &[&BlockAxes],
) -> Option<PaddingMask> {
    let reach = Reach::new(graph);
    let axes = *blocks.first()?;
    let readers = readers(graph, samples, blocks);
    let sources: BTreeSet<ValueId> = readers.iter().flat_map(|r| &r.sources).copied().collect();
    let inputs: BTreeSet<ValueId> = sources
        .iter()
        .copied()
        .filter(|&v| graph.is_input(v) && !graph.is_initializer(v))
        .filter(|&v| is_mask_shape(samples, v, axes))
        .collect();
    let judged = |value: ValueId, facts: &Facts, [zero, one]: [usize; 2]| {
        let verdicts = readers
            .iter()
            .filter(|r| r.sources.contains(&value))
            .map(|r| blocked(graph, facts, r, zero, one));
        verdicts.max().unwrap_or(Blocked::Unknown)
    };
    // In the last sample the inputs are 1, and 0 at the last tokens.
    let padded = samples.0.last()?;
    let given: BTreeMap<ValueId, Blocked> = inputs
        .iter()
        .filter_map(|&v| {
            let tokens = usize::try_from(*padded.shape(v)?.last()?).ok()?;
            Some((v, judged(v, padded, [tokens.checked_sub(1)?, 0])))
        })
        .filter(|(_, blocked)| *blocked != Blocked::Neither)
        .collect();
    if !given.is_empty() {
        let value = one_of(graph, samples, &reach, given.keys().copied().collect())?;
        return Some(PaddingMask {
            value,
            zero_is_valid: given.get(&value) == Some(&Blocked::One),
        });
    }
    let mut made: Vec<ValueId> = sources
        .into_iter()
        .filter(|&v| graph.value(v).producer().is_some() && is_mask_shape(samples, v, axes))
        .collect();
    made.sort_by_key(|&v| graph.value(v).producer().map(|(n, _)| reach.position(n)));
    made.into_iter().find_map(|value| {
        let verdicts = samples.0.iter().filter_map(|facts| {
            let tokens = zero_and_one(facts, value)?;
            Some(judged(value, facts, tokens))
        });
        let zero_is_valid = match verdicts.max()? {
            Blocked::Zero => false,
            Blocked::One => true,
            Blocked::Neither | Blocked::Unknown => return None,
        };
        Some(PaddingMask {
            value,
            zero_is_valid,
        })
    })
}

/// Of two tokens, one with a 0 in the mask and one with a 1: which one is blocked?
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Blocked {
    /// The scores could not be computed, or are the same.
    Unknown,
    /// They differ by no more than a bias does.
    Neither,
    One,
    Zero,
}

fn readers(graph: &Graph, samples: &Samples, blocks: &[&BlockAxes]) -> Vec<Reader> {
    let mut readers = Vec::new();
    for axes in blocks {
        for (&node, flow) in &axes.flows {
            let scores_level = flow
                .outputs
                .iter()
                .any(|(_, l)| l.0.iter().filter(|a| has_tokens(a)).count() == 2);
            for external in &flow.externals {
                let may_block = !cannot_block(graph, axes, graph.node(node), external);
                if scores_level && may_block && !token_axes(external).is_empty() {
                    readers.push(Reader {
                        node,
                        external: external.clone(),
                        sources: sources(graph, samples, external.value, axes.tokens),
                    });
                }
            }
        }
    }
    readers
}

/// What a value is computed from through values that have the tokens, or a multiple of their number.
fn sources(graph: &Graph, samples: &Samples, value: ValueId, tokens: Dim) -> BTreeSet<ValueId> {
    let has_tokens = |v: ValueId| {
        samples
            .shape(v)
            .is_some_and(|s| s.iter().any(|d| d.exact_div(tokens).is_some()))
    };
    let mut seen = BTreeSet::from([value]);
    let mut queue = vec![value];
    while let Some(value) = queue.pop() {
        let Some((producer, _)) = graph.value(value).producer() else {
            continue;
        };
        let node = graph.node(producer);
        if matches!(node.op_type.as_str(), "Shape" | "Size") {
            continue;
        }
        for &input in node.inputs.iter().flatten().chain(node.captures()) {
            if has_tokens(input) && seen.insert(input) {
                queue.push(input);
            }
        }
    }
    seen
}

/// `[B, n]`, `[1, n]` or `[n]`, with any axes of size 1.
fn is_mask_shape(samples: &Samples, value: ValueId, axes: &BlockAxes) -> bool {
    let Some(shape) = samples.shape(value) else {
        return false;
    };
    let plain: Vec<Dim> = shape.into_iter().filter(|d| *d != Dim::ONE).collect();
    plain == [axes.tokens] || plain == [axes.batch, axes.tokens]
}

/// The likeliest of several graph inputs.
fn one_of(
    graph: &Graph,
    samples: &Samples,
    reach: &Reach,
    mut candidates: BTreeSet<ValueId>,
) -> Option<ValueId> {
    if candidates.len() > 1 {
        // Token ids index an embedding table; a padding mask does not.
        let indexed = |v: ValueId| {
            graph.node_ids().any(|n| {
                let node = graph.node(n);
                node.op_type == "Gather"
                    && node
                        .inputs
                        .get(1)
                        .copied()
                        .flatten()
                        .is_some_and(|i| reach.ancestors(graph, i).contains(&v))
                    && node.inputs.first().copied().flatten().is_some_and(|t| {
                        samples
                            .dtype(t)
                            .is_some_and(|d| !matches!(d, DataType::Int64 | DataType::Int32))
                    })
            })
        };
        let plain: BTreeSet<ValueId> = candidates
            .iter()
            .copied()
            .filter(|&v| !indexed(v))
            .collect();
        if !plain.is_empty() {
            candidates = plain;
        }
    }
    if candidates.len() > 1 {
        candidates.retain(|&v| graph.value(v).name.to_lowercase().contains("mask"));
    }
    candidates
        .first()
        .copied()
        .filter(|_| candidates.len() == 1)
}

/// Tokens of the first batch row at which a value that comes from the inputs is 0 and 1, if it is nothing else anywhere.
fn zero_and_one(facts: &Facts, value: ValueId) -> Option<[usize; 2]> {
    if !facts.assumed(value) {
        return None;
    }
    let tokens = usize::try_from(*facts.shape(value)?.last()?).ok()?;
    let values = facts.content(value)?.to_f64s();
    if values.iter().any(|&x| x != 0.0 && x != 1.0) {
        return None;
    }
    let row = values.get(..tokens)?;
    let at = |wanted: f64| row.iter().position(|&x| x == wanted);
    Some([at(0.0)?, at(1.0)?])
}

/// A bias of positions moves scores by less than this; a mask by more.
const BLOCKING: f64 = 8.0;

/// What happens to the scores of two keys of the first batch row of a sample, where the mask is 0 at one and 1 at the other.
fn blocked(graph: &Graph, facts: &Facts, reader: &Reader, zero: usize, one: usize) -> Blocked {
    let external = &reader.external;
    let at_keys = || {
        let (content, shape) = (facts.content(external.value)?, facts.shape(external.value)?);
        let values = content.to_f64s();
        let axis = token_axes(external)
            .last()?
            .checked_sub(external.frame.len() - shape.len())?;
        let stride = *strides(shape).get(axis)?;
        let is_bool = matches!(content, Content::Bool(_));
        Some((
            is_bool,
            *values.get(zero * stride)?,
            *values.get(one * stride)?,
        ))
    };
    let Some((is_bool, zero, one)) = at_keys().filter(|(_, zero, one)| zero != one) else {
        return Blocked::Unknown;
    };
    let by = |zero_blocks: bool| {
        if zero_blocks {
            Blocked::Zero
        } else {
            Blocked::One
        }
    };
    let node = graph.node(reader.node);
    match node.op_type.as_str() {
        "Where" if external.input == 0 => {
            let very_negative = |i: usize| {
                let value = node.inputs.get(i).copied().flatten()?;
                let numbers = facts.content(value).map(Content::to_f64s)?;
                Some(numbers.iter().all(|&x| x <= -1e3))
            };
            match (very_negative(1), very_negative(2)) {
                (Some(true), _) => by(zero == 1.0),
                (_, Some(true)) => by(zero == 0.0),
                _ => Blocked::Unknown,
            }
        }
        // The sample's ones and zeros as they are: the input holds what is added to the scores, 0 for a valid token.
        "Add" | "Sub" | "Sum" if !is_bool && (zero, one) == (0.0, 1.0) => Blocked::One,
        "Add" | "Sub" | "Sum" if (one - zero).abs() < BLOCKING => Blocked::Neither,
        "Sub" => by(one < zero),
        "Gather" | "GatherElements" | "GatherND" => Blocked::Neither,
        _ => by(zero < one),
    }
}
