//! `cargo xtask test`: all tests, those in Python included. The last line on stdout is `N passed, N failed`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cuda;
use crate::paths::{release, root, target};
use crate::setup;
use crate::steps::{run, step};
use crate::zoo;

/// How many tests passed and failed. A script counts as one test.
#[derive(Default, PartialEq, Debug)]
struct Tally {
    passed: usize,
    failed: usize,
}

/// Provisions what the tests need and runs all of them, also after a failure.
pub(crate) fn all() -> Result<()> {
    setup::tools()?;
    setup::hosts()?;
    build_library()?;
    let mut tally = Tally::default();
    // What an earlier run measured says nothing about this one.
    if zoo::measured().exists() {
        std::fs::remove_dir_all(zoo::measured())?;
    }
    step("cargo test --workspace", || rust(&mut tally))?;
    step("fixtures/ZOO.md", || {
        match zoo::check() {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                tally.failed += 1;
                eprintln!("FAILED: {error:#}");
            }
        }
        Ok(())
    })?;
    step("the CUDA kernels for every target", || {
        match cuda::build() {
            Ok(_) => tally.passed += 1,
            Err(error) => {
                tally.failed += 1;
                eprintln!("FAILED: {error:#}");
            }
        }
        Ok(())
    })?;
    // From here on the library has what kernels there are.
    let cpu_library = build_cpu_library()?;
    build_library()?;
    for host in std::iter::once("py").chain(setup::HOSTS) {
        step(&format!("the operator library in {host}"), || {
            script(&mut tally, host, &["crates/vcc-ops/tests/host.py"])
        })?;
    }
    let folder = step("converting models for the hosts", || {
        converted_models("hosts", &ON_HOSTS, &["--refine", "all"])
    })?;
    for host in std::iter::once("py").chain(setup::HOSTS) {
        let library = library();
        let options = [
            "tools/run_converted.py",
            folder.to_str().context("the target's path is not UTF-8")?,
            "--library",
            library.to_str().context("the target's path is not UTF-8")?,
        ];
        step(&format!("converted models in {host}"), || {
            script(&mut tally, host, &options)
        })?;
    }
    step("the C++ of the pages", || {
        match setup::headers() {
            Ok(Some(headers)) => {
                let model = folder.join("bert__ts17_sdpa.vcc.onnx");
                let paths = [&headers, &setup::onnxruntime()?, &library(), &model];
                return script_on(&mut tally, "py", "crates/vcc-run/tests/snippets.py", paths);
            }
            Ok(None) => eprintln!("    not compiled: npm fetches the headers, and there is none"),
            Err(error) => {
                tally.failed += 1;
                eprintln!("FAILED: {error:#}");
            }
        }
        Ok(())
    })?;
    let (operators, mock) = (library(), mock_driver()?);
    let options = ["--vip", "first:2", "--ladder", "8,2,1", "--refine", "3,4"];
    let folder = step("converting models for CUDA", || {
        converted_models("cuda-models", &ON_CUDA, &options)
    })?;
    step("the CUDA operators with a stand-in for the driver", || {
        let paths = [&operators, &mock, &folder];
        script_on(&mut tally, "py", "crates/vcc-ops/tests/cuda_mock.py", paths)
    })?;
    step("tools/gpu_check.py without a GPU", || {
        let paths = [&operators, &target().join("debug/vcc-convert"), &mock];
        let name = "crates/vcc-ops/tests/gpu_check_stand_in.py";
        script_on(&mut tally, "py", name, paths)
    })?;
    step("ONNX Runtime's CUDA provider without a GPU", || {
        match fake_cuda() {
            Ok(fake) => {
                let paths = [&operators, &target().join("debug/vcc-convert"), &fake];
                let name = "crates/vcc-ops/tests/cuda_provider.py";
                script_on(&mut tally, setup::WITH_CUDA, name, paths)?;
            }
            Err(error) => {
                tally.failed += 1;
                eprintln!("FAILED: {error:#}");
            }
        }
        Ok(())
    })?;
    for host in std::iter::once("py").chain(setup::HOSTS) {
        step(&format!("operators for CPU and CUDA in {host}"), || {
            let paths = [&operators, &cpu_library, &mock, &folder];
            script_on(&mut tally, host, "crates/vcc-ops/tests/drivers.py", paths)
        })?;
    }
    for (what, name) in [
        ("unusual forms of encoders", "forms.py"),
        ("quantised and fused forms of encoders", "fused_forms.py"),
        ("files around encoders", "file_forms.py"),
        ("random encoders", "random_encoders.py"),
    ] {
        step(what, || {
            let (converter, library) = (target().join("debug/vcc-convert"), library());
            let options = [
                &format!("crates/vcc-cli/tests/{name}"),
                "--converter",
                converter
                    .to_str()
                    .context("the target's path is not UTF-8")?,
                "--library",
                library.to_str().context("the target's path is not UTF-8")?,
            ];
            script(&mut tally, "py", &options)
        })?;
    }
    // cargo test builds the examples too.
    let generator = target().join("debug/examples/body_models");
    step("the function bodies against their specification", || {
        let generator = generator
            .to_str()
            .context("the target's path is not UTF-8")?;
        let options = ["passes/tests/bodies.py", "--generator", generator];
        script(&mut tally, "py", &options)
    })?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    ensure!(tally.failed == 0, "there are failures");
    Ok(())
}

/// Builds the operator library as users have it.
pub(crate) fn build_library() -> Result<()> {
    step("building the operator library", || {
        run(cargo().args(["build", "--release", "-p", "vcc-ops"]))
    })
}

