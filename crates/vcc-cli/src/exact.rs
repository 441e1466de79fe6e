//! `vcc verify --exact`: proves the rewrite. CONV is rebuilt from ORIG and its recorded plan and must be the same bytes; then
//! it is rebuilt with every level refined and every window the whole length, and every element of every output must equal ORIG's.

use crate::engine::Engine;
use crate::inputs::Bounds;
use crate::source;
use crate::verify::{Options, Report, compare_cases};
use anyhow::{Context, Result};
use onnx_model::DataType;
use std::path::Path;
use vcc_passes::Form;
use vcc_passes::plan::Plan;
use vcc_run::Padding;

/// Relative tolerance of float32 models.
const TOLERANCE: f64 = 1e-4;
/// Relative tolerance where the stream itself is float16: the order of its rounded sums changes.
const TOLERANCE_F16: f64 = 5e-3;
/// Lengths around the default segment size, and one that nothing divides.
const LENGTHS: [usize; 5] = [1, 15, 17, 64, 101];

pub(crate) fn verify(
    options: &Options,
    engine: &Engine,
    plan: &Plan,
    form: Form,
    bounds: &Bounds,
) -> Result<Report> {
    let sha256 = source::sha256(&options.original)?;
    let scratch = || source::scratch_beside(&options.converted);
    let again = scratch()?;
    source::rebuild(&options.original, &sha256, plan, form)?
        .model
        .save(again.path())?;
    let identical = same_bytes(again.path(), &options.converted)?;
    drop(again);
    let full = scratch()?;
    source::rebuild(&options.original, &sha256, &plan.at_full_budget(), form)?
        .model
        .save(full.path())?;
    let mut original = engine.open(&options.runtime, &options.original, false)?;
    let mut converted = engine.open(&options.runtime, full.path(), true)?;
    // The engine has read it; an interrupted run leaves nothing behind.
    drop(full);
    let is_half = has_half_weights(&options.original)?;
    let tolerance = if is_half { TOLERANCE_F16 } else { TOLERANCE };
    let paddings = [
        Padding::None,
        Padding::Left,
        Padding::Right,
        Padding::EmptyRow,
    ];
    let cases = options
        .inputs
        .cases(converted.inputs(), bounds, &LENGTHS, &[1, 3], &paddings)?;
    let mut skipped = Vec::new();
    let mut reports = compare_cases(
        &plan.at_full_budget(),
        &mut original,
        &mut converted,
        &cases,
        false,
        &mut skipped,
    )?;
    let outputs = || reports.iter().flat_map(|r| &r.outputs);
    let worst = outputs().map(|o| o.max_rel).fold(0.0, f64::max);
    let failed = !identical
        || worst.is_nan()
        || worst > tolerance
        || outputs().any(super::verify::OutputReport::broken);
    reports.sort_by_key(|r| r.length);
    Ok(Report {
        engine: engine.name(),
        runtime: engine.version(),
        library: engine.library().map(|p| p.display().to_string()),
        verdict: if failed { "failed" } else { "ok" },
        rebuilt_identical: Some(identical),
        max_rel: Some(worst),
        tolerance: Some(tolerance),
        cases: reports,
        skipped,
    })
}

/// Whether the model computes in float16, whatever its outputs are.
fn has_half_weights(path: &Path) -> Result<bool> {
    let graph = source::open(path)?.graph;
    let is_half = |v| graph.value(v).info().and_then(|i| i.dtype) == Some(DataType::Float16);
    Ok(graph
        .value_ids()
        .any(|v| graph.is_initializer(v) && is_half(v)))
}

fn same_bytes(a: &Path, b: &Path) -> Result<bool> {
    let size = |p: &Path| {
        std::fs::metadata(p)
            .map(|m| m.len())
            .with_context(|| p.display().to_string())
    };
    Ok(size(a)? == size(b)? && source::sha256(a)? == source::sha256(b)?)
}
