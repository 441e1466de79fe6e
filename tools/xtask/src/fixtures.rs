//! `cargo xtask fixtures`: compares `fixtures/` with its manifest, or imports the files from a folder.
//!
//! `fixtures/manifest.toml` is written by hand except for the two values `bytes` and `sha256` of each entry, which an
//! import fills in. So a fixture can't change without its recorded sum changing too.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::paths::root;

#[derive(Deserialize)]
struct Manifest {
    model: Vec<Entry>,
    golden: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    /// Relative to `fixtures/`, always with `/`.
    file: String,
    bytes: usize,
    sha256: String,
}

/// Compares every file with its recorded size and sum, and the folder with the list.
pub(crate) fn check() -> Result<()> {
    let dir = root().join("fixtures");
    let manifest = read_manifest(&dir)?;
    let mut wrong = Vec::new();
    let mut listed = Vec::new();
    for entry in manifest.model.iter().chain(&manifest.golden) {
        listed.push(entry.file.clone());
        match fs::read(dir.join(&entry.file)) {
            Ok(bytes) if bytes.len() == entry.bytes && sha256(&bytes) == entry.sha256 => {}
            Ok(_) => wrong.push(format!("{}: differs from the manifest", entry.file)),
            Err(e) => wrong.push(format!("{}: {e}", entry.file)),
        }
    }
    for folder in ["models", "zoo", "golden"] {
        for item in fs::read_dir(dir.join(folder))? {
            let name = format!("{folder}/{}", item?.file_name().to_string_lossy());
            if !listed.contains(&name) {
                wrong.push(format!("{name}: not in the manifest"));
            }
        }
    }
    wrong.sort();
    ensure!(
        wrong.is_empty(),
        "fixtures do not match fixtures/manifest.toml:\n  {}",
        wrong.join("\n  ")
    );
    eprintln!("{} fixtures match the manifest", listed.len());
    Ok(())
}

/// Copies the files of the manifest from `from` (which holds `models/`, `zoo/` and `golden/`, or the files themselves) and
/// records their sums. Files that `from` does not have stay as they are.
pub(crate) fn import(from: &Path) -> Result<()> {
    let dir = root().join("fixtures");
    let manifest = read_manifest(&dir)?;
    let path = dir.join("manifest.toml");
    let mut text = fs::read_to_string(&path)?;
    let mut imported = 0;
    for entry in manifest.model.iter().chain(&manifest.golden) {
        let flat = entry.file.rsplit('/').next().unwrap_or(&entry.file);
        let Some(source) = [from.join(&entry.file), from.join(flat)]
            .into_iter()
            .find(|p| p.is_file())
        else {
            continue;
        };
        let bytes = fs::read(&source).with_context(|| format!("reading {}", source.display()))?;
        let target = dir.join(&entry.file);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&target, &bytes).with_context(|| format!("writing {}", target.display()))?;
        text = record(&text, &entry.file, bytes.len(), &sha256(&bytes))?;
        imported += 1;
    }
    if imported == 0 {
        bail!(
            "{} holds none of the files that fixtures/manifest.toml lists",
            from.display()
        );
    }
    fs::write(&path, text)?;
    eprintln!("imported {imported} files");
    check()
}

fn read_manifest(dir: &Path) -> Result<Manifest> {
    let path = dir.join("manifest.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not a fixture manifest", path.display()))
}

/// Replaces `bytes` and `sha256` in the table of `file`; everything else, comments too, stays.
fn record(manifest: &str, file: &str, bytes: usize, sum: &str) -> Result<String> {
    let mut out = String::with_capacity(manifest.len());
    let mut here = false;
    let mut written = 0;
    for line in manifest.lines() {
        if line.starts_with("[[") {
            here = false;
        } else if line == format!("file = \"{file}\"") {
            here = true;
        }
        if here && line.starts_with("bytes = ") {
            out += &format!("bytes = {bytes}");
            written += 1;
        } else if here && line.starts_with("sha256 = ") {
            out += &format!("sha256 = \"{sum}\"");
            written += 1;
        } else {
            out += line;
        }
        out.push('\n');
    }
    ensure!(
        written == 2,
        "fixtures/manifest.toml: the entry of {file} needs a `bytes` and a `sha256` line after `file`"
    );
    Ok(out)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_edits_only_its_own_entry() {
        let old = "# note\n[[model]]\nfile = \"a\"\nbytes = 0\nsha256 = \"\"\n\n[[model]]\nfile = \"b\"\nbytes = 0\nsha256 = \"\"\n";
        let new = record(old, "b", 3, "ff").unwrap();
        assert_eq!(
            new,
            old.replacen(
                "\"b\"\nbytes = 0\nsha256 = \"\"",
                "\"b\"\nbytes = 3\nsha256 = \"ff\"",
                1
            )
        );
        assert!(record(old, "c", 3, "ff").is_err());
    }

    #[test]
    fn sums_are_those_of_the_standard() {
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn committed_fixtures_match_the_manifest() {
        check().unwrap();
    }
}
