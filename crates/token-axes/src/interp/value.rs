//! What is known of a value: data type, shape, content.
//!
//! Contents are row-major and never longer than [`LIMIT`] elements, except integer and boolean initializers, which are read
//! up to [`INDEX_LIMIT`] elements. An initializer is decoded when its content is first asked for. Floats are held as `f64`,
//! rounded to the value's own type; integers as `i64`, wrapped to it.

use std::sync::OnceLock;

use onnx_model::{DataType, Tensor};

use super::index::count;

/// The longest content that is computed: a mask of 512 by 512 tokens.
pub(super) const LIMIT: usize = 1 << 18;
/// The longest integer or boolean initializer that is decoded (a position or relative-position table).
const INDEX_LIMIT: usize = 1 << 20;

/// The elements of a small value, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Any integer type.
    Int(Vec<i64>),
    /// Any floating-point type, already rounded to it.
    Float(Vec<f64>),
    /// Booleans.
    Bool(Vec<bool>),
}

impl Content {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Content::Int(v) => v.len(),
            Content::Float(v) => v.len(),
            Content::Bool(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as numbers; `true` is 1.
    pub fn to_f64s(&self) -> Vec<f64> {
        match self {
            Content::Int(v) => v.iter().map(|&x| x as f64).collect(),
            Content::Float(v) => v.clone(),
            Content::Bool(v) => v.iter().map(|&x| f64::from(u8::from(x))).collect(),
        }
    }

    /// The integers, if it holds integers.
    pub fn ints(&self) -> Option<&[i64]> {
        if let Content::Int(v) = self {
            Some(v)
        } else {
            None
        }
    }

    /// The floats, if it holds floats.
    pub fn floats(&self) -> Option<&[f64]> {
        if let Content::Float(v) = self {
            Some(v)
        } else {
            None
        }
    }

    /// The booleans, if it holds booleans.
    pub fn bools(&self) -> Option<&[bool]> {
        if let Content::Bool(v) = self {
            Some(v)
        } else {
            None
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Content::Int(_) => Kind::Int,
            Content::Float(_) => Kind::Float,
            Content::Bool(_) => Kind::Bool,
        }
    }

    /// The elements at the given positions; nothing if one is outside.
    pub(super) fn take(&self, at: &[i64]) -> Option<Content> {
        fn pick<T: Copy>(v: &[T], at: &[i64]) -> Option<Vec<T>> {
            at.iter()
                .map(|&i| v.get(usize::try_from(i).ok()?).copied())
                .collect()
        }
        Some(match self {
            Content::Int(v) => Content::Int(pick(v, at)?),
            Content::Float(v) => Content::Float(pick(v, at)?),
            Content::Bool(v) => Content::Bool(pick(v, at)?),
        })
    }

    /// Overwrites the elements at the given positions, in order; nothing if a position is outside or the kinds differ.
    pub(super) fn put(&mut self, at: &[i64], with: &Content) -> Option<()> {
        fn set<T: Copy>(v: &mut [T], at: &[i64], with: &[T]) -> Option<()> {
            for (&i, &x) in at.iter().zip(with) {
                *v.get_mut(usize::try_from(i).ok()?)? = x;
            }
            (at.len() == with.len()).then_some(())
        }
        match (self, with) {
            (Content::Int(v), Content::Int(w)) => set(v, at, w),
            (Content::Float(v), Content::Float(w)) => set(v, at, w),
            (Content::Bool(v), Content::Bool(w)) => set(v, at, w),
            _ => None,
        }
    }

    /// The elements of several contents one after the other; nothing if the kinds differ.
    pub(super) fn chain(parts: &[&Content]) -> Option<Content> {
        let (first, rest) = parts.split_first()?;
        let mut all = (*first).clone();
        for part in rest {
            match (&mut all, part) {
                (Content::Int(v), Content::Int(w)) => v.extend(w),
                (Content::Float(v), Content::Float(w)) => v.extend(w),
                (Content::Bool(v), Content::Bool(w)) => v.extend(w),
                _ => return None,
            }
        }
        Some(all)
    }

    /// `n` elements of a type that holds the number `x`.
    pub(super) fn constant(dtype: DataType, x: f64, n: usize) -> Option<Content> {
        match Kind::of(dtype)? {
            Kind::Int => Some(Content::Int(vec![x as i64; n])),
            Kind::Float => Some(Content::Float(vec![round_to(dtype, x); n])),
            Kind::Bool => Some(Content::Bool(vec![x != 0.0; n])),
        }
    }

    /// Brings every element into the range and precision of `dtype`; nothing if it is of another kind.
    pub(super) fn fit(self, dtype: DataType) -> Option<Content> {
        Some(match (self, Kind::of(dtype)?) {
            (Content::Int(v), Kind::Int) => {
                Content::Int(v.into_iter().map(|x| wrap_to(dtype, x)).collect())
            }
            (Content::Float(v), Kind::Float) => {
                Content::Float(v.into_iter().map(|x| round_to(dtype, x)).collect())
            }
            (Content::Bool(v), Kind::Bool) => Content::Bool(v),
            _ => return None,
        })
    }

    /// Conversion as by the `Cast` operator. Out-of-range floats saturate.
    pub(super) fn cast(&self, to: DataType) -> Option<Content> {
        let kind = Kind::of(to)?;
        let content = match (self, kind) {
            (Content::Int(v), Kind::Int) => Content::Int(v.clone()),
            (Content::Int(v), Kind::Float) => Content::Float(v.iter().map(|&x| x as f64).collect()),
            (Content::Int(v), Kind::Bool) => Content::Bool(v.iter().map(|&x| x != 0).collect()),
            (Content::Float(v), Kind::Int) => Content::Int(v.iter().map(|&x| x as i64).collect()),
            (Content::Float(v), Kind::Float) => Content::Float(v.clone()),
            (Content::Float(v), Kind::Bool) => Content::Bool(v.iter().map(|&x| x != 0.0).collect()),
            (Content::Bool(v), Kind::Int) => {
                Content::Int(v.iter().map(|&x| i64::from(x)).collect())
            }
            (Content::Bool(v), Kind::Float) => {
                Content::Float(v.iter().map(|&x| f64::from(u8::from(x))).collect())
            }
            (Content::Bool(v), Kind::Bool) => Content::Bool(v.clone()),
        };
        content.fit(to)
    }
}

/// Which kind of content a data type has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Float,
    Bool,
}

