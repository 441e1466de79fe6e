//! Operators that move elements: reshapes, transposes, slices, gathers.

use super::{External, Flow, Operand, ShapeOperand, Site, align};
use crate::dim::Dim;
use crate::layout::{
    Axis, Layout, RegroupError, axis_size, feature, has_tokens, is_feature, regroup,
};
use crate::refusal::{Code, Refusal};

pub(super) fn knows(op: &str) -> bool {
    matches!(
        op,
        "Transpose"
            | "Reshape"
            | "Flatten"
            | "Squeeze"
            | "Unsqueeze"
            | "Expand"
            | "Tile"
            | "Concat"
            | "Split"
            | "Slice"
            | "Gather"
            | "GatherElements"
            | "Pad"
    )
}

pub(super) fn apply(site: &Site<'_>) -> Result<Flow, Refusal> {
    match site.node.op_type.as_str() {
        "Transpose" => transpose(site),
        "Reshape" => reshape(site, Some(ShapeOperand::Reshape)),
        "Flatten" | "Squeeze" | "Unsqueeze" => reshape(site, None),
        "Expand" => expand(site),
        "Concat" => concat(site, &Vec::from_iter(0..site.node.inputs.len())),
        "Split" => split(site),
        "Slice" => slice(site),
        "Gather" => gather(site),
        "GatherElements" => gather_elements(site),
        // Tile and Pad: nothing but features may change.
        _ => resize_features(site),
    }
}

fn transpose(site: &Site<'_>) -> Result<Flow, Refusal> {
    let layout = site.core_operand(0)?;
    let rank = layout.0.len();
    let perm = site
        .node
        .attr_ints("perm")
        .unwrap_or_else(|| (0..rank as i64).rev().collect());
    if perm.len() != rank {
        return Err(site.refuse(
            Code::Axes,
            format!("A permutation of {} axes for {rank}.", perm.len()),
        ));
    }
    let mut flow = Flow::default();
    let mut out = Vec::new();
    for (i, &from) in perm.iter().enumerate() {
        let from = site.axis(from, rank)?;
        if has_tokens(&layout.0[from]) {
            flow.links.push((i, 0, from));
        }
        out.push(layout.0[from].clone());
    }
    flow.outputs = site.all_outputs(Layout(out));
    Ok(flow)
}

fn reshape(site: &Site<'_>, operand: Option<ShapeOperand>) -> Result<Flow, Refusal> {
    let layout = site.core_operand(0)?;
    let target = site.output_shape(0)?;
    let out = regroup(&layout, &target).map_err(|e| {
        let code = match e {
            RegroupError::SplitsTokens => Code::BlockLocal,
            RegroupError::Baked => Code::BakedLength,
            RegroupError::Mismatch => Code::Axes,
        };
        site.refuse(code, format!("{layout} is reshaped to {target:?}."))
    })?;
    let links = token_links(&layout, &out, 0);
    Ok(Flow {
        outputs: site.all_outputs(out),
        operand,
        links,
        ..Flow::default()
    })
}

/// Links between the token axes of two layouts with the same factors in the same order.
fn token_links(from: &Layout, to: &Layout, input: usize) -> Vec<super::Link> {
    let tokens =
        |l: &Layout| -> Vec<usize> { (0..l.0.len()).filter(|&i| has_tokens(&l.0[i])).collect() };
    tokens(to)
        .into_iter()
        .zip(tokens(from))
        .map(|(o, i)| (o, input, i))
        .collect()
}

