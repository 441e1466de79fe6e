//! Operators on quantised values: codes, a scale and a zero point each, that compute as the operators on numbers do.
//!
//! A weight of 0 has the zero point for its code. Only a product with the same zero point may sum over keys after that.

use super::elementwise::{broadcast, parameters};
use super::movement::concat;
use super::products::matmul;
use super::{Flow, Operand, Site};
use crate::dim::Dim;
use crate::layout::{Layout, feature, is_feature};
use crate::refusal::{Code, Refusal};
use onnx_model::ValueId;

pub(super) fn knows(op: &str) -> bool {
    op.starts_with("QLinear")
        || matches!(
            op,
            "DynamicQuantizeMatMul"
                | "MatMulBnb4"
                | "MatMulInteger"
                | "MatMulIntegerToFloat"
                | "MatMulNBits"
                | "QGemm"
        )
}

pub(super) fn apply(site: &Site<'_>) -> Result<Flow, Refusal> {
    let op = site.node.op_type.as_str();
    let mut flow = match op {
        "MatMulInteger" => product(site, [0, 1], &[2], &[3])?,
        "MatMulIntegerToFloat" => product(site, [0, 1], &[2, 4], &[3, 5, 6])?,
        "DynamicQuantizeMatMul" => product(site, [0, 1], &[], &[2, 3, 4])?,
        "QLinearMatMul" => product(site, [0, 3], &[1, 2, 6, 7], &[4, 5])?,
        "QGemm" => product(site, [0, 3], &[1, 2, 7, 8], &[4, 5, 6])?,
        "MatMulNBits" | "MatMulBnb4" => packed_product(site)?,
        "QLinearAdd" | "QLinearMul" => {
            one_number_each(site, &[1, 2, 4, 5, 6, 7])?;
            broadcast(site, &[0, 3])?
        }
        "QLinearWhere" => {
            one_number_each(site, &[2, 3, 5, 6, 7, 8])?;
            broadcast(site, &[0, 1, 4])?
        }
        "QLinearLeakyRelu" | "QLinearSigmoid" => {
            one_number_each(site, &[1, 2, 3, 4])?;
            broadcast(site, &[0])?
        }
        "QLinearSoftmax" => {
            one_number_each(site, &[1, 2, 3, 4])?;
            softmax_over_features(site)?
        }
        "QLinearConcat" => {
            let inputs: Vec<usize> = (2..site.node.inputs.len()).step_by(3).collect();
            for &i in &inputs {
                one_number_each(site, &[i + 1, i + 2])?;
            }
            one_number_each(site, &[0, 1])?;
            concat(site, &inputs)?
        }
        "QLinearAveragePool" | "QLinearGlobalAveragePool" => {
            return Err(site.refuse(
                Code::TokenMixing,
                format!("{op} mixes neighbouring tokens."),
            ));
        }
        _ => {
            return Err(site.refuse(
                Code::UnknownOp,
                format!(
                    "The operator '{op}' is not known to treat tokens alike. Quantised as \
                     QuantizeLinear and DequantizeLinear around operators on numbers it would be."
                ),
            ));
        }
    };
    for (_, layout) in &mut flow.outputs {
        layout.weaken();
    }
    Ok(flow)
}

/// A product of two inputs. `numbers` are parameters of the first one and of the output, `columns` may have an entry for each
/// column of the second one.
fn product(
    site: &Site<'_>,
    factors: [usize; 2],
    numbers: &[usize],
    columns: &[usize],
) -> Result<Flow, Refusal> {
    let mut flow = matmul(site, factors)?;
    one_number_each(site, numbers)?;
    let output = flow.outputs.first().map(|(_, l)| l.clone());
    for &i in columns {
        // A scale computed from all tokens (dynamic quantisation) has no axes, and does not depend on their order.
        if !site.is_core(i) || !site.core_operand(i)?.0.is_empty() {
            parameters(site, i..i + 1, output.as_ref())?;
        }
    }
    flow.outputs.truncate(1);
    Ok(flow)
}

