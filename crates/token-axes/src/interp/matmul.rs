//! Matrix products.

use super::index::{broadcast_strides, count, for_each, position, strides};
use super::op::{Fail, Op, Outs, because, broadcast, filled, one, small};
use super::value::{Content, LIMIT};

/// `MatMul` and the quantised forms with the second matrix in input 1.
pub(super) fn matmul(op: &Op) -> Outs {
    let shape = product(op, 0, 1)?;
    let content = multiplied(op, &shape);
    filled(shape, content)
}

/// `QLinearMatMul`: the second matrix is input 3.
pub(super) fn qlinear_matmul(op: &Op) -> Outs {
    one(product(op, 0, 3)?)
}

/// `FusedMatMul`: each matrix may be transposed on its last two axes, or on its batch axes and the last but one.
pub(super) fn fused_matmul(op: &Op) -> Outs {
    let a = flipped(
        op.shape(0)?,
        op.attr("transA", 0) == 1,
        op.attr("transBatchA", 0) == 1,
    );
    let b = flipped(
        op.shape(1)?,
        op.attr("transB", 0) == 1,
        op.attr("transBatchB", 0) == 1,
    );
    one(product_of(op, (0, &a), (1, &b))?)
}

fn flipped(shape: &[i64], last: bool, batch: bool) -> Vec<i64> {
    let mut out = shape.to_vec();
    let rank = out.len();
    if rank >= 3 && batch {
        // [0, 1, .., m, k] becomes [1, .., m, 0, k].
        out[..rank - 1].rotate_left(1);
    }
    if rank >= 2 && last {
        out.swap(rank - 2, rank - 1);
    }
    out
}

/// The shape of the product of inputs `i` and `j`.
fn product(op: &Op, i: usize, j: usize) -> Result<Vec<i64>, Fail> {
    product_of(op, (i, op.shape(i)?), (j, op.shape(j)?))
}

fn product_of(op: &Op, (i, a): (usize, &[i64]), (j, b): (usize, &[i64])) -> Result<Vec<i64>, Fail> {
    let (Some((&inner, rows)), false) = (a.split_last(), b.is_empty()) else {
        return because("a factor is a scalar");
    };
    let (batch_b, columns) = match b {
        [k] => {
            op.same(i, inner, j, *k)?;
            (&[][..], None)
        }
        [batch @ .., k, n] => {
            op.same(i, inner, j, *k)?;
            (batch, Some(*n))
        }
        [] => (&[][..], None),
    };
    let mut shape = match rows.split_last() {
        Some((&m, batch)) => {
            let mut shape = broadcast(batch, batch_b)?;
            shape.push(m);
            shape
        }
        None => batch_b.to_vec(),
    };
    shape.extend(columns);
    Ok(shape)
}

/// The content of a small product.
fn multiplied(op: &Op, shape: &[i64]) -> Option<Content> {
    let (a, b) = (op.shape(0).ok()?, op.shape(1).ok()?);
    if op.node.op_type != "MatMul" || a.len() < 2 || b.len() < 2 {
        return None;
    }
    let inner = *a.last()?;
    if count(shape)?.checked_mul(usize::try_from(inner).ok()?)? > LIMIT {
        return None;
    }
    let rank = shape.len();
    // Strides with which each factor is read along (batch.., m, n), and along k.
    let along = |dims: &[i64], row: bool| {
        let own = strides(dims);
        let batch = broadcast_strides(&dims[..dims.len() - 2], &shape[..rank - 2]);
        let block = dims[dims.len() - 2] * dims[dims.len() - 1];
        let mut s: Vec<i64> = batch.iter().map(|s| s * block).collect();
        let (m, n) = (own[dims.len() - 2], own[dims.len() - 1]);
        s.extend(if row { [m, 0] } else { [0, n] });
        (s, if row { n } else { m })
    };
    let ((sa, ka), (sb, kb)) = (along(a, true), along(b, false));
    let (x, y) = (op.content(0)?, op.content(1)?);
    let out = match (x, y) {
        (Content::Int(x), Content::Int(y)) => {
            let mut out = Vec::new();
            for_each(shape, |c| {
                let (p, q) = (position(c, &sa), position(c, &sb));
                out.push((0..inner).try_fold(0i64, |sum, k| {
                    let (x, y) = (x.get((p + k * ka) as usize)?, y.get((q + k * kb) as usize)?);
                    Some(sum.wrapping_add(x.wrapping_mul(*y)))
                }));
            });
            Content::Int(out.into_iter().collect::<Option<_>>()?)
        }
        (Content::Float(x), Content::Float(y)) => {
            let mut out = Vec::new();
            for_each(shape, |c| {
                let (p, q) = (position(c, &sa), position(c, &sb));
                out.push((0..inner).try_fold(0f64, |sum, k| {
                    Some(sum + x.get((p + k * ka) as usize)? * y.get((q + k * kb) as usize)?)
                }));
            });
            Content::Float(out.into_iter().collect::<Option<_>>()?)
        }
        _ => return None,
    };
    out.fit(op.dtype(0)?)
}

