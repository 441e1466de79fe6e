//! The text form of a model, for people: one node per line, in the order of the file.
//!
//! ```text
//! graph "main" {
//!   input %x: f32[batch, 4]
//!   initializer %w: f32[2] = 0.5, 1.0
//!   %y: f32[batch, 4] = Softmax(%x) {axis = -1}    # /encoder/Softmax
//!   output %y: f32[batch, 4]
//! }
//! ```
//!
//! It is a function of the model alone, so two dumps can be compared line by line. Left-out inputs and outputs are
//! `_`. Types are those that the file declares. It cannot be read back.

use std::fmt::{Display, Formatter, Result};

use crate::attr::{AttrKind, AttrValue};
use crate::function::{Function, FunctionNode};
use crate::graph::{Graph, ValueId};
use crate::info::{Dimension, ValueInfo};
use crate::model::Model;
use crate::node::Node;
use crate::scope::Scope;
use crate::tensor::Tensor;

/// Longer tensors and lists are not written out.
const LONGEST_LITERAL: usize = 8;

impl Display for Model {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "model ir_version {}", self.ir_version())?;
        for (domain, version) in self.opsets() {
            writeln!(f, "import {domain:?} {version}")?;
        }
        for (key, value) in self.all_metadata() {
            writeln!(f, "metadata {key:?} = {value:?}")?;
        }
        write!(f, "{}", self.graph)?;
        self.functions()
            .iter()
            .try_for_each(|function| write!(f, "{function}"))
    }
}

impl Display for Graph {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "graph {:?} {{", self.name())?;
        for &id in self.inputs() {
            writeln!(f, "  input {}", self.typed(id))?;
        }
        for &(id, _) in &self.initializer_fields {
            write!(f, "  initializer {}", self.typed(id))?;
            match self.initializer(id) {
                Some(tensor) => writeln!(f, "{}", literal(&tensor))?,
                None => writeln!(f)?,
            }
        }
        for id in self.node_ids() {
            writeln!(f, "  {}", self.node_line(self.node(id)))?;
        }
        for &id in self.outputs() {
            writeln!(f, "  output {}", self.typed(id))?;
        }
        writeln!(f, "}}")
    }
}

impl Graph {
    fn typed(&self, id: ValueId) -> String {
        let value = self.value(id);
        match value.info() {
            Some(info) => format!("{}: {info}", name(&value.name)),
            None => name(&value.name),
        }
    }

    fn node_line(&self, node: &Node) -> String {
        let outputs = node
            .outputs
            .iter()
            .map(|v| v.map_or("_".to_owned(), |v| self.typed(v)));
        let inputs = node
            .inputs
            .iter()
            .map(|v| v.map_or("_".to_owned(), |v| name(&self.value(v).name)));
        line(
            join(outputs),
            join(inputs),
            &[&node.domain, &node.op_type, node.overload()],
            &node.attributes(),
            &node.name,
        )
    }
}

