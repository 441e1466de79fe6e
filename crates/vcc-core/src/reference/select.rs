//! `VccSelect`.

use super::Tree;

/// A selection, and how clear it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Children of the refined candidates.
    pub children: Vec<i64>,
    /// The other candidates.
    pub rest: Vec<i64>,
    /// Score of the last refined candidate minus that of the first other, relative to the larger; infinite if there is no such pair or
    /// both are equal: equal scores are a tie that has a rule, not a near-tie.
    pub gap: f64,
}

/// Refines `refine` of the candidates. `scores[head][vip slot][candidate]`.
pub fn select(
    tree: &Tree,
    scores: &[Vec<Vec<f64>>],
    candidates: &[i64],
    item_count: &[i64],
    vote: &[bool],
    refine: usize,
) -> Chosen {
    let eligible: Vec<bool> = candidates
        .iter()
        .map(|&id| item_count[id as usize] > 0)
        .collect();
    let mut rows = vec![];
    for head in scores {
        for (row, _) in head.iter().zip(vote).filter(|(_, vote)| **vote) {
            let highest = row
                .iter()
                .zip(&eligible)
                .filter(|(_, e)| **e)
                .map(|(x, _)| *x)
                .fold(f64::NEG_INFINITY, f64::max);
            let power = |(x, e): (&f64, &bool)| if *e { (x - highest).exp() } else { 0.0 };
            let powers: Vec<f64> = row.iter().zip(&eligible).map(power).collect();
            let total: f64 = powers.iter().sum();
            rows.push(powers.into_iter().map(|p| p / total).collect::<Vec<f64>>());
        }
    }
    let score = |at: usize| {
        let mean = if rows.is_empty() {
            0.0
        } else {
            rows.iter().map(|row| row[at]).sum::<f64>() / rows.len() as f64
        };
        if eligible[at] && !mean.is_nan() {
            mean
        } else {
            f64::NEG_INFINITY
        }
    };
    let score: Vec<f64> = (0..candidates.len()).map(score).collect();
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    // A stable sort: ties stay in the order of the candidates.
    order.sort_by(|&a, &b| score[b].total_cmp(&score[a]));
    let (best, others) = order.split_at(refine);
    let gap = match (best.last(), others.first()) {
        (Some(&last), Some(&next)) if score[last] != score[next] => {
            (score[last] - score[next]) / score[last].abs()
        }
        _ => f64::INFINITY,
    };
    let is_best = |at: &usize| best.contains(at);
    Chosen {
        children: (0..candidates.len())
            .filter(is_best)
            .flat_map(|at| tree.children(candidates[at]))
            .collect(),
        rest: (0..candidates.len())
            .filter(|at| !is_best(at))
            .map(|at| candidates[at])
            .collect(),
        gap,
    }
}
