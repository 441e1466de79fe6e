//! Finding ONNX Runtime and the operator library at run time.
//!
//! Both searches take what was named (argument, then variable) or fail: a named library that does not load is an error,
//! never a reason to run something else. What was not named is searched, and every place tried is reported.
//! A process loads one ONNX Runtime and keeps it.

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::ffi::{CStr, OsStr};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;

use crate::error::{RunError, Tried};

/// The file name's stem; wheels append the full version.
const RUNTIME_NAME: &str = "libonnxruntime.so";
const OPS_NAME: &str = "libvcc_ops.so";
/// Prints where the package `onnxruntime` lies, without importing it.
const FIND_PACKAGE: &str = "import importlib.util as u; s = u.find_spec('onnxruntime'); \
     print('\\n'.join(s.submodule_search_locations or []) if s else '', end='')";

/// A loaded ONNX Runtime. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    environment: Environment,
    path: PathBuf,
    version: String,
}

static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Loads ONNX Runtime 1.18 or newer: from `explicit`, else from `ORT_DYLIB_PATH`, else the first that loads of: the
    /// `onnxruntime` package of the active Python, what the project fetched into `target/runtime`, the system loader.
    ///
    /// A second call gives the runtime that is loaded already; it is an error if `explicit` is another file.
    pub fn load(explicit: Option<&Path>) -> Result<Self, RunError> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*loaded {
            if let Some(asked) = explicit
                && !same_file(asked, &runtime.path)
            {
                return Err(RunError::RuntimeAlreadyLoaded {
                    loaded: runtime.path.clone(),
                    asked: asked.to_owned(),
                });
            }
            return Ok(runtime.clone());
        }
        let mut search = Search::default();
        let runtime = search.run(explicit).ok_or(RunError::RuntimeNotFound {
            tried: search.tried,
        })?;
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }

    /// Where the library came from; a bare name if the system loader found it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, e.g. `1.23.2`.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }
}

/// A search for ONNX Runtime and the places it has seen.
#[derive(Default)]
struct Search {
    tried: Vec<Tried>,
}

impl Search {
    fn run(&mut self, explicit: Option<&Path>) -> Option<Runtime> {
        if let Some(path) = explicit {
            return self.load("the path given", path);
        }
        if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
            return self.load("ORT_DYLIB_PATH", Path::new(&path));
        }
        self.note("ORT_DYLIB_PATH", "not set");
        self.in_python().or_else(|| self.in_target()).or_else(|| {
            ["libonnxruntime.so", "libonnxruntime.so.1"]
                .iter()
                .find_map(|n| self.load("the system loader", Path::new(n)))
        })
    }

    fn note(&mut self, place: impl Into<String>, reason: impl Into<String>) {
        self.tried.push(Tried {
            place: place.into(),
            reason: reason.into(),
        });
    }

    /// Loads this file, or the library in this directory.
    fn load(&mut self, source: &str, path: &Path) -> Option<Runtime> {
        let place = format!("{source} ({})", path.display());
        // A path is made absolute: the ort crate would look for a relative one beside the executable first.
        let path = match path.components().count() {
            1 if !path.exists() => path.to_owned(),
            _ => match path.canonicalize() {
                Ok(p) => p,
                Err(e) => {
                    self.note(place, e.to_string());
                    return None;
                }
            },
        };
        let path = if path.is_dir() {
            match library_in(&path) {
                Some(p) => p,
                None => {
                    self.note(place, format!("a directory without {RUNTIME_NAME}"));
                    return None;
                }
            }
        } else {
            path
        };
        match open_runtime(&path) {
            Ok(runtime) => Some(runtime),
            Err(reason) => {
                self.note(place, reason);
                None
            }
        }
    }

    fn in_python(&mut self) -> Option<Runtime> {
        for python in ["python3", "python"] {
            let place = format!("the onnxruntime package of `{python}`");
            let output = match Command::new(python).args(["-c", FIND_PACKAGE]).output() {
                Ok(o) => o,
                Err(e) => {
                    self.note(place, format!("`{python}` does not start: {e}"));
                    continue;
                }
            };
            let text = String::from_utf8_lossy(&output.stdout);
            if !output.status.success() || text.trim().is_empty() {
                self.note(place, "not installed");
                continue;
            }
            for package in text.lines() {
                let capi = Path::new(package).join("capi");
                match library_in(&capi) {
                    Some(library) => {
                        if let Some(runtime) = self.load(&place, &library) {
                            return Some(runtime);
                        }
                    }
                    None => self.note(
                        format!("{place} ({})", capi.display()),
                        format!("holds no {RUNTIME_NAME}; packages carry it from 1.19 on"),
                    ),
                }
            }
        }
        None
    }

    fn in_target(&mut self) -> Option<Runtime> {
        let mut found = BTreeSet::new();
        for target in target_directories() {
            let root = target.join("runtime");
            if root.is_dir() {
                find_packages(&root, 7, &mut found);
            }
        }
        let mut libraries: Vec<PathBuf> =
            found.iter().filter_map(|capi| library_in(capi)).collect();
        // The newest first.
        libraries.sort_by_key(|l| std::cmp::Reverse(version_in_name(l)));
        if libraries.is_empty() {
            self.note(
                "target/runtime, here and in every directory above",
                format!("holds no {RUNTIME_NAME}"),
            );
        }
        libraries
            .iter()
            .find_map(|l| self.load("fetched into target", l))
    }
}

