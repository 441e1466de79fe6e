//! Pass `partition`: per encoder the sizes, the valid and VIP masks, and VccPartition.

use crate::bodies;
use crate::conversion::{Conversion, Encoder, Partition};
use crate::emit::{Emit, Size};
use crate::error::Error;
use crate::plan::{BlockMode, Capacity};
use crate::vip;
use onnx_model::{AttrValue, DataType, Dimension, Tensor, ValueId};
use token_axes::Dim;

/// The name of the budget's graph input (with a number behind it for a second encoder).
pub const BUDGET_INPUT: &str = "vcc_budget";

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let Some(analysis) = c.analysis.take() else {
        return Ok(());
    };
    let streams: Vec<usize> = crate::planning::encoders(&analysis)
        .into_iter()
        .map(|(i, _)| i)
        .collect();
    for (index, stream) in streams.into_iter().enumerate() {
        let encoder = encoder(c, &analysis, index, stream)?;
        c.encoders.push(encoder);
    }
    c.analysis = Some(analysis);
    c.model.import_opset(bodies::DOMAIN, bodies::DOMAIN_VERSION);
    Ok(())
}

fn encoder(
    c: &mut Conversion,
    analysis: &token_axes::Analysis,
    index: usize,
    stream: usize,
) -> Result<Encoder, Error> {
    let plan = c.plan.encoders[index].clone();
    let found = &analysis.streams[stream];
    let rewrite = |reason: &str| Error::Rewrite {
        block: format!("{index}.0"),
        reason: reason.to_owned(),
    };
    let first = found
        .blocks
        .iter()
        .find_map(|b| Some((b.input, b.axes.as_ref().ok()?)));
    let (input, axes) = first.ok_or_else(|| rewrite("nothing to convert"))?;
    let dtype = analysis
        .samples
        .dtype(input)
        .ok_or_else(|| rewrite("the stream's data type is not known"))?;
    let [batch_axis, token_axis, _] = axes.order.positions();
    let mask = mask_input(c, analysis, axes, &plan.mask_input)?;
    let one_row = mask
        .and_then(|m| analysis.samples.shape(m))
        .is_some_and(|s| s.first() == Some(&Dim::ONE) && axes.batch != Dim::ONE);
    let vip_inputs = vip::resolve(
        c,
        &analysis.samples,
        axes,
        &plan.vip,
        mask.filter(|_| !one_row),
    )?;
    let vip_types: Vec<DataType> = vip_inputs
        .iter()
        .map(|v| {
            v.and_then(|v| analysis.samples.dtype(v))
                .unwrap_or(DataType::Int64)
        })
        .collect();
    let budgets = if plan.runtime_budget {
        Some(budget_input(c, &plan)?)
    } else {
        None
    };
    let opset = c.opset();
    let prefix = format!("vcc/encoder{index}");
    let mut e = Emit::new(&mut c.model.graph, opset, prefix.clone());
    let batch = e.dim(input, batch_axis);
    let tokens = e.dim(input, token_axis);
    let rows = e.range(batch);
    let rows = e.unsqueeze(rows, &[1]);
    let base = e.op("Mul", &[rows, tokens], &[]);
    let valid = valid_mask(
        &mut e,
        mask,
        plan.mask_zero_is_valid,
        one_row,
        batch,
        tokens,
    );
    let partition = if plan.blocks.contains(&BlockMode::Vcc) {
        let vip = vip::mask(&mut e, &plan.vip, &vip_inputs, &vip_types, valid);
        Some(partition(&mut e, &plan, vip, valid, batch, budgets))
    } else {
        None
    };
    Ok(Encoder {
        stream,
        input,
        plan,
        prefix,
        dtype,
        batch,
        tokens,
        base,
        valid,
        partition,
    })
}

fn mask_input(
    c: &Conversion,
    analysis: &token_axes::Analysis,
    axes: &token_axes::BlockAxes,
    name: &str,
) -> Result<Option<ValueId>, Error> {
    if name.is_empty() {
        return Ok(None);
    }
    let graph = &c.model.graph;
    let value = graph
        .find_value(name)
        .filter(|&v| graph.is_input(v))
        .ok_or_else(|| Error::Plan(format!("its mask input '{name}' is not a graph input.")))?;
    let shape = analysis.samples.shape(value);
    let fits = |batch| shape.as_deref() == Some(&[batch, axes.tokens]);
    if !fits(axes.batch) && !fits(Dim::ONE) {
        return Err(Error::Usage(format!(
            "The padding mask '{name}' does not have the shape [batch, tokens] of the encoder. Name another input with --mask-input."
        )));
    }
    Ok(Some(value))
}

fn valid_mask(
    e: &mut Emit<'_>,
    mask: Option<ValueId>,
    zero_is_valid: bool,
    one_row: bool,
    batch: ValueId,
    tokens: ValueId,
) -> ValueId {
    let Some(mask) = mask else {
        let shape = e.target(&[Size::Value(batch), Size::Value(tokens)]);
        return e.op(
            "ConstantOfShape",
            &[shape],
            &[(
                "value",
                AttrValue::Tensor(Tensor::from_bools(&[1], &[true])),
            )],
        );
    };
    let mut set = e.cast(mask, DataType::Bool);
    if zero_is_valid {
        set = e.op("Not", &[set], &[]);
    }
    if !one_row {
        return set;
    }
    // One mask for all batch rows is spread over them.
    let shape = e.target(&[Size::Value(batch), Size::Const(1)]);
    e.op("Expand", &[set, shape], &[])
}

/// A graph input with the budget of each level, as VccSelect takes them, whose default is the plan's.
fn budget_input(c: &mut Conversion, plan: &crate::plan::EncoderPlan) -> Result<ValueId, Error> {
    let budgets: Vec<i64> = plan.refine.0.iter().map(|r| r.budget()).collect();
    let graph = &mut c.model.graph;
    let default = graph.add_initializer(BUDGET_INPUT, Tensor::vector_i64(&budgets));
    let name = graph.value(default).name.clone();
    let dims = [Dimension::Value(budgets.len() as i64)];
    Ok(graph.add_input(&name, DataType::Int64, &dims)?)
}

fn partition(
    e: &mut Emit<'_>,
    plan: &crate::plan::EncoderPlan,
    vip: ValueId,
    valid: ValueId,
    batch: ValueId,
    budgets: Option<ValueId>,
) -> Partition {
    let capacity = match plan.vip_capacity {
        Capacity::Auto => 0,
        Capacity::Fixed(n) => n,
    };
    let out = e.vcc(
        "VccPartition",
        &[vip, valid],
        &["item_token", "item_count", "token_slot", "vote", "roots"],
        &[
            ("ladder", AttrValue::Ints(plan.ladder.0.clone())),
            ("capacity", AttrValue::Int(capacity)),
        ],
    );
    let (vote, roots) = (out[3], out[4]);
    let slots = e.dim(vote, 1);
    let segments = e.dim(roots, 1);
    let zero = e.float(DataType::Float, 0.0);
    let shape = e.target(&[
        Size::Value(batch),
        Size::Const(1),
        Size::Value(slots),
        Size::Value(segments),
    ]);
    let uniform = e.op("Expand", &[zero, shape], &[]);
    Partition {
        item_token: out[0],
        item_count: out[1],
        token_slot: out[2],
        vote,
        roots,
        slots,
        uniform,
        budgets,
    }
}
