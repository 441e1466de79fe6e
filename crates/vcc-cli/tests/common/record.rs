//! What the tests measure of each fixture, left in `target/tmp/zoo/` for the table in `fixtures/ZOO.md`.

use std::path::Path;

use serde_json::{Value, json};

/// The code of each block's refusal, null if it converts; the largest error at full budget if it was compared.
pub(crate) fn record_full_budget(model: &str, codes: &[Vec<Option<&str>>], error: Option<f64>) {
    record(
        "full",
        model,
        &json!({"blocks": codes.concat(), "error": error}),
    );
}

/// The largest difference between two forms at small budgets.
pub(crate) fn record_small_budget(model: &str, error: f64) {
    record("small", model, &json!({"error": error}));
}

fn record(kind: &str, model: &str, measured: &Value) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("zoo")
        .join(kind);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{model}.json")), measured.to_string()).unwrap();
}
