//! Planted faults: whatever the analysis could have wrong, the check says so.

use super::*;
use std::path::PathBuf;
use token_axes::{BlockAxes, Factor, Layout, Role};
use vcc_passes::pipeline::{Hooks, convert};
use vcc_passes::{Conversion, Form, Request};

fn analysed(name: &str) -> (PathBuf, Model, Analysis) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures/models")
        .join(name);
    let mut hooks = Hooks {
        verify_each: false,
        after: &mut |_, _| {},
        stop_after: Some("blocks"),
    };
    let Conversion {
        model, analysis, ..
    } = convert(
        Model::open(&path).unwrap(),
        Request::default(),
        Form::default(),
        &mut hooks,
    )
    .unwrap();
    (path, model, analysis.unwrap())
}

/// What the check says of a fixture's analysis after a change to the axes of its second block.
fn after(name: &str, change: impl FnOnce(&Graph, &mut BlockAxes)) -> Vec<Disagreement> {
    let (path, model, mut analysis) = analysed(name);
    let axes = analysis.streams[0].blocks[1].axes.as_mut().unwrap();
    change(&model.graph, axes);
    let found = check(&path, &model, &analysis, None).unwrap().disagreements;
    for d in &found {
        println!("{d:?}");
    }
    found
}

/// The axes of the scores.
fn scores(axes: &mut BlockAxes) -> &mut Layout {
    axes.layouts.get_mut(&axes.scores).unwrap()
}

/// One of the samples at another batch size.
fn sample(model: &Model, batch: i64) -> Sample {
    let mut sample = sizes::samples(model).remove(0);
    sample.dims.insert("batch".into(), batch);
    sample
}

/// A model that ran once.
struct Run {
    inputs: Inputs,
    outputs: Outputs,
}

impl Run {
    fn new(model: &Model, mut exposed: Exposed, batch: i64, padding: Padding) -> Run {
        let facts = evaluate(model, &sample(model, batch)).unwrap();
        let ports = exposed.ports_at(model, &facts);
        let case = Bounds::of(model).random(&ports, 0, 1, 1, padding).unwrap();
        let outputs = exposed.run(&case.inputs).unwrap();
        Run {
            inputs: case.inputs,
            outputs,
        }
    }

    fn check(&mut self, blocks: &mut roles::Blocks<'_>) -> Vec<Disagreement> {
        let mut compared = Compared::default();
        blocks
            .check(&self.inputs, &self.outputs, &mut compared)
            .unwrap()
    }
}

const BERT: &str = "bert__ts17_sdpa.onnx";

#[test]
fn what_is_right_is_not_reported() {
    assert_eq!(after(BERT, |_, _| {}), []);
}

#[test]
fn heads_and_batch_exchanged() {
    let found = after(BERT, |_, axes| scores(axes).0.swap(0, 1));
    assert!(
        found
            .iter()
            .any(|d| d.what == "axes" && d.node.contains("block 0.1"))
    );
    let names: Vec<&str> = found.iter().map(|d| d.value.as_str()).collect();
    assert_eq!(names, ["/encoder/layer.1/attention/self/Add_output_0"]);
}

/// With 4 heads, at batch 4, where only the elements can tell.
#[test]
fn heads_taken_for_the_batch_where_the_sizes_agree() {
    let (path, model, mut analysis) = analysed(BERT);
    let axes = analysis.streams[0].blocks[1].axes.as_mut().unwrap();
    let roles = |l: &Layout| l.0.iter().flatten().map(|f| f.role).collect::<Vec<_>>();
    let (batch, heads) = (scores(axes).0[0][0], scores(axes).0[1][0]);
    assert_eq!(
        roles(scores(axes)),
        [Role::Batch, Role::Feature, Role::Token, Role::Token]
    );
    scores(axes).0[0] = vec![Factor {
        size: heads.size,
        ..heads
    }];
    scores(axes).0[1] = vec![Factor {
        size: batch.size,
        ..batch
    }];
    let runtime = Runtime::load(None).unwrap();
    let open = |m: &Model| Exposed::open(&runtime, &path, m);
    let mut run = Run::new(&model, open(&model).unwrap(), 4, Padding::None);
    let mut blocks = roles::Blocks::open(model.clone(), &analysis, open).unwrap();
    let found = run.check(&mut blocks);
    assert!(
        found
            .iter()
            .any(|d| d.actual.contains("changed the element")),
        "{found:?}"
    );
    assert!(
        found.iter().any(|d| d.actual.contains("permuted")),
        "{found:?}"
    );
}

