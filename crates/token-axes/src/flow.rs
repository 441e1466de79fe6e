//! What one operator of a block does to the axes.
//!
//! [`apply`] takes the layouts of the operator's *core* inputs (values computed from the block's input) and returns the layout of
//! its outputs, how every other input with a token or batch axis is aligned ([`External`]), and which shape operand must be
//! rebuilt for another number of rows. Any operator that is not known to treat tokens alike is refused.
//!
//! Invariant: if `apply` succeeds on all nodes of a block, the block computes the same for each token whatever the other tokens
//! are, except through the softmax it reports; externals and shape operands aside, it does not depend on the number of tokens.

mod attention;
mod elementwise;
mod movement;
mod products;
mod quantised;
mod reductions;
mod rotary;

use crate::attentions::is_fused;
use crate::dim::{Dim, Samples};
use crate::layout::{Axis, Layout, axis_size, has_batch, has_tokens, varies};
use crate::refusal::{Code, Refusal};
use onnx_model::{Graph, Node, NodeId, ValueId};
use std::collections::BTreeMap;

/// One axis of an external value as the operator that reads it sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameAxis {
    /// The axis of the operator's other inputs that it meets.
    pub axis: Axis,
    /// Whether the external runs over that axis (otherwise its size there is 1).
    pub present: bool,
}

/// A value that is not computed from the block's input, read by a node of the block, with a token or batch axis.
#[derive(Clone, Debug)]
pub struct External {
    /// Which input of the node it is.
    pub input: usize,
    /// The value.
    pub value: ValueId,
    /// Its axes, after axes of size 1 are put in front until it has as many as the frame.
    pub frame: Vec<FrameAxis>,
}

/// A shape operand of a node in a block, as it must be for another number of rows.
#[derive(Clone, Debug)]
pub enum ShapeOperand {
    /// The target of a Reshape from one layout to another.
    Reshape,
    /// The target of an Expand.
    Expand,
    /// Starts, ends, axes and steps of a Slice, constant for any length.
    Slice {
        /// First index per axis.
        starts: Vec<i64>,
        /// End index per axis (`i64::MAX`: the whole axis).
        ends: Vec<i64>,
        /// The axes.
        axes: Vec<i64>,
        /// The steps.
        steps: Vec<i64>,
    },
}

/// An output token axis continues an input's axis: `(output axis, input, axis of that input, in frame axes for externals)`.
pub type Link = (usize, usize, usize);

/// What a node does to the axes.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// The layouts of its outputs.
    pub outputs: Vec<(ValueId, Layout)>,
    /// Its external inputs.
    pub externals: Vec<External>,
    /// The equation of an Einsum whose externals get a batch axis, each batch row having its own rows.
    pub equation: Option<String>,
    /// The shape operand to rebuild.
    pub operand: Option<ShapeOperand>,
    /// Core inputs that it reads with a batch of one on another axis than they have it: so they must be reshaped if there are more batch
    /// rows (windows).
    pub regrouped: Vec<(usize, Layout)>,
    /// Where its output token axes come from.
    pub links: Vec<Link>,
    /// The key axis, if this is the softmax of an attention.
    pub softmax: Option<usize>,
}

/// The place a rule looks at: one node with what is known around it.
pub struct Site<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// Shapes and small contents.
    pub samples: &'a Samples,
    /// The default domain's opset.
    pub opset: i64,
    /// The number of tokens.
    pub tokens: Dim,
    /// The batch size.
    pub batch: Dim,
    /// The layouts of the values computed from the block's input.
    pub core: &'a BTreeMap<ValueId, Layout>,
    /// The node.
    pub id: NodeId,
    /// The node itself.
    pub node: &'a Node,
}

/// One input of a node.
pub(crate) enum Operand {
    Core(Layout),
    External(ValueId, Vec<Dim>),
}

impl<'a> Site<'a> {
    /// A refusal at this node.
    pub(crate) fn refuse(&self, code: Code, reason: impl Into<String>) -> Refusal {
        Refusal {
            code,
            node: describe(self.node),
            reason: reason.into(),
            trail: Vec::new(),
        }
    }

    pub(crate) fn input(&self, index: usize) -> Option<ValueId> {
        self.node.inputs.get(index).copied().flatten()
    }

    pub(crate) fn operand(&self, index: usize) -> Result<Operand, Refusal> {
        let value = self.input(index).ok_or_else(|| {
            self.refuse(Code::UnknownShape, format!("Its input {index} is missing."))
        })?;
        if let Some(layout) = self.core.get(&value) {
            return Ok(Operand::Core(layout.clone()));
        }
        let shape = self.samples.shape(value).ok_or_else(|| {
            let what = format!("its input '{}'", self.graph.value(value).name);
            shape_unknown(self.graph, self.samples, value, &describe(self.node), &what)
        })?;
        Ok(Operand::External(value, shape))
    }

