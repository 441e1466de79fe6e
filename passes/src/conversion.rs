//! What the passes hand to each other.

use crate::canonical::{CodePair, Positions, StandIn, TakenApart};
use crate::externals::Taken;
use crate::hoist::Tables;
use crate::plan::{EncoderPlan, Plan};
use crate::planning::Request;
use onnx_model::{DataType, Dimension, Model, NodeId, ValueId};
use std::collections::BTreeMap;
use std::rc::Rc;
use token_axes::site::{Instance, Side};
use token_axes::{Analysis, Dim, Layout};

/// How the operators are written into the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Form {
    /// Operators with function bodies: runs with and without the library.
    #[default]
    Functions,
    /// The bodies in place of the operators: no custom domain.
    Inline,
    /// Operators without bodies: runs with the library only.
    OpsOnly,
}

/// A conversion under way.
pub struct Conversion {
    /// The model.
    pub model: Model,
    /// What was asked for.
    pub request: Request,
    /// How the operators are written.
    pub form: Form,
    /// What the analysis found, from pass `blocks` on.
    pub analysis: Option<Analysis>,
    /// The plan, from pass `plan` on.
    pub plan: Plan,
    /// The encoders in the graph, from pass `partition` on.
    pub(crate) encoders: Vec<Encoder>,
    /// Rewritten blocks whose externals and shapes are still to be derived.
    pub(crate) sites: Vec<Rewritten>,
    /// `local` blocks that are to run for each window.
    pub(crate) windows: Vec<OneByOne>,
    /// Readers of the shape of a value that has other rows now, with the value's layout.
    pub(crate) shape_readers: Vec<ShapeReader>,
    /// Selections that still have uniform scores.
    pub(crate) selections: Vec<Selection>,
    /// Blocks of whose output not all tokens are read, in order.
    pub partly_read: Vec<PartlyRead>,
    /// Values with two token axes that are computed for all tokens all the same, and why.
    pub(crate) unhoisted: BTreeMap<ValueId, String>,
    /// The batch and token sizes of each boolean VIP input.
    pub(crate) vip_inputs: BTreeMap<String, (Dim, Dim)>,
    /// Externals over the distances of two tokens.
    pub(crate) tables: Tables,
    /// Externals at the rows.
    pub(crate) taken: BTreeMap<ValueId, Taken>,
    /// Bias inputs of fused attentions, by the scores that they took the place of.
    pub(crate) relative: BTreeMap<ValueId, ValueId>,
    /// Fused attentions that primitive operators stand for.
    pub(crate) taken_apart: Vec<TakenApart>,
    /// Operators that stand for softmaxes that are written out.
    pub(crate) stand_ins: Vec<StandIn>,
    /// Where quantised sums have their numbers.
    pub(crate) code_pairs: Vec<CodePair>,
    /// Nodes whose positions were written out.
    pub(crate) positions: Vec<Positions>,
    /// The count bias of each rewritten block as it is added before its softmax, with its data type.
    pub(crate) biases: BTreeMap<NodeId, (ValueId, DataType)>,
}

impl Conversion {
    pub(crate) fn new(model: Model, request: Request, form: Form) -> Conversion {
        Conversion {
            model,
            request,
            form,
            analysis: None,
            plan: Plan::default(),
            encoders: Vec::new(),
            sites: Vec::new(),
            windows: Vec::new(),
            shape_readers: Vec::new(),
            selections: Vec::new(),
            partly_read: Vec::new(),
            unhoisted: BTreeMap::new(),
            vip_inputs: BTreeMap::new(),
            tables: Tables::default(),
            taken: BTreeMap::new(),
            relative: BTreeMap::new(),
            taken_apart: Vec::new(),
            stand_ins: Vec::new(),
            code_pairs: Vec::new(),
            positions: Vec::new(),
            biases: BTreeMap::new(),
        }
    }

    /// The opset of the default domain.
    pub fn opset(&self) -> i64 {
        self.model.opset("").unwrap_or(0)
    }
}

/// A block of whose output not all tokens are read.
pub struct PartlyRead {
    /// The number of its encoder.
    pub encoder: usize,
    /// Its own number in the encoder.
    pub block: usize,
    /// What is read and what that saves, in words.
    pub what: String,
}

