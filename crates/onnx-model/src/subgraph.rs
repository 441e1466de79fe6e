//! Subgraphs of a node (the branches of an If, the body of a Loop) as graphs to look into. They are copies: editing one
//! does not change the node.

use crate::error::Error;
use crate::graph::Graph;
use crate::info;
use crate::node::Node;
use crate::scope::{self, Scope};
use crate::wire::{Span, put_bytes};

/// Any version in which an initializer of the same name is the default of an input.
const IR_VERSION: i64 = 4;

impl Node {
    /// The graph in the attribute `name`; `None` if there is none. The values that it reads from the graphs around it are
    /// among its inputs, before those it declares itself, with the names they have there and without a type.
    ///
    /// # Errors
    /// As reading a model, if the subgraph is broken.
    pub fn subgraph(&self, name: &str) -> Result<Option<Graph>, Error> {
        let Some(body) = self.raw_attr(name).and_then(|a| a.graphs.last()) else {
            return Ok(None);
        };
        let mut captures = Vec::new();
        for outer in Scope::read(body, 1)?.free {
            let mut input = Vec::new();
            put_bytes(&mut input, info::NAME, outer.as_bytes());
            put_bytes(&mut captures, scope::INPUT, &input);
        }
        let parts = [Span::new(captures.into()), body.clone()];
        Graph::read(&parts, self.dir.clone(), IR_VERSION).map(Some)
    }
}
