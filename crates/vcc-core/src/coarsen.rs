//! Rows of the residual stream to the state.

use crate::error::{check_indices, check_len};
use crate::parallel::{for_each, task_rows};
use crate::rows::{add, row, store_mean};
use crate::subtrees::{Subtrees, split};
use crate::{Dims, Element, Error, Layout, Parallel, StateMut};

/// Fills the state: slots with their tokens' rows, segments with means, all maps with the identity. `x` is `[B,n,d]`.
///
/// # Errors
/// [`Error::Length`] for a tensor that does not fit the layout; [`Error::Index`] for a token that is not one.
pub fn coarsen<T: Element>(
    layout: &Layout,
    dims: Dims,
    x: &[T],
    item_token: &[i64],
    item_count: &[i64],
    state: StateMut<'_, T>,
    parallel: Parallel<'_>,
) -> Result<(), Error> {
    let Dims { batch, channels } = dims;
    state.check(layout, dims)?;
    check_len("item_token", item_token.len(), batch * layout.items())?;
    check_len("item_count", item_count.len(), batch * layout.items())?;
    if batch * channels == 0 {
        return Ok(());
    }
    let n = x.len() / (batch * channels);
    check_len("x", x.len(), batch * n * channels)?;
    check_indices("item_token", item_token, 0, n)?;

    let step = task_rows(channels).div_ceil(layout.ladder().coarsest());
    let cuts: Vec<usize> = (0..layout.roots())
        .step_by(step)
        .chain([layout.roots()])
        .collect();
    let (vips, parts) = split(layout, dims, state, |_| cuts.clone());
    let source = |batch: usize| Source {
        layout,
        x: row(x, batch, n * channels),
        token: row(item_token, batch, layout.items()),
        count: row(item_count, batch, layout.items()),
        channels,
    };
    for (batch, vips) in vips.into_iter().enumerate() {
        for (slot, to) in vips.chunks_exact_mut(channels).enumerate() {
            to.copy_from_slice(source(batch).row_of(slot));
        }
    }
    for_each(parallel, parts, |mut part| {
        let source = source(part.batch);
        let mut sums = vec![0f32; layout.ladder().levels() * channels];
        for root in part.roots.clone() {
            source.segment(&mut part, 0, root, &mut sums);
        }
    });
    Ok(())
}

/// One batch row of the inputs.
struct Source<'a, T> {
    layout: &'a Layout,
    x: &'a [T],
    token: &'a [i64],
    count: &'a [i64],
    channels: usize,
}

impl<'a, T: Element> Source<'a, T> {
    fn row_of(&self, item: usize) -> &'a [T] {
        row(self.x, self.token[item] as usize, self.channels)
    }

    /// Fills a segment and all below it. On return the front of `sums` is the sum over the tokens its mean is taken over; returns their
    /// number, 0 for a segment of empty slots.
    fn segment(
        &self,
        part: &mut Subtrees<'_, T>,
        level: usize,
        index: usize,
        sums: &mut [f32],
    ) -> usize {
        let ladder = self.layout.ladder();
        let item = self.layout.level(level).start + index;
        let only_valid = self.count[item] > 0;
        let (sum, below) = sums.split_at_mut(self.channels);
        let mut total = 0;
        let children = ladder.children(level);
        for child in index * children..(index + 1) * children {
            if level + 1 == ladder.levels() {
                let slot = self.layout.vips() + child;
                let from = self.row_of(slot);
                part.slot(child).copy_from_slice(from);
                if self.count[slot] >= i64::from(only_valid) {
                    add(from, 1.0, total == 0, sum);
                    total += 1;
                }
            } else {
                let tokens = self.segment(part, level + 1, child, below);
                let item = self.layout.level(level + 1).start + child;
                if tokens > 0 && self.count[item] >= i64::from(only_valid) {
                    add(&below[..self.channels], 1.0, total == 0, sum);
                    total += tokens;
                }
            }
        }
        let (value, scale, offset) = part.segment(level, index);
        scale.fill(T::ONE);
        offset.fill(T::ZERO);
        if total == 0 {
            value.copy_from_slice(self.row_of(0));
        } else {
            store_mean(sum, total as f32, value);
        }
        total
    }
}

impl<T> StateMut<'_, T> {
    /// Checks the lengths of the three tensors.
    pub(crate) fn check(&self, layout: &Layout, dims: Dims) -> Result<(), Error> {
        check_state(
            layout,
            dims,
            [self.value.len(), self.scale.len(), self.offset.len()],
        )
    }
}

/// Checks the lengths of value, scale and offset.
pub(crate) fn check_state(layout: &Layout, dims: Dims, lens: [usize; 3]) -> Result<(), Error> {
    let per_item = dims.batch * dims.channels;
    check_len("value", lens[0], per_item * layout.items())?;
    check_len("scale", lens[1], per_item * layout.segments())?;
    check_len("offset", lens[2], per_item * layout.segments())
}
