//! MSI-X (PCI Local Bus 3.0, 6.8.2): a table in which the guest says what each of the function's interrupts writes,
//! and where.
//!
//! A vector that is enabled and not masked is connected to KVM; any other is not, and an interrupt raised then
//! waits in its event descriptor until it is. That is the pending bit.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::EventFd;

use crate::interrupts::{InterruptError, Message, MessageLine};

/// Capability id.
pub const CAPABILITY_ID: u8 = 0x11;
/// Bytes of one entry of the table.
pub const ENTRY_SIZE: u64 = 16;

/// Message control register, and its bits that the guest writes.
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
const CONTROL_WRITABLE: u16 = CONTROL_ENABLE | CONTROL_FUNCTION_MASK;
/// Offset of the message control register in the capability.
pub const CONTROL_OFFSET: usize = 2;
/// Vector control: the entry's mask bit.
const ENTRY_MASKED: u32 = 1;

/// The vectors of one function.
pub struct Msix {
    entries: Vec<Entry>,
    control: u16,
}

struct Entry {
    /// Message address low and high, message data, vector control.
    words: [u32; 4],
    line: Box<dyn MessageLine>,
    connected: Option<Message>,
}

impl Msix {
    /// One vector a line.
    pub fn new(lines: Vec<Box<dyn MessageLine>>) -> Self {
        let entry = |line| Entry { words: [0, 0, 0, ENTRY_MASKED], line, connected: None };
        Self { entries: lines.into_iter().map(entry).collect(), control: 0 }
    }

    /// The capability after its id and pointer, with table and pending bits at these offsets in the function's
    /// registers; and which of its bits the guest writes.
    pub fn capability(&self, table_offset: u32, pending_offset: u32) -> (Vec<u8>, [u8; 2]) {
        let last = (self.entries.len() - 1) as u16;
        let mut body = last.to_le_bytes().to_vec();
        body.extend(table_offset.to_le_bytes());
        body.extend(pending_offset.to_le_bytes());
        (body, CONTROL_WRITABLE.to_le_bytes())
    }

    /// What a device writes to in order to raise this vector.
    pub fn event(&self, vector: u16) -> Option<&EventFd> {
        self.entries.get(vector as usize).map(|entry| entry.line.event())
    }

    pub fn vectors(&self) -> u16 {
        self.entries.len() as u16
    }

    /// Takes what the guest has written to the message control register of the capability.
    pub fn set_control(&mut self, control: u16) -> Result<(), InterruptError> {
        if control != self.control {
            self.control = control;
            (0..self.entries.len()).try_for_each(|vector| self.connect(vector))?;
        }
        Ok(())
    }

    /// Reads the table; other sizes than 4 and 8, and other alignments, read as all ones.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let words = data.len() / 4;
        if !aligned(offset, data.len()) {
            return;
        }
        for word in 0..words {
            if let Some(value) = self.word(offset + 4 * word as u64) {
                data[4 * word..4 * word + 4].copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// Writes the table and connects or disconnects what that changes.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) -> Result<(), InterruptError> {
        if !aligned(offset, data.len()) {
            return Ok(());
        }
        for (at, bytes) in (offset..).step_by(4).zip(data.as_chunks::<4>().0) {
            self.set_word(at, u32::from_le_bytes(*bytes));
        }
        let vector = (offset / ENTRY_SIZE) as usize;
        if vector < self.entries.len() { self.connect(vector) } else { Ok(()) }
    }

    /// Reads the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = (0..8).map(|bit| u8::from(self.is_pending(8 * at + bit)) << bit).sum();
        }
    }

    /// As after power-on: everything masked.
    pub fn reset(&mut self) -> Result<(), InterruptError> {
        for vector in 0..self.entries.len() {
            self.entries[vector].words = [0, 0, 0, ENTRY_MASKED];
            self.connect(vector)?;
        }
        Ok(())
    }

    fn is_pending(&self, vector: u64) -> bool {
        match self.entries.get(vector as usize) {
            Some(entry) if entry.connected.is_none() => is_written(entry.line.event()),
            _ => false,
        }
    }

    fn word(&self, offset: u64) -> Option<u32> {
        let entry = self.entries.get((offset / ENTRY_SIZE) as usize)?;
        entry.words.get((offset % ENTRY_SIZE / 4) as usize).copied()
    }

    fn set_word(&mut self, offset: u64, value: u32) {
        let entry = self.entries.get_mut((offset / ENTRY_SIZE) as usize);
        if let Some(word) = entry.and_then(|entry| entry.words.get_mut((offset % ENTRY_SIZE / 4) as usize)) {
            *word = value;
        }
    }

    /// Makes the vector's line what table and control say.
    fn connect(&mut self, vector: usize) -> Result<(), InterruptError> {
        let live = self.control & CONTROL_WRITABLE == CONTROL_ENABLE;
        let Some(entry) = self.entries.get_mut(vector) else { return Ok(()) };
        let [low, high, data, control] = entry.words;
        let message = Message { address: u64::from(high) << 32 | u64::from(low), data };
        let wanted = (live && control & ENTRY_MASKED == 0).then_some(message);
        if wanted == entry.connected {
            return Ok(());
        }
        match wanted {
            Some(message) => entry.line.connect(message)?,
            None => entry.line.disconnect()?,
        }
        entry.connected = wanted;
        Ok(())
    }
}

