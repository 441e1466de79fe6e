//! Breaking the rewrite on purpose: converted models in which one thing is left out or stale, and the checks that must notice.
//!
//! A mutant is noticed if ONNX Runtime does not load or run it, if at full budget an output differs from the original's, or if at the
//! golden case's budget it differs from what the method's own implementation gave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use common::{
    convert, fixture, fixtures, library, relative, runtime, scratch, sharp, three, with_outputs,
};
use onnx_model::{AttrValue, DataType, Graph, Model, NewNode, NodeId, Tensor, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use vcc_passes::Form;
use vcc_run::{Data, Inputs, Outputs, Padding, Session, SessionOptions, Tensors, read_npz};

/// Room for rounding, far below what a mutation does.
const TOLERANCE: f64 = 1e-4;

/// The number of tokens, which is none of the sizes of the models.
const LENGTH: i64 = 13;

/// A converted model, and what it must give.
struct Subject {
    converted: Model,
    cases: Vec<(Inputs, Outputs)>,
    /// Which rows of outputs with a row for each token count.
    keep: Option<Vec<bool>>,
}

impl Subject {
    /// At full budget the original's outputs. The sizes leave a segment that is not full; the VIP tokens are not the first ones, so
    /// that rows are in another order than tokens.
    fn full(name: &str) -> Subject {
        let model = fixture(name);
        // DeBERTa's masked scores are the lowest number there is: multiplied, all of a row of padding would be -inf.
        let bytes = if name.starts_with("deberta") {
            std::fs::read(&model.path).unwrap()
        } else {
            sharp(&model.path)
        };
        let path = scratch(&bytes);
        let options = "vip=last:2 ladder=4,1 refine=all";
        let converted = convert(path.path(), options, Form::OpsOnly);
        let mut original = session(&bytes).unwrap();
        let cases = [
            (13, Padding::None),
            (13, Padding::Left),
            (14, Padding::Ragged),
        ]
        .map(|(length, padding)| {
            let inputs = three(&model, original.inputs(), length, padding);
            let outputs = original.run(&inputs).unwrap();
            (inputs, outputs)
        })
        .to_vec();
        Subject {
            converted: parse(converted),
            cases,
            keep: None,
        }
    }

    /// A model that reads the mean of three tokens, two in segments and a VIP token: its outputs when all tokens are computed.
    fn pooled(name: &str, cut: &str) -> Subject {
        let model = fixture(name);
        let mut read = parse(sharp(&model.path));
        let graph = &mut read.graph;
        let cut_value = graph.find_value(cut).unwrap();
        let (taker, _) = graph.value(cut_value).uses()[0];
        let token = graph.node(taker).outputs[0].unwrap();
        let at = graph.add_initializer("at", Tensor::vector_i64(&[21, -9, -1]));
        graph.set_input(taker, 1, Some(at));
        let mean = graph.new_value("mean");
        graph.replace_uses(token, mean);
        graph.add_node(NewNode {
            op_type: "ReduceMean".to_owned(),
            inputs: vec![Some(token)],
            outputs: vec![Some(mean)],
            attributes: vec![
                ("axes".to_owned(), AttrValue::Ints(vec![1])),
                ("keepdims".to_owned(), AttrValue::Int(0)),
            ],
            ..NewNode::default()
        });
        graph.sort().unwrap();
        let bytes = read.to_vec().unwrap();
        let whole = with_outputs(&bytes, &[(cut, DataType::Float as i32)]);
        let [converted, whole] = [bytes, whole].map(|bytes| {
            let options = "vip=last:2 ladder=8,4,1 refine=2,1";
            convert(scratch(&bytes).path(), options, Form::OpsOnly)
        });
        let mut whole = session(&whole).unwrap();
        let converted = parse(converted);
        let name = |v: ValueId| converted.graph.value(v).name.clone();
        let outputs: Vec<String> = converted.graph.outputs().iter().map(|&v| name(v)).collect();
        let cases = [(45, Padding::None), (45, Padding::Ragged)].map(|(length, padding)| {
            let inputs = three(&model, whole.inputs(), length, padding);
            let all = whole.run(&inputs).unwrap();
            let read = outputs
                .iter()
                .map(|name| (name.clone(), all.get(name).unwrap().clone()));
            (inputs, Outputs::from_iter(read))
        });
        Subject {
            converted,
            cases: cases.to_vec(),
            keep: None,
        }
    }

    /// A golden case at its own budget.
    fn golden(name: &str) -> Subject {
        let folder = fixtures().join("golden");
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let settings: serde_json::Value = serde_json::from_str(&text).unwrap();
        let path: PathBuf = folder.join(settings["model"].as_str().unwrap());
        let ladder: Vec<String> = settings["ladder"]
            .as_array()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        let options = format!(
            "vip={} vip-capacity={} ladder={} refine={} blocks={}",
            settings["vip"].as_str().unwrap(),
            settings["vip_capacity"],
            ladder.join(","),
            settings["refine"],
            settings["blocks"].as_str().unwrap(),
        );
        let arrays: Tensors = read_npz(&folder.join(format!("{name}.npz"))).unwrap();
        let converted = parse(convert(&path, &options, Form::OpsOnly));
        let output = converted
            .graph
            .value(converted.graph.outputs()[0])
            .name
            .clone();
        let expected = arrays.get("expected_vcc").unwrap().clone();
        let valid = common::i64s(arrays.get("attention_mask").unwrap());
        Subject {
            converted,
            keep: Some(valid.iter().map(|v| *v == 1).collect()),
            cases: vec![(arrays.clone(), Outputs::from_iter([(output, expected)]))],
        }
    }

    /// Whether a changed model is noticed.
    fn notices(&self, model: &Model) -> bool {
        let Ok(mut session) = session(&model.to_vec().unwrap()) else {
            return true;
        };
        self.cases.iter().any(|(inputs, expected)| {
            let Ok(got) = session.run(inputs) else {
                return true;
            };
            expected.iter().any(|(name, a)| {
                let b = got.get(name).unwrap();
                if a.shape() != b.shape() {
                    return true;
                }
                let (a, b) = (self.kept(a.data()), self.kept(b.data()));
                relative(&a, &b) > TOLERANCE
            })
        })
    }

    fn kept(&self, data: &Data) -> Vec<f64> {
        let all = data.to_f64s();
        match &self.keep {
            None => all,
            Some(keep) => {
                let rows = all.chunks(all.len() / keep.len()).zip(keep);
                rows.filter(|(_, keep)| **keep)
                    .flat_map(|(row, _)| row.to_vec())
                    .collect()
            }
        }
    }

    /// Makes mutants of the nodes that `of` takes, and returns the names of those that nobody notices. At least `least` must there be.
    fn unnoticed(&self, least: usize, of: impl Fn(&mut Graph, NodeId) -> bool) -> BTreeSet<String> {
        assert!(!self.notices(&self.converted), "what is right is noticed");
        let mut survivors = BTreeSet::new();
        let mut mutants = 0;
        let nodes: Vec<NodeId> = self.converted.graph.node_ids().collect();
        for id in nodes {
            let mut mutant = self.converted.clone();
            if !of(&mut mutant.graph, id) {
                continue;
            }
            mutants += 1;
            mutant.graph.sort().unwrap();
            if !self.notices(&mutant) {
                survivors.insert(self.converted.graph.node(id).name.clone());
            }
        }
        println!("{mutants} mutants, not noticed: {survivors:?}");
        assert!(mutants >= least, "only {mutants} mutants");
        survivors
    }
}

fn parse(bytes: Vec<u8>) -> Model {
    Model::from_bytes(bytes.into(), None).unwrap()
}

fn session(bytes: &[u8]) -> Result<Session, vcc_run::RunError> {
    let options = SessionOptions {
        threads: 1,
        ops_library: Some(library()),
        ..SessionOptions::default()
    };
    Session::from_bytes(&runtime(), "mutant", bytes, &options)
}

fn inserted(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).name.starts_with("vcc/")
}

