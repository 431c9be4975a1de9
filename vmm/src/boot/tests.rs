use std::{fs, path::PathBuf};

use linux_loader::loader::bootparam::boot_params;

use super::*;

const MIB: u64 = 1 << 20;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// An ELF file with one segment of 16 bytes at 16 MiB, entered there.
    fn elf(&self) -> PathBuf {
        self.file("vmlinux", &elf(0x100_0000, 16, 1))
    }
}

fn elf(address: u64, memory_bytes: u64, headers: u16) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(address.to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend([0; 8 + 4]);
    file.extend([64, 0, 56, 0]);
    file.extend(headers.to_le_bytes());
    file.extend([0; 6]);
    for word in [5 << 32 | 1, 120, address, address, 16, memory_bytes, 0x1000] {
        file.extend(u64::to_le_bytes(word));
    }
    file.extend(*b"0123456789abcdef");
    file
}

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), 32 * MIB as usize)]).unwrap()
}

fn source(kernel: PathBuf, initrd: Option<PathBuf>) -> BootSource {
    BootSource { kernel, initrd, command_line: "console=ttyS0".into() }
}

fn refusal(source: &BootSource) -> String {
    crate::daemon::with_causes(&load(&memory(), source, 1).unwrap_err())
}

#[test]
fn an_elf_kernel_is_entered_where_it_says_with_all_it_needs_in_place() {
    let (files, memory) = (Files::new(), memory());
    let initrd = files.file("initrd", &[7; 5000]);
    let entry = load(&memory, &source(files.elf(), Some(initrd)), 2).unwrap();
    assert_eq!(entry, EntryPoint { address: 0x100_0000 });
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x100_0000)).unwrap(), b'0');

    let params: boot_params = memory.read_obj(GuestAddress(layout::ZERO_PAGE_START)).unwrap();
    let (start, size) = (params.hdr.ramdisk_image, params.hdr.ramdisk_size);
    assert_eq!((size, u64::from(start) % PAGE_SIZE), (5000, 0));
    assert_eq!(memory.read_obj::<u8>(GuestAddress(u64::from(start) + 4999)).unwrap(), 7);
    let mut line = [0; 14];
    memory.read_slice(&mut line, GuestAddress(params.hdr.cmd_line_ptr.into())).unwrap();
    assert_eq!(&line, b"console=ttyS0\0");
    let mut rsdp = [0; 8];
    memory.read_slice(&mut rsdp, GuestAddress(params.acpi_rsdp_addr)).unwrap();
    assert_eq!(&rsdp, b"RSD PTR ");
}

#[test]
fn what_is_wrong_is_named() {
    let files = Files::new();
    let text = files.file("text", &[b'x'; 4096]);
    assert!(refusal(&source(text, None)).contains("neither a bzImage nor"));
    let short = files.file("short", b"MZ");
    assert!(refusal(&source(short, None)).contains("cannot be read"));
    assert!(
        refusal(&source("/nonexistent/vmlinux".into(), None)).contains("kernel \"/nonexistent/vmlinux\"")
    );
    assert!(refusal(&source("/dev/null".into(), None)).contains("is not a file"));
    let missing = source(files.elf(), Some("/nonexistent/initrd".into()));
    assert!(refusal(&missing).contains("initrd \"/nonexistent/initrd\""));
}

#[test]
fn a_pipe_in_the_place_of_a_kernel_keeps_nobody_waiting() {
    let files = Files::new();
    let path = files.0.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(refusal(&source(path, None)).contains("is not a file"));
}

#[test]
fn what_does_not_fit_is_refused() {
    let files = Files::new();
    let large = files.file("large", &elf(0x100_0000, 64 * MIB, 1));
    assert!(refusal(&source(large, None)).contains("it needs memory up to"));
    let outside = files.file("outside", &elf(0xc000_0000, 16, 1));
    assert!(refusal(&source(outside, None)).contains("cannot be loaded"));
    let initrd = files.file("initrd", &vec![0; 17 * MIB as usize]);
    assert!(
        refusal(&source(files.elf(), Some(initrd))).contains("does not fit into memory beside the kernel")
    );
}

#[test]
fn a_kernel_that_would_be_read_a_thousand_times_is_refused() {
    let files = Files::new();
    let path = files.file("many", &elf(0x100_0000, 16, 1000));
    assert!(refusal(&source(path, None)).contains("1000 program headers"));
}

#[test]
fn command_lines_that_linux_would_cut_or_misread_are_refused() {
    let files = Files::new();
    let with = |line: &str| BootSource { command_line: line.into(), ..source(files.elf(), None) };
    assert!(refusal(&with(&"x".repeat(2048))).contains("2048 bytes long"));
    for line in ["a\0b", "a\nb", "ä"] {
        assert!(refusal(&with(line)).contains("command_line holds byte"), "{line:?}");
    }
    assert!(load(&memory(), &with(&"x".repeat(2047)), 1).is_ok());
}
