//! Disks that are damaged, or made to do damage: an error that names what is wrong, in bounded time and memory.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;

use crate::image::{Tree, ext4, fat, gpt, run};
use crate::kernel::{bzimage, fake, noise};
use crate::layout::{LAYOUTS, UUID};
use crate::loading::{start, volume};

/// Nothing takes as long as this, even where tests share the machine.
const LIMIT: Duration = Duration::from_secs(20);

fn said(disk: &Path) -> String {
    let begun = Instant::now();
    let (said, loaded, _) = start(&volume(disk));
    assert!(loaded.is_none(), "{said}");
    assert!(begun.elapsed() < LIMIT, "{said}");
    said
}

fn overwrite(disk: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(disk).unwrap().write_all_at(bytes, at).unwrap();
}

fn bytes(disk: &Path, at: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    File::open(disk).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

fn grub_disk(folder: &Path) -> PathBuf {
    LAYOUTS[4].1(folder, &fake(folder))
}

#[test]
fn a_gpt_with_a_damaged_header_is_read_from_its_copy() {
    let folder = TempDir::new().unwrap();
    let disk = grub_disk(folder.path());
    overwrite(&disk, 512 + 16, b"????");
    assert!(start(&volume(&disk)).1.is_some());
    let end = fs::metadata(&disk).unwrap().len();
    overwrite(&disk, end - 512 + 16, b"????");
    assert_eq!(
        said(&disk),
        "vda: its GPT is damaged, and so is the copy of it: its header's checksum is wrong.\nvda: nothing to start.\n"
    );
}

#[test]
fn a_gpt_with_absurd_entries_is_refused() {
    let folder = TempDir::new().unwrap();
    let disk = grub_disk(folder.path());
    let end = fs::metadata(&disk).unwrap().len();
    for at in [512, end - 512] {
        let mut header = bytes(&disk, at, 92);
        header[80..88].copy_from_slice(&[0xff; 8]);
        header[16..20].fill(0);
        let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        overwrite(&disk, at, &header);
    }
    assert!(said(&disk).contains("it has 4294967295 entries of 4294967295 bytes."));
}

#[test]
fn partitions_beyond_the_disk_are_left_out() {
    let folder = TempDir::new().unwrap();
    let esp = fat(folder.path(), "esp", 12, &Tree::new().with("/x", ""));
    let disk = gpt(folder.path(), "disk", &[(&esp, "ef00"), (&esp, "ef00")]);
    let end = fs::metadata(&disk).unwrap().len();
    File::options().write(true).open(&disk).unwrap().set_len(end / 2).unwrap();
    assert_eq!(said(&disk), "vda: nothing to start.\n");
}

#[test]
fn of_very_many_partitions_the_first_are_looked_at() {
    let folder = TempDir::new().unwrap();
    let part = fat(folder.path(), "part", 12, &Tree::new().with("/x", ""));
    let disk = gpt(folder.path(), "disk", &[(part.as_path(), "8300"); 40]);
    assert_eq!(said(&disk), "vda13 and what follows is not looked at.\nvda: nothing to start.\n");
}

#[test]
fn links_that_lead_nowhere_come_to_an_end() {
    let folder = TempDir::new().unwrap();
    let tree = Tree::new()
        .with_link("/boot", "boot")
        .with_link("/loader", "loop/loader")
        .with_link("/loop", "loop/loop")
        .with_link("/extlinux", "../../extlinux/../extlinux/")
        .with_link("/vmlinuz", "vmlinuz/../vmlinuz");
    let said = said(&ext4(folder.path(), "disk", UUID, &tree, &[]));
    assert!(
        said.contains(
            "vda/boot/grub/grub.cfg: its file system is damaged: too many levels of symbolic links."
        ),
        "{said}"
    );
}

#[test]
fn directories_and_links_of_absurd_sizes_are_not_looked_into() {
    let folder = TempDir::new().unwrap();
    let long = format!("/{}", "x".repeat(200));
    let tree = Tree::new().with("/boot/x", "").with_link("/extlinux.conf", &long);
    let disk = ext4(folder.path(), "disk", UUID, &tree, &["-O", "^metadata_csum"]);
    for (path, bytes) in [("/boot", 1_u64 << 33), ("/extlinux.conf", 1 << 33)] {
        run("debugfs", &["-w", "-R", &format!("sif {path} size {bytes}"), disk.to_str().unwrap()]);
    }
    let said = said(&disk);
    assert!(said.contains("directory /boot is 8589934592 bytes long."), "{said}");
    assert!(said.contains("link /extlinux.conf is 8589934592 bytes long."), "{said}");
}

#[test]
fn an_ext4_directory_that_is_its_own_subdirectory_is_no_trap() {
    let folder = TempDir::new().unwrap();
    let disk = ext4(folder.path(), "disk", UUID, &Tree::new().with("/boot/x", ""), &[]);
    run("debugfs", &["-w", "-R", "link /boot /boot/grub", disk.to_str().unwrap()]);
    assert_eq!(said(&disk), "vda: nothing to start.\n");
}

#[test]
fn extents_that_point_to_themselves_are_an_error() {
    let folder = TempDir::new().unwrap();
    let disk = ext4(
        folder.path(),
        "disk",
        UUID,
        &Tree::new().with("/extlinux.conf", "x"),
        &["-b", "4096", "-O", "^metadata_csum"],
    );
    // The tree's root becomes an inner node of depth 1 whose child is a block that holds a copy of it.
    let node = [0x0a, 0xf3, 1, 0, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x06, 0, 0, 0, 0, 0, 0];
    overwrite(&disk, 0x640 * 4096, &node);
    for (word, value) in [
        ("block[0]", 0x1_f30a),
        ("block[1]", 0x1_0004),
        ("block[2]", 0),
        ("block[3]", 0),
        ("block[4]", 0x640),
        ("block[5]", 0),
    ] {
        run(
            "debugfs",
            &["-w", "-R", &format!("sif /extlinux.conf {word} {value:#x}"), disk.to_str().unwrap()],
        );
    }
    assert!(
        said(&disk).contains(
            "vda/extlinux.conf: its file system is damaged: corrupt filesystem: extent in inode 12"
        )
    );
}

#[test]
fn an_ext4_that_claims_more_than_its_volume_is_refused() {
    let folder = TempDir::new().unwrap();
    let disk = ext4(folder.path(), "disk", UUID, &Tree::new().with("/x", ""), &["-O", "^metadata_csum"]);
    overwrite(&disk, 1024 + 4, &u32::MAX.to_le_bytes());
    assert!(said(&disk).contains("it claims 4294967295 blocks of "));
}

#[test]
fn a_chain_of_clusters_that_is_a_ring_is_an_error() {
    let folder = TempDir::new().unwrap();
    let content = [b"label a\nlinux /k\nappend ".as_slice(), &[b'x'; 100_000]].concat();
    let disk = fat(folder.path(), "disk", 16, &Tree::new().with("/extlinux.conf", content).with("/k", "x"));
    // Every entry of both tables leads back to cluster 2; file and directory are cut by their sizes alone.
    let boot = bytes(&disk, 0, 512);
    let sectors = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let table = [2, 0].repeat(usize::try_from(2 * sectors(22) * 512 / 2).unwrap());
    overwrite(&disk, sectors(14) * 512, &table);
    assert!(said(&disk).contains("/k: it is no bzImage."));
}

#[test]
fn a_unified_kernel_whose_sections_lie_beyond_it_is_told_and_skipped() {
    let folder = TempDir::new().unwrap();
    let os = fake(folder.path());
    let image = crate::image::unified(folder.path(), &os.kernel, &os.initrd, "");
    let half = fs::metadata(&image).unwrap().len() / 2;
    File::options().write(true).open(&image).unwrap().set_len(half).unwrap();
    let disk = fat(folder.path(), "disk", 32, &Tree::new().with_copy("/EFI/Linux/a.efi", &image));
    let said = said(&disk);
    assert!(said.starts_with("vda/EFI/Linux/a.efi: its section ."), "{said}");
}

#[test]
fn an_unclean_ext4_is_read_with_what_its_journal_holds() {
    let folder = TempDir::new().unwrap();
    let tree = Tree::new().with("/k", bzimage(&noise(1 << 20, 3)));
    let disk = ext4(folder.path(), "disk", UUID, &tree, &["-b", "4096"]);
    // What is written is in the journal alone, as after a power cut.
    let menu = folder.path().join("menu");
    fs::write(&menu, "label a\nlinux /k\n").unwrap();
    let changed = folder.path().join("changed");
    fs::copy(&disk, &changed).unwrap();
    run(
        "debugfs",
        &["-w", "-R", &format!("write {} extlinux.conf", menu.display()), changed.to_str().unwrap()],
    );
    let differing = differing_blocks(&disk, &changed);
    let blocks: Vec<String> = differing.iter().map(|block| block.to_string()).collect();
    let data = folder.path().join("blocks");
    let content: Vec<u8> = differing.iter().flat_map(|block| bytes(&changed, block * 4096, 4096)).collect();
    fs::write(&data, content).unwrap();
    let script = folder.path().join("script");
    let journal = format!("jo -c\njw -b {} {}\njc\n", blocks.join(","), data.display());
    fs::write(&script, journal).unwrap();
    run("debugfs", &["-w", "-f", script.to_str().unwrap(), disk.to_str().unwrap()]);
    let (said, loaded, _) = start(&volume(&disk));
    assert!(loaded.is_some(), "{said}");
}

fn differing_blocks(one: &Path, other: &Path) -> Vec<u64> {
    let (one, other) = (fs::read(one).unwrap(), fs::read(other).unwrap());
    let pairs = (0..).zip(one.chunks(4096).zip(other.chunks(4096)));
    pairs.filter(|(_, (one, other))| one != other).map(|(block, _)| block).collect()
}

/// A disk in memory with some of its bytes changed, most of them where tables are.
fn damaged(content: &[u8], damage: &[(u32, u8)]) -> String {
    let mut content = content.to_vec();
    for (at, byte) in damage {
        let at = *at as usize % content.len();
        content[at] = *byte;
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("damaged");
    fs::write(&path, content).unwrap();
    let begun = Instant::now();
    let (said, _, _) = start(&volume(&path));
    assert!(begun.elapsed() < LIMIT, "{said}");
    said
}

#[test]
fn damage_anywhere_is_an_error_or_goes_unnoticed() {
    let folder = TempDir::new().unwrap();
    let tree = || {
        Tree::new()
            .with("/boot/grub/grub.cfg", "menuentry a {\nlinux /k\n}\n")
            .with("/loader/entries/a.conf", "linux /k\n")
            .with("/k", bzimage(&noise(4096, 3)))
    };
    let disks = [
        fat(folder.path(), "fat12", 12, &tree()),
        fat(folder.path(), "fat16", 16, &tree()),
        ext4(folder.path(), "ext4", UUID, &tree(), &["-O", "^metadata_csum", "-N", "64"]),
        ext4(
            folder.path(),
            "ext2",
            UUID,
            &tree(),
            &["-O", "^has_journal,^extents,^metadata_csum,^64bit", "-N", "64"],
        ),
    ];
    for disk in disks {
        let content = fs::read(&disk).unwrap();
        // What is zero is free space, where damage is none.
        let used: Vec<u32> = (0..).zip(&content).filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
        let used = proptest::sample::select(used);
        let damage = proptest::collection::vec((used, any::<u8>()), 1..12);
        let mut runner =
            TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
        let run = runner.run(&damage, |damage| {
            damaged(&content, &damage);
            Ok(())
        });
        run.unwrap();
    }
}