fn value(graph: &Graph, id: NodeId, input: usize) -> Option<ValueId> {
    graph.node(id).inputs.get(input).copied().flatten()
}

/// Its first output is its input `input` from now on.
fn bypass(graph: &mut Graph, id: NodeId, input: usize) -> bool {
    let (Some(from), Some(to)) = (graph.node(id).outputs[0], value(graph, id, input)) else {
        return false;
    };
    graph.replace_uses(from, to);
    true
}

/// Node names end in a number where there are several.
fn is(graph: &Graph, id: NodeId, op: &str, part: &str) -> bool {
    let node = graph.node(id);
    node.op_type == op && inserted(graph, id) && node.name.contains(part)
}

/// A Gather that takes the first entry for every row.
fn forget_index(graph: &mut Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    if node.op_type != "Gather" || !inserted(graph, id) {
        return false;
    }
    let index = node.inputs[1].unwrap();
    if graph.is_initializer(index) {
        return false;
    }
    let zero = graph.add_initializer("zero", Tensor::scalar_i64(0));
    let product = graph.new_value("first");
    graph.add_node(NewNode {
        op_type: "Mul".to_owned(),
        inputs: vec![Some(index), Some(zero)],
        outputs: vec![Some(product)],
        ..NewNode::default()
    });
    graph.set_input(id, 1, Some(product));
    true
}

