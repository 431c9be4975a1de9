//! The header of a bzImage: what it says about how it wants to be started.

use alloc::vec::Vec;

use thiserror::Error;

/// Bytes of a kernel that hold all of the header.
pub const START_BYTES: usize = 1024;
/// Where the header begins, in the file as in the zero page.
pub const OFFSET: usize = 0x1f1;

const MAGIC_OFFSET: usize = 0x202;
const MAGIC: [u8; 4] = *b"HdrS";
/// The byte that says where the header ends, counted from [`MAGIC_OFFSET`].
const END_OFFSET: usize = 0x201;
/// Where the header ends at the latest: what follows in the zero page is not its.
const END_LIMIT: usize = 0x290;
const SETUP_SECTORS: usize = 0x1f1;
/// 0 stands for this many.
const SETUP_SECTORS_DEFAULT: u8 = 4;
/// Size of what is loaded, in paragraphs.
const SYSTEM_PARAGRAPHS: usize = 0x1f4;
const PARAGRAPH_BYTES: u64 = 16;
const VERSION: usize = 0x206;
const INITRD_LAST: usize = 0x22c;
const ALIGNMENT: usize = 0x230;
const RELOCATABLE: usize = 0x234;
const XLOADFLAGS: usize = 0x236;
const COMMAND_LINE_LIMIT: usize = 0x238;
const PREFERRED_ADDRESS: usize = 0x258;
const INIT_BYTES: usize = 0x260;

