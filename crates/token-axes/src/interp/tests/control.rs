//! `If`, in a model written by hand.

use super::*;

/// A length-delimited field.
fn field(number: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut n = body.len();
    while n >= 128 {
        out.push(n as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
    out.extend(body);
    out
}

fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

fn node_bytes(operator: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut node = Vec::new();
    inputs
        .iter()
        .for_each(|i| node.extend(field(1, i.as_bytes())));
    node.extend(field(2, output.as_bytes()));
    node.extend(field(4, operator.as_bytes()));
    attributes.iter().for_each(|a| node.extend(field(5, a)));
    field(1, &node)
}

/// A branch with one node.
fn branch(name: &str, node: Vec<u8>, output: &str) -> Vec<u8> {
    let graph = [node, field(12, &field(1, output.as_bytes()))].concat();
    // The type 5 is in field 20: its tag takes two bytes.
    [
        field(1, name.as_bytes()),
        field(6, &graph),
        vec![0xa0, 0x01, 5],
    ]
    .concat()
}

/// An input or output: a tensor with these sizes, letters are symbols.
fn value(name: &str, dtype: DataType, dims: &[&str]) -> Vec<u8> {
    let dim = |d: &&str| match d.parse::<u8>() {
        Ok(size) => field(1, &number(1, size)),
        Err(_) => field(1, &field(2, d.as_bytes())),
    };
    let shape: Vec<u8> = dims.iter().flat_map(dim).collect();
    let tensor = [number(1, dtype as i32 as u8), field(2, &shape)].concat();
    [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
}

/// `y = If(condition) { then } else { otherwise }` over x [n, 4]; `condition` is a node that makes `c`.
fn model(condition: Vec<u8>, then: Vec<u8>, otherwise: Vec<u8>) -> Model {
    let attributes = [
        branch("then_branch", then, "t"),
        branch("else_branch", otherwise, "e"),
    ];
    let graph = [
        condition,
        node_bytes("If", &["c"], "y", &attributes),
        field(11, &value("x", F32, &["n", "4"])),
        field(11, &value("flag", DataType::Bool, &[])),
        field(12, &field(1, b"y")),
    ];
    let bytes = [
        number(1, 8),
        field(7, &graph.concat()),
        field(8, &number(2, 17)),
    ]
    .concat();
    Model::from_bytes(bytes.into(), None).expect("a model")
}

fn shape_of_y(model: &Model) -> (i64, Option<Vec<i64>>, String, bool) {
    let found = explore(model);
    let y = model.graph.find_value("y").expect("y");
    let facts = &found.facts[0];
    let n = found.samples[0].dims["n"];
    let reason = facts
        .unknown(y)
        .map(|u| u.reason.clone())
        .unwrap_or_default();
    (
        n,
        facts.shape(y).map(<[i64]>::to_vec),
        reason,
        facts.assumed_shape(y),
    )
}

fn transposed() -> Vec<u8> {
    node_bytes("Transpose", &["x"], "t", &[])
}

fn copied() -> Vec<u8> {
    node_bytes("Identity", &["x"], "e", &[])
}

#[test]
fn the_taken_branch_counts() {
    let size = node_bytes("Size", &["x"], "s", &[]);
    let same = [size, node_bytes("Equal", &["s", "s"], "c", &[])].concat();
    let (n, shape, _, assumed) = shape_of_y(&model(same, transposed(), copied()));
    assert_eq!((shape, assumed), (Some(vec![4, n]), false));
    let size = node_bytes("Size", &["x"], "s", &[]);
    let less = [size, node_bytes("Less", &["s", "s"], "c", &[])].concat();
    let (n, shape, ..) = shape_of_y(&model(less, transposed(), copied()));
    assert_eq!(shape, Some(vec![n, 4]));
}

#[test]
fn an_assumed_condition_makes_the_shape_assumed() {
    let condition = || node_bytes("Identity", &["flag"], "c", &[]);
    let (n, shape, _, assumed) = shape_of_y(&model(condition(), transposed(), copied()));
    assert_eq!((shape, assumed), (Some(vec![4, n]), true));
}

#[test]
fn without_a_condition_the_branches_must_agree() {
    let condition = || node_bytes("Mystery", &["flag"], "c", &[]);
    let (_, shape, reason, _) = shape_of_y(&model(condition(), transposed(), copied()));
    assert_eq!(shape, None);
    assert!(reason.contains("agree"), "{reason}");
    let relu = node_bytes("Relu", &["x"], "t", &[]);
    let (n, shape, ..) = shape_of_y(&model(condition(), relu, copied()));
    assert_eq!(shape, Some(vec![n, 4]));
    let unknown = node_bytes("Mystery", &["x"], "t", &[]);
    let (_, shape, reason, _) = shape_of_y(&model(condition(), unknown, copied()));
    assert_eq!(shape, None);
    assert!(
        reason.contains("then_branch") && reason.contains("Mystery"),
        "{reason}"
    );
}
