//! Comparing the outputs of two models, number by number and row by row.
//!
//! A *row* is a vector along the last axis. Relative error is max|a-b| / max|a| over the rows looked at. An element
//! that is NaN in both, or the same infinity in both, is equal; one that is not finite in one only is a *mismatch*: the
//! error is then infinite and the row's cosine 0.

use crate::tensors::{Array, Data, ElementType, Tensors};

/// Which tokens of a batch to look at: `[batch, tokens]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask {
    batch: usize,
    tokens: usize,
    keep: Vec<bool>,
}

impl TokenMask {
    /// The elements that are not zero of an array `[batch, tokens]`; `None` for any other rank.
    pub fn from_array(array: &Array) -> Option<Self> {
        let &[batch, tokens] = array.shape() else {
            return None;
        };
        Some(Self {
            batch,
            tokens,
            keep: array.data().to_f64s().iter().map(|&x| x != 0.0).collect(),
        })
    }
}

/// What to compare beyond the numbers themselves.
#[derive(Clone, Debug, Default)]
pub struct CompareOptions {
    /// The tokens that are not padding.
    pub valid: Option<TokenMask>,
    /// Tokens of special interest, e.g. the VIP tokens.
    pub selected: Option<TokenMask>,
    /// Count top-1 agreement for every output, not only for those whose name says logits.
    pub all_are_logits: bool,
}

/// The comparison of one output.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputComparison {
    /// The output's name.
    pub name: String,
    /// The figures, or why the two cannot be compared.
    pub result: Result<Figures, Difference>,
}

/// Why two outputs cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// Different shapes.
    #[error("shapes differ: {a:?} and {b:?}")]
    Shape {
        /// The first model's.
        a: Vec<usize>,
        /// The second model's.
        b: Vec<usize>,
    },
    /// Different element types.
    #[error("element types differ: {a} and {b}")]
    Type {
        /// The first model's.
        a: ElementType,
        /// The second model's.
        b: ElementType,
    },
    /// Only the first model has this output.
    #[error("the second model has no such output")]
    OnlyInA,
    /// Only the second model has this output.
    #[error("the first model has no such output")]
    OnlyInB,
}

/// The figures of one output.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// The shape of both.
    pub shape: Vec<usize>,
    /// Over all rows.
    pub all: RowFigures,
    /// Over the rows of valid tokens, where the shape starts with the mask's `[batch, tokens]` and has more axes.
    pub valid: Option<RowFigures>,
    /// Over the rows of selected tokens, likewise.
    pub selected: Option<RowFigures>,
}

/// The figures over a set of rows. Of no rows: no error, cosine 1.
#[derive(Clone, Debug, PartialEq)]
pub struct RowFigures {
    /// How many rows.
    pub rows: usize,
    /// The largest |a-b|; infinite if there are mismatches.
    pub max_abs: f64,
    /// The largest |a-b| divided by the largest |a|; infinite if only the latter is 0, or if there are mismatches.
    pub relative: f64,
    /// Elements that are not finite in one of the two only, or differently so.
    pub mismatches: usize,
    /// Elements that are not finite in the second, mismatch or not.
    pub non_finite: usize,
    /// The mean over rows of the cosine between a's and b's row. Two zero rows: 1; one: 0.
    pub cosine_mean: f64,
    /// The least of the cosines.
    pub cosine_min: f64,
    /// The share of rows whose largest element is at the same place (the first, on ties), for logits only.
    pub top1: Option<f64>,
}

/// Compares two models' outputs by name, in a's order; outputs of b alone come last.
pub fn compare(a: &Tensors, b: &Tensors, options: &CompareOptions) -> Vec<OutputComparison> {
    let in_a = a.iter().map(|(name, x)| OutputComparison {
        name: name.to_owned(),
        result: b
            .get(name)
            .ok_or(Difference::OnlyInA)
            .and_then(|y| compare_arrays(name, x, y, options)),
    });
    let only_in_b = b.iter().filter(|(name, _)| a.get(name).is_none());
    let only_in_b = only_in_b.map(|(name, _)| OutputComparison {
        name: name.to_owned(),
        result: Err(Difference::OnlyInB),
    });
    in_a.chain(only_in_b).collect()
}

