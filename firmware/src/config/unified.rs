//! Unified kernel images: a PE program with kernel, initrd and command line as sections (UAPI group, Unified Kernel Image).

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use object::LittleEndian;
use object::pe::{ImageDosHeader, ImageNtHeaders64, ImageSectionHeader};
use object::read::pe::ImageNtHeaders;
use thiserror::Error;

/// Bytes of an image that are read to find its sections.
pub const START_BYTES: usize = 8192;
/// Longest command line and description.
pub const TEXT_LIMIT: u64 = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnifiedError {
    #[error("it is no PE program: {0}")]
    Program(&'static str),
    #[error("it has no section {0}")]
    Lacks(&'static str),
    #[error("its section {name} is said to be at bytes {start:#x} to {end:#x} of {bytes:#x}")]
    Beyond { name: &'static str, start: u64, end: u64, bytes: u64 },
}

/// Where in the file everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unified {
    pub linux: Range<u64>,
    pub initrds: Vec<Range<u64>>,
    pub command_line: Option<Range<u64>>,
    /// An os-release.
    pub description: Option<Range<u64>>,
}

/// Finds the sections from the image's first bytes; the whole file is `file_bytes` long.
pub fn parse(start: &[u8], file_bytes: u64) -> Result<Unified, UnifiedError> {
    let sections = sections(start).map_err(|_| UnifiedError::Program("its headers make no sense"))?;
    let range = |name: &'static str| {
        let section = sections.iter().find(|section| section.raw_name() == name.as_bytes());
        section.map(|section| range_of(name, section, file_bytes)).transpose()
    };
    Ok(Unified {
        linux: range(".linux")?.ok_or(UnifiedError::Lacks(".linux"))?,
        initrds: [range(".ucode")?, range(".initrd")?].into_iter().flatten().collect(),
        command_line: range(".cmdline")?,
        description: range(".osrel")?,
    })
}

fn sections(start: &[u8]) -> object::read::Result<Vec<ImageSectionHeader>> {
    let mut offset = ImageDosHeader::parse(start)?.nt_headers_offset().into();
    let (headers, _) = ImageNtHeaders64::parse(start, &mut offset)?;
    Ok(headers.sections(start, offset)?.iter().copied().collect())
}

/// A section is padded in the file; its size in memory is that of what was put in.
fn range_of(
    name: &'static str,
    section: &ImageSectionHeader,
    bytes: u64,
) -> Result<Range<u64>, UnifiedError> {
    let (in_memory, in_file) =
        (section.virtual_size.get(LittleEndian), section.size_of_raw_data.get(LittleEndian));
    let start = u64::from(section.pointer_to_raw_data.get(LittleEndian));
    let end = start + u64::from(in_memory.min(in_file));
    match end <= bytes {
        true => Ok(start..end),
        false => Err(UnifiedError::Beyond { name, start, end, bytes }),
    }
}

/// A command line as it lies in a section.
#[must_use]
pub fn command_line(section: &[u8]) -> String {
    let text = section.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).trim().to_string()
}

/// A value of an os-release, without its quotes.
#[must_use]
pub fn os_release<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value.trim_matches(['"', '\''])).next()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An image's headers with these sections: name, size in memory, size and place in the file.
    pub(crate) fn headers(sections: &[(&str, u32, u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 64;
        bytes.extend(b"PE\0\0");
        bytes.extend(0x8664_u16.to_le_bytes());
        bytes.extend((sections.len() as u16).to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend(240_u16.to_le_bytes());
        bytes.extend(0x22_u16.to_le_bytes());
        let mut optional = [0; 240];
        optional[..2].copy_from_slice(&0x20b_u16.to_le_bytes());
        optional[108] = 16;
        bytes.extend(optional);
        for (name, in_memory, in_file, start) in sections {
            let mut header = [0; 40];
            header[..name.len()].copy_from_slice(name.as_bytes());
            for (at, number) in [(8, in_memory), (16, in_file), (20, start)] {
                header[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
            bytes.extend(header);
        }
        bytes
    }

    #[test]
    fn sections_are_found_where_they_are() {
        let start = headers(&[
            (".osrel", 9, 512, 0x400),
            (".cmdline", 20, 512, 0x600),
            (".initrd", 5000, 0x1400, 0x800),
            (".linux", 600, 1024, 0x2000),
        ]);
        let image = parse(&start, 0x2400).unwrap();
        assert_eq!((image.linux, image.initrds.len()), (0x2000..0x2258, 1));
        assert_eq!(image.initrds[0], 0x800..0x1b88);
        assert_eq!((image.command_line, image.description), (Some(0x600..0x614), Some(0x400..0x409)));
    }

    #[test]
    fn sections_that_make_no_sense_are_named() {
        let error = parse(&headers(&[(".linux", u32::MAX, u32::MAX, u32::MAX)]), 0x1000).unwrap_err();
        assert!(matches!(error, UnifiedError::Beyond { name: ".linux", .. }), "{error}");
        assert_eq!(parse(&headers(&[(".text", 1, 1, 1)]), 99), Err(UnifiedError::Lacks(".linux")));
        let mut many = headers(&[(".linux", 1, 1, 1)]);
        many[64 + 6..64 + 8].copy_from_slice(&u16::MAX.to_le_bytes());
        assert!(matches!(parse(&many, 1 << 20), Err(UnifiedError::Program(_))));
        assert!(matches!(parse(b"#!/bin/sh", 9), Err(UnifiedError::Program(_))));
    }

    #[test]
    fn texts_in_sections_lose_what_pads_them() {
        assert_eq!(command_line(b"root=/dev/vda1 quiet\n\0\0\xff"), "root=/dev/vda1 quiet");
        assert_eq!(
            os_release("NAME=x\nID=debian\nPRETTY_NAME=\"Debian 12\"", "PRETTY_NAME"),
            Some("Debian 12")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_image_or_an_error(mut bytes: Vec<u8>, sections in proptest::collection::vec((0..5usize, any::<u32>(), any::<u32>(), any::<u32>()), 0..6), size: u64) {
            let _ = parse(&bytes, size);
            let names = [".linux", ".initrd", ".cmdline", ".osrel", ".text"];
            let sections: Vec<_> = sections.iter().map(|(name, a, b, c)| (names[*name], *a, *b, *c)).collect();
            let mut image = headers(&sections);
            image.append(&mut bytes);
            if let Ok(image) = parse(&image, size) {
                prop_assert!(image.linux.end <= size && image.initrds.iter().all(|range| range.end <= size));
            }
        }
    }
}