impl Display for Function {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (inputs, outputs) = (
            self.inputs.iter().map(|n| name(n)),
            self.outputs.iter().map(|n| name(n)),
        );
        let operator = operator(&[&self.domain, &self.name, &self.overload]);
        writeln!(
            f,
            "function {operator}({}) -> ({}) {{",
            join(inputs),
            join(outputs)
        )?;
        for (domain, version) in &self.opsets {
            writeln!(f, "  import {domain:?} {version}")?;
        }
        for attribute in &self.attributes {
            writeln!(f, "  attribute {attribute}")?;
        }
        for (attribute, value) in &self.defaults {
            writeln!(f, "  attribute {attribute} = {value}")?;
        }
        for node in &self.nodes {
            writeln!(f, "  {node}")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for FunctionNode {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let operator = [self.domain.as_str(), &self.op_type, &self.overload];
        let (outputs, inputs) = (
            self.outputs.iter().map(|n| name(n)),
            self.inputs.iter().map(|n| name(n)),
        );
        f.write_str(&line(
            join(outputs),
            join(inputs),
            &operator,
            &self.attributes,
            &self.name,
        ))
    }
}

fn line(
    outputs: String,
    inputs: String,
    parts: &[&str; 3],
    attributes: &[(String, AttrValue)],
    node_name: &str,
) -> String {
    let mut line = format!("{outputs} = {}({inputs})", operator(parts));
    if outputs.is_empty() {
        line.drain(..3);
    }
    if !attributes.is_empty() {
        line += &format!(
            " {{{}}}",
            join(
                attributes
                    .iter()
                    .map(|(name, value)| format!("{name} = {value}"))
            )
        );
    }
    if !node_name.is_empty() {
        line += &format!("    # {}", node_name.escape_debug());
    }
    line
}

/// Domain, operator and overload as one word.
fn operator([domain, op_type, overload]: &[&str; 3]) -> String {
    let dot = if domain.is_empty() { "" } else { "." };
    let colon = if overload.is_empty() { "" } else { ":" };
    format!("{domain}{dot}{op_type}{colon}{overload}")
        .escape_debug()
        .to_string()
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// A value's name; in quotes if it has characters that the text form gives a meaning.
fn name(name: &str) -> String {
    match name {
        "" => "_".to_owned(),
        _ if name
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || ",()[]{}=\"#%".contains(c)) =>
        {
            format!("%{name:?}")
        }
        _ => format!("%{name}"),
    }
}

impl Display for ValueInfo {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(self.dtype.map_or("?", |dtype| dtype.short_name()))?;
        match &self.dims {
            None => f.write_str("[..]"),
            Some(dims) => write!(f, "[{}]", join(dims.iter().map(ToString::to_string))),
        }
    }
}

impl Display for Dimension {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Dimension::Value(size) => write!(f, "{size}"),
            Dimension::Param(name) => write!(f, "{}", name.escape_debug()),
            Dimension::Unknown => f.write_str("?"),
        }
    }
}

impl Display for AttrValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            AttrValue::Int(v) => write!(f, "{v}"),
            AttrValue::Float(v) => write!(f, "{v:?}"),
            AttrValue::Str(v) => write!(f, "{v:?}"),
            AttrValue::Tensor(v) => {
                let dims = join(v.dims().iter().map(ToString::to_string));
                write!(f, "{}[{dims}]{}", v.dtype().short_name(), literal(v))
            }
            AttrValue::Ints(v) => write!(f, "[{}]", list(v.iter().map(ToString::to_string))),
            AttrValue::Floats(v) => write!(f, "[{}]", list(v.iter().map(|v| format!("{v:?}")))),
            AttrValue::Strs(v) => write!(f, "[{}]", list(v.iter().map(|v| format!("{v:?}")))),
            AttrValue::Ref { name, kind } => write!(f, "@{}: {}", name.escape_debug(), kind.name()),
            AttrValue::Opaque(raw) if raw.0.graphs.is_empty() => {
                write!(f, "({} bytes)", raw.0.message.bytes.len())
            }
            AttrValue::Opaque(raw) => {
                let scopes = raw
                    .0
                    .graphs
                    .iter()
                    .filter_map(|body| Scope::read(body, 1).ok());
                let graph = |s: Scope| format!("graph({})", join(s.free.iter().map(|n| name(n))));
                f.write_str(&join(scopes.map(graph)))
            }
        }
    }
}

impl AttrKind {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

fn list(items: impl ExactSizeIterator<Item = String>) -> String {
    let rest = if items.len() > LONGEST_LITERAL {
        ", .."
    } else {
        ""
    };
    join(items.take(LONGEST_LITERAL)) + rest
}

/// ` = ` and the elements of a short tensor, or where the elements are if they are in another file.
fn literal(tensor: &Tensor) -> String {
    if let Some(external) = tensor.external() {
        return format!(" = external {:?}", external.location);
    }
    if tensor.len().is_none_or(|len| len > LONGEST_LITERAL) {
        return String::new();
    }
    let elements = match (tensor.to_i64s(), tensor.to_f64s()) {
        (Some(integers), _) => join(integers.iter().map(ToString::to_string)),
        (None, Some(numbers)) => join(numbers.iter().map(|v| format!("{v:?}"))),
        (None, None) => return String::new(),
    };
    format!(" = {elements}")
}
