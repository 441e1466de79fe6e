//! A dimension as its values over the sample sizes.
//!
//! Instead of a symbolic algebra every size is known at [`SAMPLES`] concrete assignments (see [`crate::interp`]). Equal
//! values in all samples mean the same size: input symbols are distinct primes in each sample, so that no product or sum
//! of two is a third. A size that is the same in all samples is a constant of the model.

use crate::interp::Facts;
use onnx_model::{DataType, ValueId};
use std::fmt;

/// The number of sample sizes every graph is evaluated at.
pub const SAMPLES: usize = 4;

/// A size at each sample.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dim(pub [i64; SAMPLES]);

impl Dim {
    /// Size 1, the size of a broadcast axis.
    pub const ONE: Dim = Dim([1; SAMPLES]);

    /// The value, if it is the same in all samples.
    pub fn constant(&self) -> Option<i64> {
        self.0.iter().all(|&x| x == self.0[0]).then_some(self.0[0])
    }

    /// The product of two sizes.
    pub fn times(self, other: Dim) -> Dim {
        let mut out = self;
        for (a, b) in out.0.iter_mut().zip(other.0) {
            *a = a.saturating_mul(b);
        }
        out
    }

    /// `self / other` where it is exact in every sample and more than zero.
    pub fn exact_div(self, other: Dim) -> Option<Dim> {
        let mut out = self;
        for (a, b) in out.0.iter_mut().zip(other.0) {
            if b <= 0 || *a % b != 0 {
                return None;
            }
            *a /= b;
        }
        Some(out)
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.constant() {
            Some(c) => write!(f, "{c}"),
            // The sample sizes would tell a reader nothing.
            None => f.write_str("?"),
        }
    }
}

/// What is known of every value of a graph at the samples.
pub struct Samples(pub Vec<Facts>);

impl Samples {
    /// The shape of a value over the samples; `None` if it, or its rank, is unknown in one of them.
    pub fn shape(&self, value: ValueId) -> Option<Vec<Dim>> {
        let shapes: Vec<&[i64]> = self
            .0
            .iter()
            .map(|f| f.shape(value))
            .collect::<Option<_>>()?;
        let rank = shapes.first()?.len();
        if shapes.len() != SAMPLES || shapes.iter().any(|s| s.len() != rank) {
            return None;
        }
        let dim = |axis: usize| {
            let mut d = Dim::ONE;
            for (slot, shape) in d.0.iter_mut().zip(&shapes) {
                *slot = shape[axis];
            }
            d
        };
        Some((0..rank).map(dim).collect())
    }

    /// The data type of a value.
    pub fn dtype(&self, value: ValueId) -> Option<DataType> {
        self.0.first()?.dtype(value)
    }

    /// The elements of an integer tensor that is the same in all samples and does not depend on an input's content.
    pub fn constant_ints(&self, value: ValueId) -> Option<Vec<i64>> {
        let first = self.ints(0, value)?;
        (1..self.0.len())
            .all(|s| self.ints(s, value).as_ref() == Some(&first))
            .then_some(first)
    }

    /// The elements of an integer tensor over the samples.
    pub fn int_dims(&self, value: ValueId) -> Option<Vec<Dim>> {
        let per_sample: Vec<Vec<i64>> = (0..self.0.len())
            .map(|s| self.ints(s, value))
            .collect::<Option<_>>()?;
        let len = per_sample.first()?.len();
        if per_sample.len() != SAMPLES || per_sample.iter().any(|p| p.len() != len) {
            return None;
        }
        Some(
            (0..len)
                .map(|i| {
                    let mut d = Dim::ONE;
                    for (slot, p) in d.0.iter_mut().zip(&per_sample) {
                        *slot = p[i];
                    }
                    d
                })
                .collect(),
        )
    }

    fn ints(&self, sample: usize, value: ValueId) -> Option<Vec<i64>> {
        let facts = self.0.get(sample)?;
        if facts.assumed(value) {
            return None;
        }
        match facts.content(value)? {
            crate::interp::Content::Int(v) => Some(v.clone()),
            crate::interp::Content::Bool(v) => Some(v.iter().map(|&b| i64::from(b)).collect()),
            crate::interp::Content::Float(_) => None,
        }
    }
}
