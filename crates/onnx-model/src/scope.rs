//! Names in subgraphs. The body of an If, Loop or Scan reads values of the graphs around it by name; these names
//! are the captures of its node. A name that the subgraph defines itself hides one outside.

use std::collections::{BTreeSet, HashSet};

use crate::error::Error;
use crate::info;
use crate::limits::MAX_NESTING;
use crate::node::ReadNode;
use crate::tensor::tensor_name;
use crate::wire::Span;

pub(crate) const NODE: u32 = 1;
pub(crate) const GRAPH_NAME: u32 = 2;
pub(crate) const INITIALIZER: u32 = 5;
pub(crate) const INPUT: u32 = 11;
pub(crate) const OUTPUT: u32 = 12;
pub(crate) const VALUE_INFO: u32 = 13;
pub(crate) const SPARSE_INITIALIZER: u32 = 15;

/// What a subgraph (with those inside it) reads from outside, and every name it defines.
#[derive(Default)]
pub(crate) struct Scope {
    /// In order of first use, each once.
    pub(crate) free: Vec<String>,
    pub(crate) defined: Vec<String>,
    /// Operator domains of its nodes.
    pub(crate) domains: BTreeSet<String>,
}

impl Scope {
    /// Reads a subgraph that is `depth` graphs below the main graph.
    pub(crate) fn read(graph: &Span, depth: usize) -> Result<Scope, Error> {
        if depth > MAX_NESTING {
            return Err(Error::TooDeep {
                at: graph.at,
                limit: MAX_NESTING,
            });
        }
        let (mut used, mut own, mut nested) = (Vec::new(), Vec::new(), Vec::new());
        let mut domains = BTreeSet::new();
        for field in graph.fields() {
            let field = field?;
            let Some(message) = field.len() else { continue };
            match field.number {
                NODE => {
                    let node = ReadNode::read(message)?;
                    used.extend(node.inputs);
                    own.extend(node.outputs);
                    domains.insert(node.domain);
                    for body in node.attributes.iter().flat_map(|a| &a.graphs) {
                        let inner = Scope::read(body, depth + 1)?;
                        used.extend(inner.free);
                        nested.extend(inner.defined);
                        domains.extend(inner.domains);
                    }
                }
                INITIALIZER => own.push(tensor_name(message)?),
                SPARSE_INITIALIZER => own.push(sparse_name(message)?),
                INPUT => own.push(name(message)?),
                OUTPUT => used.push(name(message)?),
                _ => {}
            }
        }
        let inside: HashSet<&str> = own.iter().map(String::as_str).collect();
        let mut seen = HashSet::new();
        used.retain(|name| {
            !name.is_empty() && !inside.contains(name.as_str()) && seen.insert(name.clone())
        });
        own.retain(|name| !name.is_empty());
        own.extend(nested);
        Ok(Scope {
            free: used,
            defined: own,
            domains,
        })
    }
}

fn name(value_info: &Span) -> Result<String, Error> {
    Ok(info::ValueInfo::read(value_info)?.0)
}

/// The name of a sparse initializer is that of its tensor of values.
pub(crate) fn sparse_name(message: &Span) -> Result<String, Error> {
    let mut name = String::new();
    for field in message.fields() {
        let field = field?;
        if let (1, Some(values)) = (field.number, field.len()) {
            name = tensor_name(values)?;
        }
    }
    Ok(name)
}
