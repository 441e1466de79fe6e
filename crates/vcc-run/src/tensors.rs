//! Named dense arrays: the inputs and outputs of a model.
//!
//! Invariant: an [`Array`] holds exactly as many elements as its shape says, in row-major order.

use std::fmt;
use std::ops::Range;

use half::f16;

use crate::error::RunError;

/// Declares the element types once: the enum of types, the enum of data, and what follows from the pairing.
macro_rules! element_types {
    ($($variant:ident($rust:ty) $name:literal;)*) => {
        /// Element types that can be fed, read and compared.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ElementType {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        /// The elements of an array.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Data {
            $(#[doc = concat!("`", $name, "`")] $variant(Vec<$rust>),)*
        }

        impl fmt::Display for ElementType {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $name,)* })
            }
        }

        impl Data {
            /// The element type.
            pub fn element_type(&self) -> ElementType {
                match self { $(Self::$variant(_) => ElementType::$variant,)* }
            }

            /// The number of elements.
            pub fn len(&self) -> usize {
                match self { $(Self::$variant(v) => v.len(),)* }
            }
        }

        $(impl From<Vec<$rust>> for Data {
            fn from(v: Vec<$rust>) -> Self {
                Self::$variant(v)
            }
        })*
    };
}

element_types! {
    F32(f32) "f32";
    F64(f64) "f64";
    F16(f16) "f16";
    I64(i64) "i64";
    I32(i32) "i32";
    I8(i8) "i8";
    U8(u8) "u8";
    Bool(bool) "bool";
}

impl Data {
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All elements as f64; `true` is 1. Integers beyond 2^53 lose their low bits.
    pub fn to_f64s(&self) -> Vec<f64> {
        let mut all = Vec::with_capacity(self.len());
        self.append_f64s(0..self.len(), &mut all);
        all
    }

    /// Numbers as elements of a type: integers are cut off, floats rounded, and all but 0 is `true`.
    pub fn from_f64s(kind: ElementType, numbers: &[f64]) -> Self {
        let all = numbers.iter();
        match kind {
            ElementType::F32 => Self::F32(all.map(|&x| x as f32).collect()),
            ElementType::F64 => Self::F64(numbers.to_vec()),
            ElementType::F16 => Self::F16(all.map(|&x| f16::from_f64(x)).collect()),
            ElementType::I64 => Self::I64(all.map(|&x| x as i64).collect()),
            ElementType::I32 => Self::I32(all.map(|&x| x as i32).collect()),
            ElementType::I8 => Self::I8(all.map(|&x| x as i8).collect()),
            ElementType::U8 => Self::U8(all.map(|&x| x as u8).collect()),
            ElementType::Bool => Self::Bool(all.map(|&x| x != 0.0).collect()),
        }
    }

    /// Appends the elements in `range` to `out` as [`Data::to_f64s`] does. What lies outside is left out.
    pub(crate) fn append_f64s(&self, range: Range<usize>, out: &mut Vec<f64>) {
        macro_rules! append {
            ($($variant:ident $convert:expr;)*) => {
                match self {
                    $(Self::$variant(v) => out.extend(v.get(range).unwrap_or_default().iter().map($convert)),)*
                }
            };
        }
        append! {
            F32 |&x| f64::from(x);
            F64 |&x| x;
            F16 |&x| f64::from(x);
            I64 |&x| x as f64;
            I32 |&x| f64::from(x);
            I8 |&x| f64::from(x);
            U8 |&x| f64::from(x);
            Bool |&x| f64::from(u8::from(x));
        }
    }
}

/// A dense array in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    data: Data,
}

impl Array {
    /// An array of this shape; an error if the number of elements is not the product of the shape.
    pub fn new(shape: impl Into<Vec<usize>>, data: impl Into<Data>) -> Result<Self, RunError> {
        let (shape, data) = (shape.into(), data.into());
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if elements != Some(data.len()) {
            return Err(RunError::BadArray {
                shape,
                len: data.len(),
            });
        }
        Ok(Self { shape, data })
    }

    /// The shape; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The element type.
    pub fn element_type(&self) -> ElementType {
        self.data.element_type()
    }
}

/// Arrays with names, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensors(Vec<(String, Array)>);

/// What a model is given. Names that the model does not have are ignored.
pub type Inputs = Tensors;
/// What a model gives back, in the order of its outputs.
pub type Outputs = Tensors;

impl Tensors {
    /// No arrays.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an array, or replaces the one of that name in place.
    pub fn insert(&mut self, name: impl Into<String>, array: Array) {
        let name = name.into();
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, slot)) => *slot = array,
            None => self.0.push((name, array)),
        }
    }

    /// The array of that name.
    pub fn get(&self, name: &str) -> Option<&Array> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, a)| a)
    }

    /// Names and arrays in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Array)> {
        self.0.iter().map(|(n, a)| (n.as_str(), a))
    }

    /// How many arrays.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, Array)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (String, Array)>>(iter: I) -> Self {
        let mut all = Self::new();
        for (name, array) in iter {
            all.insert(name, array);
        }
        all
    }
}
