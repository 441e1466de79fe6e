//! The operators of `ai.vcc`, one file each, and what they share.

mod coarsen;
mod compress;
mod decompress;
mod expand;
mod partition;
mod select;

use half::f16;
use vcc_core::{Dims, Ladder, Layout};

use crate::attributes::Attributes;
use crate::context::{Bool, Kind, Tensor};
use crate::host::{Failure, Host, Result};
use crate::operator::Op;
use crate::shapes::Shapes;

/// Every operator for every element type. The host merges those of one name.
pub(crate) fn all(host: Host, version: u32) -> Vec<Op> {
    vec![
        Op::new::<partition::Partition>(host, version),
        Op::new::<coarsen::Coarsen<f32>>(host, version),
        Op::new::<coarsen::Coarsen<f16>>(host, version),
        Op::new::<select::Select<f32>>(host, version),
        Op::new::<select::Select<f16>>(host, version),
        Op::new::<compress::Compress<f32>>(host, version),
        Op::new::<compress::Compress<f16>>(host, version),
        Op::new::<decompress::Decompress<f32>>(host, version),
        Op::new::<decompress::Decompress<f16>>(host, version),
        Op::new::<expand::Expand<f32>>(host, version),
        Op::new::<expand::Expand<f16>>(host, version),
    ]
}

/// An element type of the residual stream.
pub(crate) trait Data: Kind + vcc_core::Element {}
impl Data for f32 {}
impl Data for f16 {}

fn ladder(attributes: &Attributes) -> Result<Ladder> {
    Ladder::new(&attributes.ints(c"ladder")?)
        .map_err(|error| Failure::from(error).within("attribute ladder"))
}

/// The data type that the node's function body was written for must be the one it runs with.
fn check_dtype<T: Data>(attributes: &Attributes) -> Result<()> {
    match attributes.int(c"dtype")? {
        dtype if dtype == i64::from(T::KIND) => Ok(()),
        dtype => Err(Failure::new(format!(
            "attribute dtype is {dtype}, but the inputs have element type {}",
            T::KIND
        ))),
    }
}

fn check_shape<T>(name: &str, tensor: &Tensor<'_, T>, want: &[usize]) -> Result<()> {
    if tensor.shape == want {
        return Ok(());
    }
    Err(Failure::new(format!(
        "input {name} has shape {:?} instead of {want:?}",
        tensor.shape
    )))
}

fn bools(tensor: &Tensor<'_, Bool>) -> Vec<bool> {
    tensor.data.iter().map(|&byte| byte != 0).collect()
}

/// Layout and sizes from the shapes of `value [B,P,d]` and `vote [B,v]`.
fn layout(ladder: &Ladder, value: &[usize], vote: &Tensor<'_, Bool>) -> Result<(Layout, Dims)> {
    let (batch, items, channels) = (value[0], value[1], value[2]);
    let layout = Layout::from_items(ladder.clone(), vote.shape[1], items)?;
    check_shape("vote", vote, &[batch, layout.vips()])?;
    Ok((layout, Dims { batch, channels }))
}

/// The layout, as far as shape inference knows the shape of an input with the items on axis 1, and of `vote`.
fn known_layout(
    shapes: &Shapes,
    (items, rank): (usize, usize),
    vote: usize,
) -> Result<Option<Layout>> {
    let ladder = Ladder::new(&shapes.ints(c"ladder")?)?;
    let (items, vips) = (
        shapes.dim(items, rank, 1, "").known(),
        shapes.dim(vote, 2, 1, "").known(),
    );
    Ok(items
        .zip(vips)
        .and_then(|(items, vips)| Layout::from_items(ladder, vips, items).ok()))
}
