//! pvpanic: a port by which a guest's kernel says that it panicked (QEMU, docs/specs/pvpanic).

use sublet_vmm_protocol::Ended;

/// The kernel panicked and nothing in the guest will handle it.
const PANICKED: u8 = 1 << 0;

/// Which events the host knows. A guest with a crash kernel loaded is left to run it.
pub fn read(data: &mut [u8]) {
    data.fill(PANICKED);
}

pub fn write(data: &[u8]) -> Option<Ended> {
    matches!(data, [event] if event & PANICKED != 0).then_some(Ended::Panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_guest_and_other_events_do_not() {
        assert_eq!(write(&[1]), Some(Ended::Panicked));
        assert_eq!(write(&[2]), None);
        assert_eq!(write(&[1, 1]), None);
    }
}
