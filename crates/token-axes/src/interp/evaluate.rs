//! The walk over a graph.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use onnx_model::{Dimension, Graph, Model, Node, NodeId, ValueId};

use super::dispatch;
use super::facts::{Baked, Facts, Mismatch, SizeConflict, Unknown};
use super::op::{Fail, Op, Out, because, small};
use super::samples::{Fill, Sample, symbol_of};
use super::value::{Content, Kind, Value};

/// Evaluates the graph at one sample.
///
/// # Errors
/// Two symbols that must be the same size but are not in this sample; also a symbol and a number, where a constant
/// leaves no choice (the channels of an image, the width of an embedding).
pub fn evaluate(model: &Model, sample: &Sample) -> Result<Facts, SizeConflict> {
    run(model, sample, &BTreeSet::new())
}

/// [`evaluate`], without the conflicts in `ignored`.
pub(super) fn run(
    model: &Model,
    sample: &Sample,
    ignored: &BTreeSet<SizeConflict>,
) -> Result<Facts, SizeConflict> {
    let mut sizes = BTreeMap::new();
    for (symbol, size) in &sample.dims {
        sizes.entry(*size).or_insert(symbol.as_str());
    }
    let walk = Walk {
        graph: &model.graph,
        model,
        sample,
        sizes,
        ignored,
        nothing: Value::default(),
    };
    let mut facts = Facts::default();
    for v in model.graph.value_ids() {
        let is_input = model.graph.is_input(v);
        if let Some(tensor) = model
            .graph
            .tensor(v)
            .filter(|_| !is_input || model.graph.is_initializer(v))
        {
            facts.values.insert(v, Value::of_tensor(tensor));
        } else if is_input {
            walk.input(v, &mut facts);
        }
    }
    for id in model.graph.node_ids() {
        walk.node(id, &mut facts)?;
    }
    Ok(facts)
}

struct Walk<'a> {
    graph: &'a Graph,
    model: &'a Model,
    sample: &'a Sample,
    /// The symbol that has a size.
    sizes: BTreeMap<i64, &'a str>,
    ignored: &'a BTreeSet<SizeConflict>,
    /// What is known of a value that nothing has made so far.
    nothing: Value,
}

