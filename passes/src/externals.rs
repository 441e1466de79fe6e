//! Pass `externals`: values with a token axis that a rewritten block reads but does not compute are taken at the rows' tokens.
//!
//! A value with one token axis keeps its place in the n-token part of the graph; what the block reads is gathered from it. One
//! with two is re-created over the rows from what it is made of (see [`crate::hoist`]), as far as that can be followed.
//! Values without a batch axis get one, since each batch row has its own rows.

use crate::conversion::{Binding, Conversion, SideRows};
use crate::emit::{Emit, Size};
use crate::error::Error;
use crate::hoist::{Hoist, Tables, sizes};
use onnx_model::ValueId;
use std::collections::BTreeMap;
use token_axes::layout::has_batch;
use token_axes::site::{Input, Instance, Side, Sides};
use token_axes::{External, Factor, FrameAxis, Role, Samples};

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let opset = c.opset();
    let Some(analysis) = &c.analysis else {
        return Ok(());
    };
    let mut recreated = Vec::new();
    // Blocks that share one compression have the same rows, and what is taken at them is taken once.
    for group in c.sites.chunk_by(|a, b| a.binding.same_rows(&b.binding)) {
        let mut done = Gathered::new(&analysis.samples, &mut c.tables);
        for site in group {
            let mut e = Emit::new(
                &mut c.model.graph,
                opset,
                format!("{}/external", site.prefix),
            );
            for instance in &site.instances {
                for (i, input) in instance.inputs.iter().enumerate() {
                    let Input::External(external, sides) = input else {
                        continue;
                    };
                    let taken = done
                        .gather(&mut e, &site.binding, instance, external, sides)
                        .map_err(|reason| Error::Rewrite {
                            block: site.prefix.clone(),
                            reason,
                        })?;
                    e.graph.set_input(instance.node, i, Some(taken.value));
                    c.taken.insert(taken.value, taken);
                }
            }
        }
        let end = done.hoist.end();
        c.unhoisted.extend(end.stopped);
        if let [first, ..] = group {
            recreated.push((first, end.made));
        }
    }
    for (site, made) in recreated {
        let prefix = format!("{}/size", site.prefix);
        let mut e = Emit::new(&mut c.model.graph, opset, prefix);
        for (value, axes) in made {
            sizes::tell(&mut e, &analysis.samples, &site.binding, value, &axes);
        }
    }
    Ok(())
}

/// An external at the rows.
#[derive(Clone)]
pub(crate) struct Taken {
    pub(crate) value: ValueId,
    /// For each axis of the frame, the last ones if there are fewer in the value: whether it may have more than one entry.
    pub(crate) sized: Vec<bool>,
    /// If it is a sum of parts that do not all depend on two tokens: those.
    pub(crate) addends: Vec<Taken>,
}

impl Taken {
    pub(crate) fn whole(value: ValueId, sized: Vec<bool>) -> Taken {
        Taken {
            value,
            sized,
            addends: Vec::new(),
        }
    }
}

/// What has been gathered for some rows already: a mask or rotary table that several nodes read alike is gathered once.
pub(crate) struct Gathered<'a> {
    done: BTreeMap<String, Taken>,
    hoist: Hoist<'a>,
}

impl<'a> Gathered<'a> {
    pub(crate) fn new(samples: &'a Samples, tables: &'a mut Tables) -> Gathered<'a> {
        Gathered {
            done: BTreeMap::new(),
            hoist: Hoist::new(samples, tables),
        }
    }

    /// The external as `reader` is to see it.
    pub(crate) fn gather(
        &mut self,
        e: &mut Emit<'_>,
        binding: &Binding,
        reader: &Instance,
        external: &External,
        sides: &Sides,
    ) -> Result<Taken, String> {
        let needed = self.hoist.needed(e, reader, external);
        let key = format!(
            "{:?} {:?} {sides:?} {needed:?}",
            external.value, external.frame
        );
        if let Some(taken) = self.done.get(&key) {
            return Ok(taken.clone());
        }
        let taken = match self.hoist.external(e, binding, external, sides, &needed) {
            Some(taken) => taken,
            None => Taken::whole(
                gather(e, binding, external, sides)?,
                external.frame.iter().map(|axis| axis.present).collect(),
            ),
        };
        self.done.insert(key, taken.clone());
        Ok(taken)
    }
}

