//! Pass `transfers`, with `--device cuda`: numbers that follow from shapes are brought to the device without a copy.
//!
//! A shape is known to the host, and ONNX Runtime computes there what follows from nothing but shapes and constants. Where an operator then reads
//! such a number on the device, as the number of tokens in an index or the width of a head in a scale, ONNX Runtime copies it, in every run,
//! and captures no CUDA graph of a model with such a copy anywhere. `Range` reads its bounds on the host and makes its result on the device,
//! so `Range(s, s + 1, 1)` is the number without one. Floats are computed anew from such integers.
//!
//! Rows `0..n` of a table, taken with such a Range, are a Slice: ONNX Runtime makes one of them too, but with bounds that it sends to the device and back.
//!
//! Invariants: values do not change; what an operator reads on the host, or computes there, stays as it is. A number that cannot be followed stays too:
//! then there is a copy, as there was before.

use crate::conversion::Conversion;
use crate::emit::Emit;
use crate::error::Error;
use crate::plan::Device;
use onnx_model::{DataType, Graph, Node, NodeId, ValueId};
use std::collections::BTreeMap;

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    if c.encoders.iter().any(|e| e.plan.device == Device::Cuda) {
        c.model.graph.remove_dead();
        c.model.graph.sort()?;
        let opset = c.opset();
        bring(&mut Emit::new(&mut c.model.graph, opset, "vcc/device"));
    }
    Ok(())
}

/// The most elements of a constant that ONNX Runtime takes to the host.
const SMALL: usize = 100;

/// The longest way back through operators whose numbers are computed again; what is further from a shape is copied.
const FURTHEST: usize = 100;

/// A value that is known on the host.
#[derive(Clone, Copy)]
struct OnHost {
    /// It follows from constants alone, and ONNX Runtime makes it one.
    folded: bool,
    dtype: DataType,
    rank: Option<usize>,
    /// The number of its elements.
    count: Option<usize>,
}

fn bring(e: &mut Emit<'_>) {
    let mut hosted = BTreeMap::new();
    let mut brought = BTreeMap::new();
    let nodes: Vec<NodeId> = e.graph.node_ids().collect();
    for id in nodes {
        let node = e.graph.node(id);
        if let Some(fact) = on_host(e.graph, node, &hosted) {
            let outputs = node.outputs.iter().flatten();
            hosted.extend(outputs.map(|&output| (output, fact)));
            continue;
        }
        if let Some((end, axis)) = first_rows(e.graph, node, &hosted) {
            slice(e, id, end, axis);
            continue;
        }
        let reads: Vec<(usize, ValueId)> = (0..)
            .zip(&node.inputs)
            .filter_map(|(index, &input)| Some((index, input?)))
            .filter(|(index, input)| on_device(node, *index) && is_computed(&hosted, *input))
            .collect();
        for (index, input) in reads {
            if let Some(value) = device_value(e, input, &hosted, &mut brought, FURTHEST) {
                e.graph.set_input(id, index, Some(value));
            }
        }
    }
}

fn is_computed(hosted: &BTreeMap<ValueId, OnHost>, value: ValueId) -> bool {
    hosted.get(&value).is_some_and(|fact| !fact.folded)
}

