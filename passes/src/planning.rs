//! Pass `plan`: from what was asked for and what was found to what is done.

use crate::conversion::Conversion;
use crate::error::Error;
use crate::plan::{
    BlockMode, BlockSpec, Capacity, Device, EncoderPlan, Ladder, Plan, Refine, Refinements,
    VipSpec, VipTerm,
};
use std::collections::{BTreeMap, BTreeSet};
use token_axes::padding::padding_mask;
use token_axes::{Analysis, Stream};

/// Options of one encoder; what is `None` has its default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EncoderOptions {
    /// `--vip`
    pub vip: Option<VipSpec>,
    /// `--vip-capacity`
    pub vip_capacity: Option<Capacity>,
    /// `--ladder`
    pub ladder: Option<Ladder>,
    /// `--refine`
    pub refine: Option<Refinements>,
    /// `--blocks`
    pub blocks: Option<BlockSpec>,
    /// `--reselect-every`
    pub reselect_every: Option<usize>,
    /// `--mask-input`
    pub mask_input: Option<String>,
    /// `--runtime-budget`
    pub runtime_budget: bool,
    /// `--device`
    pub device: Option<Device>,
}

/// What is asked of a conversion.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Options for all encoders, and for single ones.
    Options(EncoderOptions, BTreeMap<usize, EncoderOptions>),
    /// A plan as it was written.
    Plan(Plan),
}

impl Default for Request {
    fn default() -> Self {
        Request::Options(EncoderOptions::default(), BTreeMap::new())
    }
}

/// Segments refined when nothing is said: r = 1022 at n = 4096 with k = 16.
const DEFAULT_REFINE: Refine = Refine::Count(51);

/// The streams that have a block to convert.
pub(crate) fn encoders(analysis: &Analysis) -> Vec<(usize, &Stream)> {
    analysis
        .streams
        .iter()
        .enumerate()
        .filter(|(_, s)| !s.convertible().is_empty())
        .collect()
}

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let Some(analysis) = &c.analysis else {
        return Ok(());
    };
    let encoders = encoders(analysis);
    if encoders.is_empty() {
        return Err(Error::NothingToConvert(why_nothing(analysis)));
    }
    c.plan = match &c.request {
        Request::Plan(plan) => {
            check(plan, &encoders)?;
            plan.clone()
        }
        Request::Options(common, single) => {
            if let Some((&index, _)) = single.iter().find(|(i, _)| **i >= encoders.len()) {
                return Err(Error::Usage(format!(
                    "An option names encoder {index}, but the model has {} (numbered from 0).",
                    encoders.len()
                )));
            }
            let none = EncoderOptions::default();
            let plans = encoders.iter().enumerate().map(|(i, (_, stream))| {
                plan_of(c, analysis, stream, common, single.get(&i).unwrap_or(&none))
            });
            Plan {
                encoders: plans.collect::<Result<_, _>>()?,
            }
        }
    };
    let converted = c
        .plan
        .encoders
        .iter()
        .flat_map(|e| &e.blocks)
        .any(|m| *m != BlockMode::Full);
    if !converted {
        return Err(Error::Usage("The plan leaves every block as it is.".into()));
    }
    Ok(())
}

fn why_nothing(analysis: &Analysis) -> String {
    let refusals: Vec<String> = analysis
        .streams
        .iter()
        .enumerate()
        .flat_map(|(s, stream)| {
            stream
                .blocks
                .iter()
                .enumerate()
                .map(move |(b, block)| (s, b, block))
        })
        .filter_map(|(s, b, block)| {
            block
                .axes
                .as_ref()
                .err()
                .map(|r| format!("block {s}.{b}: {r}"))
        })
        .collect();
    match refusals.first() {
        None => "E-NO-BLOCKS: No self-attention over a residual stream was found, so there is nothing to compress. `vcc inspect` shows what the model holds.".into(),
        Some(first) if refusals.len() == 1 => format!("E-ALL-REFUSED: The one block found cannot be converted. {first}"),
        Some(first) => format!(
            "E-ALL-REFUSED: None of the {} blocks found can be converted. {first} (`vcc inspect` lists the others.)",
            refusals.len()
        ),
    }
}

