//! Which token sits in which slot.
//!
//! Invariants of the result: the first `n` slots hold the row's tokens, each once; VIP slots are never empty, as `1 <= v <= n`.

use crate::error::check_len;
use crate::rows::{row as row_of, row_mut};
use crate::{Error, Layout};

/// VIP slots, `v`, for a batch: `capacity`, or with capacity 0 the largest number of VIP tokens in a row, in `1..=n`.
///
/// # Errors
/// [`Error::NoTokens`]; [`Error::Capacity`] if it is negative; [`Error::Length`] if a mask is not `[B,n]`.
pub fn vip_slots(
    vip: &[bool],
    valid: &[bool],
    batch: usize,
    n: usize,
    capacity: i64,
) -> Result<usize, Error> {
    if n == 0 {
        return Err(Error::NoTokens);
    }
    check_len("vip", vip.len(), batch * n)?;
    check_len("valid", valid.len(), batch * n)?;
    let wanted = usize::try_from(capacity).map_err(|_| Error::Capacity { capacity })?;
    let count = |(vip, valid): (&[bool], &[bool])| {
        vip.iter()
            .zip(valid)
            .filter(|&(&vip, &valid)| vip && valid)
            .count()
    };
    let wanted = match wanted {
        0 => vip
            .chunks(n)
            .zip(valid.chunks(n))
            .map(count)
            .max()
            .unwrap_or(0),
        _ => wanted,
    };
    Ok(wanted.clamp(1, n))
}

/// The five tensors that describe a partition.
pub struct Partition<'a> {
    /// Token of every item, `[B,P]`.
    pub item_token: &'a mut [i64],
    /// Count of every item, `[B,P]`.
    pub item_count: &'a mut [i64],
    /// Slot of every token, `[B,n]`.
    pub token_slot: &'a mut [i64],
    /// Whether a VIP slot holds a VIP token, `[B,v]`.
    pub vote: &'a mut [bool],
    /// Item ids of the segments of level 0, `[B,nb]`.
    pub roots: &'a mut [i64],
}

/// Puts the tokens of every batch row into slots. `vip` and `valid` are `[B,n]`; the layout is [`Layout::for_tokens`] with
/// [`vip_slots`].
///
/// # Errors
/// [`Error::Length`] if a tensor does not fit; [`Error::ItemTotal`] if the layout is not one for `n` tokens.
pub fn partition(
    layout: &Layout,
    vip: &[bool],
    valid: &[bool],
    batch: usize,
    n: usize,
    out: Partition<'_>,
) -> Result<(), Error> {
    check_len("vip", vip.len(), batch * n)?;
    check_len("valid", valid.len(), batch * n)?;
    if n < layout.vips() || n > layout.slots() {
        return Err(Error::ItemTotal {
            items: layout.items(),
            vips: layout.vips(),
            sizes: layout.ladder().sizes().to_vec(),
        });
    }
    check_len("item_token", out.item_token.len(), batch * layout.items())?;
    check_len("item_count", out.item_count.len(), batch * layout.items())?;
    check_len("token_slot", out.token_slot.len(), batch * n)?;
    check_len("vote", out.vote.len(), batch * layout.vips())?;
    check_len("roots", out.roots.len(), batch * layout.roots())?;
    for at in 0..batch {
        let row = Partition {
            item_token: row_mut(out.item_token, at, layout.items()),
            item_count: row_mut(out.item_count, at, layout.items()),
            token_slot: row_mut(out.token_slot, at, n),
            vote: row_mut(out.vote, at, layout.vips()),
            roots: row_mut(out.roots, at, layout.roots()),
        };
        one_row(layout, row_of(vip, at, n), row_of(valid, at, n), row);
    }
    Ok(())
}

