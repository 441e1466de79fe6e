//! `VccPartition`.

/// The outputs for one batch row, `roots` aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Token of every item.
    pub item_token: Vec<i64>,
    /// Count of every item.
    pub item_count: Vec<i64>,
    /// Slot of every token.
    pub token_slot: Vec<i64>,
    /// Whether a VIP slot holds a VIP token.
    pub vote: Vec<bool>,
}

/// VIP slots for a batch of masks.
pub fn vip_slots(vip: &[Vec<bool>], valid: &[Vec<bool>], n: usize, capacity: usize) -> usize {
    let vips = |row: usize| (0..n).filter(|&t| vip[row][t] && valid[row][t]).count();
    let wanted = if capacity > 0 {
        capacity
    } else {
        (0..vip.len()).map(vips).max().unwrap_or(1)
    };
    wanted.max(1).min(n)
}

/// Puts one row's tokens into `v` VIP slots and segments of the ladder.
pub fn partition(sizes: &[usize], v: usize, vip: &[bool], valid: &[bool]) -> Partition {
    let n = vip.len();
    // What decides a token's place in the queue for VIP slots, then its position.
    let rank = |t: usize| match (vip[t] && valid[t], valid[t]) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    };
    let mut queue: Vec<usize> = (0..n).collect();
    queue.sort_by_key(|&t| (rank(t), t));
    let mut slots: Vec<Option<usize>> = queue[..v].iter().copied().map(Some).collect();
    let mut context = queue[v..].to_vec();
    context.sort_unstable();
    let coarsest = sizes[0];
    let roots = context.len().div_ceil(coarsest).max(1);
    context.iter().for_each(|&t| slots.push(Some(t)));
    slots.resize(v + roots * coarsest, None);

    let mut out = Partition {
        item_token: vec![],
        item_count: vec![],
        token_slot: vec![-1; n],
        vote: vec![],
    };
    for (slot, token) in slots.iter().enumerate() {
        match token {
            Some(t) => {
                out.token_slot[*t] = slot as i64;
                out.item_token.push(*t as i64);
                out.item_count.push(valid[*t] as i64);
            }
            None => {
                out.item_token.push(queue[0] as i64);
                out.item_count.push(-1);
            }
        }
    }
    out.vote = queue[..v].iter().map(|&t| rank(t) == 0).collect();
    for size in &sizes[..sizes.len() - 1] {
        for segment in slots[v..].chunks(*size) {
            let tokens: Vec<usize> = segment.iter().copied().flatten().collect();
            let voters: Vec<usize> = tokens.iter().copied().filter(|&t| valid[t]).collect();
            let (token, count) = if tokens.is_empty() {
                (queue[0], -1)
            } else if voters.is_empty() {
                (tokens[0], 0)
            } else {
                (representative(&voters, valid), voters.len() as i64)
            };
            out.item_token.push(token as i64);
            out.item_count.push(count);
        }
    }
    out
}

fn representative(voters: &[usize], valid: &[bool]) -> usize {
    // Positions are small, so the mean and its halves are exact in f64.
    let mean = voters.iter().map(|&t| t as f64).sum::<f64>() / voters.len() as f64;
    let centre = mean.round_ties_even() as usize;
    if valid[centre] {
        return centre;
    }
    let mut by_distance = voters.to_vec();
    by_distance.sort_by_key(|&t| (t.abs_diff(centre), t));
    by_distance[0]
}
