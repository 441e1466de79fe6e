//! Symbolic shapes, token-axis analysis, block discovery, refusal reasons.
//!
//! The way of a model through this crate:
//! 1. [`interp`] evaluates the graph at a few concrete sizes: shapes, and contents of small tensors.
//! 2. [`blocks`] finds the residual streams, cuts them and splits them into blocks.
//! 3. [`block`] follows the axes through each block's operators with the rules of [`flow`].
//! 4. [`masks`] refuses causal attention; [`padding`] finds the padding mask.
//! 5. [`site`] tells which copies of a block's nodes are needed for given rows: the block itself and its selection.
//!
//! Nothing here depends on the names of nodes or values, and nothing is matched against templates of architectures.

mod attentions;
pub mod block;
pub mod blocks;
mod bounds;
pub mod dim;
pub mod flow;
pub mod interp;
pub mod layout;
pub mod masks;
pub mod padding;
pub mod reach;
pub mod refusal;
pub mod site;

pub use block::{BlockAxes, StreamOrder};
pub use blocks::{Block, Stream};
pub use dim::{Dim, SAMPLES, Samples};
pub use flow::{External, FrameAxis, ShapeOperand};
pub use layout::{Axis, Factor, Layout, Role};
pub use padding::PaddingMask;
pub use refusal::{Code, Refusal};

use onnx_model::Model;

/// What is known of a model.
pub struct Analysis {
    /// Shapes and small contents at the sample sizes.
    pub samples: Samples,
    /// Its residual streams, in the order in which their first attention stands.
    pub streams: Vec<Stream>,
}

impl Analysis {
    /// Analyses a model whose main graph is in topological order.
    pub fn of(model: &Model) -> Analysis {
        let samples = Samples(interp::evaluate_samples(model));
        let streams = blocks::find(model, &samples);
        Analysis { samples, streams }
    }
}

impl Stream {
    /// The axes of the blocks that can be converted.
    pub fn convertible(&self) -> Vec<&BlockAxes> {
        self.blocks
            .iter()
            .filter_map(|b| b.axes.as_ref().ok().map(|a| &**a))
            .collect()
    }
}