fn one_row(layout: &Layout, vip: &[bool], valid: &[bool], out: Partition<'_>) {
    let v = layout.vips();
    let all = 0..vip.len();
    // VIP tokens first, then other valid tokens, then padding; all in order.
    let others = all
        .clone()
        .filter(|&t| valid[t] && !vip[t])
        .chain(all.clone().filter(|&t| !valid[t]));
    let mut order: Vec<usize> = all
        .clone()
        .filter(|&t| valid[t] && vip[t])
        .take(v)
        .collect();
    let votes = order.len();
    order.extend(others.take(v - votes));
    let mut in_vip_slot = vec![false; vip.len()];
    order.iter().for_each(|&t| in_vip_slot[t] = true);
    order.extend(all.filter(|&t| !in_vip_slot[t]));

    for (slot, &token) in order.iter().enumerate() {
        out.token_slot[token] = slot as i64;
    }
    out.vote
        .iter_mut()
        .enumerate()
        .for_each(|(slot, vote)| *vote = slot < votes);
    out.roots
        .iter_mut()
        .zip(layout.level(0))
        .for_each(|(root, id)| *root = id as i64);
    let mut items = out.item_token.iter_mut().zip(out.item_count);
    let mut put = |token: usize, count: i64| {
        if let Some((to_token, to_count)) = items.next() {
            (*to_token, *to_count) = (token as i64, count);
        }
    };
    (0..layout.slots()).for_each(|slot| match order.get(slot) {
        Some(&token) => put(token, i64::from(valid[token])),
        None => put(order[0], -1),
    });
    for &size in &layout.ladder().sizes()[..layout.ladder().levels()] {
        for start in (v..layout.slots()).step_by(size) {
            let covered = order
                .get(start..(start + size).min(order.len()))
                .unwrap_or(&[]);
            let (token, count) = segment(covered, valid).unwrap_or((order[0], -1));
            put(token, count);
        }
    }
}

/// Token and count of the segment that covers these tokens; `None` if there are none.
fn segment(covered: &[usize], valid: &[bool]) -> Option<(usize, i64)> {
    let members = || covered.iter().copied().filter(|&t| valid[t]);
    let first = *covered.first()?;
    let count = members().count();
    if count == 0 {
        return Some((first, 0));
    }
    let centre = round_half_even(members().sum(), count);
    // `min_by_key` keeps the first of equals, and the tokens ascend: the lower one wins a tie.
    let token = if valid[centre] {
        centre
    } else {
        members()
            .min_by_key(|&t| t.abs_diff(centre))
            .unwrap_or(first)
    };
    Some((token, count as i64))
}

/// `sum / count`, rounded to nearest, halves to even.
fn round_half_even(sum: usize, count: usize) -> usize {
    let (quotient, rest) = (sum / count, sum % count);
    match (2 * rest).cmp(&count) {
        std::cmp::Ordering::Less => quotient,
        std::cmp::Ordering::Greater => quotient + 1,
        std::cmp::Ordering::Equal => quotient + quotient % 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ladder;

    #[test]
    fn rounds_halves_to_even() {
        let rounded: Vec<usize> = [(5, 2), (7, 2), (4, 2), (10, 3), (11, 3), (0, 5)]
            .map(|(s, c)| round_half_even(s, c))
            .into();
        assert_eq!(rounded, [2, 4, 2, 3, 4, 0]);
    }

    #[test]
    fn a_row_by_hand() {
        // Tokens 0..7, padding at 3 and 6, VIP 1 and 5 (and 6, which is padding and so none); v = 3, segments of 2.
        let valid = [true, true, true, false, true, true, false];
        let vip = [false, true, false, false, false, true, true];
        assert_eq!(vip_slots(&vip, &valid, 1, 7, 0), Ok(2));
        let got = run(&[2, 1], &vip, &valid, 3);
        // VIP slots: 1, 5, then the filler 0. Context: 2, 3, 4, 6. Segments {2,3} and {4,6}: their only valid tokens.
        assert_eq!(got.0, [1, 5, 0, 2, 3, 4, 6, 2, 4]);
        assert_eq!(got.1, [1, 1, 1, 1, 0, 1, 0, 1, 1]);
        assert_eq!(got.2, [2, 0, 3, 4, 5, 1, 6]);
        assert_eq!(got.3, [true, true, false]);
        assert_eq!(got.4, [7, 8]);
    }

    #[test]
    fn overflow_becomes_context_and_empty_slots_come_last() {
        let got = run(&[4, 1], &[true; 4], &[true; 4], 2);
        assert_eq!(got.0, [0, 1, 2, 3, 0, 0, 2]);
        assert_eq!(got.1, [1, 1, 1, 1, -1, -1, 2]);
        assert_eq!(got.3, [true, true]);
    }

    type Tensors = (Vec<i64>, Vec<i64>, Vec<i64>, Vec<bool>, Vec<i64>);

    fn run(sizes: &[i64], vip: &[bool], valid: &[bool], vips: usize) -> Tensors {
        let layout = Layout::for_tokens(Ladder::new(sizes).unwrap(), vip.len(), vips).unwrap();
        let mut out = (
            vec![9; layout.items()],
            vec![9; layout.items()],
            vec![9; vip.len()],
            vec![false; vips],
            vec![9; layout.roots()],
        );
        let tensors = Partition {
            item_token: &mut out.0,
            item_count: &mut out.1,
            token_slot: &mut out.2,
            vote: &mut out.3,
            roots: &mut out.4,
        };
        partition(&layout, vip, valid, 1, vip.len(), tensors).unwrap();
        out
    }
}
