//! `VccCompress`: the compressed sequence, with the token and the count bias of every row.

use super::build::Body;
use super::tree::{Layout, State};
use super::val::Val;

pub(super) fn build<'b>(body: &'b Body, ladder: &[i64]) -> Vec<Val<'b>> {
    let [value, scale, offset, items, item_token, item_count, vote] = body.inputs();
    let layout = Layout::of_items(body, ladder, item_count, vote);
    let state = State {
        value,
        scale,
        offset,
    };
    let listed = layout.with_vips(items).named("listed");
    let count = item_count.gather_elements(listed, 1).named("count");
    let is_empty = count.less(0).named("is_empty");

    // An empty row is slot 0 in all but its bias; slot 0 is a VIP slot, which nothing is pending on.
    let shown = is_empty.select(0, listed);
    let rows = layout.current(&state, shown, &layout.locate(shown));
    let row_token = item_token.gather_elements(listed, 1);

    // A slot counts at most 1, so its bias is 0 without asking what it is.
    let weight = body.float_attribute("count_weight");
    let bias = count.max(1).float().log() * weight;
    let row_bias = is_empty.select(f32::NEG_INFINITY, bias);
    vec![rows.to_model(), row_token, row_bias]
}
