//! OS images on this machine's disk: kept in OCI layouts, built, packed, converted, verified. In reading order:

pub mod store;

pub mod layout;

pub mod build;
pub mod from_directory;
mod pack;

pub mod convert;
mod qcow2;
mod sandbox;

pub mod disk;
pub mod sign;
pub mod verify;
