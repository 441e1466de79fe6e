//! A builder of function bodies: nodes, constants, attributes of the node, and the finished function.
//! [`Val`](super::val::Val) has the operations.
//!
//! Sizes are int64 tensors of shape [1], so that they serve both as operands (they broadcast) and as pieces of a shape.
//! The builder picks the form of a node that the opset defines (axes as attribute or as input).
//! Names are stable: the same body gives the same names in every build.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use onnx_model::{AttrKind, AttrValue, Function, FunctionNode, Tensor};

use super::val::Val;
use super::{DOMAIN, Operator};

/// A function body under construction.
pub(super) struct Body {
    pub(super) opset: i64,
    pub(super) state: RefCell<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Name of each value, by id.
    pub(super) names: Vec<String>,
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

    pub(super) fn op_with(
        &self,
        op_type: &'static str,
        inputs: &[Val<'_>],
        attributes: Vec<(&'static str, AttrValue)>,
    ) -> Val<'_> {
        let output = self.value(op_type);
        self.node(op_type, inputs, &[output], attributes);
        output
    }

    pub(super) fn value(&self, op_type: &str) -> Val<'_> {
        let names = &mut self.state.borrow_mut().names;
        names.push(format!("{}_{}", op_type.to_lowercase(), names.len()));
        Val {
            body: self,
            id: names.len() - 1,
        }
    }

    pub(super) fn node(
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

    pub(super) fn int_scalar(&self, value: i64) -> Val<'_> {
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

    /// The finished function; `outputs` in the operator's order, each once.
    ///
    /// Nodes that no output needs are left out, and not only to be tidy: from the second run on ONNX Runtime 1.17 and 1.18 compute
    /// wrong results where the result of an Add or Mul is not used (it shares the memory of an input, and frees it).
    pub(super) fn finish(&self, op: Operator, outputs: &[Val<'_>]) -> Function {
        for (val, name) in outputs.iter().zip(op.outputs()) {
            val.named(name);
        }
        let state = self.state.borrow();
        let name_of = |id: &usize| state.names[*id].clone();
        let to_owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut function = Function {
            name: op.name().to_owned(),
            domain: DOMAIN.to_owned(),
            inputs: to_owned(op.inputs()),
            outputs: outputs.iter().map(|val| name_of(&val.id)).collect(),
            attributes: to_owned(op.attributes()),
            opsets: vec![(String::new(), self.opset)],
            ..Function::default()
        };
        let mut needed: BTreeSet<usize> = outputs.iter().map(|val| val.id).collect();
        for node in state.nodes.iter().rev() {
            if !node.outputs.iter().any(|id| needed.contains(id)) {
                continue;
            }
            needed.extend(&node.inputs);
            let outputs: Vec<String> = node.outputs.iter().map(name_of).collect();
            let attributes = node.attributes.iter();
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
        function.nodes.reverse();
        function
    }
}

pub(super) fn reference(name: &str, kind: AttrKind) -> AttrValue {
    AttrValue::Ref {
        name: name.to_owned(),
        kind,
    }
}
