//! The program that a VMM starts: everything that touches the machine is here.

#![no_std]
#![no_main]

extern crate alloc;

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::panic::PanicInfo;

use sublet_firmware::boot::boot;
use sublet_firmware::disk::Volume;
use sublet_firmware::load::Loaded;
use sublet_firmware::machine::{Entry, Machine, MachineError};
use sublet_firmware::serial::{COM1, Serial};

use crate::program::disk::disks;
use crate::program::memory::{self, Mapped};
use crate::program::ports::IoPorts;
use crate::program::{clock, heap};

mod program;

global_asm!(include_str!("entry.s"), options(att_syntax));

unsafe extern "C" {
    /// In `entry.s`.
    fn enter_kernel(entry: u64, zero_page: u64) -> !;
}

/// What `entry.s` says of how it was entered.
const STARTED_AS_LINUX: u32 = 1;

/// Called by `entry.s`, once.
#[unsafe(no_mangle)]
extern "C" fn firmware_main(how: u32, address: u64) -> ! {
    let begun = clock::now();
    heap::begin();
    let entry = if how == STARTED_AS_LINUX { Entry::Linux(address) } else { Entry::Pvh(address) };
    let mut out = Serial::open(IoPorts, COM1);
    // A serial port never refuses a text.
    if let Ok(Some(kernel)) = start(&mut out, entry) {
        let _ = writeln!(out, "Starting Linux after {}.", clock::Since(begun));
        // SAFETY: a kernel lies whole at its entry, the zero page is as it wants it, and the machine too: `entry.s` has
        // set segments and page tables up, disks are reset. Nothing of the firmware is used again.
        unsafe { enter_kernel(kernel.entry, kernel.zero_page) }
    }
    halt()
}

/// Loads the first kernel that can be; tells why not where there is none.
fn start(out: &mut impl Write, entry: Entry) -> Result<Option<Loaded>, fmt::Error> {
    write!(out, "Sublet firmware {}, ", env!("CARGO_PKG_VERSION"))?;
    let machine = match Machine::find(&Mapped, entry) {
        Ok(machine) => machine,
        Err(error) => return give_up(out, error),
    };
    writeln!(out, "{machine}.")?;
    let loaded = load_from_disks(out, &machine)?;
    if let Some(kernel) = &loaded {
        let (kernel_kib, initrd_kib) = (kernel.kernel_bytes >> 10, kernel.initrd_bytes >> 10);
        writeln!(
            out,
            "Kernel: {kernel_kib} KiB; initrd: {initrd_kib} KiB; options: {}",
            kernel.command_line
        )?;
    } else {
        writeln!(out, "No disk has an operating system that can be started. Halted.")?;
    }
    Ok(loaded)
}

/// The disks are reset as they go out of sight.
fn load_from_disks(out: &mut impl Write, machine: &Machine) -> Result<Option<Loaded>, fmt::Error> {
    let (room, mut ram) = (memory::room(), Mapped);
    for (name, disk) in ('a'..='z').zip(disks(out)?) {
        let name = alloc::format!("vd{name}");
        if let Some(loaded) = boot(out, &name, &Volume::whole(disk), machine, &room, &mut ram)? {
            return Ok(Some(loaded));
        }
    }
    Ok(None)
}

fn give_up(out: &mut impl Write, error: MachineError) -> Result<Option<Loaded>, fmt::Error> {
    writeln!(out, "started in a way that it does not know: {error}. Halted.")?;
    Ok(None)
}

#[panic_handler]
fn panic(panic: &PanicInfo<'_>) -> ! {
    stop(format_args!("{panic}"))
}

/// For what there is no way on from.
fn stop(reason: fmt::Arguments<'_>) -> ! {
    let _ = writeln!(Serial::open(IoPorts, COM1), "Sublet firmware: {reason}. Halted.");
    halt()
}

fn halt() -> ! {
    loop {
        // SAFETY: halting with interrupts off touches no memory; an interrupt that cannot be masked ends one
        // round.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
