//! Counts the fields of a model before it is read, so that a hostile file cannot make small bytes into large memory,
//! and checks how deep its subgraphs are nested, so that reading them by recursion is safe.

use crate::attr;
use crate::error::Error;
use crate::limits::{MAX_FIELDS, MAX_NESTING};
use crate::node;
use crate::scope;
use crate::wire::Span;

#[derive(Default)]
pub(crate) struct Census {
    fields: usize,
}

impl Census {
    fn count(&mut self) -> Result<(), Error> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(Error::TooMany {
                what: "fields",
                limit: MAX_FIELDS,
            });
        }
        Ok(())
    }

    /// Counts a graph that is `depth` graphs below the main graph.
    pub(crate) fn graph(&mut self, graph: &Span, depth: usize) -> Result<(), Error> {
        if depth > MAX_NESTING {
            return Err(Error::TooDeep {
                at: graph.at,
                limit: MAX_NESTING,
            });
        }
        self.nodes(graph, scope::NODE, depth)
    }

    /// Counts the fields of a graph or a function, whose nodes are the fields `number`.
    pub(crate) fn nodes(&mut self, message: &Span, number: u32, depth: usize) -> Result<(), Error> {
        for field in message.fields() {
            let field = field?;
            self.count()?;
            if let (true, Some(node)) = (field.number == number, field.len()) {
                self.node(node, depth)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &Span, depth: usize) -> Result<(), Error> {
        for field in node.fields() {
            let field = field?;
            self.count()?;
            let (node::ATTRIBUTE, Some(attribute)) = (field.number, field.len()) else {
                continue;
            };
            for field in attribute.fields() {
                let field = field?;
                if let (attr::G | attr::GRAPHS, Some(body)) = (field.number, field.len()) {
                    self.graph(body, depth + 1)?;
                }
            }
        }
        Ok(())
    }

    /// Counts a field of the model itself.
    pub(crate) fn model_field(&mut self) -> Result<(), Error> {
        self.count()
    }
}
