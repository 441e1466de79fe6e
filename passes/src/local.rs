//! Mode `local:SEG` of pass `insert`: attention inside windows of SEG tokens in original order.
//!
//! The windows are batch rows of the block: masks, biases and rotary tables are taken at each window's tokens like those of any
//! other rows. Rows past the last token are empty. A window without a valid token passes its rows through. A sequence that fits
//! into one window gives the original block's result.
//!
//! The block is written for one window, and pass `windows` makes a Scan of it. All windows run at once with `--device cuda`, with `--inline`,
//! since other engines may not know Scan, and in blocks with numbers of the whole batch.

use crate::conversion::{Binding, Conversion, Encoder, Form, OneByOne, SideRows};
use crate::emit::{Emit, Size};
use crate::error::Error;
use crate::insert::{rewire, to_rows, to_stream};
use crate::plan::Device;
use onnx_model::{AttrValue, DataType, Dimension, Graph, ValueId, ValueInfo};
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
    let all = Windows {
        rows,
        token,
        flat,
        flat_again,
        batch_rows,
        bias,
    };
    let one_by_one = c.form != Form::Inline
        && encoder.plan.device == Device::Cpu
        && !reads_whole_batch(e.graph, block);
    let mut slices = Vec::new();
    let size_dim = Dimension::Param(format!("{prefix}/window"));
    let taken = match one_by_one {
        true => all.first(
            &mut e,
            &mut slices,
            encoder.dtype,
            (&size_dim, axes.channels),
        ),
        false => all,
    };
    let streams = BTreeMap::from([(Side::Rows, to_stream(&mut e, axes.order, taken.rows))]);
    let side = SideRows {
        token: taken.token,
        flat: taken.flat,
        flat_again: taken.flat_again,
        count: size,
    };
    let batch_dim = match one_by_one {
        true => Dimension::Value(1),
        false => Dimension::Param(format!("{prefix}/windows")),
    };
    let binding = Binding {
        batch: if one_by_one { one } else { rows_batch },
        batch_rows: Some(taken.batch_rows),
        model_batch: batch,
        tokens,
        sides: BTreeMap::from([(Side::Rows, side)]),
        batch_dim,
        rows_dim: size_dim,
    };
    let y = rewire(
        c, analysis, index, block, axes, &prefix, &binding, &streams, taken.bias, None,
    )
    .map_err(|reason| Error::Rewrite {
        block: format!("{index}.{number}"),
        reason,
    })?;
    let mut e = Emit::new(&mut c.model.graph, opset, format!("{prefix}/join"));
    let mut y = to_rows(&mut e, axes.order, y);
    if one_by_one {
        // The body of a Scan declares its result.
        let dims = vec![
            Dimension::Value(1),
            binding.rows_dim.clone(),
            Dimension::Value(axes.channels),
        ];
        let info = ValueInfo {
            dtype: Some(encoder.dtype),
            dims: Some(dims),
        };
        e.graph.set_info(y, Some(info));
        // As if all windows were like the first, until pass `windows`.
        let repeats = e.target(&[Size::Value(rows_batch), Size::Const(1), Size::Const(1)]);
        let stack = e.op("Expand", &[y, repeats], &[]);
        c.windows.push(OneByOne {
            prefix: prefix.clone(),
            slices,
            stack,
        });
        y = stack;
    }
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

/// What a block reads of its windows, one batch row for each.
struct Windows {
    rows: ValueId,
    token: ValueId,
    flat: ValueId,
    flat_again: ValueId,
    batch_rows: ValueId,
    bias: ValueId,
}

impl Windows {
    /// The first window's; each slice is noted.
    fn first(
        &self,
        e: &mut Emit<'_>,
        slices: &mut Vec<ValueId>,
        dtype: DataType,
        (size, channels): (&Dimension, i64),
    ) -> Windows {
        let one = Dimension::Value(1);
        let mut first = |value: ValueId, dtype: DataType, dims: &[&Dimension]| {
            let (from, to) = (e.ints(&[0]), e.ints(&[1]));
            let slice = e.slice(value, from, to, 0);
            let dims = [&one].into_iter().chain(dims.iter().copied());
            let info = ValueInfo {
                dtype: Some(dtype),
                dims: Some(dims.cloned().collect()),
            };
            e.graph.set_info(slice, Some(info));
            slices.push(slice);
            slice
        };
        let token = first(self.token, DataType::Int64, &[size]);
        Windows {
            rows: first(self.rows, dtype, &[size, &Dimension::Value(channels)]),
            token,
            flat: first(self.flat, DataType::Int64, &[size]),
            // The only batch row is row 0.
            flat_again: token,
            batch_rows: first(self.batch_rows, DataType::Int64, &[]),
            bias: first(self.bias, DataType::Float, &[size]),
        }
    }
}

/// Whether a block computes with numbers of the whole batch, as dynamic quantisation does.
fn reads_whole_batch(graph: &Graph, block: &Block) -> bool {
    let mut operators = block.core.iter().map(|&n| &graph.node(n).op_type);
    operators.any(|op| op.starts_with("DynamicQuantize"))
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