/// One dimension of a value while it is being gathered.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Label {
    /// Factor `1` of frame axis `0`.
    Atom(usize, usize),
    /// The batch of the rows, for a value that had no batch axis.
    NewBatch,
}

struct Gathering<'a> {
    frame: &'a [FrameAxis],
    sides: &'a Sides,
    binding: &'a Binding,
    labels: Vec<Label>,
    /// Which dimensions have the rows' sizes already.
    gathered: Vec<Label>,
    value: ValueId,
}

fn gather(
    e: &mut Emit<'_>,
    binding: &Binding,
    external: &External,
    sides: &Sides,
) -> Result<ValueId, String> {
    let frame = &external.frame[..];
    let present: Vec<Label> = (0..frame.len())
        .filter(|&i| frame[i].present)
        .flat_map(|i| (0..frame[i].axis.len()).map(move |j| Label::Atom(i, j)))
        .collect();
    let mut g = Gathering {
        frame,
        sides,
        binding,
        labels: present,
        gathered: Vec::new(),
        value: external.value,
    };
    if !g.take(e)? {
        return Ok(external.value);
    }
    g.arrange(e)
}

/// A value at the rows, each axis of the frame being one of its own: the batch in front of the axes, which have size 1 where
/// the value's own batch was.
pub(crate) fn take_leading(
    e: &mut Emit<'_>,
    binding: &Binding,
    value: ValueId,
    frame: &[FrameAxis],
    sides: &Sides,
) -> Result<ValueId, String> {
    let mut g = Gathering {
        frame,
        sides,
        binding,
        labels: (0..frame.len()).map(|i| Label::Atom(i, 0)).collect(),
        gathered: Vec::new(),
        value,
    };
    g.take(e)?;
    let own = g.labels.iter().copied().find(|&l| g.role(l) == Role::Batch);
    let batch = own.ok_or("a value has neither batch nor tokens")?;
    let mut order = vec![batch];
    order.extend(
        (0..frame.len())
            .map(|i| Label::Atom(i, 0))
            .filter(|&l| l != batch),
    );
    g.permute(e, &order)?;
    Ok(match batch {
        Label::Atom(i, _) => e.unsqueeze(g.value, &[i as i64 + 1]),
        Label::NewBatch => g.value,
    })
}

