//! Operators of the com.microsoft domain.

use super::op::{Op, Out, Outs, because, one, shaped};
use super::value::Content;

/// `SkipLayerNormalization` and its simplified form: the fourth output is the sum that was normalised.
pub(super) fn skip_layer_norm(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let Some((_, rows)) = dims.split_last() else {
        return because("the input is a scalar");
    };
    let mut statistics = rows.to_vec();
    statistics.push(1);
    Ok(vec![
        shaped(dims),
        shaped(statistics.clone()),
        shaped(statistics),
        shaped(dims),
    ])
}

/// `EmbedLayerNormalization`: the embedding, the valid length per batch row, and the sum that was normalised.
pub(super) fn embed_layer_norm(op: &Op) -> Outs {
    let (&[batch, n], &[_, size]) = (op.shape(0)?, op.shape(2)?) else {
        return because("the ids are not [B,n] or the table is not a matrix");
    };
    if op.has(1) {
        op.broadcast([0, 1])?;
    }
    // Input 7 is the mask; the second output counts its ones in each row.
    let counts = op.content(7).and_then(Content::ints).and_then(|mask| {
        let width = usize::try_from(n).ok().filter(|&n| n > 0)?;
        let ones = |row: &[i64]| row.iter().filter(|&&m| m == 1).count() as i64;
        Some(Content::Int(mask.chunks(width).map(ones).collect()))
    });
    Ok(vec![
        shaped([batch, n, size]),
        Out {
            shape: Some(vec![batch]),
            content: counts,
        },
        shaped([batch, n, size]),
    ])
}

/// `Attention` and `QAttention`: input [B,n,d], packed weights [d, q+k+v].
pub(super) fn packed_attention(op: &Op) -> Outs {
    let &[batch, n, width] = op.shape(0)? else {
        return because("the input is not [B,n,d]");
    };
    let &[inner, packed] = op.shape(1)? else {
        return because("the weights are not a matrix");
    };
    op.same(0, width, 1, inner)?;
    let (key, value) = match op.node.attr_ints("qkv_hidden_sizes").as_deref() {
        Some(&[_, k, v]) => (k, v),
        _ => (packed / 3, packed / 3),
    };
    let heads = op.attr("num_heads", 0);
    let past_input = if op.node.op_type == "QAttention" {
        8
    } else {
        4
    };
    let present = if heads > 0 && key == value {
        let past = if op.has(past_input) {
            op.shape(past_input)?.get(3).copied().unwrap_or(0)
        } else {
            0
        };
        shaped([2, batch, heads, n.saturating_add(past), key / heads])
    } else {
        Out::default()
    };
    Ok(vec![shaped([batch, n, value]), present])
}

/// `MultiHeadAttention`: separate query, key and value, or packed in one or two tensors.
pub(super) fn multi_head_attention(op: &Op) -> Outs {
    let q = op.shape(0)?;
    let heads = op.attr("num_heads", 0);
    if heads <= 0 {
        return because("num_heads is missing");
    }
    let (&batch, &n) = match q {
        [b, n, ..] => (b, n),
        _ => return because("the query has less than two axes"),
    };
    let packed_qkv = q.len() == 5;
    let key = if op.has(1) { Some(op.shape(1)?) } else { None };
    let (keys, size) = match (packed_qkv, key) {
        (true, _) | (_, None) => (
            n,
            if packed_qkv {
                q[4]
            } else {
                q[q.len() - 1] / heads
            },
        ),
        (_, Some(&[_, m, _, 2, h])) => (m, h),
        (_, Some(&[_, m, width])) => (m, width / heads),
        (_, Some(&[_, _, m, h])) => (m, h),
        _ => return because("the form of the key is not known"),
    };
    let value_size = match if op.has(2) { Some(op.shape(2)?) } else { None } {
        Some(&[_, _, width]) => width / heads,
        Some(&[.., h]) => h,
        _ => size,
    };
    let past = if op.has(6) {
        op.shape(6)?.get(2).copied().unwrap_or(0)
    } else {
        0
    };
    let total = keys.saturating_add(past);
    Ok(vec![
        shaped([batch, n, heads.saturating_mul(value_size)]),
        shaped([batch, heads, total, size]),
        shaped([batch, heads, total, value_size]),
    ])
}

/// `GroupQueryAttention`: as many output channels as query channels; the caches depend on their contents.
pub(super) fn group_query_attention(op: &Op) -> Outs {
    let &[batch, n, width] = op.shape(0)? else {
        return because("the query is not [B,n,d]");
    };
    let (heads, kv_heads) = (op.attr("num_heads", 0), op.attr("kv_num_heads", 0));
    if op.has(1) {
        return one([batch, n, width]);
    }
    let all = kv_heads.saturating_mul(2).saturating_add(heads);
    if heads <= 0 || kv_heads <= 0 || width % all != 0 {
        return because("the packed query does not fit the numbers of heads");
    }
    one([batch, n, width / all * heads])
}

/// `MatMulNBits`, `MatMulBnb4`: the weights are packed, the number of columns is an attribute.
pub(super) fn packed_matmul(op: &Op) -> Outs {
    let mut shape = op.shape(0)?.to_vec();
    let (Some(last), Some(columns)) = (shape.last_mut(), op.node.attr_int("N")) else {
        return because("the input is a scalar or the attribute N is missing");
    };
    *last = columns;
    one(shape)
}

/// `QGemm`: the second matrix is input 3.
pub(super) fn qgemm(op: &Op) -> Outs {
    let matrix = |i: usize, transposed: &str| match *op.shape(i)? {
        [rows, columns] if op.attr(transposed, 0) == 1 => Ok((columns, rows)),
        [rows, columns] => Ok((rows, columns)),
        _ => because("a factor is not a matrix"),
    };
    let ((rows, k), (l, columns)) = (matrix(0, "transA")?, matrix(3, "transB")?);
    op.same(0, k, 3, l)?;
    one([rows, columns])
}

/// `QLinearConcat`: scale and zero point of the output, then those of each input behind it.
pub(super) fn qlinear_concat(op: &Op) -> Outs {
    let mut shape = op.shape(2)?.to_vec();
    let joined = op.axis(1, shape.len())?;
    let mut size = 0i64;
    for i in (2..op.inputs.len()).step_by(3) {
        let part = op.shape(i)?;
        match part.get(joined) {
            Some(d) if part.len() == shape.len() => size = size.saturating_add(*d),
            _ => return because("the inputs have different ranks"),
        }
    }
    shape[joined] = size;
    one(shape)
}

/// `QLinearWhere`: a condition, and operands at inputs 1 and 4.
pub(super) fn qlinear_where(op: &Op) -> Outs {
    one(op.broadcast([0, 1, 4])?)
}

/// `QLinearAdd`, `QLinearMul`: the second operand is input 3.
pub(super) fn qlinear_binary(op: &Op) -> Outs {
    one(op.broadcast([0, 3])?)
}
