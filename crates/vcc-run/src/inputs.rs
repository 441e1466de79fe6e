//! Random inputs for a model, from what it declares: the same numbers for the same seed on every machine.
//!
//! Sizes: the first axis is the batch, every other axis of open size is the sequence length, and equal symbols are equal
//! sizes: a symbol that stands on a later axis anywhere is the length everywhere (`[batch, seq]` and `[seq]`). The caller
//! overrides by symbol. Contents: by element type and by what the name says.

use std::collections::{BTreeMap, BTreeSet};

use half::f16;

use crate::error::RunError;
use crate::rng::Rng;
use crate::session::{Dim, PortInfo};
use crate::tensors::{Array, Data, ElementType, Tensors};

/// Which tokens the inputs called masks declare to be padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// None.
    #[default]
    None,
    /// The last quarter of each row (not of a row of one token).
    Right,
    /// The first quarter of each row (not of a row of one token).
    Left,
    /// The end of each row but the first, which is full; lengths are random.
    Ragged,
    /// All of the last row; the others as [`Padding::Ragged`].
    EmptyRow,
}

/// How to make random inputs.
#[derive(Clone, Debug)]
pub struct RandomOptions {
    /// The seed.
    pub seed: u64,
    /// Batch size, for a first axis of open size.
    pub batch: usize,
    /// Sequence length, for the other axes of open size.
    pub length: usize,
    /// Sizes by symbol; they go before batch and length.
    pub sizes: BTreeMap<String, usize>,
    /// Integer inputs whose name says nothing are drawn from `lo..hi`: token ids below the vocabulary size.
    pub ids: (i64, i64),
    /// Ranges for single inputs by name; such an input is drawn from its range whatever its name says.
    pub bounds: BTreeMap<String, (i64, i64)>,
    /// What the masks say.
    pub padding: Padding,
}

impl Default for RandomOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            batch: 1,
            length: 64,
            sizes: BTreeMap::new(),
            ids: (0, 100),
            bounds: BTreeMap::new(),
            padding: Padding::None,
        }
    }
}

/// What an input holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// 1 at valid tokens, 0 at padding.
    Mask,
    /// 0 in the first half of a row, 1 in the second.
    Halves,
    /// 0, 1, 2 .. along the last axis.
    Positions,
    /// Uniform in `lo..hi`.
    Range(i64, i64),
    /// 1 with a chance of one in eight.
    Sparse,
    /// Normal, mean 0 and variance 1.
    Normal,
}

/// Makes an array for every input that has no default. Names decide the content: `..mask..` 0/1 by
/// [`RandomOptions::padding`]; `..token_type..` and `..segment..` 0/1 by halves; `..position..` 0, 1, 2 ..; other
/// integers token ids; other booleans true once in eight; other floats normal.
pub fn random_inputs(inputs: &[PortInfo], options: &RandomOptions) -> Result<Tensors, RunError> {
    let needed = || inputs.iter().filter(|p| !p.optional);
    let length_symbols: BTreeSet<&str> = needed()
        .flat_map(|p| p.dims.iter().skip(1))
        .filter_map(|d| symbol(d))
        .collect();
    needed()
        .map(|port| {
            let failed = |reason: String| RunError::RandomInput {
                input: port.name.clone(),
                reason,
            };
            let shape: Vec<usize> = port
                .dims
                .iter()
                .enumerate()
                .map(|(axis, dim)| {
                    let name = symbol(dim);
                    match (dim, name.and_then(|s| options.sizes.get(s))) {
                        (Dim::Fixed(d), _) | (_, Some(d)) => *d,
                        _ if axis == 0 && name.is_none_or(|s| !length_symbols.contains(s)) => {
                            options.batch
                        }
                        _ => options.length,
                    }
                })
                .collect();
            let kind = port
                .element_type
                .ok_or_else(|| failed(format!("its type is {}", port.type_name)))?;
            let content = content(&port.name, kind, options);
            if let Content::Range(lo, hi) = content
                && lo >= hi
            {
                return Err(failed(format!("the range {lo}..{hi} is empty")));
            }
            let data = fill(&port.name, kind, &shape, content, options).map_err(failed)?;
            Ok((port.name.clone(), Array::new(shape, data)?))
        })
        .collect()
}

fn symbol(dim: &Dim) -> Option<&str> {
    match dim {
        Dim::Symbol(s) => Some(s),
        _ => None,
    }
}

fn content(name: &str, kind: ElementType, options: &RandomOptions) -> Content {
    if let Some(&(lo, hi)) = options.bounds.get(name) {
        return Content::Range(lo, hi);
    }
    let name = name.to_lowercase();
    let says = |word: &str| name.contains(word);
    match kind {
        _ if says("mask") => Content::Mask,
        _ if says("token_type") || says("segment") => Content::Halves,
        _ if says("position") => Content::Positions,
        ElementType::Bool => Content::Sparse,
        ElementType::F32 | ElementType::F64 | ElementType::F16 => Content::Normal,
        _ => Content::Range(options.ids.0, options.ids.1),
    }
}

