//! Runs as root in a guest and attacks the machine from the driver's side. It says on the console what it does and what
//! came of it; whether the host stood it is for the host to see.
//!
//! ```text
//! hostile-guest SEED FROM_MIB TO_MIB [forever]
//! ```
//!
//! The kernel was started with `mem=FROM_MIB M iomem=relaxed`: what lies above, to the machine's last page, is taken
//! here, so that nothing that a device is made to write hits the kernel. Devices need no driver.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what the kernel refuses ends the test"
)]

mod attacks;
mod device;
mod good_order;
mod memory;
mod pci;
mod ports;
mod registers;
mod ring;

use std::{
    env, panic,
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{attacks::World, device::Device, memory::Memory};

/// What came of an attack, as far as the guest sees it.
pub(crate) type Outcome = Result<(), String>;

const MIB: u64 = 1 << 20;

/// What is there once it comes, if it comes in time.
pub(crate) fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::hint::spin_loop();
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    let (Some(seed), Some(from), Some(to)) = (number(0), number(1), number(2)) else {
        eprintln!("usage: hostile-guest SEED FROM_MIB TO_MIB [forever]");
        return ExitCode::from(2);
    };
    ports::allow().expect("cannot reach ports");
    panic::set_hook(Box::new(|what| ports::say(&what.to_string().replace('\n', " "))));
    let memory = Memory::open(from * MIB..to * MIB).expect("cannot map memory");
    let devices = Device::all().expect("cannot take the devices");
    let mut world = World::new(memory, devices, seed);
    let forever = arguments.get(3).is_some_and(|word| word == "forever");
    loop {
        let faults = world.attack();
        if !forever {
            return ExitCode::from(u8::from(faults > 0));
        }
    }
}
