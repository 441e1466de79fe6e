//! The verifier. A model that passes keeps these invariants:
//!
//! Graph:
//! - every value has one definition: a node's output, a graph input, or an initializer (which may be the default of a
//!   graph input, nothing else), and `Value::producer` names it;
//! - names of values are not empty and are used once;
//! - whatever a node, a subgraph or the list of outputs reads is defined, by a node only if that node comes before;
//! - `Value::uses` and `Value::captured_by` are exactly the node inputs and the subgraphs that read the value;
//! - tensors that were added have as many bytes as their dimensions ask for, and every initializer is written once.
//!
//! Model:
//! - it says its format version, which is at least 8 if it has functions;
//! - the domain of every node, in subgraphs and functions too, is imported, by the model or the function;
//! - functions differ in name, domain or overload; each of their nodes reads inputs and outputs of earlier nodes,
//!   defines names once, and every output is defined.

use std::collections::HashSet;

use crate::function::Function;
use crate::graph::{Graph, Initializer};
use crate::model::Model;
use crate::node::Node;
use crate::scope::Scope;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The node, or what else it is about.
    pub node: String,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.node, self.what)
    }
}

#[derive(Default)]
struct Report(Vec<Violation>);

impl Report {
    fn add(&mut self, node: impl Into<String>, what: impl Into<String>) {
        self.0.push(Violation {
            node: node.into(),
            what: what.into(),
        });
    }
}

impl Model {
    /// Checks the invariants that the head of the verifier's source lists.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the file.
    pub fn verify(&self) -> Result<(), Vec<Violation>> {
        let mut report = Report::default();
        self.verify_imports(&mut report);
        self.graph.verify_values(&mut report);
        self.graph.verify_nodes(&mut report);
        for function in self.functions() {
            verify_function(function, &mut report);
        }
        if report.0.is_empty() {
            Ok(())
        } else {
            Err(report.0)
        }
    }

    fn verify_imports(&self, report: &mut Report) {
        if self.ir_version() < 1 {
            report.add("model", "it does not say the version of the file format");
        }
        if self.ir_version() < 8 && !self.functions().is_empty() {
            report.add(
                "model",
                format!("functions need ir_version 8, it is {}", self.ir_version()),
            );
        }
        let mut seen = HashSet::new();
        for f in self.functions() {
            if !seen.insert((&f.name, &f.domain, &f.overload)) {
                report.add(format!("function {}", f.name), "the model has it twice");
            }
            if self.opset(&f.domain).is_none() {
                report.add(
                    format!("function {}", f.name),
                    format!("its domain `{}` is not imported", f.domain),
                );
            }
        }
        for id in self.graph.node_ids() {
            let node = self.graph.node(id);
            let inside = subgraphs(node)
                .flat_map(|scope| scope.domains)
                .collect::<Vec<_>>();
            for domain in std::iter::once(&node.domain).chain(&inside) {
                if self.opset(domain).is_none() {
                    report.add(
                        node.title(),
                        format!("its domain `{domain}` is not imported"),
                    );
                }
            }
        }
    }
}

/// The subgraphs of a node. They have been read once already, so reading them does not fail.
fn subgraphs(node: &Node) -> impl Iterator<Item = Scope> + '_ {
    node.attributes
        .iter()
        .flat_map(|a| &a.graphs)
        .filter_map(|body| Scope::read(body, 1).ok())
}

impl Graph {
    fn verify_values(&self, report: &mut Report) {
        let mut names = HashSet::new();
        let readers = self.node_ids().filter(|id| self.contains(*id));
        let captures: HashSet<_> = readers
            .flat_map(|node| self.node(node).captures.iter().map(move |v| (node, *v)))
            .collect();
        let mut written = vec![0usize; self.values.len()];
        self.initializer_fields
            .iter()
            .for_each(|(id, _)| written[id.0 as usize] += 1);
        for id in self.value_ids() {
            let value = self.value(id);
            let subject = format!("value `{}`", value.name);
            if value.name.is_empty() || !names.insert(&value.name) {
                report.add(&subject, "its name is empty or used twice");
            }
            if let Some((node, index)) = value.producer {
                if !self.contains(node) || self.node(node).outputs.get(index) != Some(&Some(id)) {
                    report.add(&subject, "its producer does not make it");
                }
                if value.kind.input || value.kind.initializer.is_some() {
                    report.add(
                        &subject,
                        "a node makes it, and it is a graph input or an initializer too",
                    );
                }
            }
            if value.used() && !value.defined() {
                report.add(&subject, "it is read, but nothing defines it");
            }
            for (node, index) in &value.uses {
                if !self.contains(*node) || self.node(*node).inputs.get(*index) != Some(&Some(id)) {
                    report.add(
                        &subject,
                        format!("it has a use that is none ({node:?}, input {index})"),
                    );
                }
            }
            for node in &value.captured_by {
                if !self.contains(*node) || !captures.contains(&(*node, id)) {
                    report.add(&subject, format!("it has a reader that is none ({node:?})"));
                }
            }
            match &value.kind.initializer {
                Some(Initializer::New(tensor))
                    if tensor.read_raw().is_err() && !tensor.is_external() =>
                {
                    report.add(
                        &subject,
                        format!("its bytes do not fit its dimensions {:?}", tensor.dims()),
                    );
                }
                _ => {}
            }
            let fields = match value.kind.initializer {
                Some(Initializer::Read(_) | Initializer::New(_)) => 1..=1,
                // Sparse ones are written elsewhere.
                Some(Initializer::Other) => 0..=1,
                None => 0..=0,
            };
            if !fields.contains(&written[id.0 as usize]) {
                report.add(&subject, "it is not written once as an initializer");
            }
        }
        for id in &self.outputs {
            if !self.value(*id).kind.output {
                report.add(
                    format!("value `{}`", self.value(*id).name),
                    "it is an output without knowing it",
                );
            }
        }
    }

