//! Partitions: their table, who is let in, and the driver that owns each.

pub mod admission;
pub mod doubt;
pub mod driver;
mod effects;
pub mod error;
mod guest;
pub mod machine;
pub mod partitions;
mod pulse;
pub mod table;
mod vmm;
mod warning;
