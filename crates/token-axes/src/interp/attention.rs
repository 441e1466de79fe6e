//! Attention and rotary embedding of the standard operator set.

use super::op::{Op, Out, Outs, because, broadcast, one, shaped};

/// `Attention`: 4-D inputs are [B,h,n,d], 3-D ones [B,n,h*d] with the numbers of heads in attributes.
pub(super) fn attention(op: &Op) -> Outs {
    let (q, k, v) = (op.shape(0)?, op.shape(1)?, op.shape(2)?);
    let (heads, kv_heads) = (op.attr("q_num_heads", 0), op.attr("kv_num_heads", 0));
    let (batch, heads, rows, keys, kv_heads, size, v_size, flat) = match (q, k, v) {
        (&[b, h, n, _], &[_, g, m, d], &[_, _, _, e]) => (b, h, n, m, g, d, e, false),
        (&[b, n, _], &[_, m, kd], &[_, _, vd]) if heads > 0 && kv_heads > 0 => {
            (b, heads, n, m, kv_heads, kd / kv_heads, vd / kv_heads, true)
        }
        _ => {
            return because(
                "query, key and value are neither [B,h,n,d] nor [B,n,h*d] with the numbers of heads",
            );
        }
    };
    op.same(0, q[0], 1, k[0])?;
    op.same(1, keys, 2, v[v.len() - 2])?;
    let past = if op.has(4) {
        op.shape(4)?.get(2).copied().unwrap_or(0)
    } else {
        0
    };
    let total = keys.saturating_add(past);
    if op.has(3) {
        let mask = op.shape(3)?;
        // The key axis of the mask may be shorter; everything else broadcasts.
        let [lead @ .., _] = mask else {
            return because("the mask is a scalar");
        };
        broadcast(lead, &[batch, heads, rows])?;
    }
    let y = if flat {
        vec![batch, rows, heads.saturating_mul(v_size)]
    } else {
        vec![batch, heads, rows, v_size]
    };
    Ok(vec![
        shaped(y),
        shaped([batch, kv_heads, total, size]),
        shaped([batch, kv_heads, total, v_size]),
        shaped([batch, heads, rows, total]),
    ])
}

/// `RotaryEmbedding`, standard or com.microsoft: the shape of the input.
pub(super) fn rotary(op: &Op) -> Outs {
    one(op.shape(0)?)
}

/// `LSTM`, `GRU`, `RNN`: all hidden states, the last one, and for LSTM the last cell state.
pub(super) fn recurrent(op: &Op) -> Outs {
    let (&[steps, batch, _], &[directions, ..]) = (op.shape(0)?, op.shape(1)?) else {
        return because("the input is not [n,B,d] or the weights not [directions, .., ..]");
    };
    let &[_, _, hidden] = op.shape(2)? else {
        return because("the recurrent weights are not [directions, .., h]");
    };
    let last = || shaped([directions, batch, hidden]);
    if op.attr("layout", 0) != 0 {
        return because("this layout is not followed");
    }
    let all: Out = shaped([steps, directions, batch, hidden]);
    Ok(vec![all, last(), last()])
}
