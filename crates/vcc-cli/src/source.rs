//! Model files as the subcommands open and write them, and what a converted file records of its making.

use anyhow::{Context, Result};
use onnx_model::Model;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use vcc_passes::clean_up::{FORM, PLAN};
use vcc_passes::pipeline::{Hooks, convert};
use vcc_passes::plan::Plan;
use vcc_passes::{Conversion, Form, Request};

use crate::exit::Usage;

/// Metadata key of the original's sha256.
pub(crate) const SOURCE: &str = "vcc.source_sha256";

/// Opens a model; errors name the file. Weights must have the sizes that their dimensions ask for, and external data must be
/// there, in the model's directory: they are mapped, not read.
pub(crate) fn open(path: &Path) -> Result<Model> {
    let name = || path.display().to_string();
    let model = Model::open(path).with_context(name)?;
    let graph = &model.graph;
    for value in graph.value_ids() {
        if let Some(tensor) = graph
            .initializer(value)
            .filter(onnx_model::Tensor::is_mapped)
        {
            tensor.read_raw().with_context(name)?;
        }
    }
    Ok(model)
}

/// The sha256 of a file (of the .onnx file alone, not of its external data).
pub(crate) fn sha256(path: &Path) -> Result<String> {
    const CHUNK: usize = 1 << 20;
    let name = || path.display().to_string();
    let mut file = File::open(path).with_context(name)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = file.read(&mut buffer).with_context(name)?;
        let Some(chunk) = buffer.get(..read).filter(|c| !c.is_empty()) else {
            break;
        };
        hash.update(chunk);
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Converts without hooks and records the source.
pub(crate) fn rebuild(
    original: &Path,
    sha256: &str,
    plan: &Plan,
    form: Form,
) -> Result<Conversion> {
    let mut after = |_: &vcc_passes::Pass, _: &Conversion| {};
    let mut hooks = Hooks {
        verify_each: false,
        after: &mut after,
        stop_after: None,
    };
    let mut conversion = convert(
        open(original)?,
        Request::Plan(plan.clone()),
        form,
        &mut hooks,
    )?;
    conversion.model.set_metadata(SOURCE, sha256);
    Ok(conversion)
}

/// The plan and the form that a converted file records.
pub(crate) fn recorded(converted: &Model, path: &Path) -> Result<(Plan, Form)> {
    let none = || {
        Usage(format!(
            "{} has no record of a conversion; it was not written by vcc-convert.",
            path.display()
        ))
    };
    let plan = Plan::from_toml(converted.metadata(PLAN).ok_or_else(none)?)?;
    let form = converted
        .metadata(FORM)
        .and_then(Form::named)
        .ok_or_else(none)?;
    Ok((plan, form))
}

/// `MODEL` with `.vcc.onnx` for its extension.
pub(crate) fn default_output(model: &Path) -> PathBuf {
    let stem = model
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned())
        .unwrap_or_else(|| "model".to_owned());
    model.with_file_name(format!("{stem}.vcc.onnx"))
}

/// The folder that a path is in.
fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// A model file for a moment, beside another one, so that external data is found.
pub(crate) fn scratch_beside(model: &Path) -> Result<tempfile::NamedTempFile> {
    let folder = folder(model);
    tempfile::Builder::new()
        .prefix(".vcc-")
        .suffix(".onnx")
        .tempfile_in(folder)
        .with_context(|| format!("no scratch file in {}", folder.display()))
}

/// The place a path names, whether or not something is there already.
fn place(path: &Path) -> PathBuf {
    if let Ok(place) = path.canonicalize() {
        return place;
    }
    let folder = folder(path);
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    folder.join(path.file_name().unwrap_or_default())
}

/// Refuses files of one command that are the same: one would be written over another.
pub(crate) fn all_different(files: &[(&str, &Path)]) -> Result<()> {
    for (i, (what, path)) in files.iter().enumerate() {
        if let Some((other, _)) = files.iter().take(i).find(|(_, p)| place(p) == place(path)) {
            return Err(Usage(format!(
                "{what} and {other} are the same file, {}; choose another name.",
                path.display()
            ))
            .into());
        }
    }
    Ok(())
}

/// Writes a text beside its target and then in its place, so that no half of it is ever seen.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    let refuse =
        |e: &dyn std::fmt::Display| Usage(format!("{} cannot be written: {e}.", path.display()));
    regular_or_new(path)?;
    let mut file = tempfile::NamedTempFile::new_in(folder(path)).map_err(|e| refuse(&e))?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(|e| refuse(&e))?;
    file.persist(path).map_err(|e| refuse(&e.error))?;
    Ok(())
}

/// A directory, a device or a pipe is never replaced by a file.
fn regular_or_new(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(Usage(format!(
            "{} exists and is not a regular file.",
            path.display()
        ))
        .into()),
        _ => Ok(()),
    }
}

/// Writes a converted model. It never takes the original's place, and its external data must lie beside it as before.
pub(crate) fn save(model: &Model, original: &Path, output: &Path) -> Result<()> {
    all_different(&[("The model", original), ("the output", output)])?;
    regular_or_new(output)?;
    let files = model.external_files();
    if let Some(file) = files.first() {
        let place = |p: &Path| folder(p).canonicalize().ok();
        if place(original) != place(output) {
            return Err(Usage(format!(
                "The model keeps weights in {} file(s) beside it ({}). Write the converted model into the same directory, so that it finds them.",
                files.len(),
                file.display()
            ))
            .into());
        }
    }
    model
        .save(output)
        .with_context(|| output.display().to_string())
}
