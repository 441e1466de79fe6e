//! `cargo xtask zoo`: writes `fixtures/ZOO.md`, one line for each model of the fixtures: what it is and what the tests found.
//!
//! The tests `full_budget` and `small_budget` leave what they measure in `target/tmp/zoo/`. An error stands in the table as a power of ten that it
//! stays below. A committed one that still holds is kept: machines round differently, and the same file must come out on all of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::paths::{root, target};
use crate::setup;
use crate::steps::{run, step};
use crate::test::{build_library, cargo, with_runtime};

#[derive(Deserialize)]
struct Manifest {
    origin: BTreeMap<String, Origin>,
    model: Vec<Entry>,
    golden: Vec<Entry>,
}

#[derive(Deserialize)]
struct Origin {
    source: String,
    licence: String,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    file: String,
    opset: Option<i64>,
    how: Option<String>,
    what: Option<String>,
    expect: Option<String>,
}

/// What the test `full_budget` leaves.
#[derive(Deserialize)]
struct Full {
    /// The code of each block's refusal.
    blocks: Vec<Option<String>>,
    error: Option<f64>,
}

/// What the test `small_budget` leaves.
#[derive(Deserialize)]
struct Small {
    error: f64,
}

/// Where the tests leave what they measure.
pub(crate) fn measured() -> PathBuf {
    target().join("tmp/zoo")
}

/// Runs the tests that measure and writes the table.
pub(crate) fn write() -> Result<()> {
    setup::tools()?;
    build_library()?;
    step("measuring", || {
        let mut tests = cargo();
        tests.args(["test", "-p", "vcc-cli"]);
        tests.args(["--test", "full_budget", "--test", "small_budget"]);
        run(with_runtime(&mut tests)?)
    })?;
    fs::write(path(), table()?).context("writing fixtures/ZOO.md")
}

/// Compares the table with what the last run of the tests measured.
pub(crate) fn check() -> Result<()> {
    let (committed, now) = (fs::read_to_string(path()).unwrap_or_default(), table()?);
    let changed: Vec<&str> = now
        .lines()
        .filter(|line| !committed.lines().any(|old| old == *line))
        .collect();
    ensure!(
        committed == now,
        "fixtures/ZOO.md is not up to date (`cargo xtask zoo` writes it):\n{}",
        changed.join("\n")
    );
    eprintln!("fixtures/ZOO.md is up to date");
    Ok(())
}

fn path() -> PathBuf {
    root().join("fixtures/ZOO.md")
}

fn table() -> Result<String> {
    let manifest = fs::read_to_string(root().join("fixtures/manifest.toml"))?;
    let manifest: Manifest = toml::from_str(&manifest)?;
    let committed = fs::read_to_string(path()).unwrap_or_default();
    let (mut lines, mut found, mut converted) = (String::new(), 0, 0);
    let golden = manifest.golden.iter().filter(|e| e.file.ends_with(".onnx"));
    let entries: Vec<&Entry> = manifest.model.iter().chain(golden).collect();
    for entry in &entries {
        let full: Full = measurement("full", &entry.name)?;
        let origin = entry.file.split('/').next().unwrap_or_default();
        let licence = &manifest
            .origin
            .get(origin)
            .with_context(|| format!("fixtures/manifest.toml has no [origin.{origin}]"))?
            .licence;
        let ok = full.blocks.iter().filter(|code| code.is_none()).count();
        (found, converted) = (found + full.blocks.len(), converted + ok);
        let old = cells(&committed, &entry.name);
        let old = |column: usize| old.get(column).copied();
        let (at_full, at_small) = match full.error {
            Some(error) => {
                let small: Small = measurement("small", &entry.name)?;
                (bound(error, old(8)), bound(small.error, old(9)))
            }
            None => ("-".to_owned(), "-".to_owned()),
        };
        let form = [
            entry.opset.map(|v| format!("opset {v}")),
            entry.how.clone().or_else(|| entry.what.clone()),
        ];
        let form: Vec<String> = form.into_iter().flatten().collect();
        writeln!(
            lines,
            "| {} | {origin} | {licence} | {} | {} | {ok} | {} | {at_full} | {at_small} |",
            entry.name,
            form.join(", "),
            full.blocks.len(),
            refused(&full.blocks, entry.expect.as_deref()),
        )?;
    }
    let mut text = format!(
        "# The fixtures\n\n\
         Written by `cargo xtask zoo` from [manifest.toml](manifest.toml) and from what the tests measured; `cargo xtask test` checks it. {} models with {found} \
         blocks, of which {converted} are converted.\n\n\
         - *blocks*: those found, those *converted*, and the codes of those *refused* (README.md explains them).\n\
         - *full budget*: with nothing compressed every element of every output differs from the original's by less than this, relative to the output's\n  \
         largest value: at batch 1 and 3, several lengths, all kinds of padding and of VIP tokens, with the operator library and with function bodies.\n  \
         For quantised models it is what the original's own outputs may change by: docs/decisions.md says why.\n\
         - *small budget*: with few rows the library, the function bodies and the inlined bodies differ by less than this; near-ties of the selection apart.\n\n\
         | origin | source |\n|---|---|\n",
        entries.len(),
    );
    for (name, origin) in &manifest.origin {
        writeln!(text, "| {name} | {} |", origin.source)?;
    }
    text += "\n| model | origin | licence | form | blocks | converted | refused | full budget | small budget |\n|---|---|---|---|---|---|---|---|---|\n";
    Ok(text + &lines)
}

