//! `VccDecompress`. The three outputs take over the memory of the first three inputs where the host allows it.

use std::ffi::CStr;
use std::marker::PhantomData;

use vcc_core::{Ladder, StateMut, Update};

use super::{Data, check_dtype, check_shape, ladder, layout};
use crate::abi::{BOOL, INT64};
use crate::attributes::Attributes;
use crate::context::{Bool, Context};
use crate::host::Result;
use crate::operator::{Operator, Port};
use crate::shapes::Shapes;

pub(crate) struct Decompress<T> {
    ladder: Ladder,
    data: PhantomData<T>,
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
        let (layout, dims) = layout(&self.ladder, &value_shape, &vote)?;
        let r = layout.vips() + items.shape[1];
        check_shape("items", &items, &[dims.batch, items.shape[1]])?;
        check_shape("item_count", &item_count, &[dims.batch, layout.items()])?;
        check_shape("y", &y, &[dims.batch, r, dims.channels])?;
        check_shape("update", &update, &[dims.batch, r, dims.channels])?;
        check_shape("gain", &gain, &[dims.channels])?;
        // Their lengths are checked by the kernel.
        let (_, scale) = context.state::<T>(1, 3)?;
        let (_, offset) = context.state::<T>(2, 3)?;
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
