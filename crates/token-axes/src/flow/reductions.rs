//! Norms and reductions: over features only.

use super::elementwise::{broadcast, parameters};
use super::{Flow, Link, Site};
use crate::layout::{Axis, Layout, Role, has_tokens, is_feature};
use crate::refusal::{Code, Refusal};

pub(super) fn knows(op: &str) -> bool {
    op.starts_with("Reduce")
        || matches!(
            op,
            "LayerNormalization"
                | "RMSNormalization"
                | "SimplifiedLayerNormalization"
                | "SkipLayerNormalization"
                | "SkipSimplifiedLayerNormalization"
                | "LpNormalization"
                | "CumSum"
                | "ArgMax"
                | "ArgMin"
                | "TopK"
                | "BatchNormalization"
                | "InstanceNormalization"
                | "GroupNormalization"
                | "DynamicQuantizeLinear"
                | "MeanVarianceNormalization"
                | "GlobalAveragePool"
                | "AveragePool"
                | "MaxPool"
                | "GlobalMaxPool"
        )
}

pub(super) fn apply(site: &Site<'_>) -> Result<Flow, Refusal> {
    match site.node.op_type.as_str() {
        "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => {
            normalise(site, 1, -1)
        }
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => skip_norm(site),
        "LpNormalization" => over_feature(site, Some(site.node.attr_int("axis").unwrap_or(-1))),
        "BatchNormalization" => {
            let mut layout = site.core_operand(0)?;
            parameters(site, 1..site.node.inputs.len(), None)?;
            if layout.0.get(1).is_some_and(|a| !is_feature(a)) {
                return Err(site.refuse(Code::TokenMixing, "Normalised per token position."));
            }
            layout.weaken();
            Ok(Flow {
                links: site.same_axes(&layout, 0),
                outputs: site.all_outputs(layout),
                ..Flow::default()
            })
        }
        "DynamicQuantizeLinear" => dynamic_quantize(site),
        op if op.starts_with("Reduce") || matches!(op, "ArgMax" | "ArgMin") => reduce(site),
        "CumSum" => {
            let axes = site.input(1).and_then(|v| site.samples.constant_ints(v));
            over_feature(site, axes.and_then(|a| a.first().copied()))
        }
        "TopK" => over_feature(site, Some(site.node.attr_int("axis").unwrap_or(-1))).and_then(
            |mut flow| {
                for (index, output) in site.node.outputs.iter().enumerate() {
                    if output.is_none() {
                        continue;
                    }
                    let shape = site.output_shape(index)?;
                    for (_, layout) in &mut flow.outputs {
                        for (axis, size) in layout.0.iter_mut().zip(&shape) {
                            if is_feature(axis) {
                                *axis = crate::layout::feature(*size);
                            }
                        }
                    }
                }
                for (_, layout) in flow.outputs.iter_mut().skip(1) {
                    layout.weaken();
                }
                Ok(flow)
            },
        ),
        "GlobalAveragePool" | "GlobalMaxPool" => global_pool(site),
        op => Err(site.refuse(
            Code::TokenMixing,
            format!("{op} mixes neighbouring tokens."),
        )),
    }
}

fn over_feature(site: &Site<'_>, axis: Option<i64>) -> Result<Flow, Refusal> {
    let layout = site.core_operand(0)?;
    let axis = axis.ok_or_else(|| site.refuse(Code::UnknownShape, "Its axis is not constant."))?;
    let axis = site.axis(axis, layout.0.len())?;
    if !is_feature(&layout.0[axis]) {
        return Err(site.refuse(Code::TokenMixing, "It runs over the tokens."));
    }
    Ok(Flow {
        links: site.same_axes(&layout, 0),
        outputs: site.all_outputs(layout),
        ..Flow::default()
    })
}

fn normalise(site: &Site<'_>, first_parameter: usize, default_axis: i64) -> Result<Flow, Refusal> {
    let mut layout = site.core_operand(0)?;
    parameters(site, first_parameter..site.node.inputs.len(), Some(&layout))?;
    let axis = site.axis(
        site.node.attr_int("axis").unwrap_or(default_axis),
        layout.0.len(),
    )?;
    if layout.0[axis..].iter().any(|a| !is_feature(a)) {
        return Err(site.refuse(Code::TokenMixing, "Normalised over tokens."));
    }
    let links = site.same_axes(&layout, 0);
    layout.weaken();
    let mut statistics = layout.clone();
    for a in &mut statistics.0[axis..] {
        a.clear();
    }
    let outputs = site
        .node
        .outputs
        .iter()
        .enumerate()
        .filter_map(|(i, v)| {
            v.map(|v| {
                (
                    v,
                    if i == 0 {
                        layout.clone()
                    } else {
                        statistics.clone()
                    },
                )
            })
        })
        .collect();
    Ok(Flow {
        links,
        outputs,
        ..Flow::default()
    })
}

