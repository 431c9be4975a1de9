//! The first serial port: a 16550 whose output goes to the console.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vm_superio::{Serial, Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::EventFd;

use crate::console::Console;

/// The port. Nothing is ever typed into it.
pub struct SerialPort(Mutex<Serial<Interrupt, NoEvents, Output>>);

impl SerialPort {
    pub fn new(interrupt: EventFd, console: Arc<Console>) -> Self {
        Self(Mutex::new(Serial::new(Interrupt(interrupt), Output(console))))
    }

    pub fn read(&self, register: u16, data: &mut [u8]) {
        let mut serial = self.lock();
        data.iter_mut().for_each(|byte| *byte = serial.read(register as u8));
    }

    pub fn write(&self, register: u16, data: &[u8]) {
        let mut serial = self.lock();
        for byte in data {
            // The only errors are a full input buffer in loop-back mode and an interrupt that is pending already.
            let _ = serial.write(register as u8, *byte);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Serial<Interrupt, NoEvents, Output>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

struct Output(Arc<Console>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|byte| self.0.push(*byte));
        Ok(bytes.len())
    }

    /// The console decides for itself when to write its log.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use sublet_vmm_protocol::{ConsoleConfig, ConsoleLog};

    use super::*;

    fn port() -> (tempfile::TempDir, Arc<Console>, SerialPort) {
        let directory = tempfile::tempdir().unwrap();
        let config = ConsoleConfig { path: directory.path().join("console"), capacity_bytes: 4096 };
        let console = Arc::new(Console::new(&config).unwrap());
        let port = SerialPort::new(EventFd::new(libc::EFD_NONBLOCK).unwrap(), console.clone());
        (directory, console, port)
    }

    #[test]
    fn what_is_transmitted_reaches_the_log() {
        let (directory, console, port) = port();
        port.write(0, b"hello");
        console.flush();
        let log = ConsoleLog::open(&directory.path().join("console")).unwrap();
        assert_eq!(log.read_from(0, 100).unwrap().bytes, b"hello");
    }

    #[test]
    fn the_transmitter_is_always_ready() {
        let (_directory, _console, port) = port();
        let mut status = [0];
        port.read(5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60);
    }

    proptest! {
        #[test]
        fn no_sequence_of_accesses_breaks_it(accesses in vec((0u16..8, any::<u8>(), any::<bool>()), 0..200)) {
            let (_directory, _console, port) = port();
            for (register, byte, write) in accesses {
                match write {
                    true => port.write(register, &[byte]),
                    false => port.read(register, &mut [byte]),
                }
            }
        }
    }
}
