//! Peak memory of one model's run, measured in a process of its own.
//!
//! The high-water mark of a process never falls, so a second model measured in the same process would inherit the first
//! one's. The caller's executable runs itself again with a hidden subcommand that hands its remaining arguments to
//! [`child_main`]; the inputs travel through standard input as .npz, the result comes back as one line of output.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::RunError;
use crate::npz;
use crate::runtime::Runtime;
use crate::session::{Optimization, Session, SessionOptions};
use crate::tensors::Inputs;

/// Starts the child's line of output.
const RESULT: &str = "vcc-peak-memory";

/// What to measure.
#[derive(Clone, Debug)]
pub struct MemoryJob {
    /// The model file.
    pub model: PathBuf,
    /// ONNX Runtime's library, [`Runtime::path`].
    pub runtime: PathBuf,
    /// The operator library to register.
    pub ops_library: Option<PathBuf>,
    /// Threads inside an operator; 0 lets ONNX Runtime choose.
    pub threads: usize,
    /// How far ONNX Runtime may rewrite the graph.
    pub optimization: Optimization,
    /// How many runs; at least one is made.
    pub runs: usize,
}

/// The child's resident memory at its highest (VmHWM), in bytes, up to three moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeakMemory {
    /// Before the model was opened: ONNX Runtime and the inputs.
    pub idle: u64,
    /// After the model was opened.
    pub opened: u64,
    /// After the last run.
    pub peak: u64,
}

/// Measures in a child process. `child` is the command of this executable's hidden subcommand, without further
/// arguments, e.g. `vcc --measure-memory`.
pub fn peak_memory(
    mut child: Command,
    job: &MemoryJob,
    inputs: &Inputs,
) -> Result<PeakMemory, RunError> {
    let failed = |reason: String| RunError::Measure {
        model: job.model.display().to_string(),
        reason,
    };
    let stdin = npz::to_bytes(inputs).map_err(failed)?;
    child
        .arg(&job.model)
        .arg(&job.runtime)
        .arg(job.optimization.name());
    child
        .args([job.threads.to_string(), job.runs.to_string()])
        .args(&job.ops_library);
    let mut process = child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("the child does not start: {e}")))?;
    if let Some(mut pipe) = process.stdin.take() {
        // A child that died early closes the pipe; its own words, below, say more than the error here.
        let _ = pipe.write_all(&stdin);
    }
    drop(stdin);
    let output = process
        .wait_with_output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!(
            "the child ended with {}: {}",
            output.status,
            words.trim()
        )));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    parse_result(&text).ok_or_else(|| failed(format!("the child printed {text:?}")))
}

fn parse_result(text: &str) -> Option<PeakMemory> {
    let line = text.lines().find_map(|l| l.strip_prefix(RESULT))?;
    let mut numbers = line.split_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(PeakMemory {
        idle: next()?,
        opened: next()?,
        peak: next()?,
    })
}

/// The child's side: takes the arguments after the hidden subcommand and the inputs from standard input, runs the model
/// and prints the result.
pub fn child_main(arguments: impl IntoIterator<Item = OsString>) -> Result<(), RunError> {
    let mut arguments = arguments.into_iter();
    let model = PathBuf::from(arguments.next().unwrap_or_default());
    let failed = |reason: String| RunError::Measure {
        model: model.display().to_string(),
        reason,
    };
    let mut next = |what: &str| {
        arguments
            .next()
            .ok_or_else(|| failed(format!("no {what} was passed")))
    };
    let runtime = PathBuf::from(next("runtime")?);
    let optimization = next("optimisation level")?
        .to_str()
        .and_then(Optimization::from_name);
    let optimization = optimization.ok_or_else(|| failed("unknown optimisation level".into()))?;
    let number = |s: OsString| {
        s.to_str()
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| failed("not a number".into()))
    };
    let threads = number(next("number of threads")?)?;
    let runs: usize = number(next("number of runs")?)?;
    let ops_library = arguments.next().map(PathBuf::from);

    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .map_err(|e| failed(e.to_string()))?;
    let inputs = npz::read_bytes(&bytes).map_err(failed)?;
    drop(bytes);

    let runtime = Runtime::load(Some(&runtime))?;
    let idle = high_water_mark().map_err(failed)?;
    let options = SessionOptions {
        threads,
        optimization,
        ops_library,
        optimized_model: None,
    };
    let mut session = Session::open(&runtime, &model, &options)?;
    let opened = high_water_mark().map_err(failed)?;
    for _ in 0..runs.max(1) {
        session.run_only(&inputs)?;
    }
    let peak = high_water_mark().map_err(failed)?;
    println!("{RESULT} {idle} {opened} {peak}");
    Ok(())
}

/// This process's largest resident memory so far, in bytes.
fn high_water_mark() -> Result<u64, String> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|e| format!("/proc/self/status: {e}"))?;
    parse_status(&status).ok_or_else(|| "/proc/self/status has no VmHWM".into())
}

fn parse_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_and_the_result_are_read() {
        assert_eq!(
            parse_status("VmPeak:\t 9 kB\nVmHWM:\t    1964 kB\n"),
            Some(1964 * 1024)
        );
        assert_eq!(parse_status("VmPeak: 9 kB\n"), None);
        let expected = PeakMemory {
            idle: 1,
            opened: 2,
            peak: 3,
        };
        assert_eq!(
            parse_result("noise\nvcc-peak-memory 1 2 3\n"),
            Some(expected)
        );
        assert_eq!(parse_result("vcc-peak-memory 1 2\n"), None);
        assert!(high_water_mark().unwrap() > 1 << 20);
    }
}
