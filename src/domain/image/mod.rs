//! OS images as OCI artifacts (`docs/image-format.md`): what is in one, and what in one is wrong. In reading order:

pub mod reference;

pub mod digest;

mod bounded;
pub mod descriptor;
pub mod index;
pub mod manifest;
pub mod media_type;

pub mod config;
pub mod contents;

pub mod chunks;
pub mod merkle;

pub mod signature;
