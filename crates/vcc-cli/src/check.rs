//! `vcc inspect --check`: the analysis against reality. The graph that the analysis sees runs in ONNX Runtime as it stands, with
//! every value of it exposed, at three sizes that the analysis was not made at. Compared are
//! - the shape, data type and, where it is claimed to be known, content of every value ([`facts`]);
//! - what every axis inside a block runs over, by changing one token and by permuting tokens and batch rows ([`roles`]).
//!
//! Values in the bodies of control flow are left out, and blocks that are refused have no axes to check.

mod arrays;
mod facts;
mod roles;
mod sizes;
#[cfg(test)]
mod tests;

use crate::exit::Verdict;
use crate::inputs::Bounds;
use crate::source;
use anyhow::Result;
use onnx_model::{DataType, Graph, Model, NodeId, ValueId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use token_axes::Analysis;
use token_axes::interp::{Facts, Fill, Sample, evaluate};
use vcc_run::{
    Array, Data, Dim, ElementType, Inputs, Optimization, Outputs, Padding, PortInfo, RunError,
    Runtime, Session, SessionOptions,
};

/// What `--json` prints.
#[derive(Serialize)]
pub(crate) struct Report {
    model: String,
    runtime: String,
    /// The sizes of the inputs' symbols in each run.
    sizes: Vec<BTreeMap<String, i64>>,
    /// What could not be run or compared, and why.
    skipped: Vec<String>,
    compared: Compared,
    disagreements: Vec<Disagreement>,
}

/// How much was compared.
#[derive(Default, Serialize)]
pub(crate) struct Compared {
    values: usize,
    dimensions: usize,
    contents: usize,
    blocks: usize,
    axes: usize,
}

/// Something that the analysis takes for granted and that is not so.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Disagreement {
    value: String,
    node: String,
    /// What is wrong: shape, size, type, content, axes.
    what: &'static str,
    /// In which run.
    at: String,
    inferred: String,
    actual: String,
}

impl Disagreement {
    fn new(
        graph: &Graph,
        value: ValueId,
        what: &'static str,
        inferred: impl Into<String>,
        actual: impl Into<String>,
    ) -> Disagreement {
        let value = graph.value(value);
        let node = value.producer().map_or_else(
            || "(graph input or constant)".to_owned(),
            |(id, _)| token_axes::flow::describe(graph.node(id)),
        );
        Disagreement {
            value: value.name.clone(),
            node,
            what,
            at: String::new(),
            inferred: inferred.into(),
            actual: actual.into(),
        }
    }
}

