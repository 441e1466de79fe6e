//! The last block of a region where only some tokens of the region's end are read.
//!
//! Queries, and everything after the softmax, are computed for the rows that stand for those tokens; keys and values for all
//! rows. The state is not updated, and not expanded: what it would hold for a token that is read is computed here, a row's result for a
//! token that is a row of its own, and the token's own value with its row's change for one that is part of a segment.

use crate::conversion::{Binding, Encoder, Partition, SideRows, State};
use crate::emit::{Emit, Size};
use crate::insert::compress;
use onnx_model::{AttrValue, DataType, Dimension, Graph, ValueId};
use std::collections::BTreeMap;
use token_axes::Block;
use token_axes::layout::has_tokens;
use token_axes::site::{self, Copies, Instance, Side};

/// The copies of a block's nodes that compute some rows of its output from all rows; `None` where that cannot be told apart.
pub(crate) fn instances(graph: &Graph, block: &Block) -> Option<Vec<Instance>> {
    let axes = block.axes.as_ref().ok()?;
    // One scale for all rows would be another for fewer.
    let has_rows = |(_, layout): &(ValueId, token_axes::Layout)| layout.0.iter().any(has_tokens);
    if !axes.flows.values().all(|f| f.outputs.iter().all(has_rows)) {
        return None;
    }
    let layout = axes.layouts.get(&block.output)?;
    let sides = layout
        .0
        .iter()
        .map(|a| has_tokens(a).then_some(Side::Query))
        .collect();
    let copies = Copies::PerSide(Some(Side::Key));
    let found = site::instances(
        graph,
        axes,
        &block.core,
        block.input,
        block.output,
        sides,
        copies,
    );
    found.ok().map(|(instances, _)| instances)
}

/// Makes the copies: the first of a node is the node itself. Each reads the copies that it is to read.
pub(crate) fn separate(e: &mut Emit<'_>, instances: &mut [Instance]) {
    let originals: Vec<_> = instances.iter().map(|i| i.node).collect();
    for (i, instance) in instances.iter_mut().enumerate() {
        if originals[..i].contains(&instance.node) {
            let name = e.name(&e.graph.node(instance.node).name.clone());
            instance.node = e.graph.clone_node(instance.node, &name);
        }
    }
    for instance in instances.iter() {
        for (i, input) in instance.inputs.iter().enumerate() {
            if let site::Input::Instance(other, output) = input
                && let Some(other) = instances.get(*other)
            {
                let value = e.graph.node(other.node).outputs.get(*output).copied();
                e.graph.set_input(instance.node, i, value.flatten());
            }
        }
    }
}

/// Tokens that are read, among the rows of a compressed sequence. All are `[B, T]`.
pub(crate) struct Read {
    slot: ValueId,
    /// The row that holds the token.
    row: ValueId,
    /// Whether the row is the token (or stands for a segment).
    is_own: ValueId,
    count: i64,
}

/// Finds the rows for tokens. `items` are the rows behind the VIP slots.
pub(crate) fn locate(
    e: &mut Emit<'_>,
    encoder: &Encoder,
    p: &Partition,
    items: ValueId,
    at: &[i64],
) -> Read {
    let slot = slots(e, p, at);
    let ladder = &encoder.plan.ladder.0;
    let listed = listed(e, encoder, p, items);
    let among = e.unsqueeze(listed, &[1]);
    let is = |e: &mut Emit<'_>, id: ValueId| {
        let id = e.unsqueeze(id, &[2]);
        e.op("Equal", &[among, id], &[])
    };
    // The row is the slot, or one of the segments that it lies in: exactly one of them is listed. (What is taken for the segments of a
    // VIP slot may be listed too, but VIP slots come first.)
    let mut found = is(e, slot);
    let roots = e.dim(p.roots, 1);
    let offset = e.op("Sub", &[slot, p.slots], &[]);
    // The first segment of a level, from the first context slot on.
    let mut per_root = ladder.first().copied().unwrap_or(1);
    for &size in ladder.iter().take(ladder.len().saturating_sub(1)) {
        let (size_of, before) = (e.ints(&[size]), e.ints(&[per_root]));
        let number = e.op("Div", &[offset, size_of], &[]);
        let before = e.op("Mul", &[roots, before], &[]);
        let first = e.op("Add", &[before, p.slots], &[]);
        let id = e.op("Add", &[number, first], &[]);
        let is = is(e, id);
        found = e.op("Or", &[found, is], &[]);
        per_root += ladder.first().copied().unwrap_or(1) / size;
    }
    let found = e.cast(found, DataType::Float);
    let row = e.op(
        "ArgMax",
        &[found],
        &[("axis", AttrValue::Int(2)), ("keepdims", AttrValue::Int(0))],
    );
    let item = gather_elements(e, listed, row);
    let is_own = e.op("Equal", &[item, slot], &[]);
    let count = at.len() as i64;
    Read {
        slot,
        row,
        is_own,
        count,
    }
}

