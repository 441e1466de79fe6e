//! Element-wise arithmetic on contents.
//!
//! Integer arithmetic wraps; where ONNX leaves a result undefined (division by zero) there is no content.

use std::cmp::Ordering;

use super::index::{broadcast_strides, position, positions};
use super::op::small;
use super::value::Content;

/// Reads a content as if broadcast from shape `from` to shape `to`.
pub(super) fn spread(content: &Content, from: &[i64], to: &[i64]) -> Option<Content> {
    if from == to {
        return Some(content.clone());
    }
    if !small(to) {
        return None;
    }
    let strides = broadcast_strides(from, to);
    content.take(&positions(to, |at| position(at, &strides)))
}

/// A function of one element, for each kind it is defined on.
pub(super) fn unary(op: &str, x: &Content) -> Option<Content> {
    let floats = |f: fn(f64) -> f64| {
        x.floats()
            .map(|v| Content::Float(v.iter().map(|&x| f(x)).collect()))
    };
    let ints = |f: fn(i64) -> i64| {
        x.ints()
            .map(|v| Content::Int(v.iter().map(|&x| f(x)).collect()))
    };
    let numbers = |f: fn(f64) -> f64, i: fn(i64) -> i64| floats(f).or_else(|| ints(i));
    match op {
        "Identity" => Some(x.clone()),
        "Neg" => numbers(|x| -x, i64::wrapping_neg),
        "Abs" => numbers(f64::abs, i64::wrapping_abs),
        "Sign" => numbers(
            |x| {
                if x == 0.0 || x.is_nan() {
                    x
                } else {
                    x.signum()
                }
            },
            i64::signum,
        ),
        "Relu" => numbers(|x| if x < 0.0 { 0.0 } else { x }, |x| x.max(0)),
        "BitwiseNot" => ints(|x| !x),
        "Sqrt" => floats(f64::sqrt),
        "Exp" => floats(f64::exp),
        "Log" => floats(f64::ln),
        "Sin" => floats(f64::sin),
        "Cos" => floats(f64::cos),
        "Tan" => floats(f64::tan),
        "Tanh" => floats(f64::tanh),
        "Ceil" => floats(f64::ceil),
        "Floor" => floats(f64::floor),
        "Round" => floats(f64::round_ties_even),
        "Reciprocal" => floats(|x| 1.0 / x),
        "Sigmoid" => floats(|x| 1.0 / (1.0 + (-x).exp())),
        "Softplus" => floats(|x| x.exp().ln_1p()),
        "Not" => x
            .bools()
            .map(|v| Content::Bool(v.iter().map(|x| !x).collect())),
        "IsNaN" => x
            .floats()
            .map(|v| Content::Bool(v.iter().map(|x| x.is_nan()).collect())),
        _ => None,
    }
}

/// A function of two elements. Both contents have the same length.
pub(super) fn binary(op: &str, a: &Content, b: &Content) -> Option<Content> {
    if a.len() != b.len() {
        return None;
    }
    match (a, b) {
        (Content::Int(a), Content::Int(b)) => int_binary(op, a, b),
        (Content::Float(a), Content::Float(b)) => float_binary(op, a, b),
        (Content::Bool(a), Content::Bool(b)) => {
            let f = |f: fn(bool, bool) -> bool| {
                Some(Content::Bool(
                    a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect(),
                ))
            };
            match op {
                "And" => f(|a, b| a & b),
                "Or" => f(|a, b| a | b),
                "Xor" => f(|a, b| a ^ b),
                "Equal" => f(|a, b| a == b),
                _ => None,
            }
        }
        (Content::Int(a), Content::Float(b)) if op == "Pow" => Some(Content::Int(
            a.iter()
                .zip(b)
                .map(|(&a, &b)| (a as f64).powf(b) as i64)
                .collect(),
        )),
        (Content::Float(a), Content::Int(b)) if op == "Pow" => Some(Content::Float(
            a.iter().zip(b).map(|(&a, &b)| a.powf(b as f64)).collect(),
        )),
        _ => None,
    }
}

