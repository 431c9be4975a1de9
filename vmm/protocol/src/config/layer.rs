//! A disk's own space, and what lies under it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bytes of a key of AES-256-XTS: two of AES-256.
pub const KEY_BYTES: usize = 64;

/// A file is a disk's own space: its blocks in chunks, encrypted, and a map of those that are there. What is not reads as
/// what lies under it, which comes with the operating system ([`crate::config::BaseSource`]), and as zeroes above that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerConfig {
    /// Size of the disk; its file is larger by the map ([`crate::config::layered_file_bytes`]).
    pub bytes: u64,
    pub key: DiskKey,
}

/// What the blocks are encrypted with. Whoever has it reads the disk.
#[derive(Clone, PartialEq, Eq)]
pub struct DiskKey([u8; KEY_BYTES]);

impl DiskKey {
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for DiskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskKey(…)")
    }
}

/// Hexadecimal.
impl Serialize for DiskKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}", Hexadecimal(&self.0)))
    }
}

struct Hexadecimal<'a>(&'a [u8]);

impl fmt::Display for Hexadecimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<'de> Deserialize<'de> for DiskKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // What is wrong with it is not shown: it may be a key, nearly.
        let wrong =
            || de::Error::custom(format_args!("a disk's key is {} hexadecimal digits", 2 * KEY_BYTES));
        let text = String::deserialize(deserializer)?;
        if text.len() != 2 * KEY_BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; KEY_BYTES];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_there_and_back_and_is_never_shown() {
        let key = DiskKey::new(std::array::from_fn(|at| at as u8 * 3));
        let text = serde_json::to_string(&key).unwrap();
        assert!(text.starts_with("\"000306"), "{text}");
        assert_eq!(serde_json::from_str::<DiskKey>(&text).unwrap(), key);
        assert_eq!(format!("{key:?}"), "DiskKey(…)");
        for bad in ["\"\"".to_owned(), text.replacen("00", "0g", 1), text.replacen("00", "é", 1)] {
            let error = serde_json::from_str::<DiskKey>(&bad).unwrap_err().to_string();
            assert!(error.contains("128 hexadecimal digits"), "{error}");
        }
    }
}
