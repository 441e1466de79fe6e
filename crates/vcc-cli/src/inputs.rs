//! Inputs for verify and bench: from a file, or random within what the model takes.

use crate::exit::Usage;
use anyhow::Result;
use clap::Args;
use onnx_model::{Graph, Model, ValueId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use vcc_run::{Array, Data, Padding, PortInfo, RandomOptions, TokenMask, random_inputs, read_npz};

/// Where inputs come from.
#[derive(Args)]
pub(crate) struct InputOptions {
    /// Inputs from a file, keyed by graph input name
    #[arg(long, value_name = "F.npz", conflicts_with = "random")]
    inputs: Option<PathBuf>,
    /// Random inputs with this seed [default: 0]
    #[arg(long, value_name = "SEED")]
    random: Option<u64>,
    /// Numbers of tokens; inputs from a file are cut to them
    #[arg(long, value_delimiter = ',', value_name = "N,..")]
    lengths: Vec<usize>,
    /// Batch size of random inputs
    #[arg(long, value_name = "B")]
    batch: Option<usize>,
}

/// One set of inputs.
pub(crate) struct Case {
    pub(crate) length: usize,
    pub(crate) batch: usize,
    pub(crate) padding: Padding,
    pub(crate) inputs: vcc_run::Inputs,
}

/// What a random input may hold, read off the model.
pub(crate) struct Bounds {
    vocabulary: BTreeMap<String, (i64, i64)>,
}

impl Bounds {
    /// The largest id each integer input may hold: the smallest table that it indexes.
    pub(crate) fn of(model: &Model) -> Bounds {
        let graph = &model.graph;
        let mut vocabulary: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for id in graph.node_ids() {
            let node = graph.node(id);
            if node.op_type != "Gather" {
                continue;
            }
            let (Some(table), Some(index)) = (
                node.inputs.first().copied().flatten(),
                node.inputs.get(1).copied().flatten(),
            ) else {
                continue;
            };
            let (Some(rows), Some(input)) = (table_rows(graph, table), indexed_input(graph, index))
            else {
                continue;
            };
            let name = &graph.value(input).name;
            // Names that say what they hold are filled accordingly.
            let lower = name.to_lowercase();
            if ["mask", "type", "segment", "position"]
                .iter()
                .any(|w| lower.contains(w))
            {
                continue;
            }
            let entry = vocabulary.entry(name.clone()).or_insert((0, rows));
            entry.1 = entry.1.min(rows);
        }
        // Low ids are padding and other special tokens in most vocabularies; some models derive positions from them.
        for (low, high) in vocabulary.values_mut() {
            *low = (*high / 10).min(4);
        }
        Bounds { vocabulary }
    }

    pub(crate) fn random(
        &self,
        ports: &[PortInfo],
        seed: u64,
        batch: usize,
        length: usize,
        padding: Padding,
    ) -> Result<Case> {
        let options = RandomOptions {
            seed,
            batch,
            length,
            padding,
            bounds: self.vocabulary.clone(),
            ..RandomOptions::default()
        };
        let inputs = random_inputs(ports, &options)?;
        let (batch, length) = sizes(&inputs).unwrap_or((batch, length));
        Ok(Case {
            length,
            batch,
            padding,
            inputs,
        })
    }
}

fn table_rows(graph: &Graph, table: ValueId) -> Option<i64> {
    let mut value = table;
    for _ in 0..4 {
        if let Some(tensor) = graph.tensor(value) {
            return tensor
                .dims()
                .first()
                .copied()
                .filter(|_| tensor.dims().len() == 2);
        }
        let (producer, _) = graph.value(value).producer()?;
        value = graph.node(producer).inputs.first().copied().flatten()?;
    }
    None
}

fn indexed_input(graph: &Graph, index: ValueId) -> Option<ValueId> {
    let mut value = index;
    for _ in 0..8 {
        if graph.is_input(value) {
            return Some(value);
        }
        let (producer, _) = graph.value(value).producer()?;
        let node = graph.node(producer);
        if !matches!(
            node.op_type.as_str(),
            "Cast" | "Identity" | "Reshape" | "Unsqueeze" | "Squeeze"
        ) {
            return None;
        }
        value = node.inputs.first().copied().flatten()?;
    }
    None
}

/// Batch and tokens of a set of inputs: of the first array with two or more axes.
fn sizes(inputs: &vcc_run::Inputs) -> Option<(usize, usize)> {
    inputs.iter().find_map(|(_, a)| match a.shape() {
        [batch, tokens, ..] => Some((*batch, *tokens)),
        _ => None,
    })
}

impl InputOptions {
    /// The seed of random inputs.
    pub(crate) fn seed(&self) -> u64 {
        self.random.unwrap_or(0)
    }

    /// The cases: from the file, or random at each length with each padding.
    pub(crate) fn cases(
        &self,
        ports: &[PortInfo],
        bounds: &Bounds,
        default_lengths: &[usize],
        batches: &[usize],
        paddings: &[Padding],
    ) -> Result<Vec<Case>> {
        if let Some(path) = &self.inputs {
            let all = read_npz(path)?;
            let (batch, tokens) = sizes(&all).ok_or_else(|| {
                Usage(format!(
                    "{} holds no array with a batch and a token axis.",
                    path.display()
                ))
            })?;
            let lengths = if self.lengths.is_empty() {
                vec![tokens]
            } else {
                self.lengths.clone()
            };
            return lengths
                .into_iter()
                .map(|length| {
                    if length == 0 || length > tokens {
                        return Err(Usage(format!(
                            "--lengths {length}: {} holds {tokens} tokens.",
                            path.display()
                        ))
                        .into());
                    }
                    let inputs = all
                        .iter()
                        .map(|(n, a)| Ok((n.to_owned(), cut(a, tokens, length)?)))
                        .collect::<Result<_>>()?;
                    Ok(Case {
                        length,
                        batch,
                        padding: Padding::None,
                        inputs,
                    })
                })
                .collect();
        }
        let lengths = if self.lengths.is_empty() {
            default_lengths
        } else {
            &self.lengths
        };
        if lengths.contains(&0) {
            return Err(Usage("--lengths: a sequence has at least one token.".into()).into());
        }
        let one = self.batch.map(|b| vec![b]);
        let batches = one.as_deref().unwrap_or(batches);
        let mut cases: Vec<Case> = Vec::new();
        for &length in lengths {
            for &batch in batches {
                for &padding in paddings {
                    let case = bounds.random(ports, self.seed(), batch, length, padding)?;
                    // Models with fixed sizes give the same case for every length.
                    if !cases.iter().any(|c| c.inputs == case.inputs) {
                        cases.push(case);
                    }
                }
            }
        }
        Ok(cases)
    }
}

/// An array cut to `length` on the axis that has all tokens.
fn cut(array: &Array, tokens: usize, length: usize) -> Result<Array> {
    let shape = array.shape();
    if shape.len() < 2 || shape[1] != tokens || length == tokens {
        return Ok(array.clone());
    }
    let inner: usize = shape[2..].iter().product();
    let mut new_shape = shape.to_vec();
    new_shape[1] = length;
    macro_rules! rows {
        ($v:expr) => {
            $v.chunks(tokens * inner)
                .flat_map(|row| row[..length * inner].iter().copied())
                .collect::<Vec<_>>()
                .into()
        };
    }
    let data: Data = match array.data() {
        Data::F32(v) => rows!(v),
        Data::F64(v) => rows!(v),
        Data::F16(v) => rows!(v),
        Data::I64(v) => rows!(v),
        Data::I32(v) => rows!(v),
        Data::I8(v) => rows!(v),
        Data::U8(v) => rows!(v),
        Data::Bool(v) => rows!(v),
    };
    Ok(Array::new(new_shape, data)?)
}

/// A boolean `[batch, tokens]` as a mask for comparisons.
pub(crate) fn token_mask(shape: [usize; 2], keep: Vec<bool>) -> Option<TokenMask> {
    Array::new(shape.to_vec(), Data::Bool(keep))
        .ok()
        .and_then(|a| TokenMask::from_array(&a))
}