/// Double or quad words within one entry (PCI Local Bus 3.0, 6.8.2).
fn aligned(offset: u64, length: usize) -> bool {
    matches!(length, 4 | 8) && offset.is_multiple_of(length as u64)
}

fn is_written(event: &EventFd) -> bool {
    // SAFETY: the descriptor is open for as long as `event` is borrowed, which is longer than this call.
    let descriptor = unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) };
    let now = Timespec::default();
    poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
pub mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::sandbox::lists::Lists;

    /// A line that remembers what it is connected to.
    pub struct Remembered {
        event: EventFd,
        message: Arc<Mutex<Option<Message>>>,
    }

    pub fn remembered() -> (Box<dyn MessageLine>, Arc<Mutex<Option<Message>>>) {
        let message = Arc::new(Mutex::new(None));
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        (Box::new(Remembered { event, message: message.clone() }), message)
    }

    impl MessageLine for Remembered {
        fn event(&self) -> &EventFd {
            &self.event
        }

        fn connect(&mut self, message: Message) -> Result<(), InterruptError> {
            *self.message.lock().unwrap() = Some(message);
            Ok(())
        }

        fn disconnect(&mut self) -> Result<(), InterruptError> {
            *self.message.lock().unwrap() = None;
            Ok(())
        }
    }

    const MESSAGE: Message = Message { address: 0xfee0_1000, data: 0x41 };

    fn fill_entry(msix: &mut Msix, vector: u64, masked: u32) {
        let words = [MESSAGE.address as u32, (MESSAGE.address >> 32) as u32, MESSAGE.data, masked];
        for (at, word) in (vector * ENTRY_SIZE..).step_by(4).zip(words) {
            msix.write_table(at, &word.to_le_bytes()).unwrap();
        }
    }

    #[test]
    fn a_vector_is_connected_only_while_enabled_and_unmasked() {
        let (line, connected) = remembered();
        let mut msix = Msix::new(vec![line]);
        fill_entry(&mut msix, 0, 0);
        assert_eq!(*connected.lock().unwrap(), None);
        msix.set_control(CONTROL_ENABLE).unwrap();
        assert_eq!(*connected.lock().unwrap(), Some(MESSAGE));
        msix.set_control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK).unwrap();
        assert_eq!(*connected.lock().unwrap(), None);
        msix.set_control(CONTROL_ENABLE).unwrap();
        fill_entry(&mut msix, 0, ENTRY_MASKED);
        assert_eq!(*connected.lock().unwrap(), None);
    }

    #[test]
    fn an_interrupt_raised_while_masked_is_pending() {
        let (line, _) = remembered();
        let msix = Msix::new(vec![line]);
        let mut pending = [0xff];
        msix.read_pending(0, &mut pending);
        assert_eq!(pending, [0]);
        msix.event(0).unwrap().write(1).unwrap();
        msix.read_pending(0, &mut pending);
        assert_eq!(pending, [1]);
    }

    #[test]
    fn the_table_reads_back_what_was_written() {
        let mut msix = Msix::new(vec![remembered().0, remembered().0]);
        fill_entry(&mut msix, 1, 0);
        let mut data = [0; 8];
        msix.read_table(ENTRY_SIZE, &mut data);
        assert_eq!(u64::from_le_bytes(data), MESSAGE.address);
    }

    #[test]
    fn a_vcpu_may_look_for_pending_interrupts() {
        let list = Lists::for_tests().vcpu;
        let msix = Msix::new(vec![remembered().0]);
        msix.event(0).unwrap().write(1).unwrap();
        let looks = move || {
            list.install().unwrap();
            let mut pending = [0];
            msix.read_pending(0, &mut pending);
            pending
        };
        assert_eq!(std::thread::spawn(looks).join().unwrap(), [1]);
    }

    proptest! {
        #[test]
        fn no_access_breaks_it(
            accesses in vec((0u64..100, vec(any::<u8>(), 0..9), any::<u16>()), 0..60),
        ) {
            let mut msix = Msix::new(vec![remembered().0, remembered().0]);
            for (offset, mut data, control) in accesses {
                msix.write_table(offset, &data).unwrap();
                msix.read_table(offset, &mut data);
                msix.read_pending(offset, &mut data);
                msix.set_control(control).unwrap();
            }
        }
    }
}
