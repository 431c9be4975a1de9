//! The machine's ports.

use std::{arch::asm, io};

/// First serial port, its registers, and what a driver sets of them at first (16550).
pub(crate) const SERIAL: u16 = 0x3f8;
const LINE_CONTROL: u16 = SERIAL + 3;
const MODEM_CONTROL: u16 = SERIAL + 4;
const INTERRUPT_ENABLE: u16 = SERIAL + 1;
const EIGHT_BITS: u8 = 3;
const READY: u8 = 0xb;

/// Lets this thread, and all that it starts, at all ports.
pub(crate) fn allow() -> io::Result<()> {
    // SAFETY: gives this process a right, and touches no memory.
    match unsafe { libc::iopl(3) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads that many bytes of a port at once: 1, 2 or 4.
pub(crate) fn read(port: u16, bytes: usize) -> u32 {
    // SAFETY: reads a port, into a register.
    unsafe {
        match bytes {
            1 => {
                let value: u8;
                asm!("in al, dx", in("dx") port, out("al") value, options(nostack, nomem));
                value.into()
            }
            2 => {
                let value: u16;
                asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack, nomem));
                value.into()
            }
            _ => {
                let value: u32;
                asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, nomem));
                value
            }
        }
    }
}

/// Writes that many bytes to a port at once: 1, 2 or 4.
pub(crate) fn write(port: u16, bytes: usize, value: u32) {
    // SAFETY: writes a port; no device of this machine reaches memory by one.
    unsafe {
        match bytes {
            1 => asm!("out dx, al", in("dx") port, in("al") value as u8, options(nostack, nomem)),
            2 => asm!("out dx, ax", in("dx") port, in("ax") value as u16, options(nostack, nomem)),
            _ => asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, nomem)),
        }
    }
}

/// Writes bytes to a port by one string instruction.
pub(crate) fn write_all(port: u16, bytes: &[u8]) {
    // SAFETY: reads as many bytes as there are.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rcx") bytes.len() => _, inout("rsi") bytes.as_ptr() => _,
             options(nostack, readonly, preserves_flags));
    }
}

/// Reads bytes of a port by one string instruction.
pub(crate) fn read_all(port: u16, bytes: &mut [u8]) {
    // SAFETY: writes as many bytes as there are.
    unsafe {
        asm!("rep insb", in("dx") port, inout("rcx") bytes.len() => _, inout("rdi") bytes.as_mut_ptr() => _,
             options(nostack, preserves_flags));
    }
}

/// Says a line on the console, past the kernel's driver.
pub(crate) fn say(line: &str) {
    write_all(SERIAL, format!("hostile: {line}\r\n").as_bytes());
}

/// While it is there the serial port is the holder's, whatever state that leaves it in.
pub(crate) struct SerialState {
    interrupts: u8,
}

impl SerialState {
    pub(crate) fn save() -> Self {
        Self { interrupts: read(INTERRUPT_ENABLE, 1) as u8 }
    }

    pub(crate) fn restore(&self) {
        write(LINE_CONTROL, 1, EIGHT_BITS.into());
        write(MODEM_CONTROL, 1, READY.into());
        write(INTERRUPT_ENABLE, 1, self.interrupts.into());
    }
}
