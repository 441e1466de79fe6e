//! What the axes inside blocks run over, against what ran.
//!
//! Every block that can be converted is cut out: its stream and its externals become inputs of the model, so that they can be
//! changed by themselves. Then
//! - one token of one batch row changes: up to the softmax only elements change that an inferred token axis (or token factor of
//!   a merged axis) places at this token, everywhere only those of its batch row, and the scores change along the query and
//!   along the key axis;
//! - a padded token changes: what the block makes of valid tokens does not;
//! - tokens and batch rows are permuted, in the stream and on the inferred axes of the externals: every value is permuted along
//!   its inferred axes.
//!
//! What is computed from all elements at once (the scale of a dynamic quantisation) changes wherever it likes: values behind it
//! are only permuted.

use super::arrays::{distances, each, mapped};
use super::{Compared, Disagreement, Exposed, array_of};
use anyhow::{Context, Result};
use onnx_model::{DataType, Dimension, Graph, Model, NodeId, ValueId};
use std::collections::BTreeSet;
use token_axes::layout::{has_batch, has_tokens};
use token_axes::{Analysis, Axis, Block, BlockAxes, External, Factor, Layout, PaddingMask, Role};
use vcc_run::{Array, Data, ElementType, Inputs, Outputs};

/// Differences that are rounding, relative.
const ROUNDING: f64 = 1e-3;
/// The same where the block has 16- or 8-bit numbers.
const COARSE_ROUNDING: f64 = 0.05;
/// With 8-bit numbers a value between two steps may go to either, and all that is computed from it is further away: one of so many elements may be.
/// With a wrong axis most are.
const FEW: usize = 10;
/// What does not depend on a token does not change by more than this, relative.
const UNCHANGED: f64 = 1e-5;

/// A block that has inputs of its own.
pub(super) struct Cut<'a> {
    name: String,
    block: &'a Block,
    axes: &'a BlockAxes,
    /// The names of the inputs: the stream and each reader's externals.
    stream: String,
    externals: Vec<(&'a External, String)>,
    pub(super) mask: Option<PaddingMask>,
}

/// A model in which the blocks that can be converted are cut out, with every value as an output.
pub(super) struct Blocks<'a> {
    model: Model,
    pub(super) cuts: Vec<Cut<'a>>,
    exposed: Exposed,
}

impl<'a> Blocks<'a> {
    /// `open` opens a model with every value exposed.
    pub(super) fn open(
        mut model: Model,
        analysis: &'a Analysis,
        open: impl FnOnce(&Model) -> Result<Exposed>,
    ) -> Result<Blocks<'a>> {
        let cuts = cut(&mut model, analysis)?;
        let exposed = open(&model)?;
        Ok(Blocks {
            model,
            cuts,
            exposed,
        })
    }

    /// Checks all blocks with the given inputs, at which the model gave the outputs.
    pub(super) fn check(
        &mut self,
        inputs: &Inputs,
        outputs: &Outputs,
        compared: &mut Compared,
    ) -> Result<Vec<Disagreement>> {
        let graph = &self.model.graph;
        let mut given = inputs.clone();
        for cut in &self.cuts {
            let own = std::iter::once((cut.block.input, &cut.stream));
            let externals = cut.externals.iter().map(|(e, name)| (e.value, name));
            for (value, name) in own.chain(externals) {
                let array = array_of(graph, value, inputs, outputs)
                    .with_context(|| format!("'{}' cannot be read", graph.value(value).name))?;
                given.insert(name, array);
            }
        }
        let mut found = Vec::new();
        (compared.blocks, compared.axes) = (self.cuts.len(), 0);
        for cut in &self.cuts {
            let Some(mut trial) = Trial::new(graph, cut, &given, outputs) else {
                continue;
            };
            compared.axes += trial.layouts().map(|(_, l)| l.0.len()).sum::<usize>();
            let values: Vec<String> = trial
                .layouts()
                .map(|(v, _)| graph.value(v).name.clone())
                .filter(|name| self.exposed.values.contains(name))
                .collect();
            let mut run = |changes: &Inputs| {
                let mut inputs = given.clone();
                for (name, array) in changes.iter() {
                    inputs.insert(name, array.clone());
                }
                self.exposed.session.run_outputs(&inputs, &values)
            };
            // Not the outputs of the whole model: there ONNX Runtime may leave out the rounding of the stream to 16 bits.
            let before = run(&Inputs::new())?;
            trial.outputs = &before;
            let mut wrong = trial.sizes();
            match trial.permutation() {
                Err(disagreement) => wrong.push(*disagreement),
                Ok(_) if !wrong.is_empty() => {}
                Ok(permuted) => {
                    let token = (0, trial.tokens / 2);
                    wrong = trial.one_token(token, &run(&trial.with_token(token))?);
                    wrong.extend(trial.permuted(&run(&permuted)?));
                    if let Some(padded) = trial.padded_token() {
                        wrong.extend(trial.padding(padded, &run(&trial.with_token(padded))?));
                    }
                }
            }
            found.extend(wrong.into_iter().map(|d| Disagreement {
                node: format!("{}, {}", d.node, cut.name),
                ..d
            }));
        }
        Ok(found)
    }
}

