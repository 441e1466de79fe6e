//! `VccSelect`.

use std::ffi::CStr;
use std::marker::PhantomData;

use vcc_core::{Error, Ladder, Layout, Selection};

use super::{Data, bools, check_shape, ladder};
use crate::abi::{BOOL, INT64};
use crate::attributes::Attributes;
use crate::context::{Bool, Context};
use crate::host::{Failure, Result};
use crate::operator::{Operator, Port};
use crate::shapes::Shapes;

pub(crate) struct Select<S> {
    ladder: Ladder,
    level: usize,
    scores: PhantomData<S>,
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
    ];

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
        let (batch, c) = (candidates.shape[0], candidates.shape[1]);
        let heads = scores.shape[1];
        let layout = Layout::from_items(self.ladder.clone(), vote.shape[1], item_count.shape[1])?;
        check_shape("item_count", &item_count, &[batch, layout.items()])?;
        check_shape("vote", &vote, &[batch, layout.vips()])?;
        check_shape("scores", &scores, &[batch, heads, layout.vips(), c])?;
        check_shape("budget", &budget, &[1])?;
        let refine = vcc_core::refined(budget.data[0], c);

        let children = context.output(0, &[batch, refine * self.ladder.children(self.level)])?;
        let rest = context.output(1, &[batch, c - refine])?;
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

    fn infer(shapes: &Shapes) -> Result<()> {
        let batch = shapes.dim(1, 2, 0, "batch");
        shapes.set(0, INT64, &[batch.clone(), shapes.own("children")])?;
        shapes.set(1, INT64, &[batch, shapes.own("rest")])
    }
}
