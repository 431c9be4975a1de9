//! A Linux kernel: a bzImage or an uncompressed 64-bit ELF, entered by the 64-bit boot protocol either way.

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::unix::fs::FileExt,
};

use linux_loader::loader::{BzImage, Elf, Error as LoaderError, KernelLoader, bootparam::setup_header};
use thiserror::Error;
use vm_memory::GuestAddress;

use crate::{
    arch::{layout, x86_64::registers::EntryPoint},
    boot::{low_ram_end, sparse::Sparse},
    memory::GuestMemory,
};

/// ELF identification of a 64-bit little-endian file, then type and machine.
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
const ELF_64_LITTLE: [u8; 2] = [2, 1];
const ELF_MACHINE_X86_64: u16 = 62;
/// Program headers of a kernel are a handful; each may name the whole file.
const ELF_HEADERS_LIMIT: u16 = 64;
const ELF_HEADER_BYTES: usize = 64;
/// Which word of 8 bytes says where the program headers are, how many words each has, and the kind that is loaded.
const ELF_PROGRAM_HEADERS_WORD: usize = 4;
const ELF_PROGRAM_HEADER_WORDS: usize = 7;
const ELF_SEGMENT_LOADED: u32 = 1;

/// bzImage: where its header says so, and what the header must say (Documentation/arch/x86/boot.rst).
const BZIMAGE_MAGIC_OFFSET: u64 = 0x202;
const BZIMAGE_MAGIC: [u8; 4] = *b"HdrS";
const VERSION_WITH_XLOADFLAGS: u16 = 0x20c;
const XLOADFLAG_KERNEL_64: u16 = 1;
/// The 64-bit entry point, from where the protected mode kernel was loaded.
const ENTRY_64_OFFSET: u64 = 0x200;
/// What a boot loader without an assigned number calls itself.
const LOADER_UNDEFINED: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;

/// Where an ELF kernel's initrd must end: what bzImages have said since 2.15 (2 GiB - 1).
const ELF_INITRD_END_LIMIT: u64 = 0x7fff_ffff;

