//! What depends on the kind of CPU.

pub mod x86_64;

pub use x86_64::layout;
