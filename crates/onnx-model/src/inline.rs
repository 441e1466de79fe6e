//! Inlining of calls of model functions.

use std::collections::HashMap;

use crate::attr::{AttrValue, Attribute};
use crate::error::Error;
use crate::function::Function;
use crate::graph::{Graph, NodeId, ValueId};
use crate::model::Model;
use crate::node::NewNode;

impl Model {
    /// Replaces a node that calls a function of the model by the nodes of the function. Calls inside stay calls.
    /// Returns the new nodes; call `Graph::sort` when done with all calls.
    ///
    /// # Errors
    /// `E-ONNX-FUNCTION` if the node calls no function of the model, or with too many inputs or outputs, or if the
    /// function needs another version of an operator domain than the model.
    pub fn inline_call(&mut self, node: NodeId) -> Result<Vec<NodeId>, Error> {
        let call = self.graph.node(node);
        let found = self
            .functions()
            .iter()
            .find(|f| f.is_called_by(&call.domain, &call.op_type, &call.overload));
        let error = |what: String| Error::Function {
            node: call.title(),
            function: call.op_type.clone(),
            what,
        };
        let Some(function) = found.cloned() else {
            return Err(error("the model has no such function".into()));
        };
        for (domain, version) in &function.opsets {
            let used = function.nodes.iter().any(|n| n.domain == *domain);
            match self.opset(domain) {
                Some(have) if have != *version && used => {
                    return Err(error(format!(
                        "its nodes are of version {version} of the operators of `{domain}`, the model is of {have}"
                    )));
                }
                _ => {}
            }
        }
        let nodes = self.graph.inline_function(node, &function)?;
        for (domain, version) in &function.opsets {
            if function.nodes.iter().any(|n| n.domain == *domain) {
                self.import_opset(domain, *version);
            }
        }
        Ok(nodes)
    }
}

impl Graph {
    /// As `Model::inline_call`, with the function given. The caller sees to it that versions of operators agree.
    ///
    /// # Errors
    /// `E-ONNX-FUNCTION` if the call has more inputs or outputs than the function.
    pub fn inline_function(
        &mut self,
        node: NodeId,
        function: &Function,
    ) -> Result<Vec<NodeId>, Error> {
        let call = self.node(node).clone();
        let error = |what: String| Error::Function {
            node: call.title(),
            function: function.name.clone(),
            what,
        };
        if call.inputs.len() > function.inputs.len() || call.outputs.len() > function.outputs.len()
        {
            return Err(error(format!(
                "{} inputs and {} outputs where the function has {} and {}",
                call.inputs.len(),
                call.outputs.len(),
                function.inputs.len(),
                function.outputs.len()
            )));
        }
        let mut names: HashMap<&str, Option<ValueId>> = HashMap::new();
        for (index, name) in function.inputs.iter().enumerate() {
            names.insert(name, call.inputs.get(index).copied().flatten());
        }
        // What the function makes under the name of an output is the output of the call.
        let mut made: HashMap<&str, ValueId> = HashMap::new();
        for (name, value) in function.outputs.iter().zip(&call.outputs) {
            if let Some(value) = value {
                made.entry(name).or_insert(*value);
            }
        }
        let prefix = if call.name.is_empty() {
            &function.name
        } else {
            &call.name
        };
        let mut new_nodes = Vec::new();
        for inner in &function.nodes {
            let mut inputs = Vec::new();
            for name in &inner.inputs {
                inputs.push(match names.get(name.as_str()) {
                    _ if name.is_empty() => None,
                    Some(value) => *value,
                    None => {
                        return Err(error(format!(
                            "{} reads `{name}`, which nothing defines",
                            inner.title()
                        )));
                    }
                });
            }
            let mut outputs = Vec::new();
            for name in &inner.outputs {
                if name.is_empty() {
                    outputs.push(None);
                    continue;
                }
                if names.contains_key(name.as_str()) {
                    return Err(error(format!("{} defines `{name}` again", inner.title())));
                }
                let value = match made.get(name.as_str()) {
                    Some(value) => *value,
                    None => self.new_value(&format!("{prefix}/{name}")),
                };
                names.insert(name, Some(value));
                outputs.push(Some(value));
            }
            let mut attributes = Vec::new();
            for (name, value) in &inner.attributes {
                match value {
                    AttrValue::Ref { name: outer, .. } => {
                        if let Some(bound) = bind(&call.attributes, function, outer) {
                            attributes.push((name.clone(), bound.value(self.dir.as_ref())));
                        }
                    }
                    other => attributes.push((name.clone(), other.clone())),
                }
            }
            let inner_name = if inner.name.is_empty() {
                &inner.op_type
            } else {
                &inner.name
            };
            new_nodes.push((
                NewNode {
                    op_type: inner.op_type.clone(),
                    domain: inner.domain.clone(),
                    name: format!("{prefix}/{inner_name}"),
                    inputs,
                    outputs,
                    attributes,
                    metadata: Vec::new(),
                },
                inner.overload.clone(),
            ));
        }
        // Outputs that no node makes under their name: inputs of the function, or the same value again.
        for (name, value) in function.outputs.iter().zip(&call.outputs) {
            let Some(value) = *value else { continue };
            match names.get(name.as_str()).copied() {
                Some(Some(source)) if source == value => {}
                Some(Some(source)) => new_nodes.push((
                    NewNode {
                        op_type: "Identity".into(),
                        name: format!("{prefix}/{name}"),
                        inputs: vec![Some(source)],
                        outputs: vec![Some(value)],
                        ..NewNode::default()
                    },
                    String::new(),
                )),
                _ => return Err(error(format!("nothing defines its output `{name}`"))),
            }
        }
        self.remove_node(node);
        Ok(new_nodes
            .into_iter()
            .map(|(new, _overload)| self.add_node(new))
            .collect())
    }
}

/// What the attribute `name` of the function is in this call; `None` if it was left out and has no default.
fn bind(call: &[Attribute], function: &Function, name: &str) -> Option<Attribute> {
    let given = call.iter().find(|a| a.name == name).cloned();
    let default = || {
        function
            .defaults
            .iter()
            .find(|(n, _)| n == name)
            .map(|(n, value)| Attribute::new(n, value))
    };
    given.or_else(default)
}
