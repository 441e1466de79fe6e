//! `cargo xtask test`: all tests, those in Python included.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::paths::{release, root};
use crate::setup;
use crate::steps::{run, step};

/// Provisions what the tests need and runs all of them.
pub(crate) fn all() -> Result<()> {
    setup::tools()?;
    setup::hosts()?;
    step("building the operator library", || {
        run(cargo().args(["build", "--release", "-p", "vcc-ops"]))
    })?;
    step("cargo test --workspace", || {
        run(with_runtime(cargo().args(["test", "--workspace"]))?)
    })?;
    for host in std::iter::once("py").chain(setup::HOSTS) {
        step(&format!("the operator library in {host}"), || {
            script("crates/vcc-ops/tests/host.py", host)
        })?;
    }
    step("the function bodies against the operator library", || {
        script("passes/tests/bodies.py", "py")
    })
}

/// The operator library that release builds make.
pub(crate) fn library() -> PathBuf {
    release("libvcc_ops.so")
}

pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Tells a program where the runtime, the operator library and Python are.
pub(crate) fn with_runtime(command: &mut Command) -> Result<&mut Command> {
    Ok(command
        .env("ORT_DYLIB_PATH", setup::onnxruntime()?)
        .env("VCC_OPS_LIB", library())
        .env("VCC_PYTHON", setup::python("py")))
}

fn script(path: &str, environment: &str) -> Result<()> {
    run(with_runtime(
        Command::new(setup::python(environment))
            .arg(root().join(Path::new(path)))
            .current_dir(root()),
    )?)
}
