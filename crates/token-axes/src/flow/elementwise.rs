//! Operators that compute each element from the elements at the same place of their inputs.

use super::{Flow, Operand, Site, align, describe};
use crate::dim::Dim;
use crate::layout::{Axis, Layout, Role, axis_size, feature, has_tokens, is_feature};
use crate::refusal::{Code, Refusal};

/// Whether the operator is elementwise with broadcasting over all its inputs.
pub(super) fn knows(op: &str) -> bool {
    matches!(
        op,
        "Abs"
            | "Acos"
            | "Acosh"
            | "Add"
            | "And"
            | "Asin"
            | "Atan"
            | "BiasGelu"
            | "BitwiseAnd"
            | "BitwiseNot"
            | "BitwiseOr"
            | "Cast"
            | "CastLike"
            | "Ceil"
            | "Celu"
            | "Clip"
            | "Cos"
            | "Cosh"
            | "DequantizeLinear"
            | "Div"
            | "Dropout"
            | "Elu"
            | "Equal"
            | "Erf"
            | "Exp"
            | "FastGelu"
            | "Floor"
            | "Gelu"
            | "Greater"
            | "GreaterOrEqual"
            | "HardSigmoid"
            | "HardSwish"
            | "Identity"
            | "IsInf"
            | "IsNaN"
            | "LeakyRelu"
            | "Less"
            | "LessOrEqual"
            | "Log"
            | "Max"
            | "Mean"
            | "Min"
            | "Mish"
            | "Mod"
            | "Mul"
            | "Neg"
            | "Not"
            | "Or"
            | "PRelu"
            | "Pow"
            | "QuantizeLinear"
            | "QuickGelu"
            | "Reciprocal"
            | "Relu"
            | "Round"
            | "Selu"
            | "Shrink"
            | "Sigmoid"
            | "Sign"
            | "Sin"
            | "Sinh"
            | "Softplus"
            | "Softsign"
            | "Sqrt"
            | "Sub"
            | "Sum"
            | "Swish"
            | "Tan"
            | "Tanh"
            | "ThresholdedRelu"
            | "Where"
            | "Xor"
    )
}

pub(super) fn apply(site: &Site<'_>) -> Result<Flow, Refusal> {
    match site.node.op_type.as_str() {
        // Ratio, training flag, bounds and the type example say nothing about axes.
        "Dropout" | "CastLike" | "Clip" => unary(site),
        "QuantizeLinear" | "DequantizeLinear" => quantize(site),
        _ => {
            let inputs: Vec<usize> = (0..site.node.inputs.len())
                .filter(|&i| site.input(i).is_some())
                .collect();
            broadcast(site, &inputs)
        }
    }
}

fn unary(site: &Site<'_>) -> Result<Flow, Refusal> {
    let mut layout = site.core_operand(0)?;
    let links = site.same_axes(&layout, 0);
    if site.node.op_type == "Clip" {
        layout.weaken();
    }
    Ok(Flow {
        links,
        outputs: site.all_outputs(layout),
        ..Flow::default()
    })
}

/// Whether a quantisation parameter has one entry per token (of a static length).
fn is_per_token(site: &Site<'_>, shape: &[Dim]) -> Result<bool, Refusal> {
    if shape.iter().all(|d| *d == Dim::ONE) {
        return Ok(false);
    }
    let layout = site.core_operand(0)?;
    let axis = site.axis(site.node.attr_int("axis").unwrap_or(1), layout.0.len())?;
    Ok(shape.len() != 1 || !is_feature(&layout.0[axis]))
}

/// Whether rows of weight 0 keep weight 0: only then may the axis be summed over afterwards.
fn keeps_zero(site: &Site<'_>, operands: &[(usize, Operand)]) -> bool {
    let attended = |index: usize| {
        operands.iter().any(|(i, o)| {
            *i == index
                && matches!(o, Operand::Core(l) if l.0.iter().flatten().any(|f| f.role == Role::Attended))
        })
    };
    match site.node.op_type.as_str() {
        "Abs" | "And" | "Cast" | "Ceil" | "Dropout" | "Erf" | "Floor" | "Identity" | "IsInf"
        | "IsNaN" | "LeakyRelu" | "Mul" | "Neg" | "Relu" | "Round" | "Sign" | "Sin" | "Sqrt"
        | "Tanh" => true,
        "Div" => attended(0) && !attended(1),
        "Add" | "Sub" | "Sum" | "Max" | "Min" | "Mean" => {
            operands.iter().all(|(i, _)| attended(*i))
        }
        "Where" => [1, 2].into_iter().all(|i| attended(i) || is_zero(site, i)),
        _ => false,
    }
}

