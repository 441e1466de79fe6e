//! What a conversion did, for people and for scripts.

use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use token_axes::Block;
use vcc_passes::Conversion;
use vcc_passes::plan::{BlockMode, EncoderPlan};

#[derive(Serialize)]
pub(crate) struct Report {
    source: String,
    output: String,
    form: &'static str,
    encoders: Vec<Encoder>,
}

#[derive(Serialize)]
struct Encoder {
    vip: String,
    vip_capacity: String,
    ladder: String,
    refine: String,
    reselect_every: usize,
    mask_input: Option<String>,
    blocks: Vec<BlockReport>,
}

#[derive(Serialize)]
struct BlockReport {
    index: usize,
    name: String,
    mode: String,
    refusal: Option<token_axes::Refusal>,
    /// What is read of its output, if not all tokens.
    read: Option<String>,
}

/// What is read of a block's output, if not all tokens.
pub(crate) fn read(conversion: &Conversion, encoder: usize, block: usize) -> Option<&str> {
    let mut all = conversion.partly_read.iter();
    let found = all.find(|r| (r.encoder, r.block) == (encoder, block))?;
    Some(&found.what)
}

/// The streams that are encoders of the plan, with their plans.
fn encoders(conversion: &Conversion) -> Vec<(&EncoderPlan, &[Block])> {
    let streams = conversion
        .analysis
        .iter()
        .flat_map(|a| &a.streams)
        .filter(|s| !s.convertible().is_empty());
    conversion
        .plan
        .encoders
        .iter()
        .zip(streams.map(|s| &s.blocks[..]))
        .collect()
}

pub(crate) fn conversion(conversion: &Conversion, source: &Path, output: &Path) -> Report {
    let encoders = encoders(conversion)
        .into_iter()
        .enumerate()
        .map(|(encoder, (plan, blocks))| Encoder {
            vip: plan.vip.to_string(),
            vip_capacity: plan.vip_capacity.to_string(),
            ladder: plan.ladder.to_string(),
            refine: plan.refine.to_string(),
            reselect_every: plan.reselect_every,
            mask_input: (!plan.mask_input.is_empty()).then(|| plan.mask_input.clone()),
            blocks: blocks
                .iter()
                .zip(&plan.blocks)
                .enumerate()
                .map(|(index, (block, mode))| BlockReport {
                    index,
                    name: block.name.clone(),
                    mode: mode.to_string(),
                    refusal: block.axes.as_ref().err().cloned(),
                    read: read(conversion, encoder, index).map(str::to_owned),
                })
                .collect(),
        })
        .collect();
    Report {
        source: source.display().to_string(),
        output: output.display().to_string(),
        form: conversion.form.as_str(),
        encoders,
    }
}

/// A few lines for the terminal.
pub(crate) fn summary(conversion: &Conversion) -> String {
    let mut out = String::new();
    for (index, (plan, blocks)) in encoders(conversion).into_iter().enumerate() {
        let count = |m: fn(&BlockMode) -> bool| plan.blocks.iter().filter(|b| m(b)).count();
        let _ = writeln!(
            out,
            "encoder {index}: {} blocks: {} vcc, {} local, {} as they were",
            blocks.len(),
            count(|m| *m == BlockMode::Vcc),
            count(|m| matches!(m, BlockMode::Local(_))),
            count(|m| *m == BlockMode::Full)
        );
        for (number, block) in blocks.iter().enumerate() {
            if let Err(refusal) = &block.axes {
                let _ = writeln!(out, "  block {number} {}: {refusal}", block.name);
            }
        }
        for number in 0..blocks.len() {
            if let Some(what) = read(conversion, index, number) {
                let _ = writeln!(out, "  block {number}: {what}");
            }
        }
        let mask = if plan.mask_input.is_empty() {
            "none found, all tokens count as valid (--mask-input names one)".to_owned()
        } else {
            plan.mask_input.clone()
        };
        let _ = writeln!(out, "  padding mask: {mask}");
        let sizes: Vec<String> = [512, 4096, 16384]
            .iter()
            .map(|&n| match plan.rows(n, 1) {
                r if r < n => format!("{r} of {n}"),
                _ => format!("all of {n}"),
            })
            .collect();
        let _ = writeln!(
            out,
            "  vip {} (capacity {}), ladder {}, refine {}: rows {}",
            plan.vip,
            plan.vip_capacity,
            plan.ladder,
            plan.refine,
            sizes.join(", ")
        );
    }
    out
}
