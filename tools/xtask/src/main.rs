//! Project tasks, run as `cargo xtask TASK`.

mod cuda;
mod demo;
mod fat_binary;
mod fixtures;
mod gpu;
mod licences;
mod paths;
mod setup;
mod steps;
mod test;
mod zoo;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Convert a trained and a long model, verify and measure them, print a table
    Demo,
    /// Run all tests, those in Python included
    Test,
    /// Provision ONNX Runtime and Python packages into target/runtime
    Setup {
        /// Also what only the tests need: older ONNX Runtimes, and the headers of its C++ API
        #[arg(long)]
        hosts: bool,
    },
    /// Compare fixtures/ with its manifest
    Fixtures {
        /// Import the files from this folder first, and record their sums
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
    },
    /// Measure every fixture and write fixtures/ZOO.md
    Zoo {
        /// Only compare it with what the last run of the tests measured
        #[arg(long)]
        check: bool,
    },
    /// Check the licences of all dependencies
    Licences,
    /// Compile the CUDA kernels for every target into target/cuda/vcc_kernels.fatbin
    Cuda,
    /// On a machine with a GPU: provision, build, check everything that needs one, and print a table
    GpuCheck {
        /// Options of tools/gpu_check.py: --list, --only STEP,..
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
}

fn main() -> ExitCode {
    match task(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn task(task: Task) -> Result<()> {
    match task {
        Task::Demo => demo::all(),
        Task::Test => test::all(),
        Task::Setup { hosts } => {
            setup::tools()?;
            if hosts {
                setup::hosts()?;
                setup::headers()?;
            }
            Ok(())
        }
        Task::Fixtures { from: Some(dir) } => fixtures::import(&dir),
        Task::Fixtures { from: None } => fixtures::check(),
        Task::Zoo { check: false } => zoo::write(),
        Task::Zoo { check: true } => zoo::check(),
        Task::Licences => licences::check(),
        Task::Cuda => cuda::build().map(drop),
        Task::GpuCheck { options } => gpu::check(&options),
    }
}
