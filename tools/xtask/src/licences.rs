//! `cargo xtask licences`: every crate in the dependency graph must be under a licence that this project may ship with.

use std::process::Command;

use anyhow::{Result, bail};
use serde::Deserialize;

use crate::paths::root;
use crate::steps::json;

const ALLOWED: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates under another licence that tests use and nothing ships.
const ONLY_IN_TESTS: [(&str, &str); 1] = [("onnx-protobuf", "MPL-2.0")];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

/// Names every crate whose licence is missing or not allowed.
pub(crate) fn check() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let metadata: Metadata = json(
        Command::new(cargo)
            .args([
                "metadata",
                "--format-version",
                "1",
                "--locked",
                "--all-features",
            ])
            .current_dir(root()),
    )?;
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let licence = package.license.as_deref().unwrap_or("");
        if !allowed(licence) && !ONLY_IN_TESTS.contains(&(package.name.as_str(), licence)) {
            wrong.push(format!("{} {}: {licence:?}", package.name, package.version));
        }
    }
    if !wrong.is_empty() {
        bail!(
            "licences that are not on the allow-list (tools/xtask/src/licences.rs):\n  {}",
            wrong.join("\n  ")
        );
    }
    eprintln!(
        "the licences of {} crates are on the allow-list",
        metadata.packages.len()
    );
    Ok(())
}

/// Whether an SPDX expression can be satisfied with `ALLOWED`. `/` is an old way to write OR. Malformed: false.
fn allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest) == Some(true) && rest.is_empty()
}

fn any_of(words: &mut &[&str]) -> Option<bool> {
    let mut result = all_of(words)?;
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        result |= all_of(words)?;
    }
    Some(result)
}

fn all_of(words: &mut &[&str]) -> Option<bool> {
    let mut result = one(words)?;
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        result &= one(words)?;
    }
    Some(result)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let inner = any_of(words)?;
            let [")", rest @ ..] = *words else {
                return None;
            };
            *words = rest;
            Some(inner)
        }
        [name, "WITH", exception, rest @ ..] => {
            *words = rest;
            Some(ALLOWED.contains(&format!("{name} WITH {exception}").as_str()))
        }
        [name, rest @ ..] => {
            *words = rest;
            Some(ALLOWED.contains(name))
        }
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn expressions() {
        for yes in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(allowed(yes), "{yes}");
        }
        for no in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "MIT OR",
            "(MIT",
            "MIT MIT",
            "MIT WITH Autoconf-exception",
        ] {
            assert!(!allowed(no), "{no}");
        }
    }
}
