//! Models that read only some tokens of their last block: the converted block computes nothing else, and the outputs are those of the same
//! model where all tokens of that block are an output too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use common::tolerance::Precision;
use common::{Engine, convert, difference, fixture, open_at, run, scratch, three, with_outputs};
use onnx_model::{AttrValue, DataType, Graph, Model, NewNode, NodeId, Tensor, ValueId};
use std::path::Path;
use vcc_passes::pipeline::Hooks;
use vcc_passes::{Form, Request};
use vcc_run::{Outputs, Padding};

/// How the head takes its tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Head {
    /// As the fixture does: the first.
    First,
    Last,
    /// The mean of four, one of them twice.
    Several,
    /// The first, by a Slice.
    Slice,
    /// The first, and the last two of the first block.
    Layers,
    /// The last, where it is no padding: any token may be asked for.
    Masked,
    /// The sum of the valid tokens.
    Sum,
    /// The mean of the valid tokens, where there is no mask of all.
    Mean,
    /// The mean of all tokens, though there is padding: any token may be asked for.
    MeanOfAll,
}

/// The fixture with another head.
fn with_head(path: &Path, head: Head) -> Vec<u8> {
    let mut model = Model::open(path).unwrap();
    let cuts = cuts(path);
    let [first, last] = [0, 1].map(|i| model.graph.find_value(&cuts[i]).unwrap());
    let graph = &mut model.graph;
    let taker = graph.node_ids().filter(|&id| is_taker(graph, id)).last();
    let taker = taker.unwrap();
    let (data, token) = (
        graph.node(taker).inputs[0].unwrap(),
        graph.node(taker).outputs[0].unwrap(),
    );
    let axis = ("axis", AttrValue::Int(1));
    let new = match head {
        Head::First => return model.to_vec().unwrap(),
        Head::Last => {
            let index = graph.add_initializer("at", Tensor::scalar_i64(-1));
            Some(node(graph, "Gather", &[data, index], &[axis]))
        }
        Head::Several => {
            let index = graph.add_initializer("at", Tensor::from_i64s(&[2, 2], &[3, 0, -1, 3]));
            let tokens = node(graph, "Gather", &[data, index], &[axis]);
            let axes = ("axes", AttrValue::Ints(vec![1, 2]));
            let keep = ("keepdims", AttrValue::Int(0));
            Some(node(graph, "ReduceMean", &[tokens], &[axes, keep]))
        }
        Head::Sum => {
            let mask = mask(graph);
            let shape = node(graph, "Shape", &[last], &[]);
            let mask = node(graph, "Expand", &[mask, shape], &[]);
            let masked = node(graph, "Mul", &[last, mask], &[]);
            let axes = graph.add_initializer("axes", Tensor::vector_i64(&[1]));
            let keep = ("keepdims", AttrValue::Int(0));
            Some(node(graph, "ReduceSum", &[masked, axes], &[keep]))
        }
        Head::Mean | Head::MeanOfAll => {
            let axes = ("axes", AttrValue::Ints(vec![-2]));
            let keep = ("keepdims", AttrValue::Int(0));
            Some(node(graph, "ReduceMean", &[last], &[axes, keep]))
        }
        Head::Masked => {
            let mask = mask(graph);
            let masked = node(graph, "Mul", &[data, mask], &[]);
            let index = graph.add_initializer("at", Tensor::scalar_i64(-1));
            Some(node(graph, "Gather", &[masked, index], &[axis]))
        }
        Head::Slice => {
            let [zero, one] = [0, 1].map(|i| graph.add_initializer("at", Tensor::vector_i64(&[i])));
            let sliced = node(graph, "Slice", &[data, zero, one, one], &[]);
            Some(node(graph, "Squeeze", &[sliced, one], &[]))
        }
        Head::Layers => {
            let index = graph.add_initializer("at", Tensor::vector_i64(&[-1, -2]));
            let tokens = node(graph, "Gather", &[first, index], &[axis]);
            graph.add_output(tokens);
            None
        }
    };
    if let Some(new) = new {
        graph.replace_uses(token, new);
        graph.remove_node(taker);
        // A norm behind the cut that nothing reads any more.
        if let Some((norm, _)) = graph.value(data).producer().filter(|_| data != last)
            && graph.value(data).uses().is_empty()
        {
            graph.remove_node(norm);
        }
    }
    graph.sort().unwrap();
    model.to_vec().unwrap()
}

/// The padding mask, `[B, n, 1]`.
fn mask(graph: &mut Graph) -> ValueId {
    let mask = graph.find_value("attention_mask").unwrap();
    let to = ("to", AttrValue::Int(DataType::Float as i64));
    let mask = node(graph, "Cast", &[mask], &[to]);
    let axes = graph.add_initializer("axes", Tensor::vector_i64(&[2]));
    node(graph, "Unsqueeze", &[mask, axes], &[])
}

fn is_taker(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let data = node.inputs.first().copied().flatten();
    let data = data.and_then(|v| graph.value(v).producer());
    let norm = data.is_some_and(|(p, _)| graph.node(p).op_type == "LayerNormalization");
    node.op_type == "Gather" && node.attr_int("axis") == Some(1) && norm
}

fn node(
    graph: &mut Graph,
    op: &str,
    inputs: &[ValueId],
    attributes: &[(&str, AttrValue)],
) -> ValueId {
    let value = graph.new_value("head");
    graph.add_node(NewNode {
        op_type: op.to_owned(),
        inputs: inputs.iter().map(|&v| Some(v)).collect(),
        outputs: vec![Some(value)],
        attributes: attributes
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.clone()))
            .collect(),
        ..NewNode::default()
    });
    value
}