const NONE: [String; 0] = [];

fn names(survivors: BTreeSet<String>) -> Vec<String> {
    survivors.into_iter().collect()
}

/// The masks, position biases and rotary tables are taken at the rows' tokens.
#[test]
fn drop_a_gather() {
    for (name, least) in [
        ("bert__ts17_sdpa", 2),
        ("t5_encoder__ts17_eager", 2),
        ("mpnet__ts17_eager", 2),
        ("modernbert__ts17_sdpa", 4),
        ("deberta_v3__ts17_eager", 2),
    ] {
        let subject = Subject::full(name);
        let of = |graph: &mut Graph, id: NodeId| {
            !graph.node(id).name.contains("/select") && forget_index(graph, id)
        };
        assert_eq!(names(subject.unnoticed(least, of)), NONE, "{name}");
    }
}

/// The same at a small budget, also of what only selection reads: other segments are refined.
#[test]
fn drop_a_gather_of_the_selection() {
    let subject = Subject::golden("t5_vcc");
    let of = |graph: &mut Graph, id: NodeId| {
        // The case has no padding: wherever the mask is taken, it says the same.
        let data = value(graph, id, 0).and_then(|v| graph.value(v).producer());
        let is_mask = data.is_some_and(|(p, _)| graph.node(p).op_type == "Reshape");
        !is_mask && forget_index(graph, id)
    };
    assert_eq!(names(subject.unnoticed(4, of)), NONE);
}

/// A shape operand that still holds the model's own sizes.
#[test]
fn keep_a_stale_shape() {
    for (name, least) in [
        ("bert__ts17_sdpa", 2),
        ("bert__dyn18_sdpa", 6),
        ("modernbert__dyn18_sdpa", 1),
        ("distilbert__dyn18_sdpa", 1),
        ("deberta_v3__ts17_eager", 1),
    ] {
        let subject = Subject::full(name);
        let bytes = std::fs::read(fixture(name).path).unwrap();
        let stale = shapes(&bytes, &subject.cases[0].0);
        let of = |graph: &mut Graph, id: NodeId| {
            let Some((operand, elements)) = stale.get(&graph.node(id).name) else {
                return false;
            };
            let now = value(graph, id, 1).map(|v| graph.value(v).name.clone());
            // An operand with -1 for the tokens is right for any number of rows.
            if now.as_ref() == Some(operand) || !elements.contains(&LENGTH) {
                return false;
            }
            let stale = graph.add_initializer("stale", Tensor::vector_i64(elements));
            graph.set_input(id, 1, Some(stale));
            true
        };
        let one = Subject {
            cases: vec![subject.cases[0].clone()],
            ..subject
        };
        assert_eq!(names(one.unnoticed(least, of)), NONE, "{name}");
    }
}

