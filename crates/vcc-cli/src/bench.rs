//! `vcc bench ORIG CONV`: time and peak memory, side by side.

use crate::exit::Verdict;
use crate::inputs::{self, Bounds, Case};
use crate::source;
use crate::verify::{RuntimeOptions, progress};
use crate::vip::Tokens;
use anyhow::Result;
use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use vcc_run::{
    MemoryJob, Optimization, Padding, RunError, Runtime, Session, SessionOptions, count_operators,
    peak_memory, time_interleaved,
};

/// Options of `vcc bench`.
#[derive(Args)]
pub(crate) struct Options {
    /// The original model
    original: PathBuf,
    /// The converted model
    converted: PathBuf,
    #[command(flatten)]
    inputs: inputs::InputOptions,
    /// Timed runs of each model per length, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    #[command(flatten)]
    runtime: RuntimeOptions,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    runtime: String,
    library: Option<String>,
    cases: Vec<CaseReport>,
    /// The first measured length at which the converted model is faster.
    faster_from: Option<usize>,
    /// Operators that ONNX Runtime fused, in the original and the converted model; none if it could not write them.
    fused: Vec<Fused>,
}

#[derive(Serialize)]
struct Fused {
    operator: String,
    original: usize,
    converted: usize,
}

#[derive(Serialize)]
struct CaseReport {
    length: usize,
    batch: usize,
    rows: Vec<i64>,
    original: Option<Side>,
    converted: Side,
    /// Why the original was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    original_failed: Option<String>,
}

#[derive(Serialize)]
struct Side {
    /// The fastest run.
    seconds: f64,
    median_seconds: f64,
    peak_mib: f64,
}

