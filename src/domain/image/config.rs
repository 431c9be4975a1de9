//! An image's config: what OS it is, and how it boots.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    chunks::{CHUNK_BYTES, DiskSize},
    digest::Digest,
};

/// Longest config that is read, in bytes.
pub const CONFIG_MAX_BYTES: u64 = 64 * 1024;
/// Longest text in it, in bytes.
const TEXT_MAX: usize = 128;
/// Longest command line of a kernel, in bytes: that of Linux on x86-64.
pub const COMMAND_LINE_MAX: usize = 2047;

/// What is in the config blob. A field that we do not know is refused: a later version of the format says so in its media type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// The guest's OS, as people call it: "Debian 12".
    pub os: String,
    /// As Go and OCI call it: `amd64`.
    pub architecture: String,
    /// The kernel's release, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_release: Option<String>,
    pub boot: BootConfig,
}

/// How it boots; which layers there are follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootConfig {
    /// A kernel that the host starts, with an initial RAM disk or without.
    Kernel(KernelBoot),
    /// A disk that has a boot loader or a kernel of its own.
    Disk(DiskBoot),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelBoot {
    pub command_line: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskBoot {
    /// How large the disk is, in bytes.
    pub bytes: DiskSize,
    /// In bytes; version 1 of the format has one size.
    pub chunk_bytes: u32,
    pub merkle_root: Digest,
}

#[derive(Debug, Error)]
pub enum BadConfig {
    #[error("it is {0} bytes long, and no more than {CONFIG_MAX_BYTES} are read")]
    TooLong(u64),
    #[error("it cannot be read")]
    Json(#[from] serde_json::Error),
    #[error("{what} is {text:?}: 1 to {max} characters that can be printed, without line breaks")]
    Text { what: &'static str, text: String, max: usize },
    #[error("its chunks have {0} bytes, and this version of the format has {CHUNK_BYTES}")]
    ChunkBytes(u32),
}

impl ImageConfig {
    pub fn read(bytes: &[u8]) -> Result<Self, BadConfig> {
        let length = bytes.len() as u64;
        if length > CONFIG_MAX_BYTES {
            return Err(BadConfig::TooLong(length));
        }
        let config: Self = serde_json::from_slice(bytes)?;
        config.check()?;
        Ok(config)
    }

    /// Whether all values are within their bounds.
    pub fn check(&self) -> Result<(), BadConfig> {
        text("os", &self.os, TEXT_MAX)?;
        text("architecture", &self.architecture, TEXT_MAX)?;
        self.kernel_release.as_ref().map_or(Ok(()), |release| text("kernel_release", release, TEXT_MAX))?;
        match &self.boot {
            // A kernel may have nothing on its command line.
            BootConfig::Kernel(KernelBoot { command_line }) if command_line.is_empty() => Ok(()),
            BootConfig::Kernel(KernelBoot { command_line }) => {
                text("command_line", command_line, COMMAND_LINE_MAX)
            }
            BootConfig::Disk(DiskBoot { chunk_bytes: CHUNK_BYTES, .. }) => Ok(()),
            BootConfig::Disk(DiskBoot { chunk_bytes, .. }) => Err(BadConfig::ChunkBytes(*chunk_bytes)),
        }
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

fn text(what: &'static str, text: &str, max: usize) -> Result<(), BadConfig> {
    if (1..=max).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(BadConfig::Text { what, text: text.chars().take(max).collect(), max })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DISK: &str = r#"{"os":"Debian 12","architecture":"amd64","boot":{"disk":{"bytes":1024,"chunk_bytes":65536,
        "merkle_root":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}}"#;
    const KERNEL: &str =
        r#"{"os":"Debian 12","architecture":"amd64","boot":{"kernel":{"command_line":"console=ttyS0"}}}"#;

    #[test]
    fn a_config_is_read_as_it_was_written() {
        for text in [DISK, KERNEL] {
            let config = ImageConfig::read(text.as_bytes()).unwrap();
            assert_eq!(ImageConfig::read(&config.to_bytes().unwrap()).unwrap(), config);
        }
    }

    #[test]
    fn what_is_out_of_bounds_or_unknown_is_refused() {
        for (from, to) in [
            ("Debian 12", ""),
            ("Debian 12", "Debian\\n12"),
            ("amd64", "\\u0000"),
            ("1024", "1000"),
            ("1024", "0"),
            ("65536", "4096"),
            ("sha256:e3", "sha256:x3"),
            ("\"os\"", "\"is\""),
            ("\"boot\"", "\"more\":1,\"boot\""),
            ("\"bytes\"", "\"more\":1,\"bytes\""),
            ("\"disk\"", "\"network\""),
        ] {
            let wrong = DISK.replacen(from, to, 1);
            assert!(ImageConfig::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        for line in ["a\\nb".to_owned(), "x".repeat(COMMAND_LINE_MAX + 1)] {
            let wrong = KERNEL.replace("console=ttyS0", &line);
            assert!(matches!(ImageConfig::read(wrong.as_bytes()), Err(BadConfig::Text { .. })));
        }
        let long = format!("{KERNEL}{}", " ".repeat(CONFIG_MAX_BYTES as usize));
        assert!(matches!(ImageConfig::read(long.as_bytes()), Err(BadConfig::TooLong(_))));
    }

    proptest! {
        #[test]
        fn whatever_byte_is_changed_the_config_is_read_or_refused(at in 0..DISK.len(), byte in any::<u8>()) {
            let mut bytes = DISK.as_bytes().to_vec();
            bytes[at] = byte;
            let _ = ImageConfig::read(&bytes);
        }
    }
}