/// Gives every block that can be converted inputs of its own.
fn cut<'a>(model: &mut Model, analysis: &'a Analysis) -> Result<Vec<Cut<'a>>> {
    let mut cuts = Vec::new();
    let graph = &mut model.graph;
    for (s, stream) in analysis.streams.iter().enumerate() {
        let mask =
            token_axes::padding::padding_mask(graph, &analysis.samples, &stream.convertible());
        for (b, block) in stream.blocks.iter().enumerate() {
            let Ok(axes) = &block.axes else { continue };
            let name = format!("block {s}.{b}");
            let input = |graph: &mut Graph, value, what: &str| -> Result<(ValueId, String)> {
                let name = format!("vcc check {name} {what}");
                let dtype = analysis.samples.dtype(value).unwrap_or(DataType::Float);
                let rank = analysis.samples.shape(value).map_or(0, |s| s.len());
                let dims = vec![Dimension::Unknown; rank];
                Ok((graph.add_input(&name, dtype, &dims)?, name))
            };
            let (own, stream) = input(graph, block.input, "stream")?;
            let mut externals = Vec::new();
            for &id in &block.core {
                let Some(flow) = axes.flows.get(&id) else {
                    continue;
                };
                for external in &flow.externals {
                    let what = format!("external {}", externals.len());
                    let (value, name) = input(graph, external.value, &what)?;
                    graph.set_input(id, external.input, Some(value));
                    externals.push((external, name));
                }
                let reads: Vec<usize> = (0..graph.node(id).inputs.len())
                    .filter(|&i| graph.node(id).inputs.get(i) == Some(&Some(block.input)))
                    .collect();
                for index in reads {
                    graph.set_input(id, index, Some(own));
                }
            }
            cuts.push(Cut {
                name,
                block,
                axes,
                stream,
                externals,
                mask,
            });
        }
    }
    Ok(cuts)
}

/// Where an index of an axis is: its batch row and its token, if the axis runs over them.
#[derive(Clone, Copy, Default)]
struct Place {
    batch: Option<usize>,
    token: Option<usize>,
}

/// One block at the sizes of a run.
struct Trial<'a> {
    graph: &'a Graph,
    cut: &'a Cut<'a>,
    given: &'a Inputs,
    outputs: &'a Outputs,
    stream: &'a Array,
    batch: usize,
    tokens: usize,
    rounding: f64,
    /// Whether the block has 8-bit numbers: a change may come to nothing in them.
    codes: bool,
    /// Values behind the softmax, its own included.
    mixed: BTreeSet<ValueId>,
    /// Values that depend on all elements at once.
    spread: BTreeSet<ValueId>,
}

