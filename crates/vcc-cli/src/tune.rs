//! `vcc tune ORIG`: the smallest share of refined segments that meets a target on given inputs.
//!
//! Bisects whole percentages: quality need not grow with every segment, so the plan found is one that meets the target and whose
//! next smaller tried neighbour does not; it says nothing about other inputs.

use crate::engine::{Engine, EngineName, Runner};
use crate::exit::{Usage, Verdict};
use crate::inputs::{self, Bounds, Case};
use crate::source;
use crate::verify::{CaseReport, RuntimeOptions, compare_cases, progress};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::str::FromStr;
use vcc_passes::pipeline::{Hooks, convert};
use vcc_passes::plan::{Capacity, Ladder, Plan, Refine, Refinements, VipSpec};
use vcc_passes::{Conversion, EncoderOptions, Form, Pass, Request};
use vcc_run::Padding;

/// Options of `vcc tune`.
#[derive(Args)]
pub(crate) struct Options {
    /// The original model
    original: PathBuf,
    #[command(flatten)]
    inputs: inputs::InputOptions,
    /// What the worst output must reach, e.g. cosine>=0.98 (mean over its rows), or vip-cosine>=0.98 (over the VIP rows)
    #[arg(long, value_name = "FIGURE>=X")]
    target: Target,
    /// Tokens that stay exact, as for convert
    #[arg(long, value_name = "SPEC")]
    vip: Option<String>,
    /// Slots for VIP tokens, as for convert
    #[arg(long, value_name = "N|auto")]
    vip_capacity: Option<String>,
    /// Segment sizes, as for convert
    #[arg(long, value_name = "SIZES")]
    ladder: Option<String>,
    /// Write the plan
    #[arg(long, value_name = "FILE")]
    emit_plan: Option<PathBuf>,
    #[command(flatten)]
    runtime: RuntimeOptions,
}

/// A figure and what it must reach.
#[derive(Clone, Copy)]
struct Target {
    vip: bool,
    least: f64,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not cosine>=X or vip-cosine>=X with X from 0 to 1");
        let (figure, least) = text.split_once(">=").ok_or_else(wrong)?;
        let vip = match figure.trim() {
            "cosine" => false,
            "vip-cosine" => true,
            _ => return Err(wrong()),
        };
        let least = least
            .trim()
            .parse()
            .ok()
            .filter(|x| (0.0..=1.0).contains(x))
            .ok_or_else(wrong)?;
        Ok(Target { vip, least })
    }
}

impl Target {
    /// The worst output of all cases.
    fn reached(self, reports: &[CaseReport]) -> Option<f64> {
        let figure =
            |o: &crate::verify::OutputReport| if self.vip { o.cosine_vip } else { o.cosine };
        reports
            .iter()
            .flat_map(|r| &r.outputs)
            .filter_map(figure)
            .reduce(f64::min)
    }
}

pub(crate) fn run(options: &Options) -> Result<Verdict> {
    let base = base_plan(options)?;
    let sha256 = source::sha256(&options.original)?;
    let engine = Engine::load(&options.runtime, EngineName::Ort)?;
    let mut original = engine.open(&options.runtime, &options.original, false)?;
    let bounds = Bounds::of(&source::open(&options.original)?);
    let cases = options
        .inputs
        .cases(original.inputs(), &bounds, &[512], &[1], &[Padding::None])?;
    let bar = progress(8);
    let mut try_percent = |percent: i64| -> Result<f64> {
        bar.set_message(format!("{percent}% refined"));
        let figure = measure(
            options,
            &engine,
            &mut original,
            &cases,
            &at(&base, percent),
            &sha256,
        )?;
        bar.inc(1);
        eprintln!("{percent:>3}% refined: {figure:.4}");
        Ok(figure)
    };
    // `met` meets the target (100 % is the original), `missed` does not.
    let (mut missed, mut met) = (0, 100);
    while met - missed > 1 {
        let middle = (missed + met) / 2;
        if try_percent(middle)? >= options.target.least {
            met = middle;
        } else {
            missed = middle;
        }
    }
    bar.finish_and_clear();
    let plan = at(&base, met);
    let text = plan.to_toml()?;
    if let Some(path) = &options.emit_plan {
        source::write_text(path, &text)?;
    }
    say!("{}", text.trim_end());
    Ok(Verdict::Ok)
}

fn base_plan(options: &Options) -> Result<Plan> {
    let encoder = EncoderOptions {
        vip: options
            .vip
            .as_ref()
            .map(|t| t.parse::<VipSpec>())
            .transpose()?,
        vip_capacity: options
            .vip_capacity
            .as_ref()
            .map(|t| t.parse::<Capacity>())
            .transpose()?,
        ladder: options
            .ladder
            .as_ref()
            .map(|t| t.parse::<Ladder>())
            .transpose()?,
        ..EncoderOptions::default()
    };
    let request = Request::Options(encoder, std::collections::BTreeMap::new());
    let mut after = |_: &Pass, _: &Conversion| {};
    let mut hooks = Hooks {
        verify_each: false,
        after: &mut after,
        stop_after: Some("plan"),
    };
    Ok(convert(
        source::open(&options.original)?,
        request,
        Form::default(),
        &mut hooks,
    )?
    .plan)
}

/// The plan with this share refined at every level.
fn at(plan: &Plan, percent: i64) -> Plan {
    let mut plan = plan.clone();
    for encoder in &mut plan.encoders {
        encoder.refine = Refinements(vec![Refine::Percent(percent); encoder.ladder.levels()]);
    }
    plan
}

fn measure(
    options: &Options,
    engine: &Engine,
    original: &mut Runner,
    cases: &[Case],
    plan: &Plan,
    sha256: &str,
) -> Result<f64> {
    let file = source::scratch_beside(&options.original)?;
    source::rebuild(&options.original, sha256, plan, Form::default())?
        .model
        .save(file.path())?;
    let mut converted = engine.open(&options.runtime, file.path(), true)?;
    drop(file);
    let reports = compare_cases(
        plan,
        original,
        &mut converted,
        cases,
        false,
        &mut Vec::new(),
    )?;
    let figure = options.target.reached(&reports);
    Ok(figure.ok_or_else(|| Usage("The outputs have no rows to compare by cosine.".into()))?)
}
