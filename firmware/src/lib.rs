//! Finds and starts the operating system on a partition's disk.
//!
//! This library decides and formats, and runs anywhere; what touches the machine is in the program
//! (`main.rs`, built by `firmware/build.sh`), which starts where a VMM leaves off: the PVH boot protocol, in
//! 32-bit mode, with one pointer to what the VMM has to say ([`start_info`]), or Linux's, in 64-bit mode.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod boot;
pub mod config;
pub mod disk;
pub mod filesystem;
pub mod linux;
pub mod load;
pub mod machine;
pub mod memory;
pub mod menu;
pub mod partition;
pub mod serial;
pub mod start;
pub mod start_info;
pub mod volumes;
