//! One virtual machine a process: the machine of one partition.
//!
//! In reading order: what was asked for ([`config`]) is taken of the host ([`resources`]), the jail closes
//! ([`sandbox`]), and in it the machine is built and prepared ([`builder`], from [`memory`], [`kvm`], [`interrupts`], [`vcpu`], [`pci`] and [`devices`]); the [`event_loop`] then serves the
//! [`control`] socket, moves the machine through its [`lifecycle`], loads an operating system into it
//! ([`boot`], [`acpi`]) and ends it when its guest, its user or the clock says so.
//!
//! The guest is hostile. What it writes, in registers or in its memory, is data to be checked: no byte of it may
//! stop this process, make it allocate without bound, or reach a file that is not its own.

pub mod acpi;
pub mod arch;
pub mod block;
pub mod boot;
pub mod builder;
pub mod clock;
pub mod config;
pub mod console;
pub mod control;
pub mod daemon;
pub mod devices;
pub mod event_loop;
pub mod interrupts;
pub mod kvm;
pub mod lifecycle;
pub mod machine;
pub mod memory;
pub mod oom;
pub mod pci;
pub mod rate_limit;
pub mod resources;
pub mod sandbox;
pub mod tap;
pub mod threads;
pub mod vcpu;
