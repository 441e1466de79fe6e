//! A builder of function bodies in which a body reads like a formula.
//!
//! [`Val`] is a tensor of the body under construction: `a + b`, `x.gather(&..)` and so on append the node that computes it.
//! Sizes are int64 tensors of shape [1], so that they serve both as operands (they broadcast) and as pieces of a shape.
//! The builder picks the form of a node that the opset defines (axes as attribute or as input).
//! Names are stable: the same body gives the same names in every build.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Add, Div, Mul, Neg, Sub};

use onnx_model::{AttrKind, AttrValue, DataType, Function, FunctionNode, Tensor};

use super::{DOMAIN, Operator};

/// A function body under construction.
pub(super) struct Body {
    opset: i64,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Name of each value, by id.
    names: Vec<String>,
    nodes: Vec<Node>,
    /// Constants made so far, by type and content.
    constants: BTreeMap<String, usize>,
}

struct Node {
    op_type: &'static str,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    attributes: Vec<(&'static str, AttrValue)>,
}

/// A tensor of a [`Body`].
#[derive(Clone, Copy)]
pub(super) struct Val<'b> {
    body: &'b Body,
    id: usize,
}

impl Body {
    pub(super) fn new(opset: i64, inputs: &[&str]) -> Body {
        let names = inputs.iter().map(|name| (*name).to_owned()).collect();
        Body {
            opset,
            state: RefCell::new(State {
                names,
                ..State::default()
            }),
        }
    }

    /// The inputs of the function, in order.
    pub(super) fn inputs<const N: usize>(&self) -> [Val<'_>; N] {
        std::array::from_fn(|id| Val { body: self, id })
    }

