//! Fuzz targets of the VMM, one a module, and one a program in `fuzz_targets/`. Each takes any bytes, does with them what
//! a hostile guest or peer could do, and panics where a promise is broken: the fuzzer looks for a panic, a hang, or memory
//! without bound.
//!
//! Most inputs are [`steps`]; those that reach devices find a guest's memory with a margin around it ([`guest`]). None of
//! them needs KVM. `examples/seeds.rs` writes what the search begins with, `run.sh` builds and runs the targets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is what is looked for"
)]

pub mod boot;
pub mod bus;
pub mod console_ring;
pub mod control_socket;
pub mod files;
pub mod guest;
pub mod guest_frames;
pub mod rings;
pub mod steps;
pub mod virtio_block;
pub mod virtio_device;
pub mod virtio_port;
pub mod virtio_rng;
pub mod virtio_transport;

/// An input to begin with, and its name.
pub type Seed = (&'static str, Vec<u8>);

/// What can be fuzzed.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: fn() -> Vec<Seed>,
}

/// Every target, by the name of its program.
pub const TARGETS: [Target; 9] = [
    Target { name: "bus", run: bus::run, seeds: bus::seeds },
    Target { name: "virtio_transport", run: virtio_transport::run, seeds: virtio_transport::seeds },
    Target { name: "virtio_block", run: virtio_block::run, seeds: virtio_block::seeds },
    Target { name: "virtio_rng", run: virtio_rng::run, seeds: virtio_rng::seeds },
    Target { name: "virtio_port", run: virtio_port::run, seeds: virtio_port::seeds },
    Target { name: "control_socket", run: control_socket::run, seeds: control_socket::seeds },
    Target { name: "console_ring", run: console_ring::run, seeds: console_ring::seeds },
    Target { name: "boot", run: boot::run, seeds: boot::seeds },
    Target { name: "guest_frames", run: guest_frames::run, seeds: guest_frames::seeds },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_keeps_every_promise_and_is_small() {
        for Target { name, run, seeds } in TARGETS {
            let seeds = seeds();
            assert!(!seeds.is_empty(), "{name} has no seeds");
            for (seed, input) in seeds {
                assert!(input.len() <= 4096, "seed {seed} of {name} has {} bytes", input.len());
                run(&input);
            }
        }
    }

    #[test]
    fn no_input_at_all_is_an_input_too() {
        TARGETS.iter().for_each(|target| (target.run)(&[]));
    }
}
