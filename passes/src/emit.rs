//! Building nodes: a thin layer over the graph that picks the right form of an operator for the model's opset.

use onnx_model::{AttrValue, DataType, Graph, NewNode, Tensor, ValueId};
use std::collections::BTreeMap;

/// Emits nodes into a graph under a name prefix.
pub(crate) struct Emit<'a> {
    pub(crate) graph: &'a mut Graph,
    pub(crate) opset: i64,
    prefix: String,
    /// Initializers emitted so far, by their content: one per constant and prefix.
    constants: BTreeMap<Vec<i64>, ValueId>,
}

impl<'a> Emit<'a> {
    pub(crate) fn new(graph: &'a mut Graph, opset: i64, prefix: impl Into<String>) -> Emit<'a> {
        Emit {
            graph,
            opset,
            prefix: prefix.into(),
            constants: BTreeMap::new(),
        }
    }

    /// A name under the prefix.
    pub(crate) fn name(&self, hint: &str) -> String {
        format!("{}/{hint}", self.prefix)
    }

    /// One operator of the default domain with one output.
    pub(crate) fn op(
        &mut self,
        op: &str,
        inputs: &[ValueId],
        attributes: &[(&str, AttrValue)],
    ) -> ValueId {
        let output = self.graph.new_value(&self.name(&op.to_lowercase()));
        self.node("", op, inputs, vec![output], attributes);
        output
    }

    /// An operator of `ai.vcc` with named outputs.
    pub(crate) fn vcc(
        &mut self,
        op: &str,
        inputs: &[ValueId],
        outputs: &[&str],
        attributes: &[(&str, AttrValue)],
    ) -> Vec<ValueId> {
        let outputs: Vec<ValueId> = outputs
            .iter()
            .map(|o| self.graph.new_value(&self.name(o)))
            .collect();
        let mut attributes = attributes.to_vec();
        let first = outputs
            .first()
            .map(|&v| self.graph.value(v).name.clone())
            .unwrap_or_default();
        attributes.push(("dim_prefix", AttrValue::Str(first)));
        self.node(
            crate::bodies::DOMAIN,
            op,
            inputs,
            outputs.clone(),
            &attributes,
        );
        outputs
    }

    fn node(
        &mut self,
        domain: &str,
        op: &str,
        inputs: &[ValueId],
        outputs: Vec<ValueId>,
        attributes: &[(&str, AttrValue)],
    ) {
        let name = outputs
            .first()
            .map(|&v| self.graph.value(v).name.clone())
            .unwrap_or_default();
        self.graph.add_node(NewNode {
            op_type: op.to_owned(),
            domain: domain.to_owned(),
            name,
            inputs: inputs.iter().map(|&v| Some(v)).collect(),
            outputs: outputs.into_iter().map(Some).collect(),
            attributes: attributes
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect(),
            metadata: Vec::new(),
        });
    }

    /// An int64 vector constant.
    pub(crate) fn ints(&mut self, elements: &[i64]) -> ValueId {
        if let Some(&value) = self.constants.get(elements) {
            return value;
        }
        let text: Vec<String> = elements
            .iter()
            .take(6)
            .map(|e| e.to_string().replace('-', "m"))
            .collect();
        let value = self.graph.add_initializer(
            &self.name(&format!("ints_{}", text.join("_"))),
            Tensor::vector_i64(elements),
        );
        self.constants.insert(elements.to_vec(), value);
        value
    }

    /// An int64 scalar constant.
    pub(crate) fn int(&mut self, element: i64) -> ValueId {
        self.graph
            .add_initializer(&self.name("int"), Tensor::scalar_i64(element))
    }

    /// A scalar constant of a float type.
    pub(crate) fn float(&mut self, dtype: DataType, element: f64) -> ValueId {
        let tensor = Tensor::from_f64s(dtype, &[], &[element])
            .unwrap_or_else(|| Tensor::scalar_f32(element as f32));
        self.graph.add_initializer(&self.name("float"), tensor)
    }

    /// One dimension of a value, as a vector of one element.
    pub(crate) fn dim(&mut self, value: ValueId, axis: usize) -> ValueId {
        let shape = self.op("Shape", &[value], &[]);
        let axis = self.ints(&[axis as i64]);
        self.op("Gather", &[shape, axis], &[("axis", AttrValue::Int(0))])
    }

    pub(crate) fn cast(&mut self, value: ValueId, to: DataType) -> ValueId {
        self.op(
            "Cast",
            &[value],
            &[("to", AttrValue::Int(i64::from(to as i32)))],
        )
    }

    pub(crate) fn transpose(&mut self, value: ValueId, perm: &[usize]) -> ValueId {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return value;
        }
        let perm = perm.iter().map(|&p| p as i64).collect();
        self.op("Transpose", &[value], &[("perm", AttrValue::Ints(perm))])
    }

