//! The walk over a graph.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use onnx_model::{Dimension, Graph, Model, Node, NodeId, ValueId};

use super::dispatch;
use super::facts::{Baked, Facts, Mismatch, SizeConflict, Unknown};
use super::op::{Fail, Op, because, small};
use super::samples::{Fill, Sample, symbol_of};
use super::value::{Content, Kind, Value};

/// How many elements of contents one evaluation stores at most: 128 MiB. Real models need less than a tenth.
const BUDGET: usize = 1 << 24;

/// Evaluates the graph at one sample.
///
/// # Errors
/// Two symbols that must be the same size but are not in this sample; also a symbol and a number, where a constant
/// leaves no choice (the channels of an image, the width of an embedding).
pub fn evaluate(model: &Model, sample: &Sample) -> Result<Facts, SizeConflict> {
    let (facts, conflicts) = run(model, sample);
    conflicts.into_iter().next().map_or(Ok(facts), Err)
}

/// [`evaluate`] with all conflicts; the values concerned are unknown.
pub(super) fn run(model: &Model, sample: &Sample) -> (Facts, Vec<SizeConflict>) {
    let mut sizes = BTreeMap::new();
    // An axis of size 1 tells nothing of where it comes from.
    for (symbol, size) in sample.dims.iter().filter(|(_, size)| **size > 1) {
        sizes.entry(*size).or_insert(symbol.as_str());
    }
    let graph = &model.graph;
    let nothing = Value::default();
    let conflicts = RefCell::default();
    let budget = Cell::new(BUDGET);
    let walk = Walk {
        graph,
        model,
        sample,
        sizes: &sizes,
        conflicts: &conflicts,
        budget: &budget,
        nothing: &nothing,
    };
    let mut facts = Facts::default();
    for &v in graph.inputs() {
        walk.input(v, &mut facts);
    }
    walk.all(&mut facts);
    (facts, conflicts.into_inner())
}

/// A graph that is being evaluated, and at what.
pub(super) struct Walk<'a> {
    pub(super) graph: &'a Graph,
    model: &'a Model,
    sample: &'a Sample,
    /// The symbol that has a size.
    sizes: &'a BTreeMap<i64, &'a str>,
    conflicts: &'a RefCell<Vec<SizeConflict>>,
    /// How many elements of contents may still be stored.
    budget: &'a Cell<usize>,
    /// What is known of a value that nothing has made so far.
    nothing: &'a Value,
}

/// What a node is found to make.
pub(super) struct Made {
    /// One per output.
    pub(super) values: Vec<Value>,
    /// Why a shape is missing, if one is.
    pub(super) unknown: Unknown,
}

