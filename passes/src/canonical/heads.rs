//! What all fused attentions have in common: queries, keys and values per head, a scale, masks.

use super::{Mask, TakenApart, put_aside};
use crate::emit::{Emit, Size};
use onnx_model::{AttrValue, DataType, Node, NodeId, ValueId};

/// The operands of an attention, `[B, heads, n, head size]` each.
pub(super) struct Heads {
    pub(super) query: ValueId,
    pub(super) key: ValueId,
    pub(super) value: ValueId,
    pub(super) scale: f64,
    /// Scores are bent to stay within this, before masks; 0 is no bound.
    pub(super) softcap: f64,
}

/// The data type of scores and masks of the operators of com.microsoft: they compute in it whatever their inputs are. In a
/// narrower one a mask of -10000 would round the scores under it away, and two masks would be -inf.
pub(super) const SCORES: DataType = DataType::Float;

/// A mask of an attention, in the data type of the scores.
pub(super) enum MaskValue {
    Added(ValueId),
    Condition(ValueId),
}

/// `[B, n, heads * size]` to `[B, heads, n, size]`.
pub(super) fn split(e: &mut Emit<'_>, value: ValueId, heads: i64, size: i64) -> ValueId {
    let split = e.reshape(
        value,
        &[
            Size::Const(0),
            Size::Const(0),
            Size::Const(heads),
            Size::Const(size),
        ],
    );
    e.transpose(split, &[0, 2, 1, 3])
}

/// `[B, heads, n, size]` with each head several times, one after the other.
pub(super) fn repeat(
    e: &mut Emit<'_>,
    value: ValueId,
    heads: i64,
    times: i64,
    size: i64,
) -> ValueId {
    if times == 1 {
        return value;
    }
    let value = e.unsqueeze(value, &[2]);
    let shape = e.ints(&[1, 1, times, 1, 1]);
    let value = e.op("Expand", &[value, shape], &[]);
    let target = [0, heads * times, -1, size].map(Size::Const);
    e.reshape(value, &target)
}

/// `[B, heads, n, size]` to `[B, n, heads * size]`.
fn join(e: &mut Emit<'_>, value: ValueId, channels: i64) -> ValueId {
    let joined = e.transpose(value, &[0, 2, 1, 3]);
    e.reshape(
        joined,
        &[Size::Const(0), Size::Const(0), Size::Const(channels)],
    )
}

/// An attention bias in the data type of the scores.
pub(super) fn added(e: &mut Emit<'_>, bias: ValueId, dtype: DataType) -> MaskValue {
    MaskValue::Added(as_type(e, bias, dtype, SCORES))
}

fn as_type(e: &mut Emit<'_>, value: ValueId, from: DataType, to: DataType) -> ValueId {
    if from == to { value } else { e.cast(value, to) }
}

/// Emits products and softmax and puts the fused node aside. `types`: of the operands, and of the scores. `channels`: the
/// output is `[B, n, channels]`, not per head.
pub(super) fn attend(
    e: &mut Emit<'_>,
    (dtype, scores_type): (DataType, DataType),
    (id, node): (NodeId, &Node),
    heads: &Heads,
    masks: &[MaskValue],
    channels: Option<i64>,
    bias_input: Option<usize>,
) -> Option<TakenApart> {
    let output = node.outputs.first().copied().flatten()?;
    let scale = e.float(dtype, heads.scale);
    let query = e.op("Mul", &[heads.query, scale], &[]);
    let key = e.transpose(heads.key, &[0, 1, 3, 2]);
    let product = e.op("MatMul", &[query, key], &[]);
    let mut scores = as_type(e, product, dtype, scores_type);
    if heads.softcap != 0.0 {
        let cap = e.float(scores_type, heads.softcap);
        scores = e.op("Div", &[scores, cap], &[]);
        scores = e.op("Tanh", &[scores], &[]);
        scores = e.op("Mul", &[scores, cap], &[]);
    }
    let mut nodes = Vec::new();
    for mask in masks {
        scores = match mask {
            MaskValue::Added(mask) => e.op("Add", &[scores, *mask], &[]),
            MaskValue::Condition(condition) => {
                let blocked = e.float(scores_type, f64::NEG_INFINITY);
                e.op("Where", &[*condition, scores, blocked], &[])
            }
        };
        let (node, _) = e.graph.value(scores).producer()?;
        nodes.push(match mask {
            MaskValue::Added(_) => Mask::Added(node),
            MaskValue::Condition(_) => Mask::Condition(node),
        });
    }
    let weights = e.op("Softmax", &[scores], &[("axis", AttrValue::Int(-1))]);
    let (softmax, _) = e.graph.value(weights).producer()?;
    let weights = as_type(e, weights, scores_type, dtype);
    let mut result = e.op("MatMul", &[weights, heads.value], &[]);
    if let Some(channels) = channels {
        result = join(e, result, channels);
    }
    let inputs = node.inputs.clone();
    put_aside(e.graph, id, output, result)?;
    Some(TakenApart {
        fused: id,
        inputs,
        softmax,
        masks: nodes,
        output,
        bias_input,
    })
}