/// The operator library without CUDA kernels, whether there are any or not.
fn build_cpu_library() -> Result<PathBuf> {
    let kept = target().join("libvcc_ops_cpu.so");
    step("building the operator library without CUDA", || {
        run(cargo()
            .env("VCC_CUDA_FATBIN", "")
            .args(["build", "--release", "-p", "vcc-ops"]))?;
        std::fs::copy(library(), &kept)?;
        Ok(())
    })?;
    Ok(kept)
}

/// Models of different forms that are converted at full budget and run in every host beside their originals.
const ON_HOSTS: [&str; 13] = [
    "albert__ts17_sdpa",
    "bart_encoder__ts17_sdpa",
    "bert__dyn23_sdpa",
    "bert__fp16_ts17_sdpa",
    "bert__ortfused_ts17_sdpa",
    "bert__ts14_eager",
    "bert__ts17_sdpa",
    "deberta_v3__ts17_eager",
    "distilbert__dyn18_sdpa",
    "roberta__ts17_sdpa",
    "t5_encoder__dyn18_eager",
    "t5_encoder__ts17_eager",
    "vit__ts17_sdpa",
];

/// Models that are converted at a small budget and run with the emulated CUDA operators, or with both variants, beside the CPU operators.
const ON_CUDA: [&str; 4] = [
    "bert__fp16_ts17_sdpa",
    "bert__ts17_sdpa",
    "roberta__ts17_sdpa",
    "t5_encoder__ts17_eager",
];

/// Puts each of the models, original and converted, into a folder of the target's.
fn converted_models(folder: &str, models: &[&str], options: &[&str]) -> Result<PathBuf> {
    let folder = target().join(folder);
    // The tests run whatever is in it.
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    for name in models {
        let original = folder.join(format!("{name}.onnx"));
        std::fs::copy(
            root().join(format!("fixtures/models/{name}.onnx")),
            &original,
        )?;
        // cargo test builds the binaries too.
        let mut convert = Command::new(target().join("debug/vcc-convert"));
        run(convert
            .arg(&original)
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null()))?;
    }
    Ok(folder)
}

/// Compiles the stand-in for NVIDIA's driver, with the kernels' sources for the CPU; the flags are those of `vcc-cuda-emu`.
fn mock_driver() -> Result<PathBuf> {
    let mock = target().join("libcuda_mock.so");
    let flags = "-std=c++17 -O2 -fPIC -shared -fvisibility=hidden -fno-strict-aliasing -ffp-contract=off -Wno-unknown-pragmas";
    run(Command::new("g++")
        .current_dir(root().join("crates/vcc-ops"))
        .args(flags.split(' '))
        .arg("-o")
        .arg(&mock)
        .args([
            "tests/mock_driver.cpp",
            "cuda/emulator/entries.cpp",
            "cuda/emulator/fibers.cpp",
        ]))?;
    Ok(mock)
}

/// Builds what ONNX Runtime needs of CUDA to make its CUDA provider; returns the folder.
fn fake_cuda() -> Result<PathBuf> {
    let folder = target().join("fake_cuda");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    run(Command::new(setup::python(setup::WITH_CUDA))
        .current_dir(root())
        .args(["-B", "crates/vcc-ops/tests/fake_cuda.py"])
        .arg(&folder)
        .arg(cuda::headers()?))?;
    Ok(folder)
}

/// The operator library that release builds make.
fn library() -> PathBuf {
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

/// `cargo test` of everything; its output is passed through and counted.
fn rust(tally: &mut Tally) -> Result<()> {
    let mut command = cargo();
    command.args([
        "test",
        "--workspace",
        "--no-fail-fast",
        "--features",
        "vcc-cli/tract",
    ]);
    let mut child = with_runtime(&mut command)?
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo has no stdout")?;
    let before = tally.failed;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.count(&line);
    }
    let status = child.wait()?;
    // Without a failed test the tests were not built, or one ended its process.
    ensure!(
        status.success() || tally.failed > before,
        "cargo test failed with {status}"
    );
    Ok(())
}

impl Tally {
    /// Adds a line like `test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.01s`.
    fn count(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

/// Runs a Python test that takes paths only.
fn script_on<const N: usize>(
    tally: &mut Tally,
    environment: &str,
    name: &str,
    paths: [&PathBuf; N],
) -> Result<()> {
    let mut arguments = vec![name];
    for path in paths {
        arguments.push(path.to_str().context("the target's path is not UTF-8")?);
    }
    script(tally, environment, &arguments)
}

/// Runs a Python test in an environment that setup made.
fn script(tally: &mut Tally, environment: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(setup::python(environment));
    command.args(arguments).current_dir(root());
    let status = with_runtime(&mut command)?
        .status()
        .with_context(|| format!("cannot start Python of {environment}"))?;
    if status.success() {
        tally.passed += 1;
    } else {
        tally.failed += 1;
        eprintln!(
            "FAILED ({status}): {} in {environment}",
            arguments.join(" ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn the_results_of_cargo_test_are_added_up() {
        let mut tally = Tally::default();
        for line in [
            "running 4 tests",
            "test a ... ok",
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.01s",
            "test result: FAILED. 10 passed; 2 failed; 3 ignored; 0 measured; 0 filtered out; finished in 9.51s",
        ] {
            tally.count(line);
        }
        let expected = Tally {
            passed: 14,
            failed: 2,
        };
        assert_eq!(tally, expected);
    }
}
