//! What boot loaders leave on a disk to say what there is to start. Each kind is read by a pure parser; which file of
//! which volume it is comes from outside.

pub mod extlinux;
pub mod grub;
pub mod loader_entry;
pub mod unified;
pub mod version;