/// Inputs: x, skip, gamma, (beta,) bias; outputs: normed, two statistics, the sum.
fn skip_norm(site: &Site<'_>) -> Result<Flow, Refusal> {
    let mut flow = broadcast(site, &[0, 1])?;
    let sum = flow
        .outputs
        .first()
        .map(|(_, l)| l.clone())
        .unwrap_or_default();
    parameters(site, 2..site.node.inputs.len(), Some(&sum))?;
    if let Some((_, layout)) = flow.outputs.first()
        && layout.0.last().is_none_or(|a| !is_feature(a))
    {
        return Err(site.refuse(Code::TokenMixing, "Normalised over tokens."));
    }
    let layout = flow
        .outputs
        .first()
        .map(|(_, l)| l.clone())
        .unwrap_or_default();
    flow.outputs = site.all_outputs(layout);
    Ok(flow)
}

fn reduce(site: &Site<'_>) -> Result<Flow, Refusal> {
    let layout = site.core_operand(0)?;
    let rank = layout.0.len();
    let axes: Vec<i64> = match (
        site.node.attr_ints("axes"),
        site.node.attr_int("axis"),
        site.input(1),
    ) {
        (Some(axes), _, _) => axes,
        (None, Some(axis), _) => vec![axis],
        (None, None, Some(v)) => site.samples.constant_ints(v).ok_or_else(|| {
            site.refuse(Code::UnknownShape, "The axes it reduces are not constant.")
        })?,
        (None, None, None) if site.node.op_type.starts_with("Arg") => vec![0],
        (None, None, None) if site.node.attr_int("noop_with_empty_axes") == Some(1) => Vec::new(),
        (None, None, None) => (0..rank as i64).collect(),
    };
    let keep = site.node.attr_int("keepdims").unwrap_or(1) != 0;
    let mut reduced = vec![false; rank];
    for axis in axes {
        reduced[site.axis(axis, rank)?] = true;
    }
    let (links, mut out) = without(site, &layout, &reduced, keep)?;
    let keeps_zero = ["Sum", "Mean", "Max", "Min", "L1", "L2", "SumSquare", "Prod"];
    if !site
        .node
        .op_type
        .strip_prefix("Reduce")
        .is_some_and(|op| keeps_zero.contains(&op))
    {
        out.weaken();
    }
    Ok(Flow {
        links,
        outputs: site.all_outputs(out),
        ..Flow::default()
    })
}

/// Whether the weights of an attention are added up over the keys, as to scale them to a sum of 1 again behind a mask. A row that
/// stands for several tokens carries their number in its weight, an empty row weighs 0: the sum is that over the tokens. (A mean
/// would divide by the number of rows.)
fn sums_weights(site: &Site<'_>, axis: &Axis) -> bool {
    site.node.op_type == "ReduceSum" && matches!(axis[..], [f] if f.role == Role::Attended)
}

/// The layout without axes that are reduced, and which of its axes come from which.
fn without(
    site: &Site<'_>,
    layout: &Layout,
    reduced: &[bool],
    keep: bool,
) -> Result<(Vec<Link>, Layout), Refusal> {
    let mut out = Vec::new();
    let mut links = Vec::new();
    for (i, axis) in layout.0.iter().enumerate() {
        if reduced[i] {
            if !is_feature(axis) && !sums_weights(site, axis) {
                return Err(site.refuse(
                    Code::TokenMixing,
                    format!(
                        "{} over an axis {}.",
                        site.node.op_type,
                        Layout(vec![axis.clone()])
                    ),
                ));
            }
            if keep {
                out.push(Vec::new());
            }
        } else {
            if has_tokens(axis) {
                links.push((out.len(), 0, i));
            }
            out.push(axis.clone());
        }
    }
    Ok((links, Layout(out)))
}

/// Pools axes 2 and up to one place, which is a reduction where they are features.
fn global_pool(site: &Site<'_>) -> Result<Flow, Refusal> {
    let layout = site.core_operand(0)?;
    let pooled: Vec<bool> = (0..layout.0.len()).map(|axis| axis >= 2).collect();
    let (links, out) = without(site, &layout, &pooled, true)?;
    Ok(Flow {
        links,
        outputs: site.all_outputs(out),
        ..Flow::default()
    })
}

/// One scale for all tokens: it depends on the set of rows, not on their order. A weight of 0 is the zero point from here on.
fn dynamic_quantize(site: &Site<'_>) -> Result<Flow, Refusal> {
    let mut layout = site.core_operand(0)?;
    let links = site.same_axes(&layout, 0);
    layout.weaken();
    let numbers = (site.output(0).into_iter()).map(|v| (v, layout.clone()));
    let parameters = site.node.outputs.iter().skip(1).flatten();
    let parameters = parameters.map(|&v| (v, Layout::default()));
    Ok(Flow {
        links,
        outputs: numbers.chain(parameters).collect(),
        ..Flow::default()
    })
}
