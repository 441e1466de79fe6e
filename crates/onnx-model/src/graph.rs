//! The graph: nodes and values in arenas, with the uses of every value kept up to date by every edit.
//!
//! Invariants, kept by the edits and checked by `verify`:
//! - a value has at most one definition: a node's output, a graph input, or an initializer (an initializer of the
//!   same name as a graph input is that input's default);
//! - `uses` has one entry per node input that reads the value, `captured_by` one per node whose subgraphs read it;
//! - the name of a value never changes and is used once, subgraphs included.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::attr::AttrValue;
use crate::info::ValueInfo;
use crate::node::Node;
use crate::tensor::Tensor;
use crate::wire::{Pieces, Span};

/// A node of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

/// A value of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub(crate) u32);

/// A value: what a node makes, what is fed, or a weight.
#[derive(Clone, Debug)]
pub struct Value {
    /// Unique name.
    pub name: String,
    pub(crate) producer: Option<(NodeId, usize)>,
    pub(crate) uses: Vec<(NodeId, usize)>,
    pub(crate) captured_by: Vec<NodeId>,
    pub(crate) info: Option<ValueInfo>,
    pub(crate) kind: Kind,
    /// An initializer that lost its last use by an edit, and goes with the dead nodes.
    pub(crate) orphan: bool,
}

/// What a value is besides a node's output.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kind {
    pub(crate) input: bool,
    pub(crate) output: bool,
    pub(crate) initializer: Option<Initializer>,
}

#[derive(Clone, Debug)]
pub(crate) enum Initializer {
    /// A tensor of the file; its elements stay there.
    Read(Span),
    New(Tensor),
    /// Sparse, or of an unknown element type. Nothing can be known of it.
    Other,
}

impl Value {
    /// The node that makes it, and which of its outputs it is.
    pub fn producer(&self) -> Option<(NodeId, usize)> {
        self.producer
    }

    /// The node inputs that read it, one entry per use, in no particular but a fixed order.
    pub fn uses(&self) -> &[(NodeId, usize)] {
        &self.uses
    }

    /// The nodes whose subgraphs read it by name.
    pub fn captured_by(&self) -> &[NodeId] {
        &self.captured_by
    }

    /// Its type, as declared by the file or by `Graph::set_info`, or that of the initializer.
    pub fn info(&self) -> Option<&ValueInfo> {
        self.info.as_ref()
    }

    /// Whether the graph has it: not when its producer is gone and nothing reads it.
    pub(crate) fn exists(&self) -> bool {
        self.defined() || self.kind.output || !self.uses.is_empty() || !self.captured_by.is_empty()
    }

    pub(crate) fn defined(&self) -> bool {
        self.producer.is_some() || self.kind.input || self.kind.initializer.is_some()
    }

    pub(crate) fn used(&self) -> bool {
        self.kind.output || !self.uses.is_empty() || !self.captured_by.is_empty()
    }
}

/// The main graph of a model.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub(crate) name: String,
    pub(crate) nodes: Vec<Option<Node>>,
    pub(crate) order: Vec<NodeId>,
    pub(crate) values: Vec<Value>,
    pub(crate) by_name: HashMap<String, ValueId>,
    /// Names of values in use, those inside subgraphs included.
    pub(crate) names: HashSet<String>,
    pub(crate) node_names: HashSet<String>,
    /// Next number to try when a name is taken.
    pub(crate) suffixes: HashMap<String, u32>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
    /// The fields of the file in order, one list per kind, each entry with the bytes of its field.
    pub(crate) layout: Vec<Slot>,
    pub(crate) input_fields: Vec<Bytes>,
    pub(crate) output_fields: Vec<Bytes>,
    pub(crate) initializer_fields: Vec<(ValueId, Pieces)>,
    pub(crate) value_info_fields: Vec<(Option<ValueId>, Bytes)>,
    pub(crate) dir: Option<Arc<Path>>,
    /// Before version 4 of the format an initializer had to be an input too, and was a constant all the same.
    pub(crate) inputs_are_constants: bool,
    pub(crate) edited: bool,
}