fn expand(site: &Site<'_>) -> Result<Flow, Refusal> {
    let layout = site.core_operand(0)?;
    let target = site.output_shape(0)?;
    let skip = target.len().saturating_sub(layout.0.len());
    let mut out = Vec::new();
    let mut links = Vec::new();
    for (i, &size) in target.iter().enumerate() {
        let axis: Axis = if i < skip {
            Vec::new()
        } else {
            layout.0[i - skip].clone()
        };
        if axis.is_empty() && size != Dim::ONE {
            out.push(site.free_axis(size)?);
        } else if axis_size(&axis) == size {
            if has_tokens(&axis) {
                links.push((i, 0, i - skip));
            }
            out.push(axis);
        } else {
            return Err(site.refuse(Code::Axes, format!("{layout} is expanded to {target:?}.")));
        }
    }
    Ok(Flow {
        outputs: site.all_outputs(Layout(out)),
        operand: Some(ShapeOperand::Expand),
        links,
        ..Flow::default()
    })
}

/// The given inputs are joined.
pub(super) fn concat(site: &Site<'_>, inputs: &[usize]) -> Result<Flow, Refusal> {
    if let [only] = *inputs {
        let layout = site.core_operand(only)?;
        return Ok(Flow {
            links: site.same_axes(&layout, only),
            outputs: site.all_outputs(layout),
            ..Flow::default()
        });
    }
    let operands: Vec<(usize, Operand)> = inputs
        .iter()
        .map(|&i| Ok((i, site.operand(i)?)))
        .collect::<Result<_, Refusal>>()?;
    let rank = operands.iter().map(|(_, o)| o.rank()).max().unwrap_or(0);
    let axis = site.axis(site.node.attr_int("axis").unwrap_or(0), rank)?;
    let mut out: Vec<Axis> = vec![Vec::new(); rank];
    let mut flow = Flow::default();
    for (input, operand) in &operands {
        let Operand::Core(layout) = operand else {
            continue;
        };
        for (i, a) in layout.0.iter().enumerate() {
            if i == axis {
                if !is_feature(a) {
                    return Err(site.refuse(
                        Code::TokenMixing,
                        "Tokens are added or joined inside the block.",
                    ));
                }
                continue;
            }
            if has_tokens(a) {
                flow.links.push((i, *input, i));
            }
            if out[i].is_empty() {
                out[i].clone_from(a);
            } else if out[i] != *a {
                return Err(site.refuse(
                    Code::Axes,
                    format!("Values of layout {layout} and others are joined."),
                ));
            }
        }
    }
    for (input, operand) in &operands {
        let Operand::External(value, shape) = operand else {
            continue;
        };
        let mut others = shape.clone();
        others[axis] = Dim::ONE;
        let frame = align(&others, &out).ok_or_else(|| {
            site.refuse(Code::Axes, format!("A value of shape {shape:?} is joined."))
        })?;
        for (i, a) in frame.iter().enumerate() {
            if !a.present && axis_size(&a.axis) != Dim::ONE && i != axis {
                return Err(
                    site.refuse(Code::Axes, format!("A value of shape {shape:?} is joined."))
                );
            }
            if a.present && has_tokens(&a.axis) {
                flow.links.push((i, *input, i));
            }
        }
        let mut frame = frame;
        frame[axis] = super::FrameAxis {
            axis: feature(shape[axis]),
            present: shape[axis] != Dim::ONE,
        };
        flow.externals.extend(site.external(*input, *value, frame)?);
    }
    let target = site.output_shape(0)?;
    out[axis] = feature(target[axis]);
    if target[axis].constant().is_none() {
        return Err(site.refuse(Code::TokenMixing, "Tokens are added inside the block."));
    }
    let mut out = Layout(out);
    // What is joined need not be 0 where the others are.
    if operands
        .iter()
        .any(|(_, o)| matches!(o, Operand::External(..)))
    {
        out.weaken();
    }
    flow.outputs = site.all_outputs(out);
    Ok(flow)
}

