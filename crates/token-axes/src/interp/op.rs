//! One node with what is known of its inputs, as the operator rules see it.
//!
//! A rule reads shapes and contents through [`Op`], which notes whether it looked at a content that was only assumed: a
//! content read by [`Op::content`] makes the output's content assumed, one read by [`Op::ints`] makes its shape assumed.

use std::cell::{Cell, RefCell};

use onnx_model::{DataType, Node};

use super::index;
use super::value::{Content, LIMIT, Value};

/// Why a rule gives no result.
#[derive(Debug)]
pub(super) enum Fail {
    /// In words; `input` is the index of the node's input that is to blame.
    Because {
        reason: String,
        input: Option<usize>,
    },
    /// Size `a` must be a multiple of `b` and is not.
    Divide { a: i64, b: i64 },
    /// Two sizes that must be equal are not. `fixed`: one of them belongs to a constant, so that the other has no choice.
    Differ { a: i64, b: i64, fixed: bool },
}

/// A failure in words.
pub(super) fn because<T>(reason: impl Into<String>) -> Result<T, Fail> {
    Err(Fail::Because {
        reason: reason.into(),
        input: None,
    })
}

/// The content of input `i` is not known although the shape depends on it.
pub(super) fn unknown_content(i: usize) -> Fail {
    Fail::Because {
        reason: format!("the content of input {i} is not known, and the shape depends on it"),
        input: Some(i),
    }
}

/// One output of a rule.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) shape: Option<Vec<i64>>,
    pub(super) content: Option<Content>,
}

/// What a rule gives: one entry per output, trailing ones may be left out (unknown).
pub(super) type Outs = Result<Vec<Out>, Fail>;

/// An output of known shape.
pub(super) fn shaped(shape: impl Into<Vec<i64>>) -> Out {
    Out {
        shape: Some(shape.into()),
        content: None,
    }
}

/// The single output of a node, of known shape.
pub(super) fn one(shape: impl Into<Vec<i64>>) -> Outs {
    Ok(vec![shaped(shape)])
}

/// The single output of a node, with its content if there is one.
pub(super) fn filled(shape: impl Into<Vec<i64>>, content: Option<Content>) -> Outs {
    Ok(vec![Out {
        shape: Some(shape.into()),
        content,
    }])
}

/// Whether a content of this shape may be computed.
pub(super) fn small(shape: &[i64]) -> bool {
    index::count(shape).is_some_and(|n| n <= LIMIT)
}

/// A node and what is known of its inputs.
pub(super) struct Op<'a> {
    pub(super) node: &'a Node,
    /// The version of the node's operator set.
    pub(super) opset: i64,
    pub(super) inputs: Vec<Option<&'a Value>>,
    pub(super) read_assumed_content: Cell<bool>,
    pub(super) read_assumed_shape: Cell<bool>,
    /// Pairs of sizes that are equal if both belong to symbols.
    pub(super) likely_same: RefCell<Vec<(i64, i64)>>,
}

impl<'a> Op<'a> {
    /// Whether input `i` is given.
    pub(super) fn has(&self, i: usize) -> bool {
        self.value(i).is_some()
    }

