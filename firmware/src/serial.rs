//! The first serial port, a 16550.

use core::fmt;

/// Its first register (the IBM PC's COM1).
pub const COM1: u16 = 0x3f8;

/// Registers, from the first one on (PC16550D data sheet, table II).
const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
/// Read: which interrupt, and whether there are queues. Written: the queues.
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;

const EIGHT_BITS_NO_PARITY: u8 = 0b11;
const DIVISOR_LATCH: u8 = 1 << 7;
const FIFOS_ON_AND_CLEARED: u8 = 0b111;
const FIFOS_ARE_ON: u8 = 0b1100_0000;
/// Bytes that an empty transmitter takes at once, with its queue and without.
const FIFO_BYTES: u8 = 16;
const SINGLE_BYTE: u8 = 1;
const TERMINAL_AND_REQUEST_READY: u8 = 0b11;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// 115,200 bits a second.
const DIVISOR: [u8; 2] = [1, 0];
/// Looks at a transmitter that does not empty before a byte is given up; no port, or nobody who reads, must not
/// stop a boot.
const PATIENCE: u32 = 100_000;

/// The I/O ports of a PC.
pub trait Ports {
    fn read(&mut self, port: u16) -> u8;
    fn write(&mut self, port: u16, value: u8);
}

/// Writes text; a line feed becomes a carriage return and a line feed.
pub struct Serial<P> {
    ports: P,
    base: u16,
    /// What the transmitter takes once it is empty, and what of that is left.
    depth: u8,
    room: u8,
}

impl<P: Ports> Serial<P> {
    /// Sets the port up: 115,200 bits a second, 8 bits, no parity, one stop bit, no interrupts.
    pub fn open(ports: P, base: u16) -> Self {
        let mut serial = Self { ports, base, depth: SINGLE_BYTE, room: 0 };
        serial.write(INTERRUPT_ENABLE, 0);
        serial.write(LINE_CONTROL, DIVISOR_LATCH);
        serial.write(DATA, DIVISOR[0]);
        serial.write(INTERRUPT_ENABLE, DIVISOR[1]);
        serial.write(LINE_CONTROL, EIGHT_BITS_NO_PARITY);
        serial.write(FIFO_CONTROL, FIFOS_ON_AND_CLEARED);
        serial.write(MODEM_CONTROL, TERMINAL_AND_REQUEST_READY);
        if serial.ports.read(base + FIFO_CONTROL) & FIFOS_ARE_ON == FIFOS_ARE_ON {
            serial.depth = FIFO_BYTES;
        }
        serial
    }

    fn write(&mut self, register: u16, value: u8) {
        self.ports.write(self.base + register, value);
    }

    fn send(&mut self, byte: u8) {
        let is_empty =
            |serial: &mut Self| serial.ports.read(serial.base + LINE_STATUS) & TRANSMITTER_EMPTY != 0;
        if self.room == 0 && (0..PATIENCE).any(|_| is_empty(self)) {
            self.room = self.depth;
        }
        if let Some(left) = self.room.checked_sub(1) {
            self.room = left;
            self.write(DATA, byte);
        }
    }
}

impl<P: Ports> fmt::Write for Serial<P> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use core::fmt::Write;

    use super::*;

    /// A 16550's registers as this driver uses them: what is sent, and the rate it is sent at.
    #[derive(Default)]
    struct Uart {
        line_control: u8,
        divisor: [u8; 2],
        sent: Vec<u8>,
        /// Looks at the line status that still find the transmitter busy.
        busy: u32,
        looks: u32,
        has_queue: bool,
    }

    impl Ports for &mut Uart {
        fn read(&mut self, port: u16) -> u8 {
            if port == COM1 + FIFO_CONTROL {
                return if self.has_queue { FIFOS_ARE_ON | 1 } else { 1 };
            }
            assert_eq!(port, COM1 + LINE_STATUS);
            self.looks += 1;
            if self.busy == 0 {
                return 0x60;
            }
            self.busy -= 1;
            0
        }

        fn write(&mut self, port: u16, value: u8) {
            let latched = self.line_control & DIVISOR_LATCH != 0;
            match (port - COM1, latched) {
                (DATA, false) => self.sent.push(value),
                (DATA, true) => self.divisor[0] = value,
                (INTERRUPT_ENABLE, true) => self.divisor[1] = value,
                (LINE_CONTROL, _) => self.line_control = value,
                _ => {}
            }
        }
    }

    #[test]
    fn the_port_is_set_up_for_115200_8n1() {
        let mut uart = Uart::default();
        Serial::open(&mut uart, COM1);
        assert_eq!((uart.divisor, uart.line_control), ([1, 0], EIGHT_BITS_NO_PARITY));
        assert!(uart.sent.is_empty());
    }

    #[test]
    fn lines_end_as_terminals_expect() {
        let mut uart = Uart::default();
        writeln!(Serial::open(&mut uart, COM1), "number {}", 7).unwrap();
        assert_eq!(uart.sent, b"number 7\r\n");
    }

    #[test]
    fn a_queue_takes_several_bytes_for_one_look() {
        for (has_queue, looks) in [(true, 2), (false, 20)] {
            let mut uart = Uart { has_queue, ..Uart::default() };
            Serial::open(&mut uart, COM1).write_str("twenty letters long.").unwrap();
            assert_eq!((uart.sent.len(), uart.looks), (20, looks));
        }
    }

    #[test]
    fn a_busy_transmitter_is_waited_for() {
        let mut uart = Uart { busy: 1000, ..Uart::default() };
        Serial::open(&mut uart, COM1).write_str("x").unwrap();
        assert_eq!(uart.sent, b"x");
    }

    #[test]
    fn a_transmitter_that_never_empties_loses_the_byte_and_not_the_boot() {
        let mut uart = Uart { busy: u32::MAX, ..Uart::default() };
        Serial::open(&mut uart, COM1).write_str("xy").unwrap();
        assert!(uart.sent.is_empty());
        assert_eq!(uart.looks, 2 * PATIENCE);
    }
}
