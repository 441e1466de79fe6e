//! The exponential function, in a form that the compiler vectorises and that is the same on every machine.

/// Below this, `exp` is 0 here (the true value is under 2^-125).
const LOWEST: f32 = -87.0;
/// Adding and subtracting this rounds a small f32 to an integer; its bits then hold the integer.
const ROUND: f32 = 12_582_912.0;

/// `exp(x)` for `x <= 0`, to about 1e-7 relative. NaN gives an unspecified number.
#[inline(always)]
pub(crate) fn exp_nonpositive(x: f32) -> f32 {
    let clamped = if x > LOWEST { x } else { LOWEST };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    // ln 2 in two parts, so that the rest is exact: |rest| <= ln(2) / 2.
    let rest = (clamped - whole * 0.693_359_4) - whole * -2.121_944_4e-4;
    let mut series = 1.0 / 5040.0;
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        series = series * rest + coefficient;
    }
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    if x > LOWEST {
        series * f32::from_bits(exponent)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_f64() {
        let mut worst = 0f64;
        for i in 0..870_000 {
            let x = -(i as f32) * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp_nonpositive(x)) - exact).abs() / exact);
        }
        assert!(worst < 1.5e-7, "{worst}");
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_nonpositive(-1e30), 0.0);
    }
}
