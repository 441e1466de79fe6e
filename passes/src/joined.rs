//! Streams in which batch and tokens share an axis, `[B*n, d]`, as TensorFlow's encoders have them.
//!
//! Every cut of such a stream is given as `[B, n, d]`, and each of its readers joins the axes again: the numbers are the same, and a
//! block is what lies between two values of the usual shape.

use crate::conversion::Conversion;
use crate::emit::{Emit, Size};
use crate::error::Error;
use onnx_model::{Graph, ValueId};
use std::collections::BTreeSet;
use token_axes::{Analysis, Dim, Samples};

/// A cut whose batch and tokens share an axis.
struct Joined {
    value: ValueId,
    /// A graph input whose axes of these numbers are batch and tokens.
    like: (ValueId, usize, usize),
    channels: i64,
}

pub(crate) fn split(c: &mut Conversion, analysis: Analysis) -> Result<Analysis, Error> {
    let cuts = joined(&c.model.graph, &analysis);
    if cuts.is_empty() {
        return Ok(analysis);
    }
    let opset = c.opset();
    let mut e = Emit::new(&mut c.model.graph, opset, "vcc/stream");
    for cut in &cuts {
        split_one(&mut e, cut);
    }
    c.model.graph.sort()?;
    Ok(Analysis::of(&c.model))
}

/// The cuts of streams that no block could be converted of, where they have the shape `[B*n, d]`.
fn joined(graph: &Graph, analysis: &Analysis) -> Vec<Joined> {
    let mut cuts = BTreeSet::new();
    for stream in &analysis.streams {
        if stream.convertible().is_empty() {
            cuts.extend(stream.blocks.iter().flat_map(|b| [b.input, b.output]));
        }
    }
    cuts.into_iter()
        .filter_map(|value| {
            let shape = analysis.samples.shape(value)?;
            let &[rows, channels] = &shape[..] else {
                return None;
            };
            let is_inside = graph.value(value).captured_by().is_empty()
                && graph.value(value).producer().is_some()
                && !graph.is_output(value);
            Some(Joined {
                value,
                like: axes_like(graph, &analysis.samples, rows)?,
                channels: channels.constant()?,
            })
            .filter(|_| is_inside)
        })
        .collect()
}

/// A graph input with neighbouring axes whose product is a number of rows.
fn axes_like(graph: &Graph, samples: &Samples, rows: Dim) -> Option<(ValueId, usize, usize)> {
    graph.inputs().iter().find_map(|&input| {
        let shape = samples.shape(input)?;
        let batch = shape
            .windows(2)
            .position(|pair| pair[0].times(pair[1]) == rows && pair[1].constant() != Some(1))?;
        Some((input, batch, batch + 1))
    })
}

fn split_one(e: &mut Emit<'_>, cut: &Joined) {
    let readers = e.graph.value(cut.value).uses().to_vec();
    let (input, batch, tokens) = cut.like;
    let (batch, tokens) = (e.dim(input, batch), e.dim(input, tokens));
    let channels = Size::Const(cut.channels);
    let apart = e.reshape(
        cut.value,
        &[Size::Value(batch), Size::Value(tokens), channels],
    );
    for (node, index) in readers {
        let together = e.reshape(apart, &[Size::Const(-1), channels]);
        e.graph.set_input(node, index, Some(together));
    }
}