    pub(crate) fn gather(&mut self, data: ValueId, index: ValueId, axis: usize) -> ValueId {
        self.op(
            "Gather",
            &[data, index],
            &[("axis", AttrValue::Int(axis as i64))],
        )
    }

    pub(crate) fn unsqueeze(&mut self, value: ValueId, axes: &[i64]) -> ValueId {
        if self.opset >= 13 {
            let axes = self.ints(axes);
            self.op("Unsqueeze", &[value, axes], &[])
        } else {
            self.op(
                "Unsqueeze",
                &[value],
                &[("axes", AttrValue::Ints(axes.to_vec()))],
            )
        }
    }

    pub(crate) fn squeeze(&mut self, value: ValueId, axes: &[i64]) -> ValueId {
        if self.opset >= 13 {
            let axes = self.ints(axes);
            self.op("Squeeze", &[value, axes], &[])
        } else {
            self.op(
                "Squeeze",
                &[value],
                &[("axes", AttrValue::Ints(axes.to_vec()))],
            )
        }
    }

    /// Elements `from..to` of an axis; the bounds are vectors of one element.
    pub(crate) fn slice(
        &mut self,
        value: ValueId,
        from: ValueId,
        to: ValueId,
        axis: usize,
    ) -> ValueId {
        let axes = self.ints(&[axis as i64]);
        self.op("Slice", &[value, from, to, axes], &[])
    }

    pub(crate) fn concat(&mut self, values: &[ValueId], axis: i64) -> ValueId {
        match values {
            [one] => *one,
            _ => self.op("Concat", values, &[("axis", AttrValue::Int(axis))]),
        }
    }

    /// `0, 1, .. n-1` for a vector of one element.
    pub(crate) fn range(&mut self, n: ValueId) -> ValueId {
        let (start, step) = (self.int(0), self.int(1));
        let n = self.squeeze(n, &[0]);
        self.op("Range", &[start, n, step], &[])
    }

    /// A reshape to a target of sizes.
    pub(crate) fn reshape(&mut self, value: ValueId, target: &[Size]) -> ValueId {
        let target = self.target(target);
        self.op("Reshape", &[value, target], &[])
    }

    /// A shape operand from sizes; constants next to each other become one initializer.
    pub(crate) fn target(&mut self, sizes: &[Size]) -> ValueId {
        let mut parts: Vec<ValueId> = Vec::new();
        let mut run: Vec<i64> = Vec::new();
        for size in sizes {
            match size {
                Size::Const(c) => run.push(*c),
                Size::Value(v) => {
                    if !run.is_empty() {
                        let constant = self.ints(&run);
                        parts.push(constant);
                        run.clear();
                    }
                    parts.push(*v);
                }
            }
        }
        if !run.is_empty() || parts.is_empty() {
            let constant = self.ints(&run);
            parts.push(constant);
        }
        self.concat(&parts, 0)
    }

    /// The product of sizes.
    pub(crate) fn product(&mut self, sizes: &[Size]) -> Size {
        let mut constant = 1i64;
        let mut product: Option<ValueId> = None;
        for size in sizes {
            match size {
                Size::Const(c) => constant = constant.saturating_mul(*c),
                Size::Value(v) => {
                    product = Some(match product {
                        None => *v,
                        Some(p) => self.op("Mul", &[p, *v], &[]),
                    });
                }
            }
        }
        match product {
            None => Size::Const(constant),
            Some(p) if constant == 1 => Size::Value(p),
            Some(p) => {
                let c = self.ints(&[constant]);
                Size::Value(self.op("Mul", &[p, c], &[]))
            }
        }
    }
}

/// A size in a shape operand: a number, or a vector of one element in the graph.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Size {
    Const(i64),
    Value(ValueId),
}
