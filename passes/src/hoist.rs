//! Taking an external at the rows' tokens where it is made, so that nothing with two token axes of full length exists.
//!
//! [`Hoist::external`] walks from the external back through the operators that treat all tokens alike and re-creates them over
//! inputs that are taken at the rows. It stops at values with at most one token axis, which are as long as the sequence but no
//! more, and wherever an operator or an axis cannot be followed: that value is gathered as it stands, which is always right.
//! What an axis of a value is (batch, tokens of a side, feature) is handed down from the frame of the external, never guessed
//! from sizes. The re-created operators compute the same functions of the same elements, so gathering before or after them
//! gives the same bits.

mod distance;
mod follow;
mod reps;
pub(crate) mod sizes;

use crate::conversion::Binding;
use crate::emit::{Emit, Size};
use crate::externals::{Taken, take_leading};
pub(crate) use distance::Tables;
use onnx_model::ValueId;
use reps::Rep;
use std::collections::BTreeMap;
use token_axes::flow::describe;
use token_axes::layout::{axis_size, has_batch};
use token_axes::site::{Input, Instance, Side, Sides};
use token_axes::{Dim, External, Factor, FrameAxis, Role, Samples};

/// How many operators are followed one behind the other; longer chains are no masks.
const MAX_DEPTH: usize = 200;

/// What an axis of a value runs over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Ax {
    /// Nothing: its size is 1.
    One,
    Batch,
    Token(Side),
    /// The first and the second of two token axes, where a value is computed over distances.
    First,
    Second,
    /// Anything that stays as it is.
    Feature,
    /// Batch and features in one axis.
    Merged,
}

/// What has been re-created for some rows.
pub(crate) struct Hoist<'a> {
    samples: &'a Samples,
    /// The number of tokens of the external that is being followed.
    tokens: Dim,
    tables: &'a mut Tables,
    /// Places of distances in the tables, by the sides of the first and the second token axis.
    indices: BTreeMap<(Side, Side), ValueId>,
    done: BTreeMap<(ValueId, Vec<Ax>), Option<Rep>>,
    depth: usize,
    /// Values with two token axes that were gathered as they stand, and why.
    stopped: BTreeMap<ValueId, String>,
}

/// Values with two token axes, when all externals of some rows are there.
pub(crate) struct End {
    /// Those that were gathered as they stand, and why.
    pub(crate) stopped: BTreeMap<ValueId, String>,
    /// Those that were re-created, with their axes.
    pub(crate) made: Vec<(ValueId, Vec<Ax>)>,
}

