//! Slow f64 versions of the operators.
