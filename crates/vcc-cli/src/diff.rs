//! `vcc diff A B`: what the rewrite changed, block by block.

use crate::exit::Verdict;
use crate::source;
use anyhow::Result;
use clap::Args;
use comfy_table::{Table, presets};
use onnx_model::{Graph, Model, ValueId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use vcc_passes::pipeline::{Hooks, convert};
use vcc_passes::{Conversion, Form, Pass, Request};

/// Options of `vcc diff`.
#[derive(Args)]
pub(crate) struct Options {
    /// The original model
    a: PathBuf,
    /// The converted model
    b: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Nodes of one block, matched by name.
#[derive(Default, Serialize)]
struct Changes {
    /// The same inputs, outputs and operator in both.
    same: usize,
    /// In both, with other inputs or outputs.
    rewired: usize,
    /// In A only.
    removed: usize,
    /// In B only, by operator.
    added: BTreeMap<String, usize>,
}

#[derive(Serialize)]
struct Report {
    blocks: Vec<(String, Changes)>,
    plan: Option<String>,
}

/// Where a node stands: a block `encoder.block`, or outside all blocks.
type Place = Option<(usize, usize)>;

pub(crate) fn run(options: &Options) -> Result<Verdict> {
    let a = source::open(&options.a)?;
    let b = source::open(&options.b)?;
    let plan = source::recorded(&b, &options.b)
        .ok()
        .map(|(plan, _)| plan.to_toml())
        .transpose()?;
    let places = places(source::open(&options.a)?)?;
    let report = Report {
        blocks: compare(&a.graph, &b.graph, &places)?,
        plan,
    };
    if options.json {
        say!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(Verdict::Ok)
}

/// The block of every node of the original, by node name.
fn places(model: Model) -> Result<BTreeMap<String, Place>> {
    let mut after = |_: &Pass, _: &Conversion| {};
    let mut hooks = Hooks {
        verify_each: false,
        after: &mut after,
        stop_after: Some("blocks"),
    };
    let conversion = convert(model, Request::default(), Form::default(), &mut hooks)?;
    let graph = &conversion.model.graph;
    let mut out = BTreeMap::new();
    let streams = conversion
        .analysis
        .iter()
        .flat_map(|a| &a.streams)
        .filter(|s| !s.convertible().is_empty());
    for (encoder, stream) in streams.enumerate() {
        for (number, block) in stream.blocks.iter().enumerate() {
            for &id in &block.core {
                out.insert(graph.node(id).name.clone(), Some((encoder, number)));
            }
        }
    }
    Ok(out)
}

fn compare(
    a: &Graph,
    b: &Graph,
    places: &BTreeMap<String, Place>,
) -> Result<Vec<(String, Changes)>> {
    let (mut in_a, mut in_b) = (BTreeMap::new(), BTreeMap::new());
    look_into(a, &mut in_a)?;
    look_into(b, &mut in_b)?;
    let mut blocks: BTreeMap<Place, Changes> = BTreeMap::new();
    let place = |name: &str| {
        places
            .get(name)
            .copied()
            .flatten()
            .or_else(|| inserted(name))
    };
    for (key, node) in &in_a {
        let changes = blocks.entry(place(&node.name)).or_default();
        match in_b.get(key) {
            None => changes.removed += 1,
            Some(other) if node == other => changes.same += 1,
            Some(_) => changes.rewired += 1,
        }
    }
    for (key, node) in in_b.iter().filter(|(key, _)| !in_a.contains_key(*key)) {
        let changes = blocks.entry(place(key)).or_default();
        *changes.added.entry(node.operator.clone()).or_insert(0) += 1;
    }
    let named = blocks.into_iter().map(|(place, changes)| {
        let name = place.map_or("outside blocks".to_owned(), |(e, n)| {
            format!("block {e}.{n}")
        });
        (name, changes)
    });
    Ok(named.collect())
}

/// A node as it is compared.
#[derive(PartialEq)]
struct Known {
    name: String,
    operator: String,
    /// Names of its inputs and outputs.
    values: Vec<Option<String>>,
}

/// The nodes of a graph and of the graphs in it (a local block's are in the body of a Scan) by name; one without a name goes by its first
/// output.
fn look_into(graph: &Graph, nodes: &mut BTreeMap<String, Known>) -> Result<()> {
    let name = |v: ValueId| graph.value(v).name.clone();
    for id in graph.node_ids() {
        let node = graph.node(id);
        let first = node.outputs.iter().flatten().next().copied();
        let key = match &node.name[..] {
            "" => first.map(name).unwrap_or_default(),
            own => own.to_owned(),
        };
        let values = node.inputs.iter().chain(&node.outputs);
        let known = Known {
            name: node.name.clone(),
            operator: node.op_type.clone(),
            values: values.map(|v| v.map(name)).collect(),
        };
        nodes.insert(key, known);
        for attribute in ["body", "then_branch", "else_branch"] {
            if let Some(inner) = node.subgraph(attribute)? {
                look_into(&inner, nodes)?;
            }
        }
    }
    Ok(())
}

/// The block that an inserted node's name tells: `vcc/encoder0/block3/..`.
fn inserted(name: &str) -> Place {
    let rest = name.strip_prefix("vcc/encoder")?;
    let (encoder, rest) = rest.split_once('/')?;
    let number: String = rest
        .strip_prefix("block")?
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    Some((encoder.parse().ok()?, number.parse().ok()?))
}

fn print(report: &Report) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["", "same", "rewired", "removed", "added", "of these ai.vcc"]);
    for (block, changes) in &report.blocks {
        let ours = changes.added.iter().filter(|(op, _)| op.starts_with("Vcc"));
        let ours: Vec<String> = ours.map(|(op, n)| format!("{n} {op}")).collect();
        table.add_row([
            block.clone(),
            changes.same.to_string(),
            changes.rewired.to_string(),
            changes.removed.to_string(),
            changes.added.values().sum::<usize>().to_string(),
            ours.join(", "),
        ]);
    }
    say!("{table}");
    if let Some(plan) = &report.plan {
        say!("{}", plan.trim_end());
    }
}
