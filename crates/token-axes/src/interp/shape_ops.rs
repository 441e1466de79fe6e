//! Operators that read, build or change shapes and leave the elements' order alone.

use super::index::{count, gcd};
use super::op::{Fail, Op, Out, Outs, axes, axis, because, filled, small};
use super::value::Content;

/// `Shape(start, end)`.
pub(super) fn shape(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let rank = dims.len() as i64;
    let clamp = |x: i64| (if x < 0 { x.saturating_add(rank) } else { x }).clamp(0, rank) as usize;
    let (start, end) = (clamp(op.attr("start", 0)), clamp(op.attr("end", rank)));
    let part = dims.get(start..end.max(start)).unwrap_or_default();
    filled([part.len() as i64], Some(Content::Int(part.to_vec())))
}

/// `Size`.
pub(super) fn size(op: &Op) -> Outs {
    let n = count(op.shape(0)?).and_then(|n| i64::try_from(n).ok());
    filled([], n.map(|n| Content::Int(vec![n])))
}

/// A copy in another shape.
fn reshaped(op: &Op, shape: Vec<i64>) -> Outs {
    let content = if small(&shape) {
        op.content(0).cloned()
    } else {
        None
    };
    filled(shape, content)
}

/// `Reshape`.
pub(super) fn reshape(op: &Op) -> Outs {
    let from = op.shape(0)?;
    let target = op.ints_or(1, "shape")?;
    let Some(target) = target else {
        return because("there is no target shape");
    };
    reshaped(op, resolve(from, &target, op.attr("allowzero", 0) == 1)?)
}

/// The shape that a Reshape target stands for.
pub(super) fn resolve(from: &[i64], target: &[i64], allow_zero: bool) -> Result<Vec<i64>, Fail> {
    let Some(total) = count(from).and_then(|n| i64::try_from(n).ok()) else {
        return because("the number of elements overflows");
    };
    let mut out = target.to_vec();
    for (i, d) in out.iter_mut().enumerate() {
        if *d == 0 && !allow_zero {
            let Some(&copied) = from.get(i) else {
                return because(format!(
                    "target axis {i} is copied from an axis that does not exist"
                ));
            };
            *d = copied;
        }
    }
    let open = out.iter().filter(|&&d| d == -1).count();
    let known: Vec<i64> = out.iter().copied().filter(|&d| d != -1).collect();
    let Some(product) = count(&known).and_then(|n| i64::try_from(n).ok()) else {
        return because(format!("the target {target:?} is not a shape"));
    };
    match open {
        2.. => {
            return because(format!(
                "the target {target:?} leaves more than one size open"
            ));
        }
        0 if product == total => {}
        1 if product == 0 && total == 0 => {
            out.iter_mut().filter(|d| **d == -1).for_each(|d| *d = 0)
        }
        1 if product != 0 && total % product == 0 => {
            out.iter_mut()
                .filter(|d| **d == -1)
                .for_each(|d| *d = total / product);
        }
        _ if product != 0 && total != 0 => {
            let common = gcd(total, product);
            let (a, b) = (total / common, product / common);
            return Err(if open == 0 {
                Fail::Differ { a, b, fixed: false }
            } else {
                Fail::Divide { a, b }
            });
        }
        _ => {
            return because(format!(
                "{total} elements of shape {from:?} cannot take the shape {target:?}"
            ));
        }
    }
    Ok(out)
}

/// `Flatten`.
pub(super) fn flatten(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let at = op.attr("axis", 1);
    let at = if at == dims.len() as i64 {
        dims.len()
    } else {
        axis(at, dims.len())?
    };
    let product = |d: &[i64]| count(d).and_then(|n| i64::try_from(n).ok());
    let (front, back) = dims.split_at(at);
    match (product(front), product(back)) {
        (Some(a), Some(b)) => reshaped(op, vec![a, b]),
        _ => because("the number of elements overflows"),
    }
}

/// `Squeeze`; without axes every axis of size 1 goes.
pub(super) fn squeeze(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let gone = match op.ints_or(1, "axes")? {
        Some(list) => axes(&list, dims.len())?,
        None => (0..dims.len()).filter(|&i| dims[i] == 1).collect(),
    };
    if let Some(i) = gone.iter().find(|&&i| dims[i] != 1) {
        return because(format!("axis {i} of size {} cannot be squeezed", dims[*i]));
    }
    let kept = dims
        .iter()
        .enumerate()
        .filter(|(i, _)| !gone.contains(i))
        .map(|(_, &d)| d);
    reshaped(op, kept.collect())
}

