//! `VccCoarsen`.

use std::ffi::CStr;
use std::marker::PhantomData;

use vcc_core::{Dims, Ladder, Layout, StateMut};

use super::{Data, check_dtype, check_shape, known_layout, ladder, layout};
use crate::abi::{BOOL, INT64};
use crate::attributes::Attributes;
use crate::context::{Bool, Context};
use crate::cuda::Queue;
use crate::host::Result;
use crate::launch;
use crate::operator::{Operator, Port};
use crate::shapes::Shapes;

pub(crate) struct Coarsen<T> {
    ladder: Ladder,
    data: PhantomData<T>,
}

impl<T> Coarsen<T> {
    /// Layout and sizes from the shapes of the inputs, which must fit.
    fn layout(&self, [x, token, count, slot, vote]: [&[usize]; 5]) -> Result<(Layout, Dims)> {
        let (layout, dims) = layout(&self.ladder, &[x[0], token[1], x[2]], vote)?;
        check_shape("item_token", token, &[dims.batch, layout.items()])?;
        check_shape("item_count", count, &[dims.batch, layout.items()])?;
        check_shape("token_slot", slot, &x[..2])?;
        Ok((layout, dims))
    }
}

impl<T: Data> Operator for Coarsen<T> {
    const NAME: &'static CStr = c"VccCoarsen";
    const INPUTS: &'static [Port] = &[
        Port {
            name: "x",
            kind: T::KIND,
        },
        Port {
            name: "item_token",
            kind: INT64,
        },
        Port {
            name: "item_count",
            kind: INT64,
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
    const OUTPUTS: &'static [Port] = &[
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
    ];

    fn create(attributes: &Attributes) -> Result<Self> {
        check_dtype::<T>(attributes)?;
        Ok(Self {
            ladder: ladder(attributes)?,
            data: PhantomData,
        })
    }

    fn compute(&self, context: &Context<'_>) -> Result<()> {
        let x = context.input::<T>(0, 3)?;
        let item_token = context.input::<i64>(1, 2)?;
        let item_count = context.input::<i64>(2, 2)?;
        let token_slot = context.input::<i64>(3, 2)?;
        let vote = context.input::<Bool>(4, 2)?;
        let (layout, dims) = self.layout([
            &x.shape,
            &item_token.shape,
            &item_count.shape,
            &token_slot.shape,
            &vote.shape,
        ])?;
        let segments = [dims.batch, layout.segments(), dims.channels];
        let state = StateMut {
            value: context.output(0, &[dims.batch, layout.items(), dims.channels])?,
            scale: context.output(1, &segments)?,
            offset: context.output(2, &segments)?,
        };
        Ok(vcc_core::coarsen(
            &layout,
            dims,
            x.data,
            item_token.data,
            item_count.data,
            state,
            &context.parallel(),
        )?)
    }

    fn launch(&self, context: &Context<'_>, queue: &Queue) -> Result<()> {
        let x = context.device_input::<T>(0, 3)?;
        let item_token = context.device_input::<i64>(1, 2)?;
        let item_count = context.device_input::<i64>(2, 2)?;
        let token_slot = context.device_input::<i64>(3, 2)?;
        let vote = context.device_input::<Bool>(4, 2)?;
        let (layout, dims) = self.layout([
            &x.shape,
            &item_token.shape,
            &item_count.shape,
            &token_slot.shape,
            &vote.shape,
        ])?;
        let segments = [dims.batch, layout.segments(), dims.channels];
        let state = [
            context.device_output::<T>(0, &[dims.batch, layout.items(), dims.channels])?,
            context.device_output::<T>(1, &segments)?,
            context.device_output::<T>(2, &segments)?,
        ];
        let launches = launch::coarsen(
            T::TYPE,
            &layout,
            dims,
            x.shape[1],
            x.address,
            item_token.address,
            item_count.address,
            state,
        )?;
        // SAFETY: tensors of the host, of the shapes that were checked.
        unsafe { queue.launch(&launches) }
    }

    fn infer(shapes: &Shapes) -> Result<()> {
        let kind = shapes.kind(0);
        let (batch, channels) = (
            shapes.dim(0, 3, 0, "batch"),
            shapes.dim(0, 3, 2, "channels"),
        );
        let items = shapes.dim(1, 2, 1, "items");
        let segments = shapes.number_or(
            known_layout(shapes, (1, 2), 4)?
                .as_ref()
                .map(Layout::segments),
            "segments",
        );
        shapes.set(0, kind, &[batch.clone(), items, channels.clone()])?;
        shapes.set(
            1,
            kind,
            &[batch.clone(), segments.clone(), channels.clone()],
        )?;
        shapes.set(2, kind, &[batch, segments, channels])
    }
}
