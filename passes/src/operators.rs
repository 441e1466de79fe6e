//! Pass `operators`: bodies for the operators of `ai.vcc`, or the bodies in their place.

use crate::bodies::{self, BodyParams, Operator};
use crate::conversion::{Conversion, Form};
use crate::error::Error;
use onnx_model::NodeId;
use std::collections::BTreeSet;

/// The first IR version with model-local functions.
const FUNCTIONS_IR: i64 = 8;

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let nodes: Vec<NodeId> = c
        .model
        .graph
        .node_ids()
        .filter(|&id| c.model.graph.node(id).domain == bodies::DOMAIN)
        .collect();
    match c.form {
        // Local blocks alone need none of our operators.
        _ if nodes.is_empty() => c.model.remove_opset(bodies::DOMAIN),
        Form::OpsOnly => {}
        Form::Functions => attach(c, &nodes)?,
        Form::Inline => {
            inline(c, &nodes)?;
            c.model.remove_opset(bodies::DOMAIN);
        }
    }
    Ok(())
}

fn operator(c: &Conversion, node: NodeId) -> Option<Operator> {
    let op = &c.model.graph.node(node).op_type;
    Operator::ALL.into_iter().find(|o| o.name() == op)
}

fn params(c: &Conversion, node: NodeId) -> BodyParams {
    BodyParams {
        opset: c.opset(),
        ladder: c
            .model
            .graph
            .node(node)
            .attr_ints("ladder")
            .unwrap_or_default(),
        capacity: None,
    }
}

fn attach(c: &mut Conversion, nodes: &[NodeId]) -> Result<(), Error> {
    let ladders: BTreeSet<Vec<i64>> = nodes.iter().map(|&n| params(c, n).ladder).collect();
    if ladders.len() > 1 {
        return Err(Error::Usage(
            "The encoders of this file have different ladders; a file holds one body per operator. Give them one ladder, or use --inline or --ops-only.".into(),
        ));
    }
    let mut seen = BTreeSet::new();
    for &node in nodes {
        let Some(operator) = operator(c, node) else {
            continue;
        };
        if seen.insert(operator) {
            let function = bodies::function(operator, &params(c, node));
            c.model.add_function(function);
        }
    }
    let ir = c.model.ir_version().max(FUNCTIONS_IR);
    c.model.set_ir_version(ir);
    Ok(())
}

fn inline(c: &mut Conversion, nodes: &[NodeId]) -> Result<(), Error> {
    for &node in nodes {
        let Some(operator) = operator(c, node) else {
            continue;
        };
        let params = BodyParams {
            capacity: c.model.graph.node(node).attr_int("capacity"),
            ..params(c, node)
        };
        let function = bodies::function(operator, &params);
        c.model.graph.inline_function(node, &function)?;
    }
    Ok(())
}
