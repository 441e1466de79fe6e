//! The nodes of a block as they are needed for some choice of rows.
//!
//! The same graph of operators runs three kinds of rows: the compressed sequence (the block itself), and for selection the VIP
//! tokens as queries and the segments as keys. [`instances`] walks back from a value whose token axes have been given a
//! [`Side`] and tells for every node which copies are needed and what each input of a copy is. In the block itself all
//! token axes have side [`Side::Rows`], so there is one copy of each node; in selection, and in a block of which only some
//! rows are read, a node that serves both queries and keys (a norm, a packed projection) is needed twice.

use crate::block::BlockAxes;
use crate::flow::{External, ShapeOperand, describe};
use crate::layout::{Layout, has_tokens};
use crate::refusal::{Code, Refusal};
use onnx_model::{Graph, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Which rows a token axis runs over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Side {
    /// The compressed sequence (or a window).
    Rows,
    /// The VIP slots, as queries of selection; the rows that are read, where those of a block are not all read.
    Query,
    /// The candidate segments, as keys of selection; all rows, where those of a block are not all read.
    Key,
}

/// How often a node is there, and what side a token axis has that no axis of the node's outputs continues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copies {
    /// Once; every token axis has this side.
    One(Side),
    /// For every choice of sides. An axis that is summed over has this side; with none it is that of the outputs.
    PerSide(Option<Side>),
}

impl Copies {
    /// The side of every axis, or of those that are summed over.
    fn unlinked(self) -> Option<Side> {
        match self {
            Copies::One(side) => Some(side),
            Copies::PerSide(summed) => summed,
        }
    }
}

/// The side of each axis; `None` for axes without tokens. A value without any token axis (a scale of dynamic quantisation) has
/// one entry more: the side of the rows it was computed from.
pub type Sides = Vec<Option<Side>>;

/// One input of an instance.
#[derive(Clone, Debug)]
pub enum Input {
    /// As it is: a weight or another value that has no token or batch axis, or an absent input.
    Keep,
    /// The block's input at the rows of a side.
    Rows(Side),
    /// Output `1` of instance `0`.
    Instance(usize, usize),
    /// An external, to be taken at the rows of the sides of its frame axes.
    External(External, Sides),
    /// A shape operand to rebuild: kind, layout and sides of the node's data input, layout and sides of its output.
    Operand(ShapeOperand, (Layout, Sides), (Layout, Sides)),
}

/// A copy of a node for a choice of sides.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The node.
    pub node: NodeId,
    /// Its inputs.
    pub inputs: Vec<Input>,
    /// The axes of its first output.
    pub layout: Layout,
    /// The sides of its outputs' axes.
    pub sides: Sides,
    /// The layouts of inputs that must be reshaped for more than one batch row.
    pub regrouped: Vec<(usize, Layout)>,
}

/// The instances needed for `target` with the given sides, in topological order, and which of their outputs it is.
pub fn instances(
    graph: &Graph,
    axes: &BlockAxes,
    core: &[NodeId],
    input: ValueId,
    target: ValueId,
    sides: Sides,
    copies: Copies,
) -> Result<(Vec<Instance>, (usize, usize)), Refusal> {
    let mut demanded: BTreeMap<ValueId, BTreeSet<Sides>> = BTreeMap::new();
    demanded.entry(target).or_default().insert(sides.clone());
    // Backwards: what each demanded output demands of the inputs.
    let mut wanted: Vec<(NodeId, Sides)> = Vec::new();
    for &id in core.iter().rev() {
        let node = graph.node(id);
        let mut of_node: BTreeSet<Sides> = BTreeSet::new();
        for output in node.outputs.iter().flatten() {
            of_node.extend(demanded.get(output).into_iter().flatten().cloned());
        }
        if let (Copies::One(side), false) = (copies, of_node.is_empty()) {
            let layout = axes.flows[&id]
                .outputs
                .first()
                .map(|(_, l)| l.clone())
                .unwrap_or_default();
            of_node = BTreeSet::from([all_of(&layout, Some(side))]);
        }
        for sides in of_node {
            for (index, value) in node.inputs.iter().enumerate() {
                let Some(value) = value else { continue };
                if let Some(layout) = axes.layouts.get(value) {
                    let sides = input_sides(graph, axes, id, index, layout, &sides, copies)?;
                    demanded.entry(*value).or_default().insert(sides);
                }
            }
            wanted.push((id, sides));
        }
    }
    wanted.reverse();
    let number: BTreeMap<(NodeId, Sides), usize> = wanted
        .iter()
        .cloned()
        .enumerate()
        .map(|(i, key)| (key, i))
        .collect();
    let find = |value: ValueId, sides: &Sides| -> Option<(usize, usize)> {
        let (producer, output) = graph.value(value).producer()?;
        match copies {
            Copies::One(side) => {
                let layout = axes
                    .flows
                    .get(&producer)?
                    .outputs
                    .first()
                    .map(|(_, l)| l.clone())
                    .unwrap_or_default();
                number
                    .get(&(producer, all_of(&layout, Some(side))))
                    .map(|&i| (i, output))
            }
            Copies::PerSide(_) => number.get(&(producer, sides.clone())).map(|&i| (i, output)),
        }
    };
    let mut out = Vec::new();
    for (id, sides) in &wanted {
        let node = graph.node(*id);
        let flow = &axes.flows[id];
        let result = flow.outputs.first().map(|(_, l)| l.clone());
        let result = result.unwrap_or_default();
        let operand_input = flow.operand.as_ref().map(|_| 1..node.inputs.len());
        let mut inputs = Vec::new();
        for (index, value) in node.inputs.iter().enumerate() {
            let Some(value) = value else {
                inputs.push(Input::Keep);
                continue;
            };
            if let Some(layout) = axes.layouts.get(value) {
                let wanted = input_sides(graph, axes, *id, index, layout, sides, copies)?;
                if *value == input {
                    let side = wanted
                        .iter()
                        .flatten()
                        .next()
                        .copied()
                        .unwrap_or(Side::Rows);
                    inputs.push(Input::Rows(side));
                } else if let Some((instance, output)) = find(*value, &wanted) {
                    inputs.push(Input::Instance(instance, output));
                } else {
                    return Err(Refusal {
                        code: Code::Internal,
                        node: describe(node),
                        reason: format!("The rows of its input {index} could not be told apart."),
                        trail: Vec::new(),
                    });
                }
            } else if let Some(external) = flow.externals.iter().find(|e| e.input == index) {
                let sides = external_sides(graph, axes, *id, external, sides, copies)?;
                inputs.push(Input::External(external.clone(), sides));
            } else if index == 1 && operand_input.is_some() {
                let data = node
                    .inputs
                    .first()
                    .copied()
                    .flatten()
                    .and_then(|v| axes.layouts.get(&v))
                    .cloned()
                    .unwrap_or_default();
                let data_sides = input_sides(graph, axes, *id, 0, &data, sides, copies)?;
                let kind = flow.operand.clone().unwrap_or(ShapeOperand::Reshape);
                inputs.push(Input::Operand(
                    kind,
                    (data, data_sides),
                    (result.clone(), sides.clone()),
                ));
            } else {
                inputs.push(Input::Keep);
            }
        }
        out.push(Instance {
            node: *id,
            inputs,
            layout: result,
            sides: sides.clone(),
            regrouped: flow.regrouped.clone(),
        });
    }
    let Some(place) = find(target, &sides) else {
        return Err(Refusal {
            code: Code::Internal,
            node: graph.value(target).name.clone(),
            reason: "The value is not computed in the block.".into(),
            trail: Vec::new(),
        });
    };
    Ok((out, place))
}