/// What ONNX Runtime computes on the host: shapes, and what follows from host values and small constants where the device's kernel would
/// have to fetch them.
fn on_host(graph: &Graph, node: &Node, hosted: &BTreeMap<ValueId, OnHost>) -> Option<OnHost> {
    if !node.domain.is_empty() || node.has_subgraph() {
        return None;
    }
    let shape = |rank, count| OnHost {
        folded: false,
        dtype: DataType::Int64,
        rank: Some(rank),
        count,
    };
    match node.op_type.as_str() {
        "Shape" => return Some(shape(1, None)),
        "Size" => return Some(shape(0, Some(1))),
        _ => (),
    }
    let mut facts: Vec<OnHost> = Vec::new();
    for (index, &input) in (0..).zip(node.inputs.iter().flatten()) {
        let fact = match hosted.get(&input) {
            Some(&fact) if !fact.folded && read_on_host(&node.op_type, index) => return None,
            Some(&fact) => fact,
            None => {
                let constant = graph.tensor(input)?;
                OnHost {
                    folded: true,
                    dtype: constant.dtype(),
                    rank: Some(constant.dims().len()),
                    count: constant.len(),
                }
            }
        };
        // What reads large constants, or numbers of 16 bits, stays on the device.
        let large = fact.folded && fact.count.is_some_and(|count| count > SMALL);
        if large || matches!(fact.dtype, DataType::Float16 | DataType::Bfloat16) {
            return None;
        }
        facts.push(fact);
    }
    let dtype = match node.op_type.as_str() {
        "Cast" => DataType::from_i32(i32::try_from(node.attr_int("to")?).ok()?)?,
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "Not" => DataType::Bool,
        "Where" => facts.get(1)?.dtype,
        _ => facts.first()?.dtype,
    };
    let folded = facts.iter().all(|fact| fact.folded);
    let (rank, count) = form(graph, node, &facts).unwrap_or_default();
    Some(OnHost {
        folded,
        dtype,
        rank,
        count,
    })
}

/// The rank of a node's result and the number of its elements, as far as they are known.
type Form = (Option<usize>, Option<usize>);

fn form(graph: &Graph, node: &Node, inputs: &[OnHost]) -> Option<Form> {
    let &OnHost { rank, count, .. } = inputs.first()?;
    let numbers = |index: usize, attribute: &str| match node.inputs.get(index) {
        Some(&value) => graph.tensor(value?)?.to_i64s(),
        None => node.attr_ints(attribute),
    };
    Some(match node.op_type.as_str() {
        "Concat" if rank == Some(1) => {
            let counts = inputs.iter().map(|input| input.count);
            (rank, counts.sum())
        }
        "Gather" => {
            let index = inputs.get(1)?;
            let taken = (rank? + index.rank?).checked_sub(1);
            (taken, index.count.filter(|_| rank == Some(1)))
        }
        "Slice" => {
            let (starts, ends) = (numbers(1, "starts")?, numbers(2, "ends")?);
            let one = match (&starts[..], &ends[..]) {
                (&[-1], &[end]) => end >= i64::from(i32::MAX),
                (&[start], &[end]) => start != -1 && start.checked_add(1) == Some(end),
                _ => false,
            };
            let forwards = node.inputs.len() < 5 || numbers(4, "steps").is_some_and(|s| s == [1]);
            (rank, (one && forwards && rank == Some(1)).then_some(1))
        }
        "Reshape" => (inputs.get(1)?.count, count),
        "Unsqueeze" => (Some(rank? + numbers(1, "axes")?.len()), count),
        "Squeeze" => match numbers(1, "axes") {
            Some(axes) => {
                let left = rank?.checked_sub(axes.len());
                (left, if left == Some(0) { Some(1) } else { count })
            }
            None => (count.filter(|&count| count == 1).map(|_| 0), count),
        },
        op if is_elementwise(op) => {
            let most = |known: fn(&OnHost) -> Option<usize>| {
                let mut all = inputs.iter().map(known);
                all.try_fold(0, |most, next| Some(most.max(next?)))
            };
            let rank = most(|input| input.rank);
            // Two vectors of one length have that length; two matrices may spread to a larger one.
            let flat = rank.is_some_and(|rank| rank <= 1);
            let count = most(|input| input.count);
            (rank, count.filter(|&count| flat || count == 1))
        }
        _ => (None, None),
    })
}

fn is_elementwise(op: &str) -> bool {
    matches!(
        op,
        "Abs"
            | "Add"
            | "And"
            | "Cast"
            | "Ceil"
            | "Div"
            | "Equal"
            | "Floor"
            | "Greater"
            | "GreaterOrEqual"
            | "Identity"
            | "Less"
            | "LessOrEqual"
            | "Log"
            | "Max"
            | "Min"
            | "Mod"
            | "Mul"
            | "Neg"
            | "Not"
            | "Or"
            | "Pow"
            | "Reciprocal"
            | "Sqrt"
            | "Sub"
            | "Where"
            | "Xor"
    )
}

