//! The attacks, each a function; on each device where they are about devices.

mod block;
mod chains;
mod configuration;
mod console;
mod doorbells;
mod interrupts;
mod nowhere;
mod queues;
mod random;
mod resets;
mod rings;
mod vsock;

use std::{
    thread,
    time::{Duration, Instant},
};

use rand::{SeedableRng as _, rngs::StdRng};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{
    Outcome,
    device::{BLOCK, Device, RNG, VSOCK},
    good_order,
    memory::Memory,
    ports,
    ring::{Ring, Used},
};

/// Longest that an answer is waited for where there need not be one.
const PATIENCE: Duration = Duration::from_millis(20);
/// The same where there has to be one.
const LIMIT: Duration = Duration::from_secs(10);

/// Everything there is to attack.
pub(crate) struct World {
    memory: Memory,
    devices: Vec<Device>,
    seed: u64,
    random: StdRng,
}

/// An attack on the machine.
type OnMachine = fn(&mut World) -> Outcome;
/// An attack on one of its devices.
type OnDevice = fn(&Device, Memory, &mut StdRng) -> Outcome;

const ON_MACHINE: [(&str, OnMachine); 5] = [
    ("doorbells_flooded_by_all_cpus", doorbells::doorbells_flooded_by_all_cpus),
    ("ports_of_nowhere", nowhere::ports_of_nowhere),
    ("addresses_of_nowhere", nowhere::addresses_of_nowhere),
    ("serial_port_misused", console::serial_port_misused),
    ("console_flooded", console::console_flooded),
];

const ON_DEVICES: [(&str, OnDevice); 13] = [
    ("queues_rewritten_after_driver_ok", queues::queues_rewritten_after_driver_ok),
    ("queues_that_are_none", queues::queues_that_are_none),
    ("reset_under_load", resets::reset_under_load),
    ("reset_and_not_waited_for", resets::reset_and_not_waited_for),
    ("chains_that_loop_or_lie", chains::chains_that_loop_or_lie),
    ("tables_within_tables", chains::tables_within_tables),
    ("rings_in_bad_places", rings::rings_in_bad_places),
    ("indexes_that_jump", rings::indexes_that_jump),
    ("rings_rewritten_while_served", rings::rings_rewritten_while_served),
    ("vectors_out_of_range", interrupts::vectors_out_of_range),
    ("vectors_masked_and_moved_in_a_storm", interrupts::vectors_masked_and_moved_in_a_storm),
    ("registers_in_odd_sizes", configuration::registers_in_odd_sizes),
    ("configuration_rewritten", configuration::configuration_rewritten),
];

const ON_KINDS: [(&str, u16, OnDevice); 4] = [
    ("block_requests_of_all_kinds", BLOCK, block::block_requests_of_all_kinds),
    ("block_requests_at_random", BLOCK, block::block_requests_at_random),
    ("random_bytes_into_bad_places", RNG, random::random_bytes_into_bad_places),
    ("packets_forged", VSOCK, vsock::packets_forged),
];

impl World {
    pub(crate) fn new(memory: Memory, devices: Vec<Device>, seed: u64) -> Self {
        Self { memory, devices, seed, random: StdRng::seed_from_u64(seed) }
    }

    /// Performs all attacks; returns how many the machine did not stand.
    pub(crate) fn attack(&mut self) -> usize {
        let names: Vec<_> = self.devices.iter().map(Device::name).collect();
        ports::say(&format!("seed {}, devices {}", self.seed, names.join(" ")));
        let begun = Instant::now();
        let mut outcomes = vec![self.check("good_order", |world| world.all_work())];
        outcomes.extend(ON_MACHINE.map(|(name, attack)| self.check(name, attack)));
        for number in 0..self.devices.len() {
            let kind = self.devices[number].kind;
            let own = ON_KINDS.into_iter().filter(|attack| attack.1 == kind);
            for (name, attack) in ON_DEVICES.into_iter().chain(own.map(|(name, _, attack)| (name, attack))) {
                outcomes.push(self.check_on(number, name, attack));
            }
        }
        outcomes.push(self.check("good_order_again", |world| world.all_work()));
        self.devices.iter().for_each(interrupts::turn_off);
        let faults = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        ports::say(&format!("{} attacks, {faults} faults, {:?}", outcomes.len(), begun.elapsed()));
        faults
    }

    fn check(&mut self, name: &str, attack: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        ports::say(name);
        let begun = Instant::now();
        let outcome = attack(self).and_then(|()| self.all_work());
        tell(name, begun, &outcome);
        outcome
    }

    fn check_on(&mut self, number: usize, name: &str, attack: OnDevice) -> Outcome {
        let device = &self.devices[number];
        let name = format!("{name} on {}", device.name());
        ports::say(&name);
        let begun = Instant::now();
        let attacked = attack(device, self.memory, &mut self.random);
        interrupts::turn_off(device);
        let outcome = attacked.and_then(|()| good_order::works(device, self.memory));
        tell(&name, begun, &outcome);
        outcome
    }

    fn all_work(&self) -> Outcome {
        let works = |device: &Device| {
            good_order::works(device, self.memory).map_err(|fault| format!("{}: {fault}", device.name()))
        };
        self.devices.iter().try_for_each(works)
    }
}

fn tell(name: &str, begun: Instant, outcome: &Outcome) {
    let took = begun.elapsed().as_millis();
    match outcome {
        Ok(()) => ports::say(&format!("{name}: stood, {took} ms")),
        Err(fault) => ports::say(&format!("{name}: FAULT, {took} ms: {fault}")),
    }
}

/// Runs that on every vCPU at once; each is given its number.
fn on_all_cpus(work: impl Fn(usize) + Sync) {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for cpu in 0..cpus {
            let work = &work;
            scope.spawn(move || {
                let mut one = CpuSet::new();
                one.set(cpu);
                sched_setaffinity(None, &one).unwrap();
                work(cpu);
            });
        }
    });
}

/// Offers a chain that the device need not answer, and waits a little for what it does.
fn provoke(device: &Device, queue: u16, ring: &mut Ring, head: u16) -> Option<Used> {
    offer_for(PATIENCE, device, queue, ring, head)
}

/// Offers a chain that the device has to answer.
fn ask(device: &Device, queue: u16, ring: &mut Ring, head: u16) -> Option<Used> {
    offer_for(LIMIT, device, queue, ring, head)
}

fn offer_for(limit: Duration, device: &Device, queue: u16, ring: &mut Ring, head: u16) -> Option<Used> {
    ring.offer(head);
    device.notify(queue);
    crate::until(limit, || ring.next_used().map(Some).or_else(|| device.needs_reset().then_some(None)))
        .flatten()
}

/// Addresses that are no memory, or the end of it.
fn bad_addresses(memory: Memory) -> [u64; 12] {
    let end = memory.end();
    [
        end - 1,
        end,
        end + 0x1000,
        // The hole for devices: registers, configuration space, interrupt controllers.
        0xc000_0000,
        0xc000_3000,
        0xe000_0000,
        0xfec0_0000,
        0xfee0_0000,
        1 << 32,
        1 << 52,
        !0xfff,
        u64::MAX - 15,
    ]
}