/// The sides of a layout whose token axes all have the same side.
fn all_of(layout: &Layout, side: Option<Side>) -> Sides {
    let mut sides: Sides = layout
        .0
        .iter()
        .map(|axis| if has_tokens(axis) { side } else { None })
        .collect();
    if !layout.0.iter().any(has_tokens) {
        sides.push(side);
    }
    sides
}

/// The one side that an output has, if it has one.
fn only(sides: &Sides) -> Option<Side> {
    let set: BTreeSet<Side> = sides.iter().flatten().copied().collect();
    if set.len() == 1 {
        set.first().copied()
    } else {
        None
    }
}

fn input_sides(
    graph: &Graph,
    axes: &BlockAxes,
    id: NodeId,
    index: usize,
    layout: &Layout,
    out: &Sides,
    copies: Copies,
) -> Result<Sides, Refusal> {
    if !layout.0.iter().any(has_tokens) {
        let side = match copies {
            Copies::One(side) => Some(side),
            Copies::PerSide(_) => only(out),
        };
        return Ok(all_of(layout, side));
    }
    let fallback = copies.unlinked().or_else(|| only(out));
    let flow = &axes.flows[&id];
    (0..layout.0.len())
        .map(|axis| {
            if !has_tokens(&layout.0[axis]) {
                return Ok(None);
            }
            let linked: BTreeSet<Side> = flow
                .links
                .iter()
                .filter(|(_, i, a)| *i == index && *a == axis)
                .filter_map(|(o, _, _)| out.get(*o).copied().flatten())
                .collect();
            pick(graph, id, linked, fallback).map(Some)
        })
        .collect()
}

fn external_sides(
    graph: &Graph,
    axes: &BlockAxes,
    id: NodeId,
    external: &External,
    out: &Sides,
    copies: Copies,
) -> Result<Sides, Refusal> {
    let unlinked = copies.unlinked();
    let flow = &axes.flows[&id];
    external
        .frame
        .iter()
        .enumerate()
        .map(|(axis, a)| {
            if !has_tokens(&a.axis) {
                return Ok(None);
            }
            let linked: BTreeSet<Side> = flow
                .links
                .iter()
                .filter(|(_, i, x)| *i == external.input && *x == axis)
                .filter_map(|(o, _, _)| out.get(*o).copied().flatten())
                .collect();
            if !a.present {
                return Ok(linked.into_iter().next().or(unlinked));
            }
            pick(graph, id, linked, unlinked).map(Some)
        })
        .collect()
}

fn pick(
    graph: &Graph,
    id: NodeId,
    linked: BTreeSet<Side>,
    unlinked: Option<Side>,
) -> Result<Side, Refusal> {
    let mut sides = linked.into_iter();
    match (sides.next(), sides.next()) {
        (Some(side), None) => Ok(side),
        (None, _) if unlinked.is_some() => Ok(unlinked.unwrap_or(Side::Rows)),
        (first, _) => Err(Refusal {
            code: Code::Axes,
            node: describe(graph.node(id)),
            reason: if first.is_some() {
                "One token axis serves queries and keys at once.".into()
            } else {
                "A token axis before the scores is neither query nor key.".into()
            },
            trail: Vec::new(),
        }),
    }
}
