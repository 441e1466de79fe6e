//! Hand-made protobuf, and a small model with a bit of everything.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test uses some of it"
)]

use onnx_model::{AttrValue, DataType, Dimension, Model, NewNode, NodeId, Tensor, ValueId};

pub(crate) fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A varint with `extra` bytes more than it needs.
pub(crate) fn long_varint(value: u64, extra: usize) -> Vec<u8> {
    let mut out = varint(value);
    *out.last_mut().unwrap() |= 0x80;
    out.extend(std::iter::repeat_n(0x80, extra - 1));
    out.push(0);
    out
}

pub(crate) fn int(number: u64, value: i64) -> Vec<u8> {
    [varint(number << 3), varint(value as u64)].concat()
}

pub(crate) fn len(number: u64, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [
        varint(number << 3 | 2),
        varint(bytes.len() as u64),
        bytes.to_vec(),
    ]
    .concat()
}

/// A field whose tag and length take more bytes than they need.
pub(crate) fn long_len(number: u64, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [
        long_varint(number << 3 | 2, 1),
        long_varint(bytes.len() as u64, 3),
        bytes.to_vec(),
    ]
    .concat()
}

pub(crate) fn fixed32(number: u64, value: f32) -> Vec<u8> {
    [varint(number << 3 | 5), value.to_le_bytes().to_vec()].concat()
}

pub(crate) fn group(number: u64, inside: impl AsRef<[u8]>) -> Vec<u8> {
    [
        varint(number << 3 | 3),
        inside.as_ref().to_vec(),
        varint(number << 3 | 4),
    ]
    .concat()
}

/// A NodeProto.
pub(crate) fn node(
    op_type: &str,
    name: &str,
    inputs: &[&str],
    outputs: &[&str],
    more: &[u8],
) -> Vec<u8> {
    let mut out = Vec::new();
    inputs.iter().for_each(|n| out.extend(len(1, n)));
    outputs.iter().for_each(|n| out.extend(len(2, n)));
    out.extend(len(3, name));
    out.extend(len(4, op_type));
    out.extend_from_slice(more);
    out
}

/// An attribute field of a node that holds a graph.
pub(crate) fn graph_attr(name: &str, graph: &[u8]) -> Vec<u8> {
    len(5, [len(1, name), len(6, graph), int(20, 5)].concat())
}

/// A ValueInfoProto of a float tensor.
pub(crate) fn value_info(name: &str) -> Vec<u8> {
    let shape = [len(1, int(1, 2)), len(1, len(2, "n"))].concat();
    [
        len(1, name),
        len(2, len(1, [int(1, 1), len(2, shape)].concat())),
    ]
    .concat()
}

/// A ModelProto with this graph.
pub(crate) fn model(graph: &[u8]) -> Vec<u8> {
    [
        int(1, 8),
        len(8, [len(1, ""), int(2, 17)].concat()),
        len(7, graph),
    ]
    .concat()
}

pub(crate) fn read(bytes: Vec<u8>) -> Model {
    Model::from_bytes(bytes.into(), None).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn code(bytes: Vec<u8>) -> &'static str {
    let error = Model::from_bytes(bytes.into(), None).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("{}: ", error.code())),
        "{error}"
    );
    error.code()
}

pub(crate) fn op(
    model: &mut Model,
    op_type: &str,
    inputs: &[ValueId],
    output: &str,
) -> (NodeId, ValueId) {
    let value = model.graph.new_value(output);
    let node = model.graph.add_node(NewNode {
        op_type: op_type.into(),
        inputs: inputs.iter().copied().map(Some).collect(),
        outputs: vec![Some(value)],
        ..Default::default()
    });
    (node, value)
}

