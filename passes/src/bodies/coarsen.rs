//! `VccCoarsen`: token rows to the state.

use super::build::Body;
use super::tree::Layout;
use super::val::Val;

pub(super) fn build<'b>(body: &'b Body, ladder: &[i64]) -> Vec<Val<'b>> {
    let [x, item_token, item_count, _token_slot, vote] = body.inputs();
    let layout = Layout::of_items(body, ladder, item_count, vote);
    let channels = x.dim(2).named("channels");

    // An empty slot's token is that of slot 0, so its row is too.
    let slots = layout
        .rows(x, layout.slots_of(item_token))
        .named("slot_rows");
    let mut value = vec![slots];
    let mut finer = layout.context_of(slots);
    let mut tally = layout.tally_of_slots(item_count);
    for level in layout.levels.iter().rev() {
        let means = layout.means(level, finer, &tally);
        tally = layout.tally_of_segments(level, &tally);
        let empty = layout.level_of(level, item_count).less(0).unsqueeze(&[2]);
        finer = empty
            .select(slots.slice(1, 0, 1), means)
            .named("segment_rows");
        value.insert(1, finer);
    }

    let shape = [layout.batch, layout.segments, channels];
    let scale = body.full_float(&shape, 1.0);
    let offset = body.full_float(&shape, 0.0);
    vec![
        body.concat(&value, 1).to_dtype(),
        scale.to_dtype(),
        offset.to_dtype(),
    ]
}
