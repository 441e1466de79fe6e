//! Functions of a model: operators defined by nodes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::attr::{AttrValue, Attribute};
use crate::error::Error;
use crate::node::{self, ReadNode, normal_domain};
use crate::scope::Scope;
use crate::wire::{Content, Span, put_bytes, put_int, put_text};

/// A function of a model. Names in it are its own; they do not clash with those of the graph.
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// Operator that it defines.
    pub name: String,
    /// Domain of that operator; empty for `ai.onnx`.
    pub domain: String,
    /// Tells functions of the same name and domain apart; usually empty.
    pub overload: String,
    /// Names of the inputs.
    pub inputs: Vec<String>,
    /// Names of the outputs.
    pub outputs: Vec<String>,
    /// Names of the attributes that have no default.
    pub attributes: Vec<String>,
    /// Attributes with their default.
    pub defaults: Vec<(String, AttrValue)>,
    /// Domains that the nodes use, with versions.
    pub opsets: Vec<(String, i64)>,
    /// The nodes, each behind what it reads.
    pub nodes: Vec<FunctionNode>,
}

/// A node of a function. A left-out input or output is an empty name.
#[derive(Clone, Debug, Default)]
pub struct FunctionNode {
    /// Operator.
    pub op_type: String,
    /// Domain of the operator; empty for `ai.onnx`.
    pub domain: String,
    /// Which of several functions of the same name it calls; usually empty.
    pub overload: String,
    /// Name, for messages.
    pub name: String,
    /// Names of the inputs.
    pub inputs: Vec<String>,
    /// Names of the outputs.
    pub outputs: Vec<String>,
    /// Attributes.
    pub attributes: Vec<(String, AttrValue)>,
}

const NAME: u32 = 1;
const INPUT: u32 = 4;
const OUTPUT: u32 = 5;
const ATTRIBUTE: u32 = 6;
pub(crate) const NODE: u32 = 7;
const OPSET: u32 = 9;
const DOMAIN: u32 = 10;
const ATTRIBUTE_PROTO: u32 = 11;
const OVERLOAD: u32 = 13;

impl Function {
    /// Whether a node with this operator calls the function.
    pub fn is_called_by(&self, domain: &str, op_type: &str, overload: &str) -> bool {
        self.name == op_type && self.domain == domain && self.overload == overload
    }

    /// The operator domains of the nodes, those in subgraphs included.
    pub(crate) fn used_domains(&self) -> Result<BTreeSet<String>, Error> {
        let mut domains = BTreeSet::new();
        for node in &self.nodes {
            domains.insert(node.domain.clone());
            node.scopes()?
                .into_iter()
                .for_each(|scope| domains.extend(scope.domains));
        }
        Ok(domains)
    }

    pub(crate) fn read(message: &Span, dir: Option<&Arc<Path>>) -> Result<Function, Error> {
        let mut function = Function::default();
        for field in message.fields() {
            let field = field?;
            let Some(content) = field.len() else { continue };
            match field.number {
                NAME => function.name = content.string("the name of a function")?,
                INPUT => function
                    .inputs
                    .push(content.string("an input of a function")?),
                OUTPUT => function
                    .outputs
                    .push(content.string("an output of a function")?),
                ATTRIBUTE => function
                    .attributes
                    .push(content.string("an attribute of a function")?),
                NODE => function.nodes.push(FunctionNode::read(content, dir)?),
                OPSET => function.opsets.push(read_opset(content)?),
                DOMAIN => {
                    function.domain =
                        normal_domain(content.text("the domain of a function")?).to_owned()
                }
                ATTRIBUTE_PROTO => {
                    let attribute = Attribute::read(content)?;
                    function
                        .defaults
                        .push((attribute.name.clone(), attribute.value(dir)));
                }
                OVERLOAD => function.overload = content.string("the overload of a function")?,
                _ => {}
            }
        }
        Ok(function)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_text(&mut out, NAME, &self.name);
        self.inputs
            .iter()
            .for_each(|name| put_bytes(&mut out, INPUT, name.as_bytes()));
        self.outputs
            .iter()
            .for_each(|name| put_bytes(&mut out, OUTPUT, name.as_bytes()));
        self.attributes
            .iter()
            .for_each(|name| put_bytes(&mut out, ATTRIBUTE, name.as_bytes()));
        self.nodes
            .iter()
            .for_each(|node| put_bytes(&mut out, NODE, &node.encode()));
        self.opsets.iter().for_each(|(domain, version)| {
            put_bytes(&mut out, OPSET, &encode_opset(domain, *version))
        });
        put_text(&mut out, DOMAIN, &self.domain);
        for (name, value) in &self.defaults {
            put_bytes(
                &mut out,
                ATTRIBUTE_PROTO,
                &Attribute::new(name, value).message.bytes,
            );
        }
        put_text(&mut out, OVERLOAD, &self.overload);
        out.into()
    }
}

impl FunctionNode {
    fn read(message: &Span, dir: Option<&Arc<Path>>) -> Result<FunctionNode, Error> {
        let read = ReadNode::read(message)?;
        for body in read.attributes.iter().flat_map(|a| &a.graphs) {
            // Read once now, so that it does not fail later.
            Scope::read(body, 1)?;
        }
        let attributes = read
            .attributes
            .iter()
            .map(|a| (a.name.clone(), a.value(dir)))
            .collect();
        Ok(FunctionNode {
            op_type: read.op_type,
            domain: read.domain,
            overload: read.overload,
            name: read.name,
            inputs: read.inputs,
            outputs: read.outputs,
            attributes,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.inputs
            .iter()
            .for_each(|name| put_bytes(&mut out, node::INPUT, name.as_bytes()));
        self.outputs
            .iter()
            .for_each(|name| put_bytes(&mut out, node::OUTPUT, name.as_bytes()));
        put_text(&mut out, node::NAME, &self.name);
        put_text(&mut out, node::OP_TYPE, &self.op_type);
        for (name, value) in &self.attributes {
            put_bytes(
                &mut out,
                node::ATTRIBUTE,
                &Attribute::new(name, value).message.bytes,
            );
        }
        put_text(&mut out, node::DOMAIN, &self.domain);
        put_text(&mut out, node::OVERLOAD, &self.overload);
        out
    }

    /// What its subgraphs read and define.
    pub(crate) fn scopes(&self) -> Result<Vec<Scope>, Error> {
        let graphs = self.attributes.iter().filter_map(|(_, value)| match value {
            AttrValue::Opaque(raw) => Some(&raw.0.graphs),
            _ => None,
        });
        graphs.flatten().map(|body| Scope::read(body, 1)).collect()
    }

    /// How messages call this node.
    pub(crate) fn title(&self) -> String {
        node::title(&self.name, &self.op_type)
    }
}

/// Reads an OperatorSetIdProto: domain and version.
pub(crate) fn read_opset(message: &Span) -> Result<(String, i64), Error> {
    let (mut domain, mut version) = (String::new(), 0);
    for field in message.fields() {
        let field = field?;
        match (field.number, &field.content) {
            (1, Content::Len(text)) => {
                domain = normal_domain(text.text("an operator domain")?).to_owned()
            }
            (2, Content::Varint(number)) => version = *number as i64,
            _ => {}
        }
    }
    Ok((domain, version))
}

pub(crate) fn encode_opset(domain: &str, version: i64) -> Vec<u8> {
    let mut out = Vec::new();
    // The domain is written even where it is empty: some readers want the field.
    put_bytes(&mut out, 1, domain.as_bytes());
    put_int(&mut out, 2, version);
    out
}
