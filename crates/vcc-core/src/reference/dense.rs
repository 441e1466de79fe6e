//! The algorithm with no tree: the current value of every slot, and a dense matrix for every list of items.
//!
//! `S` is the `r x (v+m)` matrix that averages the slots of each row's item, its pseudo-inverse `S^+` copies a row to every slot of
//! its item. A block takes `X` to `gain * X + S^+ update` below segments and to `S^+ y` at slots; with gain 1 and `update = y - S X`
//! that is the paper's `X + S^+ (y - S X)`. Sums leave out zero entries of `S`, so that a NaN stays where it is.

use super::{Rows, Tree};

/// The weights of `S`: a row of `vips + items.len()` rows holds what each slot counts for in it.
pub fn averaging(tree: &Tree, items: &[i64], item_count: &[i64]) -> Rows {
    let mut matrix = vec![];
    for id in (0..tree.vips).chain(items.iter().map(|&id| id as usize)) {
        let mut row = vec![0.0; tree.slots];
        let any_valid = tree.covers(id).any(|slot| item_count[slot] == 1);
        let counts = |slot: &usize| item_count[*slot] == i64::from(any_valid);
        let members: Vec<usize> = tree.covers(id).filter(counts).collect();
        for &slot in &members {
            row[slot] = 1.0 / members.len() as f64;
        }
        if members.is_empty() {
            // An empty row holds slot 0.
            row[0] = 1.0;
        }
        matrix.push(row);
    }
    matrix
}

/// `S X`.
pub fn compress(averaging: &Rows, x: &Rows) -> Rows {
    let channel = |weights: &Vec<f64>, c: usize| {
        weights
            .iter()
            .zip(x)
            .filter(|(w, _)| **w != 0.0)
            .map(|(w, x)| w * x[c])
            .sum()
    };
    averaging
        .iter()
        .map(|weights| (0..x[0].len()).map(|c| channel(weights, c)).collect())
        .collect()
}

/// The slots after a block; `x` are those before.
pub fn decompress(
    tree: &Tree,
    x: &Rows,
    items: &[i64],
    item_count: &[i64],
    y: &Rows,
    update: &Rows,
    gain: &[f64],
) -> Rows {
    let mut new = x.clone();
    for (row, id) in (0..tree.vips)
        .chain(items.iter().map(|&id| id as usize))
        .enumerate()
    {
        for slot in tree.covers(id).filter(|&slot| item_count[slot] != -1) {
            new[slot] = match id < tree.slots {
                true => y[row].clone(),
                false => (0..gain.len())
                    .map(|c| gain[c] * x[slot][c] + update[row][c])
                    .collect(),
            };
        }
    }
    new
}