fn compare_arrays(
    name: &str,
    a: &Array,
    b: &Array,
    options: &CompareOptions,
) -> Result<Figures, Difference> {
    if a.shape() != b.shape() {
        return Err(Difference::Shape {
            a: a.shape().to_vec(),
            b: b.shape().to_vec(),
        });
    }
    if a.element_type() != b.element_type() {
        return Err(Difference::Type {
            a: a.element_type(),
            b: b.element_type(),
        });
    }
    let width = a.shape().last().copied().unwrap_or(1);
    let rows = a.data().len().checked_div(width).unwrap_or(0);
    let float = matches!(a.data(), Data::F32(_) | Data::F64(_) | Data::F16(_));
    let logits =
        float && width > 1 && (options.all_are_logits || name.to_lowercase().contains("logit"));
    let applies = |mask: &Option<TokenMask>| -> Option<TokenMask> {
        mask.clone()
            .filter(|m| a.shape().len() > 2 && a.shape().starts_with(&[m.batch, m.tokens]))
    };
    let (valid, selected) = (applies(&options.valid), applies(&options.selected));
    let mut sums = [Sums::default(), Sums::default(), Sums::default()];
    let (mut x, mut y) = (Vec::with_capacity(width), Vec::with_capacity(width));
    for row in 0..rows {
        x.clear();
        y.clear();
        a.data().append_f64s(row * width..(row + 1) * width, &mut x);
        b.data().append_f64s(row * width..(row + 1) * width, &mut y);
        let figures = Row::of(&x, &y, logits);
        // Axes between the tokens and the last one give a token several rows.
        let kept = |mask: &Option<TokenMask>| {
            mask.as_ref().is_some_and(|m| {
                m.keep
                    .get(row / (rows / m.keep.len()))
                    .copied()
                    .unwrap_or(false)
            })
        };
        for (sum, keep) in sums.iter_mut().zip([true, kept(&valid), kept(&selected)]) {
            if keep {
                sum.add(&figures);
            }
        }
    }
    let [all, of_valid, of_selected] = sums.map(|s| s.figures(logits));
    Ok(Figures {
        shape: a.shape().to_vec(),
        all,
        valid: valid.map(|_| of_valid),
        selected: selected.map(|_| of_selected),
    })
}

/// The figures of one row.
struct Row {
    max_abs: f64,
    max_a: f64,
    mismatches: usize,
    non_finite: usize,
    cosine: f64,
    same_top: bool,
}

impl Row {
    fn of(a: &[f64], b: &[f64], logits: bool) -> Self {
        let mut row = Self {
            max_abs: 0.0,
            max_a: 0.0,
            mismatches: 0,
            non_finite: 0,
            cosine: 0.0,
            same_top: false,
        };
        let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
        for (&x, &y) in a.iter().zip(b) {
            row.non_finite += usize::from(!y.is_finite());
            if x.is_finite() && y.is_finite() {
                row.max_abs = row.max_abs.max((x - y).abs());
                row.max_a = row.max_a.max(x.abs());
                ab += x * y;
                aa += x * x;
                bb += y * y;
            } else if x != y && !(x.is_nan() && y.is_nan()) {
                row.mismatches += 1;
            }
        }
        row.cosine = if row.mismatches > 0 {
            0.0
        } else if aa == 0.0 && bb == 0.0 {
            1.0
        } else if aa == 0.0 || bb == 0.0 {
            0.0
        } else {
            (ab / (aa.sqrt() * bb.sqrt())).clamp(-1.0, 1.0)
        };
        row.same_top = logits && top(a) == top(b);
        row
    }
}

/// The place of the largest element, the first on ties; NaN is never the largest.
fn top(row: &[f64]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (i, &x) in row.iter().enumerate() {
        if !x.is_nan() && best.is_none_or(|(_, v)| x > v) {
            best = Some((i, x));
        }
    }
    best.map(|(i, _)| i)
}

/// Sums over rows.
#[derive(Default)]
struct Sums {
    rows: usize,
    max_abs: f64,
    max_a: f64,
    mismatches: usize,
    non_finite: usize,
    cosine_sum: f64,
    cosine_min: Option<f64>,
    same_top: usize,
}