/// The first version that says whether it has a 64-bit entry.
const VERSION_WITH_XLOADFLAGS: u16 = 0x20c;
const XLOADFLAG_KERNEL_64: u16 = 1;
/// The 64-bit entry, from where the kernel was loaded.
pub const ENTRY_64: u64 = 0x200;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeaderError {
    #[error("it is no bzImage")]
    NoBzImage,
    #[error("it is cut short: {bytes} of {wanted} bytes")]
    Truncated { bytes: u64, wanted: u64 },
    #[error("its boot protocol {0:#06x} has no 64-bit entry")]
    No64BitEntry(u16),
    #[error("it wants an alignment of {0:#x}")]
    Alignment(u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the file before what is loaded.
    pub setup_bytes: u64,
    /// Bytes of the file that are loaded.
    pub system_bytes: u64,
    /// Bytes that it needs from where it is loaded, to unpack itself.
    pub init_bytes: u64,
    /// Where it wants to be loaded.
    pub preferred: u64,
    /// Whether it runs elsewhere, at a multiple of this.
    pub relocatable: Option<u64>,
    /// Last byte that an initrd may take.
    pub initrd_last: u64,
    /// Longest command line, without its NUL.
    pub command_line_limit: usize,
    /// What of it goes into the zero page, at [`OFFSET`].
    pub raw: Vec<u8>,
}

impl Header {
    /// Reads the header from a kernel's first [`START_BYTES`]; the whole file is `file_bytes` long.
    pub fn parse(start: &[u8; START_BYTES], file_bytes: u64) -> Result<Self, HeaderError> {
        let short = |at: usize| u16::from_le_bytes([start[at], start[at + 1]]);
        let long = |at: usize| u32::from(short(at)) | u32::from(short(at + 2)) << 16;
        if start[MAGIC_OFFSET..MAGIC_OFFSET + 4] != MAGIC {
            return Err(HeaderError::NoBzImage);
        }
        let version = short(VERSION);
        if version < VERSION_WITH_XLOADFLAGS || short(XLOADFLAGS) & XLOADFLAG_KERNEL_64 == 0 {
            return Err(HeaderError::No64BitEntry(version));
        }
        let setup_sectors = Some(start[SETUP_SECTORS]).filter(|sectors| *sectors != 0);
        let setup_bytes = (u64::from(setup_sectors.unwrap_or(SETUP_SECTORS_DEFAULT)) + 1) * 512;
        let system_bytes = u64::from(long(SYSTEM_PARAGRAPHS)) * PARAGRAPH_BYTES;
        let wanted = setup_bytes + system_bytes;
        if file_bytes < wanted {
            return Err(HeaderError::Truncated { bytes: file_bytes, wanted });
        }
        let alignment = long(ALIGNMENT);
        if start[RELOCATABLE] != 0 && !alignment.is_power_of_two() {
            return Err(HeaderError::Alignment(alignment));
        }
        let end = (MAGIC_OFFSET + usize::from(start[END_OFFSET])).min(END_LIMIT);
        Ok(Self {
            setup_bytes,
            system_bytes,
            init_bytes: u64::from(long(INIT_BYTES)).max(system_bytes),
            preferred: u64::from(long(PREFERRED_ADDRESS)) | u64::from(long(PREFERRED_ADDRESS + 4)) << 32,
            relocatable: (start[RELOCATABLE] != 0).then_some(u64::from(alignment)),
            initrd_last: u64::from(long(INITRD_LAST)),
            command_line_limit: long(COMMAND_LINE_LIMIT) as usize,
            raw: start[OFFSET..end].to_vec(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The start of a kernel as Debian's is, whose loaded part is `system_bytes` long.
    pub(crate) fn start(system_bytes: u32) -> [u8; START_BYTES] {
        let mut start = [0; START_BYTES];
        let mut put = |at: usize, bytes: &[u8]| start[at..at + bytes.len()].copy_from_slice(bytes);
        put(SETUP_SECTORS, &[1]);
        put(SYSTEM_PARAGRAPHS, &(system_bytes / 16).to_le_bytes());
        put(END_OFFSET, &[0x6a]);
        put(MAGIC_OFFSET, b"HdrS");
        put(VERSION, &0x20f_u16.to_le_bytes());
        put(INITRD_LAST, &0x7fff_ffff_u32.to_le_bytes());
        put(ALIGNMENT, &0x20_0000_u32.to_le_bytes());
        put(RELOCATABLE, &[1]);
        put(XLOADFLAGS, &0x7f_u16.to_le_bytes());
        put(COMMAND_LINE_LIMIT, &2047_u32.to_le_bytes());
        put(PREFERRED_ADDRESS, &0x100_0000_u64.to_le_bytes());
        put(INIT_BYTES, &(8 * system_bytes).to_le_bytes());
        start
    }

    #[test]
    fn what_a_kernel_asks_for_is_read() {
        let header = Header::parse(&start(0x1000), 0x1400).unwrap();
        assert_eq!((header.setup_bytes, header.system_bytes, header.init_bytes), (1024, 0x1000, 0x8000));
        assert_eq!((header.preferred, header.relocatable), (0x100_0000, Some(0x20_0000)));
        assert_eq!((header.initrd_last, header.command_line_limit), (0x7fff_ffff, 2047));
        assert_eq!(header.raw.len(), 0x202 + 0x6a - 0x1f1);
    }

    #[test]
    fn a_kernel_that_is_cut_short_is_refused_with_both_sizes() {
        let error = Header::parse(&start(0x1000), 0x13ff).unwrap_err();
        assert_eq!(error, HeaderError::Truncated { bytes: 0x13ff, wanted: 0x1400 });
    }

    #[test]
    fn what_is_no_bzimage_or_knows_no_64_bit_entry_is_refused() {
        assert_eq!(Header::parse(&[0; START_BYTES], 1 << 20), Err(HeaderError::NoBzImage));
        let mut old = start(16);
        old[VERSION] = 0x0b;
        assert_eq!(Header::parse(&old, 1 << 20), Err(HeaderError::No64BitEntry(0x20b)));
        let mut other = start(16);
        other[XLOADFLAGS] = 0;
        assert_eq!(Header::parse(&other, 1 << 20), Err(HeaderError::No64BitEntry(0x20f)));
        let mut crooked = start(16);
        crooked[ALIGNMENT] = 3;
        assert_eq!(Header::parse(&crooked, 1 << 20), Err(HeaderError::Alignment(0x20_0003)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(bytes in proptest::collection::vec(any::<u8>(), START_BYTES), size: u64) {
            let mut bytes: [u8; START_BYTES] = bytes.try_into().unwrap();
            bytes[MAGIC_OFFSET..MAGIC_OFFSET + 4].copy_from_slice(&MAGIC);
            if let Ok(header) = Header::parse(&bytes, size) {
                prop_assert!(header.setup_bytes + header.system_bytes <= size);
                prop_assert!(header.raw.len() <= END_LIMIT - OFFSET);
            }
        }
    }
}
