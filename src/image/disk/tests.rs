use std::{fs, path::Path};

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::{
    domain::image::{chunks::CHUNK_BYTES, contents::Boot},
    image::{
        build::{About, Source, build},
        store::read_image,
    },
};

const CHUNK: usize = CHUNK_BYTES as usize;

/// What is at a place of a disk.
#[derive(Debug, Clone, Copy)]
enum Piece {
    /// Nothing was ever written here.
    Hole,
    /// Zeroes were.
    Zeroes,
    /// This byte, at an offset in the chunk.
    Data(u8, usize),
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        Just(Piece::Hole),
        Just(Piece::Zeroes),
        (1u8.., 0..512usize).prop_map(|(byte, at)| Piece::Data(byte, at))
    ]
}

/// A file with these pieces, a chunk each, and then some sectors; and what it reads as.
fn write_disk(path: &Path, pieces: &[Piece], sectors: usize) -> Vec<u8> {
    let length = (pieces.len() - 1) * CHUNK + sectors * 512;
    let (file, mut whole) = (File::create(path).unwrap(), vec![0; length]);
    file.set_len(length as u64).unwrap();
    for (chunk, piece) in pieces.iter().enumerate() {
        let start = chunk * CHUNK;
        let end = (start + CHUNK).min(length);
        match *piece {
            Piece::Hole => continue,
            Piece::Zeroes => {}
            Piece::Data(byte, at) => whole[start + at] = byte,
        }
        file.write_all_at(&whole[start..end], start as u64).unwrap();
    }
    whole
}

fn packed(root: &Path, pieces: &[Piece], sectors: usize) -> (Vec<u8>, Layout, Disk) {
    let raw = root.join("raw");
    let whole = write_disk(&raw, pieces, sectors);
    let layout = Layout::at(root.join("image"));
    let about = About {
        os: "none".to_owned(),
        architecture: "amd64".to_owned(),
        kernel_release: None,
        title: None,
        created: Timestamp::UNIX_EPOCH,
    };
    let built = build(&layout, None, about, &Source::Disk(raw), &mut |_, _| {}).unwrap();
    let Boot::Disk(disk) = read_image(&layout, built).unwrap().image.boot else { panic!("a disk") };
    (whole, layout, disk)
}

fn unpacked(disk: &PackedDisk) -> Vec<u8> {
    (0..disk.map().size().chunks()).flat_map(|chunk| disk.chunk(chunk).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_is_unpacked_as_it_was_and_zeroes_are_not_stored(
        pieces in proptest::collection::vec(piece(), 1..12),
        sectors in 1usize..=128,
    ) {
        let root = tempfile::tempdir().unwrap();
        let (whole, layout, about) = packed(root.path(), &pieces, sectors);
        let disk = PackedDisk::open(&layout, &about).unwrap();
        let unpacked = unpacked(&disk);
        prop_assert!(unpacked == whole, "it reads as it was");
        let chunk_is_data = |chunk: &&[u8]| chunk.iter().any(|byte| *byte != 0);
        let stored: usize = whole.chunks(CHUNK).filter(chunk_is_data).map(<[u8]>::len).sum();
        prop_assert_eq!(about.disk.size, stored as u64);
        prop_assert!(matches!(disk.chunk(pieces.len() as u64), Err(DiskError::NoChunk(_))));
    }

    #[test]
    fn a_chunk_with_a_wrong_byte_is_refused_by_itself_and_no_other_is(
        pieces in proptest::collection::vec(piece(), 1..8),
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let root = tempfile::tempdir().unwrap();
        let (_, layout, about) = packed(root.path(), &pieces, 128);
        prop_assume!(about.disk.size > 0);
        let path = root.path().join("image/blobs/sha256").join(about.disk.digest.hex());
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        fs::write(&path, bytes).unwrap();
        let disk = PackedDisk::open(&layout, &about).unwrap();
        for chunk in 0..about.size.chunks() {
            let is_hit = matches!(disk.map().place(chunk), Some(Place::Stored { offset, bytes })
                if (offset..offset + u64::from(bytes)).contains(&(at as u64)));
            let is_refused = matches!(disk.chunk(chunk), Err(DiskError::Damaged { chunk: found, .. }) if found == chunk);
            prop_assert_eq!(is_hit, is_refused);
        }
    }

    #[test]
    fn any_wrong_byte_of_the_list_of_chunks_is_refused_at_once(
        pieces in proptest::collection::vec(piece(), 1..8),
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let root = tempfile::tempdir().unwrap();
        let (_, layout, about) = packed(root.path(), &pieces, 128);
        let path = root.path().join("image/blobs/sha256").join(about.chunks.digest.hex());
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        fs::write(&path, bytes).unwrap();
        let is_refused = matches!(PackedDisk::open(&layout, &about), Err(DiskError::BadChunks(_)));
        prop_assert!(is_refused);
    }
}
