//! Reductions over axes, and normalisations (whose outputs beside the first are reductions).

use super::index::{position, positions, strides};
use super::op::{Op, Outs, axes, axis, filled, shaped, small};
use super::value::Content;

/// The axes that a reduction is over: an attribute, or input 1 in new operator sets.
fn reduced_axes(op: &Op, rank: usize) -> Result<Vec<usize>, super::op::Fail> {
    match op.ints_or(1, "axes")? {
        Some(list) if !list.is_empty() => axes(&list, rank),
        _ if op.attr("noop_with_empty_axes", 0) == 1 => Ok(Vec::new()),
        _ => Ok((0..rank).collect()),
    }
}

fn shape_without(dims: &[i64], gone: &[usize], keep: bool) -> Vec<i64> {
    let sizes = dims.iter().enumerate();
    if keep {
        sizes
            .map(|(i, &d)| if gone.contains(&i) { 1 } else { d })
            .collect()
    } else {
        sizes
            .filter(|(i, _)| !gone.contains(i))
            .map(|(_, &d)| d)
            .collect()
    }
}

/// `ReduceSum` and its kin.
pub(super) fn reduce(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let gone = reduced_axes(op, dims.len())?;
    let shape = shape_without(dims, &gone, op.attr("keepdims", 1) == 1);
    let content = reduced(op, dims, &gone, &op.node.op_type);
    filled(shape, content)
}

/// `ArgMax`, `ArgMin`.
pub(super) fn arg(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let at = op.axis(0, dims.len())?;
    let shape = shape_without(dims, &[at], op.attr("keepdims", 1) == 1);
    let name = match (
        op.node.op_type.as_str(),
        op.attr("select_last_index", 0) == 1,
    ) {
        ("ArgMax", false) => "FirstMax",
        ("ArgMax", true) => "LastMax",
        (_, false) => "FirstMin",
        (_, true) => "LastMin",
    };
    let content = reduced(op, dims, &[at], name);
    filled(shape, content)
}

/// The reduction of input 0 over the axes `gone`.
fn reduced(op: &Op, dims: &[i64], gone: &[usize], name: &str) -> Option<Content> {
    if !small(dims) {
        return None;
    }
    let x = op.content(0)?;
    let own = strides(dims);
    let kept = shape_without(dims, gone, true);
    let inner: Vec<i64> = dims
        .iter()
        .enumerate()
        .map(|(i, &d)| if gone.contains(&i) { d } else { 1 })
        .collect();
    let starts = positions(&kept, |c| position(c, &own));
    let offsets = positions(&inner, |c| position(c, &own));
    let group = |start: i64| x.take(&offsets.iter().map(|o| start + o).collect::<Vec<_>>());
    let groups = starts.into_iter().map(group).collect::<Option<Vec<_>>>()?;
    let ints = |f: fn(&[i64]) -> Option<i64>| {
        groups
            .iter()
            .map(|g| f(g.ints()?))
            .collect::<Option<Vec<_>>>()
            .map(Content::Int)
    };
    let floats = |f: fn(&[f64]) -> Option<f64>| {
        let all = groups
            .iter()
            .map(|g| f(g.floats()?))
            .collect::<Option<Vec<_>>>()
            .map(Content::Float);
        all?.fit(op.dtype(0)?)
    };
    match name {
        "ReduceSum" => ints(|v| Some(v.iter().fold(0, |a: i64, &b| a.wrapping_add(b))))
            .or_else(|| floats(|v| Some(v.iter().sum()))),
        "ReduceProd" => ints(|v| Some(v.iter().fold(1, |a: i64, &b| a.wrapping_mul(b))))
            .or_else(|| floats(|v| Some(v.iter().product()))),
        "ReduceMax" => ints(|v| v.iter().copied().max())
            .or_else(|| floats(|v| v.iter().copied().reduce(f64::max))),
        "ReduceMin" => ints(|v| v.iter().copied().min())
            .or_else(|| floats(|v| v.iter().copied().reduce(f64::min))),
        "ReduceMean" => floats(|v| Some(v.iter().sum::<f64>() / v.len() as f64)),
        "FirstMax" | "LastMax" | "FirstMin" | "LastMin" => groups
            .iter()
            .map(|g| best(name, g))
            .collect::<Option<Vec<_>>>()
            .map(Content::Int),
        _ => None,
    }
}

/// The index of the largest or smallest element.
fn best(name: &str, of: &Content) -> Option<i64> {
    let better = |a: f64, b: f64| match name {
        "FirstMax" => a > b,
        "LastMax" => a >= b,
        "FirstMin" => a < b,
        _ => a <= b,
    };
    let numbers: Vec<f64> = match of {
        Content::Int(v) => v.iter().map(|&x| x as f64).collect(),
        Content::Float(v) => v.clone(),
        Content::Bool(_) => return None,
    };
    let mut at = 0;
    let mut top = *numbers.first()?;
    for (i, &x) in numbers.iter().enumerate().skip(1) {
        if better(x, top) {
            (at, top) = (i, x);
        }
    }
    Some(at as i64)
}

/// `LayerNormalization`: the other outputs are the mean and the inverse deviation over the axes from `axis` on.
pub(super) fn layer_norm(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let from = op.axis(-1, dims.len())?;
    let gone: Vec<usize> = (from..dims.len()).collect();
    let statistics = shape_without(dims, &gone, true);
    let mut outs = vec![shaped(dims)];
    outs.resize_with(op.node.outputs.len().max(1), || shaped(statistics.clone()));
    if let Some(sum) = outs.get_mut(3) {
        // SimplifiedLayerNormalization and the Skip forms: the fourth output is the sum that was normalised.
        *sum = shaped(dims);
    }
    Ok(outs)
}

/// `BatchNormalization`: statistics have the shape of input 3.
pub(super) fn batch_norm(op: &Op) -> Outs {
    let statistics = op.shape(3)?;
    let mut outs = vec![shaped(op.shape(0)?)];
    outs.resize_with(op.node.outputs.len().max(1), || shaped(statistics));
    Ok(outs)
}

/// `GlobalAveragePool` and `GlobalMaxPool`: axes 2 and up become 1.
pub(super) fn global_pool(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let spatial: Vec<usize> = (2..dims.len()).collect();
    Ok(vec![shaped(shape_without(dims, &spatial, true))])
}

/// `Softmax` and its kin, which only must have their axis.
pub(super) fn along_axis(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let default = if op.opset < 13 { 1 } else { -1 };
    if !dims.is_empty() {
        axis(op.attr("axis", default), dims.len())?;
    }
    Ok(vec![shaped(dims)])
}
