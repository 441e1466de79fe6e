//! External data: elements of tensors in files beside the model.
//!
//! A location is a relative path without `..`, so it stays in the directory of the model. A link in that directory
//! may point anywhere: caches of downloaded models store every file as a link into a pool of contents.

use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Error;

/// Where the elements of a tensor are.
#[derive(Clone, Debug)]
pub(crate) struct External {
    pub(crate) location: String,
    offset: Option<String>,
    length: Option<String>,
    dir: Option<Arc<Path>>,
}

impl External {
    pub(crate) fn new(entries: Vec<(String, String)>, dir: Option<Arc<Path>>) -> External {
        let find = |key: &str| {
            entries
                .iter()
                .rev()
                .find(|(k, _)| k == key)
                .map(|(_, value)| value.clone())
        };
        External {
            location: find("location").unwrap_or_default(),
            offset: find("offset"),
            length: find("length"),
            dir,
        }
    }

    fn error(&self, what: impl Into<String>) -> Error {
        Error::External {
            location: self.location.clone(),
            what: what.into(),
        }
    }

    /// The file, inside the directory of the model.
    pub(crate) fn path(&self) -> Result<PathBuf, Error> {
        let dir = self
            .dir
            .as_ref()
            .ok_or_else(|| self.error("the model was not read from a directory"))?;
        let location = Path::new(&self.location);
        let inside = location
            .components()
            .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if self.location.is_empty() || !inside {
            return Err(self.error("the path leaves the directory of the model"));
        }
        Ok(dir.join(location))
    }

    /// Maps the `expected` bytes of the tensor.
    pub(crate) fn map(&self, expected: usize) -> Result<Bytes, Error> {
        let number = |text: &Option<String>, default: usize| match text {
            None => Ok(default),
            Some(text) => text
                .trim()
                .parse::<usize>()
                .map_err(|_| self.error(format!("`{text}` is not a position"))),
        };
        let (offset, length) = (number(&self.offset, 0)?, number(&self.length, expected)?);
        let path = self.path()?;
        let (map, _) = map_file(&path)
            .map_err(|source| self.error(format!("{}: {source}", path.display())))?;
        let end = offset.checked_add(length).filter(|end| *end <= map.len());
        let end =
            end.ok_or_else(|| self.error(format!("the file has {} bytes, too few", map.len())))?;
        Ok(map.slice(offset..end))
    }
}

/// Maps a regular file into memory.
pub(crate) fn map_file(path: &Path) -> std::io::Result<(Bytes, File)> {
    // Looked at before it is opened: opening a pipe would wait for a writer.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let file = File::open(path)?;
    if metadata.len() == 0 {
        return Ok((Bytes::new(), file));
    }
    // SAFETY: the map is read-only and lives as long as the `Bytes` that own it. Another process that changes the
    // file meanwhile changes what we read; every read is checked again against the length of the map, and a file
    // that is cut short ends the process, as with every memory-mapped file.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok((Bytes::from_owner(map), file))
}
