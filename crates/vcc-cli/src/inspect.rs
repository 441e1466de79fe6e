//! `vcc inspect MODEL`

use crate::check;
use crate::exit::{Usage, Verdict};
use crate::source;
use anyhow::Result;
use clap::Args;
use onnx_model::Graph;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use token_axes::{Analysis, Block, BlockAxes, Dim, Refusal};
use vcc_passes::pairs;
use vcc_passes::pipeline::{Hooks, convert};
use vcc_passes::{Conversion, Error, Form, PartlyRead, Pass, Request};

/// Options of `vcc inspect`.
#[derive(Args)]
pub(crate) struct Options {
    /// The model
    model: PathBuf,
    /// Show how the analysis followed one block, given as STREAM.BLOCK or BLOCK
    #[arg(long, value_name = "BLOCK")]
    why: Option<String>,
    /// The number of tokens for which the largest token-by-token tensors are told
    #[arg(long, value_name = "N", default_value_t = 16384, value_parser = clap::value_parser!(i64).range(1..))]
    at: i64,
    /// Run the model and compare every inferred size, content and axis with what it is
    #[arg(long, conflicts_with = "why")]
    check: bool,
    /// ONNX Runtime's shared library or the directory it is in, for --check
    #[arg(long, value_name = "PATH", requires = "check")]
    ort: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    opset: i64,
    streams: Vec<StreamReport>,
}

#[derive(Serialize)]
struct StreamReport {
    /// The number that options give its encoder; none if no block can be converted.
    #[serde(skip_serializing_if = "Option::is_none")]
    encoder: Option<usize>,
    primary_output: String,
    padding_mask: Option<String>,
    token_by_token: Option<PairsReport>,
    blocks: Vec<BlockReport>,
}

/// The largest tensors with two token axes, for one batch row.
#[derive(Serialize)]
struct PairsReport {
    tokens: i64,
    before: PairReport,
    /// After a conversion with default options, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<PairReport>,
    /// Rows of a block after that conversion.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<i64>,
    /// What that conversion still computes for all tokens.
    kept: Vec<PairReport>,
}

