//! Inlining of calls of model functions.

use std::collections::HashMap;

use crate::attr::{AttrValue, Attribute, RawAttribute};
use crate::error::Error;
use crate::function::{Function, FunctionNode};
use crate::graph::{Graph, NodeId, ValueId};
use crate::limits::MAX_INLINED;
use crate::model::Model;
use crate::node::{NewNode, Node};
use crate::rewrite::{Names, Rewriter};
use crate::scope::Scope;

impl Model {
    /// Replaces a node that calls a function of the model by the nodes of the function, in its place in the order.
    /// Attribute references are bound, also in subgraphs; names are made unique; calls inside stay calls.
    ///
    /// # Errors
    /// `E-ONNX-FUNCTION` if the node calls no function of the model, or with too many inputs or outputs, or if the
    /// function is broken or needs another version of an operator domain than the model. The graph still computes
    /// the same then. `E-ONNX-TOO-MANY` if the graph would get more than `limits::MAX_INLINED` nodes.
    pub fn inline_call(&mut self, node: NodeId) -> Result<Vec<NodeId>, Error> {
        let call = self.graph.node(node);
        let found = self
            .functions()
            .iter()
            .find(|f| f.is_called_by(&call.domain, &call.op_type, &call.overload));
        let Some(function) = found.cloned() else {
            return Err(error(
                call,
                &call.op_type,
                "the model has no such function".into(),
            ));
        };
        let domains = function.used_domains()?;
        let needed: Vec<_> = function
            .opsets
            .iter()
            .filter(|(domain, _)| domains.contains(domain))
            .collect();
        for (domain, version) in &needed {
            if let Some(have) = self.opset(domain).filter(|have| have != version) {
                let what = format!(
                    "it uses version {version} of the operators of `{domain}`, the model {have}"
                );
                return Err(error(call, &function.name, what));
            }
        }
        let nodes = self.graph.inline_function(node, &function)?;
        needed
            .iter()
            .for_each(|(domain, version)| self.import_opset(domain, *version));
        Ok(nodes)
    }
}

impl Graph {
    /// As `Model::inline_call`, with the function given. The caller sees to it that versions of operators agree.
    ///
    /// # Errors
    /// As `Model::inline_call`.
    pub fn inline_function(
        &mut self,
        node: NodeId,
        function: &Function,
    ) -> Result<Vec<NodeId>, Error> {
        let call = self.node(node).clone();
        if self.order.len() + function.nodes.len() > MAX_INLINED {
            return Err(Error::TooMany {
                what: "nodes after inlining",
                limit: MAX_INLINED,
            });
        }
        let (inputs, outputs) = (function.inputs.len(), function.outputs.len());
        if call.inputs.len() > inputs || call.outputs.len() > outputs {
            let what = format!(
                "it gives {} inputs and takes {} outputs where the function has {inputs} and {outputs}",
                call.inputs.len(),
                call.outputs.len()
            );
            return Err(error(&call, &function.name, what));
        }
        let prefix = if call.name.is_empty() {
            &function.name
        } else {
            &call.name
        };
        let mut inliner = Inliner {
            graph: self,
            call: &call,
            function,
            prefix,
            names: HashMap::new(),
        };
        let nodes = inliner.nodes()?;

        let place = self
            .order
            .iter()
            .position(|id| *id == node)
            .unwrap_or(self.order.len());
        self.remove_node(node);
        let ids: Vec<NodeId> = nodes
            .into_iter()
            .map(|(new, overload)| self.add_call(new, overload))
            .collect();
        self.order.truncate(self.order.len() - ids.len());
        self.order.splice(place..place, ids.iter().copied());
        Ok(ids)
    }
}

fn error(call: &Node, function: &str, what: String) -> Error {
    Error::Function {
        node: call.title(),
        function: function.to_owned(),
        what,
    }
}

struct Inliner<'a> {
    graph: &'a mut Graph,
    call: &'a Node,
    function: &'a Function,
    prefix: &'a str,
    /// Values by names of the function; `None` for an input that the call leaves out.
    names: HashMap<&'a str, Option<ValueId>>,
}