pub(crate) fn run(options: &Options) -> Result<Verdict> {
    let original = source::open(&options.original)?;
    let converted = source::open(&options.converted)?;
    let (plan, _) = source::recorded(&converted, &options.converted)?;
    let bounds = Bounds::of(&original);
    drop((original, converted));
    let runtime = options.runtime.load()?;
    let library = options.runtime.library()?;
    let mut a = Session::open(&runtime, &options.original, &options.runtime.session(None))?;
    let mut b = Session::open(
        &runtime,
        &options.converted,
        &options.runtime.session(library.clone()),
    )?;
    let cases = options.inputs.cases(
        b.inputs(),
        &bounds,
        &[512, 4096, 16384],
        &[1],
        &[Padding::None],
    )?;
    let bar = progress(cases.len() as u64);
    let mut reports = Vec::new();
    for case in &cases {
        bar.set_message(format!("{} tokens", case.length));
        let runs = options.runs as usize;
        let failed = match a.run(&case.inputs) {
            Ok(_) => None,
            Err(e @ RunError::Run { .. }) => Some(e.to_string()),
            Err(e) => return Err(e.into()),
        };
        let timings = if failed.is_none() {
            time_interleaved(
                &mut [(&mut a, &case.inputs), (&mut b, &case.inputs)],
                1,
                runs,
            )?
        } else {
            time_interleaved(&mut [(&mut b, &case.inputs)], 1, runs)?
        };
        let mut sides = Vec::new();
        let of_converted = timings.len() - 1;
        for (i, timing) in timings.iter().enumerate() {
            let converted = i == of_converted;
            let model = if converted {
                &options.converted
            } else {
                &options.original
            };
            let library = library.clone().filter(|_| converted);
            sides.push(Side {
                seconds: timing.min().as_secs_f64(),
                median_seconds: timing.median().as_secs_f64(),
                peak_mib: memory(&runtime, model, library, options.runtime.threads, case)?,
            });
        }
        let vips = |e| Tokens::of(e, case).map_or(1, |t| t.most_vips() as i64);
        let Some(converted) = sides.pop() else {
            continue;
        };
        reports.push(CaseReport {
            length: case.length,
            batch: case.batch,
            rows: plan
                .encoders
                .iter()
                .map(|e| e.rows(case.length as i64, vips(e)))
                .collect(),
            original: sides.pop(),
            converted,
            original_failed: failed,
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    let fused = fused(options, &runtime, library.clone()).unwrap_or_default();
    let faster = |c: &&CaseReport| {
        c.original
            .as_ref()
            .is_some_and(|o| c.converted.seconds < o.seconds)
    };
    let report = Report {
        runtime: runtime.version().to_owned(),
        library: library.map(|p| p.display().to_string()),
        faster_from: reports.iter().filter(faster).map(|c| c.length).min(),
        cases: reports,
        fused,
    };
    if options.json {
        say!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(Verdict::Ok)
}

/// Counts ONNX Runtime's own fused operators in both models as it optimises them.
fn fused(options: &Options, runtime: &Runtime, library: Option<PathBuf>) -> Result<Vec<Fused>> {
    let count = |model: &Path, library: Option<PathBuf>| -> Result<BTreeMap<String, usize>> {
        let file = tempfile::Builder::new().suffix(".onnx").tempfile()?;
        let session = SessionOptions {
            optimized_model: Some(file.path().to_owned()),
            ..options.runtime.session(library)
        };
        Session::open(runtime, model, &session)?;
        let graph = source::open(file.path())?.graph;
        let nodes = graph.node_ids().map(|id| graph.node(id));
        let fused = nodes.filter(|n| n.domain.starts_with("com.microsoft"));
        Ok(count_operators(fused.map(|n| n.op_type.clone())))
    };
    let a = count(&options.original, None)?;
    let b = count(&options.converted, library)?;
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let of = |counts: &BTreeMap<String, usize>, name: &str| counts.get(name).copied().unwrap_or(0);
    Ok(names
        .into_iter()
        .map(|name| Fused {
            operator: name.clone(),
            original: of(&a, name),
            converted: of(&b, name),
        })
        .collect())
}

fn memory(
    runtime: &Runtime,
    model: &Path,
    library: Option<PathBuf>,
    threads: usize,
    case: &Case,
) -> Result<f64> {
    const MIB: f64 = 1024.0 * 1024.0;
    let mut child = Command::new(std::env::current_exe()?);
    child.arg("measure-memory").arg("--");
    let job = MemoryJob {
        model: model.to_owned(),
        runtime: runtime.path().to_owned(),
        ops_library: library,
        threads,
        optimization: Optimization::All,
        runs: 1,
    };
    Ok(peak_memory(child, &job, &case.inputs)?.peak as f64 / MIB)
}

fn print(report: &Report) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "length",
        "batch",
        "rows",
        "original s",
        "converted s",
        "ratio",
        "original MiB",
        "converted MiB",
    ]);
    for case in &report.cases {
        let rows: Vec<String> = case.rows.iter().map(i64::to_string).collect();
        let original = |f: fn(&Side) -> f64, digits: usize| {
            case.original
                .as_ref()
                .map_or("does not run".to_owned(), |o| format!("{:.digits$}", f(o)))
        };
        table.add_row([
            case.length.to_string(),
            case.batch.to_string(),
            rows.join(", "),
            original(|s| s.seconds, 3),
            format!("{:.3}", case.converted.seconds),
            case.original.as_ref().map_or("-".to_owned(), |o| {
                format!("{:.2}x", o.seconds / case.converted.seconds)
            }),
            original(|s| s.peak_mib, 0),
            format!("{:.0}", case.converted.peak_mib),
        ]);
    }
    say!("{table}");
    for case in &report.cases {
        if let Some(reason) = &case.original_failed {
            say!(
                "length {}: the original does not run: {reason}",
                case.length
            );
        }
    }
    let fused: Vec<String> = report
        .fused
        .iter()
        .map(|f| format!("{} {} -> {}", f.operator, f.original, f.converted))
        .collect();
    if !fused.is_empty() {
        say!(
            "fused by ONNX Runtime, original -> converted: {}",
            fused.join(", ")
        );
    }
    match report.faster_from {
        Some(length) => {
            say!("the converted model is faster from {length} tokens on (of the lengths measured)")
        }
        None => say!("the converted model is not faster at any length measured"),
    }
    let library = report
        .library
        .as_deref()
        .unwrap_or("none, function bodies ran");
    say!(
        "ONNX Runtime {}, operator library: {library}; seconds are the fastest run, both without memory pattern",
        report.runtime
    );
}
