//! Peak memory is measured in a child process: this executable, run again with a hidden argument.

#![allow(clippy::unwrap_used, clippy::panic)] // A failing helper fails its test.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

use vcc_run::{Array, Inputs, MemoryJob, Optimization, Runtime, child_main, peak_memory};

const CHILD: &str = "--measure-memory";

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_some_and(|a| a == CHILD) {
        return match child_main(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{e}");
                ExitCode::FAILURE
            }
        };
    }
    the_peak_is_that_of_the_run();
    a_child_that_fails_says_why();
    println!("ok");
    ExitCode::SUCCESS
}

fn child() -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.arg(CHILD);
    command
}

fn job(model: &str) -> MemoryJob {
    MemoryJob {
        model: Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data")
            .join(model),
        runtime: Runtime::load(None)
            .unwrap_or_else(|e| panic!("{e}"))
            .path()
            .to_owned(),
        ops_library: None,
        threads: 1,
        optimization: Optimization::All,
        runs: 2,
    }
}

fn vector(n: usize) -> Inputs {
    Inputs::from_iter([("x".to_owned(), Array::new([n], vec![1.0f32; n]).unwrap())])
}

fn the_peak_is_that_of_the_run() {
    // The output alone is n squared floats: 64 MiB and 256 MiB.
    for (n, mib) in [(4096, 64), (8192, 256)] {
        let memory =
            peak_memory(child(), &job("outer.onnx"), &vector(n)).unwrap_or_else(|e| panic!("{e}"));
        assert!(
            memory.idle <= memory.opened && memory.opened <= memory.peak,
            "{memory:?}"
        );
        let run = (memory.peak - memory.opened) >> 20;
        assert!(
            (mib - 8..mib + 64).contains(&run),
            "{run} MiB measured, {mib} expected: {memory:?}"
        );
    }
}

fn a_child_that_fails_says_why() {
    let e = peak_memory(child(), &job("outer.onnx"), &Inputs::new()).unwrap_err();
    assert_eq!(e.code(), "measure-failed");
    assert!(e.to_string().contains("needs the input `x`"), "{e}");
    let e = peak_memory(child(), &job("absent.onnx"), &vector(4)).unwrap_err();
    assert!(e.to_string().contains("absent.onnx"), "{e}");
}
