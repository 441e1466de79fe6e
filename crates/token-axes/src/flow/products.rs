//! Products: projections contract features with weights; the attention contracts features of queries and keys, then
//! normalised keys with values. No other contraction may run over tokens.

use super::elementwise::parameters;
use super::{Flow, FrameAxis, Operand, Site};
use crate::dim::Dim;
use crate::layout::{Axis, Layout, Role, axis_size, feature, has_batch, has_tokens, is_feature};
use crate::refusal::{Code, Refusal};
use std::collections::BTreeMap;

pub(super) fn apply(site: &Site<'_>) -> Result<Flow, Refusal> {
    match site.node.op_type.as_str() {
        "Conv" => conv(site),
        "Gemm" => gemm(site),
        "Einsum" => einsum(site),
        _ => matmul(site, [0, 1]),
    }
}

/// The axes of an operand named by letters.
enum Side {
    Core(Vec<Axis>),
    External(onnx_model::ValueId, Vec<Dim>),
}

/// How an operand without a batch axis gets one.
#[derive(Clone, Copy, PartialEq)]
enum Growth {
    /// It is broadcast over all leading axes.
    Leading,
    /// A letter more is written in its term of the equation.
    Letter,
}

/// By operand, the letters of the axes that it gets in front.
type Grown = BTreeMap<usize, Vec<char>>;

/// The letters of the axes that an operand gets in front when it is taken at the rows of each batch row.
fn grown_by(
    axes: &BTreeMap<char, Axis>,
    output: &[char],
    letters: &[char],
    growth: Growth,
) -> Vec<char> {
    let of = |role: fn(&Axis) -> bool, l: &char| axes.get(l).is_some_and(role);
    if letters.iter().any(|l| of(has_batch, l)) || !letters.iter().any(|l| of(has_tokens, l)) {
        return Vec::new();
    }
    let Some(batch) = output.iter().find(|l| of(has_batch, l)) else {
        return Vec::new();
    };
    match growth {
        Growth::Leading => output[..output.len().saturating_sub(letters.len())].to_vec(),
        // An ellipsis stands for several.
        Growth::Letter if batch.is_ascii_digit() => output
            .iter()
            .copied()
            .filter(|l| l.is_ascii_digit() && !letters.contains(l))
            .collect(),
        Growth::Letter => vec![*batch],
    }
}