#[derive(Debug, Error)]
pub enum KernelError {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it is neither a bzImage nor an uncompressed x86-64 ELF file")]
    UnknownFormat,
    #[error("it has {0} program headers, more than {ELF_HEADERS_LIMIT}")]
    TooManyHeaders(u16),
    #[error("it has a segment of {in_file} bytes in the file that takes {in_memory} bytes of memory")]
    SegmentSizes { in_file: u64, in_memory: u64 },
    #[error("its boot protocol {version:#06x} has no 64-bit entry point")]
    No64BitEntry { version: u16 },
    #[error("it needs memory up to {end:#x}; the machine's low memory ends at {ram_end:#x}")]
    DoesNotFit { end: u64, ram_end: u64 },
    #[error("it cannot be loaded")]
    Load(#[source] LoaderError),
}

/// A kernel in the guest's memory.
#[derive(Debug)]
pub struct Kernel {
    pub entry: EntryPoint,
    /// End of all that it takes while it starts, and of the first MiB in any case.
    pub end: u64,
    /// Where an initrd must end at the latest.
    pub initrd_end_limit: u64,
    /// What the zero page says of it.
    pub header: setup_header,
}

/// Reads a kernel straight into the guest's memory, which must be zero where the file has holes.
pub fn load(memory: &GuestMemory, file: &mut File) -> Result<Kernel, KernelError> {
    let kernel = match format(file)? {
        Format::Elf => load_elf(memory, file)?,
        Format::BzImage => load_bzimage(memory, file)?,
    };
    let ram_end = low_ram_end(memory);
    match kernel.end <= ram_end {
        true => Ok(kernel),
        false => Err(KernelError::DoesNotFit { end: kernel.end, ram_end }),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    BzImage,
    Elf,
}

fn format(file: &mut File) -> Result<Format, KernelError> {
    let mut start = [0; ELF_HEADER_BYTES];
    file.read_exact(&mut start).map_err(KernelError::Read)?;
    file.rewind().map_err(KernelError::Read)?;
    if start[..4] == ELF_MAGIC && start[4..6] == ELF_64_LITTLE {
        check_elf(&start)?;
        check_segments(file, &start)?;
        return Ok(Format::Elf);
    }
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, BZIMAGE_MAGIC_OFFSET) {
        Ok(()) if magic == BZIMAGE_MAGIC => Ok(Format::BzImage),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(KernelError::Read(error)),
        _ => Err(KernelError::UnknownFormat),
    }
}

fn check_elf(header: &[u8; ELF_HEADER_BYTES]) -> Result<(), KernelError> {
    let machine = u16::from_le_bytes([header[18], header[19]]);
    let headers = u16::from_le_bytes([header[56], header[57]]);
    match (machine, headers) {
        (ELF_MACHINE_X86_64, 0..=ELF_HEADERS_LIMIT) => Ok(()),
        (ELF_MACHINE_X86_64, _) => Err(KernelError::TooManyHeaders(headers)),
        _ => Err(KernelError::UnknownFormat),
    }
}

/// The loader copies what is in the file, but counts what is in memory: a segment with more of the former would reach
/// beyond the kernel's end, beneath the initrd.
fn check_segments(file: &File, header: &[u8; ELF_HEADER_BYTES]) -> Result<(), KernelError> {
    let start = u64::from_le_bytes(header.as_chunks().0[ELF_PROGRAM_HEADERS_WORD]);
    for number in 0..u16::from_le_bytes([header[56], header[57]]) {
        let mut segment = [[0; 8]; ELF_PROGRAM_HEADER_WORDS];
        let at = start.saturating_add(u64::from(number) * size_of_val(&segment) as u64);
        file.read_exact_at(segment.as_flattened_mut(), at).map_err(KernelError::Read)?;
        let [kind, _, _, _, in_file, in_memory, _] = segment.map(u64::from_le_bytes);
        if kind as u32 == ELF_SEGMENT_LOADED && in_file > in_memory {
            return Err(KernelError::SegmentSizes { in_file, in_memory });
        }
    }
    Ok(())
}

fn load_elf(memory: &GuestMemory, file: &mut File) -> Result<Kernel, KernelError> {
    let high_memory = GuestAddress(layout::HIGH_MEMORY_START);
    let loaded = Elf::load(memory, None, &mut Sparse(file), Some(high_memory)).map_err(KernelError::Load)?;
    let header = setup_header {
        boot_flag: BOOT_FLAG,
        header: u32::from_le_bytes(BZIMAGE_MAGIC),
        type_of_loader: LOADER_UNDEFINED,
        ..Default::default()
    };
    Ok(Kernel {
        entry: EntryPoint { address: loaded.kernel_load.0 },
        // A file may have nothing to load, or only below the first MiB, where no initrd belongs.
        end: loaded.kernel_end.max(layout::HIGH_MEMORY_START),
        initrd_end_limit: ELF_INITRD_END_LIMIT,
        header,
    })
}

fn load_bzimage(memory: &GuestMemory, file: &mut File) -> Result<Kernel, KernelError> {
    let start = GuestAddress(layout::HIGH_MEMORY_START);
    let loaded = BzImage::load(memory, Some(start), file, Some(start)).map_err(KernelError::Load)?;
    let mut header = loaded.setup_header.ok_or(KernelError::UnknownFormat)?;
    let (version, flags) = (header.version, header.xloadflags);
    if version < VERSION_WITH_XLOADFLAGS || flags & XLOADFLAG_KERNEL_64 == 0 {
        return Err(KernelError::No64BitEntry { version });
    }
    header.type_of_loader = LOADER_UNDEFINED;
    // It moves to the address that it prefers and unpacks itself within this many bytes from there.
    let unpacked_end = header.pref_address.saturating_add(u64::from(header.init_size));
    Ok(Kernel {
        entry: EntryPoint { address: loaded.kernel_load.0 + ENTRY_64_OFFSET },
        end: unpacked_end.max(loaded.kernel_end),
        initrd_end_limit: u64::from(header.initrd_addr_max).saturating_add(1),
        header,
    })
}
