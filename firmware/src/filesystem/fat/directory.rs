//! Entries of a FAT directory, 32 bytes each; a long name is spread over entries before the one that it belongs to.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::Run;
use crate::disk::Volume;
use crate::filesystem::FileError;

const ENTRY_BYTES: usize = 32;
const END: u8 = 0;
const DELETED: u8 = 0xe5;
/// Stands for a first letter 0xe5.
const KANJI: u8 = 0x05;
const ATTRIBUTES: usize = 11;
const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
const ATTRIBUTES_LONG_NAME: u8 = 0x0f;
/// Windows NT: which parts of a short name are in small letters.
const CASE: usize = 12;
const CASE_NAME: u8 = 0x08;
const CASE_EXTENSION: u8 = 0x10;
/// A long name's entries come last part first; that one has this bit.
const LAST_PART: u8 = 0x40;
const PARTS_LIMIT: u8 = 20;
/// Letters of a long name in one entry.
const PART_LETTERS: usize = 13;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) is_directory: bool,
    pub(super) cluster: u32,
    pub(super) bytes: u64,
}

/// A long name whose last parts have been read.
struct LongName {
    letters: Vec<u16>,
    checksum: u8,
    /// Number of the part that must come next.
    next: u8,
}

/// The first `limit` entries of a directory that lies in `runs`.
pub(super) fn entries(volume: &Volume, runs: &[Run], limit: usize) -> Result<Vec<Entry>, FileError> {
    let (mut found, mut long_name) = (Vec::new(), None);
    for run in runs {
        let mut bytes = vec![0; usize::try_from(run.bytes).unwrap_or(0)];
        volume.read(run.start, &mut bytes)?;
        for raw in bytes.as_chunks::<ENTRY_BYTES>().0 {
            if raw[0] == END || found.len() == limit {
                return Ok(found);
            }
            found.extend(take(raw, &mut long_name));
        }
    }
    Ok(found)
}

/// What an entry on the disk comes to: something in the directory, or part of a name, or nothing.
fn take(raw: &[u8; ENTRY_BYTES], long_name: &mut Option<LongName>) -> Option<Entry> {
    if raw[0] != DELETED && raw[ATTRIBUTES] == ATTRIBUTES_LONG_NAME {
        *long_name = part(raw, long_name.take());
        return None;
    }
    let long_name = long_name.take();
    if raw[0] == DELETED || raw[ATTRIBUTES] & ATTRIBUTE_VOLUME != 0 {
        return None;
    }
    let short = |at: usize| u32::from(u16::from_le_bytes([raw[at], raw[at + 1]]));
    let fits = |name: &LongName| name.next == 0 && name.checksum == checksum(raw);
    let name = long_name.filter(fits).map_or_else(|| short_name(raw), |name| text(&name.letters));
    Some(Entry {
        name,
        is_directory: raw[ATTRIBUTES] & ATTRIBUTE_DIRECTORY != 0,
        cluster: short(20) << 16 | short(26),
        bytes: u64::from(short(30) << 16 | short(28)),
    })
}

fn part(raw: &[u8; ENTRY_BYTES], before: Option<LongName>) -> Option<LongName> {
    let (number, checksum) = (raw[0] & !LAST_PART, raw[13]);
    let mut name = match before {
        _ if raw[0] & LAST_PART != 0 => {
            let parts = Some(number).filter(|parts| (1..=PARTS_LIMIT).contains(parts))?;
            LongName { letters: vec![0; usize::from(parts) * PART_LETTERS], checksum, next: parts }
        }
        before => before?,
    };
    if number != name.next || number == 0 || checksum != name.checksum {
        return None;
    }
    let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
    let start = usize::from(number - 1) * PART_LETTERS;
    for (letter, at) in name.letters[start..].iter_mut().zip(places) {
        *letter = u16::from_le_bytes([raw[at], raw[at + 1]]);
    }
    name.next -= 1;
    Some(name)
}

/// Of the short name, by which a long name is known to be its own.
fn checksum(raw: &[u8; ENTRY_BYTES]) -> u8 {
    raw[..11].iter().fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte))
}

fn text(letters: &[u16]) -> String {
    let end = letters.iter().position(|letter| *letter == 0).unwrap_or(letters.len());
    String::from_utf16_lossy(&letters[..end])
}

fn short_name(raw: &[u8; ENTRY_BYTES]) -> String {
    let part = |bytes: &[u8], is_small: bool| -> String {
        let letter = |byte: &u8| if is_small { byte.to_ascii_lowercase() } else { *byte };
        bytes.trim_ascii_end().iter().map(letter).map(char::from).collect()
    };
    let mut base = [b' '; 8];
    base.copy_from_slice(&raw[..8]);
    if base[0] == KANJI {
        base[0] = DELETED;
    }
    let mut name = part(&base, raw[CASE] & CASE_NAME != 0);
    let extension = part(&raw[8..11], raw[CASE] & CASE_EXTENSION != 0);
    if !extension.is_empty() {
        name.push('.');
        name.push_str(&extension);
    }
    name
}