/// One field of the graph, in the order of the file.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    /// The next entry of a list.
    Next(List),
    /// A field that is never edited.
    Raw(Bytes),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Nodes,
    Initializers,
    Inputs,
    Outputs,
    ValueInfos,
}

impl Graph {
    /// Name of the graph.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The declared inputs in the order of the file. One that is an initializer too has that as its default.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The outputs in the order of the file.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The nodes in order.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.order.iter().copied()
    }

    /// A node.
    ///
    /// # Panics
    /// If the node was removed or is of another graph.
    pub fn node(&self, id: NodeId) -> &Node {
        match self.nodes.get(id.0 as usize) {
            Some(Some(node)) => node,
            _ => unreachable!("{id:?} is not in this graph"),
        }
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.edited = true;
        match self.nodes.get_mut(id.0 as usize) {
            Some(Some(node)) => node,
            _ => unreachable!("{id:?} is not in this graph"),
        }
    }

    /// Whether the node is in the graph: false after `remove_node`.
    pub fn contains(&self, id: NodeId) -> bool {
        matches!(self.nodes.get(id.0 as usize), Some(Some(_)))
    }

    /// A value.
    ///
    /// # Panics
    /// If the value is of another graph.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    pub(crate) fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.0 as usize]
    }

    /// The values that something defines or reads.
    pub fn value_ids(&self) -> impl Iterator<Item = ValueId> + '_ {
        (0..self.values.len() as u32)
            .map(ValueId)
            .filter(|id| self.value(*id).exists())
    }

    /// The value with this name, if something defines or reads it. Names inside subgraphs are not found.
    pub fn find_value(&self, name: &str) -> Option<ValueId> {
        self.by_name
            .get(name)
            .copied()
            .filter(|id| self.value(*id).exists())
    }

    /// Whether it is an initializer, be it a default of an input.
    pub fn is_initializer(&self, v: ValueId) -> bool {
        self.value(v).kind.initializer.is_some()
    }

    /// Whether it is a declared input.
    pub fn is_input(&self, v: ValueId) -> bool {
        self.value(v).kind.input
    }

    /// Whether it is an output of the graph.
    pub fn is_output(&self, v: ValueId) -> bool {
        self.value(v).kind.output
    }

    /// The constant that the value is: an initializer that no input can override, or the output of a `Constant` node.
    /// A view: elements are not copied. Does not see through `Identity`.
    pub fn tensor(&self, v: ValueId) -> Option<Tensor> {
        let value = self.value(v);
        if value.kind.initializer.is_some() {
            let overridable = value.kind.input && !self.inputs_are_constants;
            return if overridable {
                None
            } else {
                self.initializer(v)
            };
        }
        let node = self.node(value.producer?.0);
        if node.op_type != "Constant" || !node.domain.is_empty() {
            return None;
        }
        let attribute = node
            .attributes
            .iter()
            .find(|a| a.name.starts_with("value"))?;
        match (attribute.name.as_str(), attribute.value(self.dir.as_ref())) {
            ("value", AttrValue::Tensor(tensor)) => Some(tensor),
            ("value_int", AttrValue::Int(v)) => Some(Tensor::scalar_i64(v)),
            ("value_ints", AttrValue::Ints(v)) => Some(Tensor::vector_i64(&v)),
            ("value_float", AttrValue::Float(v)) => Some(Tensor::scalar_f32(v)),
            ("value_floats", AttrValue::Floats(v)) => {
                Some(Tensor::from_f32s(&[v.len() as i64], &v))
            }
            _ => None,
        }
    }

    /// The initializer of this name, be it a default of an input.
    pub fn initializer(&self, v: ValueId) -> Option<Tensor> {
        match self.value(v).kind.initializer.as_ref()? {
            Initializer::Read(message) => Tensor::read(message, self.dir.as_ref()).ok().flatten(),
            Initializer::New(tensor) => Some(tensor.clone()),
            Initializer::Other => None,
        }
    }
}
