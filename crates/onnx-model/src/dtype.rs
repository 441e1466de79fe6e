//! Element types of tensors.

macro_rules! data_types {
    ($($name:ident = $number:literal, $bits:literal, $text:literal;)*) => {
        /// Element type of a tensor, numbered as in the file format.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i32)]
        #[allow(missing_docs, reason = "the names say it")]
        pub enum DataType { $($name = $number,)* }

        impl DataType {
            /// The type with this number in the file format.
            pub fn from_i32(number: i32) -> Option<DataType> {
                match number { $($number => Some(DataType::$name),)* _ => None }
            }

            /// Bits per element; `None` for strings.
            pub fn bits(self) -> Option<usize> {
                match self { $(DataType::$name => if $bits == 0 { None } else { Some($bits) },)* }
            }

            /// Short name, as in the text form: `f32`, `i64`, `bool`.
            pub fn short_name(self) -> &'static str {
                match self { $(DataType::$name => $text,)* }
            }
        }
    };
}

data_types! {
    Float = 1, 32, "f32";
    Uint8 = 2, 8, "u8";
    Int8 = 3, 8, "i8";
    Uint16 = 4, 16, "u16";
    Int16 = 5, 16, "i16";
    Int32 = 6, 32, "i32";
    Int64 = 7, 64, "i64";
    String = 8, 0, "string";
    Bool = 9, 8, "bool";
    Float16 = 10, 16, "f16";
    Double = 11, 64, "f64";
    Uint32 = 12, 32, "u32";
    Uint64 = 13, 64, "u64";
    Complex64 = 14, 64, "c64";
    Complex128 = 15, 128, "c128";
    Bfloat16 = 16, 16, "bf16";
    Float8E4M3FN = 17, 8, "f8e4m3fn";
    Float8E4M3FNUZ = 18, 8, "f8e4m3fnuz";
    Float8E5M2 = 19, 8, "f8e5m2";
    Float8E5M2FNUZ = 20, 8, "f8e5m2fnuz";
    Uint4 = 21, 4, "u4";
    Int4 = 22, 4, "i4";
    Float4E2M1 = 23, 4, "f4e2m1";
    Float8E8M0 = 24, 8, "f8e8m0";
    Uint2 = 25, 2, "u2";
    Int2 = 26, 2, "i2";
}

impl DataType {
    /// How many elements `dims` make: 1 for a scalar. `None` for a negative dimension or more than fit in memory.
    pub(crate) fn count(dims: &[i64]) -> Option<usize> {
        if dims.contains(&0) {
            return dims.iter().all(|d| *d >= 0).then_some(0);
        }
        dims.iter()
            .try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))
            .filter(|n| *n <= isize::MAX as usize)
    }

    /// Bytes of a tensor of this type and these dimensions; `None` for strings, a negative dimension, or overflow.
    pub(crate) fn byte_len(self, dims: &[i64]) -> Option<usize> {
        Some(Self::count(dims)?.checked_mul(self.bits()?)?.div_ceil(8))
    }
}
