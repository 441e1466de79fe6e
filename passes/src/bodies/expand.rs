//! `VccExpand`: the state as token rows.

use super::build::Body;
use super::tree::{Layout, State};
use super::val::Val;

pub(super) fn build<'b>(body: &'b Body, ladder: &[i64]) -> Vec<Val<'b>> {
    let [value, scale, offset, token_slot, vote] = body.inputs();
    let layout = Layout::of_items(body, ladder, value, vote);
    let state = State {
        value,
        scale,
        offset,
    };
    let position = layout.locate(token_slot);
    vec![layout.current(&state, token_slot, &position).to_model()]
}
