//! `VccPartition`: masks to the order of slots, and what is known of every item.

use super::build::Body;
use super::tree::{Layout, Level};
use super::val::Val;

/// Larger than any `distance * n + position`.
const FAR: i64 = 1 << 62;

pub(super) fn build<'b>(body: &'b Body, ladder: &[i64], capacity: Option<i64>) -> Vec<Val<'b>> {
    let [vip, valid] = body.inputs();
    let batch = valid.dim(0).named("batch");
    let n = valid.dim(1).named("tokens");
    let is_vip = vip.and(valid).named("is_vip");
    let valid_count = valid.int();
    let vip_count = is_vip.int();
    let vips = vip_count.sum(&[1]).named("vips_of_row");

    let most_vips = || vips.reduce_max(&[0, 1]).squeeze(&[0]);
    let wanted = match capacity {
        Some(0) => most_vips(),
        Some(known) => body.int(known).min(n),
        None => {
            let capacity = body.int_attribute_up_to("capacity", n);
            capacity.equal(0).select(most_vips(), capacity)
        }
    };
    let v = wanted.max(1).named("v");
    let roots = ((n - v + (ladder[0] - 1)) / ladder[0])
        .max(1)
        .named("roots_count");
    let layout = Layout::new(body, ladder, batch, v, roots);

    // Who comes first into the VIP slots: VIPs, other valid tokens, padding; each in order.
    let others = valid_count - vip_count;
    let padding = body.int(1) - valid_count;
    let after_vips = vips + others.cumsum(1);
    let after_valid = valid_count.sum(&[1]) + padding.cumsum(1);
    let turn = is_vip.select(vip_count.cumsum(1), valid.select(after_vips, after_valid)) - 1;
    let to_front = turn.less(v).named("to_front");
    let in_context = v + to_front.not().int().cumsum(1) - 1;
    let token_slot = to_front.select(turn, in_context).named("slot_of_token");

    // The inverse, by scattering; what stays -1 is empty and stands for the token of slot 0.
    let unset = body.full_int(&[batch, layout.slots], -1);
    let tokens = layout.batch_wise(body.range(n));
    let slot_count = unset
        .scatter_elements(token_slot, valid_count, 1)
        .named("slot_count");
    let slot_token = unset.scatter_elements(token_slot, tokens, 1);
    let slot_token = slot_token
        .less(0)
        .select(slot_token.slice(1, 0, 1), slot_token);

    let mut item_token = vec![slot_token];
    let mut item_count = vec![slot_count];
    for level in &layout.levels {
        let segments = Segments::new(&layout, level, slot_token, slot_count);
        item_token.push(segments.token(n, valid_count).named("segment_token"));
        item_count.push(segments.count().named("segment_count"));
    }

    let vote = body.range(v).less(vips).named("is_voting");
    let roots = layout.batch_wise(layout.slots + body.range(roots));
    vec![
        body.concat(&item_token, 1),
        body.concat(&item_count, 1),
        token_slot,
        vote,
        roots,
    ]
}

/// The slots of one level's segments, [B, segments, slots of a segment].
struct Segments<'b> {
    token: Val<'b>,
    count: Val<'b>,
    valid: Val<'b>,
    valid_count: Val<'b>,
}

impl<'b> Segments<'b> {
    fn new(layout: &Layout<'b>, level: &Level<'b>, token: Val<'b>, count: Val<'b>) -> Self {
        let shape = [layout.batch, level.count, layout.body.int(level.size)];
        let token = token.slice(1, layout.vips, layout.slots).reshape(&shape);
        let count = count.slice(1, layout.vips, layout.slots).reshape(&shape);
        let valid = count.greater(0);
        Segments {
            token,
            count,
            valid,
            valid_count: valid.int().sum(&[2]).squeeze(&[2]),
        }
    }

    fn first(slots: Val<'b>) -> Val<'b> {
        slots.slice(2, 0, 1).squeeze(&[2])
    }

    /// Valid tokens; -1 if all slots are empty, which the first one tells because empty slots are the last ones.
    fn count(&self) -> Val<'b> {
        Segments::first(self.count)
            .less(0)
            .select(-1, self.valid_count)
    }

    /// The token at the mean position of the valid ones, if it is valid, else the valid one of the segment nearest to it.
    fn token(&self, n: Val<'b>, token_is_valid: Val<'b>) -> Val<'b> {
        let total = self.valid.select(self.token, 0).sum(&[2]).squeeze(&[2]);
        let count = self.valid_count.max(1);
        let floor = total / count;
        let twice = (total - floor * count) * 2;
        let half_to_even = twice.equal(count).and(floor.modulo(2).equal(1));
        let mean = floor + twice.greater(count).or(half_to_even).int();

        // The least of distance * n + position belongs to the nearest, the lower position first among equals.
        let distance = (self.token - mean.unsqueeze(&[2])).abs();
        let rank = self.valid.select(distance * n + self.token, FAR);
        let nearest = rank.reduce_min(&[2]).squeeze(&[2]).modulo(n);

        let mean_is_valid = token_is_valid.gather_elements(mean, 1).greater(0);
        let token = mean_is_valid.select(mean, nearest);
        // Without a valid token, the first slot's; in an empty one that is already the token of slot 0.
        self.valid_count
            .greater(0)
            .select(token, Segments::first(self.token))
    }
}