fn fill(
    name: &str,
    kind: ElementType,
    shape: &[usize],
    content: Content,
    options: &RandomOptions,
) -> Result<Data, String> {
    let total = shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .ok_or("its shape is too large")?;
    let mut rng = Rng::new(options.seed, name);
    if content == Content::Normal {
        let values = (0..total).map(|_| rng.normal());
        return Ok(match kind {
            ElementType::F64 => Data::F64(values.map(f64::from).collect()),
            ElementType::F16 => Data::F16(values.map(f16::from_f32).collect()),
            _ => Data::F32(values.collect()),
        });
    }
    // A row is what belongs to one index of the first axis; a token is an index of the last.
    let n = shape.last().copied().unwrap_or(1);
    let rows = if shape.len() > 1 {
        shape.first().copied().unwrap_or(1)
    } else {
        1
    };
    let valid = valid_ranges(rows, n, options);
    let per_row = total.checked_div(rows).unwrap_or(0).max(1);
    let integers = (0..total).map(|i| {
        let token = i % n;
        match content {
            Content::Mask => i64::from(valid.get(i / per_row).is_some_and(|r| r.contains(&token))),
            Content::Halves => i64::from(2 * token >= n && n > 1),
            Content::Positions => token as i64,
            Content::Range(lo, hi) => lo.wrapping_add(rng.below(hi.wrapping_sub(lo) as u64) as i64),
            Content::Sparse | Content::Normal => i64::from(rng.below(8) == 0),
        }
    });
    let too_large = |x: i64| format!("{x} does not fit its type {kind}");
    Ok(match kind {
        ElementType::I64 => Data::I64(integers.collect()),
        ElementType::I32 => Data::I32(narrow(integers).map_err(too_large)?),
        ElementType::I8 => Data::I8(narrow(integers).map_err(too_large)?),
        ElementType::U8 => Data::U8(narrow(integers).map_err(too_large)?),
        ElementType::Bool => Data::Bool(integers.map(|x| x != 0).collect()),
        ElementType::F32 => Data::F32(integers.map(|x| x as f32).collect()),
        ElementType::F64 => Data::F64(integers.map(|x| x as f64).collect()),
        ElementType::F16 => Data::F16(integers.map(|x| f16::from_f64(x as f64)).collect()),
    })
}

fn narrow<T: TryFrom<i64>>(integers: impl Iterator<Item = i64>) -> Result<Vec<T>, i64> {
    integers.map(|x| T::try_from(x).map_err(|_| x)).collect()
}