impl Kind {
    /// The kind of a type whose contents are computed; nothing for strings, complex numbers and the 8- and 4-bit floats.
    pub(super) fn of(dtype: DataType) -> Option<Kind> {
        use DataType as D;
        match dtype {
            D::Bool => Some(Kind::Bool),
            D::Float | D::Double | D::Float16 | D::Bfloat16 => Some(Kind::Float),
            D::Int8
            | D::Int16
            | D::Int32
            | D::Int64
            | D::Uint8
            | D::Uint16
            | D::Uint32
            | D::Uint64 => Some(Kind::Int),
            _ => None,
        }
    }
}

/// `x` as the nearest number of a floating-point type.
pub(super) fn round_to(dtype: DataType, x: f64) -> f64 {
    match dtype {
        DataType::Float => f64::from(x as f32),
        DataType::Float16 => half::f16::from_f64(x).to_f64(),
        DataType::Bfloat16 => half::bf16::from_f64(x).to_f64(),
        _ => x,
    }
}

/// `x` wrapped to an integer type. 64-bit unsigned numbers keep their bits.
fn wrap_to(dtype: DataType, x: i64) -> i64 {
    match dtype {
        DataType::Int8 => i64::from(x as i8),
        DataType::Int16 => i64::from(x as i16),
        DataType::Int32 => i64::from(x as i32),
        DataType::Uint8 => i64::from(x as u8),
        DataType::Uint16 => i64::from(x as u16),
        DataType::Uint32 => i64::from(x as u32),
        _ => x,
    }
}

/// What is known of one value.
#[derive(Clone, Debug, Default)]
pub(super) struct Value {
    pub(super) dtype: Option<DataType>,
    pub(super) shape: Option<Vec<i64>>,
    /// An initializer, not decoded so far.
    pub(super) tensor: Option<Tensor>,
    pub(super) content: OnceLock<Option<Content>>,
    /// The content, if known, depends on what was assumed of a graph input's content.
    pub(super) assumed_content: bool,
    /// The same of the shape.
    pub(super) assumed_shape: bool,
    /// The value does not depend on any graph input's content or size.
    pub(super) constant: bool,
}

impl Value {
    /// A constant of the graph.
    pub(super) fn of_tensor(tensor: Tensor) -> Value {
        Value {
            dtype: Some(tensor.dtype()),
            shape: Some(tensor.dims().to_vec()),
            tensor: Some(tensor),
            constant: true,
            ..Value::default()
        }
    }

    /// Sets the content, provided its length is that of the shape.
    pub(super) fn set_content(&mut self, content: Option<Content>) {
        let expected = self.shape.as_deref().and_then(count);
        let content = content.filter(|c| Some(c.len()) == expected && c.len() <= LIMIT);
        self.content = OnceLock::from(content);
    }

    /// The content, if it is known.
    pub(super) fn content(&self) -> Option<&Content> {
        self.content
            .get_or_init(|| self.tensor.as_ref().and_then(decode))
            .as_ref()
    }
}

/// Reads a constant if it is small enough.
fn decode(tensor: &Tensor) -> Option<Content> {
    let n = tensor.len()?;
    let content = match Kind::of(tensor.dtype())? {
        Kind::Float if n <= LIMIT => Content::Float(tensor.to_f64s()?),
        Kind::Int if n <= INDEX_LIMIT => Content::Int(tensor.to_i64s()?),
        Kind::Bool if n <= INDEX_LIMIT => {
            Content::Bool(tensor.to_i64s()?.into_iter().map(|x| x != 0).collect())
        }
        _ => return None,
    };
    (content.len() == n).then_some(content)
}