    fn verify_nodes(&self, report: &mut Report) {
        let mut done = vec![false; self.nodes.len()];
        let (mut reads, mut captures) = (0, 0);
        for id in self.node_ids() {
            if !self.contains(id) || done[id.0 as usize] {
                report.add(
                    format!("{id:?}"),
                    "it is in the order, but not once in the graph",
                );
                continue;
            }
            let node = self.node(id);
            for v in node.inputs.iter().flatten().chain(&node.captures) {
                if self
                    .value(*v)
                    .producer
                    .is_some_and(|(producer, _)| !done[producer.0 as usize])
                {
                    report.add(
                        node.title(),
                        format!("it reads `{}` before that is made", self.value(*v).name),
                    );
                }
            }
            for v in node.outputs.iter().flatten() {
                if self
                    .value(*v)
                    .producer
                    .is_none_or(|(producer, _)| producer != id)
                {
                    report.add(
                        node.title(),
                        format!("another node makes `{}` too", self.value(*v).name),
                    );
                }
            }
            reads += node.inputs.iter().flatten().count();
            captures += node.captures.len();
            done[id.0 as usize] = true;
        }
        if self.nodes.iter().flatten().count() != self.order.len() {
            report.add("graph", "a node is not in the order");
        }
        // Each recorded use was checked to be one; equal numbers say that none is missing.
        let uses: usize = self.values.iter().map(|v| v.uses.len()).sum();
        let captured: usize = self.values.iter().map(|v| v.captured_by.len()).sum();
        if uses != reads || captured != captures {
            report.add(
                "graph",
                format!("{uses} uses and {captured} captures, but {reads} and {captures} readers"),
            );
        }
    }
}

