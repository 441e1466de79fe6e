//! Values that depend on two tokens through the distance between them only, such as relative position biases and band masks.
//!
//! There are 2n - 1 distances. The operators are re-created once over all of them, and every block looks its rows' distances up,
//! instead of computing each pair anew. The distance is that of the first token axis minus the second: in the table the first
//! axis runs over the distances, from 1 - n to n - 1, and the second has size 1.

use super::reps::Rep;
use super::{Ax, Hoist};
use crate::conversion::Binding;
use crate::emit::{Emit, Size};
use onnx_model::{DataType, Node, ValueId};
use std::collections::BTreeMap;
use token_axes::Dim;
use token_axes::site::Side;

/// What has been computed over the distances, for all sites: values by their axes and the number of tokens.
#[derive(Default)]
pub(crate) struct Tables {
    reps: BTreeMap<(ValueId, ValueId, Vec<Ax>), Option<Rep>>,
    /// Ready to be looked up: the distances in front, the second token axis dropped.
    ready: BTreeMap<(ValueId, ValueId, Vec<Ax>), ValueId>,
}

impl Tables {
    /// The values that have been computed, with their axes.
    pub(super) fn made(&self) -> impl Iterator<Item = (ValueId, Vec<Ax>)> + '_ {
        self.reps
            .iter()
            .filter(|(_, rep)| rep.is_some())
            .map(|((_, value, axes), _)| (*value, axes.clone()))
    }
}

