//! Partial concrete interpreter: data types, shapes and small contents of every value at one assignment of sizes.
//!
//! Instead of an algebra of symbolic dimensions the graph is evaluated at several concrete sizes; a dimension is then
//! what it is at each of them. Sizes are distinct primes, so that different dimensions differ at some sample, and two
//! symbols that a broadcast shows to be equal show up as a [`SizeConflict`].
//!
//! Everything degrades per value: an operator that is not known, or an operand whose content is not, leaves the outputs
//! unknown with a reason, and the rest goes on. Work is bounded: contents have at most 2^18 elements (integer and boolean
//! initializers 2^20), all of an evaluation together 2^24, and weights are not decoded beyond that. Nothing here panics on any graph.

mod arith;
mod attention;
mod contrib;
mod control;
mod conv;
mod dispatch;
mod elementwise;
mod evaluate;
mod facts;
mod gather;
mod images;
mod index;
mod matmul;
mod moves;
mod op;
mod quantise;
mod reduce;
mod samples;
mod shape_ops;
mod sizes;
#[cfg(test)]
mod tests;
mod value;

pub use evaluate::evaluate;
pub use facts::{Baked, Facts, Mismatch, SizeConflict, Unknown};
pub use samples::{Evaluation, Fill, Sample, complete, evaluate_samples, explore};
pub use value::Content;
