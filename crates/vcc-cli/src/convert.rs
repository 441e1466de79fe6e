//! `vcc convert MODEL`

use crate::exit::{Usage, Verdict};
use crate::report;
use crate::source::{self, SOURCE};
use anyhow::{Context, Result};
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use vcc_passes::pipeline::{Hooks, PASSES, convert};
use vcc_passes::plan::Plan;
use vcc_passes::{Conversion, EncoderOptions, Error, Form, Pass, Request};

/// Options of `vcc convert` and `vcc-convert`.
#[derive(Args)]
#[command(
    after_help = "Values of --vip, --vip-capacity, --ladder, --refine, --blocks, --reselect-every and --mask-input take a prefix for one encoder of a file that holds several: --vip 1:first:8"
)]
pub(crate) struct Options {
    /// The model
    model: PathBuf,
    /// The converted model [default: MODEL with .vcc.onnx]
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Tokens that stay exact: first:N, last:N, token-type:V, tokens:ID,.., through-token:ID, input:NAME; joined with '+' [default: first:1]
    #[arg(long, value_name = "SPEC")]
    vip: Vec<String>,
    /// Slots for VIP tokens: a number, or 'auto' for the largest count in the batch [default: N for first:N and last:N, else auto]
    #[arg(long, value_name = "N|auto")]
    vip_capacity: Vec<String>,
    /// Segment sizes, coarse to fine [default: 16,1]
    #[arg(long, value_name = "SIZES")]
    ladder: Vec<String>,
    /// Segments refined per level: a number, P% or 'all' [default: 51]
    #[arg(long, value_name = "H[,H2..]")]
    refine: Vec<String>,
    /// What happens to which block, e.g. 0-3=local:512,4-=vcc or 0=full [default: all vcc]
    #[arg(long, value_name = "SPEC")]
    blocks: Vec<String>,
    /// Compress once for this many neighbouring blocks [default: 1]
    #[arg(long, value_name = "M")]
    reselect_every: Vec<String>,
    /// The padding mask, if it is not found by analysis
    #[arg(long, value_name = "NAME")]
    mask_input: Vec<String>,
    /// Make the budget a graph input, vcc_budget, with --refine as its default: one int64 per level, a number of segments or -P for P percent
    #[arg(long)]
    runtime_budget: bool,
    /// What the model will run on, cpu or cuda: on a GPU, windows run all at once and nothing keeps it from a CUDA graph [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Write no custom domain: the operators' bodies stand in their place
    #[arg(long, conflicts_with = "ops_only")]
    inline: bool,
    /// Write no function bodies: the file runs with the operator library only
    #[arg(long)]
    ops_only: bool,
    /// Replay a plan
    #[arg(long, value_name = "FILE", conflicts_with_all = ["vip", "vip_capacity", "ladder", "refine", "blocks", "reselect_every", "mask_input", "runtime_budget", "device"])]
    plan: Option<PathBuf>,
    /// Write the plan
    #[arg(long, value_name = "FILE")]
    emit_plan: Option<PathBuf>,
    /// Print the plan and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write what was done as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the graph after a pass
    #[arg(long, value_name = "PASS")]
    print_after: Vec<String>,
    /// Stop after a pass; nothing is written
    #[arg(long, value_name = "PASS")]
    stop_after: Option<String>,
    /// Check the graph after every pass
    #[arg(long)]
    verify_each: bool,
}

