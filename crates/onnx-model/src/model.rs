//! A model: the graph, and what is around it in the file.
//!
//! Invariant: the fields of the file are kept in order with the bytes that encode them. Writing gives back those
//! bytes, except where an edit replaced a field, so a model that was not edited is written as it was read.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::attr::AttrValue;
use crate::census::Census;
use crate::error::Error;
use crate::external::map_file;
use crate::function::{self, Function, encode_opset, read_opset};
use crate::graph::Graph;
use crate::limits::MAX_FILE;
use crate::node::normal_domain;
use crate::order::topological;
use crate::wire::{Content, Span, put_bytes, put_entry, put_int, read_entry};

const IR_VERSION: u32 = 1;
pub(crate) const GRAPH: u32 = 7;
const OPSET: u32 = 8;
const METADATA: u32 = 14;
const FUNCTION: u32 = 25;

/// An ONNX model.
#[derive(Clone, Debug)]
pub struct Model {
    /// The main graph.
    pub graph: Graph,
    pub(crate) fields: Vec<ModelField>,
    ir_version: i64,
    opsets: Vec<(String, i64)>,
    metadata: Vec<(String, String)>,
    functions: Vec<Function>,
    dir: Option<Arc<Path>>,
    pub(crate) source: Option<Arc<Source>>,
}

/// The file that a model was opened from.
#[derive(Debug)]
pub(crate) struct Source {
    /// Locked because its position is shared.
    pub(crate) file: Mutex<File>,
    pub(crate) map: Bytes,
}

/// A field of the file. Functions are in the same order as in `Model::functions`.
#[derive(Clone, Debug)]
pub(crate) struct ModelField {
    pub(crate) number: u32,
    pub(crate) whole: Bytes,
}

impl Model {
    /// Opens a file, memory-mapped: weights are read when they are asked for, and written from the map. The file must
    /// not change while the model is in use; saving over it is fine.
    ///
    /// # Errors
    /// `E-ONNX-IO` if it cannot be read, and what `from_bytes` gives.
    pub fn open(path: &Path) -> Result<Model, Error> {
        let (map, file) = map_file(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let mut model = Self::from_bytes(map.clone(), Some(dir))?;
        model.source = Some(Arc::new(Source {
            file: Mutex::new(file),
            map,
        }));
        Ok(model)
    }

    /// Reads a model from the bytes of a file. `dir` is where external data is.
    ///
    /// # Errors
    /// One of the codes of [`Error`], for every file that is not a model with a graph whose names resolve.
    pub fn from_bytes(bytes: Bytes, dir: Option<&Path>) -> Result<Model, Error> {
        if bytes.is_empty() {
            return Err(Error::NotOnnx {
                reason: "the file is empty".into(),
            });
        }
        if bytes.len() as u64 > MAX_FILE {
            return Err(Error::TooLarge {
                bytes: bytes.len() as u64,
            });
        }
        let dir: Option<Arc<Path>> = dir.map(Arc::from);
        let mut model = Model {
            graph: Graph::default(),
            fields: Vec::new(),
            ir_version: 0,
            opsets: Vec::new(),
            metadata: Vec::new(),
            functions: Vec::new(),
            dir: dir.clone(),
            source: None,
        };
        let (mut graphs, mut census) = (Vec::new(), Census::default());
        for field in Span::new(bytes).fields() {
            let field = match field {
                Ok(field) => field,
                // Every model that a program wrote starts with its version.
                Err(error) if model.ir_version == 0 => {
                    return Err(Error::NotOnnx {
                        reason: format!("its bytes are no model ({error})"),
                    });
                }
                Err(error) => return Err(error),
            };
            census.model_field()?;
            let mut number = field.number;
            match (field.number, &field.content) {
                (IR_VERSION, Content::Varint(version)) => model.ir_version = *version as i64,
                (GRAPH, Content::Len(graph)) => {
                    census.graph(graph, 0)?;
                    graphs.push(graph.clone());
                }
                (OPSET, Content::Len(opset)) => model.opsets.push(read_opset(opset)?),
                (METADATA, Content::Len(entry)) => model.metadata.push(read_entry(entry)?),
                (FUNCTION, Content::Len(message)) => {
                    census.nodes(message, function::NODE, 0)?;
                    model.functions.push(Function::read(message, dir.as_ref())?);
                }
                // Not touched by edits, be it a known number with another wire type.
                _ => number = 0,
            }
            model.fields.push(ModelField {
                number,
                whole: field.whole.bytes,
            });
        }
        if graphs.is_empty() {
            return Err(Error::NotOnnx {
                reason: "there is no graph in it".into(),
            });
        }
        model.graph = Graph::read(&graphs, dir, model.ir_version)?;
        model.check_recursion()?;
        Ok(model)
    }

    /// A function must not call itself, not through others either.
    fn check_recursion(&self) -> Result<(), Error> {
        let key =
            |domain: &str, name: &str, overload: &str| [domain, name, overload].map(str::to_owned);
        let all = self.functions.iter().enumerate();
        let by_key: HashMap<_, _> = all
            .map(|(i, f)| (key(&f.domain, &f.name, &f.overload), i))
            .collect();
        let callees = |i: usize| {
            let nodes = self.functions[i].nodes.iter();
            nodes
                .filter_map(|n| {
                    by_key
                        .get(&key(&n.domain, &n.op_type, &n.overload))
                        .copied()
                })
                .collect()
        };
        let count = self.functions.len();
        let on_cycle = |i: usize| Error::Cycle {
            node: format!("function {}", self.functions[i].name),
        };
        topological(count, 0..count, callees)
            .map(drop)
            .map_err(on_cycle)
    }

    /// An empty model, for tests and generators.
    pub fn new(ir_version: i64, opsets: &[(&str, i64)]) -> Model {
        let mut model = Model {
            graph: Graph {
                name: "graph".into(),
                edited: true,
                ..Graph::default()
            },
            fields: Vec::new(),
            ir_version: 0,
            opsets: Vec::new(),
            metadata: Vec::new(),
            functions: Vec::new(),
            dir: None,
            source: None,
        };
        let mut name = Vec::new();
        put_bytes(&mut name, crate::scope::GRAPH_NAME, b"graph");
        model
            .graph
            .layout
            .push(crate::graph::Slot::Raw(name.into()));
        model.set_ir_version(ir_version);
        opsets
            .iter()
            .for_each(|(domain, version)| model.import_opset(domain, *version));
        model.fields.push(ModelField {
            number: GRAPH,
            whole: Bytes::new(),
        });
        model
    }

    /// Version of the file format.
    pub fn ir_version(&self) -> i64 {
        self.ir_version
    }

    /// Sets the version of the file format. Before version 4 initializers were inputs too; on the way to a later
    /// version these inputs go, so that the initializers stay constants.
    pub fn set_ir_version(&mut self, v: i64) {
        if v == self.ir_version {
            return;
        }
        if self.ir_version < 4 && v >= 4 {
            self.graph.drop_constant_inputs();
        }
        self.graph.inputs_are_constants = v < 4;
        self.ir_version = v;
        let mut whole = Vec::new();
        put_int(&mut whole, IR_VERSION, v);
        let first = self.fields.iter().position(|f| f.number == IR_VERSION);
        self.fields.retain(|f| f.number != IR_VERSION);
        self.fields.insert(
            first.unwrap_or(0),
            ModelField {
                number: IR_VERSION,
                whole: whole.into(),
            },
        );
    }

    /// Version of an operator domain, if the model imports it. `ai.onnx` is the empty domain.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let domain = normal_domain(domain);
        self.opsets
            .iter()
            .find(|(d, _)| d == domain)
            .map(|(_, version)| *version)
    }