/// The items behind all rows, `[B, r]`.
pub(crate) fn listed(
    e: &mut Emit<'_>,
    encoder: &Encoder,
    p: &Partition,
    items: ValueId,
) -> ValueId {
    let all = e.range(p.slots);
    let shape = e.target(&[Size::Value(encoder.batch), Size::Value(p.slots)]);
    let vips = e.op("Expand", &[all, shape], &[]);
    e.concat(&[vips, items], 1)
}

fn slots(e: &mut Emit<'_>, p: &Partition, at: &[i64]) -> ValueId {
    let at = e.ints(at);
    e.gather(p.token_slot, at, 1)
}

pub(crate) fn gather_elements(e: &mut Emit<'_>, data: ValueId, index: ValueId) -> ValueId {
    let axis = [("axis", AttrValue::Int(1))];
    e.op("GatherElements", &[data, index], &axis)
}

impl Read {
    /// The rows `[B, T, d]` of the tokens among `rows [B, r, d]`.
    pub(crate) fn rows(
        &self,
        e: &mut Emit<'_>,
        encoder: &Encoder,
        rows: ValueId,
        channels: i64,
    ) -> ValueId {
        take(e, encoder, rows, self.row, channels)
    }

    /// A block's binding where these rows are its queries.
    pub(crate) fn binding(
        &self,
        e: &mut Emit<'_>,
        encoder: &Encoder,
        all: &Binding,
        rows: SideRows,
    ) -> Binding {
        let token = gather_elements(e, rows.token, self.row);
        let flat = e.op("Add", &[token, encoder.base], &[]);
        let read = SideRows {
            token,
            flat,
            flat_again: flat,
            count: e.ints(&[self.count]),
        };
        Binding {
            sides: BTreeMap::from([(Side::Query, read), (Side::Key, rows)]),
            rows_dim: Dimension::Unknown,
            ..all.clone()
        }
    }

    /// The tokens' new values `[B, T, d]` from those of their rows, `y`, and the rows before the block.
    pub(crate) fn values(
        &self,
        e: &mut Emit<'_>,
        encoder: &Encoder,
        p: &Partition,
        state: State,
        [y, before]: [ValueId; 2],
        channels: i64,
    ) -> ValueId {
        // As VccDecompress has it for the tokens of a segment: their own value and the row's change.
        let own = current(e, encoder, p, state, self.slot, [self.count, channels]);
        let update = e.op("Sub", &[y, before], &[]);
        let moved = e.op("Add", &[own, update], &[]);
        let is_own = e.unsqueeze(self.is_own, &[2]);
        e.op("Where", &[is_own, y, moved], &[])
    }
}

/// What the state holds for slots `[B, T]`: `[B, T, d]`.
fn current(
    e: &mut Emit<'_>,
    encoder: &Encoder,
    p: &Partition,
    state: State,
    slot: ValueId,
    [count, channels]: [i64; 2],
) -> ValueId {
    // VIP slots are compressed rows as they are; for the others they are followed by an item each.
    let is_vip = e.op("Less", &[slot, p.slots], &[]);
    let items = e.op("Where", &[is_vip, p.slots, slot], &[]);
    let [rows, ..] = compress(e, encoder, p, state, items);
    let behind = e.ints(&(0..count).collect::<Vec<_>>());
    let behind = e.op("Add", &[behind, p.slots], &[]);
    let row = e.op("Where", &[is_vip, slot, behind], &[]);
    take(e, encoder, rows, row, channels)
}

/// `rows [B, r, d]` at the places `[B, T]`.
fn take(
    e: &mut Emit<'_>,
    encoder: &Encoder,
    rows: ValueId,
    places: ValueId,
    channels: i64,
) -> ValueId {
    let flat = e.reshape(rows, &[Size::Const(-1), Size::Const(channels)]);
    let batch = e.range(encoder.batch);
    let batch = e.unsqueeze(batch, &[1]);
    let count = e.dim(rows, 1);
    let base = e.op("Mul", &[batch, count], &[]);
    let index = e.op("Add", &[places, base], &[]);
    e.gather(flat, index, 0)
}

/// The tokens `at` of a state, `[B, T, d]`.
pub(crate) fn of_state(
    e: &mut Emit<'_>,
    encoder: &Encoder,
    p: &Partition,
    state: State,
    at: &[i64],
    channels: i64,
) -> ValueId {
    let slot = slots(e, p, at);
    current(e, encoder, p, state, slot, [at.len() as i64, channels])
}