impl<'a> Inliner<'a> {
    /// The nodes that take the place of the call, each with its overload.
    fn nodes(&mut self) -> Result<Vec<(NewNode, String)>, Error> {
        for (index, name) in self.function.inputs.iter().enumerate() {
            self.names
                .insert(name, self.call.inputs.get(index).copied().flatten());
        }
        // What the function makes under the name of an output is the output of the call.
        let mut results: HashMap<&str, ValueId> = HashMap::new();
        for (name, value) in self.function.outputs.iter().zip(&self.call.outputs) {
            if let Some(value) = value {
                results.entry(name).or_insert(*value);
            }
        }
        let mut nodes = Vec::new();
        for inner in &self.function.nodes {
            nodes.push((self.node(inner, &results)?, inner.overload.clone()));
        }
        // Outputs that no node makes: inputs of the function, or a value that is an output already.
        for (name, value) in self.function.outputs.iter().zip(&self.call.outputs) {
            let Some(value) = *value else { continue };
            match self.names.get(name.as_str()) {
                Some(Some(source)) if *source == value => {}
                Some(Some(source)) => {
                    let identity = NewNode {
                        op_type: "Identity".into(),
                        name: format!("{}/{name}", self.prefix),
                        inputs: vec![Some(*source)],
                        outputs: vec![Some(value)],
                        ..NewNode::default()
                    };
                    nodes.push((identity, String::new()));
                }
                _ => return Err(self.error(format!("nothing defines its output `{name}`"))),
            }
        }
        Ok(nodes)
    }

    fn error(&self, what: String) -> Error {
        error(self.call, &self.function.name, what)
    }

    fn node(
        &mut self,
        inner: &'a FunctionNode,
        results: &HashMap<&str, ValueId>,
    ) -> Result<NewNode, Error> {
        let mut inputs = Vec::new();
        for name in &inner.inputs {
            inputs.push(match self.names.get(name.as_str()) {
                _ if name.is_empty() => None,
                Some(value) => *value,
                None => return Err(self.undefined(inner, name)),
            });
        }
        let mut attributes = Vec::new();
        for (name, value) in &inner.attributes {
            if let Some(value) = self.attribute(inner, name, value)? {
                attributes.push((name.clone(), value));
            }
        }
        let mut outputs = Vec::new();
        for name in &inner.outputs {
            if name.is_empty() {
                outputs.push(None);
                continue;
            }
            if self.names.contains_key(name.as_str()) {
                return Err(
                    self.error(format!("its node {} defines `{name}` again", inner.title()))
                );
            }
            let made = results.get(name.as_str()).copied();
            let value =
                made.unwrap_or_else(|| self.graph.new_value(&format!("{}/{name}", self.prefix)));
            self.names.insert(name, Some(value));
            outputs.push(Some(value));
        }
        let name = if inner.name.is_empty() {
            &inner.op_type
        } else {
            &inner.name
        };
        Ok(NewNode {
            op_type: inner.op_type.clone(),
            domain: inner.domain.clone(),
            name: format!("{}/{name}", self.prefix),
            inputs,
            outputs,
            attributes,
            metadata: Vec::new(),
        })
    }

    fn undefined(&self, inner: &FunctionNode, name: &str) -> Error {
        self.error(format!(
            "nothing before its node {} defines `{name}`",
            inner.title()
        ))
    }

    /// The attribute with references bound; `None` if it refers to one that was left out.
    fn attribute(
        &mut self,
        inner: &FunctionNode,
        name: &str,
        value: &AttrValue,
    ) -> Result<Option<AttrValue>, Error> {
        let (call, function) = (self.call, self.function);
        let bind = |outer: &str| {
            let given = call.raw_attr(outer).cloned();
            let default = || {
                function
                    .defaults
                    .iter()
                    .find(|(n, _)| n == outer)
                    .map(|(n, v)| Attribute::new(n, v))
            };
            given.or_else(default)
        };
        match value {
            AttrValue::Ref { name: outer, .. } => {
                Ok(bind(outer).map(|bound| bound.value(call.dir.as_ref())))
            }
            AttrValue::Opaque(raw) if !raw.0.graphs.is_empty() => {
                for body in &raw.0.graphs {
                    for free in Scope::read(body, 1)?.free {
                        if !self.names.contains_key(free.as_str()) {
                            return Err(self.undefined(inner, &free));
                        }
                    }
                }
                let value_name = |v: &Option<ValueId>| {
                    v.map(|v| self.graph.value(v).name.clone())
                        .unwrap_or_default()
                };
                let names: Names = self
                    .names
                    .iter()
                    .map(|(name, v)| ((*name).to_owned(), value_name(v)))
                    .collect();
                let mut rewriter = Rewriter {
                    graph: self.graph,
                    prefix: self.prefix,
                    bind: &bind,
                };
                let rewritten = rewriter.attribute(&raw.0, &names)?;
                for body in rewritten.iter().flat_map(|attribute| &attribute.graphs) {
                    // A graph that the call gives may now be nested too deep.
                    Scope::read(body, 1)?;
                }
                Ok(rewritten
                    .map(|attribute| AttrValue::Opaque(RawAttribute(attribute.renamed(name)))))
            }
            other => Ok(Some(other.clone())),
        }
    }
}
