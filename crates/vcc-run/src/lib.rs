//! Runs models, compares their outputs, measures time and memory.
