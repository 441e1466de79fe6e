//! The sizes of a check: others than those that the analysis was made at.

use onnx_model::Model;
use std::collections::BTreeMap;
use token_axes::interp::{Fill, Sample, complete, explore};

/// Three samples. What is fixed in the model stays at its one size, what is equal in it stays equal, and what it computes is that.
pub(super) fn samples(model: &Model) -> Vec<Sample> {
    let found = explore(model);
    let Some(first) = found.samples.first() else {
        return Vec::new();
    };
    let root = |symbol: &str| found.symbols.get(symbol).cloned().unwrap_or_default();
    // A length that was traced into the graph is the only one it runs at.
    let baked: BTreeMap<String, i64> = found
        .facts
        .iter()
        .flat_map(|f| f.baked())
        .map(|b| (root(&b.symbol), b.literal))
        .collect();
    let new = |symbol: &str| -> [i64; 3] {
        let known: Vec<i64> = found
            .samples
            .iter()
            .filter_map(|s| s.dims.get(symbol).copied())
            .collect();
        match baked.get(&root(symbol)) {
            Some(&literal) => [literal; 3],
            None => others(&known),
        }
    };
    (0..3)
        .map(|i| {
            let mut sample = Sample {
                dims: first
                    .dims
                    .keys()
                    .map(|symbol| (symbol.clone(), new(symbol)[i]))
                    .collect(),
                fill: Fill::Ones,
                features: first.features.clone(),
            };
            complete(model, &found, &mut sample);
            sample
        })
        .collect()
}

/// The three smallest sizes that are not among the known ones, from just below these on, and multiples of what these all are
/// multiples of.
fn others(known: &[i64]) -> [i64; 3] {
    let low = known.iter().copied().min().unwrap_or(1);
    let unit = known.iter().fold(0, |a, &b| gcd(a, b)).max(1);
    if known.iter().all(|&size| size == low) {
        return [low; 3];
    }
    let mut size = low - 2 * unit;
    std::array::from_fn(|_| {
        size += unit;
        while size < unit || known.contains(&size) {
            size += unit;
        }
        size
    })
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Sizes as text.
pub(super) fn describe(dims: &BTreeMap<String, i64>) -> String {
    let sizes: Vec<String> = dims.iter().map(|(s, n)| format!("{s} {n}")).collect();
    if sizes.is_empty() {
        "its only size".to_owned()
    } else {
        sizes.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::others;

    #[test]
    fn sizes_are_new_and_keep_the_unit() {
        assert_eq!(others(&[2, 3, 5, 7]), [1, 4, 6]);
        assert_eq!(others(&[11, 13, 17, 14]), [10, 12, 15]);
        assert_eq!(others(&[160, 224, 352, 416]), [128, 192, 256]);
        assert_eq!(others(&[8, 24, 16, 40]), [32, 48, 56]);
        assert_eq!(others(&[17; 4]), [17; 3]);
    }
}
