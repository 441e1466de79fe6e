//! Pass `shapes`: shape operands of rewritten nodes, and readers of shapes.
//!
//! A shape operand is rebuilt from what its axes are made of, never patched: 0 where an axis stays as it is, -1 for one axis
//! with rows, products of sizes otherwise. Shape nodes that read a value inside a block get the model's sizes: what is computed
//! from them (masks, positions) stays in the n-token part of the graph.

use crate::conversion::{Binding, Conversion};
use crate::emit::{Emit, Size};
use crate::error::Error;
use crate::externals::one_inferred;
use onnx_model::{Dimension, Graph, NodeId, Tensor, ValueId};
use token_axes::layout::{has_batch, has_tokens};
use token_axes::site::{Input, Instance, Side, Sides};
use token_axes::{Axis, Dim, Factor, Layout, Role, ShapeOperand};

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let opset = c.opset();
    for site in &c.sites {
        let mut e = Emit::new(&mut c.model.graph, opset, format!("{}/shape", site.prefix));
        for instance in &site.instances {
            windows_for_one(&mut e, &site.binding, instance).map_err(|reason| Error::Rewrite {
                block: site.prefix.clone(),
                reason,
            })?;
            for input in &instance.inputs {
                if let Input::Operand(kind, data, result) = input {
                    rebuild(&mut e, &site.binding, instance.node, kind, data, result).map_err(
                        |reason| Error::Rewrite {
                            block: site.prefix.clone(),
                            reason,
                        },
                    )?;
                }
            }
        }
    }
    for reader in std::mem::take(&mut c.shape_readers) {
        let encoder = c.encoders[reader.encoder].clone();
        let mut e = Emit::new(
            &mut c.model.graph,
            opset,
            format!("{}/shape", encoder.prefix),
        );
        answer(
            &mut e,
            reader.node,
            &reader.layout,
            encoder.batch,
            encoder.tokens,
        );
    }
    Ok(())
}

/// A batch of one has a place among the axes that windows, of which there are more, may not have: it can be dropped, and it can be read
/// as a part of the tokens' axis and of the features'. Such a node reads or makes its values by a Reshape.
fn windows_for_one(e: &mut Emit<'_>, binding: &Binding, instance: &Instance) -> Result<(), String> {
    if binding.batch_rows.is_none() || binding.batch_dim == Dimension::Value(1) {
        return Ok(());
    }
    let reshaped = |e: &mut Emit<'_>, input: usize, layout: &Layout| {
        let inputs = &e.graph.node(instance.node).inputs;
        let value = inputs.get(input).copied().flatten();
        let value = value.ok_or("an input that is to be reshaped is missing")?;
        let sizes = (layout.0.iter())
            .map(|axis| size(e, binding, axis, None))
            .collect::<Result<Vec<_>, _>>()?;
        Ok::<ValueId, String>(e.reshape(value, &one_inferred(&sizes)))
    };
    for (input, layout) in &instance.regrouped {
        let value = reshaped(e, *input, layout)?;
        e.graph.set_input(instance.node, *input, Some(value));
    }
    let node = e.graph.node(instance.node);
    let drops = matches!(node.op_type.as_str(), "Flatten" | "Squeeze" | "Unsqueeze");
    let is_one = |f: &Factor| f.role == Role::Batch && f.size == Dim::ONE;
    if drops && instance.layout.0.iter().flatten().any(is_one) {
        let made = node.outputs.first().copied().flatten();
        let value = reshaped(e, 0, &instance.layout)?;
        if let Some(made) = made {
            e.graph.replace_uses(made, value);
        }
    }
    Ok(())
}

