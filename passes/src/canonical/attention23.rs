//! ai.onnx Attention, opset 23 and newer: Q, K, V, mask; per head, or with heads side by side in the channels.

use super::heads::{self, Heads, MaskValue};
use super::{TakenApart, input, one_output};
use crate::emit::Emit;
use onnx_model::{DataType, Node, NodeId};
use token_axes::Samples;

const MASK: usize = 3;

pub(super) fn take_apart(
    e: &mut Emit<'_>,
    samples: &Samples,
    id: NodeId,
    node: &Node,
) -> Option<TakenApart> {
    let flag = |name: &str| node.attr_int(name).unwrap_or(0);
    let softcap = node.attr_float("softcap").unwrap_or(0.0);
    let more_inputs = (MASK + 1..node.inputs.len()).any(|i| input(node, i).is_some());
    if flag("is_causal") != 0 || softcap != 0.0 || more_inputs || !one_output(node) {
        return None;
    }
    let (q, k, v) = (input(node, 0)?, input(node, 1)?, input(node, 2)?);
    let dtype = samples.dtype(q)?;
    let (q_shape, k_shape, v_shape) = (samples.shape(q)?, samples.shape(k)?, samples.shape(v)?);
    let last = |shape: &[token_axes::Dim]| shape.last()?.constant();
    let (head_size, operands, channels) = match q_shape.len() {
        // Fewer key than query heads would need repeating.
        4 if q_shape.get(1)? == k_shape.get(1)? => (last(&q_shape)?, [q, k, v], None),
        3 => {
            let count = flag("q_num_heads");
            if count <= 0 || count != flag("kv_num_heads") {
                return None;
            }
            let size = last(&q_shape)? / count;
            let value_size = last(&v_shape)? / count;
            let operands = [
                heads::split(e, q, count, size),
                heads::split(e, k, count, size),
                heads::split(e, v, count, value_size),
            ];
            (size, operands, Some(count * value_size))
        }
        _ => return None,
    };
    let scale = node
        .attr_float("scale")
        .map_or_else(|| 1.0 / (head_size as f64).sqrt(), f64::from);
    let [query, key, value] = operands;
    let masks: Vec<MaskValue> = match input(node, MASK) {
        None => Vec::new(),
        Some(mask) if samples.dtype(mask)? == DataType::Bool => vec![MaskValue::Condition(mask)],
        Some(mask) => vec![MaskValue::Added(mask)],
    };
    heads::attend(
        e,
        (dtype, dtype),
        (id, node),
        &Heads {
            query,
            key,
            value,
            scale,
        },
        &masks,
        channels,
        Some(MASK),
    )
}
