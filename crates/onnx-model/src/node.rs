//! Nodes. A node keeps the bytes it was read from; writing an edited one replaces only what was edited.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::attr::{AttrValue, Attribute};
use crate::error::Error;
use crate::graph::ValueId;
use crate::tensor::Tensor;
use crate::wire::{Pieces, Span, put_bytes, put_entry, put_text, read_entry};

pub(crate) const INPUT: u32 = 1;
pub(crate) const OUTPUT: u32 = 2;
pub(crate) const NAME: u32 = 3;
pub(crate) const OP_TYPE: u32 = 4;
pub(crate) const ATTRIBUTE: u32 = 5;
pub(crate) const DOMAIN: u32 = 7;
pub(crate) const OVERLOAD: u32 = 8;
pub(crate) const METADATA: u32 = 9;

/// A node of the graph. Edits go through `Graph`.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name, for messages; often empty, not always unique.
    pub name: String,
    /// Operator.
    pub op_type: String,
    /// Domain of the operator; empty for `ai.onnx`.
    pub domain: String,
    /// Inputs; `None` where an optional one is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs; `None` where an optional one is left out.
    pub outputs: Vec<Option<ValueId>>,
    pub(crate) overload: String,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) captures: Vec<ValueId>,
    pub(crate) dir: Option<Arc<Path>>,
    /// The message it was read from.
    pub(crate) message: Span,
    /// The whole field it was read from, tag included; none for a new node.
    pub(crate) field: Option<Bytes>,
    pub(crate) edited: Edited,
}

/// What was edited since the node was read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Edited {
    pub(crate) name: bool,
    pub(crate) inputs: bool,
    pub(crate) outputs: bool,
    pub(crate) attributes: bool,
}

/// A node to add to a graph.
#[derive(Clone, Debug, Default)]
pub struct NewNode {
    /// Operator.
    pub op_type: String,
    /// Domain of the operator; empty for `ai.onnx`.
    pub domain: String,
    /// A hint: the name is made unique. Empty: the operator's name.
    pub name: String,
    /// Inputs; `None` where an optional one is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs, made by `Graph::new_value`; `None` where an optional one is left out.
    pub outputs: Vec<Option<ValueId>>,
    /// Attributes.
    pub attributes: Vec<(String, AttrValue)>,
    /// Metadata of the node.
    pub metadata: Vec<(String, String)>,
}

impl NewNode {
    /// The message without inputs and outputs, which the node has as edits.
    pub(crate) fn encode(&self, name: &str, overload: &str) -> Bytes {
        let mut out = Vec::new();
        put_text(&mut out, NAME, name);
        put_text(&mut out, OP_TYPE, &self.op_type);
        for (name, value) in &self.attributes {
            put_bytes(
                &mut out,
                ATTRIBUTE,
                &Attribute::new(name, value).message.bytes,
            );
        }
        put_text(&mut out, DOMAIN, &self.domain);
        put_text(&mut out, OVERLOAD, overload);
        self.metadata
            .iter()
            .for_each(|(key, value)| put_entry(&mut out, METADATA, key, value));
        out.into()
    }
}

/// A node as it is in the file: names instead of values.
pub(crate) struct ReadNode {
    pub(crate) name: String,
    pub(crate) op_type: String,
    pub(crate) domain: String,
    pub(crate) overload: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) attributes: Vec<Attribute>,
}

impl ReadNode {
    pub(crate) fn read(message: &Span) -> Result<ReadNode, Error> {
        let mut node = ReadNode {
            name: String::new(),
            op_type: String::new(),
            domain: String::new(),
            overload: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            attributes: Vec::new(),
        };
        for field in message.fields() {
            let field = field?;
            let Some(content) = field.len() else { continue };
            match field.number {
                INPUT => node.inputs.push(content.string("the name of an input")?),
                OUTPUT => node.outputs.push(content.string("the name of an output")?),
                NAME => node.name = content.string("the name of a node")?,
                OP_TYPE => node.op_type = content.string("the operator of a node")?,
                ATTRIBUTE => node.attributes.push(Attribute::read(content)?),
                DOMAIN => {
                    node.domain = normal_domain(content.text("the domain of a node")?).to_owned()
                }
                OVERLOAD => node.overload = content.string("the overload of a node")?,
                _ => {}
            }
        }
        Ok(node)
    }

    /// How messages call this node.
    pub(crate) fn title(&self) -> String {
        title(&self.name, &self.op_type)
    }
}

pub(crate) fn title(name: &str, op_type: &str) -> String {
    if name.is_empty() {
        format!("({op_type} without a name)")
    } else {
        format!("`{name}` ({op_type})")
    }
}

/// `ai.onnx` is another spelling of the empty domain.
pub(crate) fn normal_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