#[test]
fn batch_and_heads_merged_in_the_wrong_order() {
    let found = after("bert__dyn18_sdpa.onnx", |_, axes| {
        let mut all = axes.layouts.values_mut().flat_map(|l| &mut l.0);
        all.find(|axis| axis.len() == 2).unwrap().swap(0, 1);
    });
    assert!(found.iter().any(|d| d.inferred == "[4*batch, token, 8]"));
}

#[test]
fn tokens_taken_for_channels() {
    let found = after(BERT, |_, axes| scores(axes).0[3][0].role = Role::Feature);
    assert!(!found.is_empty());
}

#[test]
fn a_wrong_query_axis() {
    let found = after(BERT, |_, axes| axes.query_axis = 1);
    assert!(found[0].actual.contains("axis 1 is not the query axis"));
}

#[test]
fn an_external_of_another_shape() {
    // The mask would have no batch axis.
    let found = after(BERT, |_, axes| {
        let mut all = axes.flows.values_mut().flat_map(|f| &mut f.externals);
        all.find(|e| e.frame[0].present).unwrap().frame[0].present = false;
    });
    assert_eq!(found[0].value, "/Where_1_output_0");
}

#[test]
fn an_external_that_runs_over_other_axes() {
    // Keys of relative positions, per batch row and head.
    let found = after("deberta_v3__ts17_eager.onnx", |_, axes| {
        let mut all = axes.flows.values_mut().flat_map(|f| &mut f.externals);
        let swapped =
            all.find(|e| e.frame[0].axis.len() == 2 && e.frame[1].axis[0].role == Role::Feature);
        swapped.unwrap().frame[0].axis.swap(0, 1);
    });
    assert!(found.iter().any(|d| d.actual.contains("permuted")));
}

#[test]
fn a_mask_the_wrong_way_round() {
    let (path, model, analysis) = analysed(BERT);
    let runtime = Runtime::load(None).unwrap();
    let open = |m: &Model| Exposed::open(&runtime, &path, m);
    let mut run = Run::new(&model, open(&model).unwrap(), 1, Padding::Right);
    let mut blocks = roles::Blocks::open(model.clone(), &analysis, open).unwrap();
    assert_eq!(run.check(&mut blocks), []);
    for cut in &mut blocks.cuts {
        cut.mask.as_mut().unwrap().zero_is_valid = true;
    }
    let found = run.check(&mut blocks);
    assert!(
        found[0]
            .actual
            .contains("padding by Some(\"attention_mask\")"),
        "{found:?}"
    );
}

#[test]
fn sizes_of_other_samples() {
    let (path, model, mut analysis) = analysed(BERT);
    // All samples the same: everything is a constant.
    for facts in &mut analysis.samples.0 {
        *facts = token_axes::interp::evaluate_samples(&model).remove(0);
    }
    let found = check(&path, &model, &analysis, None).unwrap().disagreements;
    assert!(
        found
            .iter()
            .all(|d| d.what == "size" && d.inferred.starts_with("always"))
    );
    assert!(found.iter().any(|d| d.value == "last_hidden_state"));
}

#[test]
fn shapes_types_and_contents() {
    let (path, model, _) = analysed(BERT);
    let runtime = Runtime::load(None).unwrap();
    let run = Run::new(
        &model,
        Exposed::open(&runtime, &path, &model).unwrap(),
        2,
        Padding::Right,
    );
    let compare = |batch, assumed| {
        let facts = evaluate(&model, &sample(&model, batch)).unwrap();
        let mut compared = Compared::default();
        facts::compare(&model.graph, &facts, &run.outputs, assumed, &mut compared)
    };
    assert_eq!(compare(2, false), []);
    // Facts of another size.
    let found = compare(3, false);
    assert!(found.iter().any(|d| d.what == "shape"));
    assert!(found.iter().any(|d| d.what == "content"));
    // Contents that hold for inputs of ones only.
    let found = compare(2, true);
    assert!(!found.is_empty() && found.iter().all(|d| d.what == "content"));
}
