//! The softmax of an attention, and softmaxes over features.

use super::{Flow, Site};
use crate::layout::{Role, has_batch, has_tokens};
use crate::refusal::{Code, Refusal};

pub(super) fn softmax(site: &Site<'_>) -> Result<Flow, Refusal> {
    let mut layout = site.core_operand(0)?;
    let rank = layout.0.len();
    let default = if site.opset >= 13 { -1 } else { 1 };
    let axis = site.axis(site.node.attr_int("axis").unwrap_or(default), rank)?;
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