/// Checks an analysis of a model whose main graph holds no calls of functions.
pub(crate) fn check(
    path: &Path,
    model: &Model,
    analysis: &Analysis,
    ort: Option<&Path>,
) -> Result<Report> {
    let runtime = Runtime::load(ort)?;
    let open = |model: &Model| Exposed::open(&runtime, path, model);
    let mut exposed = open(model)?;
    let mut blocks = roles::Blocks::open(model.clone(), analysis, open)?;
    let bounds = Bounds::of(model);
    let graph = &model.graph;
    let mut report = Report {
        model: path.display().to_string(),
        runtime: runtime.version().to_owned(),
        sizes: Vec::new(),
        skipped: Vec::new(),
        compared: Compared {
            values: exposed.values.len(),
            ..Compared::default()
        },
        disagreements: Vec::new(),
    };
    let mut failure = None;
    let paddings = [Padding::None, Padding::Ragged, Padding::Right];
    for (sample, padding) in sizes::samples(model).iter().zip(paddings) {
        let at = sizes::describe(&sample.dims);
        let facts = match evaluate(model, sample) {
            Ok(facts) => facts,
            Err(conflict) => {
                report.skipped.push(format!("{at}: {conflict}"));
                continue;
            }
        };
        let ports = exposed.ports_at(model, &facts);
        let inputs = bounds.random(&ports, 0, 1, 1, padding)?.inputs;
        let outputs = match exposed.run(&inputs) {
            Ok(outputs) => outputs,
            Err(e @ RunError::Run { .. }) => {
                report.skipped.push(format!("{at}: {e}"));
                failure = Some(e);
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        let compared = &mut report.compared;
        let mut found = facts::compare(graph, &facts, &outputs, false, compared);
        found.extend(facts::compare_sizes(graph, &analysis.samples, &outputs));
        found.extend(blocks.check(&inputs, &outputs, compared)?);
        // With the contents that the analysis assumes of the inputs it must be right about all else.
        for fill in [Fill::Ones, Fill::Counts, Fill::Zeros, Fill::RightPadded] {
            let sample = Sample {
                fill,
                ..sample.clone()
            };
            if let Ok(facts) = evaluate(model, &sample)
                && facts::nothing_is_empty(graph, &facts, &outputs)
                && let Some(inputs) = facts::assumed_inputs(graph, &facts, &ports)
                && let Ok(outputs) = exposed.run(&inputs)
            {
                found.extend(facts::compare(graph, &facts, &outputs, true, compared));
            }
        }
        report.sizes.push(sample.dims.clone());
        for wrong in found {
            let same = |d: &Disagreement| d.value == wrong.value && d.what == wrong.what;
            if !report.disagreements.iter().any(same) {
                let at = at.clone();
                report.disagreements.push(Disagreement { at, ..wrong });
            }
        }
    }
    match failure {
        Some(e) if report.sizes.is_empty() => Err(e.into()),
        _ => Ok(report),
    }
}

/// A model with every value of its main graph as an output.
struct Exposed {
    session: Session,
    /// The outputs that can be read.
    values: Vec<String>,
}

impl Exposed {
    fn open(runtime: &Runtime, path: &Path, model: &Model) -> Result<Exposed> {
        let mut model = model.clone();
        let graph = &mut model.graph;
        let nodes: Vec<NodeId> = graph.node_ids().collect();
        for id in nodes {
            let node = graph.node(id);
            // What pass `canonical` took apart, or put one operator in the place of, stands aside, with nothing to read.
            let aside = |v: ValueId| {
                let value = graph.value(v);
                value.producer().is_none() && !graph.is_input(v) && !graph.is_initializer(v)
            };
            let present = || node.inputs.iter().flatten();
            let has_none = !node.inputs.is_empty() && present().next().is_none();
            let first_is_none = node.inputs.first().is_some_and(Option::is_none);
            if has_none || first_is_none || present().any(|&v| aside(v)) {
                graph.remove_node(id);
                continue;
            }
            for value in node.outputs.clone().into_iter().flatten() {
                graph.add_output(value);
            }
        }
        let options = SessionOptions {
            optimization: Optimization::Off,
            ..SessionOptions::default()
        };
        let session = if model.external_files().is_empty() {
            Session::from_bytes(
                runtime,
                &path.display().to_string(),
                &model.to_vec()?,
                &options,
            )?
        } else {
            let scratch = source::scratch_beside(path)?;
            model.save(scratch.path())?;
            Session::open(runtime, scratch.path(), &options)?
        };
        let values = session
            .outputs()
            .iter()
            .filter(|p| p.element_type.is_some())
            .map(|p| p.name.clone())
            .collect();
        Ok(Exposed { session, values })
    }

    fn run(&mut self, inputs: &Inputs) -> Result<Outputs, RunError> {
        self.session.run_outputs(inputs, &self.values)
    }

    /// The inputs with the sizes of a sample.
    fn ports_at(&self, model: &Model, facts: &Facts) -> Vec<PortInfo> {
        let shape = |port: &PortInfo| -> Option<Vec<Dim>> {
            let shape = facts.shape(model.graph.find_value(&port.name)?)?;
            let size = |&d: &i64| usize::try_from(d).ok().map(Dim::Fixed);
            shape.iter().map(size).collect()
        };
        self.session
            .inputs()
            .iter()
            .map(|port| PortInfo {
                dims: shape(port).unwrap_or_else(|| port.dims.clone()),
                ..port.clone()
            })
            .collect()
    }
}

/// The element type that a data type has in arrays.
fn element_type(dtype: DataType) -> Option<ElementType> {
    Some(match dtype {
        DataType::Float => ElementType::F32,
        DataType::Double => ElementType::F64,
        DataType::Float16 => ElementType::F16,
        DataType::Int64 => ElementType::I64,
        DataType::Int32 => ElementType::I32,
        DataType::Int8 => ElementType::I8,
        DataType::Uint8 => ElementType::U8,
        DataType::Bool => ElementType::Bool,
        _ => return None,
    })
}

/// The array that a value is, whether it is computed, given or constant.
fn array_of(graph: &Graph, value: ValueId, inputs: &Inputs, outputs: &Outputs) -> Option<Array> {
    let name = &graph.value(value).name;
    let found = outputs.get(name).or_else(|| inputs.get(name));
    found.cloned().or_else(|| {
        let tensor = graph.tensor(value).or_else(|| graph.initializer(value))?;
        let shape: Option<Vec<usize>> = tensor
            .dims()
            .iter()
            .map(|&d| usize::try_from(d).ok())
            .collect();
        let data = Data::from_f64s(element_type(tensor.dtype())?, &tensor.to_f64s()?);
        Array::new(shape?, data).ok()
    })
}

impl Report {
    pub(crate) fn verdict(&self) -> Verdict {
        if self.disagreements.is_empty() {
            Verdict::Ok
        } else {
            Verdict::ComparisonFailed
        }
    }

    pub(crate) fn print(&self) {
        let sizes: Vec<String> = self.sizes.iter().map(sizes::describe).collect();
        say!(
            "{}: ran in ONNX Runtime {} at {}",
            self.model,
            self.runtime,
            sizes.join("; ")
        );
        for skipped in &self.skipped {
            say!("  not compared: {skipped}");
        }
        let c = &self.compared;
        say!(
            "  compared: {} values, {} dimensions, {} known contents; {} axes of {} blocks",
            c.values,
            c.dimensions,
            c.contents,
            c.axes,
            c.blocks
        );
        for d in &self.disagreements {
            say!("  value '{}' of {}", d.value, d.node);
            say!("    {} at {}", d.what, d.at);
            say!("    inferred: {}", d.inferred);
            say!("    actual:   {}", d.actual);
        }
        match self.disagreements.len() {
            0 => say!("  no disagreement"),
            n => say!("  {n} disagreements: this is a defect of vcc-convert, please report it"),
        }
    }
}