/// `Gemm` and `FusedGemm`: matrices, each may be transposed.
pub(super) fn gemm(op: &Op) -> Outs {
    let (&[m, k], &[l, n]) = (op.shape(0)?, op.shape(1)?) else {
        return because("a factor is not a matrix");
    };
    let (m, k) = if op.attr("transA", 0) == 1 {
        (k, m)
    } else {
        (m, k)
    };
    let (l, n) = if op.attr("transB", 0) == 1 {
        (n, l)
    } else {
        (l, n)
    };
    op.same(0, k, 1, l)?;
    one([m, n])
}

/// `Einsum`.
pub(super) fn einsum(op: &Op) -> Outs {
    let Some(equation) = op.node.attr_str("equation") else {
        return because("there is no equation");
    };
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right.to_string())),
        None => (equation.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != op.inputs.len() {
        return because(format!(
            "the equation {equation} does not have {} terms",
            op.inputs.len()
        ));
    }
    // Each term as one label per axis; the axes of an ellipsis are labelled by digits, aligned at the right.
    let mut labels: Vec<Vec<char>> = Vec::new();
    let mut sizes: Vec<(char, i64)> = Vec::new();
    let mut hidden = 0;
    for (i, term) in terms.iter().enumerate() {
        let dims = op.shape(i)?;
        let named = term.chars().filter(|&c| c != '.').count();
        let free = if term.contains("...") {
            dims.len().checked_sub(named)
        } else {
            Some(0)
        };
        let Some(free) = free.filter(|&f| f + named == dims.len() && f <= 10) else {
            return because(format!("the term {term} does not fit rank {}", dims.len()));
        };
        hidden = hidden.max(free);
        let own: Vec<char> = expand_ellipsis(term, free);
        for (&label, &d) in own.iter().zip(dims) {
            match sizes.iter_mut().find(|(l, _)| *l == label) {
                None => sizes.push((label, d)),
                Some((_, known)) if *known == 1 => *known = d,
                Some((_, known)) if d == 1 || d == *known => {}
                Some((_, known)) => {
                    return Err(Fail::Differ {
                        a: *known,
                        b: d,
                        fixed: false,
                    });
                }
            }
        }
        labels.push(own);
    }
    let output = match right {
        Some(right) => expand_ellipsis(&right, hidden),
        None => {
            let all = || labels.iter().flatten();
            let mut once: Vec<char> = all()
                .copied()
                .filter(|c| all().filter(|d| *d == c).count() == 1)
                .collect();
            once.retain(|c| !c.is_ascii_digit());
            once.sort_unstable();
            let mut out = expand_ellipsis("...", hidden);
            out.extend(once);
            out
        }
    };
    let size = |label: char| sizes.iter().find(|(l, _)| *l == label).map(|(_, d)| *d);
    let Some(shape) = output
        .iter()
        .map(|&l| size(l))
        .collect::<Option<Vec<i64>>>()
    else {
        return because(format!(
            "the output of {equation} has a label that no input has"
        ));
    };
    let content = contracted(op, &labels, &output, &sizes);
    filled(shape, content)
}

/// The labels of a term, the ellipsis replaced by the last `n` of the digits 0 to 9.
fn expand_ellipsis(term: &str, n: usize) -> Vec<char> {
    let digits: Vec<char> = ('0'..='9').skip(10usize.saturating_sub(n)).collect();
    let (before, after) = term.split_once("...").unwrap_or((term, ""));
    let middle = if term.contains("...") {
        digits
    } else {
        Vec::new()
    };
    before.chars().chain(middle).chain(after.chars()).collect()
}

/// The content of a small float Einsum: a plain sum over all labels.
fn contracted(
    op: &Op,
    labels: &[Vec<char>],
    output: &[char],
    sizes: &[(char, i64)],
) -> Option<Content> {
    let mut order: Vec<(char, i64)> = output
        .iter()
        .filter_map(|o| sizes.iter().find(|s| s.0 == *o))
        .copied()
        .collect();
    let inner: Vec<(char, i64)> = sizes
        .iter()
        .filter(|s| !output.contains(&s.0))
        .copied()
        .collect();
    let inner_count = count(&inner.iter().map(|s| s.1).collect::<Vec<_>>())?;
    order.extend(inner);
    let all: Vec<i64> = order.iter().map(|s| s.1).collect();
    if !small(&all) || inner_count == 0 {
        return None;
    }
    let mut factors = Vec::new();
    for (i, own) in labels.iter().enumerate() {
        let dims = op.shape(i).ok()?;
        let own_strides = strides(dims);
        let axes = own.iter().zip(dims).zip(own_strides);
        let reads: Vec<(char, i64)> = axes
            .filter(|((_, d), _)| **d != 1)
            .map(|((l, _), s)| (*l, s))
            .collect();
        let along = |l: char| reads.iter().filter(|r| r.0 == l).map(|r| r.1).sum::<i64>();
        factors.push((
            op.content(i)?.floats()?,
            order.iter().map(|s| along(s.0)).collect::<Vec<_>>(),
        ));
    }
    let mut terms: Vec<Option<f64>> = Vec::new();
    for_each(&all, |c| {
        let value = |(x, s): &(&[f64], Vec<i64>)| x.get(position(c, s) as usize).copied();
        terms.push(factors.iter().map(value).product());
    });
    let terms = terms.into_iter().collect::<Option<Vec<f64>>>()?;
    Content::Float(terms.chunks(inner_count).map(|t| t.iter().sum()).collect()).fit(op.dtype(0)?)
}
