//! Types of values, as declared by the file.

use bytes::Bytes;

use crate::dtype::DataType;
use crate::error::Error;
use crate::limits::MAX_RANK;
use crate::wire::{Content, Span, merge, put_bytes, put_int};

pub(crate) const NAME: u32 = 1;
pub(crate) const TYPE: u32 = 2;

/// The declared type of a tensor. Sequences, maps, optionals and sparse tensors show as all `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueInfo {
    /// Element type.
    pub dtype: Option<DataType>,
    /// Dimensions; `None` where the rank is not known, empty for a scalar.
    pub dims: Option<Vec<Dimension>>,
}

/// A dimension of a declared type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// A fixed size.
    Value(i64),
    /// A name: equal names are equal sizes.
    Param(String),
    /// Anything.
    Unknown,
}

impl ValueInfo {
    /// Name and type in a ValueInfoProto.
    pub(crate) fn read(message: &Span) -> Result<(String, ValueInfo), Error> {
        let (mut name, mut declared) = (String::new(), None);
        for field in message.fields() {
            let field = field?;
            match (field.number, field.len()) {
                (NAME, Some(text)) => name = text.string("the name of a value")?,
                (TYPE, Some(message)) => declared = Some(merge(declared, message)),
                _ => {}
            }
        }
        let info = match &declared {
            Some(message) => Self::read_type(message)?,
            None => ValueInfo::default(),
        };
        Ok((name, info))
    }

    fn read_type(message: &Span) -> Result<ValueInfo, Error> {
        let mut tensor = None;
        for field in message.fields() {
            let field = field?;
            match (field.number, field.len()) {
                (1, Some(message)) => tensor = Some(merge(tensor, message)),
                // The other alternatives: sequence, map, opaque, sparse tensor, optional. The last one counts.
                (4 | 5 | 7 | 8 | 9, Some(_)) => tensor = None,
                _ => {}
            }
        }
        let (mut info, mut shape) = (ValueInfo::default(), None);
        for field in tensor.iter().flat_map(Span::fields) {
            let field = field?;
            match (field.number, &field.content) {
                (1, Content::Varint(number)) => info.dtype = DataType::from_i32(*number as i32),
                (2, Content::Len(message)) => shape = Some(merge(shape, message)),
                _ => {}
            }
        }
        if let Some(shape) = &shape {
            let mut dims = Vec::new();
            for field in shape.fields() {
                let field = field?;
                if let (1, Some(dim)) = (field.number, field.len()) {
                    dims.push(Dimension::read(dim)?);
                    if dims.len() > MAX_RANK {
                        return Err(Error::TooMany {
                            what: "dimensions",
                            limit: MAX_RANK,
                        });
                    }
                }
            }
            info.dims = Some(dims);
        }
        Ok(info)
    }

    /// A ValueInfoProto. Fields of `old` other than name and type are kept.
    pub(crate) fn encode(&self, name: &str, old: Option<&Span>) -> Result<Bytes, Error> {
        let mut tensor = Vec::new();
        if let Some(dtype) = self.dtype {
            put_int(&mut tensor, 1, dtype as i64);
        }
        if let Some(dims) = &self.dims {
            let mut shape = Vec::new();
            dims.iter()
                .for_each(|dim| put_bytes(&mut shape, 1, &dim.encode()));
            put_bytes(&mut tensor, 2, &shape);
        }
        let mut declared = Vec::new();
        put_bytes(&mut declared, 1, &tensor);
        let mut out = Vec::new();
        put_bytes(&mut out, NAME, name.as_bytes());
        put_bytes(&mut out, TYPE, &declared);
        for field in old.iter().flat_map(|old| old.fields()) {
            let field = field?;
            if !matches!(field.number, NAME | TYPE) {
                out.extend_from_slice(&field.whole.bytes);
            }
        }
        Ok(out.into())
    }
}

impl Dimension {
    fn read(message: &Span) -> Result<Dimension, Error> {
        let mut dim = Dimension::Unknown;
        for field in message.fields() {
            let field = field?;
            match (field.number, &field.content) {
                (1, Content::Varint(value)) => dim = Dimension::Value(*value as i64),
                (2, Content::Len(text)) => {
                    dim = Dimension::Param(text.string("the name of a dimension")?)
                }
                _ => {}
            }
        }
        // Exporters write an empty name, or a negative size, for a dimension that they do not know.
        Ok(match dim {
            Dimension::Param(name) if name.is_empty() => Dimension::Unknown,
            Dimension::Value(size) if size < 0 => Dimension::Unknown,
            dim => dim,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Dimension::Value(size) => put_int(&mut out, 1, *size),
            Dimension::Param(name) => put_bytes(&mut out, 2, name.as_bytes()),
            Dimension::Unknown => {}
        }
        out
    }
}
