//! Lender hosts in a box.
//!
//! Real KVM is not everywhere, so the project carries lender hosts along: QEMU emulates an AMD CPU with SVM, a
//! stock Debian kernel with `kvm-amd` runs in it, and a small initramfs starts our own static programs. What
//! happens in there happens with the real `/dev/kvm`.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use sublet_lab::{HostOptions, Lab, Recipe, prepare};
//!
//! let system = prepare(&Recipe::default(), &|step| eprintln!("{step}"))?;
//! let lab = Lab::open_default()?;
//! let host = lab.up("host-1", &HostOptions::default(), &system)?;
//! assert_eq!(host.exec(["hostname"])?.stdout, b"host-1\n");
//! # Ok(())
//! # }
//! ```
//!
//! Hosts run on when the process that started them ends, and several tests can ask for the same one.

pub mod attacks;
pub mod bench;
pub mod exec;
pub mod foreign_call;
pub mod initrd;
pub mod inside;

mod agent_config;
mod disk;
mod host;
mod lab;
mod ports;
mod prepare;
mod qemu;
mod requirements;
mod wait;

pub use agent_config::RegistryUrlError;
pub use disk::DiskError;
pub use host::{
    AgentAction, CopyError, EMULATOR_FAULT, Host, HostOptions, HostStartError, HostTls, LOST_GUESTS,
};
pub use lab::{DIRECTORY_VARIABLE, Lab, LabError, UpError};
pub use prepare::{PrepareError, Recipe, System, prepare};
pub use qemu::{KillError, StartError};
pub use requirements::Lacking;
pub use wait::until;
