//! What is read of a cut outside its region.
//!
//! A head that pools takes single tokens of the last cut (the first one, mostly), maybe behind a norm. Then only those tokens
//! of the cut are needed. The readers are followed forwards: operators that treat tokens alike go on with the demanded tokens as
//! they did with all, until a Gather or Slice takes constant ones. Any other reader, or a reader that cannot be followed, needs
//! all tokens. [`crate::mean`] has the readers that take a mean.

use crate::conversion::{Conversion, Encoder, ShapeReader};
use crate::emit::Emit;
use crate::mean::{self, Mean};
use onnx_model::{Graph, NodeId, Tensor, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use token_axes::flow::{self, Site};
use token_axes::layout::{has_tokens, varies};
use token_axes::reach::{Reach, reads_shape_only};
use token_axes::{Analysis, Block, BlockAxes, Layout, Samples};

/// The readers of a cut that take constant tokens of it.
pub(crate) struct Tokens {
    /// The indices that are taken, each once; negative ones count from the last token.
    pub(crate) at: Vec<i64>,
    takers: Vec<Taker>,
    /// Readers of the shapes of the values on the way.
    shapes: Vec<(NodeId, Layout)>,
    /// The values on the way from the cut to the takers.
    between: Vec<ValueId>,
}

/// A node that takes tokens.
struct Taker {
    node: NodeId,
    axis: usize,
    takes: Takes,
}

enum Takes {
    /// A Gather with an index of this shape.
    Gather { shape: Vec<i64>, index: Vec<i64> },
    /// A Slice that keeps the first or the last token: it does the same to that token alone.
    Slice { index: i64 },
}

/// What is read of a cut.
pub(crate) enum Demand {
    Tokens(Tokens),
    Mean(Mean),
}

/// What is read of a block's output by others than the nodes of the next block; `None` if that may be any token.
pub(crate) fn of(
    graph: &Graph,
    analysis: &Analysis,
    reach: &Reach,
    opset: i64,
    block: &Block,
    next: Option<&Block>,
    encoder: &Encoder,
) -> Option<Demand> {
    let next: BTreeSet<NodeId> = next
        .filter(|n| n.input == block.output)
        .map(|n| n.core.iter().copied().collect())
        .unwrap_or_default();
    let tokens = tokens(graph, analysis, reach, opset, block, &next);
    tokens
        .map(Demand::Tokens)
        .or_else(|| mean::of(graph, analysis, opset, block, encoder, &next).map(Demand::Mean))
}

fn tokens(
    graph: &Graph,
    analysis: &Analysis,
    reach: &Reach,
    opset: i64,
    block: &Block,
    next: &BTreeSet<NodeId>,
) -> Option<Tokens> {
    let axes = block.axes.as_ref().ok()?;
    let mut walk = Walk {
        graph,
        samples: &analysis.samples,
        axes,
        layouts: BTreeMap::new(),
        queue: BTreeMap::new(),
        tokens: Tokens {
            at: Vec::new(),
            takers: Vec::new(),
            shapes: Vec::new(),
            between: Vec::new(),
        },
    };
    let layout = axes.layouts.get(&block.output)?.clone();
    walk.reach(reach, block.output, layout, next)?;
    let blocks = || analysis.streams.iter().flat_map(|s| &s.blocks);
    while let Some((_, node)) = walk.queue.pop_first() {
        if blocks().any(|b| b.core.contains(&node)) {
            return None;
        }
        walk.read(reach, opset, node)?;
    }
    let mut tokens = walk.tokens;
    for taker in &tokens.takers {
        match &taker.takes {
            Takes::Gather { index, .. } => tokens.at.extend(index),
            Takes::Slice { index } => tokens.at.push(*index),
        }
    }
    tokens.at.sort_unstable();
    tokens.at.dedup();
    (!tokens.at.is_empty()).then_some(tokens)
}

/// What is read of a block's output, and what that saves, in words. `is_last`: nothing else is made of its output.
pub(crate) fn what(demand: &Demand, is_last: bool) -> Option<String> {
    match demand {
        Demand::Tokens(tokens) => {
            let at: Vec<String> = tokens.at.iter().map(i64::to_string).collect();
            let what = match &at[..] {
                [one] => format!("only token {one} is read"),
                all => format!("only tokens {} are read", all.join(", ")),
            };
            Some(match is_last {
                true => format!("{what}: after its keys and values it runs for their rows alone"),
                false => format!("{what}: the other tokens are not expanded"),
            })
        }
        Demand::Mean(_) if is_last => {
            Some("only a sum over the tokens is read: it is taken over the rows".to_owned())
        }
        Demand::Mean(_) => None,
    }
}

struct Walk<'a> {
    graph: &'a Graph,
    samples: &'a Samples,
    axes: &'a BlockAxes,
    layouts: BTreeMap<ValueId, Layout>,
    /// Nodes to look at, by their place in the order: what they read has been followed before.
    queue: BTreeMap<usize, NodeId>,
    tokens: Tokens,
}

