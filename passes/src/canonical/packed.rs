//! com.microsoft Attention: the input with packed weights of the three projections.

use super::heads::{self, Heads, MaskValue, SCORES};
use super::multi_head::key_padding;
use super::{TakenApart, input, one_output};
use crate::emit::Emit;
use onnx_model::{Node, NodeId};
use token_axes::Samples;

const WEIGHTS: usize = 1;
const BIAS: usize = 2;
const MASK: usize = 3;
const PAST: usize = 4;
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
    let caches = [PAST, ATTENTION_BIAS + 1]
        .iter()
        .any(|&i| input(node, i).is_some());
    let flags = ["unidirectional", "do_rotary"]
        .iter()
        .any(|f| node.attr_int(f).unwrap_or(0) != 0);
    if count <= 0 || caches || flags || !one_output(node) {
        return None;
    }
    let (x, weights) = (input(node, 0)?, input(node, WEIGHTS)?);
    let dtype = samples.dtype(x)?;
    let packed = samples.shape(weights)?.get(1)?.constant()?;
    let sizes = match node.attr_ints("qkv_hidden_sizes") {
        Some(sizes) if sizes.len() == 3 => sizes,
        Some(_) => return None,
        None => vec![packed / 3; 3],
    };
    let mut projected = e.op("MatMul", &[x, weights], &[]);
    if let Some(bias) = input(node, BIAS) {
        projected = e.op("Add", &[projected, bias], &[]);
    }
    let mut parts = [projected; 3];
    let mut from = 0;
    for (part, &size) in parts.iter_mut().zip(&sizes) {
        let (start, end) = (e.ints(&[from]), e.ints(&[from + size]));
        let channels = e.slice(projected, start, end, 2);
        *part = heads::split(e, channels, count, size / count);
        from += size;
    }
    let [query, key, value] = parts;
    let scale = node.attr_float("scale").filter(|&s| s != 0.0);
    let scale = scale.map_or_else(|| 1.0 / ((sizes[0] / count) as f64).sqrt(), f64::from);
    let filter = node.attr_float("mask_filter_value").unwrap_or(MASK_FILTER);
    let mut masks = Vec::new();
    if let Some(mask) = input(node, MASK) {
        masks.push(MaskValue::Added(key_padding(e, samples, mask, x, filter)?));
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
        },
        &masks,
        Some(sizes[2]),
        None,
    )
}
