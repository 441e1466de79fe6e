//! Which segments the VIP tokens look at.
//!
//! The reduction has a fixed shape: probabilities are summed over the VIP slots of a head in order, then over heads in order.

use multiversion::multiversion;

use crate::error::check_len;
use crate::exp::exp_nonpositive;
use crate::parallel::for_each;
use crate::rows::row;
use crate::{Element, Error, Item, Layout, Parallel};

/// Candidates to refine of `candidates`: `min(budget, C)`, or for a negative budget `-p` p percent of them, rounded up.
pub fn refined(budget: i64, candidates: usize) -> usize {
    let wanted = match usize::try_from(budget) {
        Ok(number) => number,
        Err(_) => {
            let percent = u128::from(budget.unsigned_abs());
            usize::try_from((candidates as u128 * percent).div_ceil(100)).unwrap_or(candidates)
        }
    };
    wanted.min(candidates)
}

/// The inputs of a selection.
#[derive(Clone, Copy)]
pub struct Selection<'a, S> {
    /// Level of the candidates, below `L`.
    pub level: usize,
    /// `[B,H,v,C]`.
    pub scores: &'a [S],
    /// `H`.
    pub heads: usize,
    /// Segments of the level, `[B,C]`.
    pub candidates: &'a [i64],
    /// `[B,P]`.
    pub item_count: &'a [i64],
    /// `[B,v]`.
    pub vote: &'a [bool],
    /// `B`.
    pub batch: usize,
    /// Candidates to refine in each batch row, at most `C`: [`refined`].
    pub refine: usize,
}

/// Writes the children of the best candidates, `[B,h*c]`, and the other candidates, `[B,C-h]`, both in the order of the candidates.
///
/// # Errors
/// [`Error::Length`] for a tensor that does not fit; [`Error::Level`]; [`Error::Index`] for a candidate that is not of the level.
pub fn select<S: Element>(
    layout: &Layout,
    input: Selection<'_, S>,
    children: &mut [i64],
    rest: &mut [i64],
    parallel: Parallel<'_>,
) -> Result<(), Error> {
    let Selection {
        level,
        scores,
        heads,
        candidates,
        item_count,
        vote,
        batch,
        refine,
    } = input;
    let levels = layout.ladder().levels();
    if level >= levels {
        return Err(Error::Level {
            level: level as i64,
            levels,
        });
    }
    check_len("item_count", item_count.len(), batch * layout.items())?;
    check_len("vote", vote.len(), batch * layout.vips())?;
    if batch == 0 {
        return Ok(());
    }
    let c = candidates.len() / batch;
    let fan = layout.ladder().children(level);
    check_len("candidates", candidates.len(), batch * c)?;
    check_len("scores", scores.len(), batch * heads * layout.vips() * c)?;
    check_len("children", children.len(), batch * refine * fan)?;
    check_len("rest", rest.len(), batch * c.saturating_sub(refine))?;
    let mut indices = Vec::with_capacity(candidates.len());
    for (at, &value) in candidates.iter().enumerate() {
        match layout.item(value) {
            Some(Item::Segment { level: own, index }) if own == level => indices.push(index),
            _ => {
                let ids = layout.level(level);
                return Err(Error::Index {
                    name: "candidates",
                    at,
                    value,
                    low: ids.start,
                    high: ids.end,
                });
            }
        }
    }
    if c == 0 {
        return Ok(());
    }

    // Without a vote all scores are 0; without a head there is nobody to look.
    let mut by_head = vec![0f32; batch * heads * c];
    let tasks = by_head
        .chunks_mut(c)
        .zip(scores.chunks((layout.vips() * c).max(1)))
        .enumerate();
    let tasks = tasks
        .map(|(at, (sum, scores))| (at / heads, sum, scores))
        .collect();
    for_each(
        parallel,
        tasks,
        |(batch, sum, scores): (usize, &mut [f32], &[S])| {
            let count = row(item_count, batch, layout.items());
            let eligible: Vec<bool> = row(candidates, batch, c)
                .iter()
                .map(|&id| count[id as usize] > 0)
                .collect();
            let mut x = vec![0f32; c.next_multiple_of(LANES)];
            let voting = scores.chunks_exact(c).zip(row(vote, batch, layout.vips()));
            for (scores, _) in voting.filter(|(_, vote)| **vote) {
                add_probabilities(scores, &eligible, &mut x, sum);
            }
        },
    );

    let first_child = if level + 1 == levels {
        layout.vips()
    } else {
        layout.level(level + 1).start
    };
    for batch in 0..batch {
        let count = row(item_count, batch, layout.items());
        let votes = row(vote, batch, layout.vips())
            .iter()
            .filter(|vote| **vote)
            .count();
        let score = mean_scores(row(&by_head, batch, heads * c), heads * votes, c);
        let ids = row(candidates, batch, c);
        let key = |at: usize| {
            let score = score[at];
            if count[ids[at] as usize] > 0 && !score.is_nan() {
                score
            } else {
                f32::NEG_INFINITY
            }
        };
        let chosen = best(c, refine, key);
        let mut to_children = children[batch * refine * fan..].chunks_exact_mut(fan);
        let mut to_rest = rest[batch * (c - refine)..].iter_mut();
        for (at, &index) in row(&indices, batch, c).iter().enumerate() {
            if chosen[at] {
                for (child, to) in to_children.next().into_iter().flatten().enumerate() {
                    *to = (first_child + index * fan + child) as i64;
                }
            } else if let Some(to) = to_rest.next() {
                *to = ids[at];
            }
        }
    }
    Ok(())
}

