//! `vcc verify ORIG CONV`: what the conversion costs in quality, or (`--exact`) that the rewrite is right.

use crate::engine::{Engine, EngineName, Runner};
use crate::exact;
use crate::exit::{Usage, Verdict};
use crate::inputs::{self, Bounds, Case, token_mask};
use crate::source;
use crate::vip::Tokens;
use anyhow::Result;
use clap::Args;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::path::PathBuf;
use vcc_passes::Form;
use vcc_passes::plan::{Capacity, EncoderPlan, Plan};
use vcc_run::{
    CompareOptions, ElementType, OutputComparison, Padding, RunError, Runtime, SessionOptions,
    compare, find_ops_library,
};

/// Options of `vcc verify`.
#[derive(Args)]
pub(crate) struct Options {
    /// The original model
    pub(crate) original: PathBuf,
    /// The converted model
    pub(crate) converted: PathBuf,
    #[command(flatten)]
    pub(crate) inputs: inputs::InputOptions,
    /// Check the rewrite: the recorded plan gives the same bytes, and at full budget every output equals the original's
    #[arg(long)]
    exact: bool,
    /// Fail if the mean cosine over the rows of an output is lower
    #[arg(long, value_name = "C", conflicts_with = "exact", value_parser = cosine)]
    min_cosine: Option<f64>,
    /// Count top-1 agreement for all outputs, not only for those named logits
    #[arg(long)]
    logits: bool,
    /// What runs the models
    #[arg(long, value_enum, default_value_t = EngineName::Ort)]
    engine: EngineName,
    #[command(flatten)]
    pub(crate) runtime: RuntimeOptions,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

fn cosine(text: &str) -> std::result::Result<f64, String> {
    text.parse()
        .ok()
        .filter(|x| (-1.0..=1.0).contains(x))
        .ok_or_else(|| "a cosine is a number from -1 to 1".to_owned())
}

/// Which runtime runs the models, and how.
#[derive(Args)]
pub(crate) struct RuntimeOptions {
    /// ONNX Runtime's shared library or the directory it is in
    #[arg(long, value_name = "PATH")]
    ort: Option<PathBuf>,
    /// The operator library [default: found as `vcc library-path` finds it]
    #[arg(long, value_name = "PATH", conflicts_with = "no_library")]
    library: Option<PathBuf>,
    /// Run the function bodies in standard operators
    #[arg(long)]
    no_library: bool,
    /// Threads inside an operator [default: all cores]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) threads: usize,
}

impl RuntimeOptions {
    pub(crate) fn load(&self) -> Result<Runtime> {
        Ok(Runtime::load(self.ort.as_deref())?)
    }

    /// Whether anything was asked for that only ONNX Runtime has.
    pub(crate) fn only_for_ort(&self) -> bool {
        self.ort.is_some() || self.library.is_some() || self.no_library || self.threads != 0
    }

    /// The operator library to register, if there is one and it is wanted.
    pub(crate) fn library(&self) -> Result<Option<PathBuf>> {
        if self.no_library {
            return Ok(None);
        }
        match (find_ops_library(self.library.as_deref()), &self.library) {
            (Ok(path), _) => Ok(Some(path)),
            (Err(e), Some(_)) => Err(e.into()),
            (Err(_), None) => Ok(None),
        }
    }

