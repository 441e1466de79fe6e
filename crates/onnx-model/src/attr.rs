//! Attributes of nodes. They stay encoded until they are asked for.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Error;
use crate::tensor::Tensor;
use crate::wire::{Content, Span, merge, put_bytes, put_float, put_int, put_text};

pub(crate) const NAME: u32 = 1;
const F: u32 = 2;
const I: u32 = 3;
const S: u32 = 4;
const T: u32 = 5;
pub(crate) const G: u32 = 6;
const FLOATS: u32 = 7;
const INTS: u32 = 8;
const STRINGS: u32 = 9;
pub(crate) const GRAPHS: u32 = 11;
pub(crate) const TYPE: u32 = 20;
pub(crate) const REF_NAME: u32 = 21;

/// The kinds of attributes, numbered as in the file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs, reason = "the names say it")]
pub enum AttrKind {
    Undefined = 0,
    Float = 1,
    Int = 2,
    Str = 3,
    Tensor = 4,
    Graph = 5,
    Floats = 6,
    Ints = 7,
    Strs = 8,
    Tensors = 9,
    Graphs = 10,
    SparseTensor = 11,
    SparseTensors = 12,
    TypeProto = 13,
    TypeProtos = 14,
}

impl AttrKind {
    fn from_u64(number: u64) -> AttrKind {
        use AttrKind::*;
        let all = [
            Undefined,
            Float,
            Int,
            Str,
            Tensor,
            Graph,
            Floats,
            Ints,
            Strs,
            Tensors,
            Graphs,
            SparseTensor,
            SparseTensors,
            TypeProto,
            TypeProtos,
        ];
        usize::try_from(number)
            .ok()
            .and_then(|i| all.get(i).copied())
            .unwrap_or(Undefined)
    }
}

/// The value of an attribute.
#[derive(Clone, Debug)]
pub enum AttrValue {
    /// One integer.
    Int(i64),
    /// One number.
    Float(f32),
    /// Text. A string attribute that is not UTF-8 is `Opaque`.
    Str(String),
    /// A tensor of a known element type.
    Tensor(Tensor),
    /// Integers.
    Ints(Vec<i64>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Texts.
    Strs(Vec<String>),
    /// The value of the attribute `name` of the enclosing function's call.
    Ref {
        /// The function's attribute.
        name: String,
        /// What kind of attribute it is.
        kind: AttrKind,
    },
    /// Graphs and everything else, as it is in the file.
    Opaque(RawAttribute),
}

/// An attribute as it is in the file.
#[derive(Clone, Debug)]
pub struct RawAttribute(pub(crate) Attribute);

/// An encoded attribute, and what is always needed of it. The walk over its fields has been done once, so that
/// later ones do not fail.
#[derive(Clone, Debug)]
pub(crate) struct Attribute {
    pub(crate) name: String,
    pub(crate) message: Span,
    /// The subgraphs in it.
    pub(crate) graphs: Vec<Span>,
}

impl Attribute {
    pub(crate) fn read(message: &Span) -> Result<Attribute, Error> {
        let (mut name, mut graph, mut graphs) = (String::new(), None, Vec::new());
        for field in message.fields() {
            let field = field?;
            match (field.number, field.len()) {
                (NAME, Some(text)) => name = text.string("the name of an attribute")?,
                (G, Some(body)) => graph = Some(merge(graph, body)),
                (GRAPHS, Some(body)) => graphs.push(body.clone()),
                _ => {}
            }
        }
        graphs.extend(graph);
        Ok(Attribute {
            name,
            message: message.clone(),
            graphs,
        })
    }

    pub(crate) fn new(name: &str, value: &AttrValue) -> Attribute {
        let message = Span::new(encode(name, value));
        let graphs = match value {
            AttrValue::Opaque(raw) => raw.0.graphs.clone(),
            _ => Vec::new(),
        };
        Attribute {
            name: name.to_owned(),
            message,
            graphs,
        }
    }

    pub(crate) fn value(&self, dir: Option<&Arc<Path>>) -> AttrValue {
        self.decode(dir)
            .ok()
            .flatten()
            .unwrap_or_else(|| AttrValue::Opaque(RawAttribute(self.clone())))
    }

