//! `VccExpand`.

use std::ffi::CStr;
use std::marker::PhantomData;

use vcc_core::{Dims, Ladder, Layout, State};

use super::{Data, check_dtype, check_shape, ladder, layout};
use crate::abi::{BOOL, INT64};
use crate::attributes::Attributes;
use crate::context::{Bool, Context};
use crate::cuda::Queue;
use crate::host::Result;
use crate::launch;
use crate::operator::{Operator, Port};
use crate::shapes::Shapes;

pub(crate) struct Expand<T> {
    ladder: Ladder,
    data: PhantomData<T>,
}

impl<T> Expand<T> {
    /// Layout and sizes from the shapes of the inputs, which must fit.
    fn layout(&self, [value, scale, offset, slot, vote]: [&[usize]; 5]) -> Result<(Layout, Dims)> {
        let (layout, dims) = layout(&self.ladder, value, vote)?;
        let segments = [dims.batch, layout.segments(), dims.channels];
        check_shape("scale", scale, &segments)?;
        check_shape("offset", offset, &segments)?;
        check_shape("token_slot", slot, &[dims.batch, slot[1]])?;
        Ok((layout, dims))
    }
}

impl<T: Data> Operator for Expand<T> {
    const NAME: &'static CStr = c"VccExpand";
    const INPUTS: &'static [Port] = &[
        Port {
            name: "value",
            kind: T::KIND,
        },
        Port {
            name: "scale",
            kind: T::KIND,
        },
        Port {
            name: "offset",
            kind: T::KIND,
        },
        Port {
            name: "token_slot",
            kind: INT64,
        },
        Port {
            name: "vote",
            kind: BOOL,
        },
    ];
    const OUTPUTS: &'static [Port] = &[Port {
        name: "x",
        kind: T::KIND,
    }];

    fn create(attributes: &Attributes) -> Result<Self> {
        check_dtype::<T>(attributes)?;
        Ok(Self {
            ladder: ladder(attributes)?,
            data: PhantomData,
        })
    }

    fn compute(&self, context: &Context<'_>) -> Result<()> {
        let value = context.input::<T>(0, 3)?;
        let scale = context.input::<T>(1, 3)?;
        let offset = context.input::<T>(2, 3)?;
        let token_slot = context.input::<i64>(3, 2)?;
        let vote = context.input::<Bool>(4, 2)?;
        let (layout, dims) = self.layout([
            &value.shape,
            &scale.shape,
            &offset.shape,
            &token_slot.shape,
            &vote.shape,
        ])?;
        let x = context.output(0, &[dims.batch, token_slot.shape[1], dims.channels])?;
        let state = State {
            value: value.data,
            scale: scale.data,
            offset: offset.data,
        };
        Ok(vcc_core::expand(
            &layout,
            dims,
            state,
            token_slot.data,
            x,
            &context.parallel(),
        )?)
    }

    fn launch(&self, context: &Context<'_>, queue: &Queue) -> Result<()> {
        let value = context.device_input::<T>(0, 3)?;
        let scale = context.device_input::<T>(1, 3)?;
        let offset = context.device_input::<T>(2, 3)?;
        let token_slot = context.device_input::<i64>(3, 2)?;
        let vote = context.device_input::<Bool>(4, 2)?;
        let (layout, dims) = self.layout([
            &value.shape,
            &scale.shape,
            &offset.shape,
            &token_slot.shape,
            &vote.shape,
        ])?;
        let n = token_slot.shape[1];
        let x = context.device_output::<T>(0, &[dims.batch, n, dims.channels])?;
        let launches = launch::expand(
            T::TYPE,
            &layout,
            dims,
            n,
            [value.address, scale.address, offset.address],
            token_slot.address,
            x,
        )?;
        // SAFETY: tensors of the host, of the shapes that were checked.
        unsafe { queue.launch(&launches) }
    }

    fn infer(shapes: &Shapes) -> Result<()> {
        let dims = [
            shapes.dim(3, 2, 0, "batch"),
            shapes.dim(3, 2, 1, "tokens"),
            shapes.dim(0, 3, 2, "channels"),
        ];
        shapes.set(0, shapes.kind(0), &dims)
    }
}