    fn op(&self, op_type: &'static str, inputs: &[Val<'_>]) -> Val<'_> {
        self.op_with(op_type, inputs, vec![])
    }

    fn op_with(
        &self,
        op_type: &'static str,
        inputs: &[Val<'_>],
        attributes: Vec<(&'static str, AttrValue)>,
    ) -> Val<'_> {
        let output = self.value(op_type);
        self.node(op_type, inputs, &[output], attributes);
        output
    }

    fn value(&self, op_type: &str) -> Val<'_> {
        let names = &mut self.state.borrow_mut().names;
        names.push(format!("{}_{}", op_type.to_lowercase(), names.len()));
        Val {
            body: self,
            id: names.len() - 1,
        }
    }

    fn node(
        &self,
        op_type: &'static str,
        inputs: &[Val<'_>],
        outputs: &[Val<'_>],
        attributes: Vec<(&'static str, AttrValue)>,
    ) {
        let ids = |vals: &[Val<'_>]| vals.iter().map(|val| val.id).collect();
        let node = Node {
            op_type,
            inputs: ids(inputs),
            outputs: ids(outputs),
            attributes,
        };
        self.state.borrow_mut().nodes.push(node);
    }

    fn constant(&self, key: String, value: Tensor) -> Val<'_> {
        if let Some(&id) = self.state.borrow().constants.get(&key) {
            return Val { body: self, id };
        }
        let val = self.op_with("Constant", &[], vec![("value", AttrValue::Tensor(value))]);
        let mut state = self.state.borrow_mut();
        state.constants.insert(key, val.id);
        val
    }

    /// An int64 constant of shape [1].
    pub(super) fn int(&self, value: i64) -> Val<'_> {
        self.ints(&[value])
    }

    /// A one-dimensional int64 constant.
    pub(super) fn ints(&self, values: &[i64]) -> Val<'_> {
        self.constant(
            format!("i{values:?}"),
            Tensor::from_i64s(&[values.len() as i64], values),
        )
    }

    fn int_scalar(&self, value: i64) -> Val<'_> {
        self.constant(format!("s{value}"), Tensor::from_i64s(&[], &[value]))
    }

    /// A float32 constant of shape [1].
    pub(super) fn float(&self, value: f32) -> Val<'_> {
        self.constant(format!("f{value}"), Tensor::from_f32s(&[1], &[value]))
    }

    /// A tensor of the given sizes filled with `value` (int64).
    pub(super) fn full_int(&self, shape: &[Val<'_>], value: i64) -> Val<'_> {
        let value = AttrValue::Tensor(Tensor::from_i64s(&[1], &[value]));
        self.op_with(
            "ConstantOfShape",
            &[self.concat(shape, 0)],
            vec![("value", value)],
        )
    }

    /// A tensor of the given sizes filled with `value` (float32).
    pub(super) fn full_float(&self, shape: &[Val<'_>], value: f32) -> Val<'_> {
        let value = AttrValue::Tensor(Tensor::from_f32s(&[1], &[value]));
        self.op_with(
            "ConstantOfShape",
            &[self.concat(shape, 0)],
            vec![("value", value)],
        )
    }

    /// `0 .. count` as a one-dimensional int64 tensor.
    pub(super) fn range(&self, count: Val<'_>) -> Val<'_> {
        let (zero, one) = (self.int_scalar(0), self.int_scalar(1));
        self.op("Range", &[zero, count.squeeze(&[0]), one])
    }

    pub(super) fn concat(&self, parts: &[Val<'_>], axis: i64) -> Val<'_> {
        self.op_with("Concat", parts, vec![("axis", AttrValue::Int(axis))])
    }

    /// The node's float attribute `name`, float32 of shape [1].
    pub(super) fn float_attribute(&self, name: &str) -> Val<'_> {
        let attribute = reference(name, AttrKind::Float);
        if self.opset >= 12 {
            let value = self.op_with("Constant", &[], vec![("value_float", attribute)]);
            return value.reshape(&[self.int(1)]);
        }
        // No Constant of opset 11 takes a plain float; LeakyRelu(-1) is minus its own attribute.
        -self.op_with("LeakyRelu", &[self.float(-1.0)], vec![("alpha", attribute)])
    }

    /// The node's int attribute `name`, one of `0 .. limit`, int64 of shape [1].
    pub(super) fn small_int_attribute(&self, name: &str, limit: usize) -> Val<'_> {
        if self.opset >= 12 {
            return self.int_attribute(name);
        }
        // No Constant of opset 11 takes a plain int. An axis is one: doubling an axis of a tensor of shape [1, 1, ..] shows in
        // its shape which one it was.
        let ones = self.full_int(&vec![self.int(1); limit], 0);
        let axis = reference(name, AttrKind::Int);
        let doubled = self.op_with("Gather", &[ones, self.ints(&[0, 0])], vec![("axis", axis)]);
        let shape = self.op("Shape", &[doubled]).float();
        let attributes = vec![("axis", AttrValue::Int(0)), ("keepdims", AttrValue::Int(1))];
        self.op_with("ArgMax", &[shape], attributes)
    }

    /// The smaller of the node's non-negative int attribute `name` and the size `most`, int64 of shape [1].
    pub(super) fn int_attribute_up_to<'b>(&'b self, name: &str, most: Val<'b>) -> Val<'b> {
        if self.opset >= 12 {
            return self.int_attribute(name).min(most);
        }
        // See above. EyeLike's diagonal number is an int too: in a single row it is where the 1 stands.
        let row = self.full_int(&[self.int(1), most], 0);
        let diagonal = vec![("k", reference(name, AttrKind::Int))];
        let ones_from_there = self.op_with("EyeLike", &[row], diagonal).cumsum(1);
        most - ones_from_there.sum(&[1]).squeeze(&[0])
    }

    fn int_attribute(&self, name: &str) -> Val<'_> {
        let attribute = reference(name, AttrKind::Int);
        let value = self.op_with("Constant", &[], vec![("value_int", attribute)]);
        value.reshape(&[self.int(1)])
    }

    /// The finished function; `outputs` in the operator's order.
    pub(super) fn finish(&self, op: Operator, outputs: &[Val<'_>]) -> Function {
        for (val, name) in outputs.iter().zip(op.outputs()) {
            // Through Identity, so that an output may be an input or occur twice.
            self.op("Identity", &[*val]).named(name);
        }
        let state = self.state.borrow();
        let name_of = |id: &usize| state.names[*id].clone();
        let mut function = Function {
            name: op.name().to_owned(),
            domain: DOMAIN.to_owned(),
            inputs: op.inputs().iter().map(|name| (*name).to_owned()).collect(),
            outputs: op.outputs().iter().map(|name| (*name).to_owned()).collect(),
            attributes: op
                .attributes()
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
            opsets: vec![(String::new(), self.opset)],
            ..Function::default()
        };
        for node in &state.nodes {
            let attributes = node.attributes.iter();
            let outputs: Vec<String> = node.outputs.iter().map(name_of).collect();
            function.nodes.push(FunctionNode {
                op_type: node.op_type.to_owned(),
                name: outputs.concat(),
                inputs: node.inputs.iter().map(name_of).collect(),
                outputs,
                attributes: attributes
                    .map(|(key, value)| ((*key).to_owned(), value.clone()))
                    .collect(),
                ..FunctionNode::default()
            });
        }
        function
    }
}

fn reference(name: &str, kind: AttrKind) -> AttrValue {
    AttrValue::Ref {
        name: name.to_owned(),
        kind,
    }
}

/// Broadcasting arithmetic; a plain number stands for an int64 size.
impl<'b> Val<'b> {
    /// Calls the value `name` in the file (made unique with a number).
    pub(super) fn named(self, name: &str) -> Val<'b> {
        let mut state = self.body.state.borrow_mut();
        let mut unique = name.to_owned();
        let mut number = 1;
        while state.names.contains(&unique) {
            number += 1;
            unique = format!("{name}_{number}");
        }
        state.names[self.id] = unique;
        self
    }

    fn op(self, op_type: &'static str, others: &[Val<'b>]) -> Val<'b> {
        self.op_with(op_type, others, vec![])
    }

    fn op_with(
        self,
        op_type: &'static str,
        others: &[Val<'b>],
        attributes: Vec<(&'static str, AttrValue)>,
    ) -> Val<'b> {
        let mut inputs = vec![self];
        inputs.extend_from_slice(others);
        self.body.op_with(op_type, &inputs, attributes)
    }

    /// An operator whose axes are an attribute before opset `since` and an input from then on.
    fn op_axes(
        self,
        op_type: &'static str,
        axes: &[i64],
        since: i64,
        mut attributes: Vec<(&'static str, AttrValue)>,
    ) -> Val<'b> {
        if self.body.opset >= since {
            return self.op_with(op_type, &[self.body.ints(axes)], attributes);
        }
        attributes.insert(0, ("axes", AttrValue::Ints(axes.to_vec())));
        self.op_with(op_type, &[], attributes)
    }

    pub(super) fn less(self, other: impl Operand<'b>) -> Val<'b> {
        self.op("Less", &[other.val(self.body)])
    }

    pub(super) fn greater(self, other: impl Operand<'b>) -> Val<'b> {
        self.op("Greater", &[other.val(self.body)])
    }

    pub(super) fn equal(self, other: impl Operand<'b>) -> Val<'b> {
        self.op("Equal", &[other.val(self.body)])
    }

    pub(super) fn and(self, other: Val<'b>) -> Val<'b> {
        self.op("And", &[other])
    }

    pub(super) fn or(self, other: Val<'b>) -> Val<'b> {
        self.op("Or", &[other])
    }

    pub(super) fn not(self) -> Val<'b> {
        self.op("Not", &[])
    }

    pub(super) fn is_nan(self) -> Val<'b> {
        self.op("IsNaN", &[])
    }

    /// `yes` where this condition holds, else `no`.
    pub(super) fn select(self, yes: impl Operand<'b>, no: impl Operand<'b>) -> Val<'b> {
        self.op("Where", &[yes.val(self.body), no.val(self.body)])
    }

    /// The smaller one (int64; Min takes no integers before opset 12).
    pub(super) fn min(self, other: impl Operand<'b>) -> Val<'b> {
        let other = other.val(self.body);
        self.less(other).select(self, other)
    }

    /// The larger one (int64; Max takes no integers before opset 12).
    pub(super) fn max(self, other: impl Operand<'b>) -> Val<'b> {
        let other = other.val(self.body);
        self.greater(other).select(self, other)
    }

    pub(super) fn modulo(self, other: impl Operand<'b>) -> Val<'b> {
        self.op("Mod", &[other.val(self.body)])
    }

    pub(super) fn abs(self) -> Val<'b> {
        self.op("Abs", &[])
    }

    pub(super) fn log(self) -> Val<'b> {
        self.op("Log", &[])
    }

    pub(super) fn softmax(self, axis: i64) -> Val<'b> {
        self.op_with("Softmax", &[], vec![("axis", AttrValue::Int(axis))])
    }

    fn cast(self, to: AttrValue) -> Val<'b> {
        self.op_with("Cast", &[], vec![("to", to)])
    }

    pub(super) fn int(self) -> Val<'b> {
        self.cast(AttrValue::Int(DataType::Int64 as i64))
    }

    pub(super) fn float(self) -> Val<'b> {
        self.cast(AttrValue::Int(DataType::Float as i64))
    }

    /// Cast to the data type in the node's attribute `dtype`.
    pub(super) fn to_dtype(self) -> Val<'b> {
        self.cast(reference("dtype", AttrKind::Int))
    }

    /// The size of `axis`, of shape [1].
    pub(super) fn dim(self, axis: i64) -> Val<'b> {
        self.op("Shape", &[]).gather(self.body.int(axis), 0)
    }

    pub(super) fn gather(self, indices: Val<'b>, axis: i64) -> Val<'b> {
        self.op_with("Gather", &[indices], vec![("axis", AttrValue::Int(axis))])
    }

    pub(super) fn gather_elements(self, indices: Val<'b>, axis: i64) -> Val<'b> {
        self.op_with(
            "GatherElements",
            &[indices],
            vec![("axis", AttrValue::Int(axis))],
        )
    }

    pub(super) fn scatter_elements(self, indices: Val<'b>, updates: Val<'b>, axis: i64) -> Val<'b> {
        self.op_with(
            "ScatterElements",
            &[indices, updates],
            vec![("axis", AttrValue::Int(axis))],
        )
    }

    pub(super) fn reshape(self, shape: &[Val<'b>]) -> Val<'b> {
        self.op("Reshape", &[self.body.concat(shape, 0)])
    }

    pub(super) fn expand(self, shape: &[Val<'b>]) -> Val<'b> {
        self.op("Expand", &[self.body.concat(shape, 0)])
    }

    pub(super) fn squeeze(self, axes: &[i64]) -> Val<'b> {
        self.op_axes("Squeeze", axes, 13, vec![])
    }

    pub(super) fn unsqueeze(self, axes: &[i64]) -> Val<'b> {
        self.op_axes("Unsqueeze", axes, 13, vec![])
    }

    /// The sum over `axes`, which stay with size 1.
    pub(super) fn sum(self, axes: &[i64]) -> Val<'b> {
        self.op_axes("ReduceSum", axes, 13, keep())
    }

    /// The maximum over `axes`, which stay with size 1.
    pub(super) fn reduce_max(self, axes: &[i64]) -> Val<'b> {
        self.op_axes("ReduceMax", axes, 18, keep())
    }

    /// The minimum over `axes`, which stay with size 1.
    pub(super) fn reduce_min(self, axes: &[i64]) -> Val<'b> {
        self.op_axes("ReduceMin", axes, 18, keep())
    }

    /// Running sums along `axis`, each including its own element.
    pub(super) fn cumsum(self, axis: i64) -> Val<'b> {
        self.op("CumSum", &[self.body.int_scalar(axis)])
    }

    /// Positions of the `count` largest elements along `axis`, best first, the lower position first among equals.
    /// (The operator's definition says so of ties; it says nothing of NaN, which must not occur.)
    pub(super) fn top(self, count: Val<'b>, axis: i64) -> Val<'b> {
        let (best, positions) = (self.body.value("best"), self.body.value("positions"));
        let attributes = vec![("axis", AttrValue::Int(axis))];
        self.body
            .node("TopK", &[self, count], &[best, positions], attributes);
        positions
    }

    /// Elements `start .. end` along `axis`.
    pub(super) fn slice(
        self,
        axis: i64,
        start: impl Operand<'b>,
        end: impl Operand<'b>,
    ) -> Val<'b> {
        let (start, end) = (start.val(self.body), end.val(self.body));
        self.op("Slice", &[start, end, self.body.int(axis)])
    }
}

