//! The state back to rows of the residual stream. One pass over n rows.

use crate::coarsen::check_state;
use crate::compress::Tree;
use crate::error::{check_indices, check_len};
use crate::parallel::{for_each, task_rows};
use crate::rows::row;
use crate::{Dims, Element, Error, Layout, Parallel, State};

/// Writes the current value of every token's slot. `token_slot` is `[B,n]`, `x` is `[B,n,d]`.
///
/// # Errors
/// [`Error::Length`] for a tensor that does not fit; [`Error::Index`] for a slot that is not one.
pub fn expand<T: Element>(
    layout: &Layout,
    dims: Dims,
    state: State<'_, T>,
    token_slot: &[i64],
    x: &mut [T],
    parallel: Parallel<'_>,
) -> Result<(), Error> {
    let Dims { batch, channels } = dims;
    check_state(
        layout,
        dims,
        [state.value.len(), state.scale.len(), state.offset.len()],
    )?;
    check_indices("token_slot", token_slot, 0, layout.slots())?;
    check_len("x", x.len(), token_slot.len() * channels)?;
    if x.is_empty() {
        return Ok(());
    }
    let n = token_slot.len() / batch;
    check_len("token_slot", token_slot.len(), batch * n)?;
    let step = task_rows(channels);
    let tasks = x
        .chunks_mut(n * channels)
        .enumerate()
        .flat_map(|(batch, rows)| {
            let pieces = rows.chunks_mut(step * channels).enumerate();
            pieces.map(move |(piece, rows)| (batch, piece * step, rows))
        });
    for_each(
        parallel,
        tasks.collect(),
        |(batch, first, rows): (usize, usize, &mut [T])| {
            let mut tree = Tree::new(layout, dims, state, batch);
            for (&slot, to) in row(token_slot, batch, n)[first..]
                .iter()
                .zip(rows.chunks_exact_mut(channels))
            {
                tree.current(slot as usize, to);
            }
        },
    );
    Ok(())
}
