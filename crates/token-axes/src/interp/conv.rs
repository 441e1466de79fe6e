//! Operators with a sliding window, and resampling.

use onnx_model::AttrValue;

use super::index::{positions, strides};
use super::op::{Fail, Op, Outs, axes, because, filled, one, shaped, small};

/// The window of a convolution or pooling: sizes per spatial axis.
struct Window {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    /// Begin and end padding per axis; nothing if it follows from `auto_pad`.
    pads: Option<Vec<(i64, i64)>>,
    same: bool,
    ceil: bool,
}

impl Window {
    fn of(op: &Op, kernel: Vec<i64>) -> Result<Window, Fail> {
        let n = kernel.len();
        let per_axis = |name: &str| -> Result<Vec<i64>, Fail> {
            match op.node.attr_ints(name) {
                None => Ok(vec![1; n]),
                Some(v) if v.len() == n && v.iter().all(|&x| x > 0) => Ok(v),
                Some(v) => because(format!("{name} {v:?} does not fit {n} spatial axes")),
            }
        };
        let auto = op.node.attr_str("auto_pad").unwrap_or_default();
        let pads = match op.node.attr_ints("pads") {
            _ if auto.starts_with("SAME") => None,
            Some(p) if p.len() == 2 * n && auto != "VALID" => {
                Some((0..n).map(|i| (p[i], p[i + n])).collect())
            }
            Some(p) if p.len() != 2 * n => {
                return because(format!("pads {p:?} do not fit {n} spatial axes"));
            }
            _ => Some(vec![(0, 0); n]),
        };
        Ok(Window {
            strides: per_axis("strides")?,
            dilations: per_axis("dilations")?,
            pads,
            same: auto.starts_with("SAME"),
            ceil: op.attr("ceil_mode", 0) == 1,
            kernel,
        })
    }

    /// The spatial sizes that the window leaves of `dims`.
    fn slide(&self, dims: &[i64]) -> Result<Vec<i64>, Fail> {
        if dims.len() != self.kernel.len() {
            return because(format!(
                "the kernel has {} axes, the input {} spatial ones",
                self.kernel.len(),
                dims.len()
            ));
        }
        let mut out = Vec::new();
        for (i, &d) in dims.iter().enumerate() {
            let (stride, reach) = (
                self.strides[i],
                (self.kernel[i] - 1)
                    .saturating_mul(self.dilations[i])
                    .saturating_add(1),
            );
            let (begin, end) = self.pads.as_ref().map_or((0, 0), |p| p[i]);
            let size = if self.same {
                d / stride + i64::from(d % stride != 0)
            } else {
                let room = d
                    .saturating_add(begin)
                    .saturating_add(end)
                    .saturating_sub(reach);
                let up = self.ceil && room % stride != 0;
                // A window that would begin in the end padding is left out.
                let extra = i64::from(up && (room / stride + 1) * stride < d + begin);
                if room < 0 {
                    0
                } else {
                    room / stride + 1 + extra
                }
            };
            if size <= 0 {
                return because(format!(
                    "spatial axis {i} of size {d} is shorter than the window ({reach})"
                ));
            }
            out.push(size);
        }
        Ok(out)
    }
}

/// `Conv` and its quantised forms; `weight` is the index of the kernel's input.
fn convolve(op: &Op, weight: usize) -> Outs {
    let (x, w) = (op.shape(0)?, op.shape(weight)?);
    let (&[batch, channels, ref spatial @ ..], &[out, per_group, ref kernel @ ..]) = (x, w) else {
        return because("the input or the kernel has less than two axes");
    };
    let group = op.attr("group", 1);
    op.same(0, channels, weight, per_group.saturating_mul(group))?;
    let mut shape = vec![batch, out];
    shape.extend(Window::of(op, kernel.to_vec())?.slide(spatial)?);
    one(shape)
}

/// `Conv`, `FusedConv`, `ConvInteger`.
pub(super) fn conv(op: &Op) -> Outs {
    convolve(op, 1)
}

/// `QLinearConv`.
pub(super) fn qlinear_conv(op: &Op) -> Outs {
    convolve(op, 3)
}

/// `MaxPool`, `AveragePool`, `LpPool`.
pub(super) fn pool(op: &Op) -> Outs {
    let &[batch, channels, ref spatial @ ..] = op.shape(0)? else {
        return because("the input has less than two axes");
    };
    let Some(kernel) = op.node.attr_ints("kernel_shape") else {
        return because("there is no kernel_shape");
    };
    let mut shape = vec![batch, channels];
    shape.extend(Window::of(op, kernel)?.slide(spatial)?);
    Ok(vec![shaped(shape.clone()), shaped(shape)])
}