    /// Imports an operator domain, unless the model does already.
    pub fn import_opset(&mut self, domain: &str, version: i64) {
        let domain = normal_domain(domain);
        if self.opset(domain).is_some() {
            return;
        }
        self.opsets.push((domain.to_owned(), version));
        let mut whole = Vec::new();
        put_bytes(&mut whole, OPSET, &encode_opset(domain, version));
        self.insert_field(OPSET, whole);
    }

    /// Drops the import of an operator domain that no node uses any more.
    pub fn remove_opset(&mut self, domain: &str) {
        let domain = normal_domain(domain);
        let mut imports = self.opsets.iter();
        self.fields
            .retain(|f| f.number != OPSET || imports.next().is_none_or(|(d, _)| d != domain));
        self.opsets.retain(|(d, _)| d != domain);
    }

    /// The imported operator domains with their versions, in the order of the file.
    pub fn opsets(&self) -> Vec<(String, i64)> {
        self.opsets.clone()
    }

    /// Metadata of the model.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn all_metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// Sets metadata of the model.
    pub fn set_metadata(&mut self, key: &str, value: &str) {
        let mut whole = Vec::new();
        put_entry(&mut whole, METADATA, key, value);
        match self.metadata.iter().position(|(k, _)| k == key) {
            Some(index) => {
                self.metadata[index].1 = value.to_owned();
                if let Some(field) = self
                    .fields
                    .iter_mut()
                    .filter(|f| f.number == METADATA)
                    .nth(index)
                {
                    field.whole = whole.into();
                }
            }
            None => {
                self.metadata.push((key.to_owned(), value.to_owned()));
                self.insert_field(METADATA, whole);
            }
        }
    }

    /// Functions of the model, in the order of the file.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// Adds a function behind the others.
    pub fn add_function(&mut self, f: Function) {
        let mut whole = Vec::new();
        put_bytes(&mut whole, FUNCTION, &f.encode());
        self.functions.push(f);
        self.insert_field(FUNCTION, whole);
    }

    /// Removes the functions for which `keep` is false.
    pub fn retain_functions(&mut self, mut keep: impl FnMut(&Function) -> bool) {
        let kept: Vec<bool> = self.functions.iter().map(&mut keep).collect();
        let mut flags = kept.iter();
        self.functions
            .retain(|_| flags.next().is_none_or(|keep| *keep));
        let mut flags = kept.iter();
        self.fields
            .retain(|f| f.number != FUNCTION || flags.next().is_none_or(|keep| *keep));
    }

    /// The directory that external data is relative to.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// Files with external data of the main graph: locations as the model gives them, sorted, each once. A model that
    /// is saved goes on naming them relative to where it is then.
    pub fn external_files(&self) -> Vec<PathBuf> {
        let initializers = self
            .graph
            .value_ids()
            .filter_map(|v| self.graph.initializer(v));
        let attributes = self
            .graph
            .node_ids()
            .flat_map(|id| self.graph.node(id).attributes());
        let tensors = initializers.chain(attributes.filter_map(|(_, value)| match value {
            AttrValue::Tensor(tensor) => Some(tensor),
            _ => None,
        }));
        let mut files: Vec<PathBuf> = tensors
            .filter_map(|t| t.external().map(|e| PathBuf::from(&e.location)))
            .collect();
        files.sort();
        files.dedup();
        files
    }

    /// Inserts a field behind the last one of its number, or at the end.
    fn insert_field(&mut self, number: u32, whole: Vec<u8>) {
        let behind = self
            .fields
            .iter()
            .rposition(|f| f.number == number)
            .map_or(self.fields.len(), |last| last + 1);
        self.fields.insert(
            behind,
            ModelField {
                number,
                whole: whole.into(),
            },
        );
    }
}
