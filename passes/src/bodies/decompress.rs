//! `VccDecompress`: the result of a block on the compressed sequence, back into the state.
//!
//! First the listed items take their new values and maps, then the segments above them become means of what they cover,
//! from the finest level up.

use super::build::Body;
use super::tree::{Layout, Position, State};
use super::val::Val;

pub(super) fn build<'b>(body: &'b Body, ladder: &[i64]) -> Vec<Val<'b>> {
    let [
        value,
        scale,
        offset,
        items,
        item_count,
        vote,
        y,
        update,
        gain,
    ] = body.inputs();
    let layout = Layout::of_items(body, ladder, item_count, vote);
    let state = State {
        value,
        scale,
        offset,
    };
    let listed = layout.with_vips(items).named("listed");
    let position = layout.locate(listed);

    // What every row becomes, as if it were a segment; then the slots' rows, which become y.
    let (update, gain) = (update.float(), gain.float());
    let current = layout.current(&state, listed, &position);
    let is_segment = position.is_segment.unsqueeze(&[2]);
    let row_value = is_segment
        .select(gain * current + update, y.float())
        .named("row_value");
    let (path_scale, path_offset) = path(&layout, &position, &state);
    let row_scale = (gain * path_scale).named("row_scale");
    let row_offset = (gain * path_offset + update).named("row_offset");

    // The row of every item, -1 for those that are not listed. Empty items keep what they have.
    let batch_items = [layout.batch, layout.items];
    let rows = layout.batch_wise(body.range(y.dim(1)));
    let row = body
        .full_int(&batch_items, -1)
        .scatter_elements(listed, rows, 1)
        .named("row_of_item");
    let takes = row
        .greater(-1)
        .and(item_count.greater(-1))
        .named("takes_row");
    let row = row.max(0);
    let of_segments = |items: Val<'b>| items.slice(1, layout.slots, layout.items);
    let takes_value = takes.unsqueeze(&[2]);
    let takes_map = of_segments(takes).unsqueeze(&[2]);
    let value = takes_value.select(layout.rows(row_value, row), value.float());
    let scale = takes_map.select(layout.rows(row_scale, of_segments(row)), scale.float());
    let offset = takes_map.select(layout.rows(row_offset, of_segments(row)), offset.float());

    // Refined segments, coarse to fine: those neither listed nor below a listed one.
    let mut refined = vec![];
    let mut below: Option<Val<'b>> = None;
    for level in &layout.levels {
        let listed = layout.level_of(level, takes).int();
        let covered = below.map_or(listed, |below| below.max(listed));
        let exists = layout.level_of(level, item_count).greater(-1);
        refined.push(covered.equal(0).and(exists).named("is_refined"));
        below = Some(layout.to_children(level, covered));
    }

    // Their maps become the identity, their values the means of what they cover, fine to coarse.
    let all_refined = body.concat(&refined, 1).unsqueeze(&[2]);
    let new_scale = all_refined.select(1.0, scale);
    let new_offset = all_refined.select(0.0, offset);
    let mut new_value = vec![layout.slots_of(value)];
    let mut finer = layout.context_of(value);
    let mut tally = layout.tally_of_slots(item_count);
    for (level, refined) in layout.levels.iter().zip(&refined).rev() {
        let means = layout.means(level, finer, &tally);
        tally = layout.tally_of_segments(level, &tally);
        finer = refined
            .unsqueeze(&[2])
            .select(means, layout.level_of(level, value));
        new_value.insert(1, finer);
    }
    let new_value = body.concat(&new_value, 1);
    vec![
        new_value.to_dtype(),
        new_scale.to_dtype(),
        new_offset.to_dtype(),
    ]
}

/// The composition of the maps of the segments at `position` and of those above them, the finest applied first:
/// `(scale, offset)`, float32 [B, q, d]. Of no use where the item is a slot.
fn path<'b>(layout: &Layout<'b>, position: &Position<'b>, state: &State<'b>) -> (Val<'b>, Val<'b>) {
    let mut scale = layout.body.float(1.0);
    let mut offset = layout.body.float(0.0);
    for (number, level) in layout.levels.iter().enumerate().rev() {
        let (above_scale, above_offset) = layout.maps(level, position, state);
        let applies = position.depth.greater(number as i64 - 1).unsqueeze(&[2]);
        scale = applies.select(above_scale * scale, scale);
        offset = applies.select(above_scale * offset + above_offset, offset);
    }
    (scale, offset)
}
