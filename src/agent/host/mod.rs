//! The lender host itself: what it has, and what is set aside of it. Only this folder writes to the host's
//! control groups, makes disks, and sets up interfaces and the packet filter.

pub mod carve;
pub mod cgroup;
pub mod clock;
pub mod cpus;
pub mod disk;
pub mod disk_keys;
pub mod irq;
pub mod memory;
pub mod network;
pub mod threads;
pub mod users;