#[derive(Serialize)]
struct PairReport {
    value: String,
    node: String,
    bytes: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct BlockReport {
    index: usize,
    name: String,
    input: String,
    output: String,
    nodes: usize,
    convertible: bool,
    refusal: Option<Refusal>,
    /// What is read of its output by a conversion with default options, if not all tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    axes: Option<AxesReport>,
}

#[derive(Serialize)]
struct AxesReport {
    stream: &'static str,
    tokens: String,
    channels: i64,
    softmax: String,
    scores: String,
    externals: Vec<ExternalReport>,
}

#[derive(Serialize)]
struct ExternalReport {
    value: String,
    node: String,
    axes: String,
}

pub(crate) fn run(options: &Options) -> Result<Verdict> {
    let model = source::open(&options.model)?;
    let mut after = |_: &Pass, _: &Conversion| {};
    let mut hooks = Hooks {
        verify_each: false,
        after: &mut after,
        stop_after: Some("blocks"),
    };
    let conversion = convert(model, Request::default(), Form::default(), &mut hooks)?;
    let Some(analysis) = &conversion.analysis else {
        return Err(Error::NothingToConvert("no analysis".into()).into());
    };
    let graph = &conversion.model.graph;
    if let Some(block) = &options.why {
        why(graph, analysis, block)?;
        return Ok(Verdict::Ok);
    }
    if options.check {
        let ort = options.ort.as_deref();
        let report = check::check(&options.model, &conversion.model, analysis, ort)?;
        if options.json {
            say!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            report.print();
        }
        return Ok(report.verdict());
    }
    let mut report = report(&options.model, conversion.opset(), graph, analysis);
    let before = pairs::before(&conversion, options.at);
    let (left, partly_read) = left_after(options)?;
    for stream in &mut report.streams {
        for block in &mut stream.blocks {
            let read = (partly_read.iter())
                .find(|r| Some(r.encoder) == stream.encoder && r.block == block.index);
            block.read = read.map(|r| r.what.clone());
        }
    }
    for (number, (stream, pair)) in report.streams.iter_mut().zip(before).enumerate() {
        let left = left.iter().find(|l| l.stream == number);
        stream.token_by_token = pair.map(|before| PairsReport {
            tokens: pairs::length(&analysis.streams[number], options.at),
            before: pair_report(&before),
            after: left.and_then(|l| l.largest.as_ref()).map(pair_report),
            rows: left.map(|l| l.rows),
            kept: left.map_or_else(Vec::new, |l| l.kept.iter().map(pair_report).collect()),
        });
    }
    if options.json {
        say!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(Verdict::Ok)
}

/// What a conversion with default options leaves; nothing if no block can be converted.
fn left_after(options: &Options) -> Result<(Vec<pairs::Left>, Vec<PartlyRead>)> {
    let mut ignore = |_: &Pass, _: &Conversion| {};
    let mut hooks = Hooks {
        verify_each: false,
        after: &mut ignore,
        stop_after: None,
    };
    let model = source::open(&options.model)?;
    match convert(model, Request::default(), Form::OpsOnly, &mut hooks) {
        Ok(conversion) => Ok((
            pairs::after(&conversion, options.at),
            conversion.partly_read,
        )),
        Err(Error::NothingToConvert(_)) => Ok((Vec::new(), Vec::new())),
        Err(other) => Err(other.into()),
    }
}

fn pair_report(pair: &pairs::Pair) -> PairReport {
    PairReport {
        value: pair.value.clone(),
        node: pair.node.clone(),
        bytes: pair.bytes,
        reason: pair.reason.clone(),
    }
}

fn report(path: &std::path::Path, opset: i64, graph: &Graph, analysis: &Analysis) -> Report {
    let name = |v| graph.value(v).name.clone();
    let mut streams: Vec<StreamReport> = analysis
        .streams
        .iter()
        .map(|stream| StreamReport {
            encoder: None,
            primary_output: name(stream.output),
            padding_mask: token_axes::padding::padding_mask(
                graph,
                &analysis.samples,
                &stream.convertible(),
            )
            .map(|m| name(m.value)),
            token_by_token: None,
            blocks: stream
                .blocks
                .iter()
                .enumerate()
                .map(|(index, block)| BlockReport {
                    index,
                    name: block.name.clone(),
                    input: name(block.input),
                    output: name(block.output),
                    nodes: block.core.len(),
                    convertible: block.axes.is_ok(),
                    refusal: block.axes.as_ref().err().cloned(),
                    read: None,
                    axes: block
                        .axes
                        .as_ref()
                        .ok()
                        .map(|axes| axes_report(graph, axes)),
                })
                .collect(),
        })
        .collect();
    number_encoders(&mut streams);
    Report {
        model: path.display().to_string(),
        opset,
        streams,
    }
}

/// The encoders are the streams with a block to convert, in order.
fn number_encoders(streams: &mut [StreamReport]) {
    let encoders = streams
        .iter_mut()
        .filter(|s| s.blocks.iter().any(|b| b.convertible));
    for (number, stream) in encoders.enumerate() {
        stream.encoder = Some(number);
    }
}

fn axes_report(graph: &Graph, axes: &BlockAxes) -> AxesReport {
    let mut externals: BTreeMap<String, ExternalReport> = BTreeMap::new();
    for (&node, flow) in &axes.flows {
        for external in &flow.externals {
            let value = graph.value(external.value).name.clone();
            externals
                .entry(value.clone())
                .or_insert_with(|| ExternalReport {
                    value,
                    node: token_axes::flow::describe(graph.node(node)),
                    axes: external
                        .frame
                        .iter()
                        .map(|a| {
                            if a.present {
                                token_axes::Layout(vec![a.axis.clone()]).to_string()
                            } else {
                                "[1]".into()
                            }
                        })
                        .collect::<Vec<_>>()
                        .join(""),
                });
        }
    }
    AxesReport {
        stream: axes.order.as_str(),
        tokens: tokens(axes.tokens),
        channels: axes.channels,
        softmax: token_axes::flow::describe(graph.node(axes.softmax)),
        scores: axes
            .layouts
            .get(&axes.scores)
            .map(ToString::to_string)
            .unwrap_or_default(),
        externals: externals.into_values().collect(),
    }
}

fn tokens(dim: Dim) -> String {
    dim.constant()
        .map_or_else(|| "dynamic".to_owned(), |n| format!("always {n}"))
}

fn print(report: &Report) {
    say!(
        "{}: opset {}, {} residual stream(s) with attention",
        report.model,
        report.opset,
        report.streams.len()
    );
    for (number, stream) in report.streams.iter().enumerate() {
        let convertible = stream.blocks.iter().filter(|b| b.convertible).count();
        say!(
            "\nstream {number}{}, to '{}': {} blocks, {convertible} can be converted",
            stream
                .encoder
                .map_or_else(String::new, |encoder| format!(" (encoder {encoder})")),
            stream.primary_output,
            stream.blocks.len()
        );
        say!(
            "  padding mask: {}",
            stream.padding_mask.as_deref().unwrap_or("none found")
        );
        if let Some(pairs) = &stream.token_by_token {
            print_pairs(pairs);
        }
        for block in &stream.blocks {
            say!(
                "  block {} {} ({} nodes)",
                block.index,
                block.name,
                block.nodes
            );
            say!("    from '{}' to '{}'", block.input, block.output);
            if let Some(refusal) = &block.refusal {
                say!("    refused: {refusal}");
            }
            if let Some(what) = &block.read {
                say!("    converted, {what}");
            }
            if let Some(axes) = &block.axes {
                say!(
                    "    stream {}, {} channels, tokens {}",
                    axes.stream,
                    axes.channels,
                    axes.tokens
                );
                say!("    attention {} over {}", axes.softmax, axes.scores);
                for external in &axes.externals {
                    say!(
                        "    external '{}' {} at {}",
                        external.value,
                        external.axes,
                        external.node
                    );
                }
            }
        }
    }
}

fn print_pairs(pairs: &PairsReport) {
    let line = |pair: &PairReport| {
        let size = bytes(pair.bytes);
        format!("{size} '{}' of {}", pair.value, pair.node)
    };
    say!(
        "  largest token-by-token tensor of a batch row with {} tokens",
        pairs.tokens
    );
    say!("    in the model: {}", line(&pairs.before));
    match (&pairs.after, pairs.rows) {
        (Some(after), Some(rows)) => {
            say!(
                "    converted with default options ({rows} rows): {}",
                line(after)
            );
        }
        _ => say!("    converted with default options: none"),
    }
    for kept in &pairs.kept {
        let reason = kept.reason.as_deref().unwrap_or_default();
        say!(
            "    still computed for all tokens: {}: {reason}",
            line(kept)
        );
    }
}

/// A size in bytes for people.
fn bytes(size: u128) -> String {
    const UNITS: [&str; 6] = ["B", "KB", "MB", "GB", "TB", "PB"];
    let (mut rest, mut unit) = (size as f64, 0);
    while rest >= 1000.0 && unit + 1 < UNITS.len() {
        rest /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{size} B"),
        _ => format!("{rest:.1} {}", UNITS[unit]),
    }
}

/// Prints the nodes of a block with the layouts of their outputs, up to where it was refused.
fn why(graph: &Graph, analysis: &Analysis, which: &str) -> Result<()> {
    let (stream, number) = which.split_once('.').unwrap_or(("0", which));
    let block: Option<&Block> = match (stream.parse::<usize>(), number.parse::<usize>()) {
        (Ok(s), Ok(b)) => analysis.streams.get(s).and_then(|s| s.blocks.get(b)),
        _ => None,
    };
    let block = block.ok_or_else(|| {
        Usage(format!("There is no block '{which}'; `vcc inspect MODEL` lists them (STREAM.BLOCK, both from 0)."))
    })?;
    say!("block {which} {}", block.name);
    say!("the stream enters as '{}'", graph.value(block.input).name);
    match &block.axes {
        Ok(axes) => {
            for line in token_axes::block::trail(graph, &axes.layouts, &block.core) {
                say!("  {line}");
            }
            say!("can be converted");
        }
        Err(refusal) => {
            for line in &refusal.trail {
                say!("  {line}");
            }
            say!("refused: {refusal}");
        }
    }
    Ok(())
}
