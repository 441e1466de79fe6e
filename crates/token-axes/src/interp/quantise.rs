//! Quantised numbers: contents of `QuantizeLinear` and `DequantizeLinear` with one scale, a scale per entry of an axis, or a
//! scale per block of it.

use onnx_model::DataType;

use super::index::{position, positions, strides};
use super::op::{Op, Out, Outs, axis, shaped, small};
use super::value::{Content, round_to};

/// `DynamicQuantizeLinear`: scale and zero point are scalars.
pub(super) fn dynamic_quantize(op: &Op) -> Outs {
    Ok(vec![shaped(op.shape(0)?), shaped([]), shaped([])])
}

/// `QuantizeLinear`.
pub(super) fn quantize(op: &Op) -> Outs {
    followed(op, quantized)
}

/// `DequantizeLinear`.
pub(super) fn dequantize(op: &Op) -> Outs {
    followed(op, dequantized)
}

fn followed(op: &Op, content: fn(&Op, &[i64]) -> Option<Content>) -> Outs {
    let dims = op.shape(0)?;
    Ok(vec![Out {
        shape: Some(dims.to_vec()),
        content: small(dims).then(|| content(op, dims)).flatten(),
    }])
}

fn quantized(op: &Op, dims: &[i64]) -> Option<Content> {
    let wide = op.dtype(1)?;
    let dtype = if op.has(2) {
        op.dtype(2)?
    } else {
        DataType::Uint8
    };
    let (lowest, highest) = match dtype {
        DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        DataType::Uint8 => (u8::MIN.into(), u8::MAX.into()),
        DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::Uint16 => (u16::MIN.into(), u16::MAX.into()),
        _ => return None,
    };
    let x = op.content(0)?.floats()?;
    let (scale, zero) = (spread(op, 1, dims)?, zero_points(op, dims)?);
    let code = |((x, s), z): ((&f64, f64), f64)| {
        let code = round_to(wide, x / s).round_ties_even() + z;
        (!code.is_nan()).then(|| code.clamp(lowest, highest) as i64)
    };
    let codes = x.iter().zip(scale).zip(zero).map(code);
    Some(Content::Int(codes.collect::<Option<_>>()?))
}

fn dequantized(op: &Op, dims: &[i64]) -> Option<Content> {
    let x = op.content(0)?.ints()?;
    let (scale, zero) = (spread(op, 1, dims)?, zero_points(op, dims)?);
    let number = |((&x, s), z): ((&i64, f64), f64)| (x as f64 - z) * s;
    let numbers = x.iter().zip(scale).zip(zero).map(number).collect();
    Content::Float(numbers).fit(op.dtype(1)?)
}

fn zero_points(op: &Op, dims: &[i64]) -> Option<Vec<f64>> {
    if op.has(2) {
        spread(op, 2, dims)
    } else {
        Some(vec![
            0.0;
            usize::try_from(dims.iter().product::<i64>()).ok()?
        ])
    }
}

/// A parameter, one for each element.
fn spread(op: &Op, input: usize, dims: &[i64]) -> Option<Vec<f64>> {
    let numbers = op.content(input)?.to_f64s();
    let own = op.shape(input).ok()?;
    if let [one] = numbers[..] {
        return Some(vec![
            one;
            usize::try_from(dims.iter().product::<i64>()).ok()?
        ]);
    }
    let along = axis(op.attr("axis", 1), dims.len()).ok()?;
    let block = op.attr("block_size", 0).max(1);
    // Per entry of the axis the parameter is a vector; per block it has all axes.
    let steps = strides(own);
    let places = positions(dims, |at| match steps[..] {
        [step] => at[along] * step,
        _ => {
            let mut at = at.to_vec();
            at[along] /= block;
            position(&at, &steps)
        }
    });
    (own.len() == 1 || own.len() == dims.len()).then_some(())?;
    let number = |i: i64| numbers.get(usize::try_from(i).ok()?).copied();
    places.into_iter().map(number).collect()
}
