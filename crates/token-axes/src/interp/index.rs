//! Shapes and row-major positions. Every shape here is concrete; a negative size never gets this far.

/// The number of elements, or nothing if a size is negative or the product overflows.
pub(super) fn count(shape: &[i64]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))
}

/// The row-major strides of a shape, in elements.
pub(super) fn strides(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    let mut step = 1i64;
    for (s, &d) in strides.iter_mut().zip(shape).rev() {
        *s = step;
        step = step.saturating_mul(d.max(1));
    }
    strides
}

/// Calls `f` with every coordinate of `shape`, in row-major order. The caller has bounded the number of elements.
pub(super) fn for_each(shape: &[i64], mut f: impl FnMut(&[i64])) {
    let Some(total) = count(shape) else { return };
    let mut at = vec![0i64; shape.len()];
    for _ in 0..total {
        f(&at);
        for (c, &d) in at.iter_mut().zip(shape).rev() {
            *c += 1;
            if *c < d {
                break;
            }
            *c = 0;
        }
    }
}

/// The position of a coordinate. Saturates, as a coordinate may be far outside.
pub(super) fn position(at: &[i64], strides: &[i64]) -> i64 {
    at.iter()
        .zip(strides)
        .fold(0, |p: i64, (c, s)| p.saturating_add(c.saturating_mul(*s)))
}

/// For every element of `shape` the position that `f` gives it in another tensor.
pub(super) fn positions(shape: &[i64], mut f: impl FnMut(&[i64]) -> i64) -> Vec<i64> {
    let mut out = Vec::with_capacity(count(shape).unwrap_or(0));
    for_each(shape, |at| out.push(f(at)));
    out
}

/// The strides with which a tensor of shape `from` is read when broadcast to `to` (which it broadcasts to).
pub(super) fn broadcast_strides(from: &[i64], to: &[i64]) -> Vec<i64> {
    let lead = to.len().saturating_sub(from.len());
    let own = strides(from);
    let mut out = vec![0; lead];
    out.extend(
        from.iter()
            .zip(own)
            .map(|(&d, s)| if d == 1 { 0 } else { s }),
    );
    out
}

/// The common shape of a broadcast, or the first pair of sizes that differ.
pub(super) fn broadcast(a: &[i64], b: &[i64]) -> Result<Vec<i64>, (i64, i64)> {
    let rank = a.len().max(b.len());
    let size = |s: &[i64], axis: usize| {
        (axis + s.len())
            .checked_sub(rank)
            .and_then(|i| s.get(i).copied())
            .unwrap_or(1)
    };
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            (x, y) => Err((x, y)),
        })
        .collect()
}

/// The greatest common divisor of two non-negative numbers.
pub(super) fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting() {
        assert_eq!(broadcast(&[2, 1, 4], &[3, 1]), Ok(vec![2, 3, 4]));
        assert_eq!(broadcast(&[], &[3]), Ok(vec![3]));
        assert_eq!(broadcast(&[0], &[1]), Ok(vec![0]));
        assert_eq!(broadcast(&[2, 3], &[2, 4]), Err((3, 4)));
        assert_eq!(broadcast_strides(&[3, 1], &[2, 3, 4]), [0, 1, 0]);
    }

    #[test]
    fn coordinates_are_row_major() {
        let s = strides(&[2, 3]);
        assert_eq!(s, [3, 1]);
        assert_eq!(
            positions(&[2, 3], |at| position(at, &s)),
            [0, 1, 2, 3, 4, 5]
        );
        assert_eq!(positions(&[], |_| 7), [7]);
        assert!(positions(&[2, 0], |_| 7).is_empty());
    }
}
