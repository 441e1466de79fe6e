//! The conversion pipeline: one file per pass, the order in [`pipeline`].
//!
//! Every pass takes a graph that the verifier accepts and leaves one that it accepts. From `insert` on the graph computes the
//! plan's model; until `externals` and `shapes` have run, the inserted rows still meet masks and shapes for n tokens.

pub mod bodies;
mod conversion;
mod demand;
mod emit;
mod error;
pub mod pairs;
pub mod pipeline;
pub mod plan;

mod attention;
mod blocks;
mod canonical;
pub mod clean_up;
mod externals;
mod functions;
mod hoist;
mod insert;
mod joined;
mod local;
mod mean;
mod operators;
pub mod partition;
mod planning;
mod prune;
mod restore;
mod select;
mod shapes;
mod transfers;
mod transposes;
mod vip;
mod windows;

pub use conversion::{Conversion, Form, PartlyRead};
pub use error::Error;
pub use pipeline::{PASSES, Pass, convert};
pub use planning::{EncoderOptions, Request};
pub use vip::{TOKEN_IDS, TOKEN_TYPES};
