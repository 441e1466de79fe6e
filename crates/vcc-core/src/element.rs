//! The data types of the residual stream.
//!
//! Kernels compute in f32. The conversions have no branches and no calls, so that a loop over a row of any type becomes SIMD code, and they use no
//! subnormal f32, which the host may have told the processor to take for zero.

use half::{bf16, f16};

/// A data type that kernels read and write.
pub trait Element: Copy + Send + Sync + PartialEq + std::fmt::Debug + 'static {
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;

    /// The same number. A NaN may become a quiet one.
    fn widen(self) -> f32;

    /// The nearest number, halves to even.
    fn narrow(x: f32) -> Self;
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x
    }
}

/// Bits of f32 for 2^-14, the smallest normal f16.
const F16_NORMAL: u32 = 113 << 23;
/// Bits of f32 for 2^16, beyond all finite f16.
const F16_TOO_LARGE: u32 = 143 << 23;
/// Bits of f32 for 0.5: added to a number below 2^-14, it shifts the bits of a subnormal f16 to the lowest place and rounds them.
const F16_SUBNORMAL: u32 = 126 << 23;
/// Bits of f32 for infinity.
const INFINITY: u32 = 255 << 23;

impl Element for f16 {
    const ZERO: Self = f16::ZERO;
    const ONE: Self = f16::ONE;

    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let (sign, magnitude) = ((bits & 0x8000) << 16, (bits & 0x7FFF) << 13);
        let exponent = magnitude & (31 << 23);
        let normal = magnitude + (112 << 23);
        let subnormal = f32::from_bits(magnitude + F16_NORMAL) - f32::from_bits(F16_NORMAL);
        let quiet = if magnitude > 31 << 23 { 1 << 22 } else { 0 };
        let magnitude = if exponent == 31 << 23 {
            magnitude | INFINITY | quiet
        } else if exponent == 0 {
            subnormal.to_bits()
        } else {
            normal
        };
        f32::from_bits(sign | magnitude)
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        let bits = x.to_bits();
        let (sign, magnitude) = ((bits >> 16) & 0x8000, bits & 0x7FFF_FFFF);
        // Half a unit less one, and one more where the last bit that stays is odd.
        let odd = (magnitude >> 13) & 1;
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xFFF + odd) >> 13;
        let subnormal = (f32::from_bits(magnitude) + f32::from_bits(F16_SUBNORMAL)).to_bits();
        let magnitude = if magnitude > INFINITY {
            0x7E00 | (magnitude >> 13) & 0x3FF
        } else if magnitude >= F16_TOO_LARGE {
            0x7C00
        } else if magnitude < F16_NORMAL {
            subnormal.wrapping_sub(F16_SUBNORMAL)
        } else {
            normal
        };
        f16::from_bits((sign | magnitude) as u16)
    }
}

impl Element for bf16 {
    const ZERO: Self = bf16::ZERO;
    const ONE: Self = bf16::ONE;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        let bits = x.to_bits();
        let odd = (bits >> 16) & 1;
        let rounded = bits.wrapping_add(0x7FFF + odd) >> 16;
        let nan = (bits >> 16) | 0x40;
        let is_nan = bits & 0x7FFF_FFFF > INFINITY;
        bf16::from_bits(if is_nan { nan } else { rounded } as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 16-bit number against the conversions of `half`.
    #[test]
    fn widens_as_half_does() {
        for bits in 0..=u16::MAX {
            let (single, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            let same = |got: f32, want: f32| {
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan()
            };
            assert!(same(single.widen(), single.to_f32()), "f16 {bits:#x}");
            assert!(same(brain.widen(), brain.to_f32()), "bf16 {bits:#x}");
        }
    }

    /// Every 16-bit number, the middle to its neighbour, what is next to them, and a spread of all other numbers.
    #[test]
    fn narrows_as_half_does() {
        let same = |x: f32| {
            let (single, brain) = (f16::narrow(x), bf16::narrow(x));
            assert!(
                single.to_bits() == f16::from_f32(x).to_bits(),
                "f16 {:#x}",
                x.to_bits()
            );
            assert!(
                brain.to_bits() == bf16::from_f32(x).to_bits(),
                "bf16 {:#x}",
                x.to_bits()
            );
        };
        for bits in 0..=u16::MAX {
            for base in [
                f16::from_bits(bits).to_f32(),
                bf16::from_bits(bits).to_f32(),
            ] {
                for step in [0, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0x1FFF] {
                    same(f32::from_bits(base.to_bits().wrapping_add(step)));
                }
            }
        }
        (0..u32::MAX)
            .step_by(4093)
            .for_each(|bits| same(f32::from_bits(bits)));
    }
}
