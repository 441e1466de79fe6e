//! A conversion maps the weights: they never become memory of the process, however large the file is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::process::Command;

use common::fixture;
use onnx_model::{Model, Tensor};

/// Private memory that the conversion may have, in KiB.
const LIMIT: usize = 48 << 10;
const WEIGHTS: usize = 256 << 20;

#[test]
fn memory_does_not_grow_with_the_weights() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("large.onnx");
    let mut model = Model::open(&fixture("roberta__ts17_sdpa").path).unwrap();
    let graph = &mut model.graph;
    let (value, table) = graph
        .value_ids()
        .filter_map(|v| Some((v, graph.initializer(v)?)))
        .max_by_key(|(_, t)| t.len())
        .unwrap();
    let columns = table.dims()[1];
    let rows = WEIGHTS as i64 / (4 * columns);
    let large = Tensor::from_bytes(table.dtype(), &[rows, columns], vec![0; WEIGHTS].into());
    let large = graph.add_initializer("large", large);
    graph.replace_uses(value, large);
    model.save(&path).unwrap();
    assert!(path.metadata().unwrap().len() > WEIGHTS as u64);

    let convert = |limit: usize| {
        let out = Command::new("sh")
            .args(["-c", "ulimit -d $0 && exec \"$@\""])
            .arg(limit.to_string())
            .arg(env!("CARGO_BIN_EXE_vcc-convert"))
            .arg(&path)
            .output()
            .unwrap();
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    let (done, said) = convert(LIMIT);
    assert!(done, "{said}");
    assert!(
        folder
            .path()
            .join("large.vcc.onnx")
            .metadata()
            .unwrap()
            .len()
            > WEIGHTS as u64
    );
    // The limit is one that the system enforces.
    assert!(!convert(1 << 10).0);
}
