//! Edits of the graph. Each one keeps definitions, uses and names consistent; order is restored by `sort`.

use std::collections::HashSet;

use crate::attr::{AttrValue, Attribute};
use crate::dtype::DataType;
use crate::error::Error;
use crate::graph::{Graph, Initializer, NodeId, ValueId};
use crate::info::{Dimension, NAME, ValueInfo};
use crate::node::{Edited, NewNode, Node, normal_domain};
use crate::read::next_index;
use crate::scope::{self, Scope};
use crate::tensor::Tensor;
use crate::wire::{Pieces, Span, put_bytes};

impl Graph {
    /// `hint`, or `hint_1`, `hint_2`, ...: the first that `taken` has not.
    fn unique(&mut self, hint: &str, taken: impl Fn(&Graph, &str) -> bool) -> String {
        let mut name = hint.to_owned();
        while taken(self, &name) {
            let next = self.suffixes.entry(hint.to_owned()).or_insert(0);
            *next += 1;
            name = format!("{hint}_{next}");
        }
        name
    }

    /// A new value without a producer. Its name is `hint`, or `hint_1`, `hint_2`, ... if that is taken, by a value in
    /// a subgraph for example.
    pub fn new_value(&mut self, hint: &str) -> ValueId {
        let hint = if hint.is_empty() { "value" } else { hint };
        let name = self.unique(hint, |graph, name| graph.names.contains(name));
        self.insert_value(name)
    }

    /// A new name for a value inside a subgraph.
    pub(crate) fn new_name(&mut self, hint: &str) -> String {
        let name = self.unique(hint, |graph, name| graph.names.contains(name));
        self.names.insert(name.clone());
        name
    }

    /// Appends a node. Call `sort` when all nodes are added.
    pub fn add_node(&mut self, n: NewNode) -> NodeId {
        self.add_call(n, String::new())
    }

    /// As `add_node`, of a function that has an overload.
    pub(crate) fn add_call(&mut self, n: NewNode, overload: String) -> NodeId {
        let hint = if n.name.is_empty() {
            &n.op_type
        } else {
            &n.name
        };
        let name = self.unique(hint, |graph, name| graph.node_names.contains(name));
        let message = Span::new(n.encode(&name, &overload));
        let attributes = n
            .attributes
            .iter()
            .map(|(name, value)| Attribute::new(name, value))
            .collect();
        self.push_node(Node {
            name,
            op_type: n.op_type,
            domain: normal_domain(&n.domain).to_owned(),
            inputs: n.inputs,
            outputs: n.outputs,
            overload,
            attributes,
            captures: Vec::new(),
            dir: self.dir.clone(),
            message,
            field: None,
            edited: Edited {
                inputs: true,
                outputs: true,
                ..Edited::default()
            },
        })
    }

    /// Appends a copy of the node: same operator, attributes (subgraphs too), metadata and inputs, new outputs.
    pub fn clone_node(&mut self, id: NodeId, name_hint: &str) -> NodeId {
        let mut node = self.node(id).clone();
        let hint = if name_hint.is_empty() {
            node.name.clone()
        } else {
            name_hint.to_owned()
        };
        node.name = self.unique(&hint, |graph, name| {
            name.is_empty() || graph.node_names.contains(name)
        });
        for output in node.outputs.iter_mut().flatten() {
            let hint = self.value(*output).name.clone();
            *output = self.new_value(&hint);
        }
        node.field = None;
        node.edited = Edited {
            name: true,
            inputs: true,
            outputs: true,
            ..node.edited
        };
        self.push_node(node)
    }

    pub(crate) fn push_node(&mut self, mut node: Node) -> NodeId {
        let id = NodeId(next_index(&self.nodes));
        self.node_names.insert(node.name.clone());
        node.captures = self.captured_values(&node.attributes);
        for (index, value) in node.inputs.iter().enumerate() {
            if let Some(value) = value {
                self.value_mut(*value).uses.push((id, index));
            }
        }
        for (index, value) in node.outputs.iter().enumerate() {
            if let Some(value) = value {
                debug_assert!(
                    self.value(*value).producer.is_none(),
                    "a value has one producer"
                );
                self.value_mut(*value).producer = Some((id, index));
            }
        }
        for value in &node.captures {
            self.value_mut(*value).captured_by.push(id);
        }
        self.nodes.push(Some(node));
        self.order.push(id);
        self.edited = true;
        id
    }

    /// The values that the subgraphs among the attributes read, each once. A name that is not known yet gets a value,
    /// which the verifier reports if nothing defines it.
    fn captured_values(&mut self, attributes: &[Attribute]) -> Vec<ValueId> {
        let (mut captures, mut seen) = (Vec::new(), HashSet::new());
        for body in attributes.iter().flat_map(|a| &a.graphs) {
            // The subgraph has been read once already, so this does not fail.
            let scope = Scope::read(body, 1).unwrap_or_default();
            self.names.extend(scope.defined);
            for name in scope.free {
                let value = self
                    .by_name
                    .get(&name)
                    .copied()
                    .unwrap_or_else(|| self.insert_value(name));
                if seen.insert(value) {
                    captures.push(value);
                }
            }
        }
        captures
    }