    /// The layout of an input that has to be computed from the block's input.
    pub(crate) fn core_operand(&self, index: usize) -> Result<Layout, Refusal> {
        match self.operand(index)? {
            Operand::Core(layout) => Ok(layout),
            Operand::External(..) => Err(self.refuse(
                Code::UnknownOp,
                format!("Its input {index} does not come from the block's input."),
            )),
        }
    }

    /// The number that a constant value holds in all its elements.
    pub(crate) fn one_number(&self, value: ValueId) -> Option<f64> {
        let facts = self.samples.0.first()?;
        let numbers = facts
            .content(value)
            .filter(|_| facts.constant(value))?
            .to_f64s();
        let first = *numbers.first()?;
        numbers.iter().all(|&x| x == first).then_some(first)
    }

    pub(crate) fn is_core(&self, index: usize) -> bool {
        self.input(index)
            .is_some_and(|v| self.core.contains_key(&v))
    }

    pub(crate) fn output(&self, index: usize) -> Option<ValueId> {
        self.node.outputs.get(index).copied().flatten()
    }

    pub(crate) fn output_shape(&self, index: usize) -> Result<Vec<Dim>, Refusal> {
        self.output(index)
            .and_then(|v| self.samples.shape(v))
            .ok_or_else(|| self.shape_unknown(index))
    }

    /// Why an output's shape is not known; a length that was traced into the graph is told as such.
    fn shape_unknown(&self, index: usize) -> Refusal {
        let (name, what) = (describe(self.node), "its output");
        match self.output(index) {
            Some(output) => shape_unknown(self.graph, self.samples, output, &name, what),
            None => self.refuse(Code::UnknownShape, format!("It has no output {index}.")),
        }
    }

    /// An axis number from an attribute or operand, made non-negative.
    pub(crate) fn axis(&self, axis: i64, rank: usize) -> Result<usize, Refusal> {
        let rank_i = rank as i64;
        let axis = if axis < 0 { axis + rank_i } else { axis };
        if (0..rank_i).contains(&axis) {
            Ok(axis as usize)
        } else {
            Err(self.refuse(
                Code::Axes,
                format!("Axis {axis} of a value with {rank} axes."),
            ))
        }
    }

    /// All outputs have the same layout.
    pub(crate) fn all_outputs(&self, layout: Layout) -> Vec<(ValueId, Layout)> {
        self.node
            .outputs
            .iter()
            .flatten()
            .map(|&v| (v, layout.clone()))
            .collect()
    }

    /// The axis a new external axis of a size runs over: found by its size, since nothing else is known of it.
    pub(crate) fn free_axis(&self, size: Dim) -> Result<Axis, Refusal> {
        use crate::layout::{Factor, Role, feature};
        if size == self.tokens {
            Ok(vec![Factor {
                role: Role::Token,
                size,
            }])
        } else if size.constant().is_some() {
            Ok(feature(size))
        } else if size == self.batch {
            Ok(vec![Factor {
                role: Role::Batch,
                size,
            }])
        } else {
            Err(self.refuse(
                Code::External,
                format!(
                    "An axis of size {size:?} is neither tokens ({:?}), batch nor constant.",
                    self.tokens
                ),
            ))
        }
    }

    /// The axis that only an external brings to a product. One that is neither tokens nor batch is as long as it is for the
    /// model's tokens whatever the rows are (the rows of a table of relative positions): a feature, of a size that varies.
    pub(crate) fn own_axis(&self, size: Dim) -> Axis {
        self.free_axis(size)
            .unwrap_or_else(|_| crate::layout::feature(size))
    }

    /// The external with its frame, if it has an axis that depends on the rows.
    pub(crate) fn external(
        &self,
        input: usize,
        value: ValueId,
        frame: Vec<FrameAxis>,
    ) -> Result<Option<External>, Refusal> {
        let tokens = frame.iter().any(|a| a.present && has_tokens(&a.axis));
        let batch = frame.iter().any(|a| a.present && has_batch(&a.axis));
        if !tokens && !batch {
            return Ok(None);
        }
        if tokens && frame.iter().any(|a| a.present && varies(&a.axis)) {
            let name = &self.graph.value(value).name;
            return Err(self.refuse(
                Code::External,
                format!(
                    "'{name}' runs over tokens, and over an axis whose length depends on theirs."
                ),
            ));
        }
        if !frame.iter().any(|a| has_batch(&a.axis)) && self.batch.constant() != Some(1) {
            let name = &self.graph.value(value).name;
            return Err(self.refuse(
                Code::External,
                format!("'{name}' runs over tokens, but nothing here runs over the batch."),
            ));
        }
        Ok(Some(External {
            input,
            value,
            frame,
        }))
    }

