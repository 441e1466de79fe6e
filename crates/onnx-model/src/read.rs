//! Reading a graph: fields to arenas, names to values.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::graph::{Graph, Initializer, Kind, List, NodeId, Slot, Value, ValueId};
use crate::info::{Dimension, ValueInfo};
use crate::node::{Edited, Node, ReadNode};
use crate::scope::{self, Scope};
use crate::tensor::{Tensor, tensor_name};
use crate::wire::{Content, Pieces, Span};

/// The index of something new. Files are too small to overflow it, see `limits`.
pub(crate) fn next_index<T>(list: &[T]) -> u32 {
    list.len() as u32
}

impl Graph {
    /// Reads the main graph. More than one span: the same field given several times, which adds up.
    pub(crate) fn read(
        graphs: &[Span],
        dir: Option<Arc<Path>>,
        ir_version: i64,
    ) -> Result<Graph, Error> {
        let mut graph = Graph {
            dir,
            inputs_are_constants: ir_version < 4,
            ..Graph::default()
        };
        let (mut nodes, mut outputs, mut infos) = (Vec::new(), Vec::new(), Vec::new());
        for field in graphs.iter().flat_map(Span::fields) {
            let field = field?;
            let whole = field.whole.bytes.clone();
            let Content::Len(message) = &field.content else {
                graph.layout.push(Slot::Raw(whole));
                continue;
            };
            let slot = match field.number {
                scope::NODE => {
                    nodes.push((ReadNode::read(message)?, message.clone(), whole));
                    Slot::Next(List::Nodes)
                }
                scope::INITIALIZER => {
                    let id = graph.read_initializer(message)?;
                    graph.initializer_fields.push((id, Pieces::from(whole)));
                    Slot::Next(List::Initializers)
                }
                scope::SPARSE_INITIALIZER => {
                    graph.define_initializer(
                        scope::sparse_name(message)?,
                        Initializer::Other,
                        None,
                    )?;
                    Slot::Raw(whole)
                }
                scope::INPUT => {
                    let (name, info) = ValueInfo::read(message)?;
                    let id = graph.define_input(name)?;
                    graph.value_mut(id).info = Some(info);
                    graph.inputs.push(id);
                    graph.input_fields.push(whole);
                    Slot::Next(List::Inputs)
                }
                scope::OUTPUT => {
                    outputs.push(ValueInfo::read(message)?);
                    graph.output_fields.push(whole);
                    Slot::Next(List::Outputs)
                }
                scope::VALUE_INFO => {
                    infos.push((ValueInfo::read(message)?, whole));
                    Slot::Next(List::ValueInfos)
                }
                number => {
                    if number == scope::GRAPH_NAME {
                        graph.name = message.string("the name of the graph")?;
                    }
                    Slot::Raw(whole)
                }
            };
            graph.layout.push(slot);
        }
        for (read, message, field) in &nodes {
            graph.define_node(read, message.clone(), Some(field.clone()))?;
        }
        for (index, (read, ..)) in nodes.iter().enumerate() {
            graph.connect_node(NodeId(index as u32), read)?;
        }
        for (name, info) in outputs {
            let Some(&id) = graph.by_name.get(&name) else {
                return Err(Error::Undefined {
                    name,
                    user: "the list of outputs of the graph".into(),
                });
            };
            graph.value_mut(id).kind.output = true;
            graph.value_mut(id).info.get_or_insert(info);
            graph.outputs.push(id);
        }
        for ((name, info), whole) in infos {
            let id = graph.by_name.get(&name).copied();
            match id {
                Some(id) => _ = graph.value_mut(id).info.get_or_insert(info),
                None => _ = graph.names.insert(name),
            }
            graph.value_info_fields.push((id, whole));
        }
        graph.topological_order()?;
        Ok(graph)
    }

    fn read_initializer(&mut self, message: &Span) -> Result<ValueId, Error> {
        let name = tensor_name(message)?;
        let Some(tensor) = Tensor::read(message, self.dir.as_ref())? else {
            return self.define_initializer(name, Initializer::Other, None);
        };
        if tensor.len().is_none() {
            return Err(Error::Tensor {
                name,
                what: format!("impossible dimensions {:?}", tensor.dims()),
            });
        }
        self.define_initializer(name, Initializer::Read(message.clone()), Some(&tensor))
    }

    fn duplicate(&self, name: String, second: &str) -> Error {
        let value = self.by_name.get(&name).map(|id| self.value(*id));
        let first = match value {
            Some(value) if value.producer.is_some() => value
                .producer
                .map(|(node, _)| format!("node {}", self.node(node).title()))
                .unwrap_or_default(),
            Some(value) if value.kind.initializer.is_some() => "an initializer".to_owned(),
            _ => "a graph input".to_owned(),
        };
        Error::DuplicateName {
            name,
            first,
            second: second.to_owned(),
        }
    }

