//! Values at the rows while they are re-created.
//!
//! Each batch row has rows of its own, so a value that had no batch axis gets one. To keep one form for all of them the batch
//! stands in front, and the axis that was the batch, if there was one, keeps its place with size 1.

use super::{Ax, batch_axis, size};
use crate::conversion::Binding;
use crate::emit::{Emit, Size};
use crate::externals::Taken;
use onnx_model::ValueId;
use token_axes::site::Side;
use token_axes::{Dim, FrameAxis};

/// A value at the rows.
#[derive(Clone, Debug)]
pub(super) struct Rep {
    pub(super) value: ValueId,
    /// Whether the batch stands in front of the axes.
    pub(super) lead: bool,
    /// For each axis of the original value, whether it has its size here; otherwise it is 1, to be broadcast.
    pub(super) axes: Vec<bool>,
}

impl Rep {
    /// A value that has neither batch nor tokens.
    pub(super) fn whole(value: ValueId, axes: &[Ax]) -> Rep {
        Rep {
            value,
            lead: false,
            axes: axes.iter().map(|&a| a == Ax::Feature).collect(),
        }
    }

    pub(super) fn first(&self) -> usize {
        usize::from(self.lead)
    }

    /// Whether it has the size of axis `i` of a value with `rank` axes that it is broadcast to.
    pub(super) fn has(&self, i: usize, rank: usize) -> bool {
        (i + self.axes.len())
            .checked_sub(rank)
            .is_some_and(|i| self.axes[i])
    }

    /// With axes of size 1 put before the original axes until there are `rank` of them.
    pub(super) fn with_rank(mut self, e: &mut Emit<'_>, rank: usize) -> Rep {
        let missing = rank.saturating_sub(self.axes.len());
        if missing > 0 {
            let at: Vec<i64> = (0..missing).map(|i| (i + self.first()) as i64).collect();
            self.value = e.unsqueeze(self.value, &at);
            self.axes.splice(0..0, vec![false; missing]);
        }
        self
    }

    pub(super) fn transposed(mut self, e: &mut Emit<'_>, perm: &[usize]) -> Rep {
        let first = self.first();
        let mut all: Vec<usize> = (0..first).collect();
        all.extend(perm.iter().map(|p| p + first));
        self.value = e.transpose(self.value, &all);
        self.axes = perm.iter().map(|&p| self.axes[p]).collect();
        self
    }

    /// Other axes of size 1, the other axes in the same order; `None` if the shapes differ in more.
    pub(super) fn with_units(mut self, e: &mut Emit<'_>, from: &[Dim], to: &[Dim]) -> Option<Rep> {
        let sized = |shape: &[Dim]| -> Vec<Dim> {
            shape.iter().copied().filter(|&d| d != Dim::ONE).collect()
        };
        if sized(from) != sized(to) || from.len() != self.axes.len() {
            return None;
        }
        let first = self.first();
        let units = |shape: &[Dim]| -> Vec<i64> {
            (0..shape.len())
                .filter(|&i| shape[i] == Dim::ONE)
                .map(|i| (i + first) as i64)
                .collect()
        };
        let (old, new) = (units(from), units(to));
        let mut kept = (0..from.len())
            .filter(|&i| from[i] != Dim::ONE)
            .map(|i| self.axes[i])
            .collect::<Vec<bool>>()
            .into_iter();
        if old != new || from.len() != to.len() {
            if !old.is_empty() {
                self.value = e.squeeze(self.value, &old);
            }
            if !new.is_empty() {
                self.value = e.unsqueeze(self.value, &new);
            }
        }
        self.axes = to
            .iter()
            .map(|&d| d != Dim::ONE && kept.next().unwrap_or(false))
            .collect();
        Some(self)
    }
}

/// The value as its reader expects it: the frame's axes, those in `needed` with their size.
pub(super) fn finish(
    e: &mut Emit<'_>,
    binding: &Binding,
    rep: Rep,
    frame: &[(FrameAxis, Option<Side>)],
    needed: &[bool],
) -> Option<Taken> {
    let rep = rep.with_rank(e, frame.len());
    let mut real = rep.axes.clone();
    let mut value = rep.value;
    let batch = batch_axis(frame);
    let factors = batch.map_or(1, |b| frame[b].0.axis.len());
    if rep.lead {
        match batch {
            // There is one batch row, and no axis for more.
            None if binding.batch_rows.is_some() => return None,
            None => value = e.squeeze(value, &[0]),
            Some(b) => {
                value = e.squeeze(value, &[b as i64 + 1]);
                let mut perm: Vec<usize> = (1..frame.len()).collect();
                perm.insert(b, 0);
                value = e.transpose(value, &perm);
                real[b] = factors == 1;
            }
        }
    }
    // What is still 1 but must have its size.
    let mut target = vec![Size::Const(1); frame.len()];
    let mut short = false;
    for (i, (axis, side)) in frame.iter().enumerate() {
        let repeated = Some(i) == batch && factors > 1 && (rep.lead || axis.present);
        if repeated || (axis.present && !real[i] && needed[i]) {
            let parts = size(binding, axis, *side)?;
            target[i] = if Some(i) == batch && factors > 1 && rep.lead {
                // The batch is there, and is repeated for the other factors.
                match parts[..] {
                    [Size::Value(b), Size::Const(c)] if b == binding.batch => Size::Const(c),
                    _ => return None,
                }
            } else {
                e.product(&parts)
            };
            short = true;
        }
    }
    let sized: Vec<bool> = (0..frame.len())
        .map(|i| real[i] || target[i] != Size::Const(1))
        .collect();
    if !short {
        return Some(Taken::whole(value, sized));
    }
    let Some(b) = batch.filter(|_| factors > 1 && rep.lead) else {
        let shape = e.target(&target);
        let value = e.op("Expand", &[value, shape], &[]);
        return Some(Taken::whole(value, sized));
    };
    if b != 0 {
        return None;
    }
    // [B, rest] to [B, c, rest] to [B*c, rest]
    let value = e.unsqueeze(value, &[1]);
    target.insert(0, Size::Const(1));
    let shape = e.target(&target);
    let value = e.op("Expand", &[value, shape], &[]);
    let parts = size(binding, &frame[0].0, frame[0].1)?;
    let mut merged = vec![e.product(&parts)];
    for (i, (axis, side)) in frame.iter().enumerate().skip(1) {
        let has_size = real[i] || target[i + 1] != Size::Const(1);
        let parts = if has_size {
            size(binding, axis, *side)?
        } else {
            Vec::new()
        };
        merged.push(e.product(&parts));
    }
    let value = e.reshape(value, &crate::externals::one_inferred(&merged));
    Some(Taken::whole(value, sized))
}