    /// Adds an initializer under a unique name. The elements are not copied.
    pub fn add_initializer(&mut self, hint: &str, t: Tensor) -> ValueId {
        let id = self.new_value(hint);
        let mut field = Pieces::default();
        field.push_message(scope::INITIALIZER, t.encode(&self.value(id).name));
        self.initializer_fields.push((id, field));
        let dims = t.dims().iter().map(|d| Dimension::Value(*d)).collect();
        let value = self.value_mut(id);
        value.info = Some(ValueInfo {
            dtype: Some(t.dtype()),
            dims: Some(dims),
        });
        value.kind.initializer = Some(Initializer::New(t));
        self.edited = true;
        id
    }

    /// Adds a graph input behind the others. An initializer of the same name becomes its default.
    ///
    /// # Errors
    /// `E-ONNX-DUPLICATE-NAME` if a node or an input has the name.
    pub fn add_input(
        &mut self,
        name: &str,
        dtype: DataType,
        dims: &[Dimension],
    ) -> Result<ValueId, Error> {
        if !self.by_name.contains_key(name) && self.names.contains(name) {
            let first = "a subgraph".to_owned();
            return Err(Error::DuplicateName {
                name: name.to_owned(),
                first,
                second: "a graph input".to_owned(),
            });
        }
        let id = self.define_input(name.to_owned())?;
        let info = ValueInfo {
            dtype: Some(dtype),
            dims: Some(dims.to_vec()),
        };
        self.input_fields
            .push(info_field(scope::INPUT, &info, name, None)?.into());
        self.value_mut(id).info = Some(info);
        self.inputs.push(id);
        self.edited = true;
        Ok(id)
    }

    /// Makes a value a graph output too, behind the others, without declaring its type: for looking inside a graph.
    /// Nothing happens if it is one already.
    pub fn add_output(&mut self, v: ValueId) {
        if std::mem::replace(&mut self.value_mut(v).kind.output, true) {
            return;
        }
        let (mut info, mut field) = (Vec::new(), Vec::new());
        put_bytes(&mut info, NAME, self.value(v).name.as_bytes());
        put_bytes(&mut field, scope::OUTPUT, &info);
        self.output_fields.push(field.into());
        self.outputs.push(v);
        self.edited = true;
    }

    fn drop_use(&mut self, v: ValueId, node: NodeId, index: usize) {
        let value = self.value_mut(v);
        // From the end, where it is when the nodes of a graph are removed from the last to the first.
        if let Some(place) = value.uses.iter().rposition(|entry| *entry == (node, index)) {
            value.uses.remove(place);
        }
        value.orphan |= value.kind.initializer.is_some() && !value.used();
    }

    /// Makes input `index` of the node read `v`. Inputs in between that do not exist yet are left out.
    pub fn set_input(&mut self, node: NodeId, index: usize, v: Option<ValueId>) {
        let inputs = &self.node(node).inputs;
        let old = inputs.get(index).copied().flatten();
        if old == v && index < inputs.len() {
            return;
        }
        let edited = self.node_mut(node);
        edited.edited.inputs = true;
        if edited.inputs.len() <= index {
            edited.inputs.resize(index + 1, None);
        }
        edited.inputs[index] = v;
        if let Some(old) = old {
            self.drop_use(old, node, index);
        }
        if let Some(new) = v {
            self.value_mut(new).uses.push((node, index));
        }
    }

    /// Makes output `index` of the node be `v`, which must have no producer. To move a value to another producer,
    /// first give the old producer a new value.
    pub fn set_output(&mut self, node: NodeId, index: usize, v: Option<ValueId>) {
        let outputs = &self.node(node).outputs;
        let old = outputs.get(index).copied().flatten();
        if old == v && index < outputs.len() {
            return;
        }
        let edited = self.node_mut(node);
        edited.edited.outputs = true;
        if edited.outputs.len() <= index {
            edited.outputs.resize(index + 1, None);
        }
        edited.outputs[index] = v;
        if let Some(old) = old {
            self.value_mut(old).producer = None;
        }
        if let Some(new) = v {
            debug_assert!(
                self.value(new).producer.is_none(),
                "a value has one producer"
            );
            self.value_mut(new).producer = Some((node, index));
        }
    }

    /// Sets an attribute, replacing one of the same name in its place.
    pub fn set_attr(&mut self, node: NodeId, name: &str, value: &AttrValue) {
        let attribute = Attribute::new(name, value);
        let edited = self.node_mut(node);
        edited.edited.attributes = true;
        match edited.attributes.iter_mut().find(|a| a.name == name) {
            Some(old) => *old = attribute,
            None => edited.attributes.push(attribute),
        }
        self.recapture(node);
    }

