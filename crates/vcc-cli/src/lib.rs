//! The command line: `vcc-convert` and `vcc`, one file per subcommand.

#[macro_use]
mod say;

mod bench;
mod check;
mod convert;
mod diff;
mod engine;
mod exact;
mod exit;
mod inputs;
mod inspect;
mod library_path;
mod report;
mod source;
mod tune;
mod verify;
mod vip;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Makes ONNX Transformer encoders read long inputs at a fraction of the cost.
#[derive(Parser)]
#[command(name = "vcc", version, propagate_version = true)]
struct Vcc {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Convert a model
    Convert(convert::Options),
    /// Show blocks, token axes, externals and refusals
    Inspect(inspect::Options),
    /// Compare the original with the converted model
    Verify(verify::Options),
    /// Measure time and peak memory of both models side by side
    Bench(bench::Options),
    /// Find the smallest budget that meets a target on given inputs
    Tune(tune::Options),
    /// Show what the rewrite changed, block by block
    Diff(diff::Options),
    /// Print the path of the operator library
    LibraryPath(library_path::Options),
    /// Runs one model for `bench`, which measures this process's memory.
    #[command(hide = true)]
    MeasureMemory {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
}

/// `vcc`
pub fn vcc() -> ExitCode {
    exit::code(match Vcc::parse().command {
        Command::Convert(options) => convert::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Verify(options) => verify::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Tune(options) => tune::run(&options),
        Command::Diff(options) => diff::run(&options),
        Command::LibraryPath(options) => library_path::run(&options),
        Command::MeasureMemory { arguments } => vcc_run::child_main(arguments)
            .map_err(Into::into)
            .map(|()| exit::Verdict::Ok),
    })
}

/// Convert an ONNX Transformer encoder so that long inputs cost a fraction.
#[derive(Parser)]
#[command(name = "vcc-convert", version)]
struct VccConvert {
    #[command(flatten)]
    options: convert::Options,
}

/// `vcc-convert`
pub fn vcc_convert() -> ExitCode {
    exit::code(convert::run(&VccConvert::parse().options))
}
