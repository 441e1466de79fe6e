//! A block's result back into the state. Touches O(r) rows of it.
//!
//! The list of items is sorted by position, which checks that it covers the context exactly once and groups it by root. Each root is
//! then walked from the top: an item of the list takes its update, any other node met on the way was refined.

use crate::error::check_len;
use crate::parallel::{for_each, task_rows};
use crate::rows::{Path, add, row, store_mean, update_segment};
use crate::subtrees::{Subtrees, split};
use crate::{Dims, Element, Error, Item, Layout, Parallel, StateMut, copy};

/// What a block computed, `r = v + q` rows per batch row.
#[derive(Clone, Copy)]
pub struct Update<'a, T> {
    /// New values of the rows, `[B,r,d]`, for slots.
    pub y: &'a [T],
    /// What is added to `gain` times the old value, `[B,r,d]`, for segments.
    pub update: &'a [T],
    /// `[d]`.
    pub gain: &'a [T],
}

/// Updates the state in place. `items` is `[B,q]`, `item_count` is `[B,P]`.
///
/// # Errors
/// [`Error::Length`] for a tensor that does not fit; [`Error::Index`] for an item that is not one; [`Error::Cover`] if the items do
/// not cover every context slot exactly once. Then nothing has been written.
pub fn decompress<T: Element>(
    layout: &Layout,
    dims: Dims,
    items: &[i64],
    item_count: &[i64],
    update: Update<'_, T>,
    state: StateMut<'_, T>,
    parallel: Parallel<'_>,
) -> Result<(), Error> {
    let Dims { batch, channels } = dims;
    state.check(layout, dims)?;
    check_len("item_count", item_count.len(), batch * layout.items())?;
    check_len("gain", update.gain.len(), channels)?;
    if batch == 0 {
        return Ok(());
    }
    let q = items.len() / batch;
    let r = layout.vips() + q;
    check_len("items", items.len(), batch * q)?;
    check_len("y", update.y.len(), batch * r * channels)?;
    check_len("update", update.update.len(), batch * r * channels)?;
    let listed = (0..batch)
        .map(|batch| sort(layout, batch, row(items, batch, q)))
        .collect::<Result<Vec<_>, _>>()?;
    if channels == 0 {
        return Ok(());
    }

    let (vips, parts) = split(layout, dims, state, |batch| {
        cuts(layout, &listed[batch], task_rows(channels))
    });
    for (batch, vips) in vips.into_iter().enumerate() {
        copy(
            &row(update.y, batch, r * channels)[..vips.len()],
            vips,
            parallel,
        );
    }
    for_each(parallel, parts, |mut part| {
        let listed = &listed[part.batch];
        let first = part.roots.start * layout.ladder().coarsest();
        let mut walk = Walk {
            layout,
            channels,
            count: row(item_count, part.batch, layout.items()),
            y: row(update.y, part.batch, r * channels),
            update: row(update.update, part.batch, r * channels),
            gain: update.gain,
            listed: &listed[listed.partition_point(|item| item.slot < first)..],
            sum: vec![0.0; channels],
        };
        let mut paths = vec![0.0; 2 * layout.ladder().levels() * channels];
        let (own, below) = paths.split_at_mut(2 * channels);
        let mut path = Path::new(own);
        path.set_identity();
        for root in part.roots.clone() {
            walk.node(&mut part, 0, root, &path, below);
        }
    });
    Ok(())
}

/// An item of the list: the first context slot it covers, its level (`L` for a slot) and its row.
struct Listed {
    slot: usize,
    level: usize,
    row: usize,
}

/// The list by position, checked to be a partition of the context.
fn sort(layout: &Layout, batch: usize, items: &[i64]) -> Result<Vec<Listed>, Error> {
    let sizes = layout.ladder().sizes();
    let mut listed = Vec::with_capacity(items.len());
    for (at, &value) in items.iter().enumerate() {
        let (slot, level) = match layout.item(value) {
            Some(Item::Segment { level, index }) => (index * sizes[level], level),
            Some(Item::Slot(slot)) if slot >= layout.vips() => {
                (slot - layout.vips(), layout.ladder().levels())
            }
            _ => {
                return Err(Error::Index {
                    name: "items",
                    at: batch * items.len() + at,
                    value,
                    low: layout.vips(),
                    high: layout.items(),
                });
            }
        };
        listed.push(Listed {
            slot,
            level,
            row: layout.vips() + at,
        });
    }
    // The list is usually a few ascending runs, which this sort merges in linear time.
    listed.sort_by_key(|item| item.slot);
    let mut covered = 0;
    for item in &listed {
        if item.slot != covered {
            return Err(Error::Cover {
                row: batch,
                slot: item.slot.min(covered),
            });
        }
        covered += sizes[item.level];
    }
    if covered == layout.context() {
        Ok(listed)
    } else {
        Err(Error::Cover {
            row: batch,
            slot: covered,
        })
    }
}

