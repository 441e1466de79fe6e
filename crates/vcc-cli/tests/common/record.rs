//! What the tests measure of each fixture, left in `target/tmp/zoo/` for the table in `fixtures/ZOO.md`.

use std::path::Path;

use serde_json::{Value, json};

/// Blocks by what becomes of them, and the largest differences at full budget.
pub(crate) fn record(model: &str, codes: &[Vec<Option<&'static str>>], errors: Option<(f64, f64)>) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("zoo");
    std::fs::create_dir_all(&folder).unwrap();
    let errors = errors.map_or(
        Value::Null,
        |(error, limit)| json!({"error": error, "limit": limit}),
    );
    let measured = json!({"blocks": codes.concat(), "full_budget": errors});
    std::fs::write(folder.join(format!("{model}.json")), measured.to_string()).unwrap();
}
