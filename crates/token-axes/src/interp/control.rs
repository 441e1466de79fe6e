//! Control flow: `If`. The branch that is taken, if the condition is known, else what both branches agree on. Loops are not
//! followed.

use std::cell::RefCell;

use onnx_model::{Graph, NodeId};

use super::evaluate::{Made, Walk};
use super::facts::{Facts, Unknown};
use super::value::{Content, Value};

/// What a branch makes, or why that is not known.
type Branch = Result<Vec<Value>, String>;

impl Walk<'_> {
    /// A node with subgraphs.
    pub(super) fn control(&self, id: NodeId, facts: &Facts) -> Made {
        let node = self.graph.node(id);
        let condition = node
            .inputs
            .first()
            .copied()
            .flatten()
            .and_then(|v| facts.values.get(&v));
        let taken = match condition.and_then(Value::content) {
            Some(Content::Bool(c)) => c.first().copied(),
            _ => None,
        };
        let assumed = condition.is_some_and(|c| c.assumed_content);
        let constant = condition.is_some_and(|c| c.constant);
        let found = match (node.op_type.as_str(), node.domain.as_str(), taken) {
            ("If", "", Some(true)) => self.branch(id, "then_branch", facts),
            ("If", "", Some(false)) => self.branch(id, "else_branch", facts),
            ("If", "", None) => {
                // A branch that may not be taken does not show two sizes to be equal.
                let conflicts = RefCell::default();
                let apart = self.apart(&conflicts);
                let each = |name| apart.branch(id, name, facts);
                match (each("then_branch"), each("else_branch")) {
                    (Ok(a), Ok(b)) => {
                        Ok(a.into_iter().zip(b).map(|(a, b)| agreed(a, &b)).collect())
                    }
                    (Err(reason), _) | (_, Err(reason)) => Err(reason),
                }
            }
            (operator, ..) => Err(format!("the subgraphs of {operator} are not followed")),
        };
        let (mut values, reason) = match found {
            Ok(values) => (
                values,
                "the branches of the If do not agree on it".to_owned(),
            ),
            Err(reason) => (Vec::new(), reason),
        };
        values.resize_with(node.outputs.len(), Value::default);
        for value in &mut values {
            value.constant &= constant;
            value.assumed_shape |= assumed;
            value.assumed_content |= assumed && value.content().is_some();
        }
        Made {
            values,
            unknown: Unknown {
                node: Some(id),
                reason,
                from: None,
            },
        }
    }

    /// Evaluates a branch.
    fn branch(&self, id: NodeId, name: &str, outer: &Facts) -> Branch {
        let graph: Graph = match self.graph.node(id).subgraph(name) {
            Ok(Some(graph)) => graph,
            Ok(None) => return Err(format!("there is no {name}")),
            Err(error) => return Err(format!("the {name} cannot be read: {error}")),
        };
        let mut inner = Facts::default();
        for &v in graph.inputs() {
            let captured = self.graph.find_value(&graph.value(v).name);
            if let Some(value) = captured.and_then(|v| outer.values.get(&v)) {
                inner.values.insert(v, value.clone());
            }
        }
        self.within(&graph).all(&mut inner);
        let mut values = Vec::new();
        for v in graph.outputs() {
            let value = inner.values.remove(v).filter(|value| value.shape.is_some());
            let Some(value) = value else {
                let reason = inner
                    .unknown(*v)
                    .map_or("nothing makes the output", |u| &u.reason);
                return Err(format!("in the {name}: {reason}"));
            };
            values.push(value);
        }
        Ok(values)
    }
}

/// What holds of both.
fn agreed(a: Value, b: &Value) -> Value {
    let same = a.shape == b.shape;
    let mut both = Value {
        dtype: a.dtype.filter(|_| a.dtype == b.dtype),
        shape: a.shape.clone().filter(|_| same),
        constant: a.constant && b.constant,
        assumed_shape: a.assumed_shape || b.assumed_shape,
        assumed_content: a.assumed_content || b.assumed_content,
        ..Value::default()
    };
    both.set_content(
        a.content()
            .filter(|c| same && Some(*c) == b.content())
            .cloned(),
    );
    both
}