impl<'a> Hoist<'a> {
    pub(crate) fn new(samples: &'a Samples, tables: &'a mut Tables) -> Hoist<'a> {
        Hoist {
            samples,
            tokens: Dim::ONE,
            tables,
            indices: BTreeMap::new(),
            done: BTreeMap::new(),
            depth: 0,
            stopped: BTreeMap::new(),
        }
    }

    /// The external at the rows, if it has two token axes and nothing stands in the way.
    pub(crate) fn external(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        external: &External,
        sides: &Sides,
        needed: &[bool],
    ) -> Option<Taken> {
        let shape = self.samples.shape(external.value)?;
        let skip = external.frame.len().checked_sub(shape.len())?;
        let axes: Vec<Ax> = (skip..external.frame.len())
            .map(|i| axis(&external.frame[i], sides.get(i).copied().flatten()))
            .collect();
        if token_axes(&axes) < 2 {
            return None;
        }
        let factors = external.frame.iter().flat_map(|a| &a.axis);
        let tokens = factors.filter(|f| matches!(f.role, Role::Token | Role::Attended));
        self.tokens = tokens.map(|f| f.size).next()?;
        let Some(rep) = self.derive(e, binding, external.value, &axes) else {
            self.stop(e, external.value);
            return None;
        };
        let frame: Vec<(FrameAxis, Option<Side>)> = external
            .frame
            .iter()
            .cloned()
            .zip(sides.iter().copied().chain(std::iter::repeat(None)))
            .collect();
        let Some(mut taken) = reps::finish(e, binding, rep, &frame, needed) else {
            let reason = "its reader takes batch and heads in one axis".to_owned();
            self.stopped.insert(external.value, reason);
            return None;
        };
        taken.addends = self.addends(e, binding, external.value, &axes, &frame);
        Some(taken)
    }

    /// The parts of a sum at the rows if they do not all depend on two tokens, such as a relative bias and a mask.
    fn addends(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        value: ValueId,
        axes: &[Ax],
        frame: &[(FrameAxis, Option<Side>)],
    ) -> Vec<Taken> {
        let parts = (self.summands(e, value, axes).into_iter().flatten())
            .map(|(part, axes)| {
                let rep = self.derive(e, binding, part, &axes)?;
                let mut taken = reps::finish(e, binding, rep, frame, &vec![false; frame.len()])?;
                taken.addends = self.addends(e, binding, part, &axes, frame);
                Some(taken)
            })
            .collect::<Option<_>>();
        parts.unwrap_or_default()
    }

    /// What a value is the sum of, with its axes, if not all of it depends on two tokens.
    fn summands(
        &self,
        e: &Emit<'_>,
        value: ValueId,
        axes: &[Ax],
    ) -> Option<[(ValueId, Vec<Ax>); 2]> {
        let node = e.graph.node(e.graph.value(value).producer()?.0);
        if node.op_type != "Add" || !node.domain.is_empty() {
            return None;
        }
        let shape = self.samples.shape(value)?;
        let part = |i: usize| {
            let part = node.inputs.get(i).copied()??;
            Some((part, self.broadcast(part, &shape, axes)?))
        };
        let parts = [part(0)?, part(1)?];
        let pairs = |(_, axes): &(ValueId, Vec<Ax>)| token_axes(axes) > 1;
        (!parts.iter().all(pairs)).then_some(parts)
    }

    /// What became of the values with two token axes.
    pub(crate) fn end(self) -> End {
        let stopped = self.stopped;
        let on_pairs = self.tables.made().chain(
            self.done
                .iter()
                .filter(|(_, rep)| rep.is_some())
                .map(|(key, _)| key.clone()),
        );
        let made = on_pairs
            .filter(|(value, axes)| token_axes(axes) > 1 && !stopped.contains_key(value))
            .collect();
        End { stopped, made }
    }

    fn stop(&mut self, e: &Emit<'_>, value: ValueId) {
        let reason = match e.graph.value(value).producer() {
            Some((node, _)) => {
                let node = describe(e.graph.node(node));
                format!("{node} cannot be followed to its inputs")
            }
            None if e.graph.is_input(value) => "it is a graph input".into(),
            None => "it is a constant of the model".into(),
        };
        self.stopped.insert(value, reason);
    }

    /// Which frame axes must have their size, because no other input of the reader brings it.
    pub(crate) fn needed(&self, e: &Emit<'_>, reader: &Instance, external: &External) -> Vec<bool> {
        let node = e.graph.node(reader.node);
        let broadcasts = node.domain.is_empty() && follow::broadcasts(&node.op_type);
        let others: Vec<Vec<Dim>> = node
            .inputs
            .iter()
            .zip(&reader.inputs)
            .filter(|(_, input)| broadcasts && !matches!(input, Input::External(..)))
            .filter_map(|(v, _)| self.samples.shape((*v)?))
            .collect();
        let rank = external.frame.len();
        (0..rank)
            .map(|i| {
                let size = axis_size(&external.frame[i].axis);
                let brings = |shape: &Vec<Dim>| {
                    (i + shape.len())
                        .checked_sub(rank)
                        .and_then(|j| shape.get(j))
                        .is_some_and(|&s| s == size)
                };
                !others.iter().any(brings)
            })
            .collect()
    }

    /// A value with these axes at the rows.
    fn derive(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        value: ValueId,
        axes: &[Ax],
    ) -> Option<Rep> {
        if axes.iter().all(|a| matches!(a, Ax::One | Ax::Feature)) {
            return Some(Rep::whole(value, axes));
        }
        if axes.iter().any(|a| matches!(a, Ax::First | Ax::Second)) {
            return self.over_distances(e, binding, value, axes);
        }
        let key = (value, axes.to_vec());
        if let Some(rep) = self.done.get(&key) {
            return rep.clone();
        }
        let mut rep = self
            .by_distance(e, binding, value, axes)
            .or_else(|| self.follow_deeper(e, binding, value, axes));
        if rep.is_none() {
            rep = self.take(e, binding, value, axes);
            if rep.is_some() && token_axes(axes) > 1 {
                self.stop(e, value);
            }
        }
        self.done.insert(key, rep.clone());
        rep
    }

    fn follow_deeper(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        value: ValueId,
        axes: &[Ax],
    ) -> Option<Rep> {
        if self.depth == MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        let rep = self.follow(e, binding, value, axes);
        self.depth -= 1;
        rep
    }

    /// A value gathered as it stands.
    fn take(
        &self,
        e: &mut Emit<'_>,
        binding: &Binding,
        value: ValueId,
        axes: &[Ax],
    ) -> Option<Rep> {
        let shape = self.samples.shape(value)?;
        // A table that is longer than the sequence can be indexed on one axis alone: an index over two axes together counts
        // in the number of tokens.
        let longer =
            |(axis, size): (&Ax, &Dim)| matches!(axis, Ax::Token(_)) && *size != self.tokens;
        let joint = token_axes(axes) > 1 || axes.contains(&Ax::Batch);
        if joint && axes.iter().zip(&shape).any(longer) {
            return None;
        }
        let (mut frame, mut sides) = (Vec::new(), Vec::new());
        for (&axis, &size) in axes.iter().zip(&shape) {
            let role = match axis {
                Ax::One | Ax::Feature => Role::Feature,
                Ax::Batch => Role::Batch,
                Ax::Token(_) => Role::Token,
                Ax::First | Ax::Second | Ax::Merged => return None,
            };
            frame.push(FrameAxis {
                axis: vec![Factor { role, size }],
                present: true,
            });
            sides.push(match axis {
                Ax::Token(side) => Some(side),
                _ => None,
            });
        }
        let value = take_leading(e, binding, value, &frame, &sides).ok()?;
        Some(Rep {
            value,
            lead: true,
            axes: axes
                .iter()
                .map(|a| !matches!(a, Ax::One | Ax::Batch))
                .collect(),
        })
    }
}