impl<'a> Trial<'a> {
    fn new(
        graph: &'a Graph,
        cut: &'a Cut<'a>,
        given: &'a Inputs,
        outputs: &'a Outputs,
    ) -> Option<Trial<'a>> {
        let stream = given.get(&cut.stream)?;
        let [batch, token, _] = cut.axes.order.positions();
        let size = |axis: usize| stream.shape().get(axis).copied();
        let (mixed, spread) = reached(graph, cut);
        let has = |kinds: &[ElementType]| {
            let kind = |v: &ValueId| outputs.get(&graph.value(*v).name).map(Array::element_type);
            let kinds_of_values = cut.axes.layouts.keys().filter_map(kind);
            kinds_of_values.into_iter().any(|k| kinds.contains(&k))
        };
        let codes = has(&[ElementType::I8, ElementType::U8]);
        let coarse = codes || has(&[ElementType::F16]);
        Some(Trial {
            graph,
            cut,
            given,
            outputs,
            stream,
            batch: size(batch)?,
            tokens: size(token)?,
            rounding: if coarse { COARSE_ROUNDING } else { ROUNDING },
            codes,
            mixed,
            spread,
        })
    }

    /// The values that the block makes, with their layouts.
    fn layouts(&self) -> impl Iterator<Item = (ValueId, &'a Layout)> {
        let axes: &'a BlockAxes = self.cut.axes;
        let input = self.cut.block.input;
        axes.layouts
            .iter()
            .map(|(&v, l)| (v, l))
            .filter(move |(v, _)| *v != input)
    }

    /// The values that came back, with their layouts, what they were, and what they are.
    fn pairs<'b>(
        &'b self,
        outputs: &'b Outputs,
    ) -> impl Iterator<Item = (ValueId, &'a Layout, &'a Array, &'b Array)> {
        self.layouts().filter_map(move |(value, layout)| {
            let name = &self.graph.value(value).name;
            Some((value, layout, self.outputs.get(name)?, outputs.get(name)?))
        })
    }

    fn wrong(&self, value: ValueId, layout: &Layout, actual: String) -> Disagreement {
        Disagreement::new(self.graph, value, "axes", layout.to_string(), actual)
    }

    /// The size of a factor in this run.
    fn size(&self, factor: &Factor) -> Option<usize> {
        match factor.role {
            Role::Batch => Some(self.batch),
            Role::Token | Role::Attended if factor.size == self.cut.axes.tokens => {
                Some(self.tokens)
            }
            _ => match factor.size.constant() {
                Some(size) => usize::try_from(size).ok(),
                None => self.length(factor),
            },
        }
    }

    /// How long features are whose number follows from that of the tokens: as long as where they are first seen.
    fn length(&self, factor: &Factor) -> Option<usize> {
        self.pairs(self.outputs).find_map(|(_, layout, array, _)| {
            let axis = layout.0.iter().position(|axis| axis[..] == [*factor])?;
            array.shape().get(axis).copied()
        })
    }

    /// Where each index of an axis is, and where it is after batch rows and tokens are permuted.
    fn places(&self, axis: &Axis) -> Option<Vec<(Place, usize)>> {
        let mut places = vec![(Place::default(), 0)];
        for factor in axis {
            let size = self.size(factor)?;
            let of = |(place, source): (Place, usize), i: usize| match factor.role {
                Role::Batch => {
                    let batch = Some(i);
                    (Place { batch, ..place }, source * size + self.batch_row(i))
                }
                Role::Token | Role::Attended => {
                    let token = Some(i);
                    (Place { token, ..place }, source * size + self.token(i))
                }
                Role::Feature => (place, source * size + i),
            };
            places = places
                .into_iter()
                .flat_map(|p| (0..size).map(move |i| of(p, i)))
                .collect();
        }
        Some(places)
    }

    /// The batch row that stands at a place after the permutation: the rows in opposite order.
    fn batch_row(&self, i: usize) -> usize {
        self.batch - 1 - i
    }

    /// The token that stands at a place after the permutation: shifted by two, the first two exchanged.
    fn token(&self, i: usize) -> usize {
        match (i, self.tokens) {
            (_, n) if n < 3 => n - 1 - i,
            (0, n) => n - 1,
            (1, n) => n - 2,
            (i, _) => i - 2,
        }
    }

    /// Every inferred axis has the size that its factors have.
    fn sizes(&self) -> Vec<Disagreement> {
        let stream = self.cut.axes.layouts.get(&self.cut.block.input);
        let stream = stream.map(|l| (self.cut.block.input, l, self.stream));
        let values = self.pairs(self.outputs).map(|(v, l, a, _)| (v, l, a));
        stream
            .into_iter()
            .chain(values)
            .filter_map(|(value, layout, array)| {
                let sizes: Option<Vec<usize>> = layout
                    .0
                    .iter()
                    .map(|axis| axis.iter().map(|f| self.size(f)).product())
                    .collect();
                (sizes.as_deref() != Some(array.shape()))
                    .then(|| self.wrong(value, layout, format!("the shape {:?}", array.shape())))
            })
            .collect()
    }

    /// The stream with one token of one batch row changed.
    fn with_token(&self, (batch, token): (usize, usize)) -> Inputs {
        let [b, t, f] = self.cut.axes.order.positions();
        let numbers = self.stream.data().to_f64s();
        let mean = numbers.iter().map(|x| x * x).sum::<f64>() / numbers.len().max(1) as f64;
        let scale = if mean.is_finite() {
            mean.sqrt().max(0.1)
        } else {
            1.0
        };
        let mut changed = numbers.clone();
        each(self.stream.shape(), |position, index| {
            if index[b] == batch && index[t] == token {
                changed[position] += scale * (1.7 * index[f] as f64 + 1.0).sin();
            }
        });
        let data = Data::from_f64s(self.stream.element_type(), &changed);
        Array::new(self.stream.shape(), data)
            .map(|array| (self.cut.stream.clone(), array))
            .into_iter()
            .collect()
    }

    /// Only what stands at the token that changed has changed.
    fn one_token(&self, (batch, token): (usize, usize), outputs: &Outputs) -> Vec<Disagreement> {
        let mut found = Vec::new();
        for (value, layout, before, after) in self.pairs(outputs) {
            let Some(places) = self.all_places(layout) else {
                continue;
            };
            let by_batch = layout.0.iter().any(has_batch);
            let local = !self.mixed.contains(&value) && layout.0.iter().any(has_tokens);
            let is_scores = value == self.cut.axes.scores;
            let mut axes_changed = BTreeSet::new();
            let distances = distances(&before.data().to_f64s(), &after.data().to_f64s());
            let mut elsewhere = None;
            each(before.shape(), |position, index| {
                if distances[position] <= UNCHANGED {
                    return;
                }
                let at: Vec<Place> = places.iter().zip(index).map(|(p, &i)| p[i].0).collect();
                let in_batch = !by_batch || at.iter().any(|p| p.batch == Some(batch));
                let at_token = |p: &Place| p.token == Some(token);
                if !in_batch || (local && !at.iter().any(at_token)) {
                    elsewhere.get_or_insert_with(|| index.to_vec());
                }
                let along: Vec<usize> = (0..at.len()).filter(|&a| at_token(&at[a])).collect();
                if let [axis] = along[..] {
                    axes_changed.insert(axis);
                }
            });
            if let Some(index) = elsewhere.filter(|_| !self.spread.contains(&value)) {
                let what =
                    format!("token {token} of batch row {batch} changed the element {index:?}");
                found.push(self.wrong(value, layout, what));
            }
            if is_scores && self.tokens > 1 && !self.codes {
                let (query, key) = (self.cut.axes.query_axis, self.cut.axes.key_axis);
                for (axis, role) in [(query, "query"), (key, "key")] {
                    if !axes_changed.contains(&axis) {
                        let what = format!(
                            "axis {axis} is not the {role} axis: a token changes nothing along it"
                        );
                        found.push(self.wrong(value, layout, what));
                    }
                }
            }
        }
        found
    }

    fn all_places(&self, layout: &Layout) -> Option<Vec<Vec<(Place, usize)>>> {
        layout.0.iter().map(|axis| self.places(axis)).collect()
    }

    /// An array whose batch rows and tokens are permuted along the axes.
    fn permute(&self, array: &Array, axes: &[Axis]) -> Option<Array> {
        let maps: Option<Vec<Vec<usize>>> = axes
            .iter()
            .map(|axis| Some(self.places(axis)?.into_iter().map(|(_, i)| i).collect()))
            .collect();
        mapped(array, &maps?)
    }

    /// The block's inputs with tokens and batch rows permuted; an external that does not have the inferred axes is an error.
    fn permutation(&self) -> Result<Inputs, Box<Disagreement>> {
        let mut changes = Inputs::new();
        let input = self.cut.block.input;
        if let Some(layout) = self.cut.axes.layouts.get(&input)
            && let Some(array) = self.permute(self.stream, &layout.0)
        {
            changes.insert(&self.cut.stream, array);
        }
        for (external, name) in &self.cut.externals {
            let Some(array) = self.given.get(name) else {
                continue;
            };
            let axes = external.frame.iter().map(|a| match a.present {
                true => a.axis.clone(),
                false => Vec::new(),
            });
            let skip = external.frame.len().saturating_sub(array.shape().len());
            let axes: Vec<Axis> = axes.skip(skip).collect();
            let Some(permuted) = self.permute(array, &axes) else {
                let actual = format!("the shape {:?}", array.shape());
                return Err(Box::new(self.wrong(external.value, &Layout(axes), actual)));
            };
            changes.insert(name, permuted);
        }
        Ok(changes)
    }

    /// How many of so many elements may differ by more than a rounding.
    fn may_be_far(&self, elements: usize) -> usize {
        if self.codes { elements / FEW } else { 0 }
    }

    /// Permuted inputs gave permuted values: the first value of which it is not so. What is computed from it is wrong too.
    fn permuted(&self, outputs: &Outputs) -> Option<Disagreement> {
        let made = |v: ValueId| self.graph.value(v).producer().map(|(id, _)| id);
        let place = |v: ValueId| {
            self.cut
                .block
                .core
                .iter()
                .position(|&id| Some(id) == made(v))
        };
        let wrong = |(value, layout, before, after): (ValueId, &Layout, &Array, &Array)| {
            let expected = self.permute(before, &layout.0)?;
            let distances = distances(&expected.data().to_f64s(), &after.data().to_f64s());
            let worst = distances.iter().copied().fold(0.0, f64::max);
            let actual = format!(
                "permuted tokens and batch rows give other elements, by {worst:.1e} (relative)"
            );
            let far = distances.iter().filter(|d| **d > self.rounding).count();
            (far > self.may_be_far(distances.len()))
                .then(|| (place(value), self.wrong(value, layout, actual)))
        };
        let all = self.pairs(outputs).filter_map(wrong);
        all.min_by_key(|(place, _)| *place).map(|(_, wrong)| wrong)
    }

    /// The padding mask of this run, `[batch][token]`, if it has this form.
    fn valid(&self) -> Option<Vec<bool>> {
        let mask = self.cut.mask.as_ref()?;
        let array = self.given.get(&self.graph.value(mask.value).name)?;
        let zero_is_valid = mask.zero_is_valid;
        let numbers = array.data().to_f64s();
        (array.shape() == [self.batch, self.tokens]).then(|| {
            numbers
                .iter()
                .map(|&x| (x == 0.0) == zero_is_valid)
                .collect()
        })
    }

    /// A padded token in a row that has valid ones.
    fn padded_token(&self) -> Option<(usize, usize)> {
        let valid = self.valid()?;
        let rows = valid.chunks(self.tokens.max(1)).enumerate();
        rows.filter(|(_, row)| row.contains(&true))
            .find_map(|(b, row)| Some((b, row.iter().position(|v| !v)?)))
    }

    /// A padded token changes nothing of the valid ones.
    fn padding(&self, padded: (usize, usize), outputs: &Outputs) -> Vec<Disagreement> {
        let output = self.cut.block.output;
        let valid = self.valid().unwrap_or_default();
        let mut found = Vec::new();
        for (value, layout, before, after) in self.pairs(outputs) {
            if value != output || self.spread.contains(&value) {
                continue;
            }
            let Some(places) = self.all_places(layout) else {
                continue;
            };
            let distances = distances(&before.data().to_f64s(), &after.data().to_f64s());
            let mut changed = None;
            each(before.shape(), |position, index| {
                let at: Vec<Place> = places.iter().zip(index).map(|(p, &i)| p[i].0).collect();
                let batch = at.iter().find_map(|p| p.batch).unwrap_or(0);
                let token = at.iter().find_map(|p| p.token).unwrap_or(0);
                let is_valid = valid.get(batch * self.tokens + token) == Some(&true);
                if is_valid && distances[position] > UNCHANGED {
                    changed.get_or_insert((batch, token));
                }
            });
            if let Some(at) = changed {
                let mask = self
                    .cut
                    .mask
                    .as_ref()
                    .map(|m| &self.graph.value(m.value).name);
                let what =
                    format!("{padded:?} is padding by {mask:?}, but changes the valid {at:?}");
                found.push(self.wrong(value, layout, what));
            }
        }
        found
    }
}