    /// Links from each token axis of `layout` to the same axis of `input`.
    pub(crate) fn same_axes(&self, layout: &Layout, input: usize) -> Vec<Link> {
        layout
            .0
            .iter()
            .enumerate()
            .filter(|(_, axis)| has_tokens(axis))
            .map(|(i, _)| (i, input, i))
            .collect()
    }
}

/// Why a shape is not known, as a refusal: at the node to blame, and if a length was traced into the graph there, as such.
pub(crate) fn shape_unknown(
    graph: &Graph,
    samples: &Samples,
    value: ValueId,
    node: &str,
    what: &str,
) -> Refusal {
    let unknown = format!("The shape of {what} is not known");
    let cause = samples.0.iter().find_map(|f| f.cause(value));
    match cause.and_then(|c| c.node) {
        Some(at) if describe(graph.node(at)) != node => {
            let reason = cause.map_or("", |c| &c.reason);
            let at_fault = describe(graph.node(at));
            baked(samples, at, &at_fault).unwrap_or_else(|| {
                let reason = format!("{unknown}, since it is not that of {at_fault}: {reason}.");
                Refusal::new(Code::UnknownShape, node, reason)
            })
        }
        Some(at) => baked(samples, at, node).unwrap_or_else(|| {
            let reason = cause.map_or("", |c| &c.reason);
            Refusal::new(Code::UnknownShape, node, format!("{unknown}: {reason}."))
        }),
        None => Refusal::new(Code::UnknownShape, node, format!("{unknown}.")),
    }
}

/// The refusal of a node that works for one length, or up to one.
pub(crate) fn baked(samples: &Samples, id: NodeId, node: &str) -> Option<Refusal> {
    let baked = samples
        .0
        .iter()
        .find_map(|f| f.baked().iter().find(|b| b.node == id))?;
    let reason = format!(
        "'{}' is declared dynamic, but this node was made for {}.",
        baked.symbol, baked.literal
    );
    Some(Refusal::new(Code::BakedLength, node, reason))
}

/// A node as messages name it.
pub fn describe(node: &Node) -> String {
    let name = if node.name.is_empty() {
        "(unnamed)"
    } else {
        &node.name
    };
    format!("{name} ({})", node.op_type)
}

/// Aligns an external's shape with frame axes from the right; `None` where a size fits neither 1 nor the axis.
pub(crate) fn align(shape: &[Dim], axes: &[Axis]) -> Option<Vec<FrameAxis>> {
    let skip = axes.len().checked_sub(shape.len())?;
    axes.iter()
        .enumerate()
        .map(|(i, axis)| {
            let size = if i < skip { Dim::ONE } else { shape[i - skip] };
            if !axis.is_empty() && size == axis_size(axis) && (size != Dim::ONE || i >= skip) {
                Some(FrameAxis {
                    axis: axis.clone(),
                    present: size != Dim::ONE,
                })
            } else if size == Dim::ONE {
                Some(FrameAxis {
                    axis: axis.clone(),
                    present: false,
                })
            } else {
                None
            }
        })
        .collect()
}

/// Whether the node attends to what is taken for the batch.
pub(crate) fn attends_to_batch(site: &Site<'_>) -> bool {
    attention::is_over_batch(site)
}

/// What the node does to the axes, or why it cannot be in a converted block.
pub fn apply(site: &Site<'_>) -> Result<Flow, Refusal> {
    let op = site.node.op_type.as_str();
    if site.node.has_subgraph() {
        return Err(site.refuse(Code::UnknownOp, "Control flow inside a block."));
    }
    match (site.node.domain.as_str(), op) {
        ("" | "com.microsoft", op) if elementwise::knows(op) => elementwise::apply(site),
        ("", "MatMul" | "Gemm" | "Einsum" | "Conv") | ("com.microsoft", "FusedMatMul") => {
            products::apply(site)
        }
        ("" | "com.microsoft", op) if quantised::knows(op) => quantised::apply(site),
        ("", "Softmax") => attention::softmax(site),
        ("" | "com.microsoft", "RotaryEmbedding") => rotary::apply(site),
        _ if is_fused(site.node) => Err(attention::fused(site)),
        ("", op) if movement::knows(op) => movement::apply(site),
        ("" | "com.microsoft", op) if reductions::knows(op) => reductions::apply(site),
        _ => Err(site.refuse(
            Code::UnknownOp,
            format!(
                "The operator '{}{}{op}' is not known to treat tokens alike.",
                site.node.domain,
                if site.node.domain.is_empty() { "" } else { "." }
            ),
        )),
    }
}
