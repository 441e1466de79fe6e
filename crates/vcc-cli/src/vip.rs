//! Which tokens of given inputs are valid and VIP by a plan: for the figures of `verify`.

use crate::inputs::Case;
use vcc_passes::plan::{EncoderPlan, VipTerm};
use vcc_run::Inputs;

/// Valid and VIP tokens, `[batch, tokens]` row by row.
pub(crate) struct Tokens {
    pub(crate) shape: [usize; 2],
    pub(crate) valid: Vec<bool>,
    pub(crate) vip: Vec<bool>,
}

impl Tokens {
    /// `None` if the inputs do not have what the plan names.
    pub(crate) fn of(plan: &EncoderPlan, case: &Case) -> Option<Tokens> {
        let (batch, tokens) = (case.batch, case.length);
        let valid: Vec<bool> = if plan.mask_input.is_empty() {
            vec![true; batch * tokens]
        } else {
            let mask = ids(&case.inputs, &[&plan.mask_input], batch * tokens)?;
            mask.iter()
                .map(|&m| (m != 0.0) != plan.mask_zero_is_valid)
                .collect()
        };
        let mut vip = vec![false; batch * tokens];
        for term in &plan.vip.0 {
            for row in 0..batch {
                let range = row * tokens..(row + 1) * tokens;
                let valid = valid.get(range.clone())?;
                let marks = term_marks(term, valid, &case.inputs, range.clone(), batch * tokens)?;
                for (slot, mark) in vip.get_mut(range)?.iter_mut().zip(marks) {
                    *slot |= mark;
                }
            }
        }
        for (v, valid) in vip.iter_mut().zip(&valid) {
            *v &= valid;
        }
        Some(Tokens {
            shape: [batch, tokens],
            valid,
            vip,
        })
    }

    /// The largest number of VIP tokens in a batch row.
    pub(crate) fn most_vips(&self) -> usize {
        self.vip
            .chunks(self.shape[1].max(1))
            .map(|row| row.iter().filter(|&&v| v).count())
            .max()
            .unwrap_or(0)
    }

    /// VIP tokens beyond a capacity, over the batch: they become context.
    pub(crate) fn overflow(&self, capacity: usize) -> usize {
        self.vip
            .chunks(self.shape[1].max(1))
            .map(|row| row.iter().filter(|&&v| v).count().saturating_sub(capacity))
            .sum()
    }
}

fn ids(inputs: &Inputs, names: &[&str], len: usize) -> Option<Vec<f64>> {
    let array = names.iter().find_map(|n| inputs.get(n))?;
    let values = array.data().to_f64s();
    (values.len() == len).then_some(values)
}

fn term_marks(
    term: &VipTerm,
    valid: &[bool],
    inputs: &Inputs,
    row: std::ops::Range<usize>,
    len: usize,
) -> Option<Vec<bool>> {
    let of = |names: &[&str]| {
        ids(inputs, names, len).and_then(|v| v.get(row.clone()).map(<[f64]>::to_vec))
    };
    const TOKEN_IDS: [&str; 4] = vcc_passes::TOKEN_IDS;
    const TOKEN_TYPES: [&str; 3] = vcc_passes::TOKEN_TYPES;
    Some(match term {
        VipTerm::First(n) => counted(valid.iter().copied(), *n).collect(),
        VipTerm::Last(n) => {
            let mut marks: Vec<bool> = counted(valid.iter().rev().copied(), *n).collect();
            marks.reverse();
            marks
        }
        VipTerm::TokenType(t) => of(&TOKEN_TYPES)?.iter().map(|&x| x == *t as f64).collect(),
        VipTerm::Tokens(wanted) => of(&TOKEN_IDS)?
            .iter()
            .map(|&x| wanted.iter().any(|&id| id as f64 == x))
            .collect(),
        VipTerm::ThroughToken(id) => {
            let found = of(&TOKEN_IDS)?
                .iter()
                .zip(valid)
                .position(|(&x, &v)| v && x == *id as f64);
            (0..valid.len())
                .map(|i| found.is_some_and(|f| i <= f))
                .collect()
        }
        VipTerm::Input(name) => of(&[name])?.iter().map(|&x| x != 0.0).collect(),
    })
}

/// Marks the first `n` valid ones.
fn counted(valid: impl Iterator<Item = bool>, n: i64) -> impl Iterator<Item = bool> {
    let mut seen = 0;
    valid.map(move |v| {
        seen += i64::from(v);
        v && seen <= n
    })
}