/// Loads the library, checks its version and makes the process's environment.
fn open_runtime(path: &Path) -> Result<Runtime, String> {
    let version = library_version(path)?;
    if !is_supported(&version) {
        return Err(format!("is version {version}; 1.18 or newer is needed"));
    }
    let environment = ort::init_from(path)
        .map_err(|e| e.to_string())?
        .with_name("vcc")
        .build()
        .map_err(|e| e.to_string())?;
    Ok(Runtime {
        environment,
        path: path.to_owned(),
        version,
    })
}

/// Whether a version is 1.18 or newer, by number.
fn is_supported(version: &str) -> bool {
    let mut numbers = version.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (1, 18)
}

/// The version an ONNX Runtime library reports of itself.
fn library_version(path: &Path) -> Result<String, String> {
    // SAFETY: loading runs the library's initialisers; the user named it or installed it as ONNX Runtime. It is not
    // unloaded while in use: the ort crate opens it again, and this handle lives to the end of the function.
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| {
        // The loader's own words are the error's cause.
        let cause = e
            .source()
            .map_or_else(|| e.to_string(), ToString::to_string);
        format!("does not load: {cause}")
    })?;
    // SAFETY: `OrtGetApiBase` has had this signature in every release, and the types are those of the C header.
    let base = unsafe {
        let get = library
            .get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase\0")
            .map_err(|_| "is not ONNX Runtime: it has no OrtGetApiBase".to_owned())?;
        get().as_ref()
    };
    let base = base.ok_or("OrtGetApiBase gives nothing")?;
    // SAFETY: the function returns a static zero-terminated string.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) };
    version
        .to_str()
        .map(str::to_owned)
        .map_err(|_| "reports a version that is not text".to_owned())
}

/// The newest `libonnxruntime.so*` directly in a directory.
fn library_in(directory: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(directory).ok()?.flatten().map(|e| e.path());
    files
        .filter(|p| {
            p.file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|n| n.starts_with(RUNTIME_NAME))
        })
        .max_by_key(|p| (version_in_name(p), p.clone()))
}

/// The numbers after `.so.` in a file name.
fn version_in_name(path: &Path) -> Vec<u32> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let version = name.strip_prefix(RUNTIME_NAME).unwrap_or_default();
    version.split('.').filter_map(|p| p.parse().ok()).collect()
}

/// Collects the directories `onnxruntime/capi` below `directory`, at most `depth` levels down.
fn find_packages(directory: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    let capi = directory.join("onnxruntime/capi");
    if capi.is_dir() {
        found.insert(capi);
    }
    // A directory of packages holds hundreds of others, none of which holds another onnxruntime.
    let is_site = matches!(
        directory.file_name().and_then(OsStr::to_str),
        Some("site-packages" | "dist-packages")
    );
    if depth == 0 || is_site {
        return;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        // Not through links: they may form cycles.
        if entry.file_type().is_ok_and(|t| t.is_dir()) && entry.file_name() != "onnxruntime" {
            find_packages(&entry.path(), depth - 1, found);
        }
    }
}

/// Build directories that belong to this checkout: `target` here and in every directory above, and those the executable
/// lies in. Nearest first.
fn target_directories() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    let here = env::current_dir().unwrap_or_default();
    all.extend(here.ancestors().map(|d| d.join("target")));
    if let Ok(exe) = env::current_exe() {
        all.extend(exe.ancestors().skip(1).map(Path::to_owned));
    }
    all.retain(|d| d.is_dir());
    all
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b || (a.is_dir() && b.parent() == Some(&a)),
        _ => a == b,
    }
}

