//! The conversion pipeline: one file per pass.
