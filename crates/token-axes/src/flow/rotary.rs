//! Rotary embeddings in one operator: each token's channels are turned by the table's row at its position.

use super::elementwise::parameters;
use super::{Flow, FrameAxis, Operand, Site};
use crate::dim::Dim;
use crate::layout::{Axis, axis_size, has_batch, has_tokens, is_feature};
use crate::refusal::{Code, Refusal};

/// com.microsoft: x, positions, cosines, sines. ai.onnx: x, cosines, sines, positions; without positions the tables are
/// `[B, n, half a head]`.
pub(super) fn apply(site: &Site<'_>) -> Result<Flow, Refusal> {
    let mut layout = site.core_operand(0)?;
    let flag = |name| site.node.attr_int(name).unwrap_or(0) != 0;
    if flag("is_packed_batching") {
        return Err(site.refuse(Code::UnknownOp, "A batch packed into one sequence."));
    }
    // [B, n, channels] or [B, heads, n, channels].
    let token = layout.0.len().saturating_sub(2);
    let fits = layout.0.iter().enumerate().all(|(i, axis)| match i {
        0 => has_batch(axis) && !has_tokens(axis),
        i if i == token => has_tokens(axis) && axis.len() == 1,
        _ => is_feature(axis),
    });
    if !fits || layout.0.len() < 3 {
        return Err(site.refuse(Code::Axes, format!("A rotary embedding of {layout}.")));
    }
    let microsoft = !site.node.domain.is_empty();
    let (positions, tables) = if microsoft { (1, [2, 3]) } else { (3, [1, 2]) };
    let mut flow = Flow {
        links: site.same_axes(&layout, 0),
        ..Flow::default()
    };
    let per_token: Vec<usize> = if site.input(positions).is_some() {
        for table in tables {
            parameters(site, table..table + 1, None)?;
        }
        vec![positions]
    } else {
        tables.to_vec()
    };
    for input in per_token {
        let Operand::External(value, shape) = site.operand(input)? else {
            return Err(site.refuse(
                Code::UnknownOp,
                format!("Its input {input} is computed from the tokens."),
            ));
        };
        let axes: Vec<Axis> = [layout.0[0].clone(), layout.0[token].clone(), Vec::new()]
            .into_iter()
            .take(shape.len())
            .collect();
        let fits = shape.len() >= 2
            && axes
                .iter()
                .zip(&shape)
                .take(2)
                .all(|(a, d)| axis_size(a) == *d);
        if !fits {
            return Err(site.refuse(
                Code::External,
                format!("Its input {input} of shape {shape:?} has no entry for each token."),
            ));
        }
        let frame = axes.iter().zip(&shape).map(|(axis, &size)| FrameAxis {
            axis: if axis.is_empty() {
                crate::layout::feature(size)
            } else {
                axis.clone()
            },
            present: size != Dim::ONE,
        });
        flow.externals
            .extend(site.external(input, value, frame.collect())?);
        flow.links.push((token, input, 1));
    }
    layout.weaken();
    flow.outputs = site.all_outputs(layout);
    Ok(flow)
}
