//! The operators that can be re-created over the rows, and what they ask of their inputs.

use super::reps::Rep;
use super::{Ax, Hoist, token_axes};
use crate::conversion::Binding;
use crate::emit::Emit;
use onnx_model::{AttrValue, DataType, Node, NodeId, Tensor, ValueId};
use token_axes::Dim;

/// Whether all inputs are broadcast against each other and each element depends on those at its place only.
pub(super) fn broadcasts(op: &str) -> bool {
    matches!(
        op,
        "Add"
            | "And"
            | "BitwiseAnd"
            | "BitwiseOr"
            | "BitwiseXor"
            | "Div"
            | "Equal"
            | "Greater"
            | "GreaterOrEqual"
            | "Less"
            | "LessOrEqual"
            | "Max"
            | "Mean"
            | "Min"
            | "Mod"
            | "Mul"
            | "Or"
            | "Pow"
            | "Sub"
            | "Sum"
            | "Where"
            | "Xor"
    )
}

/// Whether each element depends on the element at its place of the first input, and on scalars.
fn maps(op: &str) -> bool {
    matches!(
        op,
        "Abs"
            | "BitwiseNot"
            | "Cast"
            | "Ceil"
            | "Clip"
            | "Cos"
            | "Erf"
            | "Exp"
            | "Floor"
            | "IsInf"
            | "IsNaN"
            | "Log"
            | "Neg"
            | "Not"
            | "Reciprocal"
            | "Relu"
            | "Round"
            | "Sigmoid"
            | "Sign"
            | "Sin"
            | "Softplus"
            | "Sqrt"
            | "Tanh"
    )
}

