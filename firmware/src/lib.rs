//! Finds and starts the operating system on a partition's disk.
//!
//! This library decides and formats, and runs anywhere; what touches the machine is in the program
//! (`main.rs`, built by `firmware/build.sh`), which starts where a VMM leaves off: the PVH boot protocol, in
//! 32-bit mode, with one pointer to what the VMM has to say ([`start_info`]).

#![cfg_attr(not(test), no_std)]

pub mod memory;
pub mod report;
pub mod serial;
pub mod start_info;
