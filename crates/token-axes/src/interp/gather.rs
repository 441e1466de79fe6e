//! Operators that look elements up, or put them, by computed indices.

use super::index::{count, for_each, position, positions, strides};
use super::op::{Op, Out, Outs, axis, because, filled, one, shaped, small, unknown_content};
use super::value::Content;

/// What stands for an index that is outside: far enough that every position made from it is outside too.
const OUTSIDE: i64 = i64::MIN / 4;

/// An index into an axis of size `dim`, counted from the front.
fn wrapped(index: i64, dim: i64) -> i64 {
    let i = if index < 0 {
        index.saturating_add(dim)
    } else {
        index
    };
    if (0..dim).contains(&i) { i } else { OUTSIDE }
}

/// The contents of data and indices, if the result is to be computed.
fn operands<'a>(op: &Op<'a>, shape: &[i64]) -> Option<(&'a Content, &'a [i64])> {
    if !small(shape) {
        return None;
    }
    Some((op.content(0)?, op.content(1)?.ints()?))
}

/// Notes that indices (input 1; element `k` of every tuple of `depth`) that run over a whole symbol were made for an axis of
/// that symbol.
fn note_cover(op: &Op, depth: usize, k: usize, dim: i64) {
    let indices = op
        .value(1)
        .filter(|v| !v.assumed_content)
        .and_then(|v| v.content())
        .and_then(Content::ints);
    let Some(indices) = indices else { return };
    let column = || indices.iter().skip(k).step_by(depth.max(1));
    if let (Some(0), Some(last)) = (column().min(), column().max()) {
        op.likely_same(last.saturating_add(1), dim);
    }
}

/// `Gather` along an axis.
pub(super) fn gather(op: &Op) -> Outs {
    let (dims, at_shape) = (op.shape(0)?, op.shape(1)?);
    let at = op.axis(0, dims.len())?;
    let mut shape = dims[..at].to_vec();
    shape.extend(at_shape);
    shape.extend(&dims[at + 1..]);
    note_cover(op, 1, 0, dims[at]);
    let content = match operands(op, &shape) {
        Some((x, indices)) => {
            let (own, index_strides) = (strides(dims), strides(at_shape));
            x.take(&positions(&shape, |c| {
                let (front, rest) = c.split_at(at);
                let (middle, back) = rest.split_at(at_shape.len());
                let index = indices
                    .get(position(middle, &index_strides) as usize)
                    .copied()
                    .unwrap_or(OUTSIDE);
                let inside = position(front, &own) + position(back, &own[at + 1..]);
                inside.saturating_add(wrapped(index, dims[at]).saturating_mul(own[at]))
            }))
        }
        _ => None,
    };
    filled(shape, content)
}

/// `GatherElements`.
pub(super) fn gather_elements(op: &Op) -> Outs {
    let (dims, shape) = (op.shape(0)?, op.shape(1)?);
    let at = op.axis(0, dims.len())?;
    if shape.len() != dims.len() {
        return because("data and indices differ in rank");
    }
    let content = match operands(op, shape) {
        Some((x, indices)) => x.take(&element_positions(dims, shape, indices, at)),
        _ => None,
    };
    filled(shape, content)
}

/// For each coordinate of `shape` the position in `dims` with the coordinate on axis `at` replaced by the index.
fn element_positions(dims: &[i64], shape: &[i64], indices: &[i64], at: usize) -> Vec<i64> {
    let own = strides(dims);
    let mut next = indices.iter();
    positions(shape, |c| {
        let index = next.next().copied().unwrap_or(OUTSIDE);
        let step = wrapped(index, dims[at]).saturating_sub(c[at]);
        position(c, &own).saturating_add(step.saturating_mul(own[at]))
    })
}

/// `ScatterElements` (and the old `Scatter`), without a reduction.
pub(super) fn scatter_elements(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let at = op.axis(0, dims.len())?;
    let indices = op
        .shape(1)
        .ok()
        .filter(|s| s.len() == dims.len() && small(s));
    let content = match (
        indices,
        op.content(1).and_then(Content::ints),
        op.content(2),
    ) {
        (Some(shape), Some(list), Some(updates)) if plain(op) && small(dims) => {
            op.content(0).cloned().and_then(|mut x| {
                x.put(&element_positions(dims, shape, list, at), updates)?;
                Some(x)
            })
        }
        _ => None,
    };
    filled(dims, content)
}

fn plain(op: &Op) -> bool {
    op.node.attr_str("reduction").is_none_or(|r| r == "none")
}

/// `GatherND`.
pub(super) fn gather_nd(op: &Op) -> Outs {
    let (dims, at_shape) = (op.shape(0)?, op.shape(1)?);
    let batch = usize::try_from(op.attr("batch_dims", 0)).unwrap_or(usize::MAX);
    let Some((&depth, lead)) = at_shape.split_last() else {
        return because("the indices are a scalar");
    };
    let end = usize::try_from(depth)
        .ok()
        .and_then(|d| d.checked_add(batch));
    let Some((end, tail)) = end.and_then(|e| Some((e, dims.get(e..)?))) else {
        return because("the index tuples are longer than the rank of the data");
    };
    let mut shape = lead.to_vec();
    shape.extend(tail);
    if lead.len() < batch {
        return because("there are more batch axes than the indices have");
    }
    for (k, &dim) in dims[batch..end].iter().enumerate() {
        note_cover(op, end - batch, k, dim);
    }
    let content = match operands(op, &shape) {
        Some((x, indices)) => {
            let (own, index_strides) = (strides(dims), strides(lead));
            x.take(&positions(&shape, |c| {
                let (front, back) = c.split_at(lead.len());
                let tuple = position(front, &index_strides) * depth;
                let start = position(&front[..batch], &own) + position(back, &own[end..]);
                (batch..end).fold(start, |p, k| {
                    let index = indices
                        .get(tuple as usize + k - batch)
                        .copied()
                        .unwrap_or(OUTSIDE);
                    p.saturating_add(wrapped(index, dims[k]).saturating_mul(own[k]))
                })
            }))
        }
        _ => None,
    };
    filled(shape, content)
}

