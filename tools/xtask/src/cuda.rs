//! `cargo xtask cuda`: the CUDA kernels for every target, in one compressed fat binary, `target/cuda/vcc_kernels.fatbin`.
//!
//! The build is a check too: warnings, registers spilled to memory and local memory are errors, for each target. It is skipped if the
//! sources, the options and the compiler are those of the last one that went well, and the file is as that left it. That the library
//! launches what is in the binary is checked each time (`fat_binary`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::fat_binary;
use crate::fixtures::sha256;
use crate::paths::root;
use crate::setup;
use crate::steps::{capture, run, step};

/// Generations of devices with code of their own; newer ones compile the intermediate code of the first when they load it.
const TARGETS: [&str; 7] = ["75", "80", "86", "89", "90", "100", "120"];

/// Products are not contracted to fused operations unless the source says so: every target computes the same bits.
const OPTIONS: [&str; 10] = [
    "-std=c++17",
    "-O3",
    "-fmad=false",
    "-Werror",
    "all-warnings",
    "-Xptxas",
    "-warn-spills,-warn-lmem-usage,-Werror",
    "-compress-mode=size",
    "--threads=2",
    "-fatbin",
];

/// Builds the fat binary, checks it and returns its path.
pub(crate) fn build() -> Result<PathBuf> {
    setup::cuda()?;
    let output = compile()?;
    step(
        "the kernels in the fat binary, and those that are launched",
        || fat_binary::check(&tool("cuobjdump")?, &output, &TARGETS),
    )?;
    Ok(output)
}

fn compile() -> Result<PathBuf> {
    let sources = root().join("crates/vcc-ops/cuda");
    let folder = root().join("target/cuda");
    let output = folder.join("vcc_kernels.fatbin");
    let stamp = folder.join("complete");
    let inputs = digest(&sources)?;
    let written = || -> Result<String> { Ok(format!("{inputs} {}", sha256(&fs::read(&output)?))) };
    if output.exists() && fs::read_to_string(&stamp).ok() == Some(written()?) {
        return Ok(output);
    }
    fs::create_dir_all(&folder)?;
    if stamp.exists() {
        fs::remove_file(&stamp)?;
    }
    step("compiling the CUDA kernels for every target", || {
        let mut nvcc = Command::new(tool("nvcc")?);
        nvcc.args(OPTIONS);
        for target in TARGETS {
            nvcc.arg(format!("-gencode=arch=compute_{target},code=sm_{target}"));
        }
        let oldest = TARGETS[0];
        nvcc.arg(format!(
            "-gencode=arch=compute_{oldest},code=compute_{oldest}"
        ));
        nvcc.arg("-o").arg(&output);
        run(nvcc.arg(sources.join("vcc_kernels.cu")))
    })?;
    fs::write(&stamp, written()?)?;
    eprintln!(
        "    {} bytes: {}",
        fs::metadata(&output)?.len(),
        output.display()
    );
    Ok(output)
}

/// A program in the environment that setup made.
fn tool(name: &str) -> Result<PathBuf> {
    Ok(toolkit()?.join("bin").join(name))
}

/// The headers of the CUDA runtime in that environment.
pub(crate) fn headers() -> Result<PathBuf> {
    setup::cuda()?;
    Ok(toolkit()?.join("include"))
}

fn toolkit() -> Result<PathBuf> {
    let find = "import sysconfig; print(sysconfig.get_paths()['purelib'])";
    let packages = capture(Command::new(setup::python("cuda")).args(["-c", find]))?;
    Ok(Path::new(packages.trim()).join("nvidia/cu13"))
}

/// What the fat binary is made of: the compiler, the options, the sources.
fn digest(sources: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(sources)
        .with_context(|| format!("reading {}", sources.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|file| file.is_file());
    files.push(root().join("tools/requirements/cuda.txt"));
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(fs::read(&file)?);
    }
    hash.update(OPTIONS.concat());
    hash.update(TARGETS.concat());
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
