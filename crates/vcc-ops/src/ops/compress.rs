//! `VccCompress`.

use std::ffi::CStr;
use std::marker::PhantomData;

use vcc_core::{Compressed, Dims, Ladder, Layout, State};

use super::{Data, check_dtype, check_shape, ladder, layout};
use crate::abi::{BOOL, FLOAT, INT64};
use crate::attributes::Attributes;
use crate::context::{Bool, Context};
use crate::cuda::Queue;
use crate::host::Result;
use crate::launch;
use crate::operator::{Operator, Port};
use crate::shapes::Shapes;

pub(crate) struct Compress<T> {
    ladder: Ladder,
    count_weight: f32,
    data: PhantomData<T>,
}

impl<T> Compress<T> {
    /// Layout and sizes from the shapes of the inputs, which must fit.
    fn layout(
        &self,
        [value, scale, offset, items, token, count, vote]: [&[usize]; 7],
    ) -> Result<(Layout, Dims)> {
        let (layout, dims) = layout(&self.ladder, value, vote)?;
        let segments = [dims.batch, layout.segments(), dims.channels];
        check_shape("scale", scale, &segments)?;
        check_shape("offset", offset, &segments)?;
        check_shape("items", items, &[dims.batch, items[1]])?;
        check_shape("item_token", token, &[dims.batch, layout.items()])?;
        check_shape("item_count", count, &[dims.batch, layout.items()])?;
        Ok((layout, dims))
    }
}

impl<T: Data> Operator for Compress<T> {
    const NAME: &'static CStr = c"VccCompress";
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
            name: "item_token",
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
    ];
    const OUTPUTS: &'static [Port] = &[
        Port {
            name: "rows",
            kind: T::KIND,
        },
        Port {
            name: "row_token",
            kind: INT64,
        },
        Port {
            name: "row_bias",
            kind: FLOAT,
        },
    ];

    fn create(attributes: &Attributes) -> Result<Self> {
        check_dtype::<T>(attributes)?;
        let count_weight = attributes.float_or(c"count_weight", 1.0);
        Ok(Self {
            ladder: ladder(attributes)?,
            count_weight,
            data: PhantomData,
        })
    }

    fn compute(&self, context: &Context<'_>) -> Result<()> {
        let value = context.input::<T>(0, 3)?;
        let scale = context.input::<T>(1, 3)?;
        let offset = context.input::<T>(2, 3)?;
        let items = context.input::<i64>(3, 2)?;
        let item_token = context.input::<i64>(4, 2)?;
        let item_count = context.input::<i64>(5, 2)?;
        let vote = context.input::<Bool>(6, 2)?;
        let (layout, dims) = self.layout([
            &value.shape,
            &scale.shape,
            &offset.shape,
            &items.shape,
            &item_token.shape,
            &item_count.shape,
            &vote.shape,
        ])?;
        let r = layout.vips() + items.shape[1];
        let out = Compressed {
            rows: context.output(0, &[dims.batch, r, dims.channels])?,
            row_token: context.output(1, &[dims.batch, r])?,
            row_bias: context.output(2, &[dims.batch, r])?,
        };
        let state = State {
            value: value.data,
            scale: scale.data,
            offset: offset.data,
        };
        let (items, item_token, item_count) = (items.data, item_token.data, item_count.data);
        Ok(vcc_core::compress(
            &layout,
            dims,
            state,
            items,
            item_token,
            item_count,
            self.count_weight,
            out,
            &context.parallel(),
        )?)
    }

    fn launch(&self, context: &Context<'_>, queue: &Queue) -> Result<()> {
        let value = context.device_input::<T>(0, 3)?;
        let scale = context.device_input::<T>(1, 3)?;
        let offset = context.device_input::<T>(2, 3)?;
        let items = context.device_input::<i64>(3, 2)?;
        let item_token = context.device_input::<i64>(4, 2)?;
        let item_count = context.device_input::<i64>(5, 2)?;
        let vote = context.device_input::<Bool>(6, 2)?;
        let (layout, dims) = self.layout([
            &value.shape,
            &scale.shape,
            &offset.shape,
            &items.shape,
            &item_token.shape,
            &item_count.shape,
            &vote.shape,
        ])?;
        let q = items.shape[1];
        let r = layout.vips() + q;
        let out = launch::Rows {
            rows: context.device_output::<T>(0, &[dims.batch, r, dims.channels])?,
            row_token: context.device_output::<i64>(1, &[dims.batch, r])?,
            row_bias: context.device_output::<f32>(2, &[dims.batch, r])?,
        };
        let launches = launch::compress(
            T::TYPE,
            &layout,
            dims,
            q,
            self.count_weight,
            [value.address, scale.address, offset.address],
            items.address,
            item_token.address,
            item_count.address,
            out,
        )?;
        // SAFETY: tensors of the host, of the shapes that were checked.
        unsafe { queue.launch(&launches) }
    }

    fn infer(shapes: &Shapes) -> Result<()> {
        let (batch, channels) = (
            shapes.dim(0, 3, 0, "batch"),
            shapes.dim(0, 3, 2, "channels"),
        );
        let (vips, q) = (
            shapes.dim(6, 2, 1, "").known(),
            shapes.dim(3, 2, 1, "").known(),
        );
        let rows = shapes.number_or(
            vips.zip(q).and_then(|(vips, q)| vips.checked_add(q)),
            "rows",
        );
        shapes.set(0, shapes.kind(0), &[batch.clone(), rows.clone(), channels])?;
        shapes.set(1, INT64, &[batch.clone(), rows.clone()])?;
        shapes.set(2, FLOAT, &[batch, rows])
    }
}
