//! What a borrower's kernel, initrd and command line do to the loaders. An input is what the machine is given beside the
//! kernel, then the kernel itself.

use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use sublet_vmm::{
    arch::{layout, x86_64::registers::EntryPoint},
    boot::{self, BootError, Files},
};
use sublet_vmm_protocol::BootSource;
use vm_memory::{Bytes, GuestAddress};

use crate::{Seed, files::MemoryFile, guest::Guest};

/// Less memory than any machine has: less to clear each time.
const MEMORY_MIN_MIB: usize = 2;
const MEMORY_STEPS: usize = 24;
const MIB: usize = 1 << 20;
/// Longer than the memory.
const INITRD_BYTES_MAX: u32 = 32 << 20;

/// Where the zero page says of the initrd and of the command line (Documentation/arch/x86/boot.rst).
const RAMDISK_IMAGE: u64 = 0x218;
const RAMDISK_SIZE: u64 = 0x21c;
const COMMAND_LINE_POINTER: u64 = 0x228;

/// What is given beside the kernel.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Given {
    memory: u8,
    vcpus: u8,
    /// Length of the initrd.
    #[serde(with = "postcard::fixint::le")]
    initrd: u32,
    has_initrd: bool,
    command_line: String,
}

pub fn run(input: &[u8]) {
    let _ = play(input);
}

fn play(input: &[u8]) -> Result<EntryPoint, BootError> {
    let (given, kernel) = postcard::take_from_bytes(input).unwrap_or((Given::default(), input));
    let guest = Guest::new((MEMORY_MIN_MIB + usize::from(given.memory) % MEMORY_STEPS) * MIB);
    let initrd_bytes = given.has_initrd.then_some(given.initrd % INITRD_BYTES_MAX);
    let loaded = load(&guest, kernel, initrd_bytes, &given);
    guest.check();
    if loaded.is_ok() {
        check(&guest, &given.command_line);
        initrd_bytes.into_iter().for_each(|bytes| check_initrd(&guest, kernel, bytes, &given));
    }
    loaded
}

fn load(guest: &Guest, kernel: &[u8], initrd: Option<u32>, given: &Given) -> Result<EntryPoint, BootError> {
    let file = MemoryFile::new(kernel.len() as u64);
    file.0.write_all_at(kernel, 0).unwrap();
    let initrd = initrd.map(|bytes| MemoryFile::new(bytes.into()));
    let command_line = given.command_line.clone();
    let source = BootSource { has_initrd: initrd.is_some(), command_line, base: None };
    let descriptors = [Some(file), initrd].into_iter().flatten().map(|file| file.0.into()).collect();
    let files = Files::of(&source, descriptors).map_err(BootError::Files)?;
    boot::load(&guest.memory, &source, files, given.vcpus % 32 + 1)
}

/// What every kernel finds, whatever it says of itself.
fn check(guest: &Guest, command_line: &str) {
    let mut line = vec![0; command_line.len() + 1];
    let place = GuestAddress(zero_page(guest, COMMAND_LINE_POINTER).into());
    guest.memory.read_slice(&mut line, place).unwrap();
    assert!(line.strip_suffix(&[0]) == Some(command_line.as_bytes()), "the command line is overwritten");
    let mut root = [0; 8];
    guest.memory.read_slice(&mut root, GuestAddress(layout::ACPI_START)).unwrap();
    assert_eq!(&root, b"RSD PTR ", "the ACPI tables are overwritten");
}

/// The initrd lies in memory, and where it lies there is nothing of the kernel.
fn check_initrd(guest: &Guest, kernel: &[u8], bytes: u32, given: &Given) {
    let start = u64::from(zero_page(guest, RAMDISK_IMAGE));
    assert_eq!(zero_page(guest, RAMDISK_SIZE), bytes);
    assert!(
        start >= layout::HIGH_MEMORY_START && guest.has(start, bytes.into()),
        "the initrd is at {start:#x}"
    );
    let without = Guest::new(guest.bytes() as usize);
    load(&without, kernel, None, given).unwrap();
    let mut beneath = vec![0; bytes as usize];
    without.memory.read_slice(&mut beneath, GuestAddress(start)).unwrap();
    assert!(beneath.iter().all(|byte| *byte == 0), "the initrd lies on the kernel");
}

fn zero_page(guest: &Guest, offset: u64) -> u32 {
    guest.memory.read_obj(GuestAddress(layout::ZERO_PAGE_START + offset)).unwrap()
}

/// An ELF file with one segment of 16 bytes, loaded and entered there, and a note for PVH.
fn elf(address: u64) -> Vec<u8> {
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(words(&[address, 64, 0]));
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(words(&[5 << 32 | 1, 176, address, address, 16, 16, 0x1000]));
    file.extend(words(&[4 << 32 | 4, 192, 0, 0, 20, 20, 4]));
    file.extend(*b"0123456789abcdef");
    file.extend(*b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\0\0\0\x01");
    file
}

/// A bzImage of one sector of setup code, and a little more behind it.
fn bzimage(pref_address: u64, init_size: u32) -> Vec<u8> {
    let mut file = vec![0; 0x400];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &(layout::HIGH_MEMORY_START as u32).to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &[1, 0]);
    put(0x258, &pref_address.to_le_bytes());
    put(0x260, &init_size.to_le_bytes());
    file.extend([0x90; 0x300]);
    file
}

fn with(given: &Given, kernel: Vec<u8>) -> Vec<u8> {
    postcard::to_extend(given, vec![]).unwrap().into_iter().chain(kernel).collect()
}

fn good_seeds() -> Vec<Seed> {
    let memory = MEMORY_STEPS as u8 - 1;
    let plain = Given { memory, command_line: "console=ttyS0".into(), ..Given::default() };
    let fitting = Given { initrd: 0xf_f000, has_initrd: true, ..Given::default() };
    let full = Given { memory, initrd: 5000, has_initrd: true, vcpus: 3, command_line: "a=b".into() };
    vec![
        ("elf", with(&plain, elf(0x100_0000))),
        ("elf_with_initrd", with(&full, elf(0x10_0000))),
        ("initrd_that_just_fits", with(&fitting, elf(layout::HIGH_MEMORY_START))),
        ("bzimage", with(&plain, bzimage(0x100_0000, 0x1000))),
        ("bzimage_with_initrd", with(&full, bzimage(0x20_0000, 0x10_0000))),
    ]
}

pub fn seeds() -> Vec<Seed> {
    let large = Given { initrd: 31 << 20, has_initrd: true, ..Given::default() };
    let not_fitting = Given { initrd: 0xf_f001, has_initrd: true, ..Given::default() };
    let mut seeds = good_seeds();
    seeds.extend([
        ("initrd_that_just_does_not_fit", with(&not_fitting, elf(layout::HIGH_MEMORY_START))),
        ("initrd_too_large", with(&large, elf(0x10_0000))),
        ("bzimage_too_large", with(&Given::default(), bzimage(u64::MAX, u32::MAX))),
        ("no_kernel", with(&Given::default(), vec![b'x'; 0x300])),
    ]);
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_are_good_are_loaded() {
        for (name, input) in good_seeds() {
            play(&input).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
    }
}