const LANES: usize = 16;

/// Adds the softmax of a row over the eligible candidates. A row that has none (a NaN, +inf or nothing but -inf among them) adds NaN, as
/// the formula does.
#[multiversion(targets("x86_64+avx2"))]
fn add_probabilities<S: Element>(scores: &[S], eligible: &[bool], x: &mut [f32], sum: &mut [f32]) {
    for (x, (score, &eligible)) in x.iter_mut().zip(scores.iter().zip(eligible)) {
        *x = if eligible {
            score.widen()
        } else {
            f32::NEG_INFINITY
        };
    }
    // Whole pieces: what lies past the last candidate weighs nothing.
    x[scores.len()..].fill(f32::NEG_INFINITY);
    let (pieces, _) = x.as_chunks_mut::<LANES>();
    let (mut highest, mut nan) = ([f32::NEG_INFINITY; LANES], [0u32; LANES]);
    for piece in &*pieces {
        for (lane, &x) in piece.iter().enumerate() {
            nan[lane] |= u32::from(x.is_nan());
            highest[lane] = if x > highest[lane] { x } else { highest[lane] };
        }
    }
    let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if highest.is_infinite() || nan.contains(&1) {
        sum.fill(f32::NAN);
        return;
    }
    let mut total = [0f32; LANES];
    for piece in pieces {
        for (x, total) in piece.iter_mut().zip(&mut total) {
            *x = exp_nonpositive(*x - highest);
            *total += *x;
        }
    }
    let factor = 1.0 / total.into_iter().sum::<f32>();
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += *x * factor;
    }
}

/// The mean over heads of `[H,C]` sums.
fn mean_scores(by_head: &[f32], voters: usize, c: usize) -> Vec<f32> {
    let mut score = vec![0f32; c];
    for head in by_head.chunks_exact(c) {
        score
            .iter_mut()
            .zip(head)
            .for_each(|(score, sum)| *score += sum);
    }
    score
        .iter_mut()
        .for_each(|score| *score /= voters.max(1) as f32);
    score
}

/// Marks the `count` best of `len`: higher keys first, lower positions on ties.
fn best(len: usize, count: usize, key: impl Fn(usize) -> f32) -> Vec<bool> {
    let mut order: Vec<usize> = (0..len).collect();
    if count > 0 && count < len {
        order.select_nth_unstable_by(count - 1, |&a, &b| {
            key(b).total_cmp(&key(a)).then(a.cmp(&b))
        });
    }
    let mut chosen = vec![false; len];
    order
        .into_iter()
        .take(count)
        .for_each(|at| chosen[at] = true);
    chosen
}
