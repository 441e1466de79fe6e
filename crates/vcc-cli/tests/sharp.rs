//! Equality at full budget where attentions look at few tokens: in models with small random weights a position or a mask that is taken at
//! the wrong token hardly shows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use common::tolerance::{Precision, sensitivity};
use common::{
    Engine, Fixture, complaints, convert, difference, manifest, open, run, scratch, sharp, three,
};
use onnx_model::Model;
use vcc_passes::Form;
use vcc_run::{Optimization, Padding};

/// Not if its numbers are too coarse for sharp attention, or the softmax is not to be seen.
fn can_be_sharp(model: &Fixture) -> bool {
    let file = Model::open(&model.path).unwrap();
    let graph = &file.graph;
    let mut nodes = graph.node_ids().map(|id| graph.node(id));
    !model.is_refused()
        && Precision::of(&file) == Precision::Single
        && nodes.any(|n| n.op_type == "Softmax")
}

#[test]
fn every_model_with_sharp_attention() {
    let mut models = manifest();
    models.retain(can_be_sharp);
    assert!(models.len() >= 20, "only {} models", models.len());
    let wrong = complaints(&models, check);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn check(model: &Fixture) -> Vec<String> {
    let bytes = sharp(&model.path);
    let path = scratch(&bytes);
    let options = "vip=last:2 ladder=8,2,1 refine=all";
    let converted = convert(path.path(), options, Form::Functions);
    let mut original = open(&model.name, &bytes, Engine::Bodies);
    let mut converted = open(&model.name, &converted, Engine::Library);
    let mut wrong = Vec::new();
    for (length, padding) in [
        (37, Padding::None),
        (37, Padding::Left),
        (50, Padding::Ragged),
    ] {
        let inputs = three(model, original.inputs(), length, padding);
        let (expected, got) = (run(&mut original, &inputs), run(&mut converted, &inputs));
        for (name, a) in expected.iter() {
            let error = difference(a, got.get(name).unwrap());
            let is_finite = a.data().to_f64s().iter().all(|x| x.is_finite());
            assert!(is_finite || padding != Padding::None, "{}", model.name);
            // Sharp attentions one after another make much of a last bit: no more than in the original itself.
            let limit = || {
                sensitivity(
                    &model.name,
                    &bytes,
                    &[(&inputs, &expected)],
                    -23,
                    Optimization::All,
                )
            };
            if error.is_nan() || error > 1e-4 && error > limit() {
                wrong.push(format!(
                    "{} {name} {length} {padding:?}: {error:.1e}",
                    model.name
                ));
            }
        }
    }
    wrong
}
