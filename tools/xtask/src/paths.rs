//! Where things are: the repository, the build output, the provisioned runtimes.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Where cargo puts its output: `CARGO_TARGET_DIR` or `target`.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// What setup provisions. Always under `target/` of the repository, where the tools look for a runtime.
pub(crate) fn runtime() -> PathBuf {
    root().join("target/runtime")
}

/// A file of the release build.
pub(crate) fn release(name: &str) -> PathBuf {
    target().join("release").join(name)
}