/// Softmax(x + w), the nodes in the wrong order, no outputs.
pub(crate) fn small() -> Model {
    let mut model = Model::new(8, &[("", 17)]);
    let g = &mut model.graph;
    let dims = [Dimension::Param("n".into()), Dimension::Value(4)];
    let x = g.add_input("x", DataType::Float, &dims).unwrap();
    let w = g.add_initializer("w", Tensor::from_f32s(&[4], &[1.0, 2.0, 3.0, 4.0]));
    let (y, z) = (g.new_value("y"), g.new_value("z"));
    g.add_node(NewNode {
        op_type: "Softmax".into(),
        inputs: vec![Some(y)],
        outputs: vec![Some(z)],
        attributes: vec![("axis".into(), AttrValue::Int(-1))],
        ..Default::default()
    });
    g.add_node(NewNode {
        op_type: "Add".into(),
        inputs: vec![Some(x), Some(w)],
        outputs: vec![Some(y)],
        ..Default::default()
    });
    model
}

/// A graph with an If whose bodies read values outside, an unknown field, a sparse initializer, a Constant, an
/// initializer that is a default, and declared types.
pub(crate) fn rich_graph() -> Vec<u8> {
    let body = |name: &str| {
        let inner = node("Add", "", &["x", "w"], &[name], &[]);
        let deeper = [
            len(1, node("Identity", "", &["y"], &["deep"], &[])),
            len(12, value_info("deep")),
        ]
        .concat();
        let nested = node(
            "If",
            "",
            &["c"],
            &["nested_out"],
            &graph_attr("then_branch", &deeper),
        );
        [
            len(1, inner),
            len(1, nested),
            len(2, "body"),
            len(12, value_info(name)),
        ]
        .concat()
    };
    let branches = [
        graph_attr("then_branch", &body("t")),
        graph_attr("else_branch", &body("e")),
    ]
    .concat();
    let weights = [
        int(1, 2),
        int(2, 1),
        len(8, "w"),
        len(9, [0, 0, 128, 63, 0, 0, 0, 64]),
    ]
    .concat();
    let default = [
        int(1, 2),
        int(2, 1),
        len(8, "d"),
        len(4, [0, 0, 128, 63, 0, 0, 0, 64]),
    ]
    .concat();
    let sparse_values = [int(1, 1), int(2, 1), len(8, "s"), fixed32(4, 1.5)].concat();
    let constant = len(
        5,
        [len(1, "value_ints"), int(8, 3), int(8, -1), int(20, 7)].concat(),
    );
    [
        len(1, node("Relu", "relu", &["x"], &["y"], &len(6, "doc"))),
        len(1, node("Constant", "k", &[], &["k"], &constant)),
        len(5, weights),
        len(99, "unknown"),
        len(
            1,
            node(
                "Cast",
                "cast",
                &["s"],
                &["c"],
                &len(5, [len(1, "to"), int(3, 9), int(20, 2)].concat()),
            ),
        ),
        len(1, node("If", "if", &["c"], &["z"], &branches)),
        len(5, default),
        len(
            5,
            [int(1, 1), int(2, 7), len(8, "idle"), int(7, 5)].concat(),
        ),
        len(15, [len(1, sparse_values), int(3, 4)].concat()),
        len(11, value_info("x")),
        len(11, value_info("d")),
        len(13, value_info("y")),
        len(13, value_info("nobody")),
        int(77, 5),
        len(12, value_info("z")),
        len(12, value_info("y")),
        len(2, "main"),
        len(13, value_info("c")),
        len(
            1,
            node(
                "Concat",
                "last",
                &["y", "", "d"],
                &["last"],
                &fixed32(1234, 2.0),
            ),
        ),
    ]
    .concat()
}

pub(crate) fn rich() -> Vec<u8> {
    let function_node = node("Identity", "", &["a"], &["b"], &[]);
    let function = [
        len(1, "F"),
        len(4, "a"),
        len(5, "b"),
        len(7, function_node),
        len(9, [len(1, ""), int(2, 17)].concat()),
        len(10, "dom"),
    ]
    .concat();
    [
        int(1, 8),
        len(2, "producer"),
        len(500, "future"),
        len(25, function),
        len(7, rich_graph()),
        len(8, [int(2, 17), len(1, "ai.onnx")].concat()),
        len(8, [int(2, 1), len(1, "dom")].concat()),
        len(14, [len(1, "key"), len(2, "value")].concat()),
    ]
    .concat()
}
