//! Runs models in ONNX Runtime (and, with the feature `tract`, in tract), compares their outputs, measures time and memory.
//!
//! ```no_run
//! use vcc_run::{CompareOptions, RandomOptions, Runtime, Session, SessionOptions};
//! # fn main() -> Result<(), vcc_run::RunError> {
//! let runtime = Runtime::load(None)?;
//! let mut a = Session::open(&runtime, "model.onnx".as_ref(), &SessionOptions::default())?;
//! let mut b = Session::open(&runtime, "model.vcc.onnx".as_ref(), &SessionOptions::default())?;
//! let inputs = vcc_run::random_inputs(a.inputs(), &RandomOptions { batch: 2, length: 64, ..Default::default() })?;
//! let report = vcc_run::compare(&a.run(&inputs)?, &b.run(&inputs)?, &CompareOptions::default());
//! # Ok(()) }
//! ```

mod compare;
mod error;
mod inputs;
mod measure;
mod memory;
mod npz;
mod rng;
mod runtime;
mod session;
mod tensors;
#[cfg(feature = "tract")]
mod tract;

pub use compare::{
    CompareOptions, Difference, Figures, OutputComparison, RowFigures, TokenMask, compare,
};
pub use error::{RunError, Tried};
pub use inputs::{Padding, RandomOptions, random_inputs};
pub use measure::{Timing, count_operators, time_interleaved};
pub use memory::{MemoryJob, PeakMemory, child_main, peak_memory};
pub use npz::{read_npz, write_npz};
pub use runtime::{Runtime, find_ops_library};
pub use session::{Dim, Optimization, PortInfo, Session, SessionOptions};
pub use tensors::{Array, Data, ElementType, Inputs, Outputs, Tensors};
#[cfg(feature = "tract")]
pub use tract::{TRACT_VERSION, TractModel};
