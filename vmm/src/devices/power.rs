//! The ways in which a guest ends itself: ACPI sleep, and the three ways in which PCs reset. And the power button,
//! by which it is asked to.

use sublet_vmm_protocol::Ended;
use vmm_sys_util::eventfd::EventFd;

use crate::arch::layout;

/// Sleep type that the DSDT's `\_S5` object names for "off".
pub const SLEEP_TYPE_OFF: u8 = 5;
/// What an operating system writes into the reset register that the FADT names.
pub const RESET_VALUE: u8 = RESET_CPU | RESET_FULL;
/// The machine's whole BIOS: real mode code for the reset vector that resets the machine.
pub const RESET_CODE: [u8; 9] = {
    let [port_low, port_high] = layout::RESET_PORT.to_le_bytes();
    // mov dx, port; mov al, value; out dx, al; again: hlt; jmp again
    [0xba, port_low, port_high, 0xb0, RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd]
};

/// Sleep control register: SLP_TYPx and SLP_EN (ACPI 6.5, 4.8.3.7).
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_ENABLE: u8 = 1 << 5;
/// Sleep status register: WAK_STS. A machine that has never slept has not woken up.
const AWAKE: u8 = 0;
/// Keyboard controller status: nothing to be read, and room for a command.
const KEYBOARD_READY: u8 = 0;
/// Keyboard controller command that pulses the CPU's reset line.
const PULSE_RESET: u8 = 0xfe;
/// Reset control register: do it, and do it to the whole machine.
const RESET_CPU: u8 = 1 << 2;
const RESET_FULL: u8 = 1 << 1;

/// The ACPI power button.
#[derive(Debug)]
pub struct PowerButton(EventFd);

impl PowerButton {
    /// A button on this interrupt.
    pub fn new(interrupt: EventFd) -> Self {
        Self(interrupt)
    }

    pub fn press(&self) {
        // Fails only when it was pressed 2^64 times and never seen.
        let _ = self.0.write(1);
    }
}

pub fn read_sleep_status(data: &mut [u8]) {
    data.fill(AWAKE);
}

pub fn write_sleep_control(data: &[u8]) -> Option<Ended> {
    let off = SLEEP_ENABLE | SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT;
    (data == [off]).then_some(Ended::PoweredOff)
}

/// A kernel about to reset waits until the controller takes a command: of all ones it would ask 65,536 times.
pub fn read_keyboard_controller(data: &mut [u8]) {
    data.fill(KEYBOARD_READY);
}

pub fn write_keyboard_controller(data: &[u8]) -> Option<Ended> {
    (data == [PULSE_RESET]).then_some(Ended::Rebooted)
}

pub fn write_reset_control(data: &[u8]) -> Option<Ended> {
    matches!(data, [value] if value & RESET_CPU != 0).then_some(Ended::Rebooted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeping_as_the_dsdt_says_is_off_and_nothing_else_is() {
        let ends: Vec<u8> = (0..=u8::MAX).filter(|value| write_sleep_control(&[*value]).is_some()).collect();
        assert_eq!(ends, [0x34]);
        assert_eq!(write_sleep_control(&[0x34, 0]), None);
    }

    #[test]
    fn each_reset_of_a_pc_is_a_reboot() {
        assert_eq!(write_keyboard_controller(&[0xfe]), Some(Ended::Rebooted));
        assert_eq!(write_reset_control(&[RESET_VALUE]), Some(Ended::Rebooted));
        assert_eq!(write_reset_control(&[0x02]), None);
        assert_eq!(write_keyboard_controller(&[0xd1]), None);
    }
}
