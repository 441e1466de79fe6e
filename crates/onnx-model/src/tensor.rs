//! Tensors: views of what is in the file, or made by a pass. Cloning one never copies its elements.
//!
//! The file stores elements in three ways: little-endian bytes (`raw_data`), typed lists (`float_data`, ...,
//! packed or not, with small integers and 16-bit floats in `int32_data`), or bytes in another file.
//! All three are turned into little-endian bytes first, and decoded from there.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};

use crate::dtype::DataType;
use crate::error::Error;
use crate::external::External;
use crate::limits::MAX_RANK;
use crate::wire::{Content, Pieces, Span, put_bytes, put_header, put_int, read_entry};

const DIMS: u32 = 1;
const DATA_TYPE: u32 = 2;
const FLOAT_DATA: u32 = 4;
const INT32_DATA: u32 = 5;
const INT64_DATA: u32 = 7;
pub(crate) const NAME: u32 = 8;
const RAW_DATA: u32 = 9;
const DOUBLE_DATA: u32 = 10;
const UINT64_DATA: u32 = 11;
const EXTERNAL_DATA: u32 = 13;
const DATA_LOCATION: u32 = 14;

/// A tensor: element type, dimensions (row-major), elements.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DataType,
    dims: Vec<i64>,
    data: Data,
    /// The message it was read from, which is written back as it is (the name aside).
    message: Option<Span>,
}

#[derive(Clone, Debug)]
enum Data {
    Raw(Bytes),
    /// Typed lists of the message.
    Typed,
    External(External),
}

impl Tensor {
    /// Reads a tensor message; `None` if its element type is not known.
    pub(crate) fn read(message: &Span, dir: Option<&Arc<Path>>) -> Result<Option<Tensor>, Error> {
        let (mut dtype, mut dims, mut raw, mut entries, mut external) =
            (0, Vec::new(), None, Vec::new(), false);
        for field in message.fields() {
            let field = field?;
            match (field.number, &field.content) {
                (DIMS, Content::Varint(dim)) => dims.push(*dim as i64),
                (DIMS, Content::Len(packed)) => {
                    packed.packed_varints(|dim| dims.push(dim as i64))?
                }
                (DATA_TYPE, Content::Varint(number)) => dtype = *number as i32,
                (RAW_DATA, Content::Len(bytes)) => raw = Some(bytes.bytes.clone()),
                (EXTERNAL_DATA, Content::Len(entry)) => entries.push(read_entry(entry)?),
                (DATA_LOCATION, Content::Varint(location)) => external = *location == 1,
                _ => {}
            }
        }
        if dims.len() > MAX_RANK {
            return Err(Error::TooMany {
                what: "dimensions",
                limit: MAX_RANK,
            });
        }
        let data = match raw {
            _ if external => Data::External(External::new(entries, dir.cloned())),
            Some(bytes) => Data::Raw(bytes),
            None => Data::Typed,
        };
        Ok(DataType::from_i32(dtype).map(|dtype| Tensor {
            dtype,
            dims,
            data,
            message: Some(message.clone()),
        }))
    }

    /// A tensor of little-endian bytes. The bytes are kept, not copied. They must be as many as `dims` make, which
    /// the verifier checks.
    pub fn from_bytes(dtype: DataType, dims: &[i64], bytes: Bytes) -> Tensor {
        Tensor {
            dtype,
            dims: dims.to_vec(),
            data: Data::Raw(bytes),
            message: None,
        }
    }

    /// An int64 tensor with `dims` and the elements in row-major order.
    pub fn from_i64s(dims: &[i64], elements: &[i64]) -> Tensor {
        Self::from_elements(DataType::Int64, dims, elements, |v| v.to_le_bytes())
    }

    /// A float32 tensor with `dims` and the elements in row-major order.
    pub fn from_f32s(dims: &[i64], elements: &[f32]) -> Tensor {
        Self::from_elements(DataType::Float, dims, elements, |v| v.to_le_bytes())
    }

    /// A bool tensor with `dims` and the elements in row-major order.
    pub fn from_bools(dims: &[i64], elements: &[bool]) -> Tensor {
        Self::from_elements(DataType::Bool, dims, elements, |v| [u8::from(v)])
    }

    /// A floating-point tensor of type `dtype`, each element rounded to it; `None` if `dtype` is not float32, float64,
    /// float16 or bfloat16.
    pub fn from_f64s(dtype: DataType, dims: &[i64], elements: &[f64]) -> Option<Tensor> {
        Some(match dtype {
            DataType::Float => {
                Self::from_elements(dtype, dims, elements, |v| (v as f32).to_le_bytes())
            }
            DataType::Double => Self::from_elements(dtype, dims, elements, |v| v.to_le_bytes()),
            DataType::Float16 => {
                Self::from_elements(dtype, dims, elements, |v| f16::from_f64(v).to_le_bytes())
            }
            DataType::Bfloat16 => {
                Self::from_elements(dtype, dims, elements, |v| bf16::from_f64(v).to_le_bytes())
            }
            _ => return None,
        })
    }

