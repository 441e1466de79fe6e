//! The interpreter on real exports: almost every value has a shape, and the shapes of the outputs are the declared ones.

#![allow(clippy::expect_used, reason = "a test may fail that way")]

use std::path::{Path, PathBuf};

use onnx_model::{Dimension, Model};
use token_axes::interp::{Evaluation, explore};

/// Files of which parts stay unknown, and why.
const EXCEPTIONS: [(&str, &str); 2] = [
    (
        "longformer__ts14_eager.onnx",
        "it works with sequences of tensors, which are not followed",
    ),
    (
        "torchenc_preln__ts17.onnx",
        "the traced length is baked into it, so that no other length works",
    ),
];

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models");
    let entries = std::fs::read_dir(dir).expect("the fixtures");
    let paths = entries.map(|e| e.expect("an entry").path());
    let mut files: Vec<_> = paths
        .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
        .collect();
    files.sort();
    assert!(files.len() >= 38, "fixtures are missing");
    files
}

fn name(path: &Path) -> String {
    path.file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Messages about what is wrong with a file.
fn check(model: &Model, found: &Evaluation) -> Vec<String> {
    let graph = &model.graph;
    let mut wrong = Vec::new();
    for (k, (sample, facts)) in found.samples.iter().zip(&found.facts).enumerate() {
        let values = graph.value_ids().count();
        let unknown: Vec<_> = graph
            .value_ids()
            .filter(|&v| facts.shape(v).is_none() || facts.dtype(v).is_none())
            .collect();
        for &v in &unknown {
            let why = facts
                .unknown(v)
                .map_or("its type is not known", |u| &u.reason);
            println!("  {}: {why}", graph.value(v).name);
        }
        if unknown.len() * 100 > values {
            wrong.push(format!(
                "sample {k}: {} of {values} values are not known",
                unknown.len()
            ));
        }
        for &v in graph.outputs() {
            let value = graph.value(v);
            let declared = value.info().and_then(|i| i.dims.clone());
            let Some(declared) = declared.filter(|d| !d.is_empty()) else {
                continue;
            };
            let Some(shape) = facts.shape(v) else {
                wrong.push(format!("sample {k}: output {} is not known", value.name));
                continue;
            };
            let agrees = |(d, &size): (&Dimension, &i64)| match d {
                Dimension::Value(declared) => *declared == size,
                Dimension::Param(symbol) => sample.dims.get(symbol).is_none_or(|&s| s == size),
                Dimension::Unknown => true,
            };
            if shape.len() != declared.len() || !declared.iter().zip(shape).all(agrees) {
                wrong.push(format!(
                    "sample {k}: output {} is {shape:?}, declared {declared:?}",
                    value.name
                ));
            }
        }
        if let Some(m) = facts.mismatches().first() {
            wrong.push(format!(
                "sample {k}: {m:?} of {}",
                graph.value(m.value).name
            ));
        }
    }
    wrong
}

#[test]
fn real_exports() {
    let mut all = Vec::new();
    for path in files() {
        let file = name(&path);
        let model = Model::open(&path).expect("a model");
        let found = explore(&model);
        println!("{file}: {:?}", found.symbols);
        let wrong = check(&model, &found);
        let expected = EXCEPTIONS.iter().find(|(f, _)| *f == file);
        match (expected, wrong.is_empty()) {
            (Some((_, reason)), true) => all.push(format!(
                "{file} is known now; it was an exception because {reason}"
            )),
            (None, false) => all.push(format!("{file}: {}", wrong.join("\n    "))),
            _ => {}
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

/// The one kind of export that only works at the length it was traced at says so.
#[test]
fn a_baked_length_is_found() {
    for path in files() {
        let file = name(&path);
        let model = Model::open(&path).expect("a model");
        let found = explore(&model);
        let baked = found.facts[0].baked();
        if file == "torchenc_preln__ts17.onnx" {
            assert!(!baked.is_empty());
            assert!(
                baked.iter().all(|b| b.symbol == "seq" && b.literal == 17),
                "{baked:?}"
            );
        } else {
            assert!(baked.is_empty(), "{file}: {baked:?}");
        }
    }
}
