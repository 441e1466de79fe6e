//! `VccDecompress`. The three outputs take over the memory of the first three inputs where the host allows it.

use std::ffi::CStr;
use std::marker::PhantomData;

use vcc_core::{Dims, Ladder, Layout, StateMut, Update};

use super::{Data, check_dtype, check_shape, ladder, layout};
use crate::abi::{BOOL, INT64};
use crate::attributes::Attributes;
use crate::context::{Bool, Context};
use crate::cuda::Queue;
use crate::host::Result;
use crate::launch;
use crate::operator::{Operator, Port};
use crate::shapes::Shapes;

pub(crate) struct Decompress<T> {
    ladder: Ladder,
    data: PhantomData<T>,
}

impl<T> Decompress<T> {
    /// Layout and sizes from the shapes of the inputs, which must fit.
    fn layout(
        &self,
        [value, scale, offset, items, count, vote, y, update, gain]: [&[usize]; 9],
    ) -> Result<(Layout, Dims)> {
        let (layout, dims) = layout(&self.ladder, value, vote)?;
        let segments = [dims.batch, layout.segments(), dims.channels];
        let rows = [dims.batch, layout.vips() + items[1], dims.channels];
        check_shape("scale", scale, &segments)?;
        check_shape("offset", offset, &segments)?;
        check_shape("items", items, &[dims.batch, items[1]])?;
        check_shape("item_count", count, &[dims.batch, layout.items()])?;
        check_shape("y", y, &rows)?;
        check_shape("update", update, &rows)?;
        check_shape("gain", gain, &[dims.channels])?;
        Ok((layout, dims))
    }
}

impl<T: Data> Operator for Decompress<T> {
    const NAME: &'static CStr = c"VccDecompress";
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
            name: "items",
            kind: INT64,
        },
        Port {
            name: "item_count",
            kind: INT64,
        },
        Port {
            name: "vote",
            kind: BOOL,
        },
        Port {
            name: "y",
            kind: T::KIND,
        },
        Port {
            name: "update",
            kind: T::KIND,
        },
        Port {
            name: "gain",
            kind: T::KIND,
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
    const IN_PLACE: usize = 3;

    fn create(attributes: &Attributes) -> Result<Self> {
        check_dtype::<T>(attributes)?;
        Ok(Self {
            ladder: ladder(attributes)?,
            data: PhantomData,
        })
    }

    fn compute(&self, context: &Context<'_>) -> Result<()> {
        let items = context.input::<i64>(3, 2)?;
        let item_count = context.input::<i64>(4, 2)?;
        let vote = context.input::<Bool>(5, 2)?;
        let y = context.input::<T>(6, 3)?;
        let update = context.input::<T>(7, 3)?;
        let gain = context.input::<T>(8, 1)?;
        let (value_shape, value) = context.state::<T>(0, 3)?;
        let (scale_shape, scale) = context.state::<T>(1, 3)?;
        let (offset_shape, offset) = context.state::<T>(2, 3)?;
        let (layout, dims) = self.layout([
            &value_shape,
            &scale_shape,
            &offset_shape,
            &items.shape,
            &item_count.shape,
            &vote.shape,
            &y.shape,
            &update.shape,
            &gain.shape,
        ])?;
        let update = Update {
            y: y.data,
            update: update.data,
            gain: gain.data,
        };
        let state = StateMut {
            value,
            scale,
            offset,
        };
        Ok(vcc_core::decompress(
            &layout,
            dims,
            items.data,
            item_count.data,
            update,
            state,
            &context.parallel(),
        )?)
    }

    fn launch(&self, context: &Context<'_>, queue: &Queue) -> Result<()> {
        let items = context.device_input::<i64>(3, 2)?;
        let item_count = context.device_input::<i64>(4, 2)?;
        let vote = context.device_input::<Bool>(5, 2)?;
        let y = context.device_input::<T>(6, 3)?;
        let update = context.device_input::<T>(7, 3)?;
        let gain = context.device_input::<T>(8, 1)?;
        // SAFETY: input and output of one shape.
        let copy = |from, to, bytes| unsafe { queue.copy(from, to, bytes) };
        let value = context.device_state::<T>(0, 3, copy)?;
        let scale = context.device_state::<T>(1, 3, copy)?;
        let offset = context.device_state::<T>(2, 3, copy)?;
        let (layout, dims) = self.layout([
            &value.shape,
            &scale.shape,
            &offset.shape,
            &items.shape,
            &item_count.shape,
            &vote.shape,
            &y.shape,
            &update.shape,
            &gain.shape,
        ])?;
        let update = launch::Update {
            y: y.address,
            update: update.address,
            gain: gain.address,
        };
        let launches = launch::decompress(
            T::TYPE,
            &layout,
            dims,
            items.shape[1],
            items.address,
            item_count.address,
            update,
            [value.address, scale.address, offset.address],
        )?;
        // SAFETY: tensors of the host, of the shapes that were checked.
        unsafe { queue.launch(&launches) }
    }

    fn infer(shapes: &Shapes) -> Result<()> {
        // Exactly the input shapes: this is what lets the host reuse their memory.
        let whats = [
            ["batch", "items", "channels"],
            ["batch", "segments", "channels"],
            ["batch", "segments", "channels"],
        ];
        for (index, what) in whats.iter().enumerate() {
            let dims = [0, 1, 2].map(|axis| shapes.dim(index, 3, axis, what[axis]));
            shapes.set(index, shapes.kind(index), &dims)?;
        }
        Ok(())
    }
}
