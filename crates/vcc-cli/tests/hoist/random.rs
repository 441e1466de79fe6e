//! Random biases over pairs of tokens: what an exporter could write between a model's inputs and its scores.

use crate::common::Rng;
use onnx_model::{AttrValue, DataType, Graph, NewNode, Tensor, ValueId};

/// Heads of the model that the biases are for, and the most tokens that its tables know.
const HEADS: i64 = 4;
const LONGEST: i64 = 128;

/// An axis of a value that is broadcast to `[batch, heads, n, n]`: whether it has its size.
type Sized = [bool; 4];

/// A float value of four axes.
#[derive(Clone, Copy)]
struct Value {
    id: ValueId,
    sized: Sized,
}

pub(crate) struct Builder<'a> {
    graph: &'a mut Graph,
    rng: Rng,
    mask: ValueId,
    /// `[1]`
    batch: ValueId,
    tokens: ValueId,
    range: ValueId,
}

impl Builder<'_> {
    pub(crate) fn new(graph: &mut Graph, mask: ValueId, seed: u64) -> Builder<'_> {
        let mut b = Builder {
            graph,
            rng: Rng(seed),
            mask,
            batch: mask,
            tokens: mask,
            range: mask,
        };
        let shape = b.op("Shape", &[mask], &[]);
        b.batch = b.ints_of(shape, 0);
        b.tokens = b.ints_of(shape, 1);
        let (zero, one) = (b.scalar(0), b.scalar(1));
        let axes = b.ints(&[0]);
        let limit = b.op("Squeeze", &[b.tokens, axes], &[]);
        b.range = b.op("Range", &[zero, limit, one], &[]);
        b
    }

    fn ints_of(&mut self, shape: ValueId, axis: i64) -> ValueId {
        let axis = self.ints(&[axis]);
        self.op("Gather", &[shape, axis], &[])
    }

    fn op(&mut self, op: &str, inputs: &[ValueId], attributes: &[(&str, AttrValue)]) -> ValueId {
        let output = self.graph.new_value("random");
        self.graph.add_node(NewNode {
            op_type: op.into(),
            domain: String::new(),
            name: "random".into(),
            inputs: inputs.iter().map(|&v| Some(v)).collect(),
            outputs: vec![Some(output)],
            attributes: attributes
                .iter()
                .map(|(k, v)| ((*k).into(), v.clone()))
                .collect(),
            metadata: Vec::new(),
        });
        output
    }

    fn ints(&mut self, elements: &[i64]) -> ValueId {
        self.graph
            .add_initializer("ints", Tensor::vector_i64(elements))
    }

    fn scalar(&mut self, element: i64) -> ValueId {
        self.graph
            .add_initializer("int", Tensor::scalar_i64(element))
    }

    fn table(&mut self, dims: &[i64]) -> ValueId {
        let count: i64 = dims.iter().product();
        let elements: Vec<f32> = (0..count).map(|_| self.rng.unit() as f32).collect();
        self.graph
            .add_initializer("table", Tensor::from_f32s(dims, &elements))
    }

    fn float(&mut self, value: ValueId) -> ValueId {
        self.op("Cast", &[value], &[("to", AttrValue::Int(1))])
    }

    fn unsqueeze(&mut self, value: ValueId, axes: &[i64]) -> ValueId {
        let axes = self.ints(axes);
        self.op("Unsqueeze", &[value, axes], &[])
    }

    fn transpose(&mut self, value: ValueId, perm: &[i64]) -> ValueId {
        self.op(
            "Transpose",
            &[value],
            &[("perm", AttrValue::Ints(perm.to_vec()))],
        )
    }

    /// `[n, n]`, int64: one position minus the other.
    fn distance(&mut self) -> ValueId {
        let (rows, columns) = (
            self.unsqueeze(self.range, &[1]),
            self.unsqueeze(self.range, &[0]),
        );
        let (a, b) = if self.rng.chance(2) {
            (rows, columns)
        } else {
            (columns, rows)
        };
        self.op("Sub", &[a, b], &[])
    }

    fn leaf(&mut self) -> Value {
        let of = |id, sized| Value { id, sized };
        match self.rng.below(8) {
            0 => {
                let x = self.float(self.mask);
                let x = self.unsqueeze(x, &[1, 2]);
                of(x, [true, false, false, true])
            }
            1 => {
                let x = self.unsqueeze(self.mask, &[1, 3]);
                of(self.float(x), [true, false, true, false])
            }
            2 => {
                let x = self.float(self.range);
                let x = self.unsqueeze(x, &[0, 1]);
                let x = self.unsqueeze(x, &[3]);
                of(x, [false, false, true, false])
            }
            3 => {
                // A relative bias: buckets, a table per bucket and head.
                let d = self.distance();
                let d = if self.rng.chance(2) {
                    self.op("Abs", &[d], &[])
                } else {
                    d
                };
                let half = self.scalar(16);
                let bucket = self.op("Add", &[d, half], &[]);
                let (low, high) = (self.scalar(0), self.scalar(40));
                let bucket = self.op("Clip", &[bucket, low, high], &[]);
                let x = if self.rng.chance(2) {
                    let table = self.table(&[41, HEADS]);
                    let x = self.op("Gather", &[table, bucket], &[]);
                    self.transpose(x, &[2, 0, 1])
                } else {
                    let table = self.table(&[HEADS, 41]);
                    self.op("Gather", &[table, bucket], &[("axis", AttrValue::Int(-1))])
                };
                of(self.unsqueeze(x, &[0]), [false, true, true, true])
            }
            4 => {
                // Part of a table of pairs that is longer than the sequence; the table is there or is computed.
                let table = if self.rng.chance(2) {
                    self.table(&[LONGEST, LONGEST])
                } else {
                    let (rows, columns) = (self.table(&[LONGEST, 1]), self.table(&[1, LONGEST]));
                    self.op("Add", &[rows, columns], &[])
                };
                let first = *self.rng.pick(&[0, 3]);
                let (from, axes) = (self.ints(&[first, first]), self.ints(&[0, 1]));
                let sizes = [self.tokens, self.tokens];
                let size = self.op("Concat", &sizes, &[("axis", AttrValue::Int(0))]);
                let to = self.op("Add", &[size, from], &[]);
                let x = self.op("Slice", &[table, from, to, axes], &[]);
                of(self.unsqueeze(x, &[0, 1]), [false, false, true, true])
            }
            5 => {
                // A table of positions.
                let table = self.table(&[1, HEADS, LONGEST]);
                let (from, axes) = (self.ints(&[0]), self.ints(&[2]));
                let x = self.op("Slice", &[table, from, self.tokens, axes], &[]);
                of(self.unsqueeze(x, &[2]), [false, true, false, true])
            }
            6 => of(self.table(&[1, HEADS, 1, 1]), [false, true, false, false]),
            _ => {
                let d = self.distance();
                let x = self.float(d);
                let x = self.op("Abs", &[x], &[]);
                of(self.unsqueeze(x, &[0, 1]), [false, false, true, true])
            }
        }
    }

    fn either(a: Sized, b: Sized) -> Sized {
        std::array::from_fn(|i| a[i] || b[i])
    }

    fn expression(&mut self, depth: usize) -> Value {
        if depth == 0 || self.rng.chance(5) {
            return self.leaf();
        }
        let x = self.expression(depth - 1);
        let same = |id| Value { id, ..x };
        match self.rng.below(9) {
            0 => same(self.op(["Neg", "Sin", "Tanh", "Floor"][depth % 4], &[x.id], &[])),
            1 => {
                let id = self.transpose(x.id, &[0, 1, 3, 2]);
                let [b, h, q, k] = x.sized;
                Value {
                    id,
                    sized: [b, h, k, q],
                }
            }
            2 => {
                let heads = self.ints(&[HEADS]);
                let sizes = [self.batch, heads, self.tokens, self.tokens];
                let shape = self.op("Concat", &sizes, &[("axis", AttrValue::Int(0))]);
                let id = self.op("Expand", &[x.id, shape], &[]);
                Value {
                    id,
                    sized: [true; 4],
                }
            }
            3 => {
                // Through a shape with five axes and another order.
                let id = self.unsqueeze(x.id, &[2]);
                let id = self.transpose(id, &[3, 1, 0, 2, 4]);
                let id = self.transpose(id, &[2, 1, 3, 0, 4]);
                let axes = self.ints(&[2]);
                same(self.op("Squeeze", &[id, axes], &[]))
            }
            4 if x.sized[1] => {
                let order = self.ints(&[2, 0, 3, 1]);
                same(self.op("Gather", &[x.id, order], &[("axis", AttrValue::Int(1))]))
            }
            5 if x.sized[1] => {
                let (from, to, axes) = (self.ints(&[1]), self.ints(&[2]), self.ints(&[1]));
                let id = self.op("Slice", &[x.id, from, to, axes], &[]);
                let [b, _, q, k] = x.sized;
                Value {
                    id,
                    sized: [b, false, q, k],
                }
            }
            6 => {
                let y = self.expression(depth - 1);
                let less = self.op("Less", &[x.id, y.id], &[]);
                let z = self.leaf();
                Value {
                    id: self.op("Where", &[less, z.id, y.id], &[]),
                    sized: Self::either(Self::either(x.sized, y.sized), z.sized),
                }
            }
            _ => {
                let y = self.expression(depth - 1);
                let op = *self.rng.pick(&["Add", "Sub", "Mul", "Min", "Max"]);
                Value {
                    id: self.op(op, &[x.id, y.id], &[]),
                    sized: Self::either(x.sized, y.sized),
                }
            }
        }
    }

    /// A bias over pairs of tokens, between -1 and 1.
    pub(crate) fn bias(&mut self) -> ValueId {
        let x = self.expression(4);
        let pairs = self.distance();
        let pairs = self.op("Abs", &[pairs], &[]);
        let pairs = self.op(
            "Cast",
            &[pairs],
            &[("to", AttrValue::Int(i64::from(DataType::Float as i32)))],
        );
        let sum = self.op("Add", &[x.id, pairs], &[]);
        self.op("Sin", &[sum], &[])
    }
}
