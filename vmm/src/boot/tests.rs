use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use linux_loader::loader::bootparam::boot_params;
use proptest::{collection::vec, prelude::*};

use super::*;

const MIB: u64 = 1 << 20;

struct Folder(tempfile::TempDir);

impl Folder {
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

fn source(has_initrd: bool) -> BootSource {
    BootSource { has_initrd, command_line: "console=ttyS0".into(), base: None }
}

fn descriptors(paths: &[&Path]) -> Vec<OwnedFd> {
    paths.iter().map(|path| File::open(path).unwrap().into()).collect()
}

fn files(kernel: &Path, initrd: Option<&Path>) -> Files {
    let paths: Vec<_> = [kernel].into_iter().chain(initrd).collect();
    Files::of(&source(initrd.is_some()), descriptors(&paths)).unwrap()
}

fn refusal(kernel: &Path, initrd: Option<&Path>) -> String {
    let files = files(kernel, initrd);
    crate::daemon::with_causes(&load(&memory(), &source(initrd.is_some()), files, 1).unwrap_err())
}

#[test]
fn an_elf_kernel_is_entered_where_it_says_with_all_it_needs_in_place() {
    let (folder, memory) = (Folder::new(), memory());
    let initrd = folder.file("initrd", &[7; 5000]);
    let entry = load(&memory, &source(true), files(&folder.elf(), Some(&initrd)), 2).unwrap();
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
fn a_kernel_that_is_none_is_told_so() {
    let folder = Folder::new();
    let text = folder.file("text", &[b'x'; 4096]);
    assert!(refusal(&text, None).contains("neither a bzImage nor"));
    let short = folder.file("short", b"MZ");
    assert!(refusal(&short, None).contains("cannot be read"));
}

#[test]
fn descriptors_are_counted_and_are_files() {
    let folder = Folder::new();
    let (kernel, null) = (folder.elf(), Path::new("/dev/null"));
    let told = |has_initrd, paths: &[&Path]| {
        Files::of(&source(has_initrd), descriptors(paths)).unwrap_err().to_string()
    };
    assert!(told(false, &[]).ends_with("not 0"));
    assert!(told(true, &[&kernel]).starts_with("2 descriptors must come"));
    assert!(told(false, &[&kernel, &kernel]).ends_with("not 2"));
    assert_eq!(told(false, &[null]), "the kernel is not a file");
    assert_eq!(told(true, &[&kernel, folder.0.path()]), "the initrd is not a file");
}

#[test]
fn files_are_read_from_their_start_wherever_their_sender_left_them() {
    let folder = Folder::new();
    let (mut kernel, mut initrd) =
        (File::open(folder.elf()).unwrap(), File::open(folder.file("i", &[7; 5000])).unwrap());
    std::io::Seek::seek(&mut kernel, std::io::SeekFrom::End(0)).unwrap();
    std::io::Seek::seek(&mut initrd, std::io::SeekFrom::Start(7)).unwrap();
    let files = Files::of(&source(true), vec![kernel.into(), initrd.into()]).unwrap();
    assert!(load(&memory(), &source(true), files, 1).is_ok());
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = Folder::new();
    let large = folder.file("large", &elf(0x100_0000, 64 * MIB, 1));
    assert!(refusal(&large, None).contains("it needs memory up to"));
    let outside = folder.file("outside", &elf(0xc000_0000, 16, 1));
    assert!(refusal(&outside, None).contains("cannot be loaded"));
    let initrd = folder.file("initrd", &vec![0; 17 * MIB as usize]);
    assert!(refusal(&folder.elf(), Some(&initrd)).contains("does not fit into memory beside the kernel"));
}

#[test]
fn a_kernel_that_would_be_read_a_thousand_times_is_refused() {
    let folder = Folder::new();
    let path = folder.file("many", &elf(0x100_0000, 16, 1000));
    assert!(refusal(&path, None).contains("1000 program headers"));
}

#[test]
fn a_kernel_with_more_in_its_file_than_it_takes_in_memory_is_refused() {
    let folder = Folder::new();
    let whole = folder.file("whole", &elf(0x100_0000, 16, 1));
    assert!(load(&memory(), &source(false), files(&whole, None), 1).is_ok());
    let reaching_beyond = folder.file("beyond", &elf(0x100_0000, 15, 1));
    assert!(refusal(&reaching_beyond, None).contains("16 bytes in the file that takes 15 bytes"));
}

#[test]
fn an_initrd_beside_a_kernel_of_nothing_still_lies_above_the_first_mebibyte() {
    let folder = Folder::new();
    let nothing = folder.file("nothing", &elf(0x100_0000, 16, 0));
    let low = folder.file("low", &vec![7; 31 * MIB as usize + 1]);
    let refused = refusal(&nothing, Some(&low));
    assert!(refused.contains("does not fit into memory beside the kernel"), "{refused}");
    let high = folder.file("high", &vec![7; 31 * MIB as usize]);
    assert!(load(&memory(), &source(true), files(&nothing, Some(&high)), 1).is_ok());
}

#[test]
fn command_lines_that_linux_would_cut_or_misread_are_refused() {
    let folder = Folder::new();
    let booted = |line: &str| {
        let source = BootSource { command_line: line.into(), ..source(false) };
        load(&memory(), &source, files(&folder.elf(), None), 1)
    };
    assert!(booted(&"x".repeat(2048)).unwrap_err().to_string().contains("2048 bytes long"));
    for line in ["a\0b", "a\nb", "ä"] {
        let told = booted(line).unwrap_err().to_string();
        assert!(told.contains("command_line holds byte"), "{line:?}");
    }
    assert!(booted(&"x".repeat(2047)).is_ok());
}

/// A bzImage's header over `rest`, with the fields that matter as given.
fn bzimage(setup_sectors: u8, version: u16, flags: u16, preferred: u64, needed: u32, rest: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x270];
    file[0x1f1] = setup_sectors;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&version.to_le_bytes());
    file[0x211] = 1;
    file[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    file[0x236..0x238].copy_from_slice(&flags.to_le_bytes());
    file[0x258..0x260].copy_from_slice(&preferred.to_le_bytes());
    file[0x260..0x264].copy_from_slice(&needed.to_le_bytes());
    file.extend(rest);
    file
}

#[test]
fn a_bzimage_is_entered_at_its_64_bit_entry_point() {
    let folder = Folder::new();
    let path = folder.file("vmlinuz", &bzimage(1, 0x20f, 1, 0x100_0000, 0x1000, &[9; 0x1000]));
    let entry = load(&memory(), &source(false), files(&path, None), 1).unwrap();
    assert_eq!(entry, EntryPoint { address: layout::HIGH_MEMORY_START + 0x200 });
}

#[test]
fn a_bzimage_without_a_64_bit_entry_point_or_without_room_is_refused() {
    let folder = Folder::new();
    let old = folder.file("old", &bzimage(1, 0x20f, 0, 0x100_0000, 0x1000, &[9; 0x1000]));
    assert!(refusal(&old, None).contains("has no 64-bit entry point"));
    for (preferred, needed) in [(0x100_0000, 0x200_0000), (u64::MAX, 1)] {
        let large = folder.file("large", &bzimage(1, 0x20f, 1, preferred, needed, &[9; 0x1000]));
        assert!(refusal(&large, None).contains("it needs memory up to"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn whatever_a_kernels_header_says_it_is_loaded_or_refused(
        is_elf in any::<bool>(),
        changes in vec((0usize..0x270, any::<u8>()), 0..12),
        words in vec(prop_oneof![any::<u64>(), 0u64..0x1000, Just(0x100_0000)], 14),
    ) {
        let folder = Folder::new();
        let mut file = bzimage(1, 0x20f, 1, 0x100_0000, 0x1000, &[9; 0x1000]);
        if is_elf {
            file = elf(0x100_0000, 16, 2);
            // Two program headers, the second one a note.
            file[64..120].copy_from_slice(words[..7].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>().as_slice());
            file.splice(120..120, words[7..].iter().flat_map(|word| word.to_le_bytes()));
            file[64] = 1;
            file[120] = 4;
        }
        for (at, byte) in changes {
            if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
        }
        let _ = load(&memory(), &source(false), files(&folder.file("kernel", &file), None), 1);
    }
}
