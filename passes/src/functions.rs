//! Pass `functions`: inlines every call of a model-local function, so that the analysis sees one flat graph, and drops nodes that nothing
//! reads: a token that is taken of the stream and thrown away is nobody's.
//!
//! Functions that are not called from the main graph (from a subgraph, say) stay in the file untouched.

use crate::conversion::Conversion;
use crate::error::Error;
use onnx_model::NodeId;

/// Nested calls deeper than this are a cycle.
const MOST_ROUNDS: usize = 64;

/// More nodes than this from functions are a bomb, not a model.
const MOST_NODES: usize = 100_000;

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let ours = c
        .model
        .functions()
        .iter()
        .any(|f| f.domain == crate::bodies::DOMAIN);
    if ours || c.model.metadata(crate::clean_up::PLAN).is_some() {
        return Err(Error::Usage(
            "E-CONVERTED: The model is converted already (it records a plan, or has functions of ai.vcc). Convert the original instead.".into(),
        ));
    }
    c.model.graph.remove_dead();
    let mut nodes = 0;
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
            nodes += c.model.inline_call(call)?.len();
            if nodes > MOST_NODES {
                return Err(Error::Unsupported(format!(
                    "E-FUNCTIONS: The model's functions unfold into more than {MOST_NODES} nodes. Export it without functions."
                )));
            }
        }
    }
    Err(Error::Unsupported(
        "E-FUNCTIONS: The model's functions call each other without end. Export it without functions.".into(),
    ))
}
