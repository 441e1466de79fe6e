//! The layout of items, and what several bodies do with the tree of segments.
//!
//! Shapes in comments: `B` batch, `v` VIP slots, `m` context slots, `P` items, `N` segments, `d` channels (docs/operators.md).

use super::build::Body;
use super::val::Val;

/// Where slots and segments stand among the items, as int64 tensors of shape [1].
pub(super) struct Layout<'b> {
    pub(super) body: &'b Body,
    pub(super) batch: Val<'b>,
    /// VIP slots, `v`.
    pub(super) vips: Val<'b>,
    /// All slots, `v + m`.
    pub(super) slots: Val<'b>,
    /// All items, `P`.
    pub(super) items: Val<'b>,
    /// All segments, `N`.
    pub(super) segments: Val<'b>,
    /// Coarse to fine.
    pub(super) levels: Vec<Level<'b>>,
}

/// One level of segments.
pub(super) struct Level<'b> {
    /// Slots in a segment.
    pub(super) size: i64,
    /// Children of a segment: segments of the next level, or slots.
    pub(super) children: i64,
    /// How many segments in a batch row.
    pub(super) count: Val<'b>,
    /// Number of the first among all segments.
    pub(super) first: Val<'b>,
    /// Number of the first of the next level, or `N`.
    pub(super) end: Val<'b>,
}

impl<'b> Layout<'b> {
    /// The layout of `items` (from `item_count`, or any tensor [B, P, ..]) and `vote` [B, v].
    pub(super) fn of_items(body: &'b Body, ladder: &[i64], items: Val<'b>, vote: Val<'b>) -> Self {
        let vips = vote.dim(1).named("vips");
        let per_root = ladder.iter().map(|size| ladder[0] / size).sum::<i64>();
        let roots = ((items.dim(1) - vips) / per_root).named("roots_count");
        Layout::new(body, ladder, vote.dim(0).named("batch"), vips, roots)
    }

    /// The layout of `roots` coarsest segments behind `vips` VIP slots.
    pub(super) fn new(
        body: &'b Body,
        ladder: &[i64],
        batch: Val<'b>,
        vips: Val<'b>,
        roots: Val<'b>,
    ) -> Self {
        let mut levels: Vec<Level<'b>> = vec![];
        let mut end = 0;
        for pair in ladder.windows(2) {
            let per_root = ladder[0] / pair[0];
            levels.push(Level {
                size: pair[0],
                children: pair[0] / pair[1],
                count: roots * per_root,
                first: roots * end,
                end: roots * (end + per_root),
            });
            end += per_root;
        }
        let slots = (vips + roots * ladder[0]).named("slots");
        let segments = (roots * end).named("segments");
        let items = slots + segments;
        Layout {
            body,
            batch,
            vips,
            slots,
            items,
            segments,
            levels,
        }
    }

    /// The slots' part of a tensor over items: [B, P, ..] to [B, v + m, ..].
    pub(super) fn slots_of(&self, items: Val<'b>) -> Val<'b> {
        items.slice(1, 0, self.slots)
    }

    /// The context slots' part of a tensor over items: [B, P, ..] to [B, m, ..].
    pub(super) fn context_of(&self, items: Val<'b>) -> Val<'b> {
        items.slice(1, self.vips, self.slots)
    }

    /// A level's part of a tensor over items: [B, P, ..] to [B, segments of the level, ..].
    pub(super) fn level_of(&self, level: &Level<'b>, items: Val<'b>) -> Val<'b> {
        items.slice(1, self.slots + level.first, self.slots + level.end)
    }

    /// The tokens in each context slot, from `item_count` [B, P].
    pub(super) fn tally_of_slots(&self, item_count: Val<'b>) -> Tally<'b> {
        let count = self.context_of(item_count);
        Tally {
            valid: count.greater(0).int(),
            existing: count.greater(-1).int(),
        }
    }

    /// The tokens in each segment of `level`, from those of its children.
    pub(super) fn tally_of_segments(&self, level: &Level<'b>, children: &Tally<'b>) -> Tally<'b> {
        let sum = |tokens| self.grouped(level, tokens).sum(&[2]).squeeze(&[2]);
        Tally {
            valid: sum(children.valid),
            existing: sum(children.existing),
        }
    }

    /// The mean of each segment of `level` over its valid tokens, over its existing ones if none is valid: the mean of the
    /// children's `values` (float32 [B, children, d]) weighted by that. Children of weight 0 are left out whatever they hold.
    pub(super) fn means(&self, level: &Level<'b>, values: Val<'b>, tally: &Tally<'b>) -> Val<'b> {
        let valid = self.grouped(level, tally.valid);
        let existing = self.grouped(level, tally.existing);
        let weight = valid
            .sum(&[2])
            .greater(0)
            .select(valid, existing)
            .unsqueeze(&[3]);
        let children = self.body.int(level.children);
        let values = values.reshape(&[self.batch, level.count, children, values.dim(2)]);
        let counted = weight.greater(0).select(values * weight.float(), 0.0);
        (counted.sum(&[2]) / weight.sum(&[2]).max(1).float()).squeeze(&[2])
    }

    /// [B, children] as [B, segments of the level, children of a segment].
    fn grouped(&self, level: &Level<'b>, children: Val<'b>) -> Val<'b> {
        children.reshape(&[self.batch, level.count, self.body.int(level.children)])
    }

    /// The segments' value for each of their children: [B, segments of the level] to [B, children], int64.
    pub(super) fn to_children(&self, level: &Level<'b>, segments: Val<'b>) -> Val<'b> {
        let children = self.body.int(level.children);
        let repeated = segments
            .unsqueeze(&[2])
            .expand(&[self.batch, level.count, children]);
        repeated.reshape(&[self.batch, level.count * level.children])
    }

