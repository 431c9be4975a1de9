//! Linux as it lies on a disk, and what it finds when it starts (Documentation/arch/x86/boot.rst).

pub mod header;
pub mod placement;
pub mod zero_page;