fn split(site: &Site<'_>) -> Result<Flow, Refusal> {
    let layout = site.core_operand(0)?;
    let axis = site.axis(site.node.attr_int("axis").unwrap_or(0), layout.0.len())?;
    if !is_feature(&layout.0[axis]) {
        return Err(site.refuse(Code::BlockLocal, "The tokens or the batch are split."));
    }
    let mut outputs = Vec::new();
    for (i, value) in site.node.outputs.iter().enumerate() {
        if let Some(value) = value {
            let mut out = layout.clone();
            out.0[axis] = feature(site.output_shape(i)?[axis]);
            outputs.push((*value, out));
        }
    }
    Ok(Flow {
        links: site.same_axes(&layout, 0),
        outputs,
        ..Flow::default()
    })
}

fn slice(site: &Site<'_>) -> Result<Flow, Refusal> {
    let layout = site.core_operand(0)?;
    let rank = layout.0.len();
    let target = site.output_shape(0)?;
    let axes = match site.input(3) {
        Some(v) => site
            .samples
            .constant_ints(v)
            .ok_or_else(|| site.refuse(Code::UnknownShape, "Its axes are not constant."))?,
        None => (0..site
            .input(1)
            .and_then(|v| site.samples.shape(v))
            .and_then(|s| s.first()?.constant())
            .unwrap_or(rank as i64))
            .collect(),
    };
    let bounds = |input: usize| site.input(input).and_then(|v| site.samples.int_dims(v));
    let (starts, ends) = match (bounds(1), bounds(2)) {
        (Some(s), Some(e)) if s.len() == axes.len() && e.len() == axes.len() => (s, e),
        _ => return Err(site.refuse(Code::UnknownShape, "Its bounds are not known.")),
    };
    let steps = match site.input(4) {
        Some(_) => bounds(4)
            .and_then(|s| s.iter().map(Dim::constant).collect::<Option<Vec<_>>>())
            .filter(|s| s.len() == axes.len())
            .ok_or_else(|| site.refuse(Code::UnknownShape, "Its steps are not constant."))?,
        None => vec![1; axes.len()],
    };
    let mut out = layout.clone();
    let (mut new_starts, mut new_ends) = (Vec::new(), Vec::new());
    for (i, &axis) in axes.iter().enumerate() {
        let axis = site.axis(axis, rank)?;
        if !is_feature(&layout.0[axis]) {
            if target[axis] != axis_size(&layout.0[axis]) || steps[i] != 1 {
                return Err(site.refuse(
                    Code::TokenMixing,
                    "Some tokens are cut out or reordered inside the block.",
                ));
            }
            new_starts.push(0);
            new_ends.push(i64::MAX);
            continue;
        }
        match (starts[i].constant(), ends[i].constant()) {
            (Some(s), Some(e)) => {
                new_starts.push(s);
                new_ends.push(e);
            }
            _ => return Err(site.refuse(Code::UnknownShape, "Its bounds depend on the length.")),
        }
        if target[axis] != axis_size(&layout.0[axis]) {
            out.0[axis] = feature(target[axis]);
        }
    }
    let operand = ShapeOperand::Slice {
        starts: new_starts,
        ends: new_ends,
        axes,
        steps,
    };
    Ok(Flow {
        links: site.same_axes(&layout, 0),
        outputs: site.all_outputs(out),
        operand: Some(operand),
        ..Flow::default()
    })
}

fn gather(site: &Site<'_>) -> Result<Flow, Refusal> {
    let layout = site.core_operand(0)?;
    let axis = site.axis(site.node.attr_int("axis").unwrap_or(0), layout.0.len())?;
    let Operand::External(_, index) = site.operand(1)? else {
        return Err(site.refuse(Code::UnknownOp, "Its index is computed from the tokens."));
    };
    if !is_feature(&layout.0[axis]) {
        return Err(site.refuse(
            Code::TokenMixing,
            "Single tokens are taken out inside the block.",
        ));
    }
    if index.iter().any(|d| d.constant().is_none()) {
        return Err(site.refuse(Code::External, "Its index has no constant shape."));
    }
    let mut flow = Flow::default();
    let mut out: Vec<Axis> = Vec::new();
    for (i, a) in layout.0.iter().enumerate() {
        if i == axis {
            out.extend(index.iter().map(|&d| feature(d)));
        } else {
            if has_tokens(a) {
                flow.links.push((out.len(), 0, i));
            }
            out.push(a.clone());
        }
    }
    flow.outputs = site.all_outputs(Layout(out));
    Ok(flow)
}

