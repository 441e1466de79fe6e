//! ONNX files: lossless reading and writing, graph arena, verifier, text form.

mod attr;
mod census;
mod dtype;
mod edit;
mod error;
mod external;
mod function;
mod graph;
mod info;
mod inline;
pub mod limits;
mod model;
mod node;
mod order;
mod outline;
mod read;
mod rewrite;
mod save;
mod scope;
mod subgraph;
mod tensor;
mod text;
mod verify;
mod wire;

pub use attr::{AttrKind, AttrValue, RawAttribute};
pub use dtype::DataType;
pub use error::Error;
pub use function::{Function, FunctionNode};
pub use graph::{Graph, NodeId, Value, ValueId};
pub use info::{Dimension, ValueInfo};
pub use model::Model;
pub use node::{NewNode, Node};
pub use tensor::Tensor;
pub use verify::Violation;
