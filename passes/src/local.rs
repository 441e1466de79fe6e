//! Mode `local:SEG` of pass `insert`: attention inside windows of SEG tokens in original order.
//!
//! The windows are batch rows of the block: masks, biases and rotary tables are taken at each window's tokens like those of any
//! other rows. Rows past the last token are empty. A window without a valid token passes its rows through. A sequence that fits
//! into one window gives the original block's result.

use crate::conversion::{Binding, Conversion, Encoder, SideRows};
use crate::emit::{Emit, Size};
use crate::error::Error;
use crate::insert::{rewire, to_rows, to_stream};
use onnx_model::{AttrValue, DataType, Dimension, ValueId};
use std::collections::BTreeMap;
use token_axes::site::Side;
use token_axes::{Analysis, Block, BlockAxes};

#[allow(clippy::too_many_arguments)]
pub(crate) fn rewrite(
    c: &mut Conversion,
    analysis: &Analysis,
    index: usize,
    encoder: &Encoder,
    number: usize,
    block: &Block,
    axes: &BlockAxes,
    window: Option<i64>,
) -> Result<(), Error> {
    let opset = c.opset();
    let prefix = format!("{}/block{number}", encoder.prefix);
    let mut e = Emit::new(&mut c.model.graph, opset, prefix.clone());
    let (batch, tokens) = (encoder.batch, encoder.tokens);
    let x = to_rows(&mut e, axes.order, block.input);
    let size = window_size(&mut e, tokens, window);
    // ceil(n / size) windows
    let one = e.ints(&[1]);
    let more = e.op("Add", &[tokens, size], &[]);
    let more = e.op("Sub", &[more, one], &[]);
    let windows = e.op("Div", &[more, size], &[]);
    let padded = e.op("Mul", &[windows, size], &[]);
    let position = e.range(padded);
    let exists = e.op("Less", &[position, tokens], &[]);
    let zero = e.int(0);
    let token = e.op("Where", &[exists, position, zero], &[]);
    let token = spread(&mut e, token, batch, windows, size);
    let rows_batch = e.op("Mul", &[batch, windows], &[]);
    // Which batch row of the model each window belongs to.
    let model_rows = e.range(batch);
    let model_rows = e.unsqueeze(model_rows, &[1]);
    let shape = e.target(&[Size::Value(batch), Size::Value(windows)]);
    let model_rows = e.op("Expand", &[model_rows, shape], &[]);
    let batch_rows = e.reshape(model_rows, &[Size::Const(-1)]);
    let flat = flat_index(&mut e, token, batch_rows, tokens);
    let own_rows = e.range(rows_batch);
    let flat_again = flat_index(&mut e, token, own_rows, tokens);
    let flat_x = e.reshape(x, &[Size::Const(-1), Size::Const(axes.channels)]);
    let rows = e.gather(flat_x, flat, 0);
    let (plain, blocked) = (
        e.float(DataType::Float, 0.0),
        e.float(DataType::Float, f64::NEG_INFINITY),
    );
    let bias = e.op("Where", &[exists, plain, blocked], &[]);
    let bias = spread(&mut e, bias, batch, windows, size);
    let stream = to_stream(&mut e, axes.order, rows);
    let side = SideRows {
        token,
        flat,
        flat_again,
        count: size,
    };
    let binding = Binding {
        batch: rows_batch,
        batch_rows: Some(batch_rows),
        model_batch: batch,
        tokens,
        sides: BTreeMap::from([(Side::Rows, side)]),
        batch_dim: Dimension::Param(format!("{prefix}/windows")),
        rows_dim: Dimension::Param(format!("{prefix}/window")),
    };
    let streams = BTreeMap::from([(Side::Rows, stream)]);
    let y = rewire(
        c, analysis, index, block, axes, &prefix, &binding, &streams, bias, None,
    )
    .map_err(|reason| Error::Rewrite {
        block: format!("{index}.{number}"),
        reason,
    })?;
    let mut e = Emit::new(&mut c.model.graph, opset, format!("{prefix}/join"));
    let mut y = to_rows(&mut e, axes.order, y);
    if window.is_some() {
        let keep = has_valid_token(&mut e, encoder, flat, exists, (windows, size));
        y = e.op("Where", &[keep, y, rows], &[]);
    }
    let joined = e.reshape(
        y,
        &[
            Size::Value(batch),
            Size::Const(-1),
            Size::Const(axes.channels),
        ],
    );
    let start = e.ints(&[0]);
    let joined = e.slice(joined, start, tokens, 1);
    let joined = to_stream(&mut e, axes.order, joined);
    if let Some((producer, output)) = c.model.graph.value(joined).producer() {
        c.model
            .graph
            .set_output(producer, output, Some(block.output));
    }
    Ok(())
}

/// `min(SEG, n)`
fn window_size(e: &mut Emit<'_>, tokens: ValueId, window: Option<i64>) -> ValueId {
    let Some(most) = window else { return tokens };
    let most = e.ints(&[most]);
    let shorter = e.op("Less", &[tokens, most], &[]);
    e.op("Where", &[shorter, tokens, most], &[])
}

/// `[windows * size]` to `[B * windows, size]`
fn spread(
    e: &mut Emit<'_>,
    value: ValueId,
    batch: ValueId,
    windows: ValueId,
    size: ValueId,
) -> ValueId {
    let split = e.reshape(value, &[Size::Value(windows), Size::Value(size)]);
    let shape = e.target(&[Size::Value(batch), Size::Value(windows), Size::Value(size)]);
    let all = e.op("Expand", &[split, shape], &[]);
    e.reshape(all, &[Size::Const(-1), Size::Value(size)])
}

/// `row * n + token`
fn flat_index(e: &mut Emit<'_>, token: ValueId, rows: ValueId, tokens: ValueId) -> ValueId {
    let base = e.op("Mul", &[rows, tokens], &[]);
    let base = e.unsqueeze(base, &[1]);
    e.op("Add", &[token, base], &[])
}

/// `[B * windows, 1, 1]`: the window has a valid token, or is the only one.
fn has_valid_token(
    e: &mut Emit<'_>,
    encoder: &Encoder,
    flat: ValueId,
    exists: ValueId,
    sizes: (ValueId, ValueId),
) -> ValueId {
    let (windows, size) = sizes;
    let valid = e.reshape(encoder.valid, &[Size::Const(-1)]);
    let valid = e.gather(valid, flat, 0);
    let exists = spread(e, exists, encoder.batch, windows, size);
    let valid = e.op("And", &[valid, exists], &[]);
    let counts = e.cast(valid, DataType::Int64);
    let sum = if e.opset >= 13 {
        let axes = e.ints(&[1]);
        e.op(
            "ReduceSum",
            &[counts, axes],
            &[("keepdims", AttrValue::Int(1))],
        )
    } else {
        e.op(
            "ReduceSum",
            &[counts],
            &[
                ("axes", AttrValue::Ints(vec![1])),
                ("keepdims", AttrValue::Int(1)),
            ],
        )
    };
    let zero = e.int(0);
    let any = e.op("Greater", &[sum, zero], &[]);
    let two = e.ints(&[2]);
    let only = e.op("Less", &[windows, two], &[]);
    let keep = e.op("Or", &[any, only], &[]);
    e.unsqueeze(keep, &[2])
}
