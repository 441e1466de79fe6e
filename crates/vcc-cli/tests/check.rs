//! `vcc inspect --check` finds nothing wrong with what the analysis says of any fixture. That it can find something is tested where
//! it is implemented, on falsified analyses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use common::{Fixture, complaints, everything};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn check(path: &Path) -> (Option<i32>, Value) {
    let out = Command::new(env!("CARGO_BIN_EXE_vcc"))
        .args(["inspect", "--check", "--json"])
        .arg(path)
        .output()
        .unwrap();
    let report = serde_json::from_slice(&out.stdout);
    let said = String::from_utf8_lossy(&out.stderr);
    (
        out.status.code(),
        report.unwrap_or_else(|e| panic!("{}: {e}: {said}", path.display())),
    )
}

/// What is wrong with a report.
fn wrong(model: &Fixture, code: Option<i32>, report: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let count = |name: &str| report["compared"][name].as_u64().unwrap();
    if code != Some(0) || report["disagreements"] != Value::Array(Vec::new()) {
        wrong.push(format!("exit code {code:?}, {}", report["disagreements"]));
    }
    let sizes = report["sizes"].as_array().unwrap().len();
    // What is refused may not run at any length (windows), nor may a model that was made for one.
    let any_size = !model.is_refused() && model.length.is_none();
    if sizes != 3 && (any_size || sizes == 0) {
        wrong.push(format!("not at three sizes: {}", report["skipped"]));
    }
    if count("values") < 25 || count("dimensions") < 300 || count("contents") < 20 {
        wrong.push(format!("little was compared: {}", report["compared"]));
    }
    if (count("axes") == 0) != model.is_refused() {
        wrong.push(format!("axes were compared: {}", report["compared"]));
    }
    wrong
}

#[test]
fn the_analysis_of_every_fixture_agrees_with_what_runs() {
    let models = everything();
    assert!(models.len() >= 42, "fixtures are missing");
    let wrong = complaints(&models, |model| {
        let (code, report) = check(&model.path);
        let wrong = wrong(model, code, &report);
        wrong
            .iter()
            .map(|w| format!("{}: {w}", model.name))
            .collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
