//! Shapes, types and contents of values against what ran.

use super::arrays::distances;
use super::{Compared, Disagreement, element_type};
use onnx_model::{Graph, ValueId};
use std::collections::BTreeMap;
use token_axes::interp::Facts;
use token_axes::{Dim, Samples};
use vcc_run::{Array, Data, ElementType, Inputs, Outputs, PortInfo};

/// How far a known number may be from the actual one, relative: contents are computed in another order and precision.
const TOLERANCE: f64 = 1e-5;
/// The same of 16-bit numbers: ONNX Runtime rounds between its operators or does not.
const COARSE_TOLERANCE: f64 = 4e-3;

/// The values that came back, in the order of the graph.
fn values<'a>(
    graph: &'a Graph,
    outputs: &'a Outputs,
) -> impl Iterator<Item = (ValueId, &'a Array)> {
    outputs
        .iter()
        .filter_map(|(name, array)| Some((graph.find_value(name)?, array)))
}

/// Compares what is known at the sizes of a run. `assumed`: the inputs hold what the facts assume of them.
pub(super) fn compare(
    graph: &Graph,
    facts: &Facts,
    outputs: &Outputs,
    assumed: bool,
    compared: &mut Compared,
) -> Vec<Disagreement> {
    let mut found = Vec::new();
    for (value, array) in values(graph, outputs) {
        let mut wrong = |what, inferred: String, actual: String| {
            found.push(Disagreement::new(graph, value, what, inferred, actual));
        };
        if let Some(dtype) = facts.dtype(value)
            && element_type(dtype) != Some(array.element_type())
        {
            wrong(
                "type",
                format!("{dtype:?}"),
                array.element_type().to_string(),
            );
        }
        let shape = facts
            .shape(value)
            .filter(|_| assumed || !facts.assumed_shape(value));
        let Some(shape) = shape else { continue };
        compared.dimensions += shape.len();
        if !is_shape(shape, array) {
            wrong(
                "shape",
                format!("{shape:?}"),
                format!("{:?}", array.shape()),
            );
            continue;
        }
        let content = facts
            .content(value)
            .filter(|_| assumed || !facts.assumed(value));
        if let Some(content) = content {
            compared.contents += 1;
            let (inferred, actual) = (content.to_f64s(), array.data().to_f64s());
            let tolerance = match array.element_type() {
                ElementType::F16 => COARSE_TOLERANCE,
                _ => TOLERANCE,
            };
            let apart = distances(&actual, &inferred);
            if inferred.len() != actual.len() {
                wrong(
                    "content",
                    format!("{} elements", inferred.len()),
                    format!("{} elements", actual.len()),
                );
            } else if let Some(i) = apart.iter().position(|&d| d > tolerance) {
                wrong(
                    "content",
                    format!("{} at {i}", inferred[i]),
                    actual[i].to_string(),
                );
            }
        }
    }
    found
}

fn is_shape(shape: &[i64], array: &Array) -> bool {
    let actual = array.shape().iter().map(|&d| d as i64);
    shape.len() == array.shape().len() && actual.eq(shape.iter().copied())
}

/// Sizes that are the same at all samples are the same at any other sizes: constants stay what they are, and what is the
/// number of tokens in one value is so in all. The same of the elements of small integer tensors.
pub(super) fn compare_sizes(
    graph: &Graph,
    samples: &Samples,
    outputs: &Outputs,
) -> Vec<Disagreement> {
    let mut sizes: BTreeMap<Dim, (i64, ValueId)> = BTreeMap::new();
    let mut found = Vec::new();
    for (value, array) in values(graph, outputs) {
        let assumed = samples.0.iter().any(|f| f.assumed_shape(value));
        let dims = samples.shape(value).filter(|_| !assumed);
        let shape: Vec<i64> = array.shape().iter().map(|&d| d as i64).collect();
        let mut claims: Vec<(Dim, i64)> = dims.into_iter().flatten().zip(shape).collect();
        if let Some(elements) = samples.int_dims(value) {
            let actual = match array.data() {
                Data::I64(v) => v.clone(),
                other => other.to_f64s().into_iter().map(|x| x as i64).collect(),
            };
            claims.extend(elements.into_iter().zip(actual));
        }
        for (dim, actual) in claims {
            let first = dim.constant().map(|c| (c, value));
            let &mut (expected, other) =
                sizes.entry(dim).or_insert(first.unwrap_or((actual, value)));
            if expected != actual {
                let inferred = match dim.constant() {
                    Some(c) => format!("always {c}"),
                    None => format!("{expected}, as in '{}'", graph.value(other).name),
                };
                found.push(Disagreement::new(
                    graph,
                    value,
                    "size",
                    inferred,
                    actual.to_string(),
                ));
                break;
            }
        }
    }
    found
}

/// Whether the shapes of all values that can be read are known and none is without elements. Masks of one number only may
/// leave nothing to select, and ONNX Runtime's Reshape ends the process with a division by zero where it is to find out a size
/// of nothing.
pub(super) fn nothing_is_empty(graph: &Graph, facts: &Facts, outputs: &Outputs) -> bool {
    values(graph, outputs).all(|(v, _)| facts.shape(v).is_some_and(|s| !s.contains(&0)))
}

/// The contents of the inputs as the facts assume them; nothing if one is too large to be known.
pub(super) fn assumed_inputs(graph: &Graph, facts: &Facts, ports: &[PortInfo]) -> Option<Inputs> {
    ports
        .iter()
        .filter(|p| !p.optional)
        .map(|port| {
            let value = graph.find_value(&port.name)?;
            let shape: Option<Vec<usize>> = facts
                .shape(value)?
                .iter()
                .map(|&d| usize::try_from(d).ok())
                .collect();
            let data = Data::from_f64s(port.element_type?, &facts.content(value)?.to_f64s());
            Some((port.name.clone(), Array::new(shape?, data).ok()?))
        })
        .collect()
}
