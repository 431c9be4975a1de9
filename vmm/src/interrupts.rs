//! How devices interrupt the guest: event descriptors that KVM turns into interrupts, without this process in
//! between.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use thiserror::Error;
use vmm_sys_util::{errno, eventfd::EventFd};

/// Pins of the I/O APIC; message-signalled interrupts are numbered after them.
const IOAPIC_PINS: u32 = 24;

#[derive(Debug, Error)]
pub enum InterruptError {
    #[error("cannot make an event descriptor for an interrupt")]
    Event(#[source] std::io::Error),
    #[error("cannot route interrupts")]
    Routes(#[source] errno::Error),
    #[error("cannot connect interrupt {gsi}")]
    Connect { gsi: u32, source: errno::Error },
    #[error("too many interrupts for one table")]
    TooMany,
}

/// What a message-signalled interrupt writes, and where (PCI Local Bus 3.0, 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Message {
    pub address: u64,
    pub data: u32,
}

/// A way from an event descriptor to the guest that the guest itself connects and disconnects.
pub trait MessageLine: Send {
    /// What a device writes to in order to interrupt. Written while disconnected it stays pending, and interrupts
    /// when it is connected.
    fn event(&self) -> &EventFd;
    fn connect(&mut self, message: Message) -> Result<(), InterruptError>;
    fn disconnect(&mut self) -> Result<(), InterruptError>;
}

/// The interrupt lines of one virtual machine.
#[derive(Debug)]
pub struct Interrupts {
    vm: Arc<VmFd>,
    /// The whole table; KVM takes no part of one.
    routes: Mutex<Vec<kvm_irq_routing_entry>>,
    next_gsi: Mutex<u32>,
}

impl Interrupts {
    pub fn new(vm: Arc<VmFd>) -> Result<Arc<Self>, InterruptError> {
        let routes = pin_routes();
        set_routes(&vm, &routes)?;
        Ok(Arc::new(Self { vm, routes: Mutex::new(routes), next_gsi: Mutex::new(IOAPIC_PINS) }))
    }

    /// An edge-triggered line to a pin of the I/O APIC.
    pub fn pin(&self, gsi: u32) -> Result<EventFd, InterruptError> {
        let event = new_event()?;
        self.vm.register_irqfd(&event, gsi).map_err(|source| InterruptError::Connect { gsi, source })?;
        Ok(event)
    }

    /// A line for a message-signalled interrupt, not connected yet.
    pub fn message_line(self: &Arc<Self>) -> Result<Box<dyn MessageLine>, InterruptError> {
        let mut next = self.next_gsi.lock().unwrap_or_else(PoisonError::into_inner);
        let line = KvmLine { interrupts: self.clone(), gsi: *next, event: new_event()?, connected: false };
        *next += 1;
        Ok(Box::new(line))
    }

    fn route(&self, gsi: u32, message: Message) -> Result<(), InterruptError> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let others = routes.iter().filter(|route| route.gsi != gsi).copied();
        let wanted: Vec<_> = others.chain([message_route(gsi, message)]).collect();
        set_routes(&self.vm, &wanted)?;
        *routes = wanted;
        Ok(())
    }
}

struct KvmLine {
    interrupts: Arc<Interrupts>,
    gsi: u32,
    event: EventFd,
    connected: bool,
}

impl MessageLine for KvmLine {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn connect(&mut self, message: Message) -> Result<(), InterruptError> {
        self.interrupts.route(self.gsi, message)?;
        if !self.connected {
            let gsi = self.gsi;
            let vm = &self.interrupts.vm;
            // KVM looks whether the descriptor has been written already, so nothing pending is lost.
            vm.register_irqfd(&self.event, gsi).map_err(|source| InterruptError::Connect { gsi, source })?;
            self.connected = true;
        }
        Ok(())
    }

    fn disconnect(&mut self) -> Result<(), InterruptError> {
        if self.connected {
            let gsi = self.gsi;
            let vm = &self.interrupts.vm;
            vm.unregister_irqfd(&self.event, gsi)
                .map_err(|source| InterruptError::Connect { gsi, source })?;
            self.connected = false;
        }
        Ok(())
    }
}

fn new_event() -> Result<EventFd, InterruptError> {
    EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(InterruptError::Event)
}

fn set_routes(vm: &VmFd, routes: &[kvm_irq_routing_entry]) -> Result<(), InterruptError> {
    let table = KvmIrqRouting::from_entries(routes).map_err(|_| InterruptError::TooMany)?;
    vm.set_gsi_routing(&table).map_err(InterruptError::Routes)
}

/// Pins go to the I/O APIC alone. KVM would have the first 16 go to two PICs as well, which our machine has not (ACPI 6.5,
/// 5.2.12, no PCAT_COMPAT) and no kernel programs: until it has closed the local APIC's way for them, pin 5 would be the
/// processor's exception 5.
fn pin_routes() -> Vec<kvm_irq_routing_entry> {
    (0..IOAPIC_PINS).map(pin_route).collect()
}

fn pin_route(pin: u32) -> kvm_irq_routing_entry {
    let mut route = kvm_irq_routing_entry { gsi: pin, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    route.u.irqchip = kvm_irq_routing_irqchip { irqchip: KVM_IRQCHIP_IOAPIC, pin };
    route
}

fn message_route(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    let mut route = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    route.u.msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    route
}