/// Whether an input is 0 throughout.
fn is_zero(site: &Site<'_>, input: usize) -> bool {
    use crate::interp::Content;
    let Some(value) = site.input(input) else {
        return false;
    };
    let zero = |content: &Content| match content {
        Content::Int(v) => v.iter().all(|&x| x == 0),
        Content::Float(v) => v.iter().all(|&x| x == 0.0),
        Content::Bool(v) => v.iter().all(|&x| !x),
    };
    let known = |f: &crate::interp::Facts| !f.assumed(value) && f.content(value).is_some_and(zero);
    // Zeros like a value inside the block: their number is of no account.
    let zeros_like = site.graph.value(value).producer().is_some_and(|(n, _)| {
        let node = site.graph.node(n);
        node.op_type == "ConstantOfShape"
            && node
                .attr_tensor("value")
                .is_none_or(|t| t.to_f64s().is_some_and(|v| v.iter().all(|&x| x == 0.0)))
    });
    zeros_like || site.samples.0.iter().all(known)
}

/// Scale and zero point are one number, or one per entry of a feature axis; a number computed from the tokens (dynamic
/// quantisation) is fine too, since it does not depend on their order.
fn quantize(site: &Site<'_>) -> Result<Flow, Refusal> {
    if !site.is_core(0) {
        return Err(site.refuse(
            Code::UnknownOp,
            "A weight is quantised with a scale computed from the tokens.",
        ));
    }
    let per_token = || {
        site.refuse(
            Code::External,
            "It has a scale per token, which an average of tokens has not.",
        )
    };
    for i in 1..site.node.inputs.len() {
        match site.input(i).map(|_| site.operand(i)).transpose()? {
            Some(Operand::Core(layout)) if layout.0.iter().any(has_tokens) => {
                return Err(per_token());
            }
            Some(Operand::External(_, shape)) if is_per_token(site, &shape)? => {
                return Err(per_token());
            }
            Some(Operand::External(_, shape)) if shape.iter().any(|d| d.constant().is_none()) => {
                return Err(site.refuse(Code::UnknownOp, "A scale that is not constant."));
            }
            _ => {}
        }
    }
    let mut flow = unary(site)?;
    if site.node.op_type == "DequantizeLinear" {
        let numbers = site.dequantised(0, site.input(2))?;
        flow.outputs = site.all_outputs(numbers);
    }
    // A weight of 0 is the zero point from here on: it stays 0 only where that is 0.
    else if site
        .input(2)
        .is_some_and(|z| site.one_number(z) != Some(0.0))
    {
        for (_, layout) in &mut flow.outputs {
            layout.weaken();
        }
    }
    Ok(flow)
}

/// Broadcasts the given inputs against each other.
pub(super) fn broadcast(site: &Site<'_>, inputs: &[usize]) -> Result<Flow, Refusal> {
    let operands: Vec<(usize, Operand)> = inputs
        .iter()
        .map(|&i| Ok((i, site.operand(i)?)))
        .collect::<Result<_, Refusal>>()?;
    let rank = operands.iter().map(|(_, o)| o.rank()).max().unwrap_or(0);
    let mut axes: Vec<Axis> = vec![Vec::new(); rank];
    for (_, operand) in &operands {
        if let Operand::Core(layout) = operand {
            let skip = rank - layout.0.len();
            for (i, axis) in layout.0.iter().enumerate() {
                merge(site, &mut axes[skip + i], axis)?;
            }
        }
    }
    // Sizes that only externals bring.
    for (_, operand) in &operands {
        if let Operand::External(_, shape) = operand {
            let skip = rank - shape.len();
            for (i, &size) in shape.iter().enumerate() {
                if axes[skip + i].is_empty() && size != Dim::ONE {
                    axes[skip + i] = site.free_axis(size)?;
                }
            }
        }
    }
    let mut flow = Flow::default();
    for (input, operand) in &operands {
        match operand {
            Operand::Core(layout) => {
                let skip = rank - layout.0.len();
                for (i, axis) in layout.0.iter().enumerate() {
                    if has_tokens(axis) {
                        flow.links.push((skip + i, *input, i));
                    }
                }
            }
            Operand::External(value, shape) => {
                let frame =
                    align(shape, &axes).ok_or_else(|| differ(site, *value, shape, &axes))?;
                for (i, axis) in frame.iter().enumerate() {
                    if axis.present && has_tokens(&axis.axis) {
                        flow.links.push((i, *input, i));
                    }
                }
                flow.externals.extend(site.external(*input, *value, frame)?);
            }
        }
    }
    let mut layout = Layout(axes);
    if !keeps_zero(site, &operands) {
        layout.weaken();
    }
    flow.outputs = site.all_outputs(layout);
    Ok(flow)
}