fn plan_of(
    c: &Conversion,
    analysis: &Analysis,
    stream: &Stream,
    common: &EncoderOptions,
    single: &EncoderOptions,
) -> Result<EncoderPlan, Error> {
    fn pick<T: Clone>(single: &Option<T>, common: &Option<T>) -> Option<T> {
        single.clone().or_else(|| common.clone())
    }
    let vip = pick(&single.vip, &common.vip).unwrap_or(VipSpec(vec![VipTerm::First(1)]));
    let ladder = pick(&single.ladder, &common.ladder).unwrap_or(Ladder(vec![16, 1]));
    let refine = match pick(&single.refine, &common.refine) {
        Some(refine) if refine.0.len() == ladder.levels() => refine,
        // One budget for a deeper ladder: the same at each level.
        Some(refine) if refine.0.len() == 1 => Refinements(vec![refine.0[0]; ladder.levels()]),
        Some(refine) => {
            return Err(Error::Usage(format!(
                "--refine has {} values, but the ladder {ladder} has {} levels of segments.",
                refine.0.len(),
                ladder.levels()
            )));
        }
        None => Refinements(vec![DEFAULT_REFINE; ladder.levels()]),
    };
    let count = stream.blocks.len();
    let spec = pick(&single.blocks, &common.blocks);
    let mut blocks = match &spec {
        Some(spec) => spec.modes(count)?,
        None => vec![BlockMode::Vcc; count],
    };
    // A range may run over refused blocks, which stay as they are; one that is asked for by its number may not be ignored.
    for number in spec.iter().flat_map(BlockSpec::single) {
        if let (true, Err(refusal)) = (
            blocks[number] != BlockMode::Full,
            &stream.blocks[number].axes,
        ) {
            return Err(Error::Usage(format!(
                "--blocks asks for block {number}, which cannot be converted. {refusal}"
            )));
        }
    }
    for (mode, block) in blocks.iter_mut().zip(&stream.blocks) {
        if block.axes.is_err() {
            *mode = BlockMode::Full;
        }
    }
    let (mask_input, mask_zero_is_valid) = match pick(&single.mask_input, &common.mask_input) {
        Some(name) => {
            if !c
                .model
                .graph
                .find_value(&name)
                .is_some_and(|v| c.model.graph.is_input(v))
            {
                return Err(Error::Usage(format!(
                    "--mask-input '{name}' is not a graph input; the inputs are {}.",
                    input_names(c)
                )));
            }
            (name, false)
        }
        None => match padding_mask(&c.model.graph, &analysis.samples, &stream.convertible()) {
            Some(mask) => (
                c.model.graph.value(mask.value).name.clone(),
                mask.zero_is_valid,
            ),
            None => (String::new(), false),
        },
    };
    Ok(EncoderPlan {
        vip_capacity: pick(&single.vip_capacity, &common.vip_capacity)
            .unwrap_or_else(|| vip.default_capacity()),
        vip,
        ladder,
        refine,
        reselect_every: pick(&single.reselect_every, &common.reselect_every).unwrap_or(1),
        runtime_budget: single.runtime_budget || common.runtime_budget,
        device: pick(&single.device, &common.device).unwrap_or_default(),
        count_weight: 1.0,
        mask_input,
        mask_zero_is_valid,
        blocks,
    })
}

pub(crate) fn input_names(c: &Conversion) -> String {
    let names: BTreeSet<&str> = c
        .model
        .graph
        .inputs()
        .iter()
        .filter(|&&v| !c.model.graph.is_initializer(v))
        .map(|&v| c.model.graph.value(v).name.as_str())
        .collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn check(plan: &Plan, encoders: &[(usize, &Stream)]) -> Result<(), Error> {
    if plan.encoders.len() != encoders.len() {
        return Err(Error::Plan(format!(
            "it has {} encoders, the model {}.",
            plan.encoders.len(),
            encoders.len()
        )));
    }
    for (index, (plan, (_, stream))) in plan.encoders.iter().zip(encoders).enumerate() {
        let refuse = |what: String| Err(Error::Plan(format!("encoder {index}: {what}")));
        if plan.blocks.len() != stream.blocks.len() {
            return refuse(format!(
                "it has {} blocks, the model {}.",
                plan.blocks.len(),
                stream.blocks.len()
            ));
        }
        if plan.refine.0.len() != plan.ladder.levels() {
            return refuse(format!(
                "{} budgets for the {} levels of ladder {}.",
                plan.refine.0.len(),
                plan.ladder.levels(),
                plan.ladder
            ));
        }
        if plan.reselect_every == 0 || !plan.count_weight.is_finite() {
            return refuse("reselect_every must be at least 1 and count_weight finite.".into());
        }
        for (number, (mode, block)) in plan.blocks.iter().zip(&stream.blocks).enumerate() {
            if let (true, Err(refusal)) = (*mode != BlockMode::Full, &block.axes) {
                return refuse(format!(
                    "block {number} is to be {mode}, but cannot be converted. {refusal}"
                ));
            }
        }
    }
    Ok(())
}
