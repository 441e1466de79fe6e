//! `VccCoarsen`, `VccCompress`, `VccDecompress` and `VccExpand` on the tree.

use super::Rows;

/// The items of a batch row as the sets of slots they cover.
#[derive(Debug, Clone)]
pub struct Tree {
    /// VIP slots.
    pub vips: usize,
    /// VIP and context slots.
    pub slots: usize,
    /// First slot, one past the last, and level of every item; slots have the last level, VIP slots too.
    items: Vec<(usize, usize, usize)>,
}

impl Tree {
    /// The items of `vips` VIP slots and `roots` trees.
    pub fn new(sizes: &[usize], vips: usize, roots: usize) -> Self {
        let (levels, slots) = (sizes.len() - 1, vips + roots * sizes[0]);
        let mut items: Vec<_> = (0..slots).map(|slot| (slot, slot + 1, levels)).collect();
        for (level, &size) in sizes[..levels].iter().enumerate() {
            items.extend(
                (vips..slots)
                    .step_by(size)
                    .map(|first| (first, first + size, level)),
            );
        }
        Self { vips, slots, items }
    }

    /// The tree with the given number of items, if there is one.
    pub fn from_items(sizes: &[usize], vips: usize, items: usize) -> Option<Self> {
        let mut trees = (1..=items).map(|roots| Self::new(sizes, vips, roots));
        trees
            .find(|tree| tree.items.len() >= items)
            .filter(|tree| tree.items.len() == items)
    }

    /// Items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no items; there always are.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Item ids of the segments of a level.
    pub fn level(&self, level: usize) -> Vec<i64> {
        (self.slots..self.len())
            .filter(|&id| self.items[id].2 == level)
            .map(|id| id as i64)
            .collect()
    }

    /// Slots that an item covers.
    pub fn covers(&self, id: usize) -> std::ops::Range<usize> {
        self.items[id].0..self.items[id].1
    }

    /// The items one level below, inside a segment.
    pub fn children(&self, id: i64) -> Vec<i64> {
        let (first, end, level) = self.items[id as usize];
        let inside =
            |item: &(usize, usize, usize)| item.2 == level + 1 && item.0 >= first && item.1 <= end;
        (0..self.len())
            .filter(|&child| inside(&self.items[child]))
            .map(|child| child as i64)
            .collect()
    }

    /// Segments that cover an item, itself excluded, the finest first.
    fn ancestors(&self, id: usize) -> Vec<usize> {
        let (first, end, level) = self.items[id];
        let above =
            |item: &(usize, usize, usize)| item.2 < level && item.0 <= first && item.1 >= end;
        let mut found: Vec<usize> = (self.slots..self.len())
            .filter(|&other| above(&self.items[other]))
            .collect();
        found.sort_by_key(|&other| std::cmp::Reverse(self.items[other].2));
        found
    }

    fn mean(&self, rows: &[(f64, Vec<f64>)]) -> Vec<f64> {
        let total: f64 = rows.iter().map(|(weight, _)| weight).sum();
        (0..rows[0].1.len())
            .map(|c| {
                rows.iter()
                    .map(|(weight, row)| weight * row[c])
                    .sum::<f64>()
                    / total
            })
            .collect()
    }

    /// Covered slots whose tokens an item's mean is taken over: the valid ones, or all if none is valid.
    fn members(&self, id: usize, item_count: &[i64]) -> Vec<usize> {
        let valid: Vec<usize> = self
            .covers(id)
            .filter(|&slot| item_count[slot] == 1)
            .collect();
        if valid.is_empty() {
            self.covers(id)
                .filter(|&slot| item_count[slot] == 0)
                .collect()
        } else {
            valid
        }
    }
}

/// The state of one batch row.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// One row per item.
    pub value: Rows,
    /// One row per segment.
    pub scale: Rows,
    /// One row per segment.
    pub offset: Rows,
}

impl State {
    fn map(&self, tree: &Tree, segment: usize, x: &[f64]) -> Vec<f64> {
        let at = segment - tree.slots;
        x.iter()
            .enumerate()
            .map(|(c, x)| self.scale[at][c] * x + self.offset[at][c])
            .collect()
    }

    /// Current value of an item.
    pub fn current(&self, tree: &Tree, id: usize) -> Vec<f64> {
        tree.ancestors(id)
            .into_iter()
            .fold(self.value[id].clone(), |x, above| self.map(tree, above, &x))
    }
}

