//! The state to a compressed sequence. Reads O(q) rows of the state.

use crate::coarsen::check_state;
use crate::error::{check_indices, check_len};
use crate::parallel::{for_each, task_rows};
use crate::rows::{Path, row};
use crate::{Dims, Element, Error, Item, Layout, Parallel, State};

/// The three outputs, `r = v + q`.
pub struct Compressed<'a, T> {
    /// Current values, `[B,r,d]`.
    pub rows: &'a mut [T],
    /// Tokens, `[B,r]`.
    pub row_token: &'a mut [i64],
    /// What to add to the scores of a row as a key, `[B,r]`: 0, `count_weight` times the logarithm of a count, or -inf.
    pub row_bias: &'a mut [f32],
}

/// Takes the VIP slots and the given `items [B,q]` out of the state.
///
/// # Errors
/// [`Error::Length`] for a tensor that does not fit; [`Error::Index`] for an item or token that is not one.
#[expect(
    clippy::too_many_arguments,
    reason = "the operator's inputs and attributes, one each"
)]
pub fn compress<T: Element>(
    layout: &Layout,
    dims: Dims,
    state: State<'_, T>,
    items: &[i64],
    item_token: &[i64],
    item_count: &[i64],
    count_weight: f32,
    out: Compressed<'_, T>,
    parallel: Parallel<'_>,
) -> Result<(), Error> {
    let Dims { batch, channels } = dims;
    check_state(
        layout,
        dims,
        [state.value.len(), state.scale.len(), state.offset.len()],
    )?;
    check_len("item_token", item_token.len(), batch * layout.items())?;
    check_len("item_count", item_count.len(), batch * layout.items())?;
    if batch == 0 {
        return Ok(());
    }
    let q = items.len() / batch;
    let r = layout.vips() + q;
    check_len("items", items.len(), batch * q)?;
    check_len("rows", out.rows.len(), batch * r * channels)?;
    check_len("row_token", out.row_token.len(), batch * r)?;
    check_len("row_bias", out.row_bias.len(), batch * r)?;
    check_indices("items", items, layout.vips(), layout.items())?;

    for batch in 0..batch {
        let (token, count) = (
            row(item_token, batch, layout.items()),
            row(item_count, batch, layout.items()),
        );
        for (place, item) in row_items(layout, row(items, batch, q)).enumerate() {
            out.row_token[batch * r + place] = token[item];
            out.row_bias[batch * r + place] = match count[item] {
                ..0 => f32::NEG_INFINITY,
                _ if item < layout.slots() => 0.0,
                count => count_weight * (count.max(1) as f32).ln(),
            };
        }
    }
    if channels == 0 {
        return Ok(());
    }
    let step = task_rows(channels);
    let tasks = out
        .rows
        .chunks_mut(r * channels)
        .enumerate()
        .flat_map(|(batch, rows)| {
            let pieces = rows.chunks_mut(step * channels).enumerate();
            pieces.map(move |(piece, rows)| (batch, piece * step, rows))
        });
    for_each(
        parallel,
        tasks.collect(),
        |(batch, first, rows): (usize, usize, &mut [T])| {
            let count = row(item_count, batch, layout.items());
            let mut tree = Tree::new(layout, dims, state, batch);
            let listed = row_items(layout, row(items, batch, q)).skip(first);
            for (item, to) in listed.zip(rows.chunks_exact_mut(channels)) {
                tree.current(if count[item] < 0 { 0 } else { item }, to);
            }
        },
    );
    Ok(())
}

/// The items of all rows: VIP slots, then the list.
fn row_items<'a>(layout: &Layout, items: &'a [i64]) -> impl Iterator<Item = usize> + 'a {
    (0..layout.vips()).chain(items.iter().map(|&item| item as usize))
}

/// The state of one batch row, to read current values from. Items below the same segment, one after the other, share the composition of
/// the maps above them.
pub(crate) struct Tree<'a, T> {
    layout: &'a Layout,
    state: State<'a, T>,
    channels: usize,
    /// The segment whose path, its own map included, is in `buffer`: its level and its index.
    parent: Option<(usize, usize)>,
    buffer: Vec<f32>,
}

impl<'a, T: Element> Tree<'a, T> {
    pub(crate) fn new(layout: &'a Layout, dims: Dims, state: State<'a, T>, batch: usize) -> Self {
        let channels = dims.channels;
        let state = State {
            value: row(state.value, batch, layout.items() * channels),
            scale: row(state.scale, batch, layout.segments() * channels),
            offset: row(state.offset, batch, layout.segments() * channels),
        };
        Self {
            layout,
            state,
            channels,
            parent: None,
            buffer: vec![0.0; 2 * channels],
        }
    }

    /// Writes an item's current value.
    pub(crate) fn current(&mut self, item: usize, to: &mut [T]) {
        let (layout, sizes) = (self.layout, self.layout.ladder().sizes());
        // The first context slot the item covers, and its level; VIP slots have no ancestors.
        let (slot, level) = match layout.item(item as i64) {
            Some(Item::Segment { level, index }) => (index * sizes[level], level),
            Some(Item::Slot(slot)) if slot >= layout.vips() => {
                (slot - layout.vips(), layout.ladder().levels())
            }
            _ => (0, 0),
        };
        let value = row(self.state.value, item, self.channels);
        let Some(above) = level.checked_sub(1) else {
            to.copy_from_slice(value);
            return;
        };
        let parent = (above, slot / sizes[above]);
        let mut path = Path::new(&mut self.buffer);
        if self.parent != Some(parent) {
            path.set_identity();
            for at in layout.ancestors(slot, level) {
                path.then((
                    row(self.state.scale, at, self.channels),
                    row(self.state.offset, at, self.channels),
                ));
            }
            self.parent = Some(parent);
        }
        path.apply(value, to);
    }
}
