//! The kernels' chain of blocks against the paper's Algorithm 1, written down with dense matrices in f64 and without a tree.
//!
//! Here a segment is a range of slots. `S` starts with the coarsest segments; level by level, those that the VIP tokens look at most give way to
//! their parts. A block then takes `X` to `X + S^+ (f(S X) - S X)`, with `S` and `S^+` as matrices over all slots.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "each test uses its part")]
mod common;

use std::ops::Range;

use common::{Case, Kernels, assert_close, case_of, f64s, random, rows_of};
use proptest::prelude::*;
use vcc_core::reference::Rows;
use vcc_core::sequential;

/// Selections that are closer than this, relative to the score, may differ in f32.
const NEAR_TIE: f64 = 1e-3;

/// How much head `h` of round `round` looks at a key, before the softmax.
fn look(case: &Case, round: usize, head: usize, query: &[f64], key: &[f64]) -> f64 {
    let seed = case.seed.wrapping_add((100 * round + head) as u64 + 900);
    let weights = random(seed, query.len(), 1.0);
    let terms = weights.iter().zip(query).zip(key);
    terms.map(|((w, q), k)| w * q * k).sum()
}

/// A block: each row looks at all rows, weighed by their numbers of valid tokens.
fn block(rows: &Rows, counts: &[i64]) -> Rows {
    let attend = |query: &Vec<f64>| {
        let mut sum = vec![0.0; query.len()];
        let mut total = 0.0;
        for (key, count) in rows.iter().zip(counts).filter(|(_, count)| **count > 0) {
            let score: f64 = query.iter().zip(key).map(|(q, k)| (q * k).sin()).sum();
            let power = (score + (*count as f64).ln()).exp();
            total += power;
            sum.iter_mut()
                .zip(key)
                .for_each(|(sum, key)| *sum += power * key);
        }
        let mixed = sum
            .iter()
            .map(|sum| if total > 0.0 { sum / total } else { 0.0 });
        query
            .iter()
            .zip(mixed)
            .map(|(q, m)| 0.6 * q + (m + 0.3 * q).sin())
            .collect()
    };
    rows.iter().map(attend).collect()
}

/// `a b`, zero entries of `a` left out.
fn product(a: &Rows, b: &Rows) -> Rows {
    let entry = |row: &Vec<f64>, c: usize| {
        let terms = row.iter().zip(b).filter(|(weight, _)| **weight != 0.0);
        terms.map(|(weight, b)| weight * b[c]).sum()
    };
    a.iter()
        .map(|row| (0..b[0].len()).map(|c| entry(row, c)).collect())
        .collect()
}

/// One sequence: its slots, VIP slots in front, and what they hold: 1 a valid token, 0 padding, -1 nothing.
struct Paper<'a> {
    case: &'a Case,
    vips: usize,
    holds: Vec<i64>,
    vote: Vec<bool>,
    x: Rows,
}