/// Rows of the residual stream to the state.
pub fn coarsen(tree: &Tree, x: &Rows, item_token: &[i64], item_count: &[i64]) -> State {
    let row = |slot: usize| x[item_token[slot] as usize].clone();
    let value = |id: usize| match tree.members(id, item_count) {
        members if members.is_empty() => row(0),
        members => tree.mean(
            &members
                .into_iter()
                .map(|slot| (1.0, row(slot)))
                .collect::<Vec<_>>(),
        ),
    };
    let (segments, d) = (tree.len() - tree.slots, x[0].len());
    State {
        value: (0..tree.len()).map(value).collect(),
        scale: vec![vec![1.0; d]; segments],
        offset: vec![vec![0.0; d]; segments],
    }
}

/// The outputs of `VccCompress` for one batch row.
#[derive(Debug, Clone, PartialEq)]
pub struct Compressed {
    /// Current values.
    pub rows: Rows,
    /// Tokens.
    pub token: Vec<i64>,
    /// What is added to the scores of a row as a key.
    pub bias: Vec<f64>,
}

/// The state to a compressed sequence.
pub fn compress(
    tree: &Tree,
    state: &State,
    items: &[i64],
    item_token: &[i64],
    item_count: &[i64],
    count_weight: f64,
) -> Compressed {
    let mut out = Compressed {
        rows: vec![],
        token: vec![],
        bias: vec![],
    };
    for id in (0..tree.vips).chain(items.iter().map(|&id| id as usize)) {
        let count = item_count[id];
        out.rows
            .push(state.current(tree, if count == -1 { 0 } else { id }));
        out.token.push(item_token[id]);
        out.bias.push(match (count, id < tree.slots) {
            (-1, _) => f64::NEG_INFINITY,
            (_, true) => 0.0,
            (count, false) => count_weight * (count.max(1) as f64).ln(),
        });
    }
    out
}

/// A block's result into the state.
pub fn decompress(
    tree: &Tree,
    state: &State,
    items: &[i64],
    item_count: &[i64],
    y: &Rows,
    update: &Rows,
    gain: &[f64],
) -> State {
    let mut new = state.clone();
    let affine = |x: &[f64], row: usize| -> Vec<f64> {
        (0..gain.len())
            .map(|c| gain[c] * x[c] + update[row][c])
            .collect()
    };
    new.value[..tree.vips].clone_from_slice(&y[..tree.vips]);
    let mut refined = std::collections::BTreeSet::new();
    for (at, &id) in items.iter().enumerate() {
        let (id, row) = (id as usize, tree.vips + at);
        refined.extend(
            tree.ancestors(id)
                .into_iter()
                .map(|above| (std::cmp::Reverse(tree.items[above].2), above)),
        );
        if item_count[id] == -1 {
            continue;
        }
        if id < tree.slots {
            new.value[id] = y[row].clone();
            continue;
        }
        new.value[id] = affine(&state.current(tree, id), row);
        // The path from just below `id` to the top, channel by channel.
        for c in 0..gain.len() {
            let (mut scale, mut offset) = (1.0, 0.0);
            for segment in std::iter::once(id).chain(tree.ancestors(id)) {
                let at = segment - tree.slots;
                (scale, offset) = (
                    state.scale[at][c] * scale,
                    state.scale[at][c] * offset + state.offset[at][c],
                );
            }
            new.scale[id - tree.slots][c] = gain[c] * scale;
            new.offset[id - tree.slots][c] = gain[c] * offset + update[row][c];
        }
    }
    // The finest first, so that children are done before their parents.
    for (_, id) in refined {
        if item_count[id] == -1 {
            continue;
        }
        let children = tree
            .children(id as i64)
            .into_iter()
            .map(|child| child as usize);
        let weight = |child: usize| match item_count[id] {
            0 => tree
                .covers(child)
                .filter(|&slot| item_count[slot] != -1)
                .count() as f64,
            _ => item_count[child].max(0) as f64,
        };
        let weighted: Vec<_> = children
            .map(|child| (weight(child), new.value[child].clone()))
            .filter(|(weight, _)| *weight > 0.0)
            .collect();
        new.value[id] = tree.mean(&weighted);
        new.scale[id - tree.slots].fill(1.0);
        new.offset[id - tree.slots].fill(0.0);
    }
    new
}

/// The state back to rows of the residual stream.
pub fn expand(tree: &Tree, state: &State, token_slot: &[i64]) -> Rows {
    token_slot
        .iter()
        .map(|&slot| state.current(tree, slot as usize))
        .collect()
}