    pub(crate) fn define_initializer(
        &mut self,
        name: String,
        initializer: Initializer,
        tensor: Option<&Tensor>,
    ) -> Result<ValueId, Error> {
        let id = match self.by_name.get(&name) {
            Some(&id)
                if self.value(id).kind.initializer.is_some()
                    || self.value(id).producer.is_some() =>
            {
                return Err(self.duplicate(name, "an initializer"));
            }
            Some(&id) => id,
            None => self.insert_value(name),
        };
        let value = self.value_mut(id);
        value.kind.initializer = Some(initializer);
        if let (None, Some(tensor)) = (&value.info, tensor) {
            let dims = tensor.dims().iter().map(|d| Dimension::Value(*d)).collect();
            value.info = Some(ValueInfo {
                dtype: Some(tensor.dtype()),
                dims: Some(dims),
            });
        }
        Ok(id)
    }

    pub(crate) fn define_input(&mut self, name: String) -> Result<ValueId, Error> {
        let id = match self.by_name.get(&name) {
            Some(&id) if self.value(id).kind.input || self.value(id).producer.is_some() => {
                return Err(self.duplicate(name, "a graph input"));
            }
            Some(&id) => id,
            None => self.insert_value(name),
        };
        self.value_mut(id).kind.input = true;
        Ok(id)
    }

    pub(crate) fn insert_value(&mut self, name: String) -> ValueId {
        let id = ValueId(next_index(&self.values));
        self.names.insert(name.clone());
        self.by_name.insert(name.clone(), id);
        self.values.push(Value {
            name,
            producer: None,
            uses: Vec::new(),
            captured_by: Vec::new(),
            info: None,
            kind: Kind::default(),
            orphan: false,
        });
        id
    }

    /// Adds the node and defines its outputs.
    fn define_node(
        &mut self,
        read: &ReadNode,
        message: Span,
        field: Option<bytes::Bytes>,
    ) -> Result<NodeId, Error> {
        let id = NodeId(next_index(&self.nodes));
        self.node_names.insert(read.name.clone());
        self.nodes.push(Some(Node {
            name: read.name.clone(),
            op_type: read.op_type.clone(),
            domain: read.domain.clone(),
            inputs: Vec::with_capacity(read.inputs.len()),
            outputs: Vec::with_capacity(read.outputs.len()),
            overload: read.overload.clone(),
            attributes: read.attributes.clone(),
            captures: Vec::new(),
            dir: self.dir.clone(),
            message,
            field,
            edited: Edited::default(),
        }));
        self.order.push(id);
        let mut outputs = Vec::with_capacity(read.outputs.len());
        for (index, name) in read.outputs.iter().enumerate() {
            if name.is_empty() {
                outputs.push(None);
                continue;
            }
            if self.by_name.contains_key(name) {
                return Err(self.duplicate(name.clone(), &format!("node {}", read.title())));
            }
            let value = self.insert_value(name.clone());
            self.value_mut(value).producer = Some((id, index));
            outputs.push(Some(value));
        }
        if let Some(Some(node)) = self.nodes.last_mut() {
            node.outputs = outputs;
        }
        Ok(id)
    }

    /// Resolves the names that the node and its subgraphs read.
    fn connect_node(&mut self, id: NodeId, read: &ReadNode) -> Result<(), Error> {
        let mut inputs = Vec::with_capacity(read.inputs.len());
        for (index, name) in read.inputs.iter().enumerate() {
            if name.is_empty() {
                inputs.push(None);
                continue;
            }
            let value = self.resolve(name, read)?;
            self.value_mut(value).uses.push((id, index));
            inputs.push(Some(value));
        }
        let mut captures = Vec::new();
        let mut seen = HashSet::new();
        for body in read.attributes.iter().flat_map(|a| &a.graphs) {
            let scope = Scope::read(body, 1)?;
            self.names.extend(scope.defined);
            for name in scope.free {
                let value = self.resolve(&name, read)?;
                if seen.insert(value) {
                    self.value_mut(value).captured_by.push(id);
                    captures.push(value);
                }
            }
        }
        if let Some(Some(node)) = self.nodes.get_mut(id.0 as usize) {
            node.inputs = inputs;
            node.captures = captures;
        }
        Ok(())
    }

    fn resolve(&self, name: &str, reader: &ReadNode) -> Result<ValueId, Error> {
        let undefined = || Error::Undefined {
            name: name.to_owned(),
            user: format!("node {}", reader.title()),
        };
        self.by_name.get(name).copied().ok_or_else(undefined)
    }
}
