//! Partitions: their table, who is let in, and the driver that owns each.

pub mod machine;
pub mod table;
