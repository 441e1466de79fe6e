//! `VccPartition`.

use std::ffi::CStr;

use vcc_core::{Ladder, Layout};

use super::{bools, check_shape, ladder};
use crate::abi::{BOOL, INT64};
use crate::attributes::Attributes;
use crate::context::{Bool, Context};
use crate::cuda::Queue;
use crate::host::{Failure, Result};
use crate::launch;
use crate::operator::{Operator, Port};
use crate::shapes::Shapes;

pub(crate) struct Partition {
    ladder: Ladder,
    capacity: i64,
}

impl Operator for Partition {
    const NAME: &'static CStr = c"VccPartition";
    const INPUTS: &'static [Port] = &[
        Port {
            name: "vip",
            kind: BOOL,
        },
        Port {
            name: "valid",
            kind: BOOL,
        },
    ];
    const OUTPUTS: &'static [Port] = &[
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
        Port {
            name: "roots",
            kind: INT64,
        },
    ];

    fn create(attributes: &Attributes) -> Result<Self> {
        let capacity = attributes.int(c"capacity")?;
        if capacity < 0 {
            return Err(Failure::from(vcc_core::Error::Capacity { capacity }));
        }
        Ok(Self {
            ladder: ladder(attributes)?,
            capacity,
        })
    }

    fn compute(&self, context: &Context<'_>) -> Result<()> {
        let vip = context.input::<Bool>(0, 2)?;
        let valid = context.input::<Bool>(1, 2)?;
        let (batch, n) = (vip.shape[0], vip.shape[1]);
        check_shape("valid", &valid.shape, &vip.shape)?;
        let (vip, valid) = (bools(&vip), bools(&valid));
        let vips = vcc_core::vip_slots(&vip, &valid, batch, n, self.capacity)?;
        let layout = Layout::for_tokens(self.ladder.clone(), n, vips)?;

        let votes = context.output::<Bool>(3, &[batch, layout.vips()])?;
        let mut vote = vec![false; votes.len()];
        let out = vcc_core::Partition {
            item_token: context.output(0, &[batch, layout.items()])?,
            item_count: context.output(1, &[batch, layout.items()])?,
            token_slot: context.output(2, &[batch, n])?,
            vote: &mut vote,
            roots: context.output(4, &[batch, layout.roots()])?,
        };
        vcc_core::partition(&layout, &vip, &valid, batch, n, out)?;
        votes
            .iter_mut()
            .zip(vote)
            .for_each(|(to, vote)| *to = vote.into());
        Ok(())
    }

    fn launch(&self, context: &Context<'_>, queue: &Queue) -> Result<()> {
        let vip = context.device_input::<Bool>(0, 2)?;
        let valid = context.device_input::<Bool>(1, 2)?;
        let (batch, n) = (vip.shape[0], vip.shape[1]);
        check_shape("valid", &valid.shape, &vip.shape)?;
        let vips = match self.capacity {
            0 => {
                let masks = [(vip.address, batch * n), (valid.address, batch * n)];
                // SAFETY: boolean tensors of the host, of these sizes.
                let masks = unsafe { queue.read(&masks) }?;
                vcc_core::vip_slots(&masks[0], &masks[1], batch, n, 0)?
            }
            capacity => usize::try_from(capacity).unwrap_or(n).clamp(1, n.max(1)),
        };
        let layout = Layout::for_tokens(self.ladder.clone(), n, vips)?;
        let out = launch::Partition {
            item_token: context.device_output::<i64>(0, &[batch, layout.items()])?,
            item_count: context.device_output::<i64>(1, &[batch, layout.items()])?,
            token_slot: context.device_output::<i64>(2, &[batch, n])?,
            vote: context.device_output::<Bool>(3, &[batch, layout.vips()])?,
            roots: context.device_output::<i64>(4, &[batch, layout.roots()])?,
        };
        let launches = launch::partition(&layout, batch, n, vip.address, valid.address, out)?;
        // SAFETY: tensors of the host, of the shapes that were checked.
        unsafe { queue.launch(&launches) }
    }

    fn infer(shapes: &Shapes) -> Result<()> {
        let (batch, n) = (shapes.dim(0, 2, 0, "batch"), shapes.dim(0, 2, 1, "tokens"));
        let capacity = shapes.int(c"capacity")?;
        let layout = match (n.known(), usize::try_from(capacity)) {
            (Some(n), Ok(capacity)) if capacity > 0 => {
                Layout::for_tokens(Ladder::new(&shapes.ints(c"ladder")?)?, n, capacity).ok()
            }
            _ => None,
        };
        let size =
            |size: fn(&Layout) -> usize, what| shapes.number_or(layout.as_ref().map(size), what);
        let items = size(Layout::items, "items");
        shapes.set(0, INT64, &[batch.clone(), items.clone()])?;
        shapes.set(1, INT64, &[batch.clone(), items])?;
        shapes.set(2, INT64, &[batch.clone(), n])?;
        shapes.set(3, BOOL, &[batch.clone(), size(Layout::vips, "vips")])?;
        shapes.set(4, INT64, &[batch, size(Layout::roots, "roots")])
    }
}