    /// Removes an attribute, if the node has it.
    pub fn remove_attr(&mut self, node: NodeId, name: &str) {
        if self.node(node).raw_attr(name).is_none() {
            return;
        }
        let edited = self.node_mut(node);
        edited.edited.attributes = true;
        edited.attributes.retain(|a| a.name != name);
        self.recapture(node);
    }

    fn drop_captures(&mut self, id: NodeId) {
        for v in std::mem::take(&mut self.node_mut(id).captures) {
            let value = self.value_mut(v);
            if let Some(place) = value.captured_by.iter().rposition(|node| *node == id) {
                value.captured_by.remove(place);
            }
            value.orphan |= value.kind.initializer.is_some() && !value.used();
        }
    }

    fn recapture(&mut self, id: NodeId) {
        self.drop_captures(id);
        let attributes = self.node(id).attributes.clone();
        let captures = self.captured_values(&attributes);
        for v in &captures {
            self.value_mut(*v).captured_by.push(id);
        }
        self.node_mut(id).captures = captures;
    }

    /// Makes every node input that reads `old` read `new`. Graph outputs and subgraphs go on reading `old`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        if old == new {
            return;
        }
        let uses = std::mem::take(&mut self.value_mut(old).uses);
        for (node, index) in &uses {
            let edited = self.node_mut(*node);
            edited.edited.inputs = true;
            edited.inputs[*index] = Some(new);
        }
        self.value_mut(new).uses.extend(uses);
        let value = self.value_mut(old);
        value.orphan |= value.kind.initializer.is_some() && !value.used();
    }

    /// Removes a node. Its outputs have no producer then.
    pub fn remove_node(&mut self, id: NodeId) {
        if self.contains(id) {
            self.detach(id);
            self.order.retain(|other| *other != id);
        }
    }

    /// Takes the node out of the arena, but not out of the order.
    pub(crate) fn detach(&mut self, id: NodeId) {
        self.drop_captures(id);
        let node = self.node(id);
        let (inputs, outputs) = (node.inputs.clone(), node.outputs.clone());
        for (index, value) in inputs.into_iter().enumerate() {
            if let Some(value) = value {
                self.drop_use(value, id, index);
            }
        }
        for value in outputs.into_iter().flatten() {
            self.value_mut(value).producer = None;
        }
        if let Some(node) = self.nodes.get_mut(id.0 as usize) {
            *node = None;
        }
        self.edited = true;
    }

    /// Removes the inputs that have a default, which makes the defaults constants.
    pub(crate) fn drop_constant_inputs(&mut self) {
        let (inputs, fields) = (
            std::mem::take(&mut self.inputs),
            std::mem::take(&mut self.input_fields),
        );
        for (id, field) in inputs.into_iter().zip(fields) {
            if self.value(id).kind.initializer.is_some() {
                self.value_mut(id).kind.input = false;
                self.edited = true;
            } else {
                self.inputs.push(id);
                self.input_fields.push(field);
            }
        }
    }

    /// Declares the type of a value, or removes the declaration. For inputs and outputs of the graph, which must have
    /// one, the declared type is replaced, and `None` changes nothing.
    pub fn set_info(&mut self, v: ValueId, info: Option<ValueInfo>) {
        let name = self.value(v).name.clone();
        let declared = |ids: &[ValueId]| ids.iter().position(|id| *id == v);
        let (input, output) = (declared(&self.inputs), declared(&self.outputs));
        let Some(info) = info else {
            if input.is_none() && output.is_none() {
                self.value_info_fields.retain(|(id, _)| *id != Some(v));
                self.value_mut(v).info = None;
                self.edited = true;
            }
            return;
        };
        let list = match (input, output) {
            (Some(_), _) => scope::INPUT,
            (None, Some(_)) => scope::OUTPUT,
            (None, None) => scope::VALUE_INFO,
        };
        let slot = match (input, output) {
            (Some(index), _) => self.input_fields.get_mut(index),
            (None, Some(index)) => self.output_fields.get_mut(index),
            (None, None) => {
                let mut kept = false;
                self.value_info_fields
                    .retain(|(id, _)| *id != Some(v) || !std::mem::replace(&mut kept, true));
                if !kept {
                    self.value_info_fields.push((Some(v), bytes::Bytes::new()));
                }
                self.value_info_fields
                    .iter_mut()
                    .find(|(id, _)| *id == Some(v))
                    .map(|(_, field)| field)
            }
        };
        if let Some(slot) = slot {
            let old = Span::new(slot.clone()).fields().next().and_then(Result::ok);
            // The old field has been read once already, so this does not fail.
            if let Ok(field) = info_field(list, &info, &name, old.as_ref().and_then(|f| f.len())) {
                *slot = field.into();
            }
        }
        self.value_mut(v).info = Some(info);
        self.edited = true;
    }
}

fn info_field(
    number: u32,
    info: &ValueInfo,
    name: &str,
    old: Option<&Span>,
) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    put_bytes(&mut out, number, &info.encode(name, old)?);
    Ok(out)
}
