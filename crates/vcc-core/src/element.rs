//! The data types of the residual stream.
//!
//! Kernels work in f32 on short pieces of a row: [`Element::widen`] and [`Element::narrow`] move a piece in and out, and the compiler
//! vectorises what lies between.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A data type that kernels read and write.
pub trait Element: Copy + Send + Sync + PartialEq + std::fmt::Debug + 'static {
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;

    /// `to[i] = from[i]`, exactly. The lengths are equal.
    fn widen(from: &[Self], to: &mut [f32]);

    /// `to[i] = from[i]`, rounded to nearest even. The lengths are equal.
    fn narrow(from: &[f32], to: &mut [Self]);
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    #[inline]
    fn widen(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    #[inline]
    fn narrow(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }
}

impl Element for f16 {
    const ZERO: Self = f16::ZERO;
    const ONE: Self = f16::ONE;

    #[inline]
    fn widen(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }

    #[inline]
    fn narrow(from: &[f32], to: &mut [Self]) {
        to.convert_from_f32_slice(from);
    }
}

impl Element for bf16 {
    const ZERO: Self = bf16::ZERO;
    const ONE: Self = bf16::ONE;

    #[inline]
    fn widen(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }

    #[inline]
    fn narrow(from: &[f32], to: &mut [Self]) {
        to.convert_from_f32_slice(from);
    }
}