impl Sums {
    fn add(&mut self, row: &Row) {
        self.rows += 1;
        self.max_abs = self.max_abs.max(row.max_abs);
        self.max_a = self.max_a.max(row.max_a);
        self.mismatches += row.mismatches;
        self.non_finite += row.non_finite;
        self.cosine_sum += row.cosine;
        self.cosine_min = Some(self.cosine_min.map_or(row.cosine, |c| c.min(row.cosine)));
        self.same_top += usize::from(row.same_top);
    }

    fn figures(self, logits: bool) -> RowFigures {
        let per_row = |sum: f64| {
            if self.rows == 0 {
                1.0
            } else {
                sum / self.rows as f64
            }
        };
        let (max_abs, relative) = match (self.mismatches, self.max_abs) {
            (1.., _) => (f64::INFINITY, f64::INFINITY),
            (0, 0.0) => (0.0, 0.0),
            (0, m) => (m, m / self.max_a),
        };
        RowFigures {
            rows: self.rows,
            max_abs,
            relative,
            mismatches: self.mismatches,
            non_finite: self.non_finite,
            cosine_mean: per_row(self.cosine_sum),
            cosine_min: self.cosine_min.unwrap_or(1.0),
            top1: logits.then(|| per_row(self.same_top as f64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn one(
        name: &str,
        shape: &[usize],
        a: impl Into<Data>,
        b: impl Into<Data>,
        options: &CompareOptions,
    ) -> Figures {
        let array = |d| Tensors::from_iter([(name.to_owned(), Array::new(shape, d).unwrap())]);
        let mut all = compare(&array(a.into()), &array(b.into()), options);
        assert_eq!(all.len(), 1);
        all.remove(0).result.unwrap()
    }

    #[test]
    fn errors_are_relative_to_the_largest_element_of_the_first() {
        let f = one(
            "y",
            &[1, 2],
            vec![3.0f32, -4.0],
            vec![3.0f32, -3.0],
            &CompareOptions::default(),
        )
        .all;
        assert_eq!(
            (f.max_abs, f.relative, f.mismatches, f.rows),
            (1.0, 0.25, 0, 1)
        );
        // (9 + 12) / (5 * sqrt 18)
        assert!((f.cosine_mean - 21.0 / (5.0 * 18f64.sqrt())).abs() < 1e-15);
        let zero = one(
            "y",
            &[1],
            vec![0.0f32],
            vec![1e-9f32],
            &CompareOptions::default(),
        )
        .all;
        assert_eq!((zero.relative, zero.cosine_min), (f64::INFINITY, 0.0));
        let same = one(
            "y",
            &[2],
            vec![0.0f32, 0.0],
            vec![0.0f32, -0.0],
            &CompareOptions::default(),
        )
        .all;
        assert_eq!((same.relative, same.cosine_min), (0.0, 1.0));
    }

    #[test]
    fn nan_and_infinity_are_equal_only_in_the_same_place() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let f = one(
            "y",
            &[2, 2],
            vec![nan, 1.0, inf, 2.0],
            vec![nan, 1.0, inf, 2.0],
            &CompareOptions::default(),
        )
        .all;
        assert_eq!(
            (f.mismatches, f.relative, f.cosine_min, f.non_finite),
            (0, 0.0, 1.0, 2)
        );
        for (x, y) in [(nan, 1.0), (1.0, nan), (inf, -inf), (inf, nan), (1.0, inf)] {
            let f = one(
                "y",
                &[2, 1],
                vec![x, 5.0],
                vec![y, 5.0],
                &CompareOptions::default(),
            )
            .all;
            assert_eq!(
                (f.mismatches, f.relative, f.max_abs),
                (1, f64::INFINITY, f64::INFINITY),
                "{x} {y}"
            );
            assert_eq!((f.cosine_min, f.cosine_mean), (0.0, 0.5), "{x} {y}");
        }
    }

    #[test]
    fn masks_choose_rows_of_tokens() {
        let mask = |v: Vec<i64>| TokenMask::from_array(&Array::new([1, 3], v).unwrap());
        let options = CompareOptions {
            valid: mask(vec![1, 1, 0]),
            selected: mask(vec![0, 1, 0]),
            all_are_logits: false,
        };
        let a = vec![1.0f32, 0.0, 2.0, 0.0, 100.0, 0.0];
        let b = vec![1.0f32, 0.0, 0.0, 1.0, 0.0, -100.0];
        let f = one("h", &[1, 3, 2], a.clone(), b.clone(), &options);
        assert_eq!(
            (f.all.rows, f.all.max_abs, f.all.cosine_min),
            (3, 100.0, 0.0)
        );
        let valid = f.valid.unwrap();
        assert_eq!(
            (valid.rows, valid.max_abs, valid.relative, valid.cosine_mean),
            (2, 2.0, 1.0, 0.5)
        );
        let selected = f.selected.unwrap();
        assert_eq!((selected.rows, selected.cosine_mean), (1, 0.0));
        // Two rows per token.
        let f = one("h", &[1, 3, 2, 1], a.clone(), b.clone(), &options);
        assert_eq!(
            (f.all.rows, f.valid.unwrap().rows, f.selected.unwrap().rows),
            (6, 4, 2)
        );
        // A mask does not apply to what has no token axis.
        assert!(
            one("h", &[6], a.clone(), b.clone(), &options)
                .valid
                .is_none()
        );
        assert!(one("h", &[2, 3], a, b, &options).valid.is_none());
    }

    #[test]
    fn top1_counts_rows_with_the_same_first_largest_element() {
        let a = vec![0.0f32, 1.0, 1.0, f32::NAN, 2.0, 3.0];
        let b = vec![0.0f32, 5.0, 4.0, 9.0, 8.0, 7.0];
        let f = one(
            "start_logits",
            &[2, 3],
            a.clone(),
            b.clone(),
            &CompareOptions::default(),
        );
        assert_eq!(f.all.top1, Some(0.5));
        let f = one(
            "hidden",
            &[2, 3],
            a.clone(),
            b.clone(),
            &CompareOptions::default(),
        );
        assert_eq!(f.all.top1, None);
        let f = one(
            "hidden",
            &[2, 3],
            a,
            b,
            &CompareOptions {
                all_are_logits: true,
                ..Default::default()
            },
        );
        assert_eq!(f.all.top1, Some(0.5));
    }

    #[test]
    fn other_types_are_compared_too() {
        let d = CompareOptions::default();
        assert_eq!(
            one("y", &[2], vec![1i64, 2], vec![1i64, 4], &d)
                .all
                .relative,
            1.0
        );
        assert_eq!(
            one("y", &[2], vec![true, false], vec![true, true], &d)
                .all
                .max_abs,
            1.0
        );
        let half = |x: f32| vec![f16::from_f32(x)];
        assert_eq!(one("y", &[1], half(2.0), half(1.0), &d).all.relative, 0.5);
        assert_eq!(one("y", &[], vec![2.0f64], vec![1.0f64], &d).all.rows, 1);
        assert_eq!(
            one("y", &[4, 0], Vec::<f32>::new(), Vec::<f32>::new(), &d)
                .all
                .cosine_min,
            1.0
        );
    }

    #[test]
    fn what_cannot_be_compared_says_why() {
        let t =
            |name: &str, shape: &[usize], d: Data| (name.to_owned(), Array::new(shape, d).unwrap());
        let a = Tensors::from_iter([
            t("x", &[2], vec![1.0f32, 2.0].into()),
            t("y", &[2], vec![1.0f32, 2.0].into()),
            t("z", &[1], vec![1.0f32].into()),
        ]);
        let b = Tensors::from_iter([
            t("w", &[1], vec![1.0f32].into()),
            t("x", &[1, 2], vec![1.0f32, 2.0].into()),
            t("y", &[2], vec![1.0f64, 2.0].into()),
        ]);
        let result: Vec<_> = compare(&a, &b, &CompareOptions::default())
            .into_iter()
            .map(|o| (o.name, o.result.unwrap_err()))
            .collect();
        assert_eq!(
            result[0],
            (
                "x".into(),
                Difference::Shape {
                    a: vec![2],
                    b: vec![1, 2]
                }
            )
        );
        assert_eq!(
            result[1],
            (
                "y".into(),
                Difference::Type {
                    a: ElementType::F32,
                    b: ElementType::F64
                }
            )
        );
        assert_eq!(result[2], ("z".into(), Difference::OnlyInA));
        assert_eq!(result[3], ("w".into(), Difference::OnlyInB));
    }
}