/// The end and the axis of `Gather(table, Range(0, end, 1))`, where the end is a dimension: that is not negative.
fn first_rows(
    graph: &Graph,
    node: &Node,
    hosted: &BTreeMap<ValueId, OnHost>,
) -> Option<(ValueId, usize)> {
    let &[Some(_), Some(index)] = &node.inputs[..] else {
        return None;
    };
    let mut range = graph.node(graph.value(index).producer()?.0);
    while let ("Identity", &[Some(same)]) = (range.op_type.as_str(), &range.inputs[..]) {
        range = graph.node(graph.value(same).producer()?.0);
    }
    let &[Some(start), Some(end), Some(step)] = &range.inputs[..] else {
        return None;
    };
    let number = |value: ValueId| match graph.tensor(value)?.to_i64s()?[..] {
        [number] => Some(number),
        _ => None,
    };
    let fits = node.op_type == "Gather"
        && range.op_type == "Range"
        && (number(start), number(step)) == (Some(0), Some(1))
        && hosted.get(&end)?.rank == Some(0)
        && is_dimension(graph, end);
    let axis = usize::try_from(node.attr_int("axis").unwrap_or(0)).ok()?;
    fits.then_some((end, axis))
}

/// Whether it is taken from a shape and not computed with.
fn is_dimension(graph: &Graph, mut value: ValueId) -> bool {
    while let Some((producer, _)) = graph.value(value).producer() {
        let node = graph.node(producer);
        match (node.op_type.as_str(), node.inputs.first()) {
            ("Shape", _) => return true,
            (
                "Cast" | "Gather" | "Identity" | "Slice" | "Squeeze" | "Unsqueeze",
                Some(&Some(from)),
            ) => {
                value = from;
            }
            _ => break,
        }
    }
    false
}

/// A Slice in the place of a Gather.
fn slice(e: &mut Emit<'_>, gather: NodeId, end: ValueId, axis: usize) {
    let node = e.graph.node(gather);
    let (Some(&Some(table)), Some(&Some(rows))) = (node.inputs.first(), node.outputs.first())
    else {
        return;
    };
    if !e.graph.is_output(rows) {
        // Some exporters make sizes of 32 bits.
        let end = e.cast(end, DataType::Int64);
        let (start, end) = (e.ints(&[0]), e.unsqueeze(end, &[0]));
        let slice = e.slice(table, start, end, axis);
        e.graph.replace_uses(rows, slice);
    }
}

/// Whether CUDA kernels of the operator read the input on the host. Those of which that is not certain are among them.
fn read_on_host(op: &str, index: usize) -> bool {
    match op {
        "Range" => true,
        "ConstantOfShape" => index == 0,
        "Clip" | "CumSum" | "Dropout" | "Expand" | "OneHot" | "Pad" | "Reshape" | "Resize"
        | "Slice" | "Split" | "Squeeze" | "Tile" | "TopK" | "Trilu" | "Unsqueeze" => index > 0,
        op => op.starts_with("Reduce") && index > 0,
    }
}

/// Whether CUDA kernels of the operator read the input on the device. Those of which that is not certain are not among them.
fn on_device(node: &Node, index: usize) -> bool {
    let op = node.op_type.as_str();
    let reads = matches!(op, "Concat" | "MatMul");
    let moves = matches!(
        op,
        "Expand" | "Reshape" | "Squeeze" | "Tile" | "Unsqueeze" | "Slice"
    );
    node.domain.is_empty() && (reads || is_elementwise(op) || (moves && index == 0))
}

/// A host value on the device, made once, from integers that are at most `left` operators away.
fn device_value(
    e: &mut Emit<'_>,
    value: ValueId,
    hosted: &BTreeMap<ValueId, OnHost>,
    brought: &mut BTreeMap<ValueId, ValueId>,
    left: usize,
) -> Option<ValueId> {
    if let Some(&value) = brought.get(&value) {
        return Some(value);
    }
    let fact = hosted.get(&value)?;
    let made = match fact.dtype {
        DataType::Int64 => number(e, value, fact.rank.filter(|_| fact.count == Some(1))?),
        // Computed again, from integers.
        _ => {
            let (producer, _) = e.graph.value(value).producer()?;
            let node = e.graph.node(producer);
            let inputs = node.inputs.clone();
            if !is_elementwise(&node.op_type) || node.outputs.len() != 1 {
                return None;
            }
            let left = left.checked_sub(1)?;
            let mut read = Vec::new();
            for input in inputs {
                let input = input?;
                read.push(match is_computed(hosted, input) {
                    true => device_value(e, input, hosted, brought, left)?,
                    false => input,
                });
            }
            let name = e.name("number");
            let copy = e.graph.clone_node(producer, &name);
            for (index, input) in (0..).zip(read) {
                e.graph.set_input(copy, index, Some(input));
            }
            e.graph.node(copy).outputs.first().copied().flatten()?
        }
    };
    brought.insert(value, made);
    Some(made)
}

