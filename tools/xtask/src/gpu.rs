//! `cargo xtask gpu-check`: what tools/gpu_check.py needs on a machine with a GPU, and the script itself.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::cuda;
use crate::paths::{release, root};
use crate::setup;
use crate::steps::{run, step};
use crate::test::cargo;

/// Provisions ONNX Runtime with CUDA, builds kernels, library and converter, and runs the checks.
pub(crate) fn check(options: &[String]) -> Result<()> {
    ensure!(
        has_gpu(),
        "there is no NVIDIA GPU here (no /dev/nvidia0); nothing was fetched, built or checked"
    );
    setup::gpu()?;
    cuda::build()?;
    step("building the converter and the operator library", || {
        run(cargo().args(["build", "--release", "-p", "vcc-cli", "-p", "vcc-ops"]))
    })?;
    run(Command::new(setup::python("gpu"))
        .current_dir(root())
        .arg("tools/gpu_check.py")
        .arg("--library")
        .arg(release("libvcc_ops.so"))
        .arg("--converter")
        .arg(release("vcc-convert"))
        .args(options))
}

/// Whether a driver has a device; under WSL it has another name.
fn has_gpu() -> bool {
    let devices = fs::read_dir("/dev").into_iter().flatten().flatten();
    let mut names = devices.map(|device| device.file_name().to_string_lossy().into_owned());
    names.any(|name| {
        name == "dxg"
            || name
                .strip_prefix("nvidia")
                .is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()))
    })
}
