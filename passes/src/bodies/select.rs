//! `VccSelect`: which candidates are refined.

use super::build::Body;
use super::tree::Layout;
use super::val::Val;

pub(super) fn build<'b>(body: &'b Body, ladder: &[i64]) -> Vec<Val<'b>> {
    let [scores, candidates, item_count, vote, budget] = body.inputs();
    let layout = Layout::of_items(body, ladder, item_count, vote);
    let total = candidates.dim(1).named("candidates_count");
    let score = score(scores, candidates, item_count, vote);

    // A negative budget is a percentage, rounded up; more than 100 of it is all, and must not overflow.
    let percent = (total * (budget.max(-100) * -1) + 99) / 100;
    let chosen_count = budget
        .less(0)
        .select(percent, budget)
        .min(total)
        .named("chosen_count");

    // The last score that is good enough, and of those that have just this one the first few. At least one is asked for (not
    // every engine has a TopK of none), which changes nothing: with a budget of 0 none of its equals is taken.
    let best = score.top(chosen_count.max(1).min(total), 1);
    let last = best.slice(1, -1, i64::MAX).named("last_score");
    let better = score.greater(last);
    let equal = score.equal(last);
    let wanted = chosen_count - better.int().sum(&[1]);
    let among_first = equal.int().cumsum(1).less(wanted + 1);
    let is_chosen = better.or(equal.and(among_first)).named("is_chosen");

    // The chosen ones first, then the others, both in the order of the candidates.
    let chosen = is_chosen.int();
    let place_of_chosen = chosen.cumsum(1);
    let place_of_other = chosen_count + (body.int(1) - chosen).cumsum(1);
    let place = is_chosen.select(place_of_chosen, place_of_other) - 1;
    let ordered = body
        .full_int(&[layout.batch, total], 0)
        .scatter_elements(place, candidates, 1)
        .named("ordered");
    let refined = ordered.slice(1, 0, chosen_count);
    let rest = ordered.slice(1, chosen_count, total);
    // Memory for the library's kernels: a body needs none.
    let sums = score.unsqueeze(&[1]).slice(1, 0, 0);
    vec![children(&layout, refined, chosen_count), rest, sums]
}

/// The score of every candidate, [B, C]: attention averaged over heads and voting slots, -inf where it is not to be chosen
/// before any other.
fn score<'b>(scores: Val<'b>, candidates: Val<'b>, item_count: Val<'b>, vote: Val<'b>) -> Val<'b> {
    let nothing = f32::NEG_INFINITY;
    let counts = item_count
        .gather_elements(candidates, 1)
        .greater(0)
        .named("counts");
    let masked = counts.unsqueeze(&[1, 2]).select(scores.float(), nothing);
    // Where no candidate counts this is NaN (-inf minus -inf), which the last steps replace.
    let attention = masked.softmax(-1).named("attention");
    let votes = vote.unsqueeze(&[1, 3]).select(attention, 0.0);
    let voters = vote.int().sum(&[1]).max(1) * scores.dim(1);
    let mean = votes.sum(&[1, 2]).squeeze(&[1, 2]) / voters.float();
    let score = counts.select(mean, nothing);
    score.is_nan().select(nothing, score).named("score")
}

/// The children of the `count` segments `refined`, [B, count * children].
fn children<'b>(layout: &Layout<'b>, refined: Val<'b>, count: Val<'b>) -> Val<'b> {
    let body = layout.body;
    let level = body
        .small_int_attribute("level", layout.levels.len())
        .named("level");
    let arity: Vec<i64> = layout.levels.iter().map(|level| level.children).collect();
    let arity = body.ints(&arity).gather(level, 0);
    // Segments of all levels are numbered through; the last level's children are the context slots.
    let mut firsts: Vec<Val<'b>> = layout
        .levels
        .iter()
        .map(|level| layout.slots + level.first)
        .collect();
    firsts.push(layout.vips);
    let firsts = body.concat(&firsts, 0);
    let first_parent = firsts.gather(level, 0);
    let first_child = firsts.gather(level + 1, 0);
    let oldest = ((refined - first_parent) * arity + first_child).unsqueeze(&[2]);
    (oldest + body.range(arity)).reshape(&[layout.batch, count * arity])
}