/// Sizes that meet and are not the same. A literal size where tokens should be is a traced length.
fn differ(site: &Site<'_>, value: onnx_model::ValueId, shape: &[Dim], axes: &[Axis]) -> Refusal {
    let sizes: Vec<Dim> = axes.iter().map(axis_size).collect();
    let name = &site.graph.value(value).name;
    let skip = axes.len().saturating_sub(shape.len());
    let literal = shape.iter().zip(axes.iter().skip(skip)).any(|(d, axis)| {
        has_tokens(axis)
            && d.constant().is_some_and(|c| c != 1)
            && axis_size(axis).constant().is_none()
    });
    let code = if literal {
        Code::BakedLength
    } else {
        Code::Axes
    };
    let baked = super::baked(site.samples, site.id, &describe(site.node));
    baked.unwrap_or_else(|| {
        let reason = format!("'{name}' of shape {shape:?} meets values of shape {sizes:?}.");
        site.refuse(code, reason)
    })
}

fn merge(site: &Site<'_>, into: &mut Axis, axis: &Axis) -> Result<(), Refusal> {
    if into.is_empty() || (axis_size(into) == Dim::ONE && axis_size(axis) != Dim::ONE) {
        into.clone_from(axis);
        return Ok(());
    }
    if axis.is_empty() || into == axis || axis_size(axis) == Dim::ONE {
        return Ok(());
    }
    let roles = |a: &Axis| {
        a.iter()
            .map(|f| (f.role == crate::layout::Role::Feature, f.size))
            .collect::<Vec<_>>()
    };
    if roles(into) == roles(axis) {
        // Token and attended, or the like: keep the weaker claim.
        if axis.iter().any(|f| f.role == crate::layout::Role::Token) {
            into.clone_from(axis);
        }
        return Ok(());
    }
    // Features may be split in different ways: [4*8] meets [32].
    if crate::layout::is_feature(into)
        && crate::layout::is_feature(axis)
        && axis_size(into) == axis_size(axis)
    {
        *into = feature(axis_size(into));
        return Ok(());
    }
    let (a, b) = (Layout(vec![into.clone()]), Layout(vec![axis.clone()]));
    Err(site.refuse(Code::Axes, format!("An axis {a} meets an axis {b}.")))
}

impl Operand {
    pub(crate) fn is_one_number(&self) -> bool {
        matches!(self, Operand::External(_, shape) if shape.iter().all(|d| *d == Dim::ONE))
    }

    pub(crate) fn rank(&self) -> usize {
        match self {
            Operand::Core(layout) => layout.0.len(),
            Operand::External(_, shape) => shape.len(),
        }
    }
}

/// Checks inputs that must be parameters: not computed from the tokens, of constant shape. With a layout that they broadcast
/// to, they must not run over its tokens or batch either (a table per position of a static model).
pub(super) fn parameters(
    site: &Site<'_>,
    inputs: std::ops::Range<usize>,
    broadcast_to: Option<&Layout>,
) -> Result<(), Refusal> {
    for i in inputs {
        if site.input(i).is_none() {
            continue;
        }
        match site.operand(i)? {
            Operand::Core(layout) if layout.0.iter().all(is_feature) => {}
            Operand::Core(_) => {
                return Err(site.refuse(
                    Code::UnknownOp,
                    format!("Its input {i} is computed from the tokens."),
                ));
            }
            Operand::External(value, shape) => {
                let name = &site.graph.value(value).name;
                if shape.iter().any(|d| d.constant().is_none()) {
                    return Err(site.refuse(
                        Code::External,
                        format!("Its parameter '{name}' has no constant shape."),
                    ));
                }
                let axes = broadcast_to.map_or(&[][..], |l| &l.0);
                let per_token = shape
                    .iter()
                    .rev()
                    .zip(axes.iter().rev())
                    .any(|(size, axis)| *size != Dim::ONE && !is_feature(axis));
                if per_token {
                    return Err(site.refuse(
                        Code::External,
                        format!("Its parameter '{name}' has an entry per token."),
                    ));
                }
            }
        }
    }
    Ok(())
}