fn int_binary(op: &str, a: &[i64], b: &[i64]) -> Option<Content> {
    let f = |f: fn(i64, i64) -> Option<i64>| {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f(a, b))
            .collect::<Option<_>>()
            .map(Content::Int)
    };
    match op {
        "Add" => f(|a, b| Some(a.wrapping_add(b))),
        "Sub" => f(|a, b| Some(a.wrapping_sub(b))),
        "Mul" => f(|a, b| Some(a.wrapping_mul(b))),
        "Div" => f(i64::checked_div),
        "Mod" => f(|a, b| {
            let r = a.checked_rem(b)?;
            Some(if r != 0 && (r < 0) != (b < 0) {
                r + b
            } else {
                r
            })
        }),
        "Fmod" => f(i64::checked_rem),
        "Pow" => f(|a, b| match u32::try_from(b) {
            Ok(b) => Some(a.wrapping_pow(b)),
            Err(_) => None,
        }),
        "Min" => f(|a, b| Some(a.min(b))),
        "Max" => f(|a, b| Some(a.max(b))),
        "BitwiseAnd" => f(|a, b| Some(a & b)),
        "BitwiseOr" => f(|a, b| Some(a | b)),
        "BitwiseXor" => f(|a, b| Some(a ^ b)),
        _ => compare(op, a, b),
    }
}

fn float_binary(op: &str, a: &[f64], b: &[f64]) -> Option<Content> {
    let f = |f: fn(f64, f64) -> f64| {
        Some(Content::Float(
            a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect(),
        ))
    };
    match op {
        "Add" => f(|a, b| a + b),
        "Sub" => f(|a, b| a - b),
        "Mul" => f(|a, b| a * b),
        "Div" => f(|a, b| a / b),
        "Fmod" => f(|a, b| a % b),
        "Pow" => f(f64::powf),
        "Min" => f(|a, b| if a.is_nan() || a < b { a } else { b }),
        "Max" => f(|a, b| if a.is_nan() || a > b { a } else { b }),
        _ => compare(op, a, b),
    }
}

fn compare<T: PartialOrd>(op: &str, a: &[T], b: &[T]) -> Option<Content> {
    let test: fn(Option<Ordering>) -> bool = match op {
        "Equal" => |o| o == Some(Ordering::Equal),
        "Less" => |o| o == Some(Ordering::Less),
        "Greater" => |o| o == Some(Ordering::Greater),
        "LessOrEqual" => |o| matches!(o, Some(Ordering::Less | Ordering::Equal)),
        "GreaterOrEqual" => |o| matches!(o, Some(Ordering::Greater | Ordering::Equal)),
        _ => return None,
    };
    Some(Content::Bool(
        a.iter()
            .zip(b)
            .map(|(a, b)| test(a.partial_cmp(b)))
            .collect(),
    ))
}

/// `condition ? a : b`, all of the same length.
pub(super) fn select(condition: &[bool], a: &Content, b: &Content) -> Option<Content> {
    fn pick<T: Copy>(c: &[bool], a: &[T], b: &[T]) -> Option<Vec<T>> {
        (c.len() == a.len() && c.len() == b.len()).then(|| {
            c.iter()
                .zip(a.iter().zip(b))
                .map(|(&c, (&a, &b))| if c { a } else { b })
                .collect()
        })
    }
    match (a, b) {
        (Content::Int(a), Content::Int(b)) => pick(condition, a, b).map(Content::Int),
        (Content::Float(a), Content::Float(b)) => pick(condition, a, b).map(Content::Float),
        (Content::Bool(a), Content::Bool(b)) => pick(condition, a, b).map(Content::Bool),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_divide_towards_zero_and_mod_follows_the_divisor() {
        let (a, b) = (
            Content::Int(vec![7, -7, 7, -7]),
            Content::Int(vec![2, 2, -2, -2]),
        );
        assert_eq!(
            binary("Div", &a, &b),
            Some(Content::Int(vec![3, -3, -3, 3]))
        );
        assert_eq!(
            binary("Mod", &a, &b),
            Some(Content::Int(vec![1, 1, -1, -1]))
        );
        assert_eq!(
            binary("Fmod", &a, &b),
            Some(Content::Int(vec![1, -1, 1, -1]))
        );
        assert_eq!(
            binary("Div", &Content::Int(vec![1]), &Content::Int(vec![0])),
            None
        );
        assert_eq!(
            binary(
                "Div",
                &Content::Int(vec![i64::MIN]),
                &Content::Int(vec![-1])
            ),
            None
        );
    }

    #[test]
    fn nan_compares_false() {
        let (a, b) = (
            Content::Float(vec![f64::NAN, 1.0]),
            Content::Float(vec![0.0, 1.0]),
        );
        assert_eq!(
            binary("LessOrEqual", &a, &b),
            Some(Content::Bool(vec![false, true]))
        );
        assert_eq!(
            binary("Equal", &a, &a),
            Some(Content::Bool(vec![false, true]))
        );
    }

    #[test]
    fn round_is_half_to_even() {
        let x = Content::Float(vec![0.5, 1.5, -2.5]);
        assert_eq!(
            unary("Round", &x),
            Some(Content::Float(vec![0.0, 2.0, -2.0]))
        );
    }
}
