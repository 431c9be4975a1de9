//! Fuzz targets of the firmware, one a module, and one a program in `fuzz_targets/`. Each takes any bytes for what a disk
//! or a VMM says, and panics where a promise is broken: the fuzzer looks for a panic, a hang, or memory without bound.
//!
//! `examples/firmware_seeds.rs` writes what the search begins with, `run.sh` builds and runs the targets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a promise that is broken is what the fuzzer looks for"
)]

pub mod disk;
pub mod grub;
pub mod kernel;
pub mod machine;
pub mod menus;
pub mod unified;

/// An input that the search begins with, and its name.
pub type Seed = (&'static str, Vec<u8>);

/// A target's name and its seeds.
pub struct Target {
    pub name: &'static str,
    pub seeds: fn() -> Vec<Seed>,
}

pub const TARGETS: [Target; 6] = [
    Target { name: "firmware_disk", seeds: disk::seeds },
    Target { name: "firmware_grub", seeds: grub::seeds },
    Target { name: "firmware_kernel", seeds: kernel::seeds },
    Target { name: "firmware_machine", seeds: machine::seeds },
    Target { name: "firmware_menus", seeds: menus::seeds },
    Target { name: "firmware_unified", seeds: unified::seeds },
];
