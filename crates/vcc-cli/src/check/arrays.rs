//! Arrays: index maps, and how far two of them differ.

use vcc_run::{Array, Data};

/// Calls `f` with the position and the index of every element.
pub(super) fn each(shape: &[usize], mut f: impl FnMut(usize, &[usize])) {
    let total: usize = shape.iter().product();
    let mut index = vec![0; shape.len()];
    for position in 0..total {
        f(position, &index);
        for (i, &size) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < size {
                break;
            }
            *i = 0;
        }
    }
}

/// The array whose element at `[i, j, ..]` is the one at `[maps[0][i], maps[1][j], ..]` of the given one.
pub(super) fn mapped(array: &Array, maps: &[Vec<usize>]) -> Option<Array> {
    let shape = array.shape();
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    let sizes: Vec<usize> = maps.iter().map(Vec::len).collect();
    if sizes != shape {
        return None;
    }
    let mut from = Vec::with_capacity(array.data().len());
    each(shape, |_, index| {
        let places = index.iter().zip(maps).zip(&strides);
        from.push(
            places
                .map(|((&i, map), stride)| map[i] * stride)
                .sum::<usize>(),
        );
    });
    macro_rules! take {
        ($($variant:ident)*) => {
            match array.data() {
                $(Data::$variant(v) => Data::$variant(
                    from.iter().map(|&i| v.get(i).copied()).collect::<Option<_>>()?,
                ),)*
            }
        };
    }
    let data = take!(F32 F64 F16 I64 I32 I8 U8 Bool);
    Array::new(shape.to_vec(), data).ok()
}

/// Numbers beyond this are masks and do not count for what is usual.
const USUAL: f64 = 1e3;

/// How far each element is from the expected one, relative to it and to what is usual in the array; infinite where only one is
/// a number. Both have the same length.
pub(super) fn distances(expected: &[f64], got: &[f64]) -> Vec<f64> {
    let usual: Vec<f64> = expected
        .iter()
        .copied()
        .filter(|x| x.abs() < USUAL)
        .collect();
    let mean = usual.iter().map(|x| x * x).sum::<f64>() / usual.len().max(1) as f64;
    let scale = mean.sqrt();
    let distance = |(&a, &b): (&f64, &f64)| {
        if a == b || (a.is_nan() && b.is_nan()) {
            0.0
        } else if a.is_finite() && b.is_finite() {
            (a - b).abs() / (a.abs() + scale).max(f64::MIN_POSITIVE)
        } else {
            f64::INFINITY
        }
    };
    expected.iter().zip(got).map(distance).collect()
}