impl Node {
    /// The attribute `name`.
    pub fn attr(&self, name: &str) -> Option<AttrValue> {
        self.raw_attr(name).map(|a| a.value(self.dir.as_ref()))
    }

    pub(crate) fn raw_attr(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|a| a.name == name)
    }

    /// The attribute `name`, if it is an integer.
    pub fn attr_int(&self, name: &str) -> Option<i64> {
        match self.attr(name)? {
            AttrValue::Int(value) => Some(value),
            _ => None,
        }
    }

    /// The attribute `name`, if it is a list of integers.
    pub fn attr_ints(&self, name: &str) -> Option<Vec<i64>> {
        match self.attr(name)? {
            AttrValue::Ints(values) => Some(values),
            _ => None,
        }
    }

    /// The attribute `name`, if it is a number.
    pub fn attr_float(&self, name: &str) -> Option<f32> {
        match self.attr(name)? {
            AttrValue::Float(value) => Some(value),
            _ => None,
        }
    }

    /// The attribute `name`, if it is text.
    pub fn attr_str(&self, name: &str) -> Option<String> {
        match self.attr(name)? {
            AttrValue::Str(value) => Some(value),
            _ => None,
        }
    }

    /// The attribute `name`, if it is a tensor.
    pub fn attr_tensor(&self, name: &str) -> Option<Tensor> {
        match self.attr(name)? {
            AttrValue::Tensor(value) => Some(value),
            _ => None,
        }
    }

    /// All attributes, in the order of the file.
    pub fn attributes(&self) -> Vec<(String, AttrValue)> {
        self.attributes
            .iter()
            .map(|a| (a.name.clone(), a.value(self.dir.as_ref())))
            .collect()
    }

    /// Values of the graph that subgraphs of this node read by name, each once.
    pub fn captures(&self) -> &[ValueId] {
        &self.captures
    }

    /// Whether the node has subgraphs.
    pub fn has_subgraph(&self) -> bool {
        self.attributes.iter().any(|a| !a.graphs.is_empty())
    }

    /// Which of several functions of the same name it calls; usually empty.
    pub fn overload(&self) -> &str {
        &self.overload
    }

    /// Metadata of the node, in the order of the file. Entries that are not text are left out.
    pub fn metadata(&self) -> Vec<(String, String)> {
        let entries = self
            .message
            .fields()
            .map_while(Result::ok)
            .filter(|f| f.number == METADATA);
        entries.filter_map(|f| read_entry(f.len()?).ok()).collect()
    }

    /// How messages call this node.
    pub fn title(&self) -> String {
        title(&self.name, &self.op_type)
    }

    /// The node as a field of the graph.
    pub(crate) fn encode(
        &self,
        number: u32,
        value_name: impl Fn(ValueId) -> String,
    ) -> Result<Pieces, Error> {
        if let (Some(field), true) = (&self.field, self.edited == Edited::default()) {
            return Ok(Pieces::from(field.clone()));
        }
        let list = |number: u32, values: &[Option<ValueId>]| {
            let mut out = Vec::new();
            for value in values {
                put_bytes(
                    &mut out,
                    number,
                    value.map(&value_name).unwrap_or_default().as_bytes(),
                );
            }
            Pieces::from(Bytes::from(out))
        };
        // Each edited part is written where the first field of the part was; what had none, in front.
        let mut parts = Vec::new();
        if self.edited.inputs {
            parts.push((INPUT, list(INPUT, &self.inputs)));
        }
        if self.edited.outputs {
            parts.push((OUTPUT, list(OUTPUT, &self.outputs)));
        }
        if self.edited.name {
            let mut out = Vec::new();
            put_text(&mut out, NAME, &self.name);
            parts.push((NAME, Pieces::from(Bytes::from(out))));
        }
        if self.edited.attributes {
            let mut out = Pieces::default();
            for attribute in &self.attributes {
                out.push_message(ATTRIBUTE, Pieces::from(attribute.message.bytes.clone()));
            }
            parts.push((ATTRIBUTE, out));
        }
        let mut body = Pieces::default();
        let mut written = vec![false; parts.len()];
        for field in self.message.fields() {
            let field = field?;
            match parts
                .iter()
                .position(|(number, _)| *number == field.number && field.len().is_some())
            {
                None => body.push(field.whole.bytes),
                Some(part) if written[part] => {}
                Some(part) => {
                    written[part] = true;
                    body.append(parts[part].1.clone());
                }
            }
        }
        let mut message = Pieces::default();
        for ((_, part), _) in parts
            .into_iter()
            .zip(written)
            .filter(|(_, written)| !written)
        {
            message.append(part);
        }
        message.append(body);
        let mut out = Pieces::default();
        out.push_message(number, message);
        Ok(out)
    }
}