impl Walk<'_> {
    /// Queues the readers of a value.
    fn reach(
        &mut self,
        reach: &Reach,
        value: ValueId,
        layout: Layout,
        but: &BTreeSet<NodeId>,
    ) -> Option<()> {
        let v = self.graph.value(value);
        token_axis(&layout)?;
        if self.graph.is_output(value) || !v.captured_by().is_empty() {
            return None;
        }
        for &(node, _) in v.uses().iter().filter(|(n, _)| !but.contains(n)) {
            self.queue.insert(reach.position(node), node);
        }
        self.layouts.insert(value, layout);
        Some(())
    }

    fn read(&mut self, reach: &Reach, opset: i64, id: NodeId) -> Option<()> {
        let node = self.graph.node(id);
        let first = node.inputs.first().copied().flatten();
        let data = first.and_then(|v| self.layouts.get(&v));
        if reads_shape_only(self.graph, id) {
            self.tokens.shapes.push((id, data?.clone()));
            return Some(());
        }
        if let Some(axis) = data.and_then(token_axis)
            && let Some(takes) = self.takes(id, axis)
        {
            let node = id;
            self.tokens.takers.push(Taker { node, axis, takes });
            return Some(());
        }
        let site = Site {
            graph: self.graph,
            samples: self.samples,
            opset,
            tokens: self.axes.tokens,
            batch: self.axes.batch,
            core: &self.layouts,
            id,
            node,
        };
        let flow = flow::apply(&site).ok()?;
        let meets_tokens = flow.externals.iter().any(|e| {
            e.frame
                .iter()
                .any(|axis| axis.present && has_tokens(&axis.axis))
        });
        if meets_tokens || flow.operand.is_some() || flow.softmax.is_some() {
            return None;
        }
        for (value, layout) in flow.outputs {
            self.tokens.between.push(value);
            self.reach(reach, value, layout, &BTreeSet::new())?;
        }
        Some(())
    }

    /// The constant tokens that a node takes of its first input, whose axis `axis` runs over them.
    fn takes(&self, id: NodeId, axis: usize) -> Option<Takes> {
        let node = self.graph.node(id);
        let input = |i: usize| node.inputs.get(i).copied().flatten();
        let ints = |i: usize| self.samples.constant_ints(input(i)?);
        let rank = self.layouts.get(&input(0)?)?.0.len() as i64;
        let is_axis = |a: i64| (if a < 0 { a + rank } else { a }) == axis as i64;
        match (node.domain.as_str(), node.op_type.as_str()) {
            ("", "Gather") if is_axis(node.attr_int("axis").unwrap_or(0)) => {
                let shape = self.samples.shape(input(1)?)?;
                Some(Takes::Gather {
                    shape: shape.iter().map(|d| d.constant()).collect::<Option<_>>()?,
                    index: ints(1)?,
                })
            }
            ("", "Slice") => {
                let (starts, ends) = (ints(1)?, ints(2)?);
                let axes = match input(3) {
                    Some(_) => ints(3)?,
                    None => (0..starts.len() as i64).collect(),
                };
                let place = axes.iter().position(|&a| is_axis(a))?;
                let step = match input(4) {
                    Some(_) => ints(4)?.get(place).copied()?,
                    None => 1,
                };
                match (step, *starts.get(place)?, *ends.get(place)?) {
                    (1, 0, 1) => Some(Takes::Slice { index: 0 }),
                    (1, -1, end) if end >= i64::from(i32::MAX) => Some(Takes::Slice { index: -1 }),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// The only axis with tokens, if it has nothing else in it and no other axis has a length that follows from theirs.
fn token_axis(layout: &Layout) -> Option<usize> {
    let axes: Vec<usize> = (0..layout.0.len())
        .filter(|&i| has_tokens(&layout.0[i]))
        .collect();
    match axes[..] {
        [axis] if layout.0[axis].len() == 1 && !layout.0.iter().any(varies) => Some(axis),
        _ => None,
    }
}

/// The cut becomes `rows`, its tokens [`Tokens::at`] in the stream's axis order, and its readers take what they took from those.
pub(crate) fn give(
    c: &mut Conversion,
    encoder: usize,
    prefix: &str,
    tokens: Tokens,
    cut: ValueId,
    rows: ValueId,
) {
    let input = c.encoders[encoder].input;
    let opset = c.opset();
    let mut e = Emit::new(&mut c.model.graph, opset, format!("{prefix}/read"));
    // All cuts have the shape of the first one.
    for (node, layout) in tokens.shapes {
        if e.graph.node(node).inputs.first() == Some(&Some(cut)) {
            e.graph.set_input(node, 0, Some(input));
        } else {
            c.shape_readers.push(ShapeReader {
                node,
                layout,
                encoder,
            });
        }
    }
    for value in tokens.between {
        e.graph.set_info(value, None);
    }
    let place = |at: i64| tokens.at.binary_search(&at).map_or(0, |i| i as i64);
    for taker in tokens.takers {
        let Some(data) = e.graph.node(taker.node).inputs.first().copied().flatten() else {
            continue;
        };
        match taker.takes {
            Takes::Gather { shape, index } => {
                let places: Vec<i64> = index.into_iter().map(place).collect();
                let name = e.name("places");
                let places = e
                    .graph
                    .add_initializer(&name, Tensor::from_i64s(&shape, &places));
                e.graph.set_input(taker.node, 1, Some(places));
            }
            Takes::Slice { index } if tokens.at.len() > 1 => {
                let index = e.ints(&[place(index)]);
                let token = e.gather(data, index, taker.axis);
                e.graph.set_input(taker.node, 0, Some(token));
            }
            Takes::Slice { .. } => {}
        }
    }
    e.graph.set_info(cut, None);
    if let Some((producer, output)) = e.graph.value(rows).producer() {
        e.graph.set_output(producer, output, Some(cut));
    }
}
