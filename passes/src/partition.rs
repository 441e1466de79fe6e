//! Pass `partition`: per encoder the sizes, the valid and VIP masks, and VccPartition.

use crate::bodies;
use crate::conversion::{Conversion, Encoder, Partition};
use crate::emit::{Emit, Size};
use crate::error::Error;
use crate::plan::{BlockMode, Capacity, EncoderPlan};
use crate::shapes;
use crate::vip;
use onnx_model::{AttrValue, DataType, Dimension, Tensor, ValueId};
use std::collections::BTreeSet;
use token_axes::{Block, Dim};

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
    let mask = mask(c, analysis, axes, &plan)?;
    let vip_inputs = vip::resolve(
        c,
        &analysis.samples,
        axes,
        &plan.vip,
        mask.as_ref().filter(|m| m.is_plain).map(|m| m.value),
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
    if let Some(mask) = &mask {
        tell_sizes(&mut e, &found.blocks, mask.value, batch, tokens);
    }
    let valid = valid_mask(&mut e, mask.as_ref(), batch, tokens);
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

/// The padding mask as the model has it.
struct Mask {
    value: ValueId,
    zero_is_valid: bool,
    /// `[B, n]`, no more and no less.
    is_plain: bool,
    /// One mask for all batch rows.
    one_row: bool,
}

fn mask(
    c: &Conversion,
    analysis: &token_axes::Analysis,
    axes: &token_axes::BlockAxes,
    plan: &EncoderPlan,
) -> Result<Option<Mask>, Error> {
    let name = &plan.mask_input;
    if name.is_empty() {
        return Ok(None);
    }
    let graph = &c.model.graph;
    let value = graph
        .find_value(name)
        .filter(|v| !axes.layouts.contains_key(v))
        .ok_or_else(|| Error::Plan(format!("its padding mask '{name}' is not in the model.")))?;
    let shape = analysis.samples.shape(value).unwrap_or_default();
    let sizes: Vec<Dim> = shape.iter().copied().filter(|d| *d != Dim::ONE).collect();
    let one_row = sizes == [axes.tokens];
    if !one_row && sizes != [axes.batch, axes.tokens] {
        return Err(Error::Usage(format!(
            "The padding mask '{name}' does not have the shape [batch, tokens] of the encoder. Name another input with --mask-input."
        )));
    }
    let is_plain = shape == [axes.batch, axes.tokens];
    Ok(Some(Mask {
        value,
        zero_is_valid: plan.mask_zero_is_valid,
        is_plain,
        one_row: one_row && !is_plain,
    }))
}

/// A mask may be as long as a value of a block, whose rows depend on the mask from now on: it is told the model's sizes.
fn tell_sizes(e: &mut Emit<'_>, blocks: &[Block], mask: ValueId, batch: ValueId, tokens: ValueId) {
    let layout_of = |value: ValueId| {
        let axes = blocks.iter().filter_map(|b| b.axes.as_ref().ok());
        axes.into_iter().find_map(|a| {
            let known = a.layouts.get(&value);
            known.or_else(|| a.satellites.get(&value)).cloned()
        })
    };
    let mut queue = vec![mask];
    let mut seen = BTreeSet::from([mask]);
    while let Some(value) = queue.pop() {
        let Some((id, _)) = e.graph.value(value).producer() else {
            continue;
        };
        let inputs: Vec<ValueId> = e.graph.node(id).inputs.iter().flatten().copied().collect();
        let shape_only = token_axes::reach::reads_shape_only(e.graph, id);
        match inputs
            .first()
            .filter(|_| shape_only)
            .and_then(|&v| layout_of(v))
        {
            Some(layout) => shapes::answer(e, id, &layout, batch, tokens),
            None => queue.extend(inputs.into_iter().filter(|&v| seen.insert(v))),
        }
    }
}

fn valid_mask(e: &mut Emit<'_>, mask: Option<&Mask>, batch: ValueId, tokens: ValueId) -> ValueId {
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
    let mut set = e.cast(mask.value, DataType::Bool);
    if mask.zero_is_valid {
        set = e.op("Not", &[set], &[]);
    }
    if mask.is_plain {
        return set;
    }
    let rows = if mask.one_row {
        Size::Const(1)
    } else {
        Size::Value(batch)
    };
    set = e.reshape(set, &[rows, Size::Value(tokens)]);
    if !mask.one_row {
        return set;
    }
    // One mask for all batch rows is spread over them.
    let shape = e.target(&[Size::Value(batch), Size::Const(1)]);
    e.op("Expand", &[set, shape], &[])
}

/// A graph input with the budget of each level, as VccSelect takes them, whose default is the plan's.
fn budget_input(c: &mut Conversion, plan: &EncoderPlan) -> Result<ValueId, Error> {
    let budgets: Vec<i64> = plan.refine.0.iter().map(|r| r.budget()).collect();
    let graph = &mut c.model.graph;
    let default = graph.add_initializer(BUDGET_INPUT, Tensor::vector_i64(&budgets));
    let name = graph.value(default).name.clone();
    let dims = [Dimension::Value(budgets.len() as i64)];
    Ok(graph.add_input(&name, DataType::Int64, &dims)?)
}

fn partition(
    e: &mut Emit<'_>,
    plan: &EncoderPlan,
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