/// The values of a block behind its softmax, and those that depend on all elements at once.
fn reached(graph: &Graph, cut: &Cut<'_>) -> (BTreeSet<ValueId>, BTreeSet<ValueId>) {
    let axes = cut.axes;
    let tokens = |v: &ValueId| {
        axes.layouts
            .get(v)
            .is_some_and(|l| l.0.iter().any(has_tokens))
    };
    let (mut mixed, mut spread) = (BTreeSet::new(), BTreeSet::new());
    for &id in &cut.block.core {
        let node = graph.node(id);
        let inputs: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        let outputs: Vec<ValueId> = node.outputs.iter().flatten().copied().collect();
        if id == axes.softmax || inputs.iter().any(|v| mixed.contains(v)) {
            mixed.extend(&outputs);
        }
        let reduces = reads_tokens(graph, cut, id) && outputs.iter().any(|v| !tokens(v));
        if reduces || inputs.iter().any(|v| spread.contains(v)) {
            spread.extend(&outputs);
        }
    }
    (mixed, spread)
}

fn reads_tokens(graph: &Graph, cut: &Cut<'_>, id: NodeId) -> bool {
    let flow = cut.axes.flows.get(&id);
    graph
        .node(id)
        .inputs
        .iter()
        .enumerate()
        .any(|(index, value)| {
            let is_external = flow.is_some_and(|f| f.externals.iter().any(|e| e.input == index));
            // The stream is an input of its own in the cut.
            let is_stream = value.is_some_and(|v| graph.value(v).name == cut.stream);
            let layout = value.and_then(|v| cut.axes.layouts.get(&v));
            let has_tokens = layout.is_some_and(|l| l.0.iter().any(has_tokens));
            !is_external && (is_stream || has_tokens)
        })
}