impl Walk<'_> {
    /// A graph input: its declared shape at the sample's sizes, and the assumed content.
    fn input(&self, v: ValueId, facts: &mut Facts) {
        if let Some(default) = self.graph.initializer(v) {
            facts.values.insert(
                v,
                Value {
                    assumed_content: true,
                    constant: false,
                    ..Value::of_tensor(default)
                },
            );
            return;
        }
        let value = self.graph.value(v);
        let info = value.info();
        let dims = info.and_then(|i| i.dims.as_deref());
        let sized = |(axis, d): (usize, &Dimension)| match symbol_of(&value.name, axis, d) {
            Ok(size) => Some(size),
            Err(symbol) => self.sample.dims.get(&symbol).copied(),
        };
        let shape: Option<Vec<i64>> =
            dims.and_then(|dims| dims.iter().enumerate().map(sized).collect());
        let mut found = Value {
            dtype: info.and_then(|i| i.dtype),
            shape,
            ..Value::default()
        };
        match (&found.shape, found.dtype) {
            (Some(shape), Some(dtype)) => {
                let content = small(shape)
                    .then(|| self.fill(shape))
                    .and_then(|f| f.cast(dtype));
                found.set_content(content.filter(|_| Kind::of(dtype).is_some()));
                found.assumed_content = true;
            }
            (Some(_), None) => {}
            (None, _) => {
                let reason = "the graph input declares no shape".to_owned();
                facts.unknown.insert(
                    v,
                    Unknown {
                        node: None,
                        reason,
                        from: None,
                    },
                );
            }
        }
        facts.values.insert(v, found);
    }

    /// Zeros and ones by the sample's rule.
    fn fill(&self, shape: &[i64]) -> Content {
        let n = super::index::count(shape).unwrap_or(0);
        let last = shape.last().copied().unwrap_or(1).max(1) as usize;
        let real = last - last / 3;
        Content::Int(match self.sample.fill {
            Fill::Ones => vec![1; n],
            Fill::Zeros => vec![0; n],
            Fill::RightPadded => (0..n).map(|i| i64::from(i % last < real)).collect(),
        })
    }

    fn node(&self, id: NodeId, facts: &mut Facts) -> Result<(), SizeConflict> {
        let node = self.graph.node(id);
        // Constants are there already.
        if node
            .outputs
            .iter()
            .flatten()
            .all(|v| facts.values.contains_key(v))
        {
            return Ok(());
        }
        let given = |v: ValueId| facts.values.get(&v).unwrap_or(&self.nothing);
        let op = Op {
            node,
            opset: self.model.opset(&node.domain).unwrap_or(1),
            inputs: node.inputs.iter().map(|v| v.map(given)).collect(),
            read_assumed_content: Cell::new(false),
            read_assumed_shape: Cell::new(false),
        };
        let rule = dispatch::rule(&node.domain, &node.op_type);
        let outcome = rule.map_or_else(|| because(unknown_operator(node)), |(rule, _)| rule(&op));
        let dtypes = rule.map_or(&[][..], |(_, types)| types);
        let dtype_of = |i: usize| dtypes.get(i).or(dtypes.last()).and_then(|t| t.resolve(&op));
        let dtypes: Vec<_> = (0..node.outputs.len()).map(dtype_of).collect();
        let shapes_assumed =
            op.read_assumed_shape.get() || op.inputs.iter().flatten().any(|v| v.assumed_shape);
        let contents_assumed = op.read_assumed_content.get() || shapes_assumed;
        let constant = node.captures().is_empty() && op.inputs.iter().flatten().all(|v| v.constant);

        let (mut outs, unknown) = match outcome {
            Ok(outs) => {
                let reason = "the operator's rule does not give this output".to_owned();
                (
                    outs,
                    Unknown {
                        node: Some(id),
                        reason,
                        from: None,
                    },
                )
            }
            Err(fail) => (Vec::new(), self.explain(id, fail, facts)?),
        };
        outs.resize_with(node.outputs.len(), Out::default);
        for ((v, out), dtype) in node.outputs.iter().zip(outs).zip(dtypes) {
            let Some(v) = *v else { continue };
            let declared = self.graph.value(v).info();
            let dtype = dtype.or_else(|| declared?.dtype);
            let mut value = Value {
                dtype,
                constant,
                assumed_shape: shapes_assumed,
                ..Value::default()
            };
            let sizes = declared.and_then(|d| d.dims.as_deref()).unwrap_or_default();
            match out.shape {
                Some(shape) => {
                    compare(v, sizes, &shape, facts);
                    value.shape = Some(shape);
                    value.set_content(
                        out.content
                            .filter(|c| dtype.is_some_and(|t| c.kind() == Kind::of(t))),
                    );
                    value.assumed_content = contents_assumed && value.content().is_some();
                }
                None => {
                    facts.unknown.insert(v, unknown.clone());
                    value.shape = self.declared(sizes);
                }
            }
            facts.values.insert(v, value);
        }
        Ok(())
    }

    /// A declared shape at this sample's sizes, if they are all known. No axes: exporters write that for values whose
    /// rank they do not know, too.
    fn declared(&self, dims: &[Dimension]) -> Option<Vec<i64>> {
        let size = |d: &Dimension| match d {
            Dimension::Value(size) => Some(*size),
            Dimension::Param(symbol) => self.sample.dims.get(symbol).copied(),
            Dimension::Unknown => None,
        };
        if dims.is_empty() {
            None
        } else {
            dims.iter().map(size).collect()
        }
    }

    /// The reason that a failed rule gives.
    fn explain(&self, id: NodeId, fail: Fail, facts: &mut Facts) -> Result<Unknown, SizeConflict> {
        let node = Some(id);
        let (a, b, fixed) = match fail {
            Fail::Because { reason, input } => {
                let from = input.and_then(|i| self.graph.node(id).inputs.get(i).copied().flatten());
                return Ok(Unknown { node, reason, from });
            }
            Fail::Differ { a, b, fixed } => (a, b, fixed),
        };
        let (symbol, literal) = match (self.sizes.get(&a), self.sizes.get(&b)) {
            (Some(x), Some(y)) => {
                let conflict = SizeConflict {
                    a: (*x).to_owned(),
                    b: (*y).to_owned(),
                };
                if x != y && !self.ignored.contains(&conflict) {
                    return Err(conflict);
                }
                (None, 0)
            }
            (Some(x), None) => (Some(*x), b),
            (None, Some(y)) => (Some(*y), a),
            (None, None) => (None, 0),
        };
        let mut reason = format!("the sizes {a} and {b} differ");
        if let Some(symbol) = symbol {
            let conflict = SizeConflict {
                a: symbol.to_owned(),
                b: literal.to_string(),
            };
            if fixed && self.sample.may_be_number(symbol) && !self.ignored.contains(&conflict) {
                return Err(conflict);
            }
            reason = format!("`{symbol}`, declared dynamic, meets a size {literal}");
            facts.baked.push(Baked {
                node: id,
                symbol: symbol.to_owned(),
                literal,
            });
        }
        Ok(Unknown {
            node,
            reason,
            from: None,
        })
    }
}

fn unknown_operator(node: &Node) -> String {
    let domain = if node.domain.is_empty() {
        "ai.onnx"
    } else {
        &node.domain
    };
    format!(
        "there is no rule for the operator {domain}.{}",
        node.op_type
    )
}

/// Notes where the declared sizes are not the computed ones.
fn compare(value: ValueId, declared: &[Dimension], computed: &[i64], facts: &mut Facts) {
    for (axis, (d, &computed)) in declared.iter().zip(computed).enumerate() {
        if let Dimension::Value(declared) = *d
            && declared != computed
        {
            facts.mismatches.push(Mismatch {
                value,
                axis,
                declared,
                computed,
            });
        }
    }
}
