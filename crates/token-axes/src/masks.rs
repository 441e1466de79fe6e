//! Masks: is an attention bidirectional, and which graph input tells padding from valid tokens.
//!
//! Both are read off the masks' *values* at the sample sizes, not off the operators that build them.

use crate::block::BlockAxes;
use crate::dim::{Dim, Samples};
use crate::flow::{External, describe};
use crate::interp::Content;
use crate::layout::has_tokens;
use crate::reach::Reach;
use crate::refusal::{Code, Refusal};
use onnx_model::{DataType, Graph, NodeId, ValueId};
use std::collections::BTreeSet;

/// Refuses a block in which an external makes attention depend on the order of two tokens as a causal mask does.
pub fn check(
    graph: &Graph,
    samples: &Samples,
    axes: &BlockAxes,
    core: &[NodeId],
) -> Result<(), Refusal> {
    for &id in core {
        for external in &axes.flows[&id].externals {
            let tokens: Vec<usize> = token_axes(external);
            let [first, second] = tokens[..] else {
                continue;
            };
            let name = &graph.value(external.value).name;
            let refuse = |code, reason| Refusal {
                code,
                node: describe(graph.node(id)),
                reason,
                trail: Vec::new(),
            };
            match is_triangular(samples, external, first, second) {
                Some(true) => {
                    return Err(refuse(
                        Code::Causal,
                        format!(
                            "'{name}' treats earlier and later tokens differently, as a causal mask does."
                        ),
                    ));
                }
                Some(false) => {}
                None if orders_tokens(graph, external.value) => {
                    return Err(refuse(
                        Code::MaskUndecided,
                        format!(
                            "'{name}' runs over queries and keys, and its values could not be computed."
                        ),
                    ));
                }
                None => {}
            }
        }
    }
    Ok(())
}

fn token_axes(external: &External) -> Vec<usize> {
    (0..external.frame.len())
        .filter(|&i| external.frame[i].present && has_tokens(&external.frame[i].axis))
        .collect()
}

/// Whether all values above the diagonal are one value that the diagonal does not have, while below it there are others (or
/// the same below). `None` if no sample tells the values.
fn is_triangular(
    samples: &Samples,
    external: &External,
    first: usize,
    second: usize,
) -> Option<bool> {
    let mut known = false;
    for facts in &samples.0 {
        let (Some(content), Some(shape)) =
            (facts.content(external.value), facts.shape(external.value))
        else {
            continue;
        };
        let values = numbers(content);
        let skip = external.frame.len() - shape.len();
        let (Some(a), Some(b)) = (first.checked_sub(skip), second.checked_sub(skip)) else {
            continue;
        };
        let n = shape[a] as usize;
        if shape[b] as usize != n || n < 2 || values.len() != shape.iter().product::<i64>() as usize
        {
            continue;
        }
        known = true;
        let strides = strides(shape);
        for offset in offsets(shape, &strides, a, b) {
            let at = |i: usize, j: usize| values[offset + i * strides[a] + j * strides[b]];
            if triangular(n, &at) || triangular(n, &|i, j| at(j, i)) {
                return Some(true);
            }
        }
    }
    known.then_some(false)
}

fn triangular(n: usize, at: &dyn Fn(usize, usize) -> f64) -> bool {
    let blocked = at(0, 1);
    let is_blocked = |x: f64| x == blocked || (x <= -1e30 && blocked <= -1e30);
    let above = (0..n).all(|i| (i + 1..n).all(|j| is_blocked(at(i, j))));
    let diagonal = (0..n).all(|i| !is_blocked(at(i, i)));
    let below = (1..n).any(|i| (0..i).any(|j| !is_blocked(at(i, j))));
    above && diagonal && below
}

fn strides(shape: &[i64]) -> Vec<usize> {
    let mut out = vec![1usize; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        out[i] = out[i + 1] * shape[i + 1].max(0) as usize;
    }
    out
}

/// The offsets of all matrices over two axes.
fn offsets(shape: &[i64], strides: &[usize], a: usize, b: usize) -> Vec<usize> {
    let mut out = vec![0usize];
    for (axis, &size) in shape.iter().enumerate() {
        if axis == a || axis == b {
            continue;
        }
        out = out
            .iter()
            .flat_map(|&o| (0..size.max(0) as usize).map(move |i| o + i * strides[axis]))
            .collect();
    }
    out
}

