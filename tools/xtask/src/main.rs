//! Project tasks, run as `cargo xtask TASK`.

mod fixtures;
mod paths;

use std::path::PathBuf;

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
    /// Compare fixtures/ with its manifest
    Fixtures {
        /// Import the files from this folder first, and record their sums
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Fixtures { from: Some(dir) } => fixtures::import(&dir),
        Task::Fixtures { from: None } => fixtures::check(),
    }
}
