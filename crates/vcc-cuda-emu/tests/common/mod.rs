//! A device made of the host's memory, random cases, and the comparison of every operator with the reference.
#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod cases;
pub(crate) mod device;
pub(crate) mod faults;
pub(crate) mod operators;
pub(crate) mod programs;