impl Walk<'_> {
    /// Evaluates everything but the inputs, which are in `facts`.
    pub(super) fn all(&self, facts: &mut Facts) {
        for v in self.graph.value_ids() {
            if let Some(tensor) = self.graph.tensor(v) {
                facts.values.insert(v, Value::of_tensor(tensor));
            }
        }
        for id in self.graph.node_ids() {
            let node = self.graph.node(id);
            // Constants are there already.
            if node
                .outputs
                .iter()
                .flatten()
                .all(|v| facts.values.contains_key(v))
            {
                continue;
            }
            let made = if node.has_subgraph() {
                self.control(id, facts)
            } else {
                self.node(id, facts)
            };
            for (v, value) in node.outputs.iter().zip(made.values) {
                if let Some(v) = *v {
                    self.store(v, value, &made.unknown, facts);
                }
            }
        }
    }

    /// The same for a subgraph.
    pub(super) fn within<'b>(&'b self, graph: &'b Graph) -> Walk<'b> {
        Walk { graph, ..*self }
    }

    /// The same with conflicts collected elsewhere.
    pub(super) fn apart<'b>(&'b self, conflicts: &'b RefCell<Vec<SizeConflict>>) -> Walk<'b> {
        Walk { conflicts, ..*self }
    }

    /// A graph input: its declared shape at the sample's sizes, and the assumed content.
    fn input(&self, v: ValueId, facts: &mut Facts) {
        // An initializer that is listed as an input too is one by habit: a constant, which nobody gives another value.
        if let Some(default) = self.graph.initializer(v) {
            facts.values.insert(v, Value::of_tensor(default));
            return;
        }
        let value = self.graph.value(v);
        let info = value.info();
        let dims = info.and_then(|i| i.dims.as_deref());
        let sized = |(axis, d): (usize, &Dimension)| match symbol_of(&value.name, axis, d) {
            Ok(size) => Some(size),
            Err(symbol) => self.sample.dims.get(&symbol).copied(),
        };
        let shape = dims.and_then(|dims| dims.iter().enumerate().map(sized).collect());
        let mut found = Value {
            dtype: info.and_then(|i| i.dtype),
            shape,
            ..Value::default()
        };
        if let Some(shape) = &found.shape {
            let room = super::index::count(shape).is_some_and(|n| n <= self.budget.get());
            let fill = if small(shape) && room {
                Some(self.fill(v, shape))
            } else {
                None
            };
            found.set_content(fill.zip(found.dtype).and_then(|(f, dtype)| f.cast(dtype)));
            found.assumed_content = true;
            self.spend(&mut found);
        } else {
            let reason =
                "the graph input declares no shape, or one of a size that is not given".to_owned();
            facts.unknown.insert(
                v,
                Unknown {
                    node: None,
                    reason,
                    from: None,
                },
            );
        }
        facts.values.insert(v, found);
    }

    /// Zeros and ones by the sample's rule.
    fn fill(&self, v: ValueId, shape: &[i64]) -> Content {
        let n = super::index::count(shape).unwrap_or(0);
        let last = shape.last().copied().unwrap_or(1).max(1) as usize;
        let real = last - last / 3;
        Content::Int(match self.sample.fill {
            Fill::Counts if self.is_per_batch_row(v) => {
                vec![self.sample.dims.values().copied().max().unwrap_or(1); n]
            }
            Fill::Ones | Fill::Counts => vec![1; n],
            Fill::Zeros => vec![0; n],
            Fill::RightPadded => (0..n).map(|i| i64::from(i % last < real)).collect(),
        })
    }

    /// Whether an input may have one number for each batch row: its only axis that is not 1 is one of another input's, which has more.
    fn is_per_batch_row(&self, v: ValueId) -> bool {
        let dims = |v: ValueId| self.graph.value(v).info()?.dims.as_deref();
        let Some([rows, rest @ ..]) = dims(v) else {
            return false;
        };
        let one = Dimension::Value(1);
        *rows != Dimension::Unknown
            && rest.iter().all(|d| *d == one)
            && self.graph.inputs().iter().any(|&other| {
                let dims = dims(other).unwrap_or_default();
                !self.graph.is_initializer(other)
                    && dims.contains(rows)
                    && dims.iter().any(|d| d != rows && *d != one)
            })
    }

    /// Applies an operator's rule.
    fn node(&self, id: NodeId, facts: &mut Facts) -> Made {
        let node = self.graph.node(id);
        let given = |v: ValueId| facts.values.get(&v).unwrap_or(self.nothing);
        let op = Op {
            node,
            opset: self.model.opset(&node.domain).unwrap_or(1),
            inputs: node.inputs.iter().map(|v| v.map(given)).collect(),
            read_assumed_content: Cell::new(false),
            read_assumed_shape: Cell::new(false),
            likely_same: RefCell::new(Vec::new()),
        };
        let rule = dispatch::rule(&node.domain, &node.op_type);
        let outcome = match rule {
            Some((rule, _)) => rule(&op),
            None => because(unknown_operator(node)),
        };
        let types = rule.map_or(&[][..], |(_, types)| types);
        let assumed_shape =
            op.read_assumed_shape.get() || op.inputs.iter().flatten().any(|v| v.assumed_shape);
        let assumed_content = op.read_assumed_content.get() || assumed_shape;
        let constant = op.inputs.iter().flatten().all(|v| v.constant);
        for &(a, b) in op.likely_same.borrow().iter() {
            self.note_symbols(a, b);
        }
        let (mut outs, fail) = match outcome {
            Ok(outs) => (outs, None),
            Err(fail) => (Vec::new(), Some(fail)),
        };
        outs.resize_with(node.outputs.len(), Default::default);
        let mut values = Vec::new();
        for (i, out) in outs.into_iter().enumerate() {
            let dtype = types.get(i).or(types.last()).and_then(|t| t.resolve(&op));
            let mut value = Value {
                dtype,
                shape: out.shape,
                constant,
                assumed_shape,
                ..Value::default()
            };
            value.set_content(
                out.content
                    .filter(|c| dtype.and_then(Kind::of) == Some(c.kind())),
            );
            value.assumed_content = assumed_content && value.content().is_some();
            values.push(value);
        }
        let unknown = match fail {
            Some(fail) => self.explain(id, fail, facts),
            None => {
                let reason = "the operator's rule does not give this output".to_owned();
                Unknown {
                    node: Some(id),
                    reason,
                    from: None,
                }
            }
        };
        Made { values, unknown }
    }

    /// Stores an output: what was found of it, else what the file declares.
    fn store(&self, v: ValueId, mut value: Value, unknown: &Unknown, facts: &mut Facts) {
        let declared = self.graph.value(v).info();
        let dims = declared.and_then(|d| d.dims.as_deref()).unwrap_or_default();
        value.dtype = value.dtype.or_else(|| declared?.dtype);
        match &value.shape {
            // What the file says is better than what follows from an assumption.
            Some(shape) if value.assumed_shape => {
                if let Some(other) = self.declared(dims).filter(|d| d != shape) {
                    value.shape = Some(other);
                    value.set_content(None);
                }
            }
            Some(shape) => compare(v, dims, shape, facts),
            None => {
                facts.unknown.insert(v, unknown.clone());
                value.shape = self.declared(dims);
            }
        }
        self.spend(&mut value);
        facts.values.insert(v, value);
    }

    /// Drops a computed content that there is no room for.
    fn spend(&self, value: &mut Value) {
        let elements = value.content().map_or(0, Content::len);
        match self.budget.get().checked_sub(elements) {
            Some(left) => self.budget.set(left),
            None => value.set_content(None),
        }
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

    /// Notes a conflict if the two sizes are those of symbols.
    fn note_symbols(&self, a: i64, b: i64) {
        if let (Some(a), Some(b)) = (self.sizes.get(&a), self.sizes.get(&b)) {
            self.conflict(a, b);
        }
    }

    fn conflict(&self, a: &str, b: &str) {
        let conflict = SizeConflict {
            a: a.to_owned(),
            b: b.to_owned(),
        };
        let mut all = self.conflicts.borrow_mut();
        if a != b && !all.contains(&conflict) {
            all.push(conflict);
        }
    }

    /// The reason that a failed rule gives.
    fn explain(&self, id: NodeId, fail: Fail, facts: &mut Facts) -> Unknown {
        let node = Some(id);
        let (a, b, fixed) = match fail {
            Fail::Because { reason, input } => {
                let inputs = &self.graph.node(id).inputs;
                let from = input.and_then(|i| inputs.get(i).copied().flatten());
                return Unknown { node, reason, from };
            }
            Fail::Divide { a, b } => {
                facts.differing.push((id, a, b));
                let reason = match self.sizes.get(&a) {
                    Some(symbol) => format!("`{symbol}` is {a} here, which is no multiple of {b}"),
                    None => format!("{a} is no multiple of {b}"),
                };
                return Unknown {
                    node,
                    reason,
                    from: None,
                };
            }
            Fail::Differ { a, b, fixed } => (a, b, fixed),
        };
        facts.differing.push((id, a, b));
        self.note_symbols(a, b);
        let met = match (self.sizes.get(&a), self.sizes.get(&b)) {
            (Some(symbol), None) => Some((*symbol, b)),
            (None, Some(symbol)) => Some((*symbol, a)),
            _ => None,
        };
        let mut reason = format!("the sizes {a} and {b} differ");
        if let Some((symbol, literal)) = met {
            if fixed && self.sample.features.contains(symbol) {
                self.conflict(symbol, &literal.to_string());
            }
            reason = format!("`{symbol}`, declared dynamic, meets the size {literal}");
            facts.baked.push(Baked {
                node: id,
                symbol: symbol.to_owned(),
                literal,
            });
        }
        Unknown {
            node,
            reason,
            from: None,
        }
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
