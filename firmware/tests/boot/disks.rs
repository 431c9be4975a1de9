//! Disks of all kinds, read as the firmware reads them.

use std::fs;
use std::path::Path;

use sublet_firmware::filesystem::{FileError, mount, read_all};
use tempfile::TempDir;

use crate::image::{Tree, ext4, fat, mbr};
use crate::kernel::{bzimage, fake, noise};
use crate::layout::{LAYOUTS, UUID};
use crate::loading::{start, volume};

#[test]
fn every_kind_of_disk_is_loaded_byte_by_byte() {
    for (name, layout) in LAYOUTS {
        let folder = TempDir::new().unwrap();
        let os = fake(folder.path());
        let (said, loaded, memory) = start(&volume(&layout(folder.path(), &os)));
        let loaded = loaded.unwrap_or_else(|| panic!("{name}: {said}"));
        let system = &fs::read(&os.kernel).unwrap()[2048..];
        assert_eq!(loaded.entry, (16 << 20) + 0x200, "{name}");
        assert!(&memory.0[16 << 20..][..system.len()] == system, "{name}");
        let (initrd, page) = (fs::read(&os.initrd).unwrap(), &memory.0[2 << 20..]);
        let number = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(number(0x21c), initrd.len(), "{name}");
        assert!(memory.0[number(0x218)..][..initrd.len()] == initrd, "{name}");
        assert!(loaded.command_line.ends_with(" sublet.nonce=7"), "{name}: {}", loaded.command_line);
        let line = &memory.0[number(0x228)..][..loaded.command_line.len() + 1];
        assert_eq!(line, [loaded.command_line.as_bytes(), &[0]].concat(), "{name}");
    }
}

#[test]
fn a_root_is_named_where_only_links_say_what_there_is() {
    let folder = TempDir::new().unwrap();
    let disk = LAYOUTS[6].1(folder.path(), &fake(folder.path()));
    let loaded = start(&volume(&disk)).1.unwrap();
    assert_eq!(loaded.command_line, format!("root=UUID={UUID} ro console=ttyS0 sublet.nonce=7"));
}

#[test]
fn what_cannot_be_started_is_told_and_the_next_is_tried() {
    let folder = TempDir::new().unwrap();
    let menu = "label a\nlinux /cut\nlabel b\nlinux /gone\nlabel c\nlinux /script\nlabel d\nlinux /whole\ninitrd /whole,/whole\n";
    let whole = bzimage(&noise(1 << 20, 3));
    let tree = Tree::new()
        .with("/extlinux/extlinux.conf", menu)
        .with("/cut", &whole[..whole.len() / 2])
        .with("/script", "#!/bin/sh")
        .with("/whole", &whole);
    let (said, loaded, _) = start(&volume(&ext4(folder.path(), "disk", UUID, &tree, &[])));
    let lines: Vec<_> = said.lines().collect();
    let expected = [
        "vda/cut: a",
        "vda: /cut: it is cut short: 525312 of 1050624 bytes.",
        "vda/gone: b",
        "vda: /gone: it is not there.",
        "vda/script: c",
        "vda: /script: it is no bzImage.",
        "vda/whole: d",
    ];
    assert_eq!(lines, expected);
    assert_eq!(loaded.unwrap().initrd_bytes, 2 * whole.len() as u64);
}

#[test]
fn an_initrd_that_does_not_fit_into_memory_is_refused() {
    let folder = TempDir::new().unwrap();
    let tree = Tree::new()
        .with("/extlinux/extlinux.conf", "label a\nlinux /k\ninitrd /big\n")
        .with("/k", bzimage(&noise(1 << 20, 3)))
        .with("/big", "");
    fs::File::options().write(true).open(format!("{}/big", tree.path())).unwrap().set_len(300 << 20).unwrap();
    let disk = ext4(folder.path(), "disk", UUID, &tree, &[]);
    let (said, loaded, _) = start(&volume(&disk));
    assert!(loaded.is_none());
    assert!(
        said.contains("the initrd's 314572800 bytes do not fit into memory beside the kernel."),
        "{said}"
    );
}

