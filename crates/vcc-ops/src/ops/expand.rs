//! `VccExpand`.

use std::ffi::CStr;
use std::marker::PhantomData;

use vcc_core::{Ladder, State};

use super::{Data, check_dtype, check_shape, ladder, layout};
use crate::abi::{BOOL, INT64};
use crate::attributes::Attributes;
use crate::context::{Bool, Context};
use crate::host::Result;
use crate::operator::{Operator, Port};
use crate::shapes::Shapes;

pub(crate) struct Expand<T> {
    ladder: Ladder,
    data: PhantomData<T>,
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
        let (layout, dims) = layout(&self.ladder, &value.shape, &vote)?;
        check_shape(
            "scale",
            &scale,
            &[dims.batch, layout.segments(), dims.channels],
        )?;
        check_shape(
            "offset",
            &offset,
            &[dims.batch, layout.segments(), dims.channels],
        )?;
        check_shape(
            "token_slot",
            &token_slot,
            &[dims.batch, token_slot.shape[1]],
        )?;
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

    fn infer(shapes: &Shapes) -> Result<()> {
        let dims = [
            shapes.dim(3, 2, 0, "batch"),
            shapes.dim(3, 2, 1, "tokens"),
            shapes.dim(0, 3, 2, "channels"),
        ];
        shapes.set(0, shapes.kind(0), &dims)
    }
}
