//! Blocks that no fixture has, with operators that mix tokens or a value that is read outside: refused with the code for it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

use onnx_model::{AttrValue, DataType, Dimension, Graph, Model, NewNode, Tensor, ValueId};
use token_axes::{Analysis, Code};

const TOKENS: i64 = 12;

fn node(graph: &mut Graph, op: &str, inputs: &[ValueId], ints: &[(&str, &[i64])]) -> ValueId {
    let output = graph.new_value(&op.to_lowercase());
    graph.add_node(NewNode {
        op_type: op.to_owned(),
        inputs: inputs.iter().copied().map(Some).collect(),
        outputs: vec![Some(output)],
        attributes: ints
            .iter()
            .map(|(name, v)| ((*name).to_owned(), AttrValue::Ints(v.to_vec())))
            .collect(),
        ..NewNode::default()
    });
    output
}

/// `x + mix(softmax(n n^T) n w)` with `n = norm(x)` of `[batch, 12, 4]`.
fn model(mix: impl FnOnce(&mut Graph, ValueId) -> ValueId) -> Model {
    let mut model = Model::new(8, &[("", 17)]);
    let graph = &mut model.graph;
    let dims = [
        Dimension::Param("batch".into()),
        Dimension::Value(TOKENS),
        Dimension::Value(4),
    ];
    let x = graph.add_input("x", DataType::Float, &dims).unwrap();
    let ones = graph.add_initializer("gain", Tensor::from_f32s(&[4], &[1.0; 4]));
    let w = graph.add_initializer("weight", Tensor::from_f32s(&[4, 4], &[0.5; 16]));
    let norm = node(graph, "LayerNormalization", &[x, ones], &[]);
    let keys = node(graph, "Transpose", &[norm], &[("perm", &[0, 2, 1])]);
    let scores = node(graph, "MatMul", &[norm, keys], &[]);
    let weights = node(graph, "Softmax", &[scores], &[]);
    let mixed = node(graph, "MatMul", &[weights, norm], &[]);
    let update = node(graph, "MatMul", &[mixed, w], &[]);
    let update = mix(graph, update);
    let y = node(graph, "Add", &[x, update], &[]);
    graph.add_output(y);
    model
}

/// The code of the refusal of that model's block, if there is one.
fn code(mix: impl FnOnce(&mut Graph, ValueId) -> ValueId) -> Option<Code> {
    code_of(&model(mix))
}

fn code_of(model: &Model) -> Option<Code> {
    let analysis = Analysis::of(model);
    let [stream] = &analysis.streams[..] else {
        panic!("{} streams", analysis.streams.len());
    };
    assert_eq!(stream.blocks.len(), 1);
    stream.blocks[0].axes.as_ref().err().map(|r| r.code)
}

#[test]
fn nothing_else_mixes() {
    assert_eq!(code(|_, update| update), None);
}

/// As in MLP-Mixer.
#[test]
fn a_weight_over_tokens() {
    let mix = |graph: &mut Graph, update| {
        let n = TOKENS as usize;
        let w = Tensor::from_f32s(&[TOKENS, TOKENS], &vec![0.1; n * n]);
        let w = graph.add_initializer("over_tokens", w);
        node(graph, "MatMul", &[w, update], &[])
    };
    assert_eq!(code(mix), Some(Code::TokenMixing));
}

#[test]
fn a_mean_over_tokens() {
    let mix = |graph: &mut Graph, update| {
        let mean = node(graph, "ReduceMean", &[update], &[("axes", &[1])]);
        node(graph, "Sub", &[update, mean], &[])
    };
    assert_eq!(code(mix), Some(Code::TokenMixing));
}

#[test]
fn neighbours() {
    let mix = |graph: &mut Graph, update| {
        let turned = node(graph, "Transpose", &[update], &[("perm", &[0, 2, 1])]);
        let w = Tensor::from_f32s(&[4, 4, 3], &[0.1; 48]);
        let w = graph.add_initializer("kernel", w);
        let mixed = node(graph, "Conv", &[turned, w], &[("pads", &[1, 1])]);
        node(graph, "Transpose", &[mixed], &[("perm", &[0, 2, 1])])
    };
    assert_eq!(code(mix), Some(Code::TokenMixing));
}

