//! Slow f64 versions of the operators, for tests: what `docs/operators.md` says, as directly as possible.
//!
//! Everything works on one batch row and on rows of channels as vectors. An item is the explicit set of the slots it covers, its
//! ancestors are found by comparing sets, and nothing is shared with the kernels. Sizes that do not fit are the caller's mistake and
//! panic.
//!
//! [`dense`] is another step away: a full token-level state and explicit averaging matrices, with no tree at all.

pub mod dense;
mod partition;
mod select;
mod tree;

pub use partition::{Partition, partition, vip_slots};
pub use select::{Chosen, select};
pub use tree::{Compressed, State, Tree, coarsen, compress, decompress, expand};

/// Rows of channels.
pub type Rows = Vec<Vec<f64>>;
