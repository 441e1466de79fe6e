//! Pass `functions`: inlines every call of a model-local function, so that the analysis sees one flat graph.
//!
//! Functions that are not called from the main graph (from a subgraph, say) stay in the file untouched.

use crate::conversion::Conversion;
use crate::error::Error;
use onnx_model::NodeId;

/// Nested calls deeper than this are a cycle.
const MOST_ROUNDS: usize = 64;

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let mut inlined = false;
    for _ in 0..MOST_ROUNDS {
        let calls: Vec<NodeId> = c
            .model
            .graph
            .node_ids()
            .filter(|&id| {
                let node = c.model.graph.node(id);
                c.model
                    .functions()
                    .iter()
                    .any(|f| f.is_called_by(&node.domain, &node.op_type, node.overload()))
            })
            .collect();
        if calls.is_empty() {
            if inlined {
                c.model.graph.sort()?;
            }
            return Ok(());
        }
        inlined = true;
        for call in calls {
            c.model.inline_call(call)?;
        }
    }
    Err(Error::Usage(
        "The model's functions call each other without end.".into(),
    ))
}
