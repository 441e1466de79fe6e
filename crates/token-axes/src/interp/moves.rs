//! Operators that copy elements to other places: every output element is an input element, found by its position.

use super::index::{broadcast_strides, count, for_each, position, positions, strides};
use super::op::{Op, Outs, axes, axis, because, broadcast, filled, small};
use super::value::Content;

/// The output whose element at a coordinate is input 0's element at the position that `at` gives.
fn moved(op: &Op, shape: Vec<i64>, at: impl FnMut(&[i64]) -> i64) -> Outs {
    let content = if small(&shape) {
        op.content(0).and_then(|x| x.take(&positions(&shape, at)))
    } else {
        None
    };
    filled(shape, content)
}

/// `Transpose`.
pub(super) fn transpose(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let reversed = || (0..dims.len() as i64).rev().collect();
    let perm = op.node.attr_ints("perm").unwrap_or_else(reversed);
    let perm = perm
        .iter()
        .map(|&p| axis(p, dims.len()))
        .collect::<Result<Vec<_>, _>>()?;
    if perm.len() != dims.len()
        || axes(
            &perm.iter().map(|&p| p as i64).collect::<Vec<_>>(),
            dims.len(),
        )?
        .len()
            != dims.len()
    {
        return because(format!(
            "the permutation {perm:?} does not fit rank {}",
            dims.len()
        ));
    }
    let own = strides(dims);
    let moved_strides: Vec<i64> = perm.iter().map(|&p| own[p]).collect();
    let shape = perm.iter().map(|&p| dims[p]).collect();
    moved(op, shape, |at| position(at, &moved_strides))
}

/// `Expand`: a two-way broadcast with the target.
pub(super) fn expand(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let shape = broadcast(dims, op.ints(1)?)?;
    if count(&shape).is_none() {
        return because(format!("{shape:?} is not a shape"));
    }
    let own = broadcast_strides(dims, &shape);
    moved(op, shape, |at| position(at, &own))
}

/// `Tile`.
pub(super) fn tile(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let repeats = op.ints(1)?;
    if repeats.len() != dims.len() || repeats.iter().any(|&r| r < 0) {
        return because(format!(
            "the repeats {repeats:?} do not fit rank {}",
            dims.len()
        ));
    }
    let shape = dims
        .iter()
        .zip(repeats)
        .map(|(&d, &r)| d.saturating_mul(r))
        .collect();
    let own = strides(dims);
    moved(op, shape, |at| {
        at.iter()
            .zip(dims)
            .zip(&own)
            .map(|((&c, &d), &s)| c % d.max(1) * s)
            .sum()
    })
}

/// `Concat`.
pub(super) fn concat(op: &Op) -> Outs {
    let mut shape = op.shape(0)?.to_vec();
    let at = op.axis(1, shape.len())?;
    for i in 1..op.inputs.len() {
        let next = op.shape(i)?;
        if next.len() != shape.len() {
            return because(format!("inputs 0 and {i} differ in rank"));
        }
        for (k, (&a, &b)) in shape.iter().zip(next).enumerate() {
            if k != at {
                op.same(0, a, i, b)?;
            }
        }
        shape[at] = shape[at].saturating_add(next[at]);
    }
    let content = if small(&shape) {
        joined(op, &shape, at)
    } else {
        None
    };
    filled(shape, content)
}

fn joined(op: &Op, shape: &[i64], at: usize) -> Option<Content> {
    let parts = (0..op.inputs.len())
        .map(|i| op.content(i))
        .collect::<Option<Vec<_>>>()?;
    let all = Content::chain(&parts)?;
    // Where each part begins: in the chained elements, and on the axis.
    let mut begins = Vec::new();
    let (mut element, mut row) = (0i64, 0i64);
    for (i, part) in parts.iter().enumerate() {
        let dims = op.shape(i).ok()?;
        begins.push((row, element, strides(dims)));
        element += part.len() as i64;
        row += dims[at];
    }
    all.take(&positions(shape, |c| {
        let Some((row, element, strides)) = begins.iter().rev().find(|b| b.0 <= c[at]) else {
            return -1;
        };
        let inside: i64 = c.iter().zip(strides).map(|(c, s)| c * s).sum();
        element + inside - row * strides[at]
    }))
}

/// The content of a part of input 0 that begins at `start` on axis `at`.
pub(super) fn window(op: &Op, at: usize, start: i64, shape: &[i64]) -> Option<Content> {
    if !small(shape) {
        return None;
    }
    let own = strides(op.shape(0).ok()?);
    let offset = start * own.get(at)?;
    op.content(0)?
        .take(&positions(shape, |c| position(c, &own) + offset))
}

/// `Slice`: bounds are attributes before operator set 10, inputs since.
pub(super) fn slice(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let (Some(starts), Some(ends)) = (op.ints_or(1, "starts")?, op.ints_or(2, "ends")?) else {
        return because("there are no bounds");
    };
    let list = op
        .ints_or(3, "axes")?
        .unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = if op.has(4) {
        op.ints(4)?.to_vec()
    } else {
        vec![1; starts.len()]
    };
    if ends.len() != starts.len() || list.len() != starts.len() || steps.len() != starts.len() {
        return because("starts, ends, axes and steps differ in length");
    }
    let own = strides(dims);
    let mut shape = dims.to_vec();
    let mut reads = own.clone();
    let mut offset = 0i64;
    for (((&a, &start), &end), &step) in list.iter().zip(&starts).zip(&ends).zip(&steps) {
        let a = axis(a, dims.len())?;
        let Some((first, n)) = cut(dims[a], start, end, step) else {
            return because("a step is 0");
        };
        if start == 0 && step == 1 {
            // A mask is cut to the tokens there are.
            op.likely_same(end, dims[a]);
        }
        shape[a] = n;
        // A step larger than the axis takes one element at most, so the product cannot matter when it saturates.
        reads[a] = own[a].saturating_mul(step);
        offset += first * own[a];
    }
    moved(op, shape, |at| offset.saturating_add(position(at, &reads)))
}