/// Scales and zero points that must be one number each, given or computed from all tokens.
fn one_number_each(site: &Site<'_>, inputs: &[usize]) -> Result<(), Refusal> {
    for &i in inputs {
        if site.input(i).is_none() {
            continue;
        }
        let one = match site.operand(i)? {
            Operand::Core(layout) => layout.0.iter().all(Vec::is_empty),
            operand => operand.is_one_number(),
        };
        if !one {
            return Err(site.refuse(
                Code::UnknownOp,
                format!("Its scale or zero point at input {i} is not one number."),
            ));
        }
    }
    Ok(())
}

/// Packed weights, whose columns are an attribute.
fn packed_product(site: &Site<'_>) -> Result<Flow, Refusal> {
    let mut layout = site.core_operand(0)?;
    parameters(site, 1..site.node.inputs.len(), None)?;
    let columns = site.node.attr_int("N").unwrap_or(1);
    match layout.0.last_mut() {
        Some(last) if is_feature(last) => *last = feature(Dim([columns; crate::dim::SAMPLES])),
        _ => return Err(site.refuse(Code::TokenMixing, "Tokens are multiplied by weights.")),
    }
    Ok(Flow {
        links: site.same_axes(&layout, 0),
        outputs: site.all_outputs(layout),
        ..Flow::default()
    })
}

fn softmax_over_features(site: &Site<'_>) -> Result<Flow, Refusal> {
    let layout = site.core_operand(0)?;
    let axis = site.axis(site.node.attr_int("axis").unwrap_or(-1), layout.0.len())?;
    // Before opset 13 all axes from this one on are normalised together.
    if !layout.0[axis..].iter().all(is_feature) {
        return Err(site.refuse(Code::TokenMixing, "A quantised softmax over tokens."));
    }
    broadcast(site, &[0])
}

impl Site<'_> {
    /// A factor of a product: what it holds as numbers, if it holds codes.
    pub(crate) fn factor(&self, input: usize) -> Result<Operand, Refusal> {
        let zero_point = match (self.node.op_type.as_str(), input) {
            ("MatMulInteger", 0) | ("QLinearMatMul" | "QGemm", 0) => 2,
            ("MatMulInteger", 1) => 3,
            ("MatMulIntegerToFloat", 0) => 4,
            ("MatMulIntegerToFloat", 1) | ("QLinearMatMul" | "QGemm", 3) => 5,
            _ => return self.operand(input),
        };
        Ok(match self.operand(input)? {
            Operand::Core(_) => Operand::Core(self.dequantised(input, self.input(zero_point))?),
            external => external,
        })
    }

    /// The layout of the numbers that a core input holds in quantised form, with its zero point at another input. Weights that
    /// a softmax left stay weights behind a quantisation: 0 becomes the zero point, and comes back from the same one as 0.
    pub(crate) fn dequantised(
        &self,
        index: usize,
        zero_point: Option<ValueId>,
    ) -> Result<Layout, Refusal> {
        let layout = self.core_operand(index)?;
        let producer = self
            .input(index)
            .and_then(|v| self.graph.value(v).producer());
        let Some(quantiser) = producer.map(|(id, _)| self.graph.node(id)) else {
            return Ok(layout);
        };
        let at = |values: &[Option<ValueId>]| values.get(2).copied().flatten();
        let zero = match quantiser.op_type.as_str() {
            "QuantizeLinear" => at(&quantiser.inputs),
            "DynamicQuantizeLinear" => at(&quantiser.outputs),
            _ => return Ok(layout),
        };
        let number = |v: Option<ValueId>| v.map_or(Some(0.0), |v| self.one_number(v));
        let same =
            zero == zero_point || number(zero).is_some_and(|z| number(zero_point) == Some(z));
        let numbers = quantiser.inputs.first().copied().flatten();
        match numbers.and_then(|v| self.core.get(&v)) {
            Some(before) if same => Ok(before.clone()),
            _ => Ok(layout),
        }
    }
}
