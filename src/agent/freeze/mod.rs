//! What was set aside stays set aside, and what became of it is counted and signed (patent claims 2, 4, 8, 9). In reading
//! order: the guard compares and puts back, the meter counts, the receipt is what is told of both.

pub mod guard;
pub mod meter;

pub mod receipt;
pub mod watch;