/// A product over shared letters, as einsum writes it. Letters of size 1 broadcast.
fn contract(
    site: &Site<'_>,
    inputs: &[(usize, Vec<char>)],
    output: &[char],
    growth: Growth,
) -> Result<(Flow, Grown), Refusal> {
    let mut flow = Flow::default();
    let mut sides = Vec::new();
    for (input, letters) in inputs {
        let side = match site.factor(*input)? {
            Operand::Core(layout) => {
                let summed = |axis| letters.get(axis).is_some_and(|l| !output.contains(l));
                let axes = without_batch_of_one(&layout.0, summed);
                if axes != layout.0 {
                    flow.regrouped.push((*input, Layout(axes.clone())));
                }
                Side::Core(axes)
            }
            Operand::External(value, shape) => Side::External(value, shape),
        };
        let rank = match &side {
            Side::Core(axes) => axes.len(),
            Side::External(_, shape) => shape.len(),
        };
        if rank != letters.len() {
            return Err(site.refuse(
                Code::Axes,
                format!(
                    "An operand with {rank} axes where {} are named.",
                    letters.len()
                ),
            ));
        }
        sides.push((*input, letters, side));
    }
    let mut axes: BTreeMap<char, Axis> = BTreeMap::new();
    for (_, letters, side) in &sides {
        let Side::Core(operand) = side else { continue };
        for (&letter, axis) in letters.iter().zip(operand) {
            let known = axes.entry(letter).or_default();
            let contracted = !output.contains(&letter);
            if contracted && !known.is_empty() && has_tokens(axis) {
                let attended = |a: &Axis| a.iter().any(|f| f.role == Role::Attended);
                if !(attended(known) || attended(axis)) || axis_size(known) != axis_size(axis) {
                    return Err(site.refuse(
                        Code::TokenMixing,
                        "Tokens are summed up without a softmax over them.",
                    ));
                }
                if attended(axis) {
                    known.clone_from(axis);
                }
                continue;
            }
            if known.is_empty() {
                known.clone_from(axis);
            } else if !axis.is_empty()
                && (axis_size(known) != axis_size(axis) || is_feature(known) != is_feature(axis))
            {
                return Err(site.refuse(
                    Code::Axes,
                    format!("Axes {known:?} and {axis:?} are multiplied."),
                ));
            }
        }
    }
    for (_, letters, side) in &sides {
        let Side::External(value, shape) = side else {
            continue;
        };
        // A weight's own axis is a feature, whatever its size; only a value of the tokens may bring tokens. Where their number is
        // fixed a table of relative positions is constant too: it runs over tokens elsewhere. (An axis that is taken for tokens
        // by mistake meets none, and the block cannot end as it began.)
        let weight = site.samples.0.iter().all(|f| f.constant(*value))
            && !letters
                .iter()
                .any(|l| axes.get(l).is_some_and(has_tokens) && output.contains(l));
        for (&letter, &size) in letters.iter().zip(shape) {
            let known = axes.entry(letter).or_default();
            if known.is_empty() && size != Dim::ONE {
                *known = if weight {
                    feature(size)
                } else {
                    site.own_axis(size)
                };
            } else if size != Dim::ONE && axis_size(known) != size {
                return Err(site.refuse(
                    Code::Axes,
                    format!("An axis of size {size:?} meets {known:?}."),
                ));
            }
        }
    }
    // What is summed up must be features, or attended tokens that two operands carry: an external is taken at the rows.
    for (letter, axis) in &axes {
        if output.contains(letter) || is_feature(axis) {
            continue;
        }
        let carries = |letters: &[char], side: &Side| match side {
            Side::Core(_) => letters.contains(letter),
            Side::External(_, shape) => letters
                .iter()
                .zip(shape)
                .any(|(l, size)| l == letter && *size != Dim::ONE),
        };
        let carriers = sides
            .iter()
            .filter(|(_, letters, side)| carries(letters, side))
            .count();
        if has_batch(axis) || carriers < 2 || !axis.iter().any(|f| f.role == Role::Attended) {
            return Err(site.refuse(Code::TokenMixing, "Tokens are summed up inside the block."));
        }
    }
    let mut grown = Grown::new();
    for (input, letters, side) in &sides {
        match side {
            Side::Core(operand) => {
                for (i, (letter, axis)) in letters.iter().zip(operand).enumerate() {
                    if let Some(o) = output.iter().position(|l| l == letter)
                        && has_tokens(axis)
                    {
                        flow.links.push((o, *input, i));
                    }
                }
            }
            Side::External(value, shape) => {
                // Each batch row has rows of its own: axes that only the output has stand in front, so that a gather has a place
                // for the batch.
                let more = grown_by(&axes, output, letters, growth);
                let mut frame: Vec<FrameAxis> = Vec::new();
                for letter in &more {
                    let axis = axes.get(letter).cloned().unwrap_or_default();
                    frame.push(FrameAxis {
                        present: false,
                        axis,
                    });
                }
                for (letter, size) in letters.iter().zip(shape) {
                    let axis = axes.get(letter).cloned().unwrap_or_default();
                    frame.push(FrameAxis {
                        present: *size != Dim::ONE && !axis.is_empty(),
                        axis,
                    });
                }
                let all = more.iter().chain(letters.iter());
                for (i, letter) in all.enumerate() {
                    if let Some(o) = output.iter().position(|l| l == letter)
                        && frame[i].present
                        && has_tokens(&frame[i].axis)
                    {
                        flow.links.push((o, *input, i));
                    }
                }
                flow.externals.extend(site.external(*input, *value, frame)?);
                if !more.is_empty() {
                    grown.insert(*input, more);
                }
            }
        }
    }
    let out = Layout(
        output
            .iter()
            .map(|l| axes.get(l).cloned().unwrap_or_default())
            .collect(),
    );
    flow.outputs = site.all_outputs(out);
    Ok((flow, grown))
}