/// `ScatterND`, without a reduction.
pub(super) fn scatter_nd(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let content = if plain(op) && small(dims) {
        scattered(op, dims)
    } else {
        None
    };
    filled(dims, content)
}

fn scattered(op: &Op, dims: &[i64]) -> Option<Content> {
    let (&depth, lead) = op.shape(1).ok()?.split_last()?;
    let depth = usize::try_from(depth).ok()?;
    let tail = dims.get(depth..)?;
    let indices = op.content(1)?.ints()?;
    let own = strides(dims);
    let mut to = Vec::new();
    for tuple in 0..count(lead)? {
        let mut start = 0i64;
        for (k, &stride) in own.iter().enumerate().take(depth) {
            let index = *indices.get(tuple * depth + k)?;
            start = start.saturating_add(wrapped(index, dims[k]).saturating_mul(stride));
        }
        for_each(tail, |c| {
            to.push(start.saturating_add(position(c, &own[depth..])))
        });
    }
    let mut x = op.content(0)?.clone();
    x.put(&to, op.content(2)?)?;
    Some(x)
}

/// `CumSum`.
pub(super) fn cum_sum(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let content = if small(dims) { summed(op, dims) } else { None };
    filled(dims, content)
}

fn summed(op: &Op, dims: &[i64]) -> Option<Content> {
    let &[at] = op.content(1)?.ints()? else {
        return None;
    };
    let at = axis(at, dims.len()).ok()?;
    let (exclusive, reverse) = (op.attr("exclusive", 0) == 1, op.attr("reverse", 0) == 1);
    let own = strides(dims);
    let mut out = op.content(0)?.clone();
    let mut lines = dims.to_vec();
    lines[at] = 1;
    let starts = positions(&lines, |c| position(c, &own));
    for start in starts {
        let line = |i: i64| start + if reverse { dims[at] - 1 - i } else { i } * own[at];
        let order: Vec<i64> = (0..dims[at]).map(line).collect();
        let part = out.take(&order)?;
        let sums = match &part {
            Content::Int(v) => Content::Int(running(v, exclusive, 0, i64::wrapping_add)),
            Content::Float(v) => Content::Float(running(v, exclusive, 0.0, |a, b| a + b)),
            Content::Bool(_) => return None,
        };
        out.put(&order, &sums)?;
    }
    out.fit(op.dtype(0)?)
}

fn running<T: Copy>(v: &[T], exclusive: bool, zero: T, add: fn(T, T) -> T) -> Vec<T> {
    let mut sum = zero;
    v.iter()
        .map(|&x| {
            let before = sum;
            sum = add(sum, x);
            if exclusive { before } else { sum }
        })
        .collect()
}

/// `OneHot`.
pub(super) fn one_hot(op: &Op) -> Outs {
    let indices = op.shape(0)?;
    let depth = match op.value(1).and_then(|v| v.content()) {
        Some(Content::Float(v)) => v.first().map(|&d| d as i64),
        _ => Some(op.int(1)?),
    };
    let Some(depth) = depth.filter(|&d| d >= 0) else {
        return because("the depth is no size");
    };
    let at = op.axis(-1, indices.len() + 1)?;
    let mut shape = indices.to_vec();
    shape.insert(at, depth);
    one(shape)
}

/// `NonZero`: as many columns as there are elements that are not 0, so the shape depends on the content.
pub(super) fn non_zero(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let Some(x) = op.content(0).filter(|_| small(dims)) else {
        return Err(unknown_content(0));
    };
    let hit: Vec<bool> = match x {
        Content::Int(v) => v.iter().map(|&x| x != 0).collect(),
        Content::Float(v) => v.iter().map(|&x| x != 0.0).collect(),
        Content::Bool(v) => v.clone(),
    };
    let mut coordinates = Vec::new();
    let mut next = hit.iter();
    for_each(dims, |c| {
        if next.next() == Some(&true) {
            coordinates.push(c.to_vec());
        }
    });
    op.read_assumed_shape
        .set(op.read_assumed_shape.get() | op.read_assumed_content.get());
    let rows = (0..dims.len()).flat_map(|k| coordinates.iter().map(move |c| c[k]));
    filled(
        [dims.len() as i64, coordinates.len() as i64],
        Some(Content::Int(rows.collect())),
    )
}

/// `TopK`: `k` is an attribute before operator set 10, an input since.
pub(super) fn top_k(op: &Op) -> Outs {
    let mut shape = op.shape(0)?.to_vec();
    let at = op.axis(-1, shape.len())?;
    let k = if op.has(1) {
        op.int(1)?
    } else {
        op.attr("k", 0)
    };
    if k < 0 {
        return because("k is negative");
    }
    shape[at] = k;
    Ok(vec![
        shaped(shape.clone()),
        Out {
            shape: Some(shape),
            content: None,
        },
    ])
}
