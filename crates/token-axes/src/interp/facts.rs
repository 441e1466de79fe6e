//! What an evaluation found.

use std::collections::BTreeMap;

use onnx_model::{DataType, NodeId, ValueId};

use super::value::{Content, Value};

/// Two symbols, or a symbol and a number, that the graph shows to be the same size.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("the graph only works if `{a}` and `{b}` are the same size")]
pub struct SizeConflict {
    /// A symbol of the graph inputs.
    pub a: String,
    /// Another one, or a number.
    pub b: String,
}

/// Why the shape of a value is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The node that makes the value; none for a graph input.
    pub node: Option<NodeId>,
    /// In words.
    pub reason: String,
    /// The value that is to blame, if it is another one: its own reason goes on from here.
    pub from: Option<ValueId>,
}

/// A size that is declared dynamic but is a number inside the graph, or may not be larger than one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baked {
    /// Where the two meet.
    pub node: NodeId,
    /// The symbol of a graph input.
    pub symbol: String,
    /// The size that the graph was made for.
    pub literal: i64,
}

/// A declared size that is not the computed one. The computed one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The value.
    pub value: ValueId,
    /// The axis.
    pub axis: usize,
    /// The size in the file.
    pub declared: i64,
    /// The size that was computed.
    pub computed: i64,
}

/// What is known of every value at one sample.
#[derive(Debug, Default)]
pub struct Facts {
    pub(super) values: BTreeMap<ValueId, Value>,
    pub(super) unknown: BTreeMap<ValueId, Unknown>,
    pub(super) baked: Vec<Baked>,
    pub(super) mismatches: Vec<Mismatch>,
    /// Pairs of sizes that a node needs to be equal but that are not.
    pub(super) differing: Vec<(NodeId, i64, i64)>,
}

impl Facts {
    /// The shape, if it is known.
    pub fn shape(&self, v: ValueId) -> Option<&[i64]> {
        self.values.get(&v)?.shape.as_deref()
    }

    /// The data type, if it is known.
    pub fn dtype(&self, v: ValueId) -> Option<DataType> {
        self.values.get(&v)?.dtype
    }

    /// The elements, row-major, if they are known. Decodes a small initializer when first asked for it.
    pub fn content(&self, v: ValueId) -> Option<&Content> {
        self.values.get(&v)?.content()
    }

    /// Whether the content (or even the shape) depends on what was assumed of a graph input's content.
    pub fn assumed(&self, v: ValueId) -> bool {
        self.values
            .get(&v)
            .is_some_and(|v| v.assumed_content || v.assumed_shape)
    }

    /// Whether the shape depends on what was assumed of a graph input's content.
    pub fn assumed_shape(&self, v: ValueId) -> bool {
        self.values.get(&v).is_some_and(|v| v.assumed_shape)
    }

    /// Whether the value depends on no graph input, neither on its content nor on its size.
    pub fn constant(&self, v: ValueId) -> bool {
        self.values.get(&v).is_some_and(|v| v.constant)
    }

    /// Why the shape is not known; nothing if it is.
    pub fn unknown(&self, v: ValueId) -> Option<&Unknown> {
        self.unknown.get(&v).filter(|_| self.shape(v).is_none())
    }

    /// What the shape of a value is not known for in the end; nothing if it is known.
    pub fn cause(&self, v: ValueId) -> Option<&Unknown> {
        let mut cause = self.unknown(v)?;
        // Every step goes to a value that was made before.
        for _ in 0..self.unknown.len() {
            match cause.from.and_then(|v| self.unknown(v)) {
                Some(next) => cause = next,
                None => break,
            }
        }
        Some(cause)
    }

    /// Sizes that are declared dynamic but are numbers inside the graph, or may not be larger than one.
    pub fn baked(&self) -> &[Baked] {
        &self.baked
    }

    /// Declared sizes that differ from the computed ones.
    pub fn mismatches(&self) -> &[Mismatch] {
        &self.mismatches
    }
}