/// Index has one entry per output element: all its axes but one meet the data's; the free one is a new axis of the output.
fn gather_elements(site: &Site<'_>) -> Result<Flow, Refusal> {
    let layout = site.core_operand(0)?;
    let rank = layout.0.len();
    let axis = site.axis(site.node.attr_int("axis").unwrap_or(0), rank)?;
    if !is_feature(&layout.0[axis]) {
        return Err(site.refuse(Code::TokenMixing, "It picks tokens."));
    }
    let Operand::External(value, index) = site.operand(1)? else {
        return Err(site.refuse(Code::UnknownOp, "Its index is computed from the tokens."));
    };
    let mut frame = Vec::new();
    let mut flow = Flow::default();
    for (i, &size) in index.iter().enumerate() {
        let a = if i == axis {
            site.free_axis(size)?
        } else {
            layout.0[i].clone()
        };
        if axis_size(&a) != size {
            return Err(site.refuse(
                Code::Axes,
                format!("An index of shape {index:?} for {layout}."),
            ));
        }
        if has_tokens(&a) {
            if i != axis {
                flow.links.push((i, 0, i));
            }
            flow.links.push((i, 1, i));
        }
        frame.push(super::FrameAxis {
            present: size != Dim::ONE,
            axis: a,
        });
    }
    let out = Layout(frame.iter().map(|a| a.axis.clone()).collect());
    flow.externals
        .extend::<Option<External>>(site.external(1, value, frame)?);
    flow.outputs = site.all_outputs(out);
    Ok(flow)
}

/// Tile and Pad may change features only; a pad that is taken off again elsewhere would shift the tokens.
fn resize_features(site: &Site<'_>) -> Result<Flow, Refusal> {
    let layout = site.core_operand(0)?;
    let rank = layout.0.len();
    let target = site.output_shape(0)?;
    let changes = match site.node.op_type.as_str() {
        "Pad" => padded(site, rank)?,
        _ => (0..rank)
            .map(|i| target[i] != axis_size(&layout.0[i]))
            .collect(),
    };
    let mut out = layout.clone();
    for (i, axis) in out.0.iter_mut().enumerate() {
        if is_feature(axis) {
            *axis = feature(target[i]);
        } else if changes[i] {
            return Err(site.refuse(
                Code::TokenMixing,
                "Tokens are added, repeated or shifted inside the block.",
            ));
        }
    }
    // What is put in need not be 0.
    out.weaken();
    Ok(Flow {
        links: site.same_axes(&layout, 0),
        outputs: site.all_outputs(out),
        ..Flow::default()
    })
}

/// Which axes a Pad pads or crops.
fn padded(site: &Site<'_>, rank: usize) -> Result<Vec<bool>, Refusal> {
    let unknown = || site.refuse(Code::UnknownShape, "Its pads are not constant.");
    let ints = |input: usize| {
        site.input(input)
            .map(|v| site.samples.constant_ints(v).ok_or_else(unknown))
            .transpose()
    };
    let pads = match site.node.attr_ints("pads") {
        Some(pads) => pads,
        None => ints(1)?.ok_or_else(unknown)?,
    };
    let axes = ints(3)?.unwrap_or_else(|| (0..rank as i64).collect());
    if pads.len() != 2 * axes.len() {
        return Err(unknown());
    }
    let (before, after) = pads.split_at(axes.len());
    let mut out = vec![false; rank];
    for ((axis, b), a) in axes.iter().zip(before).zip(after) {
        out[site.axis(*axis, rank)?] |= *b != 0 || *a != 0;
    }
    Ok(out)
}
