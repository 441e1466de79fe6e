//! Moving nodes of the graph into the body of a Loop or Scan.

use crate::attr::{AttrValue, Attribute, G, NAME, RawAttribute, TYPE};
use crate::error::Error;
use crate::graph::{Graph, NodeId, ValueId};
use crate::info::ValueInfo;
use crate::scope;
use crate::wire::{Span, put_bytes, put_int};

/// The kind of an attribute that holds a graph.
const GRAPH_KIND: i64 = 5;

impl Graph {
    /// Removes nodes, given in topological order, and returns an attribute with a graph of them. Its inputs and outputs are values
    /// that keep their names; whatever else the nodes read they capture from this graph. Declared types go along.
    ///
    /// # Errors
    /// As writing a model.
    pub fn outline(
        &mut self,
        name: &str,
        nodes: &[NodeId],
        inputs: &[(ValueId, ValueInfo)],
        outputs: &[(ValueId, ValueInfo)],
    ) -> Result<AttrValue, Error> {
        let mut body = Vec::new();
        for &id in nodes {
            let node = self
                .node(id)
                .encode(scope::NODE, |v| self.value(v).name.clone())?;
            body.extend_from_slice(&node.list().concat());
        }
        put_bytes(&mut body, scope::GRAPH_NAME, name.as_bytes());
        for (number, values) in [(scope::INPUT, inputs), (scope::OUTPUT, outputs)] {
            for (value, info) in values {
                put_bytes(
                    &mut body,
                    number,
                    &info.encode(&self.value(*value).name, None)?,
                );
            }
        }
        let made: Vec<ValueId> = nodes
            .iter()
            .flat_map(|&id| self.node(id).outputs.iter().copied().flatten())
            .filter(|v| outputs.iter().all(|(o, _)| o != v))
            .collect();
        for value in made {
            if let Some(info) = self.value(value).info().cloned() {
                put_bytes(
                    &mut body,
                    scope::VALUE_INFO,
                    &info.encode(&self.value(value).name, None)?,
                );
                self.set_info(value, None);
            }
        }
        for &id in nodes.iter().rev() {
            self.remove_node(id);
        }
        let mut message = Vec::new();
        put_bytes(&mut message, NAME, b"body");
        put_bytes(&mut message, G, &body);
        put_int(&mut message, TYPE, GRAPH_KIND);
        let attribute = Attribute::read(&Span::new(message.into()))?;
        Ok(AttrValue::Opaque(RawAttribute(attribute)))
    }
}
