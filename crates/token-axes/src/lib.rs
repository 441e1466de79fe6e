//! Symbolic shapes, token-axis analysis, block discovery, refusal reasons.