/// The shape operand of each Reshape and Expand of a model, its name and what it holds for given inputs.
fn shapes(bytes: &[u8], inputs: &Inputs) -> BTreeMap<String, (String, Vec<i64>)> {
    let model = parse(bytes.to_vec());
    let graph = &model.graph;
    let operands: Vec<(String, String)> = graph
        .node_ids()
        .filter(|&id| matches!(graph.node(id).op_type.as_str(), "Reshape" | "Expand"))
        .filter_map(|id| {
            let operand = value(graph, id, 1).filter(|&v| graph.value(v).producer().is_some())?;
            Some((
                graph.node(id).name.clone(),
                graph.value(operand).name.clone(),
            ))
        })
        .collect();
    let outputs: BTreeSet<&str> = operands.iter().map(|(_, o)| o.as_str()).collect();
    let outputs: Vec<(&str, i32)> = outputs
        .into_iter()
        .map(|o| (o, DataType::Int64 as i32))
        .collect();
    let got = session(&with_outputs(bytes, &outputs))
        .unwrap()
        .run(inputs)
        .unwrap();
    operands
        .into_iter()
        .map(|(node, operand)| {
            let elements = common::i64s(got.get(&operand).unwrap()).to_vec();
            (node, (operand, elements))
        })
        .collect()
}

/// A row that stands for several tokens weighs as many.
#[test]
fn skip_the_logarithm_of_the_count() {
    let subject = Subject::golden("roberta_vcc");
    let of = |graph: &mut Graph, id: NodeId| {
        // The rows of selection have no bias.
        let is_rows = is(graph, id, "VccCompress", "") && !graph.node(id).name.contains("/select");
        if is_rows {
            graph.set_attr(id, "count_weight", &AttrValue::Float(0.0));
        }
        is_rows
    };
    assert_eq!(names(subject.unnoticed(3, of)), NONE);
}

/// Empty rows are no keys: the bias at the softmax is needed at full budget too.
#[test]
fn skip_the_bias_of_empty_rows() {
    for name in ["bert__ts17_sdpa", "t5_encoder__ts17_eager"] {
        let subject = Subject::full(name);
        let of = |graph: &mut Graph, id: NodeId| {
            let rows = |v: Option<ValueId>| {
                let (producer, _) = graph.value(v?).producer()?;
                let bias = value(graph, producer, 0)?;
                Some(graph.value(bias).name.ends_with("/row_bias"))
            };
            let is_bias = is(graph, id, "Add", "/add") && rows(value(graph, id, 1)) == Some(true);
            is_bias && bypass(graph, id, 0)
        };
        assert_eq!(names(subject.unnoticed(2, of)), NONE, "{name}");
    }
}

/// Every node that the rewrite inserts, but for selection, does something: without it a check fails.
#[test]
fn leave_out_any_node() {
    let subject = Subject::golden("roberta_vcc_short_vip");
    let of = |graph: &mut Graph, id: NodeId| {
        let is_selection = graph.node(id).name.contains("/select");
        inserted(graph, id) && !is_selection && bypass(graph, id, 0)
    };
    // A mask that is flattened in two steps, and a vector of one element for a scalar, which ONNX Runtime takes.
    let equivalent = ["/external/concat", "/external/reshape", "encoder0/squeeze"];
    let mut survivors = names(subject.unnoticed(40, of));
    survivors.retain(|name| !equivalent.iter().any(|end| name.ends_with(end)));
    assert_eq!(survivors, NONE);
}

/// The same of those that find the rows of the tokens that are read, and the tokens' values.
#[test]
fn leave_out_a_node_that_finds_tokens() {
    let cut = "/module/roberta/encoder/layer.1/output/LayerNorm/LayerNormalization_output_0";
    let subject = Subject::pooled("xlmr_class__ts17_eager", cut);
    let of = |graph: &mut Graph, id: NodeId| {
        let is_read = graph.node(id).name.contains("/read/");
        inserted(graph, id) && is_read && bypass(graph, id, 0)
    };
    // A vector of one element for a scalar, which ONNX Runtime takes.
    let mut survivors = names(subject.unnoticed(60, of));
    survivors.retain(|name| !name.contains("/squeeze"));
    assert_eq!(survivors, NONE);
}