fn numbers(content: &Content) -> Vec<f64> {
    match content {
        Content::Int(v) => v.iter().map(|&x| x as f64).collect(),
        Content::Float(v) => v.clone(),
        Content::Bool(v) => v.iter().map(|&x| f64::from(u8::from(x))).collect(),
    }
}

/// Whether a value whose content is unknown could order two tokens at all: a comparison, a triangle or a table is needed.
fn orders_tokens(graph: &Graph, value: ValueId) -> bool {
    Reach::new(graph).ancestors(graph, value).iter().any(|&v| {
        if graph.is_initializer(v) {
            return graph.tensor(v).is_some_and(|t| {
                let dims = t.dims();
                dims.len() >= 2
                    && dims[dims.len() - 1] == dims[dims.len() - 2]
                    && dims[dims.len() - 1] > 1
            });
        }
        graph.value(v).producer().is_some_and(|(n, _)| {
            matches!(
                graph.node(n).op_type.as_str(),
                "Trilu"
                    | "Less"
                    | "LessOrEqual"
                    | "Greater"
                    | "GreaterOrEqual"
                    | "EyeLike"
                    | "Constant"
            ) && graph.node(n).op_type != "Constant"
        })
    })
}

/// The padding mask of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PaddingMask {
    /// The graph input.
    pub input: ValueId,
    /// Whether 0 (or false) marks a valid token, as in PyTorch's `key_padding_mask`.
    pub zero_is_valid: bool,
}

/// The graph input of shape `[B, n]` that the attention masks of a stream are built from.
pub fn padding_mask(
    graph: &Graph,
    samples: &Samples,
    blocks: &[&BlockAxes],
) -> Option<PaddingMask> {
    let reach = Reach::new(graph);
    let mut candidates: BTreeSet<ValueId> = BTreeSet::new();
    let mut readers: Vec<(NodeId, External)> = Vec::new();
    for axes in blocks {
        for (&id, flow) in &axes.flows {
            let scores_level = flow
                .outputs
                .iter()
                .any(|(_, l)| l.0.iter().filter(|a| has_tokens(a)).count() == 2);
            for external in flow
                .externals
                .iter()
                .filter(|e| scores_level && !token_axes(e).is_empty())
            {
                let inputs: BTreeSet<ValueId> = reach
                    .ancestors(graph, external.value)
                    .into_iter()
                    .filter(|&v| graph.is_input(v) && is_token_vector(samples, v, axes))
                    .collect();
                if !inputs.is_empty() {
                    readers.push((id, external.clone()));
                }
                candidates.extend(inputs);
            }
        }
    }
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
    let (Some(&input), 1) = (candidates.first(), candidates.len()) else {
        return None;
    };
    let verdict = readers
        .iter()
        .find_map(|(id, external)| zero_is_blocked(graph, samples, *id, external));
    Some(PaddingMask {
        input,
        zero_is_valid: verdict == Some(false),
    })
}

fn is_token_vector(samples: &Samples, value: ValueId, axes: &BlockAxes) -> bool {
    samples
        .shape(value)
        .is_some_and(|s| s == [axes.batch, axes.tokens] || s == [Dim::ONE, axes.tokens])
}

/// In the sample whose last tokens have a zero in the mask: are those the blocked ones?
fn zero_is_blocked(
    graph: &Graph,
    samples: &Samples,
    id: NodeId,
    external: &External,
) -> Option<bool> {
    let facts = samples.0.last()?;
    let (content, shape) = (facts.content(external.value)?, facts.shape(external.value)?);
    let values = numbers(content);
    let axis = token_axes(external)
        .last()?
        .checked_sub(external.frame.len() - shape.len())?;
    let n = shape[axis] as usize;
    let last = *values.get((n - 1) * strides(shape)[axis])?;
    let first = *values.first()?;
    if first == last {
        return None;
    }
    let node = graph.node(id);
    if node.op_type == "Where" && external.input == 0 {
        // Which branch is the blocking one?
        let very_negative = |i: usize| {
            let value = node.inputs.get(i).copied().flatten()?;
            let numbers = facts.content(value).map(numbers)?;
            Some(numbers.iter().all(|&x| x <= -1e3))
        };
        let blocked_when = if very_negative(1) == Some(true) {
            1.0
        } else if very_negative(2) == Some(true) {
            0.0
        } else {
            return None;
        };
        return Some(last == blocked_when);
    }
    let sign = if node.op_type == "Sub" { -1.0 } else { 1.0 };
    Some(last * sign < first * sign)
}