    pub(super) fn value(&self, i: usize) -> Option<&'a Value> {
        self.inputs.get(i).copied().flatten()
    }

    /// The shape of input `i`.
    pub(super) fn shape(&self, i: usize) -> Result<&'a [i64], Fail> {
        match self.value(i) {
            None => because(format!("input {i} is missing")),
            Some(v) => v.shape.as_deref().ok_or_else(|| Fail::Because {
                reason: format!("the shape of input {i} is not known"),
                input: Some(i),
            }),
        }
    }

    pub(super) fn dtype(&self, i: usize) -> Option<DataType> {
        self.value(i).and_then(|v| v.dtype)
    }

    /// The content of input `i`, to compute a content from.
    pub(super) fn content(&self, i: usize) -> Option<&'a Content> {
        let value = self.value(i)?;
        let content = value.content()?;
        self.read_assumed_content
            .set(self.read_assumed_content.get() | value.assumed_content);
        Some(content)
    }

    /// The content of integer input `i`, to compute a shape from.
    pub(super) fn ints(&self, i: usize) -> Result<&'a [i64], Fail> {
        let Some(value) = self.value(i) else {
            return because(format!("input {i} is missing"));
        };
        let Some(ints) = value.content().and_then(Content::ints) else {
            return Err(unknown_content(i));
        };
        self.read_assumed_shape
            .set(self.read_assumed_shape.get() | value.assumed_content);
        Ok(ints)
    }

    /// The content of floating-point input `i`, to compute a shape from.
    pub(super) fn floats(&self, i: usize) -> Result<&'a [f64], Fail> {
        let Some(value) = self.value(i) else {
            return because(format!("input {i} is missing"));
        };
        let Some(floats) = value.content().and_then(Content::floats) else {
            return Err(unknown_content(i));
        };
        self.read_assumed_shape
            .set(self.read_assumed_shape.get() | value.assumed_content);
        Ok(floats)
    }

    /// The single element of integer input `i`.
    pub(super) fn int(&self, i: usize) -> Result<i64, Fail> {
        match self.ints(i)? {
            [x] => Ok(*x),
            other => because(format!(
                "input {i} has {} elements instead of one",
                other.len()
            )),
        }
    }

    /// Integers that are an attribute in old operator sets and input `i` in new ones.
    pub(super) fn ints_or(&self, i: usize, attribute: &str) -> Result<Option<Vec<i64>>, Fail> {
        if self.has(i) {
            Ok(Some(self.ints(i)?.to_vec()))
        } else {
            Ok(self.node.attr_ints(attribute))
        }
    }

    /// An integer attribute or its default.
    pub(super) fn attr(&self, name: &str, default: i64) -> i64 {
        self.node.attr_int(name).unwrap_or(default)
    }

    /// The `axis` attribute, counted from the front.
    pub(super) fn axis(&self, default: i64, rank: usize) -> Result<usize, Fail> {
        axis(self.attr("axis", default), rank)
    }

    /// The common shape of inputs when broadcast together.
    pub(super) fn broadcast(
        &self,
        inputs: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<i64>, Fail> {
        let mut shape = Vec::new();
        for i in inputs {
            shape = broadcast(&shape, self.shape(i)?)?;
        }
        Ok(shape)
    }

    /// Notes that two sizes are equal if both belong to symbols, as when a table is read at 0, 1, .., n-1.
    pub(super) fn likely_same(&self, a: i64, b: i64) {
        if a != b {
            self.likely_same.borrow_mut().push((a, b));
        }
    }

    /// Fails unless sizes `a` of input `i` and `b` of input `j` are the same.
    pub(super) fn same(&self, i: usize, a: i64, j: usize, b: i64) -> Result<(), Fail> {
        let constant = |i: usize| self.value(i).is_some_and(|v| v.constant);
        if a == b {
            Ok(())
        } else {
            Err(Fail::Differ {
                a,
                b,
                fixed: constant(i) != constant(j),
            })
        }
    }
}

/// The common shape of a broadcast.
pub(super) fn broadcast(a: &[i64], b: &[i64]) -> Result<Vec<i64>, Fail> {
    index::broadcast(a, b).map_err(|(a, b)| Fail::Differ { a, b, fixed: false })
}

/// An axis counted from the front.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, Fail> {
    let from_front = if axis < 0 {
        axis.checked_add(rank as i64)
    } else {
        Some(axis)
    };
    match from_front.and_then(|a| usize::try_from(a).ok()) {
        Some(a) if a < rank => Ok(a),
        _ => because(format!("axis {axis} is outside rank {rank}")),
    }
}

/// Axes counted from the front, sorted, without duplicates.
pub(super) fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>, Fail> {
    let mut out = list
        .iter()
        .map(|&a| axis(a, rank))
        .collect::<Result<Vec<_>, _>>()?;
    out.sort_unstable();
    out.dedup();
    Ok(out)
}