impl Paper<'_> {
    fn count(&self, segment: &Range<usize>) -> i64 {
        self.holds[segment.clone()]
            .iter()
            .filter(|holds| **holds == 1)
            .count() as i64
    }

    /// `S` and `S^+` of a list of segments.
    fn matrices(&self, segments: &[Range<usize>]) -> (Rows, Rows) {
        let mut s = vec![vec![0.0; self.x.len()]; segments.len()];
        let mut inverse = vec![vec![0.0; segments.len()]; self.x.len()];
        for (row, segment) in segments.iter().enumerate() {
            let kind = i64::from(self.count(segment) > 0);
            let members: Vec<usize> = segment
                .clone()
                .filter(|&slot| self.holds[slot] == kind)
                .collect();
            members
                .iter()
                .for_each(|&slot| s[row][slot] = 1.0 / members.len() as f64);
            if members.is_empty() {
                s[row][0] = 1.0;
            }
            let tokens = segment.clone().filter(|&slot| self.holds[slot] >= 0);
            tokens.for_each(|slot| inverse[slot][row] = 1.0);
        }
        (s, inverse)
    }

    /// How much the VIP tokens look at each of the segments.
    fn scores(&self, round: usize, segments: &[Range<usize>]) -> Vec<f64> {
        let keys = product(&self.matrices(segments).0, &self.x);
        let mut score = vec![0.0; segments.len()];
        let voters: Vec<usize> = (0..self.vips).filter(|&slot| self.vote[slot]).collect();
        for head in 0..self.case.heads {
            for &vip in &voters {
                let power = |(key, segment): (&Vec<f64>, &Range<usize>)| match self.count(segment) {
                    0 => 0.0,
                    _ => look(self.case, round, head, &self.x[vip], key).exp(),
                };
                let powers: Vec<f64> = keys.iter().zip(segments).map(power).collect();
                let total: f64 = powers.iter().sum();
                let mean = (voters.len() * self.case.heads) as f64;
                score
                    .iter_mut()
                    .zip(powers)
                    .for_each(|(score, power)| *score += power / total / mean);
            }
        }
        let nobody = |(score, segment)| {
            if self.count(segment) == 0 {
                -1.0
            } else {
                score
            }
        };
        score.into_iter().zip(segments).map(nobody).collect()
    }

    /// The segments of a block; `None` where a choice is too close to compare.
    fn choose(&self, round: usize) -> Option<Vec<Range<usize>>> {
        let sizes = self.case.sizes();
        let cut =
            |range: Range<usize>, size: usize| range.step_by(size).map(move |at| at..at + size);
        let mut list: Vec<Range<usize>> = (0..self.vips).map(|slot| slot..slot + 1).collect();
        let mut candidates: Vec<_> = cut(self.vips..self.x.len(), sizes[0]).collect();
        for (level, pair) in sizes.windows(2).enumerate() {
            let budgets = &self.case.budgets;
            let h = vcc_core::refined(budgets[level % budgets.len()], candidates.len());
            let score = self.scores(round, &candidates);
            let mut order: Vec<usize> = (0..candidates.len()).collect();
            order.sort_by(|&a, &b| score[b].total_cmp(&score[a]));
            if 0 < h && h < order.len() {
                let (last, next) = (score[order[h - 1]], score[order[h]]);
                if last != next && (last - next).abs() < NEAR_TIE * last.abs() {
                    return None;
                }
            }
            list.extend(order[h..].iter().map(|&at| candidates[at].clone()));
            // In the order of their slots: where scores are equal, the earlier one is refined.
            let mut refined = order[..h].to_vec();
            refined.sort_unstable();
            candidates = refined
                .iter()
                .flat_map(|&at| cut(candidates[at].clone(), pair[1]))
                .collect();
        }
        list.extend(candidates);
        Some(list)
    }

    /// One block on all slots; `None` where the choice is too close to compare.
    fn step(&mut self, round: usize) -> Option<()> {
        let segments = self.choose(round)?;
        let (s, inverse) = self.matrices(&segments);
        let rows = product(&s, &self.x);
        let counts: Vec<i64> = segments.iter().map(|segment| self.count(segment)).collect();
        let y = block(&rows, &counts);
        let change: Rows = y
            .iter()
            .zip(&rows)
            .map(|(y, row)| y.iter().zip(row).map(|(y, x)| y - x).collect())
            .collect();
        for (x, change) in self.x.iter_mut().zip(product(&inverse, &change)) {
            x.iter_mut()
                .zip(change)
                .for_each(|(x, change)| *x += change);
        }
        Some(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn blocks_are_those_of_the_paper(case in case_of(1..6usize, 80)) {
        let mut case = case;
        case.batch = 1;
        [&mut case.vip, &mut case.valid].into_iter().for_each(|masks| masks.truncate(1));
        case.x.truncate(1);
        case.rounds += 1;
        let mut kernels = Kernels::<f32>::new(&case, &sequential);
        let trees = kernels.trees();
        let (vips, slots) = (kernels.layout.vips(), kernels.layout.slots());
        let count = kernels.item_count(0).to_vec();
        let mut paper = Paper {
            case: &case,
            vips,
            holds: count[..slots].to_vec(),
            vote: kernels.vote.clone(),
            x: kernels.item_token(0)[..slots].iter().map(|&token| case.x[0][token as usize].clone()).collect(),
        };
        for round in 0..case.rounds {
            prop_assume!(paper.step(round).is_some());
            let scores = |_: usize, candidates: &[i64]| {
                let rows = rows_of(&f64s(&kernels.compress(&case, candidates, &sequential).rows), case.channels);
                let (queries, keys) = rows.split_at(vips);
                let pairs = (0..case.heads).flat_map(|head| queries.iter().map(move |query| (head, query)));
                pairs.flat_map(|(head, query)| keys.iter().map(|key| look(&case, round, head, query, key) as f32).collect::<Vec<_>>()).collect()
            };
            let items = kernels.choose_by(&case, &trees, &sequential, false, &scores).unwrap();
            let rows = f64s(&kernels.compress(&case, &items, &sequential).rows);
            let ids = (0..vips as i64).chain(items.iter().copied());
            let counts: Vec<i64> = ids.map(|id| count[id as usize]).collect();
            let y = block(&rows_of(&rows, case.channels), &counts).concat();
            let update: Vec<f64> = y.iter().zip(&rows).map(|(y, row)| y - row).collect();
            let (y, update) = (common::narrow(&y), common::narrow(&update));
            kernels.decompress(&case, &items, &y, &update, &vec![1.0; case.channels], &sequential);
            let want: Vec<f64> = kernels.token_slot(0).iter().flat_map(|&slot| paper.x[slot as usize].clone()).collect();
            assert_close("x", &f64s(&kernels.expand(&case, &sequential)), &want, 1e-4);
        }
    }
}
