//! Operators that work element by element, with broadcasting.

use onnx_model::DataType;

use super::arith;
use super::op::{Op, Out, Outs, broadcast, filled, one, shaped, small};
use super::value::Content;

/// One input, same shape; every further output (a dropout mask) too.
pub(super) fn unary(op: &Op) -> Outs {
    let shape = op.shape(0)?;
    let x = if small(shape) { op.content(0) } else { None };
    let content = x.and_then(|x| arith::unary(&op.node.op_type, x));
    let content = content.and_then(|c| typed(op, c));
    filled(shape, content)
}

/// Same shape as input 0, content not followed.
pub(super) fn same(op: &Op) -> Outs {
    one(op.shape(0)?)
}

/// `Dropout`: a copy, unless it is told to train, and the mask.
pub(super) fn dropout(op: &Op) -> Outs {
    let shape = op.shape(0)?;
    let trains = match op.content(2) {
        Some(Content::Bool(t)) => t.first() != Some(&false),
        _ => op.has(2),
    };
    let content = if trains || !small(shape) {
        None
    } else {
        op.content(0).cloned()
    };
    Ok(vec![
        Out {
            shape: Some(shape.to_vec()),
            content,
        },
        shaped(shape),
    ])
}

/// Two inputs.
pub(super) fn binary(op: &Op) -> Outs {
    let shape = op.broadcast([0, 1])?;
    let name = match op.node.op_type.as_str() {
        "Mod" if op.attr("fmod", 0) == 1 => "Fmod",
        name => name,
    };
    let content = pairwise(op, &shape, name);
    filled(shape, content)
}

fn pairwise(op: &Op, shape: &[i64], name: &str) -> Option<Content> {
    let a = spread(op, 0, shape)?;
    let b = spread(op, 1, shape)?;
    typed(op, arith::binary(name, &a, &b)?)
}

/// A result in the type of input 0, unless it is a comparison's.
fn typed(op: &Op, out: Content) -> Option<Content> {
    if matches!(out, Content::Bool(_)) {
        Some(out)
    } else {
        out.fit(op.dtype(0)?)
    }
}

/// The content of input `i`, broadcast.
fn spread(op: &Op, i: usize, shape: &[i64]) -> Option<Content> {
    if !small(shape) {
        return None;
    }
    arith::spread(op.content(i)?, op.shape(i).ok()?, shape)
}

/// `Min`, `Max`, `Sum`, `Mean`: any number of inputs.
pub(super) fn variadic(op: &Op) -> Outs {
    let shape = op.broadcast(0..op.inputs.len())?;
    let content = fold(op, &shape);
    filled(shape, content)
}

fn fold(op: &Op, shape: &[i64]) -> Option<Content> {
    let name = match op.node.op_type.as_str() {
        "Sum" => "Add",
        "Mean" => return None,
        name => name,
    };
    let mut all = spread(op, 0, shape)?;
    for i in 1..op.inputs.len() {
        all = arith::binary(name, &all, &spread(op, i, shape)?)?.fit(op.dtype(0)?)?;
    }
    Some(all)
}

/// `Where(condition, a, b)`.
pub(super) fn select(op: &Op) -> Outs {
    let shape = op.broadcast(0..3)?;
    let content = choose(op, &shape);
    filled(shape, content)
}

fn choose(op: &Op, shape: &[i64]) -> Option<Content> {
    let condition = spread(op, 0, shape)?;
    arith::select(
        condition.bools()?,
        &spread(op, 1, shape)?,
        &spread(op, 2, shape)?,
    )
}

/// `Clip`: bounds are attributes before operator set 11, inputs since.
pub(super) fn clip(op: &Op) -> Outs {
    let shape = op.shape(0)?;
    let content = if small(shape) {
        clipped(op, shape)
    } else {
        None
    };
    filled(shape, content)
}

fn clipped(op: &Op, shape: &[i64]) -> Option<Content> {
    let dtype = op.dtype(0)?;
    let mut x = op.content(0)?.clone();
    for (i, name, attribute) in [(1, "Max", "min"), (2, "Min", "max")] {
        let bound = if op.has(i) {
            Some(op.content(i)?.clone())
        } else {
            let attribute = op.node.attr_float(attribute).map(f64::from);
            attribute.and_then(|x| Content::constant(dtype, x, 1))
        };
        if let Some(bound) = bound {
            x = arith::binary(name, &x, &arith::spread(&bound, &[1], shape)?)?;
        }
    }
    x.fit(dtype)
}

/// `Cast` and `CastLike`.
pub(super) fn cast(op: &Op) -> Outs {
    let shape = op.shape(0)?;
    let to = cast_target(op);
    let content = to
        .filter(|_| small(shape))
        .and_then(|to| op.content(0)?.cast(to));
    filled(shape, content)
}

/// The data type a `Cast` or `CastLike` converts to.
pub(super) fn cast_target(op: &Op) -> Option<DataType> {
    if op.node.op_type == "CastLike" {
        return op.dtype(1);
    }
    op.node
        .attr_int("to")
        .and_then(|t| i32::try_from(t).ok())
        .and_then(DataType::from_i32)
}

/// `PRelu`: the slope is broadcast one way, to the shape of the input.
pub(super) fn prelu(op: &Op) -> Outs {
    let x = op.shape(0)?;
    broadcast(x, op.shape(1)?)?;
    one(x)
}
