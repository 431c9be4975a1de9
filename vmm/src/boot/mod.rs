//! Loads an operating system: kernel, initrd and command line into the guest's memory, and the tables by which the
//! kernel finds them.
//!
//! Kernel and initrd belong to the borrower. Of them this process reads the kernel's header, with linux-loader, and
//! copies the rest without looking. They come as descriptors: nothing can be opened here.

mod files;
pub mod kernel;
mod sparse;
pub mod zero_page;

use std::fs::File;

use rustix::io::Errno;
use sublet_vmm_protocol::BootSource;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};

pub use self::files::{Files, FilesError};
use self::{
    files::size_of,
    kernel::{Kernel, KernelError},
    zero_page::Placed,
};
use crate::{
    acpi,
    arch::{
        layout,
        x86_64::registers::{self, EntryPoint},
    },
    block::layer::base::BaseError,
    devices::power::RESET_CODE,
    memory::GuestMemory,
};

const PAGE_SIZE: u64 = 4096;

#[derive(Debug, Error)]
pub enum BootError {
    #[error("the files of the boot source cannot be used")]
    Files(#[source] FilesError),
    #[error("that cannot lie under a disk")]
    Base(#[source] BaseError),
    #[error("the kernel cannot be started")]
    Kernel(#[source] KernelError),
    #[error("the initrd of {bytes} bytes does not fit into memory beside the kernel")]
    InitrdTooLarge { bytes: u64 },
    #[error("the size of the initrd cannot be read")]
    InitrdSize(#[source] Errno),
    #[error("the initrd cannot be read")]
    Initrd(#[source] GuestMemoryError),
    #[error("command_line is {0} bytes long, more than the {limit} that Linux takes", limit = layout::COMMAND_LINE_LIMIT)]
    CommandLineTooLong(usize),
    #[error("command_line holds byte {0:#04x}; only printable ASCII can stand in it")]
    CommandLineByte(u8),
    #[error("the boot tables do not fit into memory")]
    Tables(#[source] GuestMemoryError),
}

/// Fills the guest's memory and says where its boot CPU starts. On an error something may have been written.
pub fn load(
    memory: &GuestMemory,
    source: &BootSource,
    mut files: Files,
    vcpus: u8,
) -> Result<EntryPoint, BootError> {
    check_command_line(&source.command_line)?;
    let kernel = kernel::load(memory, &mut files.kernel).map_err(BootError::Kernel)?;
    let initrd = files.initrd.as_mut().map(|file| load_initrd(memory, file, &kernel)).transpose()?;
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

/// Puts the initrd as high as it goes below the end of low memory, clear of where the kernel unpacks itself.
fn load_initrd(memory: &GuestMemory, file: &mut File, kernel: &Kernel) -> Result<Placed, BootError> {
    let bytes = size_of(&*file).map_err(BootError::InitrdSize)?;
    let end = low_ram_end(memory).min(kernel.initrd_end_limit);
    let start = end
        .checked_sub(bytes)
        .map(|start| start - start % PAGE_SIZE)
        .filter(|start| *start >= kernel.end)
        .ok_or(BootError::InitrdTooLarge { bytes })?;
    memory.read_exact_volatile_from(GuestAddress(start), file, bytes as usize).map_err(BootError::Initrd)?;
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
