//! ACPI tables (ACPI 6.5): what the machine has, in the words that stock kernels look for.
//!
//! Hardware-reduced ACPI: no chipset registers, no SMI, no system control interrupt. Power button, sleep and reset
//! each have the plain register or interrupt that `devices::power` serves.

use acpi_tables::{
    Aml,
    aml::{
        AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Method, Name,
        Notify, Package, Path, ResourceTemplate, Scope,
    },
    fadt::{FADTBuilder, Flags, PmProfile},
    gas::{AccessSize, AddressSpace as Space, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    mcfg::MCFG,
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};

use crate::{
    arch::layout,
    devices::power::{RESET_VALUE, SLEEP_TYPE_OFF},
};

const OEM_ID: [u8; 6] = *b"SUBLET";
const OEM_TABLE_ID: [u8; 8] = *b"SUBLETVM";
const OEM_REVISION: u32 = 1;
/// Tables start at addresses that are multiples of this.
const ALIGNMENT: usize = 8;
/// FADT, x86 boot flags: no VGA (ACPI 6.5, table 5.11). That there is a keyboard controller is not
/// said: it can only reset, which is tried without asking, and looking for a keyboard takes a kernel long.
const BOOT_NO_VGA: u16 = 1 << 2;
/// Notification of a pressed button (ACPI 6.5, table 5.150).
const BUTTON_PRESSED: u8 = 0x80;

/// All tables, to be written at [`layout::ACPI_START`]; the root pointer comes first.
pub fn tables(vcpus: u8) -> Vec<u8> {
    let mut blob = Blob { bytes: vec![0; Rsdp::len()] };
    let dsdt = blob.add(&dsdt());
    let tables = [blob.add(&fadt(dsdt)), blob.add(&madt(vcpus)), blob.add(&mcfg())];
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    tables.into_iter().for_each(|table| xsdt.add_entry(table));
    let xsdt = blob.add(&xsdt);
    let mut root = Vec::new();
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut root);
    blob.bytes[..root.len()].copy_from_slice(&root);
    blob.bytes
}

/// Tables one after another.
struct Blob {
    bytes: Vec<u8>,
}

impl Blob {
    /// Appends a table; returns its address in the guest.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let address = layout::ACPI_START + self.bytes.len() as u64;
        table.to_aml_bytes(&mut self.bytes);
        address
    }
}

fn fadt(dsdt: u64) -> impl Aml {
    let port = |port: u16| GAS::new(Space::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        .flag(Flags::Headless)
        // Both buttons, where there are any, are devices in the DSDT.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = BOOT_NO_VGA.into();
    fadt.reset_reg = port(layout::RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS_PORT);
    fadt.finalize()
}

fn madt(vcpus: u8) -> impl Aml {
    let local_apics = LocalInterruptController::Address(layout::LOCAL_APIC_START);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, local_apics);
    for vcpu in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(vcpu, vcpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IO_APIC_START, 0));
    madt
}

fn mcfg() -> impl Aml {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout::PCI_ECAM_START, 0, 0, 0);
    mcfg
}

fn dsdt() -> impl Aml {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut code = Vec::new();
    sleep_states(&mut code);
    pci_host_bridge(&mut code);
    reserved_resources(&mut code);
    serial_port(&mut code);
    clock(&mut code);
    power_button(&mut code);
    pvpanic(&mut code);
    dsdt.append_slice(&code);
    dsdt
}

/// `\_S5`: only "off" can be slept into.
fn sleep_states(code: &mut Vec<u8>) {
    Name::new("_S5_".into(), &Package::new(vec![&SLEEP_TYPE_OFF])).to_aml_bytes(code);
}

fn pci_host_bridge(code: &mut Vec<u8>) {
    let address = layout::PCI_CONFIG_ADDRESS_PORT;
    let last = layout::PCI_BARS_END as u32 - 1;
    let uncached = AddressSpaceCacheable::NotCacheable;
    let resources = ResourceTemplate::new(vec![
        &AddressSpace::new_bus_number(0u16, 0u16) as &dyn Aml,
        &IO::new(address, address, 1, 8),
        &AddressSpace::new_memory(uncached, true, layout::PCI_BARS_START as u32, last, None),
    ])
    .bytes();
    device(
        code,
        "PCI0",
        &[
            (&Name::new("_HID".into(), &EISAName::new("PNP0A08"))),
            (&Name::new("_CID".into(), &EISAName::new("PNP0A03"))),
            (&Name::new("_UID".into(), &0u8)),
            (&Name::new("_SEG".into(), &0u8)),
            (&Name::new("_CRS".into(), &Raw(resources))),
        ],
    );
}