impl Gathering<'_> {
    /// Takes the value on its token axes; false if nothing had to be done.
    fn take(&mut self, e: &mut Emit<'_>) -> Result<bool, String> {
        let batch = self
            .labels
            .iter()
            .copied()
            .find(|&l| self.role(l) == Role::Batch);
        let tokens: Vec<Label> = self
            .labels
            .iter()
            .copied()
            .filter(|&l| matches!(self.role(l), Role::Token | Role::Attended))
            .collect();
        match (batch, &tokens[..]) {
            (Some(batch), []) => {
                // Windows have more batch rows than the model.
                let Some(rows) = self.binding.batch_rows else {
                    return Ok(false);
                };
                self.split(e);
                let axis = self.position(batch)?;
                self.value = e.gather(self.value, rows, axis);
                self.gathered.push(batch);
            }
            (_, []) => return Ok(false),
            (Some(batch), [first, rest @ ..]) => {
                self.split(e);
                self.take_flat(e, batch, *first, true)?;
                self.gathered.push(batch);
                for &second in rest {
                    self.take_flat(e, batch, second, false)?;
                }
            }
            (None, [first, rest @ ..]) => {
                self.split(e);
                self.take_plain(e, *first)?;
                for &second in rest {
                    self.take_flat(e, Label::NewBatch, second, false)?;
                }
            }
        }
        Ok(true)
    }

    fn factor(&self, label: Label) -> Option<Factor> {
        match label {
            Label::Atom(i, j) => self.frame.get(i)?.axis.get(j).copied(),
            Label::NewBatch => None,
        }
    }

    fn role(&self, label: Label) -> Role {
        self.factor(label).map_or(Role::Batch, |f| f.role)
    }

    fn position(&self, label: Label) -> Result<usize, String> {
        self.labels
            .iter()
            .position(|&l| l == label)
            .ok_or_else(|| "an axis of an external went missing".to_owned())
    }

    fn side(&self, label: Label) -> Result<SideRows, String> {
        let side = match label {
            Label::Atom(i, _) => self.sides.get(i).copied().flatten().unwrap_or(Side::Rows),
            Label::NewBatch => Side::Rows,
        };
        self.binding
            .sides
            .get(&side)
            .copied()
            .ok_or_else(|| format!("rows of {side:?} are not known here"))
    }

    /// The size of a dimension now.
    fn size(&self, label: Label) -> Result<Size, String> {
        let done = self.gathered.contains(&label) || label == Label::NewBatch;
        Ok(match (self.role(label), done) {
            (Role::Batch, true) => Size::Value(self.binding.batch),
            (Role::Batch, false) => Size::Value(self.binding.model_batch),
            (Role::Token | Role::Attended, true) => Size::Value(self.side(label)?.count),
            (Role::Token | Role::Attended, false) => Size::Value(self.binding.tokens),
            (Role::Feature, _) => {
                let size = self.factor(label).and_then(|f| f.size.constant());
                Size::Const(size.ok_or("a feature axis of an external has no constant size")?)
            }
        })
    }

    /// Splits merged axes and drops axes of size 1.
    fn split(&mut self, e: &mut Emit<'_>) {
        if self.frame.iter().all(|a| a.present && a.axis.len() == 1) {
            return;
        }
        let sizes: Vec<Size> = self
            .labels
            .iter()
            .map(|&l| self.size(l).unwrap_or(Size::Const(-1)))
            .collect();
        self.value = e.reshape(self.value, &one_inferred(&sizes));
    }

    /// Takes tokens of a value without batch axis: the axis becomes `[B', rows]`.
    fn take_plain(&mut self, e: &mut Emit<'_>, token: Label) -> Result<(), String> {
        let axis = self.position(token)?;
        let rows = self.side(token)?.token;
        self.value = e.gather(self.value, rows, axis);
        self.labels.insert(axis, Label::NewBatch);
        self.gathered.push(token);
        Ok(())
    }

    /// Takes tokens of a value with a batch axis, through an index over batch and tokens together. `first`: the batch is the model's.
    fn take_flat(
        &mut self,
        e: &mut Emit<'_>,
        batch: Label,
        token: Label,
        first: bool,
    ) -> Result<(), String> {
        let mut order = vec![batch, token];
        order.extend(
            self.labels
                .iter()
                .copied()
                .filter(|l| *l != batch && *l != token),
        );
        self.permute(e, &order)?;
        let mut sizes = vec![Size::Const(-1)];
        for &label in &order[2..] {
            sizes.push(self.size(label)?);
        }
        let flat = e.reshape(self.value, &sizes);
        let side = self.side(token)?;
        self.value = e.gather(flat, if first { side.flat } else { side.flat_again }, 0);
        self.gathered.push(token);
        Ok(())
    }

    fn permute(&mut self, e: &mut Emit<'_>, order: &[Label]) -> Result<(), String> {
        let perm: Vec<usize> = order
            .iter()
            .map(|&l| self.position(l))
            .collect::<Result<_, _>>()?;
        self.value = e.transpose(self.value, &perm);
        self.labels = order.to_vec();
        Ok(())
    }

    /// Back to the frame's axes.
    fn arrange(mut self, e: &mut Emit<'_>) -> Result<ValueId, String> {
        let new_batch = self.labels.contains(&Label::NewBatch);
        let batch_axis = self.frame.iter().position(|a| has_batch(&a.axis));
        let mut order = Vec::new();
        let mut axes: Vec<Vec<Label>> = Vec::new();
        for (i, axis) in self.frame.iter().enumerate() {
            let mut labels: Vec<Label> = Vec::new();
            if axis.present {
                labels.extend((0..axis.axis.len()).map(|j| Label::Atom(i, j)));
            } else if new_batch && batch_axis == Some(i) {
                labels.push(Label::NewBatch);
            }
            order.extend(labels.iter().copied());
            axes.push(labels);
        }
        if new_batch && !order.contains(&Label::NewBatch) {
            // The batch is 1 and has no axis of its own here.
            if self.binding.batch_rows.is_some() {
                return Err("an external has no place for the windows".into());
            }
            order.insert(0, Label::NewBatch);
        }
        self.permute(e, &order)?;
        // A batch axis merged with heads: the new batch is repeated for each of them.
        if new_batch
            && let Some(b) = batch_axis
            && !self.frame[b].present
            && self.frame[b].axis.len() > 1
        {
            return self.repeat_batch(e, &axes, b);
        }
        if axes.iter().all(|a| a.len() == 1) && axes.len() == self.labels.len() {
            return Ok(self.value);
        }
        let mut sizes = Vec::new();
        for (i, labels) in axes.iter().enumerate() {
            if let [label] = labels[..]
                && self.labels.get(i) == Some(&label)
            {
                sizes.push(Size::Const(0));
                continue;
            }
            let parts: Vec<Size> = labels
                .iter()
                .map(|&l| self.size(l))
                .collect::<Result<_, _>>()?;
            sizes.push(match parts[..] {
                [] => Size::Const(1),
                [one] => one,
                _ => e.product(&parts),
            });
        }
        Ok(e.reshape(self.value, &one_inferred(&sizes)))
    }

    fn repeat_batch(
        &self,
        e: &mut Emit<'_>,
        axes: &[Vec<Label>],
        batch_axis: usize,
    ) -> Result<ValueId, String> {
        let (mut atoms, mut expanded, mut merged) = (Vec::new(), Vec::new(), Vec::new());
        for (i, labels) in axes.iter().enumerate() {
            if i == batch_axis {
                let mut parts = Vec::new();
                for factor in &self.frame[i].axis {
                    let is_batch = factor.role == Role::Batch;
                    atoms.push(if is_batch {
                        Size::Value(self.binding.batch)
                    } else {
                        Size::Const(1)
                    });
                    let size = Size::Const(factor.size.constant().unwrap_or(1));
                    expanded.push(if is_batch { Size::Const(1) } else { size });
                    parts.push(if is_batch {
                        Size::Value(self.binding.batch)
                    } else {
                        size
                    });
                }
                merged.push(e.product(&parts));
                continue;
            }
            let parts: Vec<Size> = labels
                .iter()
                .map(|&l| self.size(l))
                .collect::<Result<_, _>>()?;
            let size = match parts[..] {
                [] => Size::Const(1),
                _ => e.product(&parts),
            };
            atoms.push(size);
            expanded.push(Size::Const(1));
            merged.push(size);
        }
        let value = e.reshape(self.value, &atoms);
        let shape = e.target(&expanded);
        let value = e.op("Expand", &[value, shape], &[]);
        Ok(e.reshape(value, &merged))
    }
}

/// The first size that is not a constant becomes -1: it needs no operator to compute.
pub(crate) fn one_inferred(sizes: &[Size]) -> Vec<Size> {
    let mut out = sizes.to_vec();
    if !out.contains(&Size::Const(-1))
        && let Some(first) = out.iter_mut().find(|s| matches!(s, Size::Value(_)))
    {
        *first = Size::Const(-1);
    }
    out
}
