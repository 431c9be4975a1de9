//! Registers and configuration space, read and written as no driver does.

use rand::{RngExt as _, rngs::StdRng};

use crate::{
    Outcome,
    device::{DRIVER_OK, Device, NO_VECTOR},
    good_order,
    memory::{Memory, physical},
    pci::{BAR0, COMMAND},
    ports,
    registers::Window,
};

const ACCESSES: u32 = 800;
/// Bytes of the registers.
const REGISTERS: usize = 0x8000;
/// Configuration space in memory, and a function's and a slot's part of it.
const ECAM: u64 = 0xe000_0000;
const ECAM_BYTES: usize = 1 << 20;
const ECAM_FUNCTION: usize = 4096;
const FUNCTIONS: usize = 8;
/// Configuration space by ports.
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

/// Any value that does not start a device by chance, which might then write over the guest's kernel.
fn harmless(random: &mut StdRng) -> u64 {
    random.random::<u64>() & !u64::from_le_bytes([DRIVER_OK; 8])
}

fn misuse(window: Window, random: &mut StdRng) {
    let bytes = 1 << random.random_range(0..4);
    let offset = random.random_range(0..=window.bytes() - bytes);
    match random.random() {
        true => window.put_sized(offset, bytes, harmless(random)),
        false => _ = window.get_sized(offset, bytes),
    }
}

/// Any register in any size, at any offset, before the driver is ready and after.
pub(super) fn registers_in_odd_sizes(device: &Device, memory: Memory, random: &mut StdRng) -> Outcome {
    device.reset()?;
    (0..ACCESSES).for_each(|_| misuse(device.registers, random));
    let _rings = device.start(memory, NO_VECTOR)?;
    (0..ACCESSES).for_each(|_| misuse(device.registers, random));
    let common = 0x38;
    for bytes in [1, 2, 4, 8] {
        (0..common).for_each(|offset| _ = device.registers.get_sized(offset, bytes));
    }
    assert_eq!(device.registers.bytes(), REGISTERS);
    Ok(())
}

/// The function's address is moved over memory and over other devices, its registers are turned off, everything else in
/// its configuration space is written, by memory and by ports, while the device is in use.
pub(super) fn configuration_rewritten(device: &Device, memory: Memory, random: &mut StdRng) -> Outcome {
    let ecam = Window::map(&physical().unwrap(), ECAM, ECAM_BYTES).map_err(|error| error.to_string())?;
    let before = device.function.header();
    let mut rings = device.start(memory, NO_VECTOR)?;
    move_registers(device, memory, ecam)?;
    good_order::serves(device, memory, &mut rings)?;
    device.function.set_config(COMMAND, &[0, 0]);
    device.notify_all();
    let _ = device.status();
    device.function.set_config(COMMAND, &before[COMMAND as usize..COMMAND as usize + 2]);
    good_order::serves(device, memory, &mut rings)?;
    (0..ACCESSES).for_each(|_| misuse_by_memory(device, ecam, random));
    (0..ACCESSES).for_each(|_| misuse_by_ports(device, random));
    device.function.set_config(COMMAND, &before[COMMAND as usize..COMMAND as usize + 2]);
    device.function.set_config(BAR0, &before[BAR0 as usize..BAR0 as usize + 4]);
    let after = device.function.header();
    // But for the interrupt line, which is the guest's to write.
    if before[..0x3c] == after[..0x3c] { Ok(()) } else { Err(format!("{before:x?} became {after:x?}")) }
}

fn move_registers(device: &Device, memory: Memory, ecam: Window) -> Outcome {
    let place = usize::from(device.function.slot()) * FUNCTIONS * ECAM_FUNCTION + BAR0 as usize;
    let was: u32 = ecam.get(place);
    let next_device = was ^ REGISTERS as u32;
    for address in [0, memory.start() as u32, next_device, 0xfee0_0000, ECAM as u32, 0xffff_0000] {
        ecam.put(place, address);
        if ecam.get::<u32>(place) != was {
            return Err(format!("its registers moved to {:#x}", ecam.get::<u32>(place)));
        }
    }
    // Asked for its size, it is still where it was.
    ecam.put(place, u32::MAX);
    let _ = device.status();
    ecam.put(place, was);
    Ok(())
}

/// Half of it this function's, half of it anything's.
fn misuse_by_memory(device: &Device, ecam: Window, random: &mut StdRng) {
    let bytes = 1 << random.random_range(0..4);
    let offset = match random.random() {
        true => {
            let start = usize::from(device.function.slot()) * FUNCTIONS * ECAM_FUNCTION;
            start + random.random_range(0..256)
        }
        false => random.random_range(0..=ECAM_BYTES - bytes),
    };
    match random.random() {
        true => ecam.put_sized(offset, bytes, harmless(random)),
        false => _ = ecam.get_sized(offset, bytes),
    }
}

/// The reset register lies among these ports; one byte there with bit 2 set would end the machine.
fn misuse_by_ports(device: &Device, random: &mut StdRng) {
    let slot = u32::from(device.function.slot()) << 11;
    let address =
        if random.random() { ENABLE | slot | random.random::<u8>() as u32 } else { random.random() };
    ports::write(CONFIG_ADDRESS, 4, address);
    let bytes = 1 << random.random_range(0..3);
    let port = CONFIG_DATA + random.random_range(0..4);
    match random.random_range(0..4) {
        0 => ports::write(port, bytes, harmless(random) as u32),
        1 => ports::write(CONFIG_ADDRESS + random.random_range(0..4), bytes, harmless(random) as u32),
        _ => _ = ports::read(port, bytes),
    }
}
