//! `vcc library-path`

use crate::exit::Verdict;
use anyhow::Result;
use clap::Args;

/// Options of `vcc library-path`.
#[derive(Args)]
pub(crate) struct Options {}

pub(crate) fn run(_: &Options) -> Result<Verdict> {
    say!("{}", vcc_run::find_ops_library(None)?.display());
    Ok(Verdict::Ok)
}
