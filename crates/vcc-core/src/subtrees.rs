//! The state cut at root boundaries, so that threads own what they write.
//!
//! Everything a root covers is a contiguous run of slots and, at every level, a contiguous run of segments. A [`Subtrees`] holds those
//! runs for neighbouring roots of one batch row; different ones share nothing.

use crate::rows::row_mut;
use crate::{Dims, Layout, StateMut};

/// A level's part of the state.
pub(crate) struct LevelState<'a, T> {
    value: &'a mut [T],
    scale: &'a mut [T],
    offset: &'a mut [T],
}

/// The state of some neighbouring roots of a batch row. Slots and segments are addressed as in the whole row: slots counted from the
/// first context slot, segments from the first of their level.
pub(crate) struct Subtrees<'a, T> {
    pub(crate) batch: usize,
    pub(crate) roots: std::ops::Range<usize>,
    channels: usize,
    first: Vec<usize>,
    slots: &'a mut [T],
    levels: Vec<LevelState<'a, T>>,
}

impl<T> Subtrees<'_, T> {
    /// The value of a context slot.
    pub(crate) fn slot(&mut self, slot: usize) -> &mut [T] {
        let first = self.first[self.levels.len()];
        row_mut(self.slots, slot - first, self.channels)
    }

    /// Value, scale and offset of a segment.
    pub(crate) fn segment(&mut self, level: usize, index: usize) -> (&mut [T], &mut [T], &mut [T]) {
        let at = index - self.first[level];
        let state = &mut self.levels[level];
        (
            row_mut(state.value, at, self.channels),
            row_mut(state.scale, at, self.channels),
            row_mut(state.offset, at, self.channels),
        )
    }
}

/// Cuts off the first `len` elements.
fn take<'a, T>(rest: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

/// The VIP rows of every batch row, and its subtrees cut at `cuts(batch)`: ascending, from 0 to the number of roots.
pub(crate) fn split<'a, T>(
    layout: &Layout,
    dims: Dims,
    state: StateMut<'a, T>,
    cuts: impl Fn(usize) -> Vec<usize>,
) -> (Vec<&'a mut [T]>, Vec<Subtrees<'a, T>>) {
    let (ladder, d) = (layout.ladder(), dims.channels);
    let StateMut {
        mut value,
        mut scale,
        mut offset,
    } = state;
    let (mut vips, mut parts) = (Vec::new(), Vec::new());
    for batch in 0..dims.batch {
        vips.push(take(&mut value, layout.vips() * d));
        let cuts = cuts(batch);
        let mut own: Vec<Subtrees<'a, T>> = cuts
            .windows(2)
            .map(|pair| Subtrees {
                batch,
                roots: pair[0]..pair[1],
                channels: d,
                first: (0..=ladder.levels())
                    .map(|level| pair[0] * ladder.per_root(level))
                    .collect(),
                slots: take(&mut value, (pair[1] - pair[0]) * ladder.coarsest() * d),
                levels: Vec::with_capacity(ladder.levels()),
            })
            .collect();
        for level in 0..ladder.levels() {
            for part in &mut own {
                let len = part.roots.len() * ladder.per_root(level) * d;
                part.levels.push(LevelState {
                    value: take(&mut value, len),
                    scale: take(&mut scale, len),
                    offset: take(&mut offset, len),
                });
            }
        }
        parts.extend(own);
    }
    (vips, parts)
}