fn measurement<T: DeserializeOwned>(kind: &str, name: &str) -> Result<T> {
    let path = measured().join(kind).join(format!("{name}.json"));
    let text = fs::read_to_string(&path)
        .with_context(|| format!("the tests measured nothing of {name} ({})", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
}

/// The codes with how often each occurs, in their first order.
fn refused(blocks: &[Option<String>], expect: Option<&str>) -> String {
    let mut codes: Vec<(&str, usize)> = Vec::new();
    for code in blocks.iter().flatten() {
        match codes.iter_mut().find(|(of, _)| of == code) {
            Some((_, count)) => *count += 1,
            None => codes.push((code, 1)),
        }
    }
    if codes.is_empty() {
        // A file without blocks is refused as a whole.
        let whole = expect.and_then(|e| e.strip_prefix("refuse:"));
        return whole.unwrap_or("-").to_owned();
    }
    let codes: Vec<String> = codes
        .iter()
        .map(|(code, count)| format!("{count} {code}"))
        .collect();
    codes.join(", ")
}

/// The cells of a model's line, the first one empty.
fn cells<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let lines = table.lines().map(|l| l.split('|').map(str::trim));
    let mut lines = lines.map(Iterator::collect::<Vec<_>>);
    lines
        .find(|cells| cells.get(1) == Some(&name))
        .unwrap_or_default()
}

/// A power of ten that the error stays below on other machines too: the committed one if it fits.
fn bound(error: f64, committed: Option<&str>) -> String {
    let kept = committed.and_then(|c| Some((c, c.parse::<f64>().ok()?)));
    if let Some((text, value)) = kept
        && error < value
        && error > value * 1e-3
    {
        return text.to_owned();
    }
    let exponent = (-6..=0).find(|&e| 3.0 * error < 10f64.powi(e));
    exponent.map_or_else(|| format!("{error:.1e}"), |e| format!("1e{e}"))
}

#[cfg(test)]
mod tests {
    use super::{bound, cells, refused};

    #[test]
    fn bounds_leave_room_and_stay_while_they_hold() {
        assert_eq!(bound(0.0, None), "1e-6");
        assert_eq!(bound(2e-7, None), "1e-6");
        assert_eq!(bound(4e-7, None), "1e-5");
        assert_eq!(bound(4e-7, Some("1e-6")), "1e-6");
        assert_eq!(bound(2e-6, Some("1e-6")), "1e-5");
        assert_eq!(bound(2e-6, Some("1e-2")), "1e-5");
        assert_eq!(bound(2e-6, Some("-")), "1e-5");
    }

    #[test]
    fn lines_are_found_by_name() {
        let table = "| a | 1 |\n| ab | 2 |\n";
        assert_eq!(cells(table, "ab"), ["", "ab", "2", ""]);
        assert!(cells(table, "b").is_empty());
    }

    #[test]
    fn codes_are_counted() {
        let blocks = [Some("R-A".to_owned()), None, Some("R-A".to_owned())];
        assert_eq!(refused(&blocks, Some("partial")), "2 R-A");
        assert_eq!(refused(&[], Some("refuse:E-NO-BLOCKS")), "E-NO-BLOCKS");
        assert_eq!(refused(&[None], Some("convert")), "-");
    }
}