/// An encoder with what all its blocks share in the graph. Sizes are vectors of one element.
#[derive(Clone)]
pub(crate) struct Encoder {
    /// Which stream of the analysis it is.
    pub(crate) stream: usize,
    /// The input of its first block that can be converted: all its cuts have this value's shape.
    pub(crate) input: ValueId,
    pub(crate) plan: EncoderPlan,
    /// A name prefix for its nodes.
    pub(crate) prefix: String,
    /// The data type of the residual stream.
    pub(crate) dtype: DataType,
    pub(crate) batch: ValueId,
    pub(crate) tokens: ValueId,
    /// `[B, 1]`: the batch row times the number of tokens.
    pub(crate) base: ValueId,
    /// `[B, n]`, bool.
    pub(crate) valid: ValueId,
    /// What VccPartition returned; `None` if no block is compressed.
    pub(crate) partition: Option<Partition>,
}

#[derive(Clone, Copy)]
pub(crate) struct Partition {
    pub(crate) item_token: ValueId,
    pub(crate) item_count: ValueId,
    pub(crate) token_slot: ValueId,
    pub(crate) vote: ValueId,
    pub(crate) roots: ValueId,
    /// The number of VIP slots.
    pub(crate) slots: ValueId,
    /// Scores that are 0 for all segments.
    pub(crate) uniform: ValueId,
    /// `[levels]`: the budgets, where they are a graph input.
    pub(crate) budgets: Option<ValueId>,
}

/// The rows of one side.
#[derive(Clone, Copy)]
pub(crate) struct SideRows {
    /// `[B', c]`: the token of each row.
    pub(crate) token: ValueId,
    /// `[B', c]`: `batch row * n + token`, an index into values flattened over batch and tokens.
    pub(crate) flat: ValueId,
    /// The same with the rows' own batch row, for values that already have these rows' batch.
    pub(crate) flat_again: ValueId,
    /// The number of rows.
    pub(crate) count: ValueId,
}

/// Which rows the token axes of a site run over.
#[derive(Clone)]
pub(crate) struct Binding {
    /// The batch of the rows.
    pub(crate) batch: ValueId,
    /// `[B']`: for each batch row of the rows the batch row of the model, where they differ (windows).
    pub(crate) batch_rows: Option<ValueId>,
    /// Batch and tokens of the model.
    pub(crate) model_batch: ValueId,
    pub(crate) tokens: ValueId,
    pub(crate) sides: BTreeMap<Side, SideRows>,
    /// What ONNX Runtime knows the batch and the number of rows by: its fusions need to see that shapes agree.
    pub(crate) batch_dim: Dimension,
    pub(crate) rows_dim: Dimension,
}

impl Binding {
    /// Whether the rows are the same values in the graph.
    pub(crate) fn same_rows(&self, other: &Binding) -> bool {
        let rows = |b: &Binding| -> Vec<(Side, ValueId, ValueId)> {
            b.sides.iter().map(|(&s, r)| (s, r.token, r.flat)).collect()
        };
        (self.batch, self.batch_rows, self.tokens) == (other.batch, other.batch_rows, other.tokens)
            && rows(self) == rows(other)
    }
}

/// A rewritten block.
pub(crate) struct Rewritten {
    /// For names and messages.
    pub(crate) prefix: String,
    pub(crate) binding: Binding,
    pub(crate) instances: Vec<Instance>,
}

/// A `local` block that is written for its first window.
pub(crate) struct OneByOne {
    /// For names and messages.
    pub(crate) prefix: String,
    /// The slices of what it reads, `[1, ..]` of `[windows, ..]`.
    pub(crate) slices: Vec<ValueId>,
    /// Its result, repeated for each window.
    pub(crate) stack: ValueId,
}

pub(crate) struct ShapeReader {
    pub(crate) node: NodeId,
    pub(crate) layout: Layout,
    pub(crate) encoder: usize,
}

/// The state of the residual stream between two blocks.
#[derive(Clone, Copy)]
pub(crate) struct State {
    pub(crate) value: ValueId,
    pub(crate) scale: ValueId,
    pub(crate) offset: ValueId,
}

/// A VccSelect that is to get its scores.
pub(crate) struct Selection {
    pub(crate) encoder: usize,
    /// Block number in the stream.
    pub(crate) block: usize,
    pub(crate) prefix: String,
    /// The VccSelect node.
    pub(crate) node: NodeId,
    pub(crate) state: State,
    /// The segments among which it selects.
    pub(crate) candidates: ValueId,
    /// The copies of the block's nodes up to the scores, taken before the block was rewired.
    pub(crate) instances: Rc<Vec<Instance>>,
    /// Which instance's output the scores are.
    pub(crate) scores: (usize, usize),
}
