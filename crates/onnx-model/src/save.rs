//! Writing a model: the bytes it was read from, except where it was edited.

use std::io::Write;
use std::path::Path;

use bytes::Bytes;

use crate::error::Error;
use crate::graph::{Graph, List, Slot};
use crate::limits::MAX_FILE;
use crate::model::{GRAPH, Model};
use crate::scope::NODE;
use crate::wire::Pieces;

impl Model {
    /// Writes the model to a temporary file beside `path`, and renames it to `path` when it is complete. References
    /// to external data are written as they are, so they mean files in the directory of `path` from then on.
    ///
    /// # Errors
    /// `E-ONNX-IO`, `E-ONNX-WRITE`, `E-ONNX-TOO-LARGE`. The file at `path` is untouched then.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let failed = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".onnx-").suffix(".part");
        #[cfg(unix)]
        {
            // As any new file: the user's mask takes away from it.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(dir).map_err(failed)?;
        self.write_to(&mut file)?;
        file.persist(path).map_err(|e| failed(e.error))?;
        Ok(())
    }

    /// Writes the model.
    ///
    /// # Errors
    /// `E-ONNX-TOO-LARGE` before anything is written, `E-ONNX-WRITE` from the writer.
    pub fn write_to(&self, w: &mut dyn Write) -> Result<(), Error> {
        let pieces = self.encode()?;
        let mut w = std::io::BufWriter::with_capacity(1 << 16, w);
        pieces
            .list()
            .iter()
            .try_for_each(|piece| w.write_all(piece))
            .and_then(|()| w.flush())
            .map_err(Error::Write)
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
