//! ai.onnx Attention, opset 23 and newer: Q, K, V, mask, and from opset 24 the number of valid keys; per head, or with heads side
//! by side in the channels. Several query heads may share a key head.

use super::heads::{self, Heads, MaskValue};
use super::{TakenApart, input, one_output};
use crate::emit::Emit;
use onnx_model::{DataType, Node, NodeId};
use token_axes::{Dim, Samples};

const MASK: usize = 3;
const KEY_LENGTHS: usize = 6;

pub(super) fn take_apart(
    e: &mut Emit<'_>,
    samples: &Samples,
    id: NodeId,
    node: &Node,
) -> Option<TakenApart> {
    let flag = |name: &str| node.attr_int(name).unwrap_or(0);
    let caches = [MASK + 1, MASK + 2]
        .iter()
        .any(|&i| input(node, i).is_some());
    if flag("is_causal") != 0 || caches || !one_output(node) {
        return None;
    }
    let (q, k, v) = (input(node, 0)?, input(node, 1)?, input(node, 2)?);
    let dtype = samples.dtype(q)?;
    let [q_shape, k_shape, v_shape] = [samples.shape(q)?, samples.shape(k)?, samples.shape(v)?];
    let at = |shape: &[Dim], axis: usize| shape.get(axis)?.constant();
    let per_head = q_shape.len() == 4;
    let (count, groups, sizes) = if per_head {
        let (count, groups) = (at(&q_shape, 1)?, at(&k_shape, 1)?);
        (
            count,
            groups,
            [at(&q_shape, 3)?, at(&k_shape, 3)?, at(&v_shape, 3)?],
        )
    } else {
        let (count, groups) = (flag("q_num_heads"), flag("kv_num_heads"));
        if q_shape.len() != 3 || count <= 0 || groups <= 0 {
            return None;
        }
        let sizes = [
            at(&q_shape, 2)? / count,
            at(&k_shape, 2)? / groups,
            at(&v_shape, 2)? / groups,
        ];
        (count, groups, sizes)
    };
    if groups <= 0 || count % groups != 0 {
        return None;
    }
    let mut operands = [q, k, v];
    for ((operand, heads), size) in operands.iter_mut().zip([count, groups, groups]).zip(sizes) {
        if !per_head {
            *operand = heads::split(e, *operand, heads, size);
        }
        *operand = heads::repeat(e, *operand, heads, count / heads, size);
    }
    let scale = node
        .attr_float("scale")
        .map_or_else(|| 1.0 / (sizes[0] as f64).sqrt(), f64::from);
    let mut masks: Vec<MaskValue> = match input(node, MASK) {
        None => Vec::new(),
        Some(mask) if samples.dtype(mask)? == DataType::Bool => vec![MaskValue::Condition(mask)],
        Some(mask) => vec![MaskValue::Added(mask)],
    };
    let mut bias_input = Some(MASK);
    if let Some(lengths) = input(node, KEY_LENGTHS) {
        let axis = if per_head { 2 } else { 1 };
        let (tokens, column) = (e.dim(k, axis), e.unsqueeze(lengths, &[1]));
        let position = e.range(tokens);
        let position = e.unsqueeze(position, &[0]);
        let valid = e.op("Less", &[position, column], &[]);
        masks.push(MaskValue::Condition(e.unsqueeze(valid, &[1, 2])));
        // Compressed rows are no run of valid tokens and then others: the operator's own input cannot say which are.
        bias_input = None;
    }
    let [query, key, value] = operands;
    let heads = Heads {
        query,
        key,
        value,
        scale,
        softcap: f64::from(node.attr_float("softcap").unwrap_or(0.0)),
    };
    let channels = (!per_head).then_some(count * sizes[2]);
    heads::attend(
        e,
        (dtype, dtype),
        (id, node),
        &heads,
        &masks,
        channels,
        bias_input,
    )
}
