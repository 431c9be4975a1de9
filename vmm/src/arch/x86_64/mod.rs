//! x86-64: where things are, what a vCPU says it is, and the state in which it starts.

pub mod cpuid;
pub mod layout;
pub mod msr;
pub mod registers;