/// A batch of one that a Reshape has left in front of features belongs to the tokens before them as well: there it is not
/// summed up.
fn without_batch_of_one(axes: &[Axis], is_summed: impl Fn(usize) -> bool) -> Vec<Axis> {
    let mut axes = axes.to_vec();
    for i in (1..axes.len()).filter(|&i| is_summed(i)) {
        let (before, rest) = axes.split_at_mut(i);
        let (Some(before), Some(axis)) = (before.last_mut(), rest.first_mut()) else {
            continue;
        };
        let is_one = |axis: &Axis| {
            axis.first()
                .is_some_and(|f| f.role == Role::Batch && f.size == Dim::ONE)
        };
        if has_tokens(before) && is_one(axis) {
            before.push(axis.remove(0));
        }
    }
    axes
}

fn rank_of(site: &Site<'_>, input: usize) -> Result<usize, Refusal> {
    Ok(site.operand(input)?.rank())
}

/// A product of two inputs over their last axes but for what the attributes transpose.
pub(super) fn matmul(site: &Site<'_>, factors: [usize; 2]) -> Result<Flow, Refusal> {
    let [rank_a, rank_b] = [rank_of(site, factors[0])?, rank_of(site, factors[1])?];
    if rank_a < 2 || rank_b < 2 {
        return Err(site.refuse(Code::UnknownOp, "A product with a vector."));
    }
    // Batch letters are shared from the right; 'm', 'k', 'p' are the matrix axes.
    let most = rank_a.max(rank_b);
    let batch_letters = |rank: usize| -> Vec<char> {
        (0..rank - 2)
            .map(|i| char::from_u32('A' as u32 + (most - rank + i) as u32).unwrap_or('?'))
            .collect()
    };
    let flag = |name| site.node.attr_int(name).unwrap_or(0) != 0;
    let letters = |rank: usize, matrix: [char; 2], last: bool, batch: bool| {
        let mut all = batch_letters(rank);
        all.extend(matrix);
        if last {
            all.swap(rank - 2, rank - 1);
        }
        if batch {
            // The batch axes stand between the two of the matrix.
            all[..rank - 1].rotate_right(1);
        }
        all
    };
    let a = letters(rank_a, ['m', 'k'], flag("transA"), flag("transBatchA"));
    let b = letters(rank_b, ['k', 'p'], flag("transB"), flag("transBatchB"));
    let mut out = batch_letters(most);
    out.extend(['m', 'p']);
    let factors = [(factors[0], a), (factors[1], b)];
    let (flow, grown) = contract(site, &factors, &out, Growth::Leading)?;
    if !grown.is_empty() && (flag("transBatchA") || flag("transBatchB")) {
        return Err(site.refuse(
            Code::UnknownOp,
            "A factor without the batch stands between transposed batch axes.",
        ));
    }
    Ok(flow)
}

fn gemm(site: &Site<'_>) -> Result<Flow, Refusal> {
    let mut flow = matmul(site, [0, 1])?;
    if site.input(2).is_some() {
        let whole = flow
            .outputs
            .first()
            .map(|(_, l)| l.clone())
            .unwrap_or_default();
        if site.input(2).is_some_and(|v| site.core.contains_key(&v)) {
            // A residual connection.
            let added = site.core_operand(2)?;
            if !same_rows(&added, &whole) {
                return Err(
                    site.refuse(Code::Axes, format!("It adds {added} to a product {whole}."))
                );
            }
            flow.links.extend(site.same_axes(&whole, 2));
        } else {
            parameters(site, 2..3, Some(&whole))?;
        }
        for (_, layout) in &mut flow.outputs {
            layout.weaken();
        }
    }
    Ok(flow)
}

