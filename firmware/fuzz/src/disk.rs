//! A whole disk: its partitions, file systems, menus, and what they lead to.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use sublet_firmware::boot::boot;
use sublet_firmware::disk::{Disk, DiskError, Volume};
use sublet_firmware::load::{Ram, Room};
use sublet_firmware::machine::{Entry, Machine};
use sublet_firmware::memory::{Kind, Range};
use tempfile::TempDir;

use crate::{Seed, kernel};

const MIB: u64 = 1 << 20;
const ROOM: Room = Room { firmware: MIB..2 * MIB, tables: MIB };
/// Longest piece of memory that is really there: the rest is promised, as the machine's map has it.
const REGION_MAX: usize = 4 << 20;
/// Lines of one disk: bounded, as everything that is read of it.
const SAID_MAX: usize = 1 << 20;

struct Bytes(Vec<u8>);

impl Disk for Bytes {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let start = usize::try_from(start).unwrap();
        into.copy_from_slice(&self.0[start..start + into.len()]);
        Ok(())
    }
}

struct Scratch(Vec<u8>);

impl Ram for Scratch {
    fn region(&mut self, start: u64, bytes: u64) -> Option<&mut [u8]> {
        assert!(start >= MIB && start + bytes <= 256 * MIB, "memory at {start:#x} is asked for");
        self.0.get_mut(..usize::try_from(bytes).unwrap())
    }
}

pub fn run(input: &[u8]) {
    let mut bytes = input.to_vec();
    bytes.resize(input.len().next_multiple_of(512), 0);
    let disk = Volume::whole(Box::new(Bytes(bytes)));
    let map = vec![Range { start: MIB, bytes: 255 * MIB, kind: Kind::Ram }];
    let machine = Machine { entry: Entry::Pvh(0), command_line: String::new(), rsdp: None, map };
    let mut said = String::new();
    let _ = boot(&mut said, "vda", &disk, &machine, &ROOM, &mut Scratch(vec![0; REGION_MAX]));
    assert!(said.len() < SAID_MAX, "it says {} bytes", said.len());
}

/// Runs a program of the system's on a file.
fn make(program: &str, arguments: &[&str]) {
    let status = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

fn image(folder: &Path, bytes: usize, tools: &[(&str, &[&str])]) -> Vec<u8> {
    let path = folder.join("image");
    fs::write(&path, vec![0; bytes]).unwrap();
    for (program, arguments) in tools {
        let path = path.to_str().unwrap();
        let arguments: Vec<&str> =
            arguments.iter().map(|word| if *word == "IMAGE" { path } else { word }).collect();
        make(program, &arguments);
    }
    fs::read(path).unwrap()
}

/// File systems of every kind with a menu of every kind and a kernel, each as small as it can be; one in a GPT.
pub fn seeds() -> Vec<Seed> {
    let folder = TempDir::new().unwrap();
    let tree = folder.path().join("tree");
    for (path, content) in [
        ("boot/grub/grub.cfg", "menuentry a {\nlinux /k\n}\n".as_bytes()),
        ("loader/entries/a.conf", b"linux /no\n"),
        ("extlinux/extlinux.conf", b"label a\nlinux /none\n"),
        ("k", &kernel::bzimage(512)),
    ] {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let (top, from) = (tree.to_str().unwrap(), |name: &str| tree.join(name).display().to_string());
    let parts = ["boot", "loader", "extlinux", "k"].map(from);
    let copy = ["-s", "-Q", "-i", "IMAGE", &parts[0], &parts[1], &parts[2], &parts[3], "::/"];
    let ext4 = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "1024",
        "-N",
        "32",
        "-O",
        "^metadata_csum,^has_journal,^resize_inode",
        "-d",
        top,
        "IMAGE",
    ];
    let ext2 =
        ["-q", "-F", "-t", "ext2", "-b", "1024", "-N", "32", "-O", "^resize_inode", "-d", top, "IMAGE"];
    let fat12 = image(
        folder.path(),
        64 << 10,
        &[("mkfs.vfat", &["-F", "12", "-r", "16", "-s", "1", "IMAGE"]), ("mcopy", &copy)],
    );
    let mut gpt = image(folder.path(), 112 << 10, &[("sgdisk", &["-a", "1", "-n", "1:40:167", "IMAGE"])]);
    gpt[40 * 512..][..fat12.len()].copy_from_slice(&fat12);
    vec![
        ("ext4", image(folder.path(), 64 << 10, &[("mke2fs", &ext4)])),
        ("ext2", image(folder.path(), 64 << 10, &[("mke2fs", &ext2)])),
        ("fat12", fat12),
        ("gpt", gpt),
    ]
}