    fn decode(&self, dir: Option<&Arc<Path>>) -> Result<Option<AttrValue>, Error> {
        let (mut kind, mut reference) = (AttrKind::Undefined, String::new());
        let (mut f, mut i, mut s, mut t) = (None, None, None, None);
        let (mut floats, mut ints, mut strings) = (Vec::new(), Vec::new(), Vec::new());
        for field in self.message.fields() {
            let field = field?;
            match (field.number, &field.content) {
                (F, Content::Fixed32(bits)) => f = Some(f32::from_bits(*bits)),
                (I, Content::Varint(value)) => i = Some(*value as i64),
                (S, Content::Len(text)) => s = Some(text.clone()),
                (T, Content::Len(tensor)) => t = Some(merge(t, tensor)),
                (FLOATS, Content::Fixed32(bits)) => floats.push(f32::from_bits(*bits)),
                (FLOATS, Content::Len(packed)) => {
                    floats.extend(
                        packed
                            .bytes
                            .as_chunks()
                            .0
                            .iter()
                            .map(|b| f32::from_le_bytes(*b)),
                    );
                }
                (INTS, Content::Varint(value)) => ints.push(*value as i64),
                (INTS, Content::Len(packed)) => packed.packed_varints(|v| ints.push(v as i64))?,
                (STRINGS, Content::Len(text)) => strings.push(text.string("an attribute")?),
                (TYPE, Content::Varint(number)) => kind = AttrKind::from_u64(*number),
                (REF_NAME, Content::Len(text)) => {
                    reference = text.string("an attribute reference")?
                }
                _ => {}
            }
        }
        if !reference.is_empty() {
            return Ok(Some(AttrValue::Ref {
                name: reference,
                kind,
            }));
        }
        if kind == AttrKind::Undefined {
            // The first version of the format had no kinds: what is there says it.
            kind = match () {
                () if f.is_some() => AttrKind::Float,
                () if i.is_some() => AttrKind::Int,
                () if s.is_some() => AttrKind::Str,
                () if t.is_some() => AttrKind::Tensor,
                () if !floats.is_empty() => AttrKind::Floats,
                () if !ints.is_empty() => AttrKind::Ints,
                () if !strings.is_empty() => AttrKind::Strs,
                () => AttrKind::Undefined,
            };
        }
        Ok(match kind {
            AttrKind::Float => Some(AttrValue::Float(f.unwrap_or(0.0))),
            AttrKind::Int => Some(AttrValue::Int(i.unwrap_or(0))),
            AttrKind::Str => {
                let text = s.as_ref().map_or(Ok(""), |s| s.text("an attribute"))?;
                Some(AttrValue::Str(text.to_owned()))
            }
            AttrKind::Tensor => match &t {
                Some(tensor) => Tensor::read(tensor, dir)?.map(AttrValue::Tensor),
                None => None,
            },
            AttrKind::Floats => Some(AttrValue::Floats(floats)),
            AttrKind::Ints => Some(AttrValue::Ints(ints)),
            AttrKind::Strs => Some(AttrValue::Strs(strings)),
            _ => None,
        })
    }

    /// The same attribute with another name.
    pub(crate) fn renamed(&self, name: &str) -> Attribute {
        let mut out = Vec::new();
        put_bytes(&mut out, NAME, name.as_bytes());
        for field in self
            .message
            .fields()
            .map_while(Result::ok)
            .filter(|f| f.number != NAME)
        {
            out.extend_from_slice(&field.whole.bytes);
        }
        Attribute {
            name: name.to_owned(),
            message: Span::new(out.into()),
            graphs: self.graphs.clone(),
        }
    }
}

/// Encodes an attribute.
fn encode(name: &str, value: &AttrValue) -> Bytes {
    let mut out = Vec::new();
    if !matches!(value, AttrValue::Opaque(_)) {
        put_bytes(&mut out, NAME, name.as_bytes());
    }
    let kind = match value {
        AttrValue::Int(v) => {
            put_int(&mut out, I, *v);
            AttrKind::Int
        }
        AttrValue::Float(v) => {
            put_float(&mut out, F, *v);
            AttrKind::Float
        }
        AttrValue::Str(v) => {
            put_bytes(&mut out, S, v.as_bytes());
            AttrKind::Str
        }
        AttrValue::Tensor(v) => {
            put_bytes(&mut out, T, &v.encode("").concat());
            AttrKind::Tensor
        }
        AttrValue::Ints(v) => {
            v.iter().for_each(|v| put_int(&mut out, INTS, *v));
            AttrKind::Ints
        }
        AttrValue::Floats(v) => {
            v.iter().for_each(|v| put_float(&mut out, FLOATS, *v));
            AttrKind::Floats
        }
        AttrValue::Strs(v) => {
            v.iter()
                .for_each(|v| put_bytes(&mut out, STRINGS, v.as_bytes()));
            AttrKind::Strs
        }
        AttrValue::Ref { name, kind } => {
            put_text(&mut out, REF_NAME, name);
            *kind
        }
        AttrValue::Opaque(raw) => return raw.0.renamed(name).message.bytes,
    };
    put_int(&mut out, TYPE, kind as i64);
    out.into()
}
