//! File systems and disks, made by the programs that make them everywhere (Debian: e2fsprogs, dosfstools, mtools, gdisk,
//! fdisk).

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Where the first partition begins, and what others are aligned to.
const PARTITION_ALIGNMENT: u64 = 1 << 20;

/// Runs a program of `/usr/sbin` or elsewhere to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let command = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("MTOOLS_SKIP_CHECK", "1")
        .stdin(Stdio::null())
        .output();
    let output = command.unwrap_or_else(|error| panic!("{program}: {error}; see tests/run.sh"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A folder whose files become those of a file system.
pub(crate) struct Tree(TempDir);

impl Tree {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn place(&self, path: &str) -> PathBuf {
        let place = self.0.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        place
    }

    pub(crate) fn with(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.place(path), content).unwrap();
        self
    }

    pub(crate) fn with_copy(self, path: &str, of: &Path) -> Self {
        fs::copy(of, self.place(path)).unwrap();
        self
    }

    pub(crate) fn with_link(self, path: &str, to: &str) -> Self {
        symlink(to, self.place(path)).unwrap();
        self
    }

    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    /// Bytes of a file system that all of it fits into.
    fn bytes(&self) -> u64 {
        let files: u64 = sizes(self.0.path()).sum();
        (files + files / 8 + (12 << 20)).next_multiple_of(PARTITION_ALIGNMENT)
    }
}

fn sizes(folder: &Path) -> Box<dyn Iterator<Item = u64>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    Box::new(entries.flat_map(|path| {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() { sizes(&path) } else { Box::new(std::iter::once(metadata.len())) }
    }))
}

/// A file of this length below a folder.
pub(crate) fn empty(folder: &Path, name: &str, bytes: u64) -> PathBuf {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}

/// An ext4 file system with this UUID and these files.
pub(crate) fn ext4(folder: &Path, name: &str, uuid: &str, tree: &Tree, options: &[&str]) -> PathBuf {
    let image = empty(folder, name, tree.bytes());
    let fixed = ["-q", "-F", "-t", "ext4", "-U", uuid, "-d", tree.path()];
    run("mke2fs", &[&fixed, options, &[image.to_str().unwrap()]].concat());
    image
}

/// A FAT of so many bits, with these files.
pub(crate) fn fat(folder: &Path, name: &str, bits: u8, tree: &Tree) -> PathBuf {
    let smallest = if bits == 32 { 40 << 20 } else { 1 << 20 };
    let bytes = if bits == 12 { 4 << 20 } else { tree.bytes().max(smallest) };
    let image = empty(folder, name, bytes);
    run("mkfs.vfat", &["-F", &bits.to_string(), "-i", "1234ABCD", "-n", "TEST", image.to_str().unwrap()]);
    let top = fs::read_dir(tree.path()).unwrap().map(|entry| entry.unwrap().path().display().to_string());
    let top: Vec<String> = top.collect();
    let top: Vec<&str> = top.iter().map(String::as_str).collect();
    run("mcopy", &[&["-s", "-Q", "-i", image.to_str().unwrap()], top.as_slice(), &["::/"]].concat());
    image
}

/// A disk with a GPT: file systems, and what each is for as sgdisk says it (`ef00`, `ea00`, `8304`).
pub(crate) fn gpt(folder: &Path, name: &str, partitions: &[(&Path, &str)]) -> PathBuf {
    let (disk, places) = disk(folder, name, partitions);
    let mut arguments = Vec::new();
    for (number, (first, last, kind)) in (1..).zip(&places) {
        arguments.extend([
            "-n".into(),
            format!("{number}:{first}:{last}"),
            "-t".into(),
            format!("{number}:{kind}"),
        ]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(disk.to_str()).collect();
    run("sgdisk", &arguments);
    disk
}

/// A disk with an MBR: file systems, and their kinds as numbers (`83`, `ef`). From the fourth on they are in an extended
/// partition where there are more than four.
pub(crate) fn mbr(folder: &Path, name: &str, partitions: &[(&Path, &str)]) -> PathBuf {
    let (disk, places) = disk(folder, name, partitions);
    let mut script = "label: dos\n".to_string();
    let extended = places.len() > 4;
    for (number, (first, last, kind)) in places.iter().enumerate() {
        if extended && number == 3 {
            script += &format!("start={}, type=5\n", first - PARTITION_ALIGNMENT / 1024);
        }
        script += &format!("start={first}, size={}, type={kind}\n", last - first + 1);
    }
    let table = folder.join(format!("{name}.sfdisk"));
    fs::write(&table, script).unwrap();
    run("sh", &["-c", &format!("sfdisk -q {} <{}", disk.display(), table.display())]);
    disk
}

type Places = Vec<(u64, u64, String)>;

/// A disk with the file systems in it, one after the other with a gap between, and where: first and last sector.
fn disk(folder: &Path, name: &str, partitions: &[(&Path, &str)]) -> (PathBuf, Places) {
    let path = folder.join(name);
    let mut disk = File::create(&path).unwrap();
    let (mut start, mut places) = (PARTITION_ALIGNMENT, Vec::new());
    for (image, kind) in partitions {
        let bytes = fs::metadata(image).unwrap().len().next_multiple_of(PARTITION_ALIGNMENT);
        copy_sparsely(image, &mut disk, start);
        places.push((start / 512, (start + bytes) / 512 - 1, (*kind).to_string()));
        start += bytes + PARTITION_ALIGNMENT;
    }
    disk.set_len(start + PARTITION_ALIGNMENT).unwrap();
    (path, places)
}

fn copy_sparsely(from: &Path, to: &mut File, start: u64) {
    let content = fs::read(from).unwrap();
    for (number, block) in (0..).zip(content.chunks(64 << 10)) {
        if block.iter().any(|byte| *byte != 0) {
            to.seek(SeekFrom::Start(start + number * (64 << 10))).unwrap();
            to.write_all(block).unwrap();
        }
    }
}

/// A unified kernel image, as systemd-stub(7) says to make one (Debian: systemd-boot-efi, binutils).
pub(crate) fn unified(folder: &Path, kernel: &Path, initrd: &Path, options: &str) -> PathBuf {
    let (image, line) = (folder.join("os.efi"), folder.join("cmdline"));
    fs::write(&line, options).unwrap();
    let sections = [
        (".osrel", Path::new("/etc/os-release"), 0x20000),
        (".cmdline", &line, 0x30000),
        (".linux", kernel, 0x200_0000),
        (".initrd", initrd, 0x800_0000),
    ];
    let mut arguments = Vec::new();
    for (name, file, address) in sections {
        arguments.extend(["--add-section".to_string(), format!("{name}={}", file.display())]);
        arguments.extend(["--change-section-vma".to_string(), format!("{name}={address:#x}")]);
    }
    arguments.extend(["/usr/lib/systemd/boot/efi/linuxx64.efi.stub".into(), image.display().to_string()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run("objcopy", &arguments);
    image
}
