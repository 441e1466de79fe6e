//! Running other programs with progress on stderr, so that stdout holds results only.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

/// Names what begins, and how long it took.
pub(crate) fn step<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {title}");
    let start = Instant::now();
    let result = work()?;
    eprintln!(
        "    done in {:.1} s: {title}",
        start.elapsed().as_secs_f64()
    );
    Ok(result)
}

/// Runs a program to its end, its output passed through. Errors if it can't be started or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", show(command)))?;
    if !status.success() {
        bail!("failed with {status}: {}", show(command));
    }
    Ok(())
}

/// Runs a program and returns what it wrote to stdout; stderr is passed through.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", show(command)))?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stdout);
        bail!(
            "failed with {}: {}\n{printed}",
            output.status,
            show(command)
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("stdout is not UTF-8: {}", show(command)))
}

/// As `capture`, for a program that prints one JSON value.
pub(crate) fn json<T: DeserializeOwned>(command: &mut Command) -> Result<T> {
    let text = capture(command)?;
    serde_json::from_str(&text)
        .with_context(|| format!("unexpected output of {}:\n{text}", show(command)))
}

/// The command line as a user would type it, near enough.
fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|w| w.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
