//! Cases computed by hand, per family of operators.

mod attention;
mod control;
mod conv;
mod elementwise;
mod gather;
mod matmul;
mod moves;
mod quantise;
mod reduce;
mod shape_ops;
mod walk;

use onnx_model::{AttrValue, DataType, Dimension, Model, NewNode, Tensor, ValueId};

use super::{Content, Evaluation, Facts, explore};

/// An operand of a node under test.
pub(super) enum In<'a> {
    /// A constant.
    Ints(&'a [i64], &'a [i64]),
    Floats(&'a [i64], &'a [f32]),
    Bools(&'a [i64], &'a [bool]),
    Of(DataType, &'a [i64], &'a [f64]),
    /// A graph input of which only type and shape matter.
    Input(DataType, &'a [i64]),
    /// Left out.
    Nothing,
}
pub(super) use In::*;

pub(super) const F32: DataType = DataType::Float;
pub(super) const I64: DataType = DataType::Int64;

pub(super) fn attr_ints(name: &str, v: &[i64]) -> (String, AttrValue) {
    (name.to_owned(), AttrValue::Ints(v.to_vec()))
}

pub(super) fn attr_int(name: &str, v: i64) -> (String, AttrValue) {
    (name.to_owned(), AttrValue::Int(v))
}

pub(super) fn attr_str(name: &str, v: &str) -> (String, AttrValue) {
    (name.to_owned(), AttrValue::Str(v.to_owned()))
}

/// A graph under construction.
pub(super) struct Net {
    pub(super) model: Model,
    nodes: usize,
}

impl Net {
    pub(super) fn new(opset: i64) -> Net {
        let model = Model::new(8, &[("", opset), ("com.microsoft", 1)]);
        Net { model, nodes: 0 }
    }

    pub(super) fn operand(&mut self, operand: &In) -> Option<ValueId> {
        let graph = &mut self.model.graph;
        let hint = format!("c{}", self.nodes);
        Some(match operand {
            Ints(dims, v) => graph.add_initializer(&hint, Tensor::from_i64s(dims, v)),
            Floats(dims, v) => graph.add_initializer(&hint, Tensor::from_f32s(dims, v)),
            Bools(dims, v) => graph.add_initializer(&hint, Tensor::from_bools(dims, v)),
            Of(dtype, dims, v) => {
                let bytes: Vec<u8> = match dtype {
                    DataType::Int32 => v.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect(),
                    DataType::Uint8 => v.iter().map(|&x| x as u8).collect(),
                    _ => Vec::new(),
                };
                let floats = Tensor::from_f64s(*dtype, dims, v);
                let tensor =
                    floats.unwrap_or_else(|| Tensor::from_bytes(*dtype, dims, bytes.into()));
                graph.add_initializer(&hint, tensor)
            }
            Input(dtype, dims) => {
                let name = format!("in{}", graph.inputs().len());
                let dims: Vec<_> = dims.iter().map(|&d| Dimension::Value(d)).collect();
                graph.add_input(&name, *dtype, &dims).unwrap()
            }
            Nothing => return None,
        })
    }

    /// An input with named sizes; a number is a fixed size, `?` one without a name.
    pub(super) fn input(&mut self, name: &str, dtype: DataType, dims: &[&str]) -> ValueId {
        let dim = |d: &&str| match d.parse() {
            Ok(size) => Dimension::Value(size),
            Err(_) if *d == "?" => Dimension::Unknown,
            Err(_) => Dimension::Param((*d).to_owned()),
        };
        let dims: Vec<_> = dims.iter().map(dim).collect();
        self.model.graph.add_input(name, dtype, &dims).unwrap()
    }

    /// A constant of int64.
    pub(super) fn ints(&mut self, v: &[i64]) -> ValueId {
        self.operand(&Ints(&[v.len() as i64], v)).unwrap()
    }

    /// Adds a node with some outputs; a domain is written in front of the operator, separated by a colon.
    pub(super) fn add(
        &mut self,
        operator: &str,
        inputs: &[Option<ValueId>],
        attributes: &[(String, AttrValue)],
        outputs: usize,
    ) -> Vec<ValueId> {
        self.nodes += 1;
        let (domain, op_type) = operator.split_once(':').unwrap_or(("", operator));
        let graph = &mut self.model.graph;
        let made: Vec<_> = (0..outputs).map(|_| graph.new_value("y")).collect();
        graph.add_node(NewNode {
            op_type: op_type.to_owned(),
            domain: domain.to_owned(),
            inputs: inputs.to_vec(),
            outputs: made.iter().copied().map(Some).collect(),
            attributes: attributes.to_vec(),
            ..NewNode::default()
        });
        made
    }

    /// Adds a node with one output.
    pub(super) fn op(&mut self, operator: &str, inputs: &[ValueId]) -> ValueId {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.add(operator, &inputs, &[], 1)[0]
    }

    pub(super) fn explore(&self) -> Evaluation {
        explore(&self.model)
    }
}

/// The facts and outputs of a single node.
pub(super) struct Found {
    pub(super) facts: Facts,
    pub(super) outputs: Vec<ValueId>,
}

impl Found {
    pub(super) fn shape(&self, i: usize) -> Option<Vec<i64>> {
        self.facts.shape(self.outputs[i]).map(<[i64]>::to_vec)
    }

    pub(super) fn dtype(&self, i: usize) -> Option<DataType> {
        self.facts.dtype(self.outputs[i])
    }

    pub(super) fn content(&self) -> Option<Content> {
        self.facts.content(self.outputs[0]).cloned()
    }

    pub(super) fn ints(&self) -> Vec<i64> {
        self.content()
            .and_then(|c| c.ints().map(<[i64]>::to_vec))
            .expect("integers")
    }

    pub(super) fn floats(&self) -> Vec<f64> {
        self.content()
            .and_then(|c| c.floats().map(<[f64]>::to_vec))
            .expect("floats")
    }

    pub(super) fn reason(&self) -> String {
        self.facts
            .unknown(self.outputs[0])
            .map(|u| u.reason.clone())
            .unwrap_or_default()
    }
}

/// Evaluates a single node.
pub(super) fn node(
    opset: i64,
    operator: &str,
    operands: &[In],
    attributes: &[(String, AttrValue)],
    outputs: usize,
) -> Found {
    let mut net = Net::new(opset);
    let inputs: Vec<_> = operands.iter().map(|o| net.operand(o)).collect();
    let outputs = net.add(operator, &inputs, attributes, outputs);
    let facts = net.explore().facts.remove(0);
    Found { facts, outputs }
}

/// The shape of a single node's only output.
pub(super) fn shape_of(
    operator: &str,
    operands: &[In],
    attributes: &[(String, AttrValue)],
) -> Option<Vec<i64>> {
    node(18, operator, operands, attributes, 1).shape(0)
}