/// The configuration space in memory belongs to nobody else; Linux uses it only where it is said to be so.
fn reserved_resources(code: &mut Vec<u8>) {
    let start = layout::PCI_ECAM_START as u32;
    let resources =
        ResourceTemplate::new(vec![&Memory32Fixed::new(true, start, layout::PCI_ECAM_SIZE as u32)]).bytes();
    device(
        code,
        "MBRD",
        &[
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_CRS".into(), &Raw(resources)),
        ],
    );
}

fn serial_port(code: &mut Vec<u8>) {
    let (port, ports) = (layout::COM1_PORT, layout::COM1_PORTS as u8);
    let resources = ResourceTemplate::new(vec![
        &IO::new(port, port, 1, ports) as &dyn Aml,
        &Interrupt::new(true, true, false, false, layout::COM1_GSI),
    ])
    .bytes();
    device(
        code,
        "COM1",
        &[
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_DDN".into(), &"COM1"),
            &Name::new("_CRS".into(), &Raw(resources)),
        ],
    );
}

/// Without an interrupt: it has no alarm.
fn clock(code: &mut Vec<u8>) {
    let port = layout::RTC_INDEX_PORT;
    let resources = ResourceTemplate::new(vec![&IO::new(port, port, 1, 2)]).bytes();
    device(
        code,
        "RTC0",
        &[&Name::new("_HID".into(), &EISAName::new("PNP0B00")), &Name::new("_CRS".into(), &Raw(resources))],
    );
}

/// The button, and the generic event device (ACPI 6.5, 5.6.9) whose interrupt says that it was pressed.
fn power_button(code: &mut Vec<u8>) {
    device(
        code,
        "PWRB",
        &[&Name::new("_HID".into(), &EISAName::new("PNP0C0C")), &Name::new("_UID".into(), &0u8)],
    );
    let resources =
        ResourceTemplate::new(vec![&Interrupt::new(true, true, false, false, layout::POWER_BUTTON_GSI)])
            .bytes();
    device(
        code,
        "GED_",
        &[
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_CRS".into(), &Raw(resources)),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &BUTTON_PRESSED)],
            ),
        ],
    );
}

fn pvpanic(code: &mut Vec<u8>) {
    let port = layout::PVPANIC_PORT;
    let resources = ResourceTemplate::new(vec![&IO::new(port, port, 1, 1)]).bytes();
    device(
        code,
        "PEVT",
        &[&Name::new("_HID".into(), &"QEMU0001"), &Name::new("_CRS".into(), &Raw(resources))],
    );
}

fn device(code: &mut Vec<u8>, name: &str, parts: &[&dyn Aml]) {
    let device = Device::new(name.into(), parts.to_vec());
    Scope::new("\\_SB_".into(), vec![&device]).to_aml_bytes(code);
}

/// AML that has been written out already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

trait Bytes {
    fn bytes(&self) -> Vec<u8>;
}

impl<T: Aml> Bytes for T {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.to_aml_bytes(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// The table at a guest address, by its own length.
    fn table(blob: &[u8], address: u64) -> &[u8] {
        let at = (address - layout::ACPI_START) as usize;
        &blob[at..at + word(blob, at + 4) as usize]
    }

    fn listed(blob: &[u8]) -> Vec<&[u8]> {
        let xsdt = table(blob, u64::from_le_bytes(blob[24..32].try_into().unwrap()));
        let entries = xsdt[36..].as_chunks::<8>().0;
        entries.iter().map(|entry| table(blob, u64::from_le_bytes(*entry))).collect()
    }

    #[test]
    fn every_table_is_found_from_the_root_and_adds_up() {
        let blob = tables(2);
        assert_eq!(&blob[..8], b"RSD PTR ");
        let names: Vec<_> = listed(&blob).iter().map(|table| &table[..4]).collect();
        assert_eq!(names, [b"FACP", b"APIC", b"MCFG"]);
        for table in listed(&blob) {
            assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "{:?}", &table[..4]);
        }
    }

    #[test]
    fn the_fadt_leads_to_a_dsdt_that_adds_up() {
        let blob = tables(1);
        let fadt = listed(&blob)[0];
        let dsdt = table(&blob, u64::from_le_bytes(fadt[140..148].try_into().unwrap()));
        assert_eq!(&dsdt[..4], b"DSDT");
        assert_eq!(dsdt.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }

    #[test]
    fn there_is_a_local_apic_a_vcpu() {
        for vcpus in [1, 2, 32] {
            let blob = tables(vcpus);
            let mut rest = &listed(&blob)[1][44..];
            let mut ids = vec![];
            while let [kind, length, _, id, ..] = rest {
                if *kind == 0 {
                    ids.push(*id);
                }
                rest = &rest[*length as usize..];
            }
            assert_eq!(ids, (0..vcpus).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_tables_of_the_largest_machine_fit() {
        let largest = tables(sublet_vmm_protocol::config::VCPU_MAX as u8);
        assert!(largest.len() as u64 <= layout::ACPI_END - layout::ACPI_START);
    }
}
