//! `VccCoarsen`.

use std::ffi::CStr;
use std::marker::PhantomData;

use vcc_core::{Ladder, Layout, StateMut};

use super::{Data, check_dtype, check_shape, known_layout, ladder, layout};
use crate::abi::{BOOL, INT64};
use crate::attributes::Attributes;
use crate::context::{Bool, Context};
use crate::host::Result;
use crate::operator::{Operator, Port};
use crate::shapes::Shapes;

pub(crate) struct Coarsen<T> {
    ladder: Ladder,
    data: PhantomData<T>,
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
        let (batch, n, channels) = (x.shape[0], x.shape[1], x.shape[2]);
        let (layout, dims) = layout(&self.ladder, &[batch, item_token.shape[1], channels], &vote)?;
        check_shape("item_token", &item_token, &[batch, layout.items()])?;
        check_shape("item_count", &item_count, &[batch, layout.items()])?;
        check_shape("token_slot", &token_slot, &[batch, n])?;
        let segments = [batch, layout.segments(), channels];
        let state = StateMut {
            value: context.output(0, &[batch, layout.items(), channels])?,
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
