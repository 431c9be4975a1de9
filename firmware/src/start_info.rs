//! What a VMM tells a program it starts by the PVH boot protocol.
//!
//! Source: Xen, `xen/include/public/arch-x86/hvm/start_info.h`.

use core::fmt;

/// "xEn3", with the top bit of the first letter set.
const MAGIC: u32 = 0x336e_c578;
/// Bytes of the structure, of any version.
pub const BYTES: usize = 56;
/// The version that brought the memory map.
const WITH_MEMORY_MAP: u32 = 1;

/// `struct hvm_start_info`. Addresses are physical; none stands for 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartInfo {
    pub version: u32,
    /// Files loaded beside the program.
    pub modules: u32,
    /// Where the command line is.
    pub command_line: Option<u64>,
    /// Where ACPI's root pointer is.
    pub rsdp: Option<u64>,
    /// Where the memory map is and how many entries it has.
    pub memory_map: Option<(u64, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartInfoError {
    /// It is shorter than [`BYTES`].
    TooShort(usize),
    /// It begins with another number than the protocol's.
    Magic(u32),
}

impl fmt::Display for StartInfoError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort(bytes) => write!(out, "the start information is {bytes} bytes long, not {BYTES}"),
            Self::Magic(magic) => {
                write!(out, "the start information begins with {magic:#010x}, not {MAGIC:#010x}")
            }
        }
    }
}

impl core::error::Error for StartInfoError {}

impl StartInfo {
    /// Reads the structure. What its version does not have yet is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, StartInfoError> {
        let too_short = StartInfoError::TooShort(bytes.len());
        let bytes: &[u8; BYTES] = bytes.first_chunk().ok_or(too_short)?;
        match number(bytes, 0) {
            MAGIC => Ok(Self::read(bytes)),
            other => Err(StartInfoError::Magic(other)),
        }
    }

    fn read(bytes: &[u8; BYTES]) -> Self {
        let version = number(bytes, 4);
        let entries = number(bytes, 48);
        let memory_map = address(bytes, 40).filter(|_| version >= WITH_MEMORY_MAP && entries > 0);
        Self {
            version,
            modules: number(bytes, 12),
            command_line: address(bytes, 24),
            rsdp: address(bytes, 32),
            memory_map: memory_map.map(|map| (map, entries)),
        }
    }
}

fn number(bytes: &[u8; BYTES], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn address(bytes: &[u8; BYTES], at: usize) -> Option<u64> {
    let address = u64::from(number(bytes, at)) | u64::from(number(bytes, at + 4)) << 32;
    (address != 0).then_some(address)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn structure(version: u32, command_line: u64, memory_map: u64, entries: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [MAGIC, version, 0, 2] {
            bytes.extend(number.to_le_bytes());
        }
        for address in [0x5000, command_line, 0xe0000, memory_map] {
            bytes.extend(address.to_le_bytes());
        }
        bytes.extend(entries.to_le_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn every_field_is_read_from_its_place() {
        let info = StartInfo::parse(&structure(1, 0x6000, 0x7000, 5)).unwrap();
        let expected = StartInfo {
            version: 1,
            modules: 2,
            command_line: Some(0x6000),
            rsdp: Some(0xe0000),
            memory_map: Some((0x7000, 5)),
        };
        assert_eq!(info, expected);
    }

    #[test]
    fn the_first_version_has_no_memory_map_whatever_lies_there() {
        assert_eq!(StartInfo::parse(&structure(0, 0, 0x7000, 5)).unwrap().memory_map, None);
    }

    #[test]
    fn nothing_at_address_0_counts() {
        let info = StartInfo::parse(&structure(1, 0, 0, 5)).unwrap();
        assert_eq!((info.command_line, info.memory_map), (None, None));
    }

    #[test]
    fn another_magic_is_refused_and_shown() {
        let error = StartInfo::parse(&[0xab; BYTES]).unwrap_err();
        assert_eq!(error, StartInfoError::Magic(0xabab_abab));
        assert!(error.to_string().contains("0xabababab"));
    }

    #[test]
    fn too_few_bytes_are_refused() {
        assert_eq!(StartInfo::parse(&structure(1, 0, 0, 0)[..55]), Err(StartInfoError::TooShort(55)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, claims_to_be_one: bool) {
            if claims_to_be_one {
                bytes.splice(..0, MAGIC.to_le_bytes());
            }
            let _ = StartInfo::parse(&bytes);
        }
    }
}