/// The valid tokens of each row. It does not depend on the input's name: all masks of a model agree.
fn valid_ranges(rows: usize, n: usize, options: &RandomOptions) -> Vec<std::ops::Range<usize>> {
    let mut rng = Rng::new(options.seed, "padding");
    (0..rows)
        .map(|row| {
            let random = 1 + rng.below(n.max(1) as u64) as usize;
            let ragged = if row == 0 { 0..n } else { 0..random.min(n) };
            match options.padding {
                Padding::None => 0..n,
                Padding::Right => 0..n - n.div_ceil(4).min(n.saturating_sub(1)),
                Padding::Left => n.div_ceil(4).min(n.saturating_sub(1))..n,
                Padding::Ragged => ragged,
                Padding::EmptyRow if row + 1 == rows => 0..0,
                Padding::EmptyRow => ragged,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, kind: ElementType, dims: &[&str]) -> PortInfo {
        let dims = dims
            .iter()
            .map(|d| match d.parse() {
                Ok(n) => Dim::Fixed(n),
                Err(_) if *d == "?" => Dim::Unknown,
                Err(_) => Dim::Symbol((*d).to_owned()),
            })
            .collect();
        PortInfo {
            name: name.into(),
            element_type: Some(kind),
            type_name: kind.to_string(),
            dims,
            optional: false,
        }
    }

    fn bert() -> Vec<PortInfo> {
        [
            "input_ids",
            "attention_mask",
            "token_type_ids",
            "position_ids",
        ]
        .map(|n| port(n, ElementType::I64, &["batch", "seq"]))
        .to_vec()
    }

    fn ints(t: &Tensors, name: &str) -> Vec<i64> {
        match t.get(name).unwrap().data() {
            Data::I64(v) => v.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_encoders_inputs_are_what_their_names_say() {
        let options = RandomOptions {
            batch: 2,
            length: 5,
            ids: (10, 20),
            padding: Padding::Right,
            ..Default::default()
        };
        let t = random_inputs(&bert(), &options).unwrap();
        assert_eq!(t.get("input_ids").unwrap().shape(), [2, 5]);
        let ids = ints(&t, "input_ids");
        assert!(
            ids.iter().all(|x| (10..20).contains(x)) && ids.iter().any(|x| *x != ids[0]),
            "{ids:?}"
        );
        assert_eq!(ints(&t, "attention_mask"), [1, 1, 1, 0, 0, 1, 1, 1, 0, 0]);
        assert_eq!(ints(&t, "token_type_ids"), [0, 0, 0, 1, 1, 0, 0, 0, 1, 1]);
        assert_eq!(ints(&t, "position_ids"), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_seed_gives_the_same_numbers_whatever_else_is_asked_for() {
        let options = RandomOptions {
            batch: 1,
            length: 6,
            seed: 7,
            ids: (0, 1000),
            ..Default::default()
        };
        let all = random_inputs(&bert(), &options).unwrap();
        let one = random_inputs(&bert()[..1], &options).unwrap();
        assert_eq!(all.get("input_ids"), one.get("input_ids"));
        // Computed outside of Rust from the definition of the generator.
        assert_eq!(ints(&one, "input_ids"), [483, 514, 132, 680, 826, 6]);
        let other = random_inputs(&bert()[..1], &RandomOptions { seed: 8, ..options }).unwrap();
        assert_ne!(other, one);
    }

    #[test]
    fn padding_schemes() {
        let mask = |padding, batch, length| {
            let options = RandomOptions {
                batch,
                length,
                padding,
                ..Default::default()
            };
            ints(&random_inputs(&bert(), &options).unwrap(), "attention_mask")
        };
        assert_eq!(mask(Padding::None, 1, 3), [1, 1, 1]);
        assert_eq!(mask(Padding::Left, 1, 4), [0, 1, 1, 1]);
        assert_eq!(mask(Padding::Left, 1, 1), [1]);
        assert_eq!(mask(Padding::Right, 1, 1), [1]);
        assert_eq!(mask(Padding::EmptyRow, 1, 3), [0, 0, 0]);
        let ragged = mask(Padding::Ragged, 4, 50);
        let lengths: Vec<i64> = ragged.chunks(50).map(|r| r.iter().sum()).collect();
        assert_eq!(lengths[0], 50);
        assert!(
            lengths.iter().all(|l| (1..=50).contains(l)) && lengths[1..].iter().any(|l| *l != 50),
            "{lengths:?}"
        );
        assert!(ragged.chunks(50).all(|r| r.is_sorted_by(|a, b| a >= b)));
        let empty = mask(Padding::EmptyRow, 4, 50);
        assert_eq!(empty[..150], ragged[..150]);
        assert!(empty[150..].iter().all(|x| *x == 0));
    }

    #[test]
    fn sizes_follow_axes_symbols_and_the_caller() {
        let ports = [
            port("pixels", ElementType::F32, &["b", "3", "8", "?"]),
            port("position_ids", ElementType::I32, &["seq"]),
            port("ids", ElementType::I32, &["b", "seq"]),
            port("pair_mask", ElementType::F16, &["b", "1", "seq", "seq"]),
            port("vip", ElementType::Bool, &["b", "seq"]),
            port("past", ElementType::F64, &["b", "past_length"]),
        ];
        let options = RandomOptions {
            batch: 2,
            length: 4,
            padding: Padding::Left,
            sizes: BTreeMap::from([("past_length".into(), 9)]),
            ..Default::default()
        };
        let t = random_inputs(&ports, &options).unwrap();
        let shapes: Vec<_> = t.iter().map(|(_, a)| a.shape().to_vec()).collect();
        assert_eq!(
            shapes,
            [
                vec![2, 3, 8, 4],
                vec![4],
                vec![2, 4],
                vec![2, 1, 4, 4],
                vec![2, 4],
                vec![2, 9]
            ]
        );
        assert_eq!(
            t.get("position_ids").unwrap().data(),
            &Data::I32(vec![0, 1, 2, 3])
        );
        let row: Vec<f64> = t.get("pair_mask").unwrap().data().to_f64s()[16..20].to_vec();
        assert_eq!(row, [0.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn bounds_go_before_names_and_must_fit() {
        let ports = [port("token_type_ids", ElementType::U8, &["b", "n"])];
        let bounds = |lo, hi| RandomOptions {
            bounds: BTreeMap::from([("token_type_ids".into(), (lo, hi))]),
            ..Default::default()
        };
        let t = random_inputs(&ports, &bounds(250, 256)).unwrap();
        assert!(
            t.get("token_type_ids")
                .unwrap()
                .data()
                .to_f64s()
                .iter()
                .all(|x| *x >= 250.0)
        );
        for (lo, hi) in [(3, 3), (1000, 1001)] {
            assert_eq!(
                random_inputs(&ports, &bounds(lo, hi)).unwrap_err().code(),
                "random-input"
            );
        }
        assert!(
            random_inputs(
                &ports,
                &RandomOptions {
                    length: 0,
                    ..Default::default()
                }
            )
            .is_ok()
        );
    }
}