    /// A list [q] for every batch row: [B, q].
    pub(super) fn batch_wise(&self, list: Val<'b>) -> Val<'b> {
        list.expand(&[self.batch, list.dim(0)])
    }

    /// The VIP slots in front of the context items `items` [B, q]: the ids behind the rows, [B, v + q].
    pub(super) fn with_vips(&self, items: Val<'b>) -> Val<'b> {
        self.body
            .concat(&[self.batch_wise(self.body.range(self.vips)), items], 1)
    }

    /// Rows of `table` [B, K, d] at `ids` [B, q], in float32: [B, q, d].
    pub(super) fn rows(&self, table: Val<'b>, ids: Val<'b>) -> Val<'b> {
        let (size, channels) = (table.dim(1), table.dim(2));
        let flat = table.reshape(&[self.batch * size, channels]);
        let firsts = (self.body.range(self.batch) * size).unsqueeze(&[1]);
        flat.gather(ids + firsts, 0).float()
    }

    /// Where the items `ids` [B, q] stand in the tree.
    pub(super) fn locate(&self, ids: Val<'b>) -> Position<'b> {
        let segment = ids - self.slots;
        let mut depth = self.body.int(self.levels.len() as i64);
        let mut first_slot = ids - self.vips;
        for (number, level) in self.levels.iter().enumerate() {
            // Later levels overwrite earlier ones, so the last one that starts at or before the segment remains.
            let here = segment.greater(level.first - 1);
            depth = here.select(number as i64, depth);
            first_slot = here.select((segment - level.first) * level.size, first_slot);
        }
        let vip = ids.less(self.vips);
        Position {
            depth: vip.select(-1, depth).named("depth"),
            first_slot: vip.select(0, first_slot).named("first_slot"),
            is_segment: segment.greater(-1).named("is_segment"),
        }
    }

    /// Pending `(scale, offset)` of the segments of `level` that contain, or are, the items at `position`: float32 [B, q, d] each.
    pub(super) fn maps(
        &self,
        level: &Level<'b>,
        position: &Position<'b>,
        state: &State<'b>,
    ) -> (Val<'b>, Val<'b>) {
        let ids = position.first_slot / level.size + level.first;
        (self.rows(state.scale, ids), self.rows(state.offset, ids))
    }

    /// Current values of the items `ids` at `position`: their own with the maps of all strict ancestors applied, the finest
    /// first. float32 [B, q, d].
    pub(super) fn current(
        &self,
        state: &State<'b>,
        ids: Val<'b>,
        position: &Position<'b>,
    ) -> Val<'b> {
        let mut value = self.rows(state.value, ids);
        for (number, level) in self.levels.iter().enumerate().rev() {
            let (scale, offset) = self.maps(level, position, state);
            let is_above = position.depth.greater(number as i64).unsqueeze(&[2]);
            value = is_above.select(scale * value + offset, value);
        }
        value
    }
}

/// The state's three tensors.
pub(super) struct State<'b> {
    pub(super) value: Val<'b>,
    pub(super) scale: Val<'b>,
    pub(super) offset: Val<'b>,
}

/// Places of items in the tree, each [B, q].
pub(super) struct Position<'b> {
    /// Level of a segment, number of levels for a context slot, -1 for a VIP slot: level `l` holds a strict ancestor of the
    /// item exactly if `l < depth`.
    pub(super) depth: Val<'b>,
    /// First context slot that the item covers, counted from 0; 0 for a VIP slot.
    pub(super) first_slot: Val<'b>,
    /// Whether the item is a segment (bool).
    pub(super) is_segment: Val<'b>,
}

/// How many tokens there are in segments or slots, int64 [B, how many].
pub(super) struct Tally<'b> {
    pub(super) valid: Val<'b>,
    /// Valid tokens and padding.
    pub(super) existing: Val<'b>,
}
