//! Loads an operating system: kernel, initrd and command line into the guest's memory, and the tables by which the
//! kernel finds them.
//!
//! Kernel and initrd belong to the borrower. Of them this process reads the kernel's header, with linux-loader, and
//! copies the rest without looking.

pub mod kernel;
pub mod zero_page;

use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use sublet_vmm_protocol::BootSource;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};

use self::{
    kernel::{Kernel, KernelError},
    zero_page::Placed,
};
use crate::{
    acpi,
    arch::{
        layout,
        x86_64::registers::{self, EntryPoint},
    },
    devices::power::RESET_CODE,
    memory::GuestMemory,
};

const PAGE_SIZE: u64 = 4096;

#[derive(Debug, Error)]
pub enum BootError {
    #[error("{what} {path:?} cannot be opened")]
    Open { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{what} {path:?} is not a file")]
    NotAFile { what: &'static str, path: PathBuf },
    #[error("kernel {path:?} cannot be started")]
    Kernel { path: PathBuf, source: KernelError },
    #[error("initrd {path:?} of {bytes} bytes does not fit into memory beside the kernel")]
    InitrdTooLarge { path: PathBuf, bytes: u64 },
    #[error("initrd {path:?} cannot be read")]
    Initrd { path: PathBuf, source: GuestMemoryError },
    #[error("command_line is {0} bytes long, more than the {limit} that Linux takes", limit = layout::COMMAND_LINE_LIMIT)]
    CommandLineTooLong(usize),
    #[error("command_line holds byte {0:#04x}; only printable ASCII can stand in it")]
    CommandLineByte(u8),
    #[error("the boot tables do not fit into memory")]
    Tables(#[source] GuestMemoryError),
}

/// Fills the guest's memory and says where its boot CPU starts. On an error something may have been written.
pub fn load(memory: &GuestMemory, source: &BootSource, vcpus: u8) -> Result<EntryPoint, BootError> {
    check_command_line(&source.command_line)?;
    let mut file = open("kernel", &source.kernel)?;
    let kernel = kernel::load(memory, &mut file)
        .map_err(|error| BootError::Kernel { path: source.kernel.clone(), source: error })?;
    let initrd = match &source.initrd {
        Some(path) => Some(load_initrd(memory, path, &kernel)?),
        None => None,
    };
    // Written last, so that nothing a kernel file says lies on top of them.
    write_tables(memory, source, &kernel, initrd, vcpus).map_err(BootError::Tables)?;
    Ok(kernel.entry)
}

fn check_command_line(line: &str) -> Result<(), BootError> {
    if line.len() > layout::COMMAND_LINE_LIMIT {
        return Err(BootError::CommandLineTooLong(line.len()));
    }
    match line.bytes().find(|byte| !matches!(byte, b' '..=b'~')) {
        Some(byte) => Err(BootError::CommandLineByte(byte)),
        None => Ok(()),
    }
}

fn open(what: &'static str, path: &Path) -> Result<File, BootError> {
    // A pipe in the place of a file must not keep this process waiting.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let opened = file.and_then(|file| Ok((file.metadata()?.is_file(), file)));
    match opened {
        Ok((true, file)) => Ok(file),
        Ok((false, _)) => Err(BootError::NotAFile { what, path: path.to_owned() }),
        Err(source) => Err(BootError::Open { what, path: path.to_owned(), source }),
    }
}

/// Puts the initrd as high as it goes below the end of low memory, clear of where the kernel unpacks itself.
fn load_initrd(memory: &GuestMemory, path: &Path, kernel: &Kernel) -> Result<Placed, BootError> {
    let mut file = open("initrd", path)?;
    let bytes = file
        .metadata()
        .map_err(|source| BootError::Open { what: "initrd", path: path.to_owned(), source })?
        .len();
    let end = low_ram_end(memory).min(kernel.initrd_end_limit);
    let start = end
        .checked_sub(bytes)
        .map(|start| start - start % PAGE_SIZE)
        .filter(|start| *start >= kernel.end)
        .ok_or_else(|| BootError::InitrdTooLarge { path: path.to_owned(), bytes })?;
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut file, bytes as usize)
        .map_err(|source| BootError::Initrd { path: path.to_owned(), source })?;
    Ok(Placed { start: start as u32, bytes: bytes as u32 })
}

fn write_tables(
    memory: &GuestMemory,
    source: &BootSource,
    kernel: &Kernel,
    initrd: Option<Placed>,
    vcpus: u8,
) -> Result<(), GuestMemoryError> {
    let line = GuestAddress(layout::COMMAND_LINE_START);
    memory.write_slice(source.command_line.as_bytes(), line)?;
    memory.write_obj(0u8, GuestAddress(line.0 + source.command_line.len() as u64))?;
    memory.write_slice(&acpi::tables(vcpus), GuestAddress(layout::ACPI_START))?;
    memory.write_slice(&RESET_CODE, GuestAddress(layout::RESET_VECTOR))?;
    zero_page::write(memory, kernel, source.command_line.len() as u32, initrd)?;
    registers::write_tables(memory)
}

/// End of the memory that starts at 0.
fn low_ram_end(memory: &GuestMemory) -> u64 {
    memory.iter().next().map_or(0, |region| region.len())
}

#[cfg(test)]
mod tests;