/// Whether batch and tokens are the same, and features of one size.
fn same_rows(a: &Layout, b: &Layout) -> bool {
    let same = |(a, b): (&Axis, &Axis)| {
        if is_feature(a) && is_feature(b) {
            axis_size(a) == axis_size(b)
        } else {
            a == b
        }
    };
    a.0.len() == b.0.len() && a.0.iter().zip(&b.0).all(same)
}

fn einsum(site: &Site<'_>) -> Result<Flow, Refusal> {
    let equation: String = site
        .node
        .attr_str("equation")
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect();
    let unknown = |why: &str| site.refuse(Code::UnknownOp, format!("Einsum '{equation}' {why}."));
    let (left, right) = equation
        .split_once("->")
        .ok_or_else(|| unknown("without an explicit output"))?;
    // An ellipsis stands for the leading axes; '0', '1', .. from the right name them.
    let most = left
        .split(',')
        .enumerate()
        .map(|(i, s)| Ok(rank_of(site, i)?.saturating_sub(s.replace("...", "").len())))
        .collect::<Result<Vec<_>, Refusal>>()?
        .into_iter()
        .max()
        .unwrap_or(0);
    let letters = |term: &str, axes: usize| -> Vec<char> {
        let spread: String = (0..axes)
            .rev()
            .filter_map(|i| char::from_digit(i as u32, 10))
            .collect();
        term.replace("...", &spread).chars().collect()
    };
    let inputs: Vec<(usize, Vec<char>)> = left
        .split(',')
        .enumerate()
        .map(|(i, s)| {
            Ok((
                i,
                letters(
                    s,
                    rank_of(site, i)?.saturating_sub(s.replace("...", "").len()),
                ),
            ))
        })
        .collect::<Result<_, Refusal>>()?;
    let output = letters(right, most);
    if inputs.len() != site.node.inputs.len()
        || left.split(',').any(|s| s.matches("...").count() > 1)
    {
        return Err(unknown("does not fit its inputs"));
    }
    if let [(_, only)] = &inputs[..]
        && only.iter().any(|l| !output.contains(l))
    {
        return Err(unknown("as a reduction"));
    }
    let (mut flow, more) = contract(site, &inputs, &output, Growth::Letter)?;
    if !more.is_empty() {
        let terms: Vec<String> = left
            .split(',')
            .enumerate()
            .map(|(i, term)| match more.get(&i).and_then(|m| m.first()) {
                None => term.to_owned(),
                Some(l) if !l.is_ascii_digit() => format!("{l}{term}"),
                Some(_) if term.contains("...") => term.to_owned(),
                Some(_) => format!("...{term}"),
            })
            .collect();
        flow.equation = Some(format!("{}->{right}", terms.join(",")));
    }
    Ok(flow)
}

/// `[B, C, n]` with kernel 1 is a projection of each token.
fn conv(site: &Site<'_>) -> Result<Flow, Refusal> {
    let mut layout = site.core_operand(0)?;
    parameters(site, 1..site.node.inputs.len(), None)?;
    layout.weaken();
    let ones = |name: &str| {
        site.node
            .attr_ints(name)
            .is_none_or(|v| v.iter().all(|&x| x == 1))
    };
    let zeros = site
        .node
        .attr_ints("pads")
        .is_none_or(|v| v.iter().all(|&x| x == 0));
    let kernel = site
        .input(1)
        .and_then(|v| site.samples.shape(v))
        .map(|s| s.iter().skip(2).all(|&d| d == Dim::ONE));
    if kernel != Some(true) || !ones("strides") || !zeros {
        return Err(site.refuse(Code::TokenMixing, "A convolution over tokens."));
    }
    if layout.0.len() < 3 || !is_feature(&layout.0[1]) || has_tokens(&layout.0[0]) {
        return Err(site.refuse(Code::Axes, format!("A convolution of {layout}.")));
    }
    layout.0[1] = feature(site.output_shape(0)?[1]);
    Ok(Flow {
        links: site.same_axes(&layout, 0),
        outputs: site.all_outputs(layout),
        ..Flow::default()
    })
}