/// The names of the blocks' outputs.
fn cuts(path: &Path) -> Vec<String> {
    let mut hooks = Hooks {
        verify_each: true,
        after: &mut |_, _| {},
        stop_after: Some("blocks"),
    };
    let model = Model::open(path).unwrap();
    let stopped =
        vcc_passes::convert(model, Request::default(), Form::Functions, &mut hooks).unwrap();
    let name = |v: ValueId| stopped.model.graph.value(v).name.clone();
    let streams = &stopped.analysis.as_ref().unwrap().streams;
    let blocks = streams.iter().flat_map(|s| &s.blocks);
    blocks.map(|b| name(b.output)).collect()
}

/// How many nodes of the operator there are.
fn count(model: &[u8], op: &str) -> usize {
    let model = Model::from_bytes(model.to_vec().into(), None).unwrap();
    let nodes = model.graph.node_ids().map(|id| model.graph.node(id));
    nodes.filter(|n| n.op_type == op).count()
}

/// The outputs of a model that another one has too.
fn worst(expected: &Outputs, got: &Outputs) -> f64 {
    let errors = got
        .iter()
        .map(|(name, a)| difference(expected.get(name).unwrap(), a));
    errors.fold(0.0, f64::max)
}

const HEADS: [Head; 5] = [
    Head::First,
    Head::Last,
    Head::Several,
    Head::Slice,
    Head::Layers,
];

/// Its norm is in the last block.
#[test]
fn tokens() {
    check("xlmr_class__ts17_eager", 60, true, &HEADS);
}

/// Its norm is behind the last block.
#[test]
fn tokens_behind_a_norm() {
    check("vit_class__ts17_eager", 17, true, &HEADS);
}

/// It looks up relative positions.
#[test]
fn tokens_with_relative_positions() {
    check("deberta_v3_class__ts17_eager", 60, true, &HEADS[..2]);
}

/// One scale stands for all rows: its last block runs on all of them.
#[test]
fn tokens_of_a_quantised_block() {
    check("vit_class__int8_ts17_sdpa", 17, false, &HEADS[..1]);
}

#[test]
fn sums_and_what_reads_all() {
    let heads = [Head::Sum, Head::Masked, Head::MeanOfAll];
    check("xlmr_class__ts17_eager", 60, true, &heads);
}

#[test]
fn mean_without_a_mask() {
    check("vit_class__ts17_eager", 17, true, &[Head::Mean]);
}

/// At small budgets, with VIP tokens that are not the ones that are read among them; at full budget as the original.
fn check(name: &str, length: usize, is_pruned: bool, heads: &[Head]) {
    let model = fixture(name);
    for &head in heads {
        let path = scratch(&with_head(&model.path, head));
        let path = path.path();
        let bytes = std::fs::read(path).unwrap();
        let optimization = Precision::of(&Model::open(path).unwrap()).optimization();
        let last = [(cuts(path).pop().unwrap(), DataType::Float as i32)];
        let shown = last.each_ref().map(|(name, dtype)| (name.as_str(), *dtype));
        let whole = scratch(&with_outputs(&bytes, &shown));
        for options in [
            "vip=first:1 ladder=8,1 refine=1",
            "vip=last:2 ladder=8,4,1 refine=1,1",
            "vip=first:20 vip-capacity=2 ladder=4,2,1 refine=2,0 reselect-every=2",
            "vip=last:1 ladder=4,1 refine=all",
        ] {
            let converted = convert(path, options, Form::Functions);
            let what = format!("{name}, {head:?}, {options}");
            let groups = if options.contains("reselect") { 1 } else { 2 };
            // A cut that is read inside ends a group.
            let groups = if head == Head::Layers { 2 } else { groups };
            let reads_all = matches!(head, Head::Masked | Head::MeanOfAll);
            let ends = groups - usize::from(is_pruned && !reads_all);
            assert_eq!(count(&converted, "VccDecompress"), ends, "{what}");
            assert_eq!(
                count(&converted, "VccExpand"),
                usize::from(reads_all),
                "{what}"
            );
            let whole = convert(whole.path(), options, Form::Functions);
            assert_eq!(count(&whole, "VccDecompress"), groups, "{what}");
            let inline = convert(path, options, Form::Inline);
            let open = |bytes, engine| open_at(&what, bytes, engine, optimization);
            let mut whole = open(&whole, Engine::Library);
            let mut original = open(&bytes, Engine::Bodies);
            let mut pruned = [
                open(&converted, Engine::Library),
                open(&converted, Engine::Bodies),
                open(&inline, Engine::Bodies),
            ];
            for padding in [Padding::None, Padding::Left, Padding::EmptyRow] {
                let inputs = three(&model, original.inputs(), length, padding);
                let expected = run(&mut whole, &inputs);
                for session in &mut pruned {
                    let got = run(session, &inputs);
                    let error = worst(&expected, &got);
                    assert!(error < 1e-5, "{what}, {padding:?}: {error:e}");
                    if options.contains("all") && is_pruned {
                        let error = worst(&run(&mut original, &inputs), &got);
                        assert!(error < 1e-4, "{what}, {padding:?}: {error:e}");
                    }
                }
            }
        }
    }
}