/// An integer as the only element of a Range.
fn number(e: &mut Emit<'_>, value: ValueId, rank: usize) -> ValueId {
    let axes: Vec<i64> = (0..rank as i64).collect();
    let start = match rank {
        0 => value,
        _ => e.squeeze(value, &axes),
    };
    let one = e.int(1);
    let end = e.op("Add", &[start, one], &[]);
    let vector = e.op("Range", &[start, end, one], &[]);
    match rank {
        0 => e.squeeze(vector, &[0]),
        1 => vector,
        _ => e.unsqueeze(vector, &axes[1..]),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use onnx_model::{AttrValue, Dimension, Model, NewNode, Tensor};

    /// A model that is being built.
    struct Built {
        model: Model,
    }

    impl Built {
        /// A model with an input `x` of `[b, n, 4]`.
        fn new() -> (Built, ValueId) {
            let mut model = Model::new(8, &[("", 17)]);
            let dims = [
                Dimension::Param("b".to_owned()),
                Dimension::Param("n".to_owned()),
                Dimension::Value(4),
            ];
            let x = model.graph.add_input("x", DataType::Float, &dims).unwrap();
            (Built { model }, x)
        }

        fn op(&mut self, op: &str, inputs: &[ValueId], to: Option<DataType>) -> ValueId {
            let output = self.model.graph.new_value(&op.to_lowercase());
            let to = to.map(|to| ("to".to_owned(), AttrValue::Int(i64::from(to as i32))));
            self.model.graph.add_node(NewNode {
                op_type: op.to_owned(),
                inputs: inputs.iter().copied().map(Some).collect(),
                outputs: vec![Some(output)],
                attributes: to.into_iter().collect(),
                ..NewNode::default()
            });
            output
        }

        fn ints(&mut self, elements: &[i64]) -> ValueId {
            let tensor = Tensor::vector_i64(elements);
            self.model.graph.add_initializer("ints", tensor)
        }

        /// The number of tokens, `[1]`.
        fn tokens(&mut self, x: ValueId) -> ValueId {
            let (shape, one) = (self.op("Shape", &[x], None), self.ints(&[1]));
            self.op("Gather", &[shape, one], None)
        }

        fn bring(&mut self) {
            self.model.graph.sort().unwrap();
            bring(&mut Emit::new(&mut self.model.graph, 17, "test"));
        }

        /// The operators behind input `index` of the producer of `value`, nearest first, along first inputs.
        fn behind(&self, value: ValueId, index: usize) -> Vec<&str> {
            let graph = &self.model.graph;
            let (node, _) = graph.value(value).producer().unwrap();
            let mut at = graph.node(node).inputs[index].unwrap();
            let mut found = Vec::new();
            while let Some((node, _)) = graph.value(at).producer() {
                found.push(graph.node(node).op_type.as_str());
                at = graph.node(node).inputs[0].unwrap();
            }
            found
        }
    }

    #[test]
    fn a_number_that_the_device_reads_is_a_range() {
        let (mut m, x) = Built::new();
        let (n, index) = (m.tokens(x), m.op("Cast", &[x], Some(DataType::Int64)));
        let offset = m.op("Mul", &[index, n], None);
        m.bring();
        assert_eq!(m.behind(offset, 1), ["Range", "Squeeze", "Gather", "Shape"]);
    }

    #[test]
    fn floats_are_computed_from_it() {
        for width in [DataType::Float, DataType::Float16] {
            let (mut m, x) = Built::new();
            let n = m.tokens(x);
            let n = m.op("Cast", &[n], Some(width));
            let root = m.op("Sqrt", &[n], None);
            let y = m.op("Cast", &[x], Some(width));
            let scaled = m.op("Mul", &[y, root], None);
            m.bring();
            let expected = ["Sqrt", "Cast", "Range", "Squeeze", "Gather", "Shape"];
            assert_eq!(m.behind(scaled, 1), expected, "{width:?}");
        }
    }

    #[test]
    fn the_first_rows_of_a_table_are_a_slice() {
        for end_is_computed in [false, true] {
            let (mut m, x) = Built::new();
            let (n, axes) = (m.tokens(x), m.ints(&[0]));
            let table = m.op("Cast", &[x], None);
            let mut n = m.op("Squeeze", &[n, axes], None);
            let mut e = Emit::new(&mut m.model.graph, 17, "test");
            let (zero, one) = (e.int(0), e.int(1));
            if end_is_computed {
                n = m.op("Sub", &[n, one], None);
            }
            let index = m.op("Range", &[zero, n, one], None);
            let rows = m.op("Gather", &[table, index], None);
            let y = m.op("Relu", &[rows], None);
            m.bring();
            let taken = if end_is_computed { "Gather" } else { "Slice" };
            assert_eq!(m.behind(y, 0), [taken, "Cast"]);
        }
    }

    #[test]
    fn what_the_host_reads_stays() {
        let (mut m, x) = Built::new();
        let (n, four) = (m.tokens(x), m.ints(&[4]));
        let target = m.op("Concat", &[n, four], None);
        let joined = m.op("Reshape", &[x, target], None);
        m.bring();
        assert_eq!(m.behind(joined, 1), ["Concat", "Gather", "Shape"]);
    }

    #[test]
    fn several_numbers_at_once_stay() {
        let (mut m, x) = Built::new();
        let index = m.op("Cast", &[x], Some(DataType::Int64));
        let shape = m.op("Shape", &[x], None);
        let sum = m.op("Add", &[index, shape], None);
        m.bring();
        assert_eq!(m.behind(sum, 1), ["Shape"]);
    }

    /// However far it is from the shape: what is too far stays.
    #[test]
    fn a_long_way_is_not_followed() {
        for (steps, brought) in [(FURTHEST - 1, true), (FURTHEST, false), (200_000, false)] {
            let (mut m, x) = Built::new();
            let n = m.tokens(x);
            let mut number = m.op("Cast", &[n], Some(DataType::Float));
            for _ in 0..steps {
                number = m.op("Neg", &[number], None);
            }
            let scaled = m.op("Mul", &[x, number], None);
            m.bring();
            assert_eq!(m.behind(scaled, 1).contains(&"Range"), brought, "{steps}");
        }
    }

    /// A Slice of a shape is one number only if it is sure to have one.
    #[test]
    fn one_number_of_a_shape() {
        let cases: [(i64, i64, i64, bool); 5] = [
            (1, 2, 1, true),
            (-1, i64::MAX, 1, true),
            (0, 2, 1, false),
            (1, 2, -1, false),
            (i64::MAX, i64::MIN, -1, false),
        ];
        for (start, end, step, brought) in cases {
            let (mut m, x) = Built::new();
            let shape = m.op("Shape", &[x], None);
            let bounds = [start, end, 0, step].map(|number| m.ints(&[number]));
            let n = m.op("Slice", &[&[shape], &bounds[..]].concat(), None);
            let index = m.op("Cast", &[x], Some(DataType::Int64));
            let sum = m.op("Add", &[index, n], None);
            m.bring();
            let behind = m.behind(sum, 1);
            assert_eq!(behind.contains(&"Range"), brought, "{start} {end} {step}");
        }
    }

    #[test]
    fn what_follows_from_constants_is_one() {
        let (mut m, x) = Built::new();
        let n = m.tokens(x);
        let (two, three) = (m.ints(&[2]), m.ints(&[3]));
        let six = m.op("Mul", &[two, three], None);
        let more = m.op("Mul", &[n, six], None);
        let joined = m.op("Reshape", &[x, more], None);
        m.bring();
        assert_eq!(m.behind(joined, 1), ["Mul", "Gather", "Shape"]);
    }
}