#[test]
fn a_seed_disk_is_skipped() {
    let folder = TempDir::new().unwrap();
    let seed = fat(
        folder.path(),
        "seed",
        12,
        &Tree::new().with("/user-data", "#cloud-config").with("/meta-data", ""),
    );
    let (said, loaded, _) = start(&volume(&seed));
    assert!(loaded.is_none());
    assert_eq!(said, "vda: nothing to start.\n");
}

#[test]
fn partitions_within_an_extended_one_are_found() {
    let folder = TempDir::new().unwrap();
    let empty = |name: &str| fat(folder.path(), name, 12, &Tree::new().with("/x", name));
    let parts: Vec<_> = ["1", "2", "3", "5", "6"].iter().map(|name| empty(name)).collect();
    let parts: Vec<(&Path, &str)> = parts.iter().map(|path| (path.as_path(), "83")).collect();
    let disk = volume(&mbr(folder.path(), "disk", &parts));
    let partitions = sublet_firmware::partition::partitions(&disk).unwrap();
    let names: Vec<_> = partitions.iter().map(|partition| partition.grub_name.as_str()).collect();
    assert_eq!(names, ["msdos1", "msdos2", "msdos3", "msdos5", "msdos6"]);
    for partition in &partitions {
        let files = mount(&partition.volume).unwrap().unwrap();
        let content = read_all(&*files, "/x", 10).unwrap();
        assert_eq!(content, partition.number.unwrap().to_string().as_bytes());
    }
}

#[test]
fn every_fat_is_read_with_long_names_whatever_their_case() {
    for bits in [12, 16, 32] {
        let folder = TempDir::new().unwrap();
        let mut tree =
            Tree::new().with("/loader/A rather long name, with ümlauts.conf", "long").with("/SHORT.TXT", "s");
        for number in 0..200 {
            tree = tree.with(&format!("/many/file number {number}"), number.to_string());
        }
        let content = noise(300_001, 5);
        let tree = tree.with("/many/deep/er/content", &content);
        let files = mount(&volume(&fat(folder.path(), "fat", bits, &tree))).unwrap().unwrap();
        assert_eq!((files.kind(), files.uuid(), files.label()), ("FAT", "1234-ABCD", "TEST"));
        assert_eq!(read_all(&*files, "/LOADER/a rather long name, with ümlauts.CONF", 9).unwrap(), b"long");
        assert_eq!(read_all(&*files, "/short.txt", 9).unwrap(), b"s");
        assert!(read_all(&*files, "/many/deep/er/content", 1 << 20).unwrap() == content);
        let names = files.list("/many").unwrap();
        assert!((0..200).all(|number| names.contains(&format!("file number {number}"))));
        assert_eq!(files.open("/many").err(), Some(FileError::NotAFile));
        assert_eq!(files.open("/many/no").err(), Some(FileError::NotFound));
        assert_eq!(files.open("/short.txt/no").err(), Some(FileError::NotADirectory));
        assert_eq!(
            read_all(&*files, "/many/deep/er/content", 9),
            Err(FileError::TooLarge { bytes: 300_001, limit: 9 })
        );
    }
}

#[test]
fn ext4_is_read_with_holes_links_and_large_directories() {
    for options in
        [&[][..], &["-b", "1024"], &["-O", "^extents,^has_journal,^64bit"], &["-O", "^metadata_csum,^64bit"]]
    {
        let folder = TempDir::new().unwrap();
        let mut tree = Tree::new()
            .with_link("/link", "many/../deep/er")
            .with_link("/deep/er/absolute", "/deep/er/content");
        for number in 0..600 {
            tree = tree.with(&format!("/many/file number {number}"), number.to_string());
        }
        let mut content = noise(3 << 20, 5);
        content[100_000..200_000].fill(0);
        let tree = tree.with("/deep/er/content", &content);
        let disk = ext4(folder.path(), "disk", UUID, &tree, options);
        let files = mount(&volume(&disk)).unwrap().unwrap();
        assert_eq!((files.kind(), files.uuid()), ("ext4", UUID));
        assert!(read_all(&*files, "/link/absolute", 4 << 20).unwrap() == content);
        assert_eq!(read_all(&*files, "/many/file number 599", 9).unwrap(), b"599");
        assert!(files.list("/many").unwrap().len() >= 600);
        assert_eq!(files.open("/many").err(), Some(FileError::NotAFile));
        assert_eq!(files.open("/many/no").err(), Some(FileError::NotFound));
    }
}