/// The first index and the number of elements of a slice of an axis.
fn cut(dim: i64, start: i64, end: i64, step: i64) -> Option<(i64, i64)> {
    let from_front = |x: i64| if x < 0 { x.saturating_add(dim) } else { x };
    let (start, end) = (from_front(start), from_front(end));
    let (start, span) = match step {
        0 => return None,
        1.. => {
            let start = start.clamp(0, dim);
            (start, end.clamp(0, dim) - start)
        }
        _ => {
            let start = start.clamp(0, (dim - 1).max(0));
            (
                start,
                if dim == 0 {
                    0
                } else {
                    start - end.clamp(-1, dim - 1)
                },
            )
        }
    };
    let step = step.unsigned_abs();
    let n = if span <= 0 {
        0
    } else {
        (span as u64).div_ceil(step) as i64
    };
    Some((start, n))
}

/// `Pad`: amounts are an attribute before operator set 11, an input since.
pub(super) fn pad(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let Some(pads) = op.ints_or(1, "pads")? else {
        return because("there are no amounts");
    };
    let list = if op.has(3) {
        op.ints(3)?.to_vec()
    } else {
        (0..dims.len() as i64).collect()
    };
    if pads.len() != 2 * list.len() {
        return because(format!("{} amounts for {} axes", pads.len(), list.len()));
    }
    let (before, after) = pads.split_at(list.len());
    let mut shape = dims.to_vec();
    let mut offset = vec![0i64; dims.len()];
    for ((&a, &b), &e) in list.iter().zip(before).zip(after) {
        let a = axis(a, dims.len())?;
        shape[a] = dims[a].saturating_add(b).saturating_add(e);
        offset[a] = b;
        if shape[a] < 0 {
            return because(format!("axis {a} would have size {}", shape[a]));
        }
    }
    let constant = op.node.attr_str("mode").is_none_or(|m| m == "constant");
    let content = if constant && small(&shape) {
        padded(op, dims, &shape, &offset)
    } else {
        None
    };
    filled(shape, content)
}

fn padded(op: &Op, dims: &[i64], shape: &[i64], offset: &[i64]) -> Option<Content> {
    let fill = if op.has(2) {
        op.content(2)?.clone()
    } else {
        let value = op.node.attr_float("value").unwrap_or(0.0);
        Content::constant(op.dtype(0)?, f64::from(value), 1)?
    };
    let x = op.content(0)?;
    // The filling follows the elements; positions outside the input point at it.
    let outside = x.len() as i64;
    let both = Content::chain(&[x, &fill])?;
    let own = strides(dims);
    both.take(&positions(shape, |at| {
        let inner: Vec<i64> = at.iter().zip(offset).map(|(c, o)| c - o).collect();
        let inside = inner.iter().zip(dims).all(|(&c, &d)| 0 <= c && c < d);
        if inside {
            position(&inner, &own)
        } else {
            outside
        }
    }))
}

/// `Trilu`: the lower or upper triangle, zeros elsewhere.
pub(super) fn trilu(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    if dims.len() < 2 {
        return because("the input is no matrix");
    }
    let upper = op.attr("upper", 1) == 1;
    let k = if op.has(1) {
        op.content(1)
            .and_then(Content::ints)
            .and_then(|k| k.first().copied())
    } else {
        Some(0)
    };
    let x = if small(dims) { op.content(0) } else { None };
    let content = match (k, x, op.dtype(0)) {
        (Some(k), Some(x), Some(dtype)) => {
            let mut keep = Vec::with_capacity(x.len());
            for_each(dims, |at| {
                let (row, column) = (at[at.len() - 2], at[at.len() - 1]);
                let diagonal = row.saturating_add(k);
                keep.push(if upper {
                    column >= diagonal
                } else {
                    column <= diagonal
                });
            });
            Content::constant(dtype, 0.0, x.len())
                .and_then(|zeros| super::arith::select(&keep, x, &zeros))
        }
        _ => None,
    };
    filled(dims, content)
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn bounds_of_a_slice() {
        assert_eq!(cut(10, 2, 7, 2), Some((2, 3)));
        assert_eq!(cut(10, 0, i64::MAX, 1), Some((0, 10)));
        assert_eq!(cut(10, -3, i64::MAX, 1), Some((7, 3)));
        assert_eq!(cut(10, -1, i64::MIN, -1), Some((9, 10)));
        assert_eq!(cut(10, i64::MAX, -11, -3), Some((9, 4)));
        assert_eq!(cut(10, 0, -1, 1), Some((0, 9)));
        assert_eq!(cut(10, 7, 3, 1), Some((7, 0)));
        assert_eq!(cut(0, -1, i64::MIN, -1), Some((0, 0)));
        assert_eq!(cut(5, 0, 5, i64::MAX), Some((0, 1)));
        assert_eq!(cut(5, 0, 5, 0), None);
    }
}