fn verify_function(function: &Function, report: &mut Report) {
    let subject = format!("function {}", function.name);
    let mut defined = HashSet::new();
    for name in &function.inputs {
        if !defined.insert(name.as_str()) {
            report.add(&subject, format!("input `{name}` is there twice"));
        }
    }
    for node in &function.nodes {
        let subject = format!("{subject}, node {}", node.title());
        let scopes = node.scopes().unwrap_or_default();
        for name in node
            .inputs
            .iter()
            .chain(scopes.iter().flat_map(|s| &s.free))
        {
            if !name.is_empty() && !defined.contains(name.as_str()) {
                report.add(&subject, format!("nothing before it defines `{name}`"));
            }
        }
        for domain in std::iter::once(&node.domain).chain(scopes.iter().flat_map(|s| &s.domains)) {
            if !function.opsets.iter().any(|(d, _)| d == domain) {
                report.add(
                    &subject,
                    format!("the function does not import its domain `{domain}`"),
                );
            }
        }
        for name in &node.outputs {
            if !name.is_empty() && !defined.insert(name) {
                report.add(&subject, format!("it defines `{name}` again"));
            }
        }
    }
    for name in &function.outputs {
        if !defined.contains(name.as_str()) {
            report.add(&subject, format!("nothing defines its output `{name}`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataType, NewNode, NodeId, Tensor, ValueId};

    /// Add(x, w), Relu, with a function.
    fn sound() -> Model {
        let mut model = Model::new(8, &[("", 17), ("dom", 1)]);
        let graph = &mut model.graph;
        let x = graph.add_input("x", DataType::Float, &[]).unwrap();
        let w = graph.add_initializer("w", Tensor::scalar_f32(1.0));
        let (y, z) = (graph.new_value("y"), graph.new_value("z"));
        for (op_type, inputs, output) in [("Add", vec![x, w], y), ("Relu", vec![y], z)] {
            let inputs = inputs.into_iter().map(Some).collect();
            graph.add_node(NewNode {
                op_type: op_type.into(),
                inputs,
                outputs: vec![Some(output)],
                ..NewNode::default()
            });
        }
        let node = |input: &str, output: &str| crate::FunctionNode {
            op_type: "Relu".into(),
            inputs: vec![input.into()],
            outputs: vec![output.into()],
            ..Default::default()
        };
        model.add_function(Function {
            name: "F".into(),
            domain: "dom".into(),
            inputs: vec!["a".into()],
            outputs: vec!["c".into()],
            opsets: vec![("".into(), 17)],
            nodes: vec![node("a", "b"), node("b", "c")],
            ..Function::default()
        });
        model
    }

    /// What the verifier says after `damage`.
    fn says(damage: impl Fn(&mut Model)) -> String {
        let mut model = sound();
        damage(&mut model);
        model
            .verify()
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn function(damage: impl Fn(&mut Function)) -> String {
        says(|model| {
            let mut function = model.functions()[0].clone();
            damage(&mut function);
            model.retain_functions(|_| false);
            model.add_function(function);
        })
    }

    #[test]
    fn every_kind_of_damage_is_found() {
        assert_eq!(sound().verify(), Ok(()));
        let (x, w, y, z) = (ValueId(0), ValueId(1), ValueId(2), ValueId(3));
        let (add, relu) = (NodeId(0), NodeId(1));
        let found = [
            (
                says(|m| m.graph.order.swap(0, 1)),
                "(Relu): it reads `y` before that is made",
            ),
            (
                says(|m| _ = m.graph.order.pop()),
                "graph: a node is not in the order",
            ),
            (
                says(|m| m.graph.order.push(add)),
                "it is in the order, but not once",
            ),
            (
                says(|m| m.graph.value_mut(y).uses.clear()),
                "graph: 2 uses and 0 captures, but 3 and 0 readers",
            ),
            (
                says(|m| m.graph.value_mut(x).uses.push((relu, 0))),
                "`x`: it has a use that is none",
            ),
            (
                says(|m| m.graph.value_mut(x).captured_by.push(relu)),
                "`x`: it has a reader that is none",
            ),
            (
                says(|m| m.graph.value_mut(y).producer = None),
                "`y`: it is read, but nothing defines it",
            ),
            (
                says(|m| m.graph.value_mut(y).producer = Some((relu, 0))),
                "`y`: its producer does not make it",
            ),
            (
                says(|m| m.graph.value_mut(y).kind.input = true),
                "`y`: a node makes it, and it is a graph input",
            ),
            (
                says(|m| m.graph.value_mut(y).name = "x".into()),
                "`x`: its name is empty or used twice",
            ),
            (
                says(|m| m.graph.node_mut(relu).outputs[0] = Some(y)),
                "another node makes `y` too",
            ),
            (
                says(|m| m.graph.outputs.push(z)),
                "`z`: it is an output without knowing it",
            ),
            (
                says(|m| _ = m.graph.initializer_fields.pop()),
                "`w`: it is not written once",
            ),
            (
                says(|m| m.graph.remove_node(add)),
                "`y`: it is read, but nothing defines it",
            ),
            (
                says(|m| {
                    _ = m
                        .graph
                        .add_initializer("bad", Tensor::from_f32s(&[3], &[1.0]))
                }),
                "`bad`: its bytes do not fit its dimensions [3]",
            ),
            (
                says(|m| m.graph.value_mut(w).kind.initializer = None),
                "`w`: it is read, but nothing defines it",
            ),
            (
                says(|m| m.graph.node_mut(add).domain = "other".into()),
                "(Add): its domain `other` is not imported",
            ),
            (
                says(|m| m.set_ir_version(7)),
                "model: functions need ir_version 8, it is 7",
            ),
            (
                says(|m| m.set_ir_version(0)),
                "model: it does not say the version",
            ),
            (
                says(|m| m.add_function(m.functions()[0].clone())),
                "function F: the model has it twice",
            ),
            (
                function(|f| f.domain = "new".into()),
                "function F: its domain `new` is not imported",
            ),
            (
                function(|f| f.nodes.swap(0, 1)),
                "function F, node (Relu without a name): nothing before it defines `b`",
            ),
            (
                function(|f| f.nodes[1].outputs[0] = "b".into()),
                "it defines `b` again",
            ),
            (
                function(|f| f.outputs.push("d".into())),
                "function F: nothing defines its output `d`",
            ),
            (
                function(|f| f.inputs.push("a".into())),
                "function F: input `a` is there twice",
            ),
            (
                function(|f| f.opsets.clear()),
                "the function does not import its domain ``",
            ),
        ];
        for (text, expected) in found {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }
}
