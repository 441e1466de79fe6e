//! Masks: is an attention bidirectional?
//!
//! That is read off the masks' *values* at the sample sizes, not off the operators that build them.

use crate::attentions::is_product;
use crate::block::BlockAxes;
use crate::bounds::cannot_block;
use crate::dim::{Dim, SAMPLES, Samples};
use crate::flow::{External, describe};
use crate::interp::Content;
use crate::layout::has_tokens;
use crate::reach::Reach;
use crate::refusal::{Code, Refusal};
use onnx_model::{Graph, NodeId, ValueId};

/// Refuses a block in which an external makes attention depend on the order of two tokens as a causal mask does.
pub fn check(
    graph: &Graph,
    samples: &Samples,
    axes: &BlockAxes,
    core: &[NodeId],
) -> Result<(), Refusal> {
    for &id in core {
        let node = graph.node(id);
        for external in &axes.flows[&id].externals {
            let tokens: Vec<usize> = token_axes(external);
            let [first, second] = tokens[..] else {
                continue;
            };
            // An index of relative positions moves numbers; it blocks nothing.
            if node.op_type == "GatherElements" || cannot_block(graph, axes, node, external) {
                continue;
            }
            let name = &graph.value(external.value).name;
            let refuse = |code, reason| Refusal::new(code, describe(node), reason);
            if compares_inputs(graph, samples, external.value) {
                return Err(refuse(
                    Code::MaskUndecided,
                    format!(
                        "'{name}' compares values of the model's inputs in order; it may be causal."
                    ),
                ));
            }
            match is_one_sided(samples, external, &node.op_type, first, second) {
                Some(true) => {
                    return Err(refuse(
                        Code::Causal,
                        format!(
                            "'{name}' lets one token see another that may not see it, as a causal mask does."
                        ),
                    ));
                }
                Some(false) => {}
                None if !spreads_inputs(graph, samples, axes, external.value) => {
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

pub(crate) fn token_axes(external: &External) -> Vec<usize> {
    (0..external.frame.len())
        .filter(|&i| external.frame[i].present && has_tokens(&external.frame[i].axis))
        .collect()
}

/// Whether some token sees another that may not see it. `None` if no sample tells: there must be one with two tokens that see each
/// other. Keys that no query sees and queries that see none are padding and do not count. The sample with padding is left out: its
/// padded queries see what its valid ones are not seen by.
fn is_one_sided(
    samples: &Samples,
    external: &External,
    op: &str,
    first: usize,
    second: usize,
) -> Option<bool> {
    let mut known = Known::default();
    for facts in samples.0.iter().take(SAMPLES - 1) {
        let (Some(content), Some(shape)) =
            (facts.content(external.value), facts.shape(external.value))
        else {
            continue;
        };
        let values = content.to_f64s();
        let skip = external.frame.len() - shape.len();
        let (Some(a), Some(b)) = (first.checked_sub(skip), second.checked_sub(skip)) else {
            continue;
        };
        let n = shape[a].max(0) as usize;
        if shape[b] != shape[a] || n < 2 || values.len() as i64 != shape.iter().product::<i64>() {
            continue;
        }
        let is_bool = matches!(content, Content::Bool(_));
        let strides = strides(shape);
        let offsets = offsets(shape, &strides, a, b);
        // What a product takes a pair's features with is nothing at all where the pair is blocked.
        let something = |i: usize, j: usize| {
            let place = i * strides[a] + j * strides[b];
            f64::from(offsets.iter().any(|o| values[o + place] != 0.0))
        };
        let swapped = |i: usize, j: usize| something(j, i);
        if is_product(op)
            && (one_sided(n, false, "Mul", &something) || one_sided(n, false, "Mul", &swapped))
        {
            return Some(true);
        }
        for &offset in &offsets {
            let at = |i: usize, j: usize| values[offset + i * strides[a] + j * strides[b]];
            known.look(n, is_bool, op, &at);
            if one_sided(n, is_bool, op, &at) || one_sided(n, is_bool, op, &|i, j| at(j, i)) {
                return Some(true);
            }
        }
    }
    known.enough().then_some(false)
}

/// What the samples have shown so far, for each value that lets a token be seen: numbers and `true`, `false`.
#[derive(Default)]
struct Known {
    /// Some token is seen.
    seen: [bool; 2],
    /// Two tokens see each other.
    both: [bool; 2],
}

impl Known {
    fn look(&mut self, n: usize, is_bool: bool, op: &str, at: &dyn Fn(usize, usize) -> f64) {
        let blocked = blocked(n, is_bool, op, at);
        for (reading, value) in [false, true].into_iter().enumerate() {
            if value && !is_bool {
                break;
            }
            let sees = |i: usize, j: usize| blocked[i * n + j] == value;
            let mut pairs = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
            self.seen[reading] |= pairs.clone().any(|(i, j)| sees(i, j) || sees(j, i));
            self.both[reading] |= pairs.any(|(i, j)| sees(i, j) && sees(j, i));
        }
    }

    /// Of a condition either value may be the one that lets see, if it occurs.
    fn enough(&self) -> bool {
        self.seen != [false; 2] && self.seen == self.both
    }
}

/// How far below the largest score of its row a score is blocked, whatever the other scores are.
pub(crate) const BLOCKED: f64 = 50.0;
/// The same where all later tokens have one score and all others another: no bias of relative positions is like that.
pub(crate) const BLOCKED_STEP: f64 = 8.0;

/// Which keys are blocked for which queries.
fn blocked(n: usize, is_bool: bool, op: &str, at: &dyn Fn(usize, usize) -> f64) -> Vec<bool> {
    // Of a condition either value may be the blocking one: what counts is that the two directions differ.
    let zero_blocks = is_bool || op == "Mul";
    let row = |i: usize| {
        let largest = (0..n).map(|j| at(i, j)).fold(f64::NEG_INFINITY, f64::max);
        // A query may see no key at all.
        let range = if largest <= -BLOCKED { 0.0 } else { BLOCKED };
        let least = largest - range;
        (0..n).map(move |j| {
            let x = at(i, j);
            (zero_blocks && x == 0.0) || (!is_bool && x <= least)
        })
    };
    (0..n).flat_map(row).collect()
}

fn one_sided(n: usize, is_bool: bool, op: &str, at: &dyn Fn(usize, usize) -> f64) -> bool {
    let all = blocked(n, is_bool, op, at);
    let blocked = |i: usize, j: usize| all[i * n + j];
    let padding: Vec<bool> = (0..n)
        .map(|j| {
            let column = (0..n).filter(|&i| blocked(i, j)).count();
            let row = (0..n).filter(|&i| blocked(j, i)).count();
            column == n || row == n || (is_bool && (column == 0 || row == 0))
        })
        .collect();
    let pairs = || (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
    let step = n > 2
        && at(1, 0) - at(0, 1) >= BLOCKED_STEP
        && pairs().all(|(i, j)| at(i, j) == at(1, 0) && at(j, i) == at(0, 1));
    step || pairs().any(|(i, j)| !padding[i] && !padding[j] && blocked(i, j) != blocked(j, i))
}

pub(crate) fn strides(shape: &[i64]) -> Vec<usize> {
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

/// Whether a value with two token axes is made by comparing, in order, values that depend on the content of graph inputs
/// (positions that are given from outside, say): its values at the samples prove nothing. A difference counts unless only
/// its size is used.
fn compares_inputs(graph: &Graph, samples: &Samples, value: ValueId) -> bool {
    let Some(facts) = samples.0.first() else {
        return false;
    };
    // A comparison with a constant tells valid tokens from padding: here both sides vary, and spread each other.
    let pairs = |id: NodeId| {
        let node = graph.node(id);
        let output = node
            .outputs
            .first()
            .copied()
            .flatten()
            .and_then(|v| samples.shape(v));
        node.inputs.iter().flatten().all(|&i| {
            facts.assumed(i)
                && samples
                    .shape(i)
                    .is_some_and(|s| s.iter().any(|d| *d != Dim::ONE))
        }) && node
            .inputs
            .iter()
            .flatten()
            .any(|&i| samples.shape(i) != output)
    };
    let size_only = |id: NodeId| {
        let readers = graph
            .node(id)
            .outputs
            .iter()
            .flatten()
            .flat_map(|&v| graph.value(v).uses());
        readers
            .into_iter()
            .all(|&(n, _)| matches!(graph.node(n).op_type.as_str(), "Abs" | "Equal" | "Shape"))
    };
    Reach::new(graph).ancestors(graph, value).iter().any(|&v| {
        graph
            .value(v)
            .producer()
            .is_some_and(|(id, _)| match graph.node(id).op_type.as_str() {
                "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" => pairs(id),
                "Sub" => pairs(id) && !size_only(id),
                _ => false,
            })
    })
}

/// Whether a value of unknown content is nothing but inputs of one token axis spread over pairs: it then blocks a pair for
/// what its tokens are, never for their order.
fn spreads_inputs(graph: &Graph, samples: &Samples, axes: &BlockAxes, value: ValueId) -> bool {
    const SMALL: usize = 4;
    Reach::new(graph).ancestors(graph, value).iter().all(|&v| {
        let constant = graph.initializer(v).or_else(|| graph.tensor(v));
        if graph.is_initializer(v) || constant.is_some() {
            return constant
                .and_then(|t| t.len())
                .is_some_and(|len| len <= SMALL);
        }
        if graph.is_input(v) {
            return is_token_vector(samples, v, axes);
        }
        graph.value(v).producer().is_some_and(|(n, _)| {
            matches!(
                graph.node(n).op_type.as_str(),
                "Cast"
                    | "Not"
                    | "And"
                    | "Or"
                    | "Equal"
                    | "Sub"
                    | "Add"
                    | "Mul"
                    | "Where"
                    | "Unsqueeze"
                    | "Squeeze"
                    | "Expand"
                    | "Reshape"
                    | "Identity"
                    | "Transpose"
                    | "Neg"
                    | "Shape"
                    | "Constant"
                    | "ConstantOfShape"
            )
        })
    })
}

fn is_token_vector(samples: &Samples, value: ValueId, axes: &BlockAxes) -> bool {
    samples
        .shape(value)
        .is_some_and(|s| s == [axes.batch, axes.tokens] || s == [Dim::ONE, axes.tokens])
}
