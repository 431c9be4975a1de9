//! What device and driver tell each other about the port (virtio 1.2, 5.3.6.2).

use std::collections::VecDeque;

/// The one port's number.
const PORT: u32 = 0;
/// More than any driver is owed at once; what it asks for beyond waits until it has read these.
const UNREAD_MAX: usize = 16;
/// `struct virtio_console_control`: port, event, value.
pub const MESSAGE_BYTES: usize = 8;

const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// The port as both sides know it.
#[derive(Debug)]
pub struct Port {
    name: String,
    is_open: bool,
    is_waiting: bool,
    is_connected: bool,
    unread: VecDeque<Vec<u8>>,
}

impl Port {
    pub fn new(name: String) -> Self {
        Self { name, is_open: false, is_waiting: false, is_connected: false, unread: VecDeque::new() }
    }

    /// Whether a program in the guest has it open.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether that program has not had anybody at the other end yet.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Forgets the driver.
    pub fn reset(&mut self) {
        *self = Self::new(std::mem::take(&mut self.name));
    }

    /// Whether there is room for the answer to another message.
    pub fn can_hear(&self) -> bool {
        self.unread.len() + 2 <= UNREAD_MAX
    }

    /// Hears the driver. What is no message, or about no port of ours, says nothing.
    pub fn hear(&mut self, message: [u8; MESSAGE_BYTES]) {
        let [p0, p1, p2, p3, e0, e1, v0, v1] = message;
        let value = u16::from_le_bytes([v0, v1]);
        match (u16::from_le_bytes([e0, e1]), u32::from_le_bytes([p0, p1, p2, p3]), value) {
            (DEVICE_READY, _, 1) => self.tell(DEVICE_ADD, 1, &[]),
            (PORT_READY, PORT, 1) => {
                let name = self.name.clone();
                self.tell(PORT_NAME, 1, name.as_bytes());
                self.tell(PORT_OPEN, u16::from(self.is_connected), &[]);
            }
            (PORT_OPEN, PORT, value) => {
                let is_open = value == 1;
                self.is_waiting = is_open && (self.is_waiting || !self.is_open);
                self.is_open = is_open;
            }
            _ => {}
        }
    }

    /// Whether there is somebody on the host at the other end, for the program that has the port open.
    pub fn set_connected(&mut self, is_connected: bool) {
        let is_connected = is_connected && self.is_open;
        if self.is_connected != is_connected {
            self.is_connected = is_connected;
            self.is_waiting &= !is_connected;
            self.tell(PORT_OPEN, u16::from(is_connected), &[]);
        }
    }

    /// What the driver has not been told yet, the oldest first.
    pub fn unread(&self) -> Option<&[u8]> {
        self.unread.front().map(Vec::as_slice)
    }

    /// The driver has been told the oldest.
    pub fn told(&mut self) {
        self.unread.pop_front();
    }

    fn tell(&mut self, event: u16, value: u16, rest: &[u8]) {
        let mut message = PORT.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(rest);
        self.unread.push_back(message);
    }
}