pub(crate) fn run(options: &Options) -> Result<Verdict> {
    for pass in options.print_after.iter().chain(&options.stop_after) {
        if !PASSES.iter().any(|p| p.name == pass) {
            let names: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
            return Err(Usage(format!(
                "There is no pass '{pass}'; the passes are {}.",
                names.join(", ")
            ))
            .into());
        }
    }
    let request = request(options)?;
    let form = match (options.inline, options.ops_only) {
        (true, _) => Form::Inline,
        (_, true) => Form::OpsOnly,
        _ => Form::Functions,
    };
    let output = options
        .output
        .clone()
        .unwrap_or_else(|| source::default_output(&options.model));
    let mut files = vec![
        ("The model", options.model.as_path()),
        ("the output", output.as_path()),
    ];
    files.extend(options.plan.as_deref().map(|p| ("the plan", p)));
    files.extend(
        options
            .emit_plan
            .as_deref()
            .map(|p| ("the written plan", p)),
    );
    files.extend(options.report.as_deref().map(|p| ("the report", p)));
    source::all_different(&files)?;
    let model = source::open(&options.model)?;
    let mut after = |pass: &Pass, conversion: &Conversion| {
        if options.print_after.iter().any(|p| p == pass.name) {
            say!("after {}: {}\n{}", pass.name, pass.about, conversion.model);
        }
    };
    // A dry run needs no more than the plan.
    let stop_after = match (&options.stop_after, options.dry_run) {
        (Some(pass), _) => Some(pass.as_str()),
        (None, true) => Some("plan"),
        (None, false) => None,
    };
    let mut hooks = Hooks {
        verify_each: options.verify_each,
        after: &mut after,
        stop_after,
    };
    let mut conversion = convert(model, request, form, &mut hooks)
        .with_context(|| options.model.display().to_string())?;
    if let Some(path) = &options.emit_plan {
        source::write_text(path, &conversion.plan.to_toml()?)?;
    }
    if options.dry_run {
        say!("{}", conversion.plan.to_toml()?.trim_end());
        return Ok(Verdict::Ok);
    }
    if options.stop_after.is_some() {
        return Ok(Verdict::Ok);
    }
    conversion
        .model
        .set_metadata(SOURCE, &source::sha256(&options.model)?);
    source::save(&conversion.model, &options.model, &output)?;
    if let Some(path) = &options.report {
        let json = serde_json::to_string_pretty(&report::conversion(
            &conversion,
            &options.model,
            &output,
        ))?;
        source::write_text(path, &(json + "\n"))?;
    }
    eprint!("{}", report::summary(&conversion));
    say!("{}", output.display());
    Ok(Verdict::Ok)
}

fn request(options: &Options) -> Result<Request> {
    if let Some(path) = &options.plan {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Usage(format!("The plan {} cannot be read: {e}.", path.display())))?;
        return Ok(Request::Plan(Plan::from_toml(&text)?));
    }
    let mut common = EncoderOptions {
        runtime_budget: options.runtime_budget,
        device: options.device.as_deref().map(str::parse).transpose()?,
        ..EncoderOptions::default()
    };
    let mut single: BTreeMap<usize, EncoderOptions> = BTreeMap::new();
    let mut each = |values: &[String],
                    set: &dyn Fn(&mut EncoderOptions, &str) -> Result<(), Error>|
     -> Result<()> {
        for value in values {
            match prefix(value) {
                Some((encoder, value)) => set(single.entry(encoder).or_default(), value)?,
                None => set(&mut common, value)?,
            }
        }
        Ok(())
    };
    each(&options.vip, &|o, v| parse(v, &mut o.vip))?;
    each(&options.vip_capacity, &|o, v| parse(v, &mut o.vip_capacity))?;
    each(&options.ladder, &|o, v| parse(v, &mut o.ladder))?;
    each(&options.refine, &|o, v| parse(v, &mut o.refine))?;
    each(&options.blocks, &|o, v| parse(v, &mut o.blocks))?;
    each(&options.reselect_every, &|o, v| {
        let blocks: usize = v.parse().ok().filter(|&m| m > 0).ok_or_else(|| {
            Error::Usage(format!(
                "--reselect-every '{v}' is not a whole number from 1."
            ))
        })?;
        o.reselect_every = Some(blocks);
        Ok(())
    })?;
    each(&options.mask_input, &|o, v| {
        o.mask_input = Some(v.to_owned());
        Ok(())
    })?;
    Ok(Request::Options(common, single))
}

fn parse<T: FromStr<Err = Error>>(text: &str, into: &mut Option<T>) -> Result<(), Error> {
    *into = Some(text.parse()?);
    Ok(())
}

/// `1:first:8` is `first:8` for encoder 1.
fn prefix(value: &str) -> Option<(usize, &str)> {
    let (head, rest) = value.split_once(':')?;
    Some((head.parse().ok()?, rest))
}
