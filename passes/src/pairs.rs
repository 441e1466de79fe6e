//! How large the tensors with two token axes are, before and after a conversion.
//!
//! Bytes are those of one batch row at a given number of tokens, from the shapes of the analysis.

use crate::conversion::{Conversion, Encoder};
use crate::plan::BlockMode;
use onnx_model::ValueId;
use token_axes::flow::describe;
use token_axes::{Analysis, Dim, Layout, Role, Samples, Stream};

/// A tensor with two token axes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pair {
    /// Its name.
    pub value: String,
    /// The node that makes it, or what it is instead.
    pub node: String,
    /// Its bytes.
    pub bytes: u128,
    /// Why it is still there after the conversion: what stopped the gathers on their way to its source.
    pub reason: Option<String>,
}

/// What a conversion leaves of the tensors with two token axes of one stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Left {
    /// Which stream of the analysis.
    pub stream: usize,
    /// The rows of a compressed block.
    pub rows: i64,
    /// The largest.
    pub largest: Option<Pair>,
    /// Externals of full size that are still computed, the largest first.
    pub kept: Vec<Pair>,
}

/// The number of tokens that sizes are told for: the one asked for, or that of the model if it is fixed.
pub fn length(stream: &Stream, tokens: i64) -> i64 {
    stream
        .convertible()
        .first()
        .and_then(|axes| axes.tokens.constant())
        .unwrap_or(tokens)
        .max(1)
}

/// The largest tensor with two token axes of each stream, in a conversion that has run to pass `blocks`.
pub fn before(c: &Conversion, tokens: i64) -> Vec<Option<Pair>> {
    let Some(analysis) = &c.analysis else {
        return Vec::new();
    };
    let largest = |stream: &Stream| {
        let n = length(stream, tokens);
        let whole = |_: usize| wide(n) * wide(n);
        let mut best = None;
        for pair in in_blocks(c, analysis, stream, whole) {
            keep_largest(&mut best, pair);
        }
        for pair in beside_blocks(c, analysis, stream, n) {
            keep_largest(&mut best, pair);
        }
        best
    };
    analysis.streams.iter().map(largest).collect()
}

/// What is left of each encoder's, in a conversion that has run to its end.
pub fn after(c: &Conversion, tokens: i64) -> Vec<Left> {
    let Some(analysis) = &c.analysis else {
        return Vec::new();
    };
    let left = |encoder: &Encoder| {
        let stream = &analysis.streams[encoder.stream];
        let n = length(stream, tokens);
        // How many VIP tokens capacity `auto` would count is not known: one is taken.
        let rows = encoder.plan.rows(n, 1);
        let area = |block: usize| match encoder.plan.blocks.get(block) {
            Some(BlockMode::Vcc) => wide(rows) * wide(rows),
            Some(BlockMode::Local(Some(window))) => wide(n) * wide(n.min(*window)),
            _ => wide(n) * wide(n),
        };
        let mut largest = None;
        for pair in in_blocks(c, analysis, stream, area) {
            keep_largest(&mut largest, pair);
        }
        let mut kept = Vec::new();
        for pair in beside_blocks(c, analysis, stream, n) {
            if pair.reason.is_some() {
                kept.push(pair.clone());
            }
            keep_largest(&mut largest, pair);
        }
        kept.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.value.cmp(&b.value)));
        Left {
            stream: encoder.stream,
            rows,
            largest,
            kept,
        }
    };
    c.encoders.iter().map(left).collect()
}

/// Those that the blocks compute, with the queries times keys of each block.
fn in_blocks(
    c: &Conversion,
    analysis: &Analysis,
    stream: &Stream,
    area: impl Fn(usize) -> u128,
) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (number, block) in stream.blocks.iter().enumerate() {
        let Ok(axes) = &block.axes else { continue };
        for (&value, layout) in &axes.layouts {
            let graph = &c.model.graph;
            // A fused attention keeps its scores to itself; its bias is as large.
            let exists = |&v: &ValueId| graph.value(v).producer().is_some() || graph.is_input(v);
            let bias = c.relative.get(&value).copied();
            let there = Some(value).filter(exists).or(bias);
            if let Some(there) = there
                && let Some(size) = in_layout(&analysis.samples, value, layout)
            {
                pairs.push(pair(c, there, size.saturating_mul(area(number))));
            }
        }
    }
    pairs
}

/// All others in the graph.
fn beside_blocks(c: &Conversion, analysis: &Analysis, stream: &Stream, n: i64) -> Vec<Pair> {
    let convertible = stream.convertible();
    let Some(first) = convertible.first() else {
        return Vec::new();
    };
    c.model
        .graph
        .value_ids()
        .filter(|v| !convertible.iter().any(|axes| axes.layouts.contains_key(v)))
        .filter_map(|v| {
            let bytes = beside(&analysis.samples, v, first.tokens, first.batch, n)?;
            Some(pair(c, v, bytes))
        })
        .collect()
}

fn pair(c: &Conversion, value: ValueId, bytes: u128) -> Pair {
    let graph = &c.model.graph;
    Pair {
        value: graph.value(value).name.clone(),
        node: match graph.value(value).producer() {
            Some((node, _)) => describe(graph.node(node)),
            None if graph.is_input(value) => "a graph input".into(),
            None => "a constant".into(),
        },
        bytes,
        reason: c.unhoisted.get(&value).cloned(),
    }
}

fn wide(size: i64) -> u128 {
    size.max(0).unsigned_abs().into()
}

fn keep_largest(best: &mut Option<Pair>, pair: Pair) {
    if best.as_ref().is_none_or(|b| pair.bytes > b.bytes) {
        *best = Some(pair);
    }
}

fn bytes_per_element(samples: &Samples, value: ValueId) -> Option<u128> {
    let bits = samples.dtype(value)?.bits()?;
    Some(bits.div_ceil(8) as u128)
}

/// Bytes per query and key, if a core value runs over both.
fn in_layout(samples: &Samples, value: ValueId, layout: &Layout) -> Option<u128> {
    let mut tokens = 0;
    let mut size = bytes_per_element(samples, value)?;
    for factor in layout.0.iter().flatten() {
        match factor.role {
            Role::Batch => {}
            Role::Token | Role::Attended => tokens += 1,
            Role::Feature => size *= wide(factor.size.constant()?),
        }
    }
    (tokens == 2).then_some(size)
}

/// Bytes of a value whose size grows with the square of the tokens. Where their number is fixed sizes tell nothing.
fn beside(samples: &Samples, value: ValueId, tokens: Dim, batch: Dim, n: i64) -> Option<u128> {
    let mut bytes = bytes_per_element(samples, value)?;
    let mut times = 0usize;
    for mut size in samples.shape(value)? {
        if size.0.iter().any(|&s| s <= 0) {
            return None;
        }
        while tokens.constant().is_none()
            && let Some(rest) = size.exact_div(tokens)
        {
            size = rest;
            times += 1;
            bytes = bytes.saturating_mul(wide(n));
        }
        while batch.constant().is_none()
            && let Some(rest) = size.exact_div(batch)
        {
            size = rest;
        }
        bytes = bytes.saturating_mul(wide(size.constant()?));
    }
    (times >= 2).then_some(bytes)
}