/// Root boundaries that leave about `rows` items to each part.
fn cuts(layout: &Layout, listed: &[Listed], rows: usize) -> Vec<usize> {
    let mut cuts = vec![0];
    let mut since = 0;
    for (at, item) in listed.iter().enumerate() {
        if item.slot % layout.ladder().coarsest() == 0 && at - since >= rows {
            cuts.push(item.slot / layout.ladder().coarsest());
            since = at;
        }
    }
    cuts.push(layout.roots());
    cuts
}

/// The inputs of one batch row and what is left of its list.
struct Walk<'a, T> {
    layout: &'a Layout,
    channels: usize,
    count: &'a [i64],
    y: &'a [T],
    update: &'a [T],
    gain: &'a [T],
    listed: &'a [Listed],
    sum: Vec<f32>,
}

impl<T: Element> Walk<'_, T> {
    /// Updates a segment or slot and what was refined below it. `path` is the composition of the maps of its strict ancestors as they
    /// were before; `buffers` holds the paths of the levels below.
    fn node(
        &mut self,
        part: &mut Subtrees<'_, T>,
        level: usize,
        index: usize,
        path: &Path<'_>,
        buffers: &mut [f32],
    ) {
        let Some((item, rest)) = self.listed.split_first() else {
            return;
        };
        if item.level > level {
            self.refined(part, level, index, path, buffers);
            return;
        }
        self.listed = rest;
        if level == self.layout.ladder().levels() {
            if self.count[self.layout.vips() + index] >= 0 {
                part.slot(index)
                    .copy_from_slice(row(self.y, item.row, self.channels));
            }
        } else if self.count[self.layout.level(level).start + index] >= 0 {
            let (value, scale, offset) = part.segment(level, index);
            update_segment(
                path,
                self.gain,
                row(self.update, item.row, self.channels),
                value,
                scale,
                offset,
            );
        }
    }

    fn refined(
        &mut self,
        part: &mut Subtrees<'_, T>,
        level: usize,
        index: usize,
        path: &Path<'_>,
        buffers: &mut [f32],
    ) {
        let (levels, children) = (
            self.layout.ladder().levels(),
            self.layout.ladder().children(level),
        );
        let children = index * children..(index + 1) * children;
        if level + 1 == levels {
            // Slots are overwritten, so the path to them is not needed.
            children
                .clone()
                .for_each(|slot| self.node(part, levels, slot, path, buffers));
        } else {
            let (own, below) = buffers.split_at_mut(2 * self.channels);
            let mut inner = Path::new(own);
            let (_, scale, offset) = part.segment(level, index);
            inner.compose(path, (&*scale, &*offset));
            children
                .clone()
                .for_each(|child| self.node(part, level + 1, child, &inner, below));
        }
        let count = self.count[self.layout.level(level).start + index];
        if count < 0 {
            return;
        }
        let mut total = 0;
        for child in children {
            let weight = self.weight(level + 1, child, count > 0);
            if weight > 0 {
                let value = if level + 1 == levels {
                    part.slot(child)
                } else {
                    part.segment(level + 1, child).0
                };
                add(value, weight as f32, total == 0, &mut self.sum);
                total += weight;
            }
        }
        let (value, scale, offset) = part.segment(level, index);
        store_mean(&self.sum, total as f32, value);
        scale.fill(T::ONE);
        offset.fill(T::ZERO);
    }

    /// What a child counts for in its parent's mean: its valid tokens, or all its tokens if the parent has no valid one.
    fn weight(&self, level: usize, index: usize, only_valid: bool) -> i64 {
        let is_slot = level == self.layout.ladder().levels();
        let count = self.count[if is_slot {
            self.layout.vips()
        } else {
            self.layout.level(level).start
        } + index];
        if only_valid || count < 0 {
            return count;
        }
        // Empty slots are the last ones of the row, so those before the first of them hold tokens.
        let slots = &self.count[self.layout.vips()..self.layout.slots()];
        let size = self.layout.ladder().sizes()[level];
        slots[index * size..(index + 1) * size].partition_point(|&count| count >= 0) as i64
    }
}
