//! The softmax of an attention, softmaxes over features, and why an attention in one operator is refused.

use super::{Flow, Site};
use crate::layout::{Layout, Role, has_batch, has_tokens};
use crate::refusal::{Code, Refusal};

fn axis(site: &Site<'_>, rank: usize) -> Result<usize, Refusal> {
    let default = if site.opset >= 13 { -1 } else { 1 };
    site.axis(site.node.attr_int("axis").unwrap_or(default), rank)
}

/// Whether a node is a softmax over an axis of the batch.
pub(super) fn is_over_batch(site: &Site<'_>) -> bool {
    let over = |layout: Layout| {
        let axis = axis(site, layout.0.len()).ok()?;
        Some(has_batch(layout.0.get(axis)?))
    };
    site.node.op_type == "Softmax" && site.core_operand(0).ok().and_then(over) == Some(true)
}

pub(super) fn softmax(site: &Site<'_>) -> Result<Flow, Refusal> {
    let mut layout = site.core_operand(0)?;
    let rank = layout.0.len();
    let axis = axis(site, rank)?;
    if site.opset < 13 && axis + 1 != rank {
        // Before opset 13 all axes from `axis` on are normalised together.
        if layout.0[axis..]
            .iter()
            .any(|a| has_tokens(a) || has_batch(a))
        {
            return Err(site.refuse(
                Code::TokenMixing,
                "A softmax over several axes together, tokens among them.",
            ));
        }
        return Ok(Flow {
            links: site.same_axes(&layout, 0),
            outputs: site.all_outputs(layout),
            ..Flow::default()
        });
    }
    let links = site.same_axes(&layout, 0);
    if has_batch(&layout.0[axis]) {
        return Err(site.refuse(Code::TokenMixing, "A softmax over the batch."));
    }
    let mut softmax = None;
    if has_tokens(&layout.0[axis]) {
        if layout.0[axis].len() != 1 {
            return Err(site.refuse(
                Code::TokenMixing,
                "A softmax over tokens and another axis together.",
            ));
        }
        for factor in &mut layout.0[axis] {
            factor.role = Role::Attended;
        }
        softmax = Some(axis);
    } else {
        // Over features all of whose entries are 0 they become equal shares.
        layout.weaken();
    }
    Ok(Flow {
        links,
        outputs: site.all_outputs(layout),
        softmax,
        ..Flow::default()
    })
}

/// Why an attention that was not taken apart is refused.
pub(super) fn fused(site: &Site<'_>) -> Refusal {
    let op = site.node.op_type.as_str();
    let flag = |name| site.node.attr_int(name).unwrap_or(0) != 0;
    if flag("unidirectional") || flag("is_causal") {
        return site.refuse(Code::Causal, format!("This {op} is causal."));
    }
    match op {
        "GroupQueryAttention" | "SparseAttention" | "PagedAttention" => site.refuse(
            Code::Causal,
            format!("A {op} lets no token see a later one."),
        ),
        op if op.starts_with("Decoder") => {
            site.refuse(Code::Causal, format!("{op} is an attention of decoders."))
        }
        "LongformerAttention" => site.refuse(
            Code::BlockLocal,
            "Its tokens see a window around them, and some all tokens.",
        ),
        _ => site.refuse(
            Code::UnknownOp,
            format!(
                "This form of {op} (a cache, packed or quantised operands, or an option that is not known) cannot be \
                 taken apart into products and a softmax."
            ),
        ),
    }
}
