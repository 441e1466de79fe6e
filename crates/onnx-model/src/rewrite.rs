//! Rewriting subgraphs when a function is inlined: names of the function become names of the graph, names that a
//! subgraph defines become new ones, references to attributes of the function become what the call gives.

use std::collections::HashMap;

use crate::attr::{self, AttrValue, Attribute};
use crate::error::Error;
use crate::graph::Graph;
use crate::info;
use crate::node::{self, ReadNode};
use crate::scope;
use crate::tensor::{self, tensor_name};
use crate::wire::{Span, merge, put_bytes};

/// New names by old names. A name without an entry stays; an empty new name leaves an input out.
pub(crate) type Names = HashMap<String, String>;

pub(crate) struct Rewriter<'a> {
    /// Gives new names.
    pub(crate) graph: &'a mut Graph,
    /// In front of every new name.
    pub(crate) prefix: &'a str,
    /// What an attribute of the function is; `None` if it was left out.
    pub(crate) bind: &'a dyn Fn(&str) -> Option<Attribute>,
}

impl Rewriter<'_> {
    /// Rewrites the graphs in an attribute; `None` if it refers to an attribute that was left out.
    pub(crate) fn attribute(
        &mut self,
        attribute: &Attribute,
        names: &Names,
    ) -> Result<Option<Attribute>, Error> {
        if let AttrValue::Ref { name, .. } = attribute.value(None) {
            return Ok((self.bind)(&name).map(|bound| bound.renamed(&attribute.name)));
        }
        if attribute.graphs.is_empty() {
            return Ok(Some(attribute.clone()));
        }
        let (mut out, mut graph) = (Vec::new(), None);
        for field in attribute.message.fields() {
            let field = field?;
            match (field.number, field.len()) {
                (attr::G, Some(body)) => graph = Some(merge(graph, body)),
                (attr::GRAPHS, Some(body)) => {
                    put_bytes(&mut out, attr::GRAPHS, &self.body(body, names)?)
                }
                _ => out.extend_from_slice(&field.whole.bytes),
            }
        }
        if let Some(body) = &graph {
            put_bytes(&mut out, attr::G, &self.body(body, names)?);
        }
        Attribute::read(&Span::new(out.into())).map(Some)
    }

    fn body(&mut self, body: &Span, outer: &Names) -> Result<Vec<u8>, Error> {
        let mut names = outer.clone();
        for name in own_names(body)? {
            if !name.is_empty() {
                let new = self.graph.new_name(&format!("{}/{name}", self.prefix));
                names.insert(name, new);
            }
        }
        let mut out = Vec::new();
        for field in body.fields() {
            let field = field?;
            let Some(message) = field.len() else {
                out.extend_from_slice(&field.whole.bytes);
                continue;
            };
            let message = match field.number {
                scope::NODE => self.node(message, &names)?,
                scope::INITIALIZER => rename(message, tensor::NAME, &names)?,
                scope::INPUT | scope::OUTPUT | scope::VALUE_INFO => {
                    rename(message, info::NAME, &names)?
                }
                scope::SPARSE_INITIALIZER => {
                    let mut sparse = Vec::new();
                    for field in message.fields() {
                        let field = field?;
                        match (field.number, field.len()) {
                            (1, Some(values)) => {
                                put_bytes(&mut sparse, 1, &rename(values, tensor::NAME, &names)?)
                            }
                            _ => sparse.extend_from_slice(&field.whole.bytes),
                        }
                    }
                    sparse
                }
                _ => message.bytes.to_vec(),
            };
            put_bytes(&mut out, field.number, &message);
        }
        Ok(out)
    }

    fn node(&mut self, message: &Span, names: &Names) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        for field in message.fields() {
            let field = field?;
            match (field.number, field.len()) {
                (node::INPUT | node::OUTPUT, Some(text)) => {
                    put_bytes(
                        &mut out,
                        field.number,
                        new_name(text.text("a name")?, names).as_bytes(),
                    );
                }
                (node::ATTRIBUTE, Some(attribute)) => {
                    if let Some(attribute) = self.attribute(&Attribute::read(attribute)?, names)? {
                        put_bytes(&mut out, node::ATTRIBUTE, &attribute.message.bytes);
                    }
                }
                _ => out.extend_from_slice(&field.whole.bytes),
            }
        }
        Ok(out)
    }
}

fn new_name<'a>(name: &'a str, names: &'a Names) -> &'a str {
    names.get(name).map_or(name, String::as_str)
}

/// The message with its name, the field `number`, replaced.
fn rename(message: &Span, number: u32, names: &Names) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    for field in message.fields() {
        let field = field?;
        match (field.number == number, field.len()) {
            (true, Some(text)) => put_bytes(
                &mut out,
                number,
                new_name(text.text("a name")?, names).as_bytes(),
            ),
            _ => out.extend_from_slice(&field.whole.bytes),
        }
    }
    Ok(out)
}

/// The names that a subgraph defines itself, not those of subgraphs in it.
fn own_names(body: &Span) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for field in body.fields() {
        let field = field?;
        let Some(message) = field.len() else { continue };
        match field.number {
            scope::NODE => names.extend(ReadNode::read(message)?.outputs),
            scope::INITIALIZER => names.push(tensor_name(message)?),
            scope::SPARSE_INITIALIZER => names.push(scope::sparse_name(message)?),
            scope::INPUT => names.push(info::ValueInfo::read(message)?.0),
            _ => {}
        }
    }
    Ok(names)
}
