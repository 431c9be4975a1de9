//! Disks as users have them, made by the programs that users make them with: read on this machine, and started in QEMU.

#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod bad;
mod disks;
mod image;
mod kernel;
mod layout;
mod loading;
mod qemu;