    /// An int64 tensor with one dimension.
    pub fn vector_i64(elements: &[i64]) -> Tensor {
        Self::from_i64s(&[elements.len() as i64], elements)
    }

    /// An int64 tensor without dimensions.
    pub fn scalar_i64(element: i64) -> Tensor {
        Self::from_i64s(&[], &[element])
    }

    /// A float32 tensor without dimensions.
    pub fn scalar_f32(element: f32) -> Tensor {
        Self::from_f32s(&[], &[element])
    }

    fn from_elements<T: Copy, const N: usize>(
        dtype: DataType,
        dims: &[i64],
        elements: &[T],
        bytes: impl Fn(T) -> [u8; N],
    ) -> Tensor {
        let bytes = elements.iter().flat_map(|v| bytes(*v)).collect::<Vec<u8>>();
        Self::from_bytes(dtype, dims, bytes.into())
    }

    /// Element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Dimensions; empty for a scalar.
    pub fn dims(&self) -> &[i64] {
        &self.dims
    }

    /// Number of elements; `None` if a dimension is negative or the product overflows.
    #[allow(
        clippy::len_without_is_empty,
        reason = "an Option has no emptiness worth a name"
    )]
    pub fn len(&self) -> Option<usize> {
        DataType::count(&self.dims)
    }

    /// Whether the elements are in another file.
    pub fn is_external(&self) -> bool {
        matches!(self.data, Data::External(_))
    }

    /// Whether `read_raw` gives a view of a file and copies nothing.
    pub fn is_mapped(&self) -> bool {
        !matches!(self.data, Data::Typed) && self.dtype.bits().is_some()
    }

    pub(crate) fn external(&self) -> Option<&External> {
        match &self.data {
            Data::External(external) => Some(external),
            _ => None,
        }
    }

    /// The elements as little-endian bytes: a view of the model file, of a map of the external file, or a conversion
    /// of a typed list. `None` where `read_raw` gives an error.
    pub fn raw(&self) -> Option<Bytes> {
        self.read_raw().ok()
    }

    /// As `raw`, with the reason if there is none: strings, a number of bytes that does not fit the dimensions,
    /// external data that cannot be read or leaves the model's directory.
    pub fn read_raw(&self) -> Result<Bytes, Error> {
        let Some(expected) = self.dtype.byte_len(&self.dims) else {
            return Err(self.error(format!(
                "{} with dimensions {:?} has no bytes",
                self.dtype.short_name(),
                self.dims
            )));
        };
        let bytes = match &self.data {
            Data::Raw(bytes) => bytes.clone(),
            Data::Typed => self.typed_bytes()?,
            Data::External(external) => external.map(expected)?,
        };
        if bytes.len() == expected {
            Ok(bytes)
        } else {
            Err(self.error(format!(
                "{} bytes where the dimensions {:?} ask for {expected}",
                bytes.len(),
                self.dims
            )))
        }
    }

    fn error(&self, what: String) -> Error {
        let name = self
            .message
            .as_ref()
            .and_then(|m| tensor_name(m).ok())
            .unwrap_or_default();
        Error::Tensor { name, what }
    }

    /// The typed lists as little-endian bytes.
    fn typed_bytes(&self) -> Result<Bytes, Error> {
        let (list, width) = match self.dtype {
            DataType::Float | DataType::Complex64 => (FLOAT_DATA, 4),
            DataType::Double | DataType::Complex128 => (DOUBLE_DATA, 8),
            DataType::Int64 => (INT64_DATA, 8),
            DataType::Uint64 => (UINT64_DATA, 8),
            DataType::Uint32 => (UINT64_DATA, 4),
            // An element of int32_data is one element, or one byte with two 4-bit or four 2-bit elements.
            _ => (INT32_DATA, self.dtype.bits().unwrap_or(8).div_ceil(8)),
        };
        let mut out = Vec::new();
        for field in self.message.iter().flat_map(Span::fields) {
            let field = field?;
            if field.number != list {
                continue;
            }
            match (list, &field.content) {
                (FLOAT_DATA | DOUBLE_DATA, Content::Len(packed)) => {
                    out.extend_from_slice(&packed.bytes)
                }
                (FLOAT_DATA, Content::Fixed32(bits)) => out.extend_from_slice(&bits.to_le_bytes()),
                (DOUBLE_DATA, Content::Fixed64(bits)) => out.extend_from_slice(&bits.to_le_bytes()),
                (INT32_DATA | INT64_DATA | UINT64_DATA, Content::Len(packed)) => {
                    packed.packed_varints(|v| out.extend_from_slice(&v.to_le_bytes()[..width]))?;
                }
                (INT32_DATA | INT64_DATA | UINT64_DATA, Content::Varint(v)) => {
                    out.extend_from_slice(&v.to_le_bytes()[..width]);
                }
                _ => {}
            }
        }
        Ok(out.into())
    }

    /// The elements of any integer or bool type; `None` for other types and where `raw` is `None`. A uint64 above
    /// the largest int64 wraps around.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        let raw = self.raw()?;
        Some(match self.dtype {
            DataType::Bool => raw.iter().map(|v| i64::from(*v != 0)).collect(),
            DataType::Uint8 => raw.iter().map(|v| i64::from(*v)).collect(),
            DataType::Int8 => raw.iter().map(|v| i64::from(*v as i8)).collect(),
            DataType::Uint16 => elements(&raw, |v| i64::from(u16::from_le_bytes(v))),
            DataType::Int16 => elements(&raw, |v| i64::from(i16::from_le_bytes(v))),
            DataType::Uint32 => elements(&raw, |v| i64::from(u32::from_le_bytes(v))),
            DataType::Int32 => elements(&raw, |v| i64::from(i32::from_le_bytes(v))),
            DataType::Int64 | DataType::Uint64 => elements(&raw, i64::from_le_bytes),
            DataType::Uint4 | DataType::Int4 => self.sub_bytes(&raw, 4),
            DataType::Uint2 | DataType::Int2 => self.sub_bytes(&raw, 2),
            _ => return None,
        })
    }

    /// The elements of any integer, bool or floating-point type from 16 bits up; `None` for other types and where
    /// `raw` is `None`.
    pub fn to_f64s(&self) -> Option<Vec<f64>> {
        Some(match self.dtype {
            DataType::Float => elements(&self.raw()?, |v| f64::from(f32::from_le_bytes(v))),
            DataType::Double => elements(&self.raw()?, f64::from_le_bytes),
            DataType::Float16 => elements(&self.raw()?, |v| f16::from_le_bytes(v).to_f64()),
            DataType::Bfloat16 => elements(&self.raw()?, |v| bf16::from_le_bytes(v).to_f64()),
            DataType::Uint64 => elements(&self.raw()?, |v| u64::from_le_bytes(v) as f64),
            _ => self.to_i64s()?.into_iter().map(|v| v as f64).collect(),
        })
    }

    /// Elements smaller than a byte, the first in the lowest bits.
    fn sub_bytes(&self, raw: &[u8], bits: u32) -> Vec<i64> {
        let signed = matches!(self.dtype, DataType::Int4 | DataType::Int2);
        let per_byte = 8 / bits as usize;
        let element = |i: usize| {
            let high = (raw[i / per_byte] >> (bits as usize * (i % per_byte))) << (8 - bits);
            if signed {
                i64::from(high as i8 >> (8 - bits))
            } else {
                i64::from(high >> (8 - bits))
            }
        };
        (0..self.len().unwrap_or(0)).map(element).collect()
    }

    /// The tensor message, with `name` instead of the name it had. The elements are not copied.
    pub(crate) fn encode(&self, name: &str) -> Pieces {
        let mut head = Vec::new();
        if let Some(message) = &self.message {
            let mut out = Pieces::default();
            put_bytes(&mut head, NAME, name.as_bytes());
            out.push(head);
            for field in message
                .fields()
                .map_while(Result::ok)
                .filter(|f| f.number != NAME)
            {
                out.push(field.whole.bytes);
            }
            return out;
        }
        self.dims
            .iter()
            .for_each(|dim| put_int(&mut head, DIMS, *dim));
        put_int(&mut head, DATA_TYPE, self.dtype as i64);
        if !name.is_empty() {
            put_bytes(&mut head, NAME, name.as_bytes());
        }
        let bytes = match &self.data {
            Data::Raw(bytes) => bytes.clone(),
            // Only a tensor that was read has these.
            Data::Typed | Data::External(_) => Bytes::new(),
        };
        put_header(&mut head, RAW_DATA, bytes.len() as u64);
        let mut out = Pieces::from(Bytes::from(head));
        out.push(bytes);
        out
    }
}

fn elements<T, const N: usize>(raw: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>()
        .0
        .iter()
        .map(|chunk| decode(*chunk))
        .collect()
}

/// The name in a tensor message.
pub(crate) fn tensor_name(message: &Span) -> Result<String, Error> {
    let mut name = String::new();
    for field in message.fields() {
        let field = field?;
        if let (NAME, Some(text)) = (field.number, field.len()) {
            name = text.string("the name of an initializer")?;
        }
    }
    Ok(name)
}