/// Tokens in groups of three, each of which is added up over its members.
#[test]
fn groups_of_tokens() {
    let mix = |graph: &mut Graph, update| {
        let shape = graph.add_initializer("groups", Tensor::vector_i64(&[-1, 4, 3, 4]));
        let groups = node(graph, "Reshape", &[update, shape], &[]);
        let sum = node(graph, "ReduceMax", &[groups], &[("axes", &[2])]);
        let apart = node(graph, "Sub", &[groups, sum], &[]);
        let shape = graph.add_initializer("tokens", Tensor::vector_i64(&[-1, TOKENS, 4]));
        node(graph, "Reshape", &[apart, shape], &[])
    };
    assert!(matches!(code(mix), Some(Code::BlockLocal | Code::Axes)));
}

/// The attention's weights, for a picture, or what is made of them.
#[test]
fn a_value_inside_that_is_an_output() {
    for inside in ["softmax", "matmul_1"] {
        let mut model = model(|_, update| update);
        let value = model.graph.find_value(inside).unwrap();
        model.graph.add_output(value);
        assert_eq!(code_of(&model), Some(Code::Exposed), "{inside}");
        let first = |graph: &mut Graph, update| {
            graph.add_output(graph.find_value(inside).unwrap());
            update
        };
        assert_eq!(code(first), Some(Code::Exposed), "{inside} first");
    }
}

/// Channels attend to channels, each token by itself.
#[test]
fn attention_within_a_token() {
    let mut model = Model::new(8, &[("", 17)]);
    let graph = &mut model.graph;
    let dims = [
        Dimension::Param("batch".into()),
        Dimension::Value(TOKENS),
        Dimension::Value(4),
    ];
    let x = graph.add_input("x", DataType::Float, &dims).unwrap();
    let shape = graph.add_initializer("apart", Tensor::vector_i64(&[0, 0, 2, 2]));
    let parts = node(graph, "Reshape", &[x, shape], &[]);
    let keys = node(graph, "Transpose", &[parts], &[("perm", &[0, 1, 3, 2])]);
    let scores = node(graph, "MatMul", &[parts, keys], &[]);
    let weights = node(graph, "Softmax", &[scores], &[]);
    let mixed = node(graph, "MatMul", &[weights, parts], &[]);
    let shape = graph.add_initializer("together", Tensor::vector_i64(&[0, 0, 4]));
    let update = node(graph, "Reshape", &[mixed, shape], &[]);
    let y = node(graph, "Add", &[x, update], &[]);
    graph.add_output(y);
    assert_eq!(code_of(&model), Some(Code::NotSelfAttention));
}

/// Tokens see earlier ones only, and only as many as an input says: where that is 1, all that is left of the mask is one column.
#[test]
fn a_causal_mask_behind_a_length() {
    for (dims, expected) in [
        (vec![Dimension::Param("batch".into())], Code::Causal),
        (vec![], Code::MaskUndecided),
    ] {
        let mut model = model(|_, update| update);
        let graph = &mut model.graph;
        let lengths = graph.add_input("lengths", DataType::Int64, &dims).unwrap();
        let ints = |graph: &mut Graph, name: &str, dims: &[i64], numbers: &[i64]| {
            graph.add_initializer(name, Tensor::from_i64s(dims, numbers))
        };
        let positions: Vec<i64> = (0..TOKENS).collect();
        let keys = ints(graph, "keys", &[1, 1, TOKENS], &positions);
        let queries = ints(graph, "queries", &[1, TOKENS, 1], &positions);
        let shape = ints(graph, "rows", &[3], &[-1, 1, 1]);
        let lengths = node(graph, "Reshape", &[lengths, shape], &[]);
        let is_there = node(graph, "Less", &[keys, lengths], &[]);
        let is_earlier = node(graph, "LessOrEqual", &[keys, queries], &[]);
        let seen = node(graph, "And", &[is_there, is_earlier], &[]);
        let [nothing, blocked] = [("nothing", 0.0), ("blocked", -1e9)]
            .map(|(name, x)| graph.add_initializer(name, Tensor::from_f32s(&[1], &[x])));
        let mask = node(graph, "Where", &[seen, nothing, blocked], &[]);
        let scores = graph.find_value("matmul").unwrap();
        let (softmax, _) = graph.value(scores).uses()[0];
        let masked = node(graph, "Add", &[scores, mask], &[]);
        graph.set_input(softmax, 0, Some(masked));
        graph.sort().unwrap();
        assert_eq!(code_of(&model), Some(expected), "{dims:?}");
    }
}