impl Hoist<'_> {
    /// The value's operator over inputs taken at the rows; `None` if it cannot be followed or need not be.
    pub(super) fn follow(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        value: ValueId,
        axes: &[Ax],
    ) -> Option<Rep> {
        let (id, output) = e.graph.value(value).producer()?;
        let node = e.graph.node(id).clone();
        if output != 0 || !node.domain.is_empty() {
            return None;
        }
        let shape = self.samples.shape(value)?;
        if shape.len() != axes.len() {
            return None;
        }
        let input = |i: usize| node.inputs.get(i).copied().flatten();
        match node.op_type.as_str() {
            "Identity" => return self.derive(e, binding, input(0)?, axes),
            "Concat" if node.inputs.len() == 1 => {
                return self.derive(e, binding, input(0)?, axes);
            }
            "Unsqueeze" | "Squeeze" | "Reshape" | "Flatten" => {
                return self.units(e, binding, input(0)?, &shape, axes);
            }
            "Transpose" => return self.transpose(e, binding, &node, axes),
            "Expand" => {
                let rep = self.operand(e, binding, input(0)?, &shape, axes)?;
                return Some(rep.with_rank(e, axes.len()));
            }
            "Range" => return self.range(e, binding, &node, axes),
            _ => {}
        }
        if token_axes(axes) < 2 {
            return None;
        }
        match node.op_type.as_str() {
            "ConstantOfShape" => constant(e, &node, axes.len()),
            "Gather" => self.gather(e, binding, id, &node, axes),
            "Slice" => self.slice(e, binding, &node, &shape, axes),
            op if broadcasts(op) || maps(op) => {
                self.elementwise(e, binding, id, &node, &shape, axes)
            }
            _ => None,
        }
    }

    /// An input that is broadcast to a shape with these axes.
    fn operand(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        value: ValueId,
        shape: &[Dim],
        axes: &[Ax],
    ) -> Option<Rep> {
        let asked = self.broadcast(value, shape, axes)?;
        self.derive(e, binding, value, &asked)
    }

    /// The axes of a value that is broadcast to a shape with these.
    pub(super) fn broadcast(&self, value: ValueId, shape: &[Dim], axes: &[Ax]) -> Option<Vec<Ax>> {
        let own = self.samples.shape(value)?;
        let skip = axes.len().checked_sub(own.len())?;
        own.iter()
            .enumerate()
            .map(|(i, &size)| {
                if size == Dim::ONE {
                    Some(Ax::One)
                } else {
                    (size == shape[i + skip]).then_some(axes[i + skip])
                }
            })
            .collect()
    }

    fn elementwise(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        id: NodeId,
        node: &Node,
        shape: &[Dim],
        axes: &[Ax],
    ) -> Option<Rep> {
        let mut inputs = Vec::new();
        for input in &node.inputs {
            inputs.push(match input {
                Some(v) => {
                    let rep = self.operand(e, binding, *v, shape, axes)?;
                    // Without the batch in front they are aligned as they are.
                    Some(if rep.lead {
                        rep.with_rank(e, axes.len())
                    } else {
                        rep
                    })
                }
                None => None,
            });
        }
        let value = again(e, id, |i| inputs[i].as_ref().map(|r| r.value));
        let present = || inputs.iter().flatten();
        Some(Rep {
            value: value?,
            lead: present().any(|r| r.lead),
            axes: (0..axes.len())
                .map(|i| present().any(|r| r.has(i, axes.len())))
                .collect(),
        })
    }

    fn units(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        value: ValueId,
        shape: &[Dim],
        axes: &[Ax],
    ) -> Option<Rep> {
        let own = self.samples.shape(value)?;
        let mut sized = (0..axes.len()).filter(|&i| shape[i] != Dim::ONE);
        let asked: Vec<Ax> = own
            .iter()
            .map(|&size| {
                if size == Dim::ONE {
                    return Some(Ax::One);
                }
                let i = sized.next()?;
                (size == shape[i]).then_some(axes[i])
            })
            .collect::<Option<_>>()?;
        if sized.next().is_some() {
            return None;
        }
        self.derive(e, binding, value, &asked)?
            .with_units(e, &own, shape)
    }

    fn transpose(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        node: &Node,
        axes: &[Ax],
    ) -> Option<Rep> {
        let rank = axes.len();
        let perm: Vec<usize> = match node.attr_ints("perm") {
            Some(perm) => perm
                .iter()
                .map(|&p| usize::try_from(p).ok().filter(|&p| p < rank))
                .collect::<Option<_>>()?,
            None => (0..rank).rev().collect(),
        };
        let mut asked = vec![None; rank];
        for (&p, &axis) in perm.iter().zip(axes) {
            asked[p] = Some(axis);
        }
        let asked: Vec<Ax> = asked.into_iter().collect::<Option<_>>()?;
        let value = node.inputs.first().copied().flatten()?;
        let rep = self.derive(e, binding, value, &asked)?;
        Some(rep.transposed(e, &perm))
    }

    /// The numbers of the tokens, if the value is 0, 1, 2, ...
    fn range(&self, e: &mut Emit<'_>, binding: &Binding, node: &Node, axes: &[Ax]) -> Option<Rep> {
        let [Ax::Token(side)] = axes else { return None };
        if !self.counts(node) {
            return None;
        }
        let mut value = binding.sides.get(side)?.token;
        match self.samples.dtype(node.inputs.first().copied()??)? {
            DataType::Int64 => {}
            DataType::Int32 => value = e.cast(value, DataType::Int32),
            _ => return None,
        }
        Some(Rep {
            value,
            lead: true,
            axes: vec![true],
        })
    }

    fn gather(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        id: NodeId,
        node: &Node,
        axes: &[Ax],
    ) -> Option<Rep> {
        let data = node.inputs.first().copied().flatten()?;
        let index = node.inputs.get(1).copied().flatten()?;
        let (data_rank, index_rank) = (
            self.samples.shape(data)?.len(),
            self.samples.shape(index)?.len(),
        );
        let at = node.attr_int("axis").unwrap_or(0);
        let at = usize::try_from(if at < 0 { at + data_rank as i64 } else { at }).ok()?;
        if at >= data_rank || axes.len() + 1 != data_rank + index_rank {
            return None;
        }
        let mut of_data = axes.to_vec();
        let of_index: Vec<Ax> = of_data.splice(at..at + index_rank, [Ax::Feature]).collect();
        let plain = |axes: &[Ax]| axes.iter().all(|a| matches!(a, Ax::One | Ax::Feature));
        // A table that is looked up per token, or an element of the features.
        if !plain(&of_data) && !plain(&of_index) {
            return None;
        }
        let data = self.derive(e, binding, data, &of_data)?;
        let index = self.derive(e, binding, index, &of_index)?;
        if !data.axes[at] || (data.lead && index.lead) {
            return None;
        }
        let value = again(e, id, |i| {
            Some(if i == 0 { data.value } else { index.value })
        })?;
        let (producer, _) = e.graph.value(value).producer()?;
        let place = (at + data.first()) as i64;
        e.graph.set_attr(producer, "axis", &AttrValue::Int(place));
        let mut real = data.axes;
        real.splice(at..=at, index.axes);
        let mut rep = Rep {
            value,
            lead: data.lead || index.lead,
            axes: real,
        };
        if index.lead && at > 0 {
            let mut perm: Vec<usize> = (0..=axes.len()).filter(|&i| i != at).collect();
            perm.insert(0, at);
            rep.value = e.transpose(rep.value, &perm);
        }
        Some(rep)
    }

    fn slice(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        node: &Node,
        shape: &[Dim],
        axes: &[Ax],
    ) -> Option<Rep> {
        let input = |i: usize| node.inputs.get(i).copied().flatten();
        let data = input(0)?;
        let own = self.samples.shape(data)?;
        if own.len() != axes.len() {
            return None;
        }
        let cut: Vec<usize> = (0..axes.len()).filter(|&i| own[i] != shape[i]).collect();
        if let Some(steps) = input(4)
            && self.samples.constant_ints(steps)?.iter().any(|&s| s != 1)
        {
            return None;
        }
        if cut.is_empty() {
            return self.derive(e, binding, data, axes);
        }
        let starts = self.samples.int_dims(input(1)?)?;
        let ends = input(2).and_then(|v| self.samples.int_dims(v));
        let places = match input(3) {
            Some(v) => self.samples.constant_ints(v)?,
            None => (0..starts.len() as i64).collect(),
        };
        let (mut at, mut from, mut to) = (Vec::new(), Vec::new(), Vec::new());
        for i in cut {
            let k = places
                .iter()
                .position(|&p| p == i as i64 || p + axes.len() as i64 == i as i64)?;
            let start = starts.get(k)?.constant();
            match axes[i] {
                // The first tokens of a table that goes on: the rows are among them.
                Ax::Token(_) if start == Some(0) && !axes.contains(&Ax::Batch) => {}
                Ax::Feature | Ax::One if own[i].constant().is_some() => {
                    at.push(i);
                    from.push(start?);
                    to.push(ends.as_ref()?.get(k)?.constant()?);
                }
                _ => return None,
            }
        }
        let mut asked = axes.to_vec();
        for &i in &at {
            asked[i] = Ax::Feature;
        }
        let mut rep = self.derive(e, binding, data, &asked)?;
        if at.is_empty() {
            return Some(rep);
        }
        if at.iter().any(|&i| !rep.axes[i]) {
            return None;
        }
        let places: Vec<i64> = at.iter().map(|&i| (i + rep.first()) as i64).collect();
        let (from, to, places) = (e.ints(&from), e.ints(&to), e.ints(&places));
        rep.value = e.op("Slice", &[rep.value, from, to, places], &[]);
        for i in at {
            rep.axes[i] = axes[i] == Ax::Feature;
        }
        Some(rep)
    }
}

/// A copy of a node with other inputs, and its first output.
fn again(
    e: &mut Emit<'_>,
    id: NodeId,
    input: impl Fn(usize) -> Option<ValueId>,
) -> Option<ValueId> {
    let name = e.name(&e.graph.node(id).name.clone());
    let copy = e.graph.clone_node(id, &name);
    for i in 0..e.graph.node(copy).inputs.len() {
        e.graph.set_input(copy, i, input(i));
    }
    e.graph.node(copy).outputs.first().copied().flatten()
}

/// One element instead of a value that is the same everywhere.
fn constant(e: &mut Emit<'_>, node: &Node, rank: usize) -> Option<Rep> {
    let element = node
        .attr_tensor("value")
        .unwrap_or_else(|| Tensor::scalar_f32(0.0));
    let raw = element.read_raw().ok()?;
    let element = Tensor::from_bytes(element.dtype(), &vec![1; rank], raw);
    let name = e.name("everywhere");
    Some(Rep {
        value: e.graph.add_initializer(&name, element),
        lead: false,
        axes: vec![false; rank],
    })
}