impl Hoist<'_> {
    /// A value with two token axes, looked up by the distances of the rows, if it depends on nothing else.
    pub(super) fn by_distance(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        value: ValueId,
        axes: &[Ax],
    ) -> Option<Rep> {
        let mut tokens = axes.iter().enumerate().filter_map(|(i, a)| match a {
            Ax::Token(side) => Some((i, *side)),
            _ => None,
        });
        let ((p, first), (q, second)) = (tokens.next()?, tokens.next()?);
        if tokens.next().is_some() {
            return None;
        }
        let mut asked = axes.to_vec();
        asked[p] = Ax::First;
        asked[q] = Ax::Second;
        let rep = self.over_distances(e, binding, value, &asked)?;
        if !rep.axes[p] {
            // It does not even depend on the distance.
            return Some(rep);
        }
        let rest: Vec<usize> = (0..axes.len()).filter(|&i| i != p && i != q).collect();
        let key = (binding.tokens, value, asked);
        let table = match self.tables.ready.get(&key) {
            Some(&table) => table,
            None => {
                let flat = e.squeeze(rep.value, &[q as i64]);
                let place = |i: usize| if i > q { i - 1 } else { i };
                let mut perm = vec![place(p)];
                perm.extend(rest.iter().map(|&i| place(i)));
                let table = e.transpose(flat, &perm);
                self.tables.ready.insert(key, table);
                table
            }
        };
        let index = self.index(e, binding, first, second)?;
        let mut real = vec![true, true];
        real.extend(rest.iter().map(|&i| rep.axes[i]));
        let found = Rep {
            value: e.gather(table, index, 0),
            lead: true,
            axes: real,
        };
        let perm: Vec<usize> = (0..axes.len())
            .map(|i| match rest.iter().position(|&r| r == i) {
                Some(k) => k + 2,
                None => usize::from(i == q),
            })
            .collect();
        Some(found.transposed(e, &perm))
    }

    /// A value over all distances; no node is left over that needs more than those.
    pub(super) fn over_distances(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        value: ValueId,
        axes: &[Ax],
    ) -> Option<Rep> {
        let key = (binding.tokens, value, axes.to_vec());
        if let Some(rep) = self.tables.reps.get(&key) {
            return rep.clone();
        }
        let rep = self
            .difference(e, binding, value, axes)
            .or_else(|| self.follow_deeper(e, binding, value, axes));
        self.tables.reps.insert(key, rep.clone());
        rep
    }

    /// The distances themselves, if the value is one token's position minus the other's.
    fn difference(
        &self,
        e: &mut Emit<'_>,
        binding: &Binding,
        value: ValueId,
        axes: &[Ax],
    ) -> Option<Rep> {
        let node = e.graph.node(e.graph.value(value).producer()?.0).clone();
        if node.op_type != "Sub" || !node.domain.is_empty() {
            return None;
        }
        let place = |axis: Ax| axes.iter().position(|&a| a == axis);
        let (p, q) = (place(Ax::First)?, place(Ax::Second)?);
        let alone = |i: usize| matches!(axes[i], Ax::One) || i == p || i == q;
        if !(0..axes.len()).all(alone) {
            return None;
        }
        let left = self.position(e, &node, 0, axes.len())?;
        let right = self.position(e, &node, 1, axes.len())?;
        let dtype = self.samples.dtype(value)?;
        let (one, two) = (e.ints(&[1]), e.ints(&[2]));
        let twice = e.op("Mul", &[binding.tokens, two], &[]);
        let count = e.op("Sub", &[twice, one], &[]);
        let number = e.range(count);
        let middle = e.op("Sub", &[binding.tokens, one], &[]);
        let mut distance = if (left, right) == (p, q) {
            e.op("Sub", &[number, middle], &[])
        } else if (left, right) == (q, p) {
            e.op("Sub", &[middle, number], &[])
        } else {
            return None;
        };
        if dtype != DataType::Int64 {
            distance = e.cast(distance, dtype);
        }
        let mut sizes = vec![Size::Const(1); axes.len()];
        sizes[p] = Size::Const(-1);
        Some(Rep {
            value: e.reshape(distance, &sizes),
            lead: false,
            axes: (0..axes.len()).map(|i| i == p).collect(),
        })
    }

    /// Along which of `rank` axes an input runs, if it holds the numbers of the tokens, exactly.
    fn position(&self, e: &Emit<'_>, node: &Node, input: usize, rank: usize) -> Option<usize> {
        let mut value = node.inputs.get(input).copied()??;
        let line = |value: ValueId| -> Option<(usize, usize, Dim)> {
            let shape = self.samples.shape(value)?;
            let mut sized = (0..shape.len()).filter(|&i| shape[i] != Dim::ONE);
            let axis = sized.next()?;
            sized
                .next()
                .is_none()
                .then_some((axis, shape.len(), shape[axis]))
        };
        let (axis, own, size) = line(value)?;
        loop {
            let exact = matches!(
                self.samples.dtype(value)?,
                DataType::Int64 | DataType::Int32 | DataType::Float | DataType::Double
            );
            if !exact || line(value)?.2 != size {
                return None;
            }
            let node = e.graph.node(e.graph.value(value).producer()?.0);
            match node.op_type.as_str() {
                _ if !node.domain.is_empty() => return None,
                "Range" if self.counts(node) => return (axis + rank).checked_sub(own),
                "Identity" | "Cast" | "Unsqueeze" | "Squeeze" | "Reshape" | "Flatten"
                | "Transpose" => value = node.inputs.first().copied()??,
                _ => return None,
            }
        }
    }

    /// Whether a Range is 0, 1, 2, ...
    pub(super) fn counts(&self, node: &Node) -> bool {
        let is = |i: usize, number: i64| {
            let value = node.inputs.get(i).copied().flatten();
            value.and_then(|v| self.samples.constant_ints(v)) == Some(vec![number])
        };
        is(0, 0) && is(2, 1)
    }

    /// `[B', first rows, second rows]`: where the distance of each pair of rows stands in a table.
    fn index(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        first: Side,
        second: Side,
    ) -> Option<ValueId> {
        if let Some(&index) = self.indices.get(&(first, second)) {
            return Some(index);
        }
        let (rows, columns) = (binding.sides.get(&first)?, binding.sides.get(&second)?);
        let one = e.ints(&[1]);
        let middle = e.op("Sub", &[binding.tokens, one], &[]);
        let rows = e.op("Add", &[rows.token, middle], &[]);
        // Pairs of rows are many: half the bytes for each.
        let rows = e.cast(rows, DataType::Int32);
        let columns = e.cast(columns.token, DataType::Int32);
        let (rows, columns) = (e.unsqueeze(rows, &[2]), e.unsqueeze(columns, &[1]));
        let index = e.op("Sub", &[rows, columns], &[]);
        self.indices.insert((first, second), index);
        Some(index)
    }
}