/// Finds the operator library: `explicit`, else `VCC_OPS_LIB`, else beside the executable, else in
/// `target/release` or `target/debug` here or in a directory above.
pub fn find_ops_library(explicit: Option<&Path>) -> Result<PathBuf, RunError> {
    let mut tried = Vec::new();
    let mut try_file = |place: &str, path: &Path| match path.canonicalize() {
        Ok(p) if p.is_file() => Some(p),
        Ok(_) => {
            tried.push(Tried {
                place: format!("{place} ({})", path.display()),
                reason: "not a file".into(),
            });
            None
        }
        Err(e) => {
            tried.push(Tried {
                place: format!("{place} ({})", path.display()),
                reason: e.to_string(),
            });
            None
        }
    };
    let variable = env::var_os("VCC_OPS_LIB").filter(|p| !p.is_empty());
    let found = if let Some(path) = explicit {
        try_file("the path given", path)
    } else if let Some(path) = &variable {
        try_file("VCC_OPS_LIB", Path::new(path))
    } else {
        let exe = env::current_exe().ok();
        // Tests and examples lie one directory below.
        let beside: Vec<_> = exe
            .iter()
            .flat_map(|e| e.ancestors().skip(1).take(2))
            .map(|d| d.join(OPS_NAME))
            .collect();
        let built: Vec<_> = target_directories()
            .iter()
            .flat_map(|t| {
                [
                    t.join("release").join(OPS_NAME),
                    t.join("debug").join(OPS_NAME),
                ]
            })
            .collect();
        let found = beside
            .iter()
            .find_map(|p| try_file("beside the executable", p));
        found.or_else(|| built.iter().find_map(|p| try_file("built here", p)))
    };
    found.ok_or(RunError::OpsLibraryNotFound { tried })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_library_of_a_directory_wins_by_number() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "libonnxruntime.so.1.9.0",
            "libonnxruntime.so.1.32.0",
            "libonnxruntime_providers_shared.so",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(
            library_in(dir.path()).unwrap().file_name().unwrap(),
            "libonnxruntime.so.1.32.0"
        );
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(
            ["1.18.0", "1.18.1", "1.32.0", "1.100.0", "2.0.0"]
                .into_iter()
                .all(is_supported)
        );
        assert!(
            !["1.17.3", "1.9.0", "0.20.0", "1", "", "x.y"]
                .into_iter()
                .any(is_supported)
        );
    }

    #[test]
    fn packages_are_found_in_a_virtual_environment_and_in_a_flat_folder() {
        let dir = tempfile::tempdir().unwrap();
        let venv = dir
            .path()
            .join("venv/lib/python3.11/site-packages/onnxruntime/capi");
        let flat = dir.path().join("1.20/onnxruntime/capi");
        // Too deep to be an installed package.
        let hidden = dir
            .path()
            .join("venv/lib/python3.11/site-packages/other/onnxruntime/capi");
        for d in [&venv, &flat, &hidden] {
            fs::create_dir_all(d).unwrap();
        }
        let mut found = BTreeSet::new();
        find_packages(dir.path(), 7, &mut found);
        assert_eq!(found, BTreeSet::from([venv, flat]));
    }

    #[test]
    fn what_is_not_onnx_runtime_is_said_to_be_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libonnxruntime.so.1.20.0");
        fs::write(&path, "not a library").unwrap();
        let mut search = Search::default();
        assert!(search.run(Some(&path)).is_none());
        assert_eq!(search.tried.len(), 1);
        assert!(
            search.tried[0].reason.contains("does not load"),
            "{:?}",
            search.tried
        );
        let mut search = Search::default();
        assert!(search.run(Some(&dir.path().join("absent.so"))).is_none());
        assert!(
            search.tried[0].reason.contains("No such file"),
            "{:?}",
            search.tried
        );
        // A library that loads and is something else.
        let mut search = Search::default();
        assert!(search.load("x", Path::new("libm.so.6")).is_none());
        assert!(
            search.tried[0].reason.contains("OrtGetApiBase"),
            "{:?}",
            search.tried
        );
    }

    #[test]
    fn an_explicit_operator_library_that_is_missing_is_an_error() {
        let e = find_ops_library(Some(Path::new("/nonexistent/libvcc_ops.so"))).unwrap_err();
        assert_eq!(e.code(), "ops-library-not-found");
        assert!(
            e.to_string()
                .contains("the path given (/nonexistent/libvcc_ops.so)"),
            "{e}"
        );
    }
}
