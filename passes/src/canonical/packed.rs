//! com.microsoft Attention: the input with packed weights of the three projections; QAttention: the same on codes, whose product
//! in integers stays one.

use super::heads::{self, Heads, MaskValue, SCORES};
use super::multi_head::key_padding;
use super::{TakenApart, input, one_output};
use crate::emit::Emit;
use onnx_model::{DataType, Node, NodeId, Tensor, ValueId};
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
    let caches = [PAST, ATTENTION_BIAS + 1];
    if !is_plain(node, &caches) {
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
    let masks = [input(node, MASK), input(node, ATTENTION_BIAS)];
    attend(e, samples, (id, node), projected, dtype, &sizes, masks)
}

/// QAttention: codes, codes of the weights, bias, their two scales, mask, their two zero points.
pub(super) fn take_apart_codes(
    e: &mut Emit<'_>,
    samples: &Samples,
    id: NodeId,
    node: &Node,
) -> Option<TakenApart> {
    const Q_MASK: usize = 5;
    const Q_PAST: usize = 8;
    if !is_plain(node, &[Q_PAST]) {
        return None;
    }
    let [x, weights, bias] = [input(node, 0)?, input(node, 1)?, input(node, 2)?];
    let [x_scale, weight_scale] = [input(node, 3)?, input(node, 4)?];
    let dtype = samples.dtype(bias)?;
    let packed = samples.shape(weights)?.get(1)?.constant()?;
    let (x_zero, weight_zero) = (input(node, 6), input(node, 7));
    let mut factors = vec![x, weights];
    if x_zero.is_some() || weight_zero.is_some() {
        let zero = |e: &mut Emit<'_>, codes: ValueId| -> Option<ValueId> {
            let zero = Tensor::from_bytes(samples.dtype(codes)?, &[], vec![0u8].into());
            let name = e.name("zero");
            Some(e.graph.add_initializer(&name, zero))
        };
        factors.push(match x_zero {
            Some(point) => point,
            None => zero(e, x)?,
        });
        factors.extend(weight_zero);
    }
    let sums = e.op("MatMulInteger", &factors, &[]);
    let sums = e.cast(sums, dtype);
    let scale = e.op("Mul", &[x_scale, weight_scale], &[]);
    let scaled = e.op("Mul", &[sums, scale], &[]);
    let projected = e.op("Add", &[scaled, bias], &[]);
    let masks = [input(node, Q_MASK), None];
    attend(
        e,
        samples,
        (id, node),
        projected,
        dtype,
        &[packed / 3; 3],
        masks,
    )
}

/// Whether an attention has no cache and no option that changes more than masks and scale.
fn is_plain(node: &Node, caches: &[usize]) -> bool {
    let cached = caches.iter().any(|&i| input(node, i).is_some());
    let flags = ["unidirectional", "do_rotary"]
        .iter()
        .any(|f| node.attr_int(f).unwrap_or(0) != 0);
    node.attr_int("num_heads").is_some_and(|n| n > 0) && !cached && !flags && one_output(node)
}

/// From the packed projections `[B, n, sizes]` on. `masks`: the padding mask and the attention bias.
fn attend(
    e: &mut Emit<'_>,
    samples: &Samples,
    (id, node): (NodeId, &Node),
    projected: ValueId,
    dtype: DataType,
    sizes: &[i64],
    [padding, bias]: [Option<ValueId>; 2],
) -> Option<TakenApart> {
    let (count, x) = (node.attr_int("num_heads")?, input(node, 0)?);
    let &[first, _, last] = sizes else {
        return None;
    };
    let mut parts = [projected; 3];
    let mut from = 0;
    for (part, &size) in parts.iter_mut().zip(sizes) {
        let (start, end) = (e.ints(&[from]), e.ints(&[from + size]));
        let channels = e.slice(projected, start, end, 2);
        *part = heads::split(e, channels, count, size / count);
        from += size;
    }
    let [query, key, value] = parts;
    let scale = node.attr_float("scale").filter(|&s| s != 0.0);
    let scale = scale.map_or_else(|| 1.0 / ((first / count) as f64).sqrt(), f64::from);
    let filter = node.attr_float("mask_filter_value").unwrap_or(MASK_FILTER);
    let mut masks = Vec::new();
    if let Some(mask) = padding {
        masks.push(MaskValue::Added(key_padding(e, samples, mask, x, filter)?));
    }
    if let Some(bias) = bias {
        masks.push(heads::added(e, bias, dtype));
    }
    let heads = Heads {
        query,
        key,
        value,
        scale,
        softcap: 0.0,
    };
    heads::attend(
        e,
        (dtype, SCORES),
        (id, node),
        &heads,
        &masks,
        Some(last),
        None,
    )
}