/// `Resize` and `Upsample`: by sizes or by scales.
pub(super) fn resize(op: &Op) -> Outs {
    let dims = op.shape(0)?;
    let list: Vec<i64> = op
        .node
        .attr_ints("axes")
        .unwrap_or_else(|| (0..dims.len() as i64).collect());
    let at = axes(&list, dims.len())?;
    if at.len() != list.len()
        || !list.is_sorted()
        || op
            .node
            .attr_str("keep_aspect_ratio_policy")
            .is_some_and(|p| p != "stretch")
    {
        return because("this form of Resize is not followed");
    }
    let mut shape = dims.to_vec();
    if op.has(3) {
        let sizes = op.ints(3)?;
        if sizes.len() != at.len() || sizes.iter().any(|&s| s < 0) {
            return because(format!("the sizes {sizes:?} do not fit {} axes", at.len()));
        }
        at.iter().zip(sizes).for_each(|(&a, &s)| shape[a] = s);
        return resampled(op, shape, &[]);
    }
    // Operator set 10 and Upsample have the scales in input 1, later ones in input 2; before they are an attribute.
    let scales = [2, 1]
        .into_iter()
        .find(|&i| op.has(i) && op.value(i).and_then(|v| v.shape.as_deref()) != Some(&[0]));
    let scales = match scales {
        Some(i) => op.floats(i)?.to_vec(),
        None => match op.node.attr("scales") {
            Some(AttrValue::Floats(v)) => v.into_iter().map(f64::from).collect(),
            _ => Vec::new(),
        },
    };
    if scales.len() != at.len() {
        return because(format!("{} scales for {} axes", scales.len(), at.len()));
    }
    for (&a, &s) in at.iter().zip(&scales) {
        let size = (dims[a] as f64 * s).floor();
        if !(0.0..1e15).contains(&size) {
            return because(format!("the scale {s} is out of range"));
        }
        shape[a] = size as i64;
    }
    let mut factors = vec![1.0; dims.len()];
    at.iter().zip(&scales).for_each(|(&a, &s)| factors[a] = s);
    resampled(op, shape, &factors)
}

/// The output of a resampling with its content: that of the input if no size changes, else of the nearest elements. The scales
/// are those of the axes, or follow from the sizes.
fn resampled(op: &Op, shape: Vec<i64>, scales: &[f64]) -> Outs {
    let dims = op.shape(0)?;
    let unchanged = dims == shape && scales.iter().all(|&s| s == 1.0);
    let content = if unchanged {
        op.content(0).cloned()
    } else if small(&shape) {
        nearest(op, dims, &shape, scales).and_then(|from| op.content(0)?.take(&from))
    } else {
        None
    };
    filled(shape, content)
}

/// The input position of every output element.
fn nearest(op: &Op, dims: &[i64], shape: &[i64], scales: &[f64]) -> Option<Vec<i64>> {
    let is_known = op.node.op_type == "Resize" && op.opset >= 11;
    if op.node.attr_str("mode").is_some_and(|m| m != "nearest") || !is_known {
        return None;
    }
    let half_pixel = match op
        .node
        .attr_str("coordinate_transformation_mode")
        .as_deref()
    {
        None | Some("half_pixel") => true,
        Some("asymmetric") => false,
        _ => return None,
    };
    let round: fn(f64) -> f64 = match op.node.attr_str("nearest_mode").as_deref() {
        None | Some("round_prefer_floor") => |x| (x - 0.5).ceil(),
        Some("round_prefer_ceil") => |x| (x + 0.5).floor(),
        Some("floor") => f64::floor,
        Some("ceil") => f64::ceil,
        _ => return None,
    };
    let own = strides(dims);
    let source = |axis: usize, to: i64| -> i64 {
        let (size, wanted) = (dims[axis], shape[axis]);
        let scale = scales.get(axis).copied();
        let scale = scale.unwrap_or(wanted as f64 / size.max(1) as f64);
        let shift = if half_pixel { 0.5 } else { 0.0 };
        let at = round((to as f64 + shift) / scale - shift) as i64;
        at.clamp(0, (size - 1).max(0))
    };
    let position = |at: &[i64]| -> i64 {
        let places = at.iter().enumerate().zip(&own);
        places
            .map(|((axis, &to), &stride)| source(axis, to) * stride)
            .sum()
    };
    Some(positions(shape, position))
}

/// `DepthToSpace`, `SpaceToDepth`.
pub(super) fn block_shuffle(op: &Op) -> Outs {
    let (&[n, c, h, w], b) = (op.shape(0)?, op.attr("blocksize", 0)) else {
        return because("the input is not [N,C,H,W]");
    };
    if !(1..=1 << 20).contains(&b) {
        return because(format!("the block size is {b}"));
    }
    let area = b * b;
    if op.node.op_type == "DepthToSpace" {
        one([n, c / area, h.saturating_mul(b), w.saturating_mul(b)])
    } else {
        one([n, c.saturating_mul(area), h / b, w / b])
    }
}
