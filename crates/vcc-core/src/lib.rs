//! The VCC algorithm: partition, tree state, select, compress, decompress, expand. No ONNX, no ONNX Runtime.
//!
//! `docs/operators.md` is the specification; the words are used here as they are defined there. There is one module per operator,
//! [`Ladder`] and [`Layout`] hold the arithmetic of slots, segments and items, and [`mod@reference`] is a slow f64 version of every
//! operator with a structure of its own, for tests.
//!
//! Invariants of all kernels:
//! - tensors are dense row-major slices over the whole batch; every length and every index that comes from a caller is checked
//!   before the first write;
//! - sums run in f32 in an order that depends on the shapes alone, so results are the same bits for every [`Parallel`];
//! - padding and empty slots are left out of a mean by selection, never by multiplication, so a NaN in them stays where it is;
//! - `compress` and `decompress` touch O(r) rows of the state, never all n.

mod coarsen;
mod compress;
mod decompress;
mod element;
mod error;
mod exp;
mod expand;
mod ladder;
mod layout;
mod parallel;
mod partition;
pub mod reference;
mod rows;
mod select;
mod subtrees;

pub use coarsen::coarsen;
pub use compress::{Compressed, compress};
pub use decompress::{Update, decompress};
pub use element::Element;
pub use error::Error;
pub use expand::expand;
pub use ladder::Ladder;
pub use layout::{Item, Layout};
pub use parallel::{Parallel, copy, sequential};
pub use partition::{Partition, partition, vip_slots};
pub use select::{Selection, refined, select};

/// The state of the tree: three tensors, `value [B,P,d]`, `scale [B,N,d]` and `offset [B,N,d]`, read only.
#[derive(Clone, Copy)]
pub struct State<'a, T> {
    /// Slots and segments, `[B,P,d]`.
    pub value: &'a [T],
    /// Factor of the map pending below each segment, `[B,N,d]`.
    pub scale: &'a [T],
    /// Offset of the map pending below each segment, `[B,N,d]`.
    pub offset: &'a [T],
}

/// The same three tensors, to be written.
pub struct StateMut<'a, T> {
    /// Slots and segments, `[B,P,d]`.
    pub value: &'a mut [T],
    /// Factor of the map pending below each segment, `[B,N,d]`.
    pub scale: &'a mut [T],
    /// Offset of the map pending below each segment, `[B,N,d]`.
    pub offset: &'a mut [T],
}

/// Batch and channels of a state: the sizes that the [`Layout`] does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Batch rows, `B`.
    pub batch: usize,
    /// Channels, `d`.
    pub channels: usize,
}