/// Rebuilds the shape operand of a node.
pub(crate) fn rebuild(
    e: &mut Emit<'_>,
    binding: &Binding,
    node: NodeId,
    kind: &ShapeOperand,
    data: &(Layout, Sides),
    result: &(Layout, Sides),
) -> Result<(), String> {
    match kind {
        ShapeOperand::Reshape => {
            let zero_copies = e.graph.node(node).attr_int("allowzero").unwrap_or(0) == 0;
            let same = |i: usize| {
                zero_copies
                    && data.0.0.get(i) == result.0.0.get(i)
                    && side(&data.1, i) == side(&result.1, i)
            };
            if keeps(e.graph, node, &result.0, same) {
                return Ok(());
            }
            let mut sizes = Vec::new();
            for (i, axis) in result.0.0.iter().enumerate() {
                let varies = has_tokens(axis) || has_batch(axis);
                sizes.push(if same(i) && varies {
                    Size::Const(0)
                } else {
                    size(e, binding, axis, side(&result.1, i))?
                });
            }
            let target = e.target(&one_inferred(&sizes));
            e.graph.set_input(node, 1, Some(target));
        }
        ShapeOperand::Expand => {
            let skip = result.0.0.len().saturating_sub(data.0.0.len());
            let mut sizes = Vec::new();
            for (i, axis) in result.0.0.iter().enumerate() {
                let same = i >= skip && data.0.0.get(i - skip) == Some(axis);
                sizes.push(if same {
                    Size::Const(1)
                } else {
                    size(e, binding, axis, side(&result.1, i))?
                });
            }
            let target = e.target(&sizes);
            e.graph.set_input(node, 1, Some(target));
        }
        ShapeOperand::Slice {
            starts,
            ends,
            axes,
            steps,
        } => {
            for (i, operand) in [starts, ends, axes, steps].into_iter().enumerate() {
                let value = e.ints(operand);
                e.graph.set_input(node, i + 1, Some(value));
            }
        }
    }
    Ok(())
}

fn side(sides: &Sides, axis: usize) -> Option<Side> {
    sides.get(axis).copied().flatten()
}

/// Whether a constant target is right for any number of rows: wherever batch or tokens are it has -1, or 0 for an axis that is the `same`
/// as that of the data.
fn keeps(graph: &Graph, node: NodeId, result: &Layout, same: impl Fn(usize) -> bool) -> bool {
    let target = graph
        .node(node)
        .inputs
        .get(1)
        .copied()
        .flatten()
        .and_then(|v| graph.tensor(v))
        .and_then(|t: Tensor| t.to_i64s());
    target.is_some_and(|target| {
        target.len() == result.0.len()
            && (target.iter().zip(&result.0).enumerate())
                .all(|(i, (&t, axis))| is_free(axis) || t == -1 || (t == 0 && same(i)))
    })
}

fn is_free(axis: &Axis) -> bool {
    !has_tokens(axis) && !has_batch(axis)
}

fn size(
    e: &mut Emit<'_>,
    binding: &Binding,
    axis: &Axis,
    side: Option<Side>,
) -> Result<Size, String> {
    let mut parts = Vec::new();
    for factor in axis {
        parts.push(match factor.role {
            Role::Batch => Size::Value(binding.batch),
            Role::Token | Role::Attended => {
                let side = side.unwrap_or(Side::Rows);
                let rows = binding
                    .sides
                    .get(&side)
                    .ok_or_else(|| format!("rows of {side:?} are not known here"))?;
                Size::Value(rows.count)
            }
            Role::Feature => Size::Const(
                factor
                    .size
                    .constant()
                    .ok_or("a feature axis has no constant size")?,
            ),
        });
    }
    Ok(e.product(&parts))
}

/// Gives the readers of a Shape or Size node the sizes for all tokens.
pub(crate) fn answer(
    e: &mut Emit<'_>,
    node: NodeId,
    layout: &Layout,
    batch: ValueId,
    tokens: ValueId,
) {
    let shape = e.graph.node(node).clone();
    let Some(old) = shape.outputs.first().copied().flatten() else {
        return;
    };
    let mut sizes: Vec<Size> = Vec::new();
    for axis in &layout.0 {
        let parts: Vec<Size> = axis
            .iter()
            .map(|f| match f.role {
                Role::Batch => Size::Value(batch),
                Role::Token | Role::Attended => Size::Value(tokens),
                Role::Feature => Size::Const(f.size.constant().unwrap_or(1)),
            })
            .collect();
        let size = e.product(&parts);
        sizes.push(size);
    }
    let new = if shape.op_type == "Size" {
        let all = e.product(&sizes);
        let vector = e.target(&[all]);
        e.squeeze(vector, &[0])
    } else {
        let rank = sizes.len() as i64;
        let bound = |name: &str, default: i64| {
            let b = shape.attr_int(name).unwrap_or(default);
            (if b < 0 { b + rank } else { b }).clamp(0, rank) as usize
        };
        let (start, end) = (bound("start", 0), bound("end", rank));
        e.target(sizes.get(start..end.max(start)).unwrap_or(&[]))
    };
    e.graph.replace_uses(old, new);
}
