//! com.microsoft MultiHeadAttention: query, key, value `[B, n, heads * size]`, bias of the three projections, key padding mask,
//! attention bias.

use super::heads::{self, Heads, MaskValue, SCORES};
use super::{TakenApart, input, one_output};
use crate::emit::{Emit, Size};
use onnx_model::{DataType, Node, NodeId, ValueId};
use token_axes::{Dim, Samples};

const BIAS: usize = 3;
const KEY_PADDING: usize = 4;
const ATTENTION_BIAS: usize = 5;
/// The operator's default for what a masked score gets.
const MASK_FILTER: f32 = -10000.0;

pub(super) fn take_apart(
    e: &mut Emit<'_>,
    samples: &Samples,
    id: NodeId,
    node: &Node,
) -> Option<TakenApart> {
    let count = node.attr_int("num_heads")?;
    let more_inputs = (ATTENTION_BIAS + 1..node.inputs.len()).any(|i| input(node, i).is_some());
    if count <= 0
        || node.attr_int("unidirectional").unwrap_or(0) != 0
        || more_inputs
        || !one_output(node)
    {
        return None;
    }
    // Packed projections have no key and value inputs.
    let operands = [input(node, 0)?, input(node, 1)?, input(node, 2)?];
    let dtype = samples.dtype(operands[0])?;
    let mut channels = [0; 3];
    for (c, operand) in channels.iter_mut().zip(operands) {
        let shape = samples.shape(operand)?;
        *c = shape.get(2)?.constant().filter(|_| shape.len() == 3)?;
    }
    let mut split = [operands[0]; 3];
    let mut offset = 0;
    for i in 0..3 {
        let mut value = operands[i];
        if let Some(bias) = input(node, BIAS) {
            let part = part(e, bias, offset, channels[i]);
            value = e.op("Add", &[value, part], &[]);
        }
        offset += channels[i];
        split[i] = heads::split(e, value, count, channels[i] / count);
    }
    let [query, key, value] = split;
    let head_size = channels[0] / count;
    let scale = node.attr_float("scale").filter(|&s| s != 0.0);
    let scale = scale.map_or_else(|| 1.0 / (head_size as f64).sqrt(), f64::from);
    let mut masks = Vec::new();
    if let Some(mask) = input(node, KEY_PADDING) {
        let filter = node.attr_float("mask_filter_value").unwrap_or(MASK_FILTER);
        masks.push(MaskValue::Added(key_padding(
            e,
            samples,
            mask,
            operands[1],
            filter,
        )?));
    }
    if let Some(bias) = input(node, ATTENTION_BIAS) {
        masks.push(heads::added(e, bias, dtype));
    }
    heads::attend(
        e,
        (dtype, SCORES),
        (id, node),
        &Heads {
            query,
            key,
            value,
            scale,
            softcap: 0.0,
        },
        &masks,
        Some(channels[2]),
        None,
    )
}

/// Channels `from..from + len` of a vector.
fn part(e: &mut Emit<'_>, vector: ValueId, from: i64, len: i64) -> ValueId {
    let (start, end) = (e.ints(&[from]), e.ints(&[from + len]));
    e.slice(vector, start, end, 0)
}

/// A mask as what is added to the scores of the keys in `keys` (`[B, n, channels]`), `[B, 1, 1, n]` or `[B, 1, n, n]`: 0 for valid
/// tokens, the filter value for others.
///
/// `[B, n]` (or with a query axis `[B, n, n]`) holds 0 and 1; `[B]` the number of valid tokens; `[2B]` the ends and then the
/// starts of the valid tokens; `[3B + 2]` their number and then what is not needed here.
pub(super) fn key_padding(
    e: &mut Emit<'_>,
    samples: &Samples,
    mask: ValueId,
    keys: ValueId,
    filter: f32,
) -> Option<ValueId> {
    let shape = samples.shape(mask)?;
    let axes: &[i64] = match shape[..] {
        [_] | [_, _] => &[1, 2],
        [_, _, _] => &[1],
        _ => return None,
    };
    let set = match shape[..] {
        [entries] => mask_index(e, mask, entries, *samples.shape(keys)?.first()?, keys)?,
        _ => e.cast(mask, DataType::Bool),
    };
    let valid = e.unsqueeze(set, axes);
    let (keep, blocked) = (e.float(SCORES, 0.0), e.float(SCORES, f64::from(filter)));
    Some(e.op("Where", &[valid, keep, blocked], &[]))
}

/// Which tokens `[B, n]` are valid by one or two numbers per batch row.
fn mask_index(
    e: &mut Emit<'_>,
    index: ValueId,
    entries: Dim,
    rows: Dim,
    keys: ValueId,
) -> Option<ValueId> {
    let has_starts = entries == Dim(rows.0.map(|b| b.saturating_mul(2)));
    let cumulated = entries == Dim(rows.0.map(|b| b.saturating_mul(3).saturating_add(2)));
    if entries != rows && !has_starts && !cumulated {
        return None;
    }
    let index = e.cast(index, DataType::Int64);
    let (batch, tokens) = (e.dim(keys, 0), e.dim(keys, 1));
    let position = e.range(tokens);
    let position = e.unsqueeze(position, &[0]);
    let column =
        |e: &mut Emit<'_>, value: ValueId| e.reshape(value, &[Size::Const(-1), Size::Const(1)]);
    let mut ends = index;
    if entries != rows {
        let zero = e.ints(&[0]);
        ends = e.slice(index, zero, batch, 0);
    }
    let ends = column(e, ends);
    let before_end = e.op("Less", &[position, ends], &[]);
    if !has_starts {
        return Some(before_end);
    }
    let most = e.ints(&[i64::MAX]);
    let starts = e.slice(index, batch, most, 0);
    let starts = column(e, starts);
    let before_start = e.op("Less", &[position, starts], &[]);
    let from_start = e.op("Not", &[before_start], &[]);
    Some(e.op("And", &[before_end, from_start], &[]))
}
