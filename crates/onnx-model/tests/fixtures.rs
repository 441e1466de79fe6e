//! Every model of `fixtures/`: written back byte for byte.
#![allow(clippy::unwrap_used, clippy::panic)]
use std::path::{Path, PathBuf};

use onnx_model::Model;

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let mut files = Vec::new();
    for folder in ["models", "golden"] {
        let entries = std::fs::read_dir(root.join(folder)).unwrap();
        files.extend(
            entries
                .map(|e| e.unwrap().path())
                .filter(|p| p.extension().is_some_and(|e| e == "onnx")),
        );
    }
    assert!(files.len() > 10, "fixtures are missing");
    files.sort();
    files
}

#[test]
fn unedited_models_keep_every_byte() {
    for path in fixtures() {
        let model = Model::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let bytes = std::fs::read(&path).unwrap();
        assert!(model.to_vec().unwrap() == bytes, "{}", path.display());
        model
            .verify()
            .unwrap_or_else(|v| panic!("{}: {v:?}", path.display()));
        // The graph written from its fields, as after an edit, is the same too.
        let mut model = model;
        let spare = model.graph.new_value("spare");
        let node = model.graph.add_node(onnx_model::NewNode {
            op_type: "Identity".into(),
            inputs: vec![None],
            outputs: vec![Some(spare)],
            ..Default::default()
        });
        assert!(model.to_vec().unwrap() != bytes);
        model.graph.remove_node(node);
        assert!(model.to_vec().unwrap() == bytes, "{}", path.display());
    }
}
