//! `VccSelect`.

use std::ffi::CStr;
use std::marker::PhantomData;

use vcc_core::{Error, Ladder, Layout, Selection};

use super::{Data, bools, check_shape, ladder};
use crate::abi::{BOOL, FLOAT, INT64};
use crate::attributes::Attributes;
use crate::context::{Bool, Context};
use crate::cuda::Queue;
use crate::host::{Failure, Result};
use crate::launch;
use crate::operator::{Operator, Port};
use crate::shapes::Shapes;

pub(crate) struct Select<S> {
    ladder: Ladder,
    level: usize,
    scores: PhantomData<S>,
}

impl<S> Select<S> {
    /// The layout from the shapes of the inputs, which must fit.
    fn layout(&self, [scores, candidates, count, vote, budget]: [&[usize]; 5]) -> Result<Layout> {
        let (batch, c) = (candidates[0], candidates[1]);
        let layout = Layout::from_items(self.ladder.clone(), vote[1], count[1])?;
        check_shape("item_count", count, &[batch, layout.items()])?;
        check_shape("vote", vote, &[batch, layout.vips()])?;
        check_shape("scores", scores, &[batch, scores[1], layout.vips(), c])?;
        check_shape("budget", budget, &[1])?;
        Ok(layout)
    }
}

impl<S: Data> Operator for Select<S> {
    const NAME: &'static CStr = c"VccSelect";
    const INPUTS: &'static [Port] = &[
        Port {
            name: "scores",
            kind: S::KIND,
        },
        Port {
            name: "candidates",
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
            name: "budget",
            kind: INT64,
        },
    ];
    const OUTPUTS: &'static [Port] = &[
        Port {
            name: "children",
            kind: INT64,
        },
        Port {
            name: "rest",
            kind: INT64,
        },
        Port {
            name: "sums",
            kind: FLOAT,
        },
    ];

    const ON_HOST: Option<usize> = Some(4);

    fn create(attributes: &Attributes) -> Result<Self> {
        let (ladder, level) = (ladder(attributes)?, attributes.int(c"level")?);
        match usize::try_from(level) {
            Ok(level) if level < ladder.levels() => Ok(Self {
                ladder,
                level,
                scores: PhantomData,
            }),
            _ => Err(Failure::from(Error::Level {
                level,
                levels: ladder.levels(),
            })),
        }
    }

    fn compute(&self, context: &Context<'_>) -> Result<()> {
        let scores = context.input::<S>(0, 4)?;
        let candidates = context.input::<i64>(1, 2)?;
        let item_count = context.input::<i64>(2, 2)?;
        let vote = context.input::<Bool>(3, 2)?;
        let budget = context.input::<i64>(4, 1)?;
        let layout = self.layout([
            &scores.shape,
            &candidates.shape,
            &item_count.shape,
            &vote.shape,
            &budget.shape,
        ])?;
        let (batch, c) = (candidates.shape[0], candidates.shape[1]);
        let heads = scores.shape[1];
        let refine = vcc_core::refined(budget.data[0], c);

        let children = context.output(0, &[batch, refine * self.ladder.children(self.level)])?;
        let rest = context.output(1, &[batch, c - refine])?;
        // Memory for the CUDA kernels.
        context.output::<f32>(2, &[batch, 0, c])?;
        let selection = Selection {
            level: self.level,
            scores: scores.data,
            heads,
            candidates: candidates.data,
            item_count: item_count.data,
            vote: &bools(&vote),
            batch,
            refine,
        };
        Ok(vcc_core::select(
            &layout,
            selection,
            children,
            rest,
            &context.parallel(),
        )?)
    }

    fn launch(&self, context: &Context<'_>, queue: &Queue) -> Result<()> {
        let scores = context.device_input::<S>(0, 4)?;
        let candidates = context.device_input::<i64>(1, 2)?;
        let item_count = context.device_input::<i64>(2, 2)?;
        let vote = context.device_input::<Bool>(3, 2)?;
        // The shape of the outputs depends on it, so it is in the host's memory: `ON_HOST`.
        let budget = context.input::<i64>(4, 1)?;
        let layout = self.layout([
            &scores.shape,
            &candidates.shape,
            &item_count.shape,
            &vote.shape,
            &budget.shape,
        ])?;
        let (batch, c) = (candidates.shape[0], candidates.shape[1]);
        let refine = vcc_core::refined(budget.data[0], c);
        let children = [batch, refine * self.ladder.children(self.level)];
        let sizes = launch::Selection {
            level: self.level,
            heads: scores.shape[1],
            candidates: c,
            refine,
        };
        let parts = launch::parts(S::TYPE, &layout, sizes);
        let tensors = launch::SelectionTensors {
            scores: scores.address,
            candidates: candidates.address,
            item_count: item_count.address,
            vote: vote.address,
            children: context.device_output::<i64>(0, &children)?,
            rest: context.device_output::<i64>(1, &[batch, c - refine])?,
            sums: context.device_output::<f32>(2, &[batch, parts, c])?,
        };
        let launches = launch::select(S::TYPE, &layout, batch, sizes, tensors)?;
        // SAFETY: tensors of the host, of the shapes that were checked.
        unsafe { queue.launch(&launches) }
    }

    fn infer(shapes: &Shapes) -> Result<()> {
        let (batch, c) = (
            shapes.dim(1, 2, 0, "batch"),
            shapes.dim(1, 2, 1, "candidates"),
        );
        shapes.set(0, INT64, &[batch.clone(), shapes.own("children")])?;
        shapes.set(1, INT64, &[batch.clone(), shapes.own("rest")])?;
        shapes.set(2, FLOAT, &[batch, shapes.own("parts"), c])
    }
}
