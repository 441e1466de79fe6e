//! The operators of `ai.vcc`, one file each, and what they share.

mod coarsen;
mod compress;
mod decompress;
mod expand;
mod partition;
mod select;

use half::{bf16, f16};
use vcc_core::{Dims, Ladder, Layout};

use crate::attributes::Attributes;
use crate::context::{Bool, Kind, Tensor};
use crate::cuda::Cuda;
use crate::host::{Failure, Host, Result};
use crate::launch::Type;
use crate::operator::Op;
use crate::shapes::Shapes;

/// Every operator for every element type, for CPUs and where there is CUDA for it too. The host merges those of one name.
pub(crate) fn all(host: Host, version: u32, cuda: Option<Cuda>) -> Vec<Op> {
    let cpu = cuda.is_none_or(|cuda| !cuda.is_mock());
    let mut all = Vec::new();
    for device in cpu.then_some(None).into_iter().chain(cuda.map(Some)) {
        all.push(Op::new::<partition::Partition>(host, version, device));
        all.push(Op::new::<select::Select<f32>>(host, version, device));
        all.push(Op::new::<select::Select<f16>>(host, version, device));
        all.extend(of_type::<f32>(host, version, device));
        all.extend(of_type::<f16>(host, version, device));
        all.extend(of_type::<bf16>(host, version, device));
    }
    all
}

fn of_type<T: Data>(host: Host, version: u32, device: Option<Cuda>) -> [Op; 4] {
    [
        Op::new::<coarsen::Coarsen<T>>(host, version, device),
        Op::new::<compress::Compress<T>>(host, version, device),
        Op::new::<decompress::Decompress<T>>(host, version, device),
        Op::new::<expand::Expand<T>>(host, version, device),
    ]
}

/// An element type of the residual stream.
pub(crate) trait Data: Kind + vcc_core::Element {
    /// As the CUDA kernels name it.
    const TYPE: Type;
}
impl Data for f32 {
    const TYPE: Type = Type::F32;
}
impl Data for f16 {
    const TYPE: Type = Type::F16;
}
impl Data for bf16 {
    const TYPE: Type = Type::Bf16;
}

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

fn check_shape(name: &str, shape: &[usize], want: &[usize]) -> Result<()> {
    if shape == want {
        return Ok(());
    }
    Err(Failure::new(format!(
        "input {name} has shape {shape:?} instead of {want:?}"
    )))
}

fn bools(tensor: &Tensor<'_, Bool>) -> Vec<bool> {
    tensor.data.iter().map(|&byte| byte != 0).collect()
}

/// Layout and sizes from the shapes of `value [B,P,d]` and `vote [B,v]`.
fn layout(ladder: &Ladder, value: &[usize], vote: &[usize]) -> Result<(Layout, Dims)> {
    let (batch, items, channels) = (value[0], value[1], value[2]);
    let layout = Layout::from_items(ladder.clone(), vote[1], items)?;
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