fn keep() -> Vec<(&'static str, AttrValue)> {
    vec![("keepdims", AttrValue::Int(1))]
}

/// What may stand on the right of an operation: a tensor, an int64 or a float32 constant.
pub(super) trait Operand<'b> {
    fn val(self, body: &'b Body) -> Val<'b>;
}

impl<'b> Operand<'b> for Val<'b> {
    fn val(self, _: &'b Body) -> Val<'b> {
        self
    }
}

impl<'b> Operand<'b> for i64 {
    fn val(self, body: &'b Body) -> Val<'b> {
        body.int(self)
    }
}

impl<'b> Operand<'b> for f32 {
    fn val(self, body: &'b Body) -> Val<'b> {
        body.float(self)
    }
}

macro_rules! arithmetic {
    ($($name:ident $method:ident $op_type:literal),*) => {$(
        impl<'b, O: Operand<'b>> $name<O> for Val<'b> {
            type Output = Val<'b>;
            fn $method(self, other: O) -> Val<'b> {
                self.op($op_type, &[other.val(self.body)])
            }
        }
    )*};
}

arithmetic!(Add add "Add", Sub sub "Sub", Mul mul "Mul", Div div "Div");

impl<'b> Neg for Val<'b> {
    type Output = Val<'b>;
    fn neg(self) -> Val<'b> {
        self.op("Neg", &[])
    }
}