/// `Unsqueeze`.
pub(super) fn unsqueeze(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let Some(list) = op.ints_or(1, "axes")? else {
        return because("there are no axes");
    };
    let rank = dims.len() + list.len();
    let new = axes(&list, rank)?;
    if new.len() != list.len() {
        return because("an axis is repeated");
    }
    let mut rest = dims.iter().copied();
    let shape = (0..rank).map(|i| {
        if new.contains(&i) {
            1
        } else {
            rest.next().unwrap_or(1)
        }
    });
    reshaped(op, shape.collect())
}

/// `ConstantOfShape`: zeros, or the `value` attribute.
pub(super) fn constant_of_shape(op: &Op) -> Outs {
    let shape = op.ints(0)?;
    if shape.iter().any(|&d| d < 0) {
        return because(format!("the shape {shape:?} has a negative size"));
    }
    let content = match count(shape) {
        Some(n) if small(shape) => match op.node.attr_tensor("value") {
            None => Some(Content::Float(vec![0.0; n])),
            Some(t) => super::value::Value::of_tensor(t)
                .content()
                .and_then(|c| c.take(&vec![0; n])),
        },
        _ => None,
    };
    filled(shape, content)
}

/// `Range`.
pub(super) fn range(op: &Op) -> Outs {
    if let Some(Content::Float(_)) = op.value(0).and_then(|v| v.content()) {
        return float_range(op);
    }
    let (start, limit, delta) = (op.int(0)?, op.int(1)?, op.int(2)?);
    if delta == 0 {
        return because("the step is 0");
    }
    // In 128 bits nothing overflows: |limit - start| < 2^64.
    let (start, span, delta) = (
        i128::from(start),
        i128::from(limit) - i128::from(start),
        i128::from(delta),
    );
    let n = (span / delta + i128::from(span % delta != 0 && (span < 0) == (delta < 0))).max(0);
    let Ok(n) = i64::try_from(n) else {
        return because("the range is too long");
    };
    let content = small(&[n]).then(|| {
        Content::Int(
            (0..n)
                .map(|i| (start + i128::from(i) * delta) as i64)
                .collect(),
        )
    });
    filled([n], content)
}

fn float_range(op: &Op) -> Outs {
    let scalar = |i: usize| match op.floats(i)? {
        [x] => Ok(*x),
        other => because(format!(
            "input {i} has {} elements instead of one",
            other.len()
        )),
    };
    let (start, limit, delta) = (scalar(0)?, scalar(1)?, scalar(2)?);
    let n = ((limit - start) / delta).ceil();
    if n.is_nan() || n >= i64::MAX as f64 {
        return because("the range is too long");
    }
    let n = (n as i64).max(0);
    let content =
        small(&[n]).then(|| Content::Float((0..n).map(|i| start + i as f64 * delta).collect()));
    filled([n], content.and_then(|c| c.fit(op.dtype(0)?)))
}

/// `Split`: given sizes, or equal parts with a shorter last one. `num_outputs` only says how many outputs there are.
pub(super) fn split(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let at = op.axis(0, dims.len())?;
    let parts = op.node.outputs.len() as i64;
    let sizes = match op.ints_or(1, "split")? {
        Some(sizes) => {
            let total = sizes.iter().fold(0i64, |a, &b| a.saturating_add(b));
            if sizes.iter().any(|&s| s < 0) || total != dims[at] {
                return Err(Fail::Differ {
                    a: dims[at],
                    b: total,
                    fixed: false,
                });
            }
            sizes
        }
        None if parts == 0 => return Ok(Vec::new()),
        None => {
            let part = dims[at] / parts + i64::from(dims[at] % parts != 0);
            (0..parts)
                .map(|i| part.min((dims[at] - i * part).max(0)))
                .collect()
        }
    };
    let mut start = 0;
    let mut outs = Vec::new();
    for size in sizes {
        let mut shape = dims.to_vec();
        shape[at] = size;
        let content = super::moves::window(op, at, start, &shape);
        outs.push(Out {
            shape: Some(shape),
            content,
        });
        start += size;
    }
    Ok(outs)
}
