//! com.microsoft RotaryEmbedding with one number for its positions, from which they count up: it becomes a position per token,
//! which can be taken at the rows. Pass `restore` gives the number back where nothing was rewritten.

use super::input;
use crate::emit::{Emit, Size};
use onnx_model::{DataType, Node, NodeId, ValueId};
use token_axes::{Dim, Samples};

const POSITIONS: usize = 1;

/// A node whose positions were written out.
pub(crate) struct Positions {
    pub(crate) node: NodeId,
    pub(crate) input: usize,
    pub(crate) original: ValueId,
}

pub(super) fn write_out(
    e: &mut Emit<'_>,
    samples: &Samples,
    id: NodeId,
    node: &Node,
) -> Option<Positions> {
    let (x, first) = (input(node, 0)?, input(node, POSITIONS)?);
    if samples.shape(first)? != [Dim::ONE] {
        return None;
    }
    let token_axis = samples.shape(x)?.len().checked_sub(2)?;
    let (batch, tokens) = (e.dim(x, 0), e.dim(x, token_axis));
    let wide = e.cast(first, DataType::Int64);
    let counted = e.range(tokens);
    let positions = e.op("Add", &[counted, wide], &[]);
    let positions = e.unsqueeze(positions, &[0]);
    let shape = e.target(&[Size::Value(batch), Size::Const(1)]);
    let positions = e.op("Expand", &[positions, shape], &[]);
    e.graph.set_input(id, POSITIONS, Some(positions));
    Some(Positions {
        node: id,
        input: POSITIONS,
        original: first,
    })
}
