//! Writing a model: the bytes it was read from, except where it was edited.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::PoisonError;

use bytes::Bytes;

use crate::error::Error;
use crate::graph::{Graph, List, Slot};
use crate::limits::MAX_FILE;
use crate::model::{GRAPH, Model, Source};
use crate::scope::NODE;
use crate::wire::Pieces;

impl Model {
    /// Writes the model to a temporary file beside `path`, and renames it to `path` when it is complete. References
    /// to external data are written as they are, so they mean files in the directory of `path` from then on.
    ///
    /// # Errors
    /// `E-ONNX-WRITE`, `E-ONNX-TOO-LARGE`. The file at `path` is untouched then.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".onnx-").suffix(".part");
        #[cfg(unix)]
        {
            // As any new file: the user's mask takes away from it.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(dir).map_err(Error::Write)?;
        self.encode()?
            .copy_to(file.as_file_mut(), self.source.as_deref())
            .map_err(Error::Write)?;
        file.persist(path).map_err(|e| Error::Write(e.error))?;
        Ok(())
    }

    /// The model as bytes, for small models.
    ///
    /// # Errors
    /// `E-ONNX-TOO-LARGE`.
    pub fn to_vec(&self) -> Result<Vec<u8>, Error> {
        Ok(self.encode()?.list().concat())
    }

    fn encode(&self) -> Result<Pieces, Error> {
        let mut out = Pieces::default();
        let mut graph = self.graph.edited;
        for field in &self.fields {
            if field.number != GRAPH || !self.graph.edited {
                out.push(field.whole.clone());
            } else if std::mem::take(&mut graph) {
                out.push_message(GRAPH, self.graph.encode()?);
            }
        }
        if out.len() > MAX_FILE {
            return Err(Error::TooLarge { bytes: out.len() });
        }
        Ok(out)
    }
}

/// From here on a stretch of the source file is worth two system calls of its own.
const LONG: usize = 1 << 18;

impl Pieces {
    /// Writes the pieces. What lies in the source file as one stretch, as most weights do, the system copies from file to file: its
    /// pages never enter this process.
    fn copy_to(&self, out: &mut File, source: Option<&Source>) -> std::io::Result<()> {
        let place = |piece: &[u8]| source.and_then(|s| s.place(piece));
        let mut out = BufWriter::with_capacity(LONG, out);
        let mut pieces = self.list().iter().peekable();
        while let Some(piece) = pieces.next() {
            let (Some(source), Some(mut stretch)) = (source, place(piece)) else {
                out.write_all(piece)?;
                continue;
            };
            while let Some(next) = pieces
                .peek()
                .and_then(|next| place(next))
                .filter(|next| next.start == stretch.end)
            {
                stretch.end = next.end;
                pieces.next();
            }
            if stretch.len() >= LONG {
                out.flush()?;
                source.copy(&stretch, out.get_mut())?;
            } else {
                out.write_all(source.map.get(stretch).unwrap_or_default())?;
            }
        }
        out.flush()
    }
}

impl Source {
    /// Where in the file a piece lies, if it lies there.
    fn place(&self, piece: &[u8]) -> Option<Range<usize>> {
        let start = piece
            .as_ptr()
            .addr()
            .checked_sub(self.map.as_ptr().addr())?;
        let end = start.checked_add(piece.len())?;
        (end <= self.map.len()).then_some(start..end)
    }

    /// Appends a stretch of the file to another.
    fn copy(&self, stretch: &Range<usize>, out: &mut File) -> std::io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(stretch.start as u64))?;
        let copied = std::io::copy(&mut (&*file).take(stretch.len() as u64), out)?;
        if copied != stretch.len() as u64 {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "the source file became shorter",
            ));
        }
        Ok(())
    }
}

impl Graph {
    /// The graph message. Entries of a list fill the places that the file had for that list in order; what is left
    /// follows in its last place.
    fn encode(&self) -> Result<Pieces, Error> {
        let nodes = self
            .order
            .iter()
            .map(|id| self.node(*id).encode(NODE, |v| self.value(v).name.clone()));
        let fields = |list: &[Bytes]| {
            list.iter()
                .cloned()
                .map(Pieces::from)
                .collect::<Vec<_>>()
                .into_iter()
        };
        let mut lists = [
            (
                List::Nodes,
                nodes.collect::<Result<Vec<_>, _>>()?.into_iter(),
            ),
            (
                List::Initializers,
                self.initializer_fields
                    .iter()
                    .map(|(_, f)| f.clone())
                    .collect::<Vec<_>>()
                    .into_iter(),
            ),
            (List::Inputs, fields(&self.input_fields)),
            (List::Outputs, fields(&self.output_fields)),
            (
                List::ValueInfos,
                self.value_info_fields
                    .iter()
                    .map(|(_, f)| Pieces::from(f.clone()))
                    .collect::<Vec<_>>()
                    .into_iter(),
            ),
        ];
        let last = |list: List| {
            self.layout
                .iter()
                .rposition(|slot| matches!(slot, Slot::Next(l) if *l == list))
        };
        let last: Vec<Option<usize>> = lists.iter().map(|(list, _)| last(*list)).collect();
        let mut out = Pieces::default();
        for (index, slot) in self.layout.iter().enumerate() {
            match slot {
                Slot::Raw(bytes) => out.push(bytes.clone()),
                Slot::Next(wanted) => {
                    for ((_, entries), last) in lists
                        .iter_mut()
                        .zip(&last)
                        .filter(|((list, _), _)| list == wanted)
                    {
                        let count = if *last == Some(index) { usize::MAX } else { 1 };
                        entries
                            .by_ref()
                            .take(count)
                            .for_each(|entry| out.append(entry));
                    }
                }
            }
        }
        for (_, entries) in lists {
            entries.for_each(|entry| out.append(entry));
        }
        Ok(out)
    }
}
