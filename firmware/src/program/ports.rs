//! The I/O ports of a PC.

use core::arch::asm;

use sublet_firmware::serial::Ports;

pub(crate) struct IoPorts;

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

/// Reads a port of PCI's configuration mechanism.
pub(super) fn read_long(port: u16) -> u32 {
    let value: u32;
    // SAFETY: PCI's two ports alone are read here; that changes no memory.
    unsafe { asm!("in eax, dx", out("eax") value, in("dx") port, options(nomem, nostack)) };
    value
}

/// Writes a port of PCI's configuration mechanism.
pub(super) fn write_long(port: u16, value: u32) {
    // SAFETY: PCI's two ports alone are written here. What that sets in motion are reads of disks, into buffers that were
    // given for it.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
}