    pub(crate) fn session(&self, library: Option<PathBuf>) -> SessionOptions {
        SessionOptions {
            threads: self.threads,
            ops_library: library,
            ..SessionOptions::default()
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) engine: &'static str,
    pub(crate) runtime: String,
    pub(crate) library: Option<String>,
    pub(crate) verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rebuilt_identical: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_rel: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tolerance: Option<f64>,
    pub(crate) cases: Vec<CaseReport>,
    /// Lengths that the original itself cannot run at.
    pub(crate) skipped: Vec<String>,
}

/// One case's figures.
#[derive(Serialize)]
pub(crate) struct CaseReport {
    pub(crate) length: usize,
    pub(crate) batch: usize,
    pub(crate) padding: String,
    pub(crate) rows: Vec<i64>,
    pub(crate) compressed: bool,
    /// VIP tokens beyond the capacity.
    pub(crate) vip_overflow: usize,
    pub(crate) outputs: Vec<OutputReport>,
}

/// One output's figures; null where a figure has no meaning.
#[derive(Serialize)]
pub(crate) struct OutputReport {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) max_abs: f64,
    pub(crate) max_rel: f64,
    pub(crate) cosine: Option<f64>,
    pub(crate) cosine_min: Option<f64>,
    pub(crate) cosine_vip: Option<f64>,
    pub(crate) top1: Option<f64>,
    pub(crate) mismatches: usize,
    pub(crate) difference: Option<String>,
}

impl OutputReport {
    /// Non-finite on one side only, or of another shape.
    pub(crate) fn broken(&self) -> bool {
        self.mismatches > 0 || self.difference.is_some()
    }
}

pub(crate) fn run(options: &Options) -> Result<Verdict> {
    let original = source::open(&options.original)?;
    let converted = source::open(&options.converted)?;
    let (plan, form) = source::recorded(&converted, &options.converted)?;
    let bounds = Bounds::of(&original);
    drop((original, converted));
    let engine = Engine::load(&options.runtime, options.engine)?;
    if options.engine == EngineName::Tract && form != Form::Inline {
        return Err(Usage(format!(
            "tract runs standard operators only, and {} has operators of its own: convert with --inline.",
            options.converted.display()
        ))
        .into());
    }
    let report = if options.exact {
        exact::verify(options, &engine, &plan, form, &bounds)?
    } else {
        quality(options, &engine, &plan, &bounds)?
    };
    let failed = report.verdict != "ok";
    if options.json {
        say!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(if failed {
        Verdict::ComparisonFailed
    } else {
        Verdict::Ok
    })
}

fn quality(options: &Options, engine: &Engine, plan: &Plan, bounds: &Bounds) -> Result<Report> {
    let mut original = engine.open(&options.runtime, &options.original, false)?;
    let mut converted = engine.open(&options.runtime, &options.converted, true)?;
    // The converted model may have a VIP input more.
    let cases = options.inputs.cases(
        converted.inputs(),
        bounds,
        &[64, 500],
        &[1],
        &[Padding::None],
    )?;
    let mut skipped = Vec::new();
    let mut reports = compare_cases(
        plan,
        &mut original,
        &mut converted,
        &cases,
        options.logits,
        &mut skipped,
    )?;
    let least = options.min_cosine;
    let missed =
        |o: &OutputReport| matches!((least, o.cosine), (Some(least), Some(c)) if c < least);
    let failed = reports
        .iter()
        .flat_map(|r| &r.outputs)
        .any(|o| o.broken() || missed(o));
    reports.sort_by_key(|r| r.length);
    Ok(Report {
        engine: engine.name(),
        runtime: engine.version(),
        library: engine.library().map(|p| p.display().to_string()),
        verdict: if failed { "failed" } else { "ok" },
        rebuilt_identical: None,
        max_rel: None,
        tolerance: None,
        cases: reports,
        skipped,
    })
}

/// Runs both models on all cases. A length that the original cannot run at is skipped and told.
pub(crate) fn compare_cases(
    plan: &Plan,
    original: &mut Runner,
    converted: &mut Runner,
    cases: &[Case],
    all_are_logits: bool,
    skipped: &mut Vec<String>,
) -> Result<Vec<CaseReport>> {
    let bar = progress(cases.len() as u64);
    let mut reports = Vec::new();
    let mut refusal = None;
    for case in cases {
        bar.set_message(format!("{} tokens, batch {}", case.length, case.batch));
        let a = match original.run(&case.inputs) {
            Ok(outputs) => outputs,
            Err(e @ RunError::Run { .. }) => {
                skipped.push(format!(
                    "{} tokens, batch {}: the original does not run: {e}",
                    case.length, case.batch
                ));
                refusal.get_or_insert(e);
                bar.inc(1);
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        let b = converted.run(&case.inputs)?;
        let tokens: Vec<Option<Tokens>> =
            plan.encoders.iter().map(|e| Tokens::of(e, case)).collect();
        let mask = |of: fn(&Tokens) -> &Vec<bool>| {
            let tokens = tokens.first()?.as_ref()?;
            token_mask(tokens.shape, of(tokens).clone())
        };
        let compare_options = CompareOptions {
            valid: mask(|t| &t.valid),
            selected: mask(|t| &t.vip),
            all_are_logits,
        };
        let outputs = compare(&a, &b, &compare_options)
            .iter()
            .map(|c| {
                output_report(
                    c,
                    a.get(&c.name).is_some_and(|x| is_float(x.element_type())),
                )
            })
            .collect();
        let rows: Vec<i64> = plan
            .encoders
            .iter()
            .zip(&tokens)
            .map(|(e, t)| {
                e.rows(
                    case.length as i64,
                    t.as_ref().map_or(1, |t| t.most_vips() as i64),
                )
            })
            .collect();
        reports.push(CaseReport {
            length: case.length,
            batch: case.batch,
            padding: format!("{:?}", case.padding).to_lowercase(),
            compressed: rows.iter().any(|&r| r < case.length as i64),
            rows,
            vip_overflow: plan
                .encoders
                .iter()
                .zip(&tokens)
                .map(|(e, t)| overflow(e, t.as_ref()))
                .sum(),
            outputs,
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let (true, true, Some(refusal)) = (reports.is_empty(), original.has_limits(), refusal) {
        return Err(refusal.into());
    }
    if reports.is_empty() {
        return Err(Usage(format!(
            "The original ran at none of the lengths. {}",
            skipped.first().cloned().unwrap_or_default()
        ))
        .into());
    }
    Ok(reports)
}

fn overflow(plan: &EncoderPlan, tokens: Option<&Tokens>) -> usize {
    match (plan.vip_capacity, tokens) {
        (Capacity::Fixed(n), Some(tokens)) => tokens.overflow(n as usize),
        _ => 0,
    }
}

fn is_float(kind: ElementType) -> bool {
    matches!(kind, ElementType::F32 | ElementType::F64 | ElementType::F16)
}

fn output_report(comparison: &OutputComparison, is_float: bool) -> OutputReport {
    let name = comparison.name.clone();
    match &comparison.result {
        Ok(f) => {
            let rows = f.valid.as_ref().unwrap_or(&f.all);
            OutputReport {
                name,
                shape: f.shape.clone(),
                max_abs: f.all.max_abs,
                max_rel: f.all.relative,
                cosine: is_float.then_some(rows.cosine_mean),
                cosine_min: is_float.then_some(rows.cosine_min),
                cosine_vip: f
                    .selected
                    .as_ref()
                    .filter(|s| is_float && s.rows > 0)
                    .map(|s| s.cosine_mean),
                top1: f.all.top1,
                mismatches: f.all.mismatches,
                difference: None,
            }
        }
        Err(difference) => OutputReport {
            name,
            shape: Vec::new(),
            max_abs: f64::INFINITY,
            max_rel: f64::INFINITY,
            cosine: None,
            cosine_min: None,
            cosine_vip: None,
            top1: None,
            mismatches: 0,
            difference: Some(difference.to_string()),
        },
    }
}

/// A progress bar on standard error.
pub(crate) fn progress(len: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len).with_style(style)
}

fn print(report: &Report) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "length",
        "batch",
        "padding",
        "rows",
        "output",
        "max error",
        "relative",
        "cosine",
        "least",
        "VIP rows",
        "top-1",
    ]);
    let figure = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.4}"));
    for case in &report.cases {
        for output in &case.outputs {
            let rows: Vec<String> = case
                .rows
                .iter()
                .map(|&r| {
                    if r < case.length as i64 {
                        r.to_string()
                    } else {
                        "all".into()
                    }
                })
                .collect();
            table.add_row([
                case.length.to_string(),
                case.batch.to_string(),
                case.padding.clone(),
                rows.join(", "),
                output.name.clone(),
                format!("{:.2e}", output.max_abs),
                output
                    .difference
                    .clone()
                    .unwrap_or_else(|| format!("{:.2e}", output.max_rel)),
                figure(output.cosine),
                figure(output.cosine_min),
                figure(output.cosine_vip),
                figure(output.top1),
            ]);
        }
    }
    say!("{table}");
    for case in report.cases.iter().filter(|c| c.vip_overflow > 0) {
        say!(
            "length {}: {} VIP tokens beyond the capacity became context",
            case.length,
            case.vip_overflow
        );
    }
    for skipped in &report.skipped {
        say!("skipped: {skipped}");
    }
    let library = report.library.as_deref();
    match report.engine {
        "ort" => say!(
            "ONNX Runtime {}, operator library: {}",
            report.runtime,
            library.unwrap_or("none, function bodies ran")
        ),
        engine => say!("{engine} {}", report.runtime),
    }
    if let Some(identical) = report.rebuilt_identical {
        say!(
            "rebuilt from its record: {}",
            if identical { "identical" } else { "DIFFERENT" }
        );
    }
    if let (Some(worst), Some(tolerance)) = (report.max_rel, report.tolerance) {
        say!("at full budget: worst relative error {worst:.2e} (tolerance {tolerance:.0e})");
    }
    say!("verdict: {}", report.verdict);
}
