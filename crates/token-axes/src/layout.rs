//! What the axes of a value inside a block are made of.
//!
//! An axis is a list of *factors*, outermost first: `[B*h, n]` is `[[Batch, Feature h], [Token]]`. An axis of size 1 that
//! stands for nothing is the empty list. Reshape regroups the factors of all axes in order; it may split a feature but never
//! the batch or the tokens: that is what makes a block independent of how many rows it is given.

use crate::dim::Dim;
use std::fmt;

/// What a factor runs over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Batch rows.
    Batch,
    /// Tokens (queries or keys).
    Token,
    /// Tokens as keys whose weights a softmax has normalised: the only token axis that may be summed over.
    Attended,
    /// Anything else; the same for any rows. Its size is a constant of the model, or follows from the number of the model's tokens.
    Feature,
}

/// One factor of an axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Factor {
    /// What it runs over.
    pub role: Role,
    /// Its size.
    pub size: Dim,
}

/// The factors of one axis, outermost first.
pub type Axis = Vec<Factor>;

/// The axes of a value.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout(pub Vec<Axis>);

impl Layout {
    /// Takes back that padding rows have weight 0: after an operator that does not keep 0 at 0.
    pub fn weaken(&mut self) {
        for factor in self.0.iter_mut().flatten() {
            if factor.role == Role::Attended {
                factor.role = Role::Token;
            }
        }
    }
}

/// The size of an axis.
pub fn axis_size(axis: &Axis) -> Dim {
    axis.iter().fold(Dim::ONE, |acc, f| acc.times(f.size))
}

/// Whether an axis runs over tokens.
pub fn has_tokens(axis: &Axis) -> bool {
    axis.iter()
        .any(|f| matches!(f.role, Role::Token | Role::Attended))
}

/// Whether an axis runs over the batch.
pub fn has_batch(axis: &Axis) -> bool {
    axis.iter().any(|f| f.role == Role::Batch)
}

/// Whether an axis is neither batch nor tokens.
pub fn is_feature(axis: &Axis) -> bool {
    !has_tokens(axis) && !has_batch(axis)
}

/// Whether an axis has a feature whose size is no constant of the model.
pub fn varies(axis: &Axis) -> bool {
    axis.iter()
        .any(|f| f.role == Role::Feature && f.size.constant().is_none())
}

/// A feature axis of a size (the empty axis for size 1).
pub fn feature(size: Dim) -> Axis {
    if size == Dim::ONE {
        Vec::new()
    } else {
        vec![Factor {
            role: Role::Feature,
            size,
        }]
    }
}

/// Why factors cannot be regrouped into a shape.
#[derive(Debug, PartialEq, Eq)]
pub enum RegroupError {
    /// The token axis would be cut into pieces (attention inside blocks of tokens, strides).
    SplitsTokens,
    /// A literal size stands where the number of tokens belongs.
    Baked,
    /// The sizes do not fit.
    Mismatch,
}

/// The layout after a reshape to `target`.
pub fn regroup(layout: &Layout, target: &[Dim]) -> Result<Layout, RegroupError> {
    let mut pending: Vec<Factor> = layout.0.iter().flatten().rev().copied().collect();
    let mut out = Vec::with_capacity(target.len());
    for &size in target {
        let mut axis = Vec::new();
        let mut left = size;
        if size == Dim::ONE {
            if pending.last().is_some_and(|f| f.size == Dim::ONE) {
                axis.extend(pending.pop());
            }
            out.push(axis);
            continue;
        }
        while left != Dim::ONE {
            let Some(factor) = pending.pop() else {
                return Err(RegroupError::Mismatch);
            };
            if let Some(rest) = left.exact_div(factor.size) {
                axis.push(factor);
                left = rest;
            } else if factor.role == Role::Feature {
                let rest = factor.size.exact_div(left).ok_or(RegroupError::Mismatch)?;
                axis.push(Factor {
                    role: Role::Feature,
                    size: left,
                });
                pending.push(Factor {
                    role: Role::Feature,
                    size: rest,
                });
                left = Dim::ONE;
            } else if factor.role == Role::Batch {
                return Err(RegroupError::Mismatch);
            } else if left.constant().is_some()
                && factor.size.constant().is_none()
                && axis.is_empty()
            {
                return Err(RegroupError::Baked);
            } else {
                return Err(RegroupError::SplitsTokens);
            }
        }
        out.push(axis);
    }
    // What is left may only be axes of size 1 that the target drops.
    if pending.iter().any(|f| f.size != Dim::ONE) {
        return Err(RegroupError::Mismatch);
    }
    Ok(Layout(out))
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, axis) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            if axis.is_empty() {
                f.write_str("1")?;
            }
            for (j, factor) in axis.iter().enumerate() {
                if j > 0 {
                    f.write_str("*")?;
                }
                match (factor.role, factor.size.constant()) {
                    (Role::Batch, Some(c)) => write!(f, "batch({c})")?,
                    (Role::Batch, None) => f.write_str("batch")?,
                    (Role::Token, Some(c)) => write!(f, "token({c})")?,
                    (Role::Token, None) => f.write_str("token")?,
                    (Role::Attended, _) => f.write_str("key")?,
                    (Role::Feature, _) => write!(f, "{:?}", factor.size)?,
                }
            }
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: Dim = Dim([11, 13, 17, 19]);
    const B: Dim = Dim([2, 3, 5, 7]);

    fn c(x: i64) -> Dim {
        Dim([x; 4])
    }
    fn hidden() -> Layout {
        Layout(vec![
            vec![Factor {
                role: Role::Batch,
                size: B,
            }],
            vec![Factor {
                role: Role::Token,
                size: N,
            }],
            feature(c(32)),
        ])
    }

    #[test]
    fn splits_heads_and_merges_batch() {
        let heads = regroup(&hidden(), &[B, N, c(4), c(8)]).unwrap();
        assert_eq!(heads.to_string(), "[batch, token, 4, 8]");
        let merged = regroup(&hidden(), &[B.times(N), c(32)]).unwrap();
        assert_eq!(merged.to_string(), "[batch*token, 32]");
        assert_eq!(regroup(&merged, &[B, N, c(32)]).unwrap(), hidden());
    }

    #[test]
    fn refuses_to_split_tokens_or_take_a_literal() {
        let windows = Dim([22, 26, 34, 38]);
        let mut long = hidden();
        long.0[1][0].size = windows;
        assert_eq!(
            regroup(&long, &[B, N, c(2), c(32)]),
            Err(RegroupError::SplitsTokens)
        );
        assert_eq!(
            regroup(&hidden(), &[B, c(17), c(32)]),
            Err(RegroupError::Baked)
        );
    }

    #[test]
    fn literal_batch_of_one() {
        let layout = Layout(vec![
            vec![Factor {
                role: Role::Batch,
                size: c(1),
            }],
            vec![Factor {
                role: Role::Token,
                size: c(128),
            }],
            feature(c(32)),
        ]);
        let out = regroup(&layout, &[c(1), c(128), c(4), c(8)]).unwrap();
        assert_eq!(out.to_string(), "[batch(1), token(128), 4, 8]");
        assert_eq!(
            regroup(&layout, &[c(128), c(32)]).unwrap().to_string(),
            "[batch(1)*token(128), 32]"
        );
    }
}