fn axis(axis: &FrameAxis, side: Option<Side>) -> Ax {
    if !axis.present {
        return Ax::One;
    }
    if axis.axis.iter().all(|f| f.role == Role::Feature) {
        return if axis_size(&axis.axis) == Dim::ONE {
            Ax::One
        } else {
            Ax::Feature
        };
    }
    match axis.axis[..] {
        [factor] if factor.role == Role::Batch => Ax::Batch,
        [_] => Ax::Token(side.unwrap_or(Side::Rows)),
        _ => Ax::Merged,
    }
}

fn token_axes(axes: &[Ax]) -> usize {
    let is_token = |a: &&Ax| matches!(a, Ax::Token(_) | Ax::First | Ax::Second);
    axes.iter().filter(is_token).count()
}

/// The size of an axis at the rows.
fn size(binding: &Binding, axis: &FrameAxis, side: Option<Side>) -> Option<Vec<Size>> {
    axis.axis
        .iter()
        .map(|f| match f.role {
            Role::Batch => Some(Size::Value(binding.batch)),
            Role::Token | Role::Attended => {
                let rows = binding.sides.get(&side.unwrap_or(Side::Rows))?;
                Some(Size::Value(rows.count))
            }
            Role::Feature => f.size.constant().map(Size::Const),
        })
        .collect()
}

fn batch_axis(frame: &[(FrameAxis, Option<Side>)]) -> Option<usize> {
    frame.iter().position(|(a, _)| has_batch(&a.axis))
}
