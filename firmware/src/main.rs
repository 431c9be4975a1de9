//! The program a VMM starts by the PVH boot protocol: everything that touches the machine is here.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::fmt::Write;
use core::panic::PanicInfo;
use core::slice;

use sublet_firmware::memory::PhysicalMemory;
use sublet_firmware::report;
use sublet_firmware::serial::{COM1, Ports, Serial};

mod bytes;

global_asm!(include_str!("entry.s"), options(att_syntax));

/// The first byte that `entry.s` has not mapped.
const MAPPED_END: u64 = 1 << 32;

/// Called by `entry.s`, once.
#[unsafe(no_mangle)]
extern "C" fn firmware_main(start_info: u64) -> ! {
    // A serial port never refuses a text.
    let _ = report::write(&mut Serial::open(IoPorts, COM1), &Mapped, start_info);
    halt()
}

#[panic_handler]
fn panic(panic: &PanicInfo<'_>) -> ! {
    let _ = writeln!(Serial::open(IoPorts, COM1), "Sublet firmware: {panic}. Halted.");
    halt()
}

fn halt() -> ! {
    loop {
        // SAFETY: halting with interrupts off touches no memory; an interrupt that cannot be masked ends one
        // round.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Memory below 4 GiB, mapped to itself.
struct Mapped;

impl PhysicalMemory for Mapped {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        let end = address.checked_add(length as u64).filter(|end| *end <= MAPPED_END)?;
        let pointer = usize::try_from(address).ok().filter(|_| address != 0 && end > address)?;
        // SAFETY: `entry.s` has mapped all of the range, it does not begin at 0, and only this one CPU runs,
        // which writes to nothing but its own data: the VMM's structures lie outside that. Addresses with
        // nothing behind them read as all ones.
        Some(unsafe { slice::from_raw_parts(pointer as *const u8, length) })
    }
}

struct IoPorts;

impl Ports for IoPorts {
    fn read(&mut self, port: u16) -> u8 {
        let value: u8;
        // SAFETY: only the serial port's registers are read here; that changes no memory.
        unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack)) };
        value
    }

    fn write(&mut self, port: u16, value: u8) {
        // SAFETY: only the serial port's registers are written here; that changes no memory.
        unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
    }
}
