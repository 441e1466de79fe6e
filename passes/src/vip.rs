//! The VIP mask `[B, n]` of a specification, in standard operators.

use crate::conversion::Conversion;
use crate::emit::Emit;
use crate::error::Error;
use crate::plan::{VipSpec, VipTerm};
use onnx_model::{AttrValue, DataType, Dimension, ValueId};
use token_axes::{BlockAxes, Samples};

/// Names that exporters give to the graph input with the token ids.
pub const TOKEN_IDS: [&str; 4] = ["input_ids", "tokens", "token_ids", "ids"];
/// Names that exporters give to the graph input with the token types.
pub const TOKEN_TYPES: [&str; 3] = ["token_type_ids", "segment_ids", "token_types"];

/// The inputs that a specification reads, resolved before anything is emitted. `like` is an input of shape `[B, n]` whose
/// declared dimensions a new input takes over.
pub(crate) fn resolve(
    c: &mut Conversion,
    samples: &Samples,
    axes: &BlockAxes,
    spec: &VipSpec,
    like: Option<ValueId>,
) -> Result<Vec<Option<ValueId>>, Error> {
    let mut out = Vec::new();
    for term in &spec.0 {
        let input = match term {
            VipTerm::First(_) | VipTerm::Last(_) => None,
            VipTerm::TokenType(_) => Some(named(c, &TOKEN_TYPES, "token-type", "token types")?),
            VipTerm::Tokens(_) => Some(named(c, &TOKEN_IDS, "tokens", "token ids")?),
            VipTerm::ThroughToken(_) => Some(named(c, &TOKEN_IDS, "through-token", "token ids")?),
            VipTerm::Input(name) => Some(new_input(c, axes, name, like)?),
        };
        if let Some(shape) = input.and_then(|v| samples.shape(v))
            && shape != [axes.batch, axes.tokens]
        {
            return Err(Error::Usage(format!(
                "--vip {spec}: the tokens of that input are not those of the encoder. Give the encoder its own --vip (for example --vip 1:first:1 for encoder 1)."
            )));
        }
        out.push(input);
    }
    Ok(out)
}

fn named(c: &Conversion, names: &[&str], term: &str, what: &str) -> Result<ValueId, Error> {
    let graph = &c.model.graph;
    names
        .iter()
        .find_map(|n| graph.find_value(n).filter(|&v| graph.is_input(v)))
        .ok_or_else(|| {
            Error::Usage(format!(
                "--vip {term}:.. needs a graph input with the {what} (named {}); the model's inputs are {}. Use input:NAME to pass the mask yourself.",
                names.join(", "),
                crate::planning::input_names(c)
            ))
        })
}

fn new_input(
    c: &mut Conversion,
    axes: &BlockAxes,
    name: &str,
    like: Option<ValueId>,
) -> Result<ValueId, Error> {
    let sizes = (axes.batch, axes.tokens);
    if let Some(other) = c.vip_inputs.insert(name.to_owned(), sizes)
        && other != sizes
    {
        return Err(Error::Usage(format!(
            "--vip input:{name}: the encoders have different tokens. Give each its own input (for example --vip 1:input:{name}_1)."
        )));
    }
    let graph = &mut c.model.graph;
    if let Some(v) = graph.find_value(name) {
        let is_bool = graph.value(v).info().and_then(|i| i.dtype) == Some(DataType::Bool);
        if graph.is_input(v) && is_bool {
            return Ok(v);
        }
        return Err(Error::Usage(format!(
            "--vip input:{name}: the model has a value of that name already; choose another name."
        )));
    }
    let dims = like
        .and_then(|v| graph.value(v).info()?.dims.clone())
        .filter(|d| d.len() == 2)
        .unwrap_or_else(|| vec![Dimension::Unknown, Dimension::Unknown]);
    Ok(graph.add_input(name, DataType::Bool, &dims)?)
}

/// The union of the terms. `inputs` is what [`resolve`] returned, `types` the data types of those inputs.
pub(crate) fn mask(
    e: &mut Emit<'_>,
    spec: &VipSpec,
    inputs: &[Option<ValueId>],
    types: &[DataType],
    valid: ValueId,
) -> ValueId {
    let mut union: Option<ValueId> = None;
    for ((term, input), &dtype) in spec.0.iter().zip(inputs).zip(types) {
        let one = match (term, input) {
            (VipTerm::First(n), _) => up_to(e, valid, *n, false),
            (VipTerm::Last(n), _) => up_to(e, valid, *n, true),
            (VipTerm::TokenType(id), Some(input)) => equals(e, *input, dtype, *id),
            (VipTerm::Tokens(ids), Some(input)) => {
                let parts: Vec<ValueId> =
                    ids.iter().map(|&id| equals(e, *input, dtype, id)).collect();
                parts
                    .into_iter()
                    .reduce(|a, b| e.op("Or", &[a, b], &[]))
                    .unwrap_or(valid)
            }
            (VipTerm::ThroughToken(id), Some(input)) => through(e, *input, dtype, *id, valid),
            (VipTerm::Input(_), Some(input)) => *input,
            _ => continue,
        };
        union = Some(match union {
            None => one,
            Some(other) => e.op("Or", &[other, one], &[]),
        });
    }
    union.unwrap_or(valid)
}

fn equals(e: &mut Emit<'_>, input: ValueId, dtype: DataType, id: i64) -> ValueId {
    let input = if dtype == DataType::Int64 {
        input
    } else {
        e.cast(input, DataType::Int64)
    };
    let id = e.int(id);
    e.op("Equal", &[input, id], &[])
}

/// Valid tokens whose place among the valid ones, counted from one end, is at most `n`.
fn up_to(e: &mut Emit<'_>, valid: ValueId, n: i64, reverse: bool) -> ValueId {
    let counts = e.cast(valid, DataType::Int64);
    let place = cumulative(e, counts, reverse, false);
    let limit = e.int(n + 1);
    e.op("Less", &[place, limit], &[])
}

fn cumulative(e: &mut Emit<'_>, counts: ValueId, reverse: bool, exclusive: bool) -> ValueId {
    let axis = e.int(1);
    e.op(
        "CumSum",
        &[counts, axis],
        &[
            ("exclusive", AttrValue::Int(i64::from(exclusive))),
            ("reverse", AttrValue::Int(i64::from(reverse))),
        ],
    )
}

/// Tokens with no earlier valid token of that id, in rows where it occurs.
fn through(e: &mut Emit<'_>, input: ValueId, dtype: DataType, id: i64, valid: ValueId) -> ValueId {
    let hit = equals(e, input, dtype, id);
    let hit = e.op("And", &[hit, valid], &[]);
    let counts = e.cast(hit, DataType::Int64);
    let (before, from_here) = (
        cumulative(e, counts, false, true),
        cumulative(e, counts, true, false),
    );
    let (one, zero) = (e.int(1), e.int(0));
    let none_before = e.op("Less", &[before, one], &[]);
    // One at or after this place: then the first one is not before it.
    let occurs = e.op("Greater", &[from_here, zero], &[]);
    e.op("And", &[none_before, occurs], &[])
}
