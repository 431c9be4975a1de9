//! Disks with a layer, as a guest sees them, and the host.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    thread,
};

use sublet_vmm_protocol::{
    BaseFiles, Control, ControlError, DiskConfig, DiskKey, Ended, LayerConfig, PROTOCOL_VERSION, RefusalCode,
    Request,
    config::{CHUNK_BYTES, layered_file_bytes, map_of_arrived_bytes},
};

use crate::vmm::{Image, MODULES, Vmm, comes_true, machine};

const MIB: u64 = 1 << 20;
/// What lies under a disk ends within a chunk.
const BASE_BYTES: u64 = 5 * MIB / 2 - 512;

/// What lies under a disk: sevens.
fn sevens(name: &str) -> File {
    let path = format!("/var/lib/sublet/{name}.base");
    fs::write(&path, vec![7; BASE_BYTES as usize]).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

/// A disk of 4 MiB with a key.
fn layered_disk(name: &str, key: u8, direct: bool) -> DiskConfig {
    let path = PathBuf::from(format!("/var/lib/sublet/{name}.own"));
    if !path.exists() {
        fs::write(&path, vec![0; layered_file_bytes(4 * MIB) as usize]).unwrap();
    }
    let layer = LayerConfig { bytes: 4 * MIB, key: DiskKey::new([key; 64]) };
    DiskConfig { direct, layer: Some(layer), ..DiskConfig::new(path) }
}

fn whole(content: File) -> BaseFiles {
    BaseFiles { content, arrived: None }
}

#[test]
fn a_layered_disk_keeps_what_the_guest_writes_where_nobody_can_read_it_and_shows_what_lies_under_it() {
    const COUNT: &str =
        "count() { dd if=/dev/$1 bs=512 skip=$2 count=$3 2>/dev/null | tr -d \"$4\" | wc -c; }";
    const SAME: &str = "for d in vda vdb; do dd if=/dev/$d bs=64k skip=1 count=8 2>/dev/null | \
                        cmp -sn 524288 - /bin/busybox && echo $d same; done";
    // Something lies under the first alone.
    let disks = || [layered_disk("cached", 1, false), layered_disk("past-the-cache", 2, true)];
    let mut config = machine(2);
    config.disks = disks().to_vec();
    let mut vmm = Vmm::prepare(config);
    let source = Image::Elf612.running(&format!(
        "{MODULES}; {COUNT}; for d in vda vdb; do \
         dd if=/bin/busybox of=/dev/$d bs=64k seek=1 count=8 conv=fsync; \
         dd if=/bin/busybox of=/dev/$d bs=512 seek=4100 count=1 conv=fsync; done; \
         echo 3 >/proc/sys/vm/drop_caches; {SAME}; \
         echo vda not sevens $(count vda 0 128 '\\007') $(count vda 4101 1018 '\\007'); \
         echo vdb not zeroes $(count vdb 0 128 '\\000') $(count vdb 4101 1018 '\\000'); \
         for d in vda vdb; do echo $d not zeroes $(count $d 5119 3073 '\\000'); done; poweroff -f"
    ));
    vmm.try_to_boot_over(source, BASE_BYTES, whole(sevens("shown"))).unwrap();
    assert_eq!(vmm.end(), Ended::PoweredOff);
    let console = vmm.console();
    for said in [
        "vda same",
        "vdb same",
        "vda not sevens 0 0",
        "vdb not zeroes 0 0",
        "vda not zeroes 0",
        "vdb not zeroes 0",
    ] {
        assert!(console.contains(said), "{said}: {console}");
    }
    for DiskConfig { path, .. } in disks() {
        let own = fs::read(&path).unwrap();
        assert!(!own.windows(7).any(|bytes| bytes == b"BusyBox" || bytes == [7; 7]), "it can be read");
        assert!(own.iter().any(|byte| *byte != 0));
    }
    let base = fs::read("/var/lib/sublet/shown.base").unwrap();
    assert!(base.iter().all(|byte| *byte == 7), "what lies under it was written to");

    let process = vmm.process();
    drop(vmm);
    assert!(comes_true(|| !process.lives()));
    // Another machine with the first disk's key, and without the second's.
    let mut config = machine(1);
    config.disks = vec![layered_disk("cached", 1, false), layered_disk("past-the-cache", 3, true)];
    let mut vmm = Vmm::prepare(config);
    vmm.boot(Image::Elf612.running(&format!("{MODULES}; {SAME}; poweroff -f")));
    assert_eq!(vmm.end(), Ended::PoweredOff);
    let console = vmm.console();
    assert!(console.contains("vda same") && !console.contains("vdb same"), "{console}");
}

/// Brings chunks as they are wanted, and never this one, until the machine is gone.
fn supply(mut control: Control, content: &File, map: &File, never: u64) {
    let mut arrived = vec![0; map_of_arrived_bytes(BASE_BYTES) as usize];
    let mut generation = 0;
    while let Ok(wanted) = control.wanted(generation) {
        generation = wanted.generation;
        for chunk in wanted.chunks.iter().filter(|chunk| **chunk != never) {
            let start = chunk * CHUNK_BYTES;
            let bytes = CHUNK_BYTES.min(BASE_BYTES - start) as usize;
            content.write_all_at(&vec![7; bytes], start).unwrap();
            arrived[(chunk / 8) as usize] |= 1 << (chunk % 8);
            map.write_all_at(&arrived, 0).unwrap();
        }
        let failed = wanted.chunks.into_iter().filter(|chunk| *chunk == never).collect();
        let told = control.request(&Request::Arrived { version: PROTOCOL_VERSION, failed });
        assert!(told.is_ok() || matches!(told, Err(ControlError::Line(_))), "{told:?}");
    }
}

#[test]
fn what_lies_under_a_disk_arrives_while_the_guest_waits_for_it_and_what_never_does_is_an_error() {
    const NEVER: u64 = 30;
    let mut config = machine(1);
    config.disks = vec![layered_disk("arriving", 4, false)];
    let socket = config.control_socket.clone();
    let mut vmm = Vmm::prepare(config);
    let content = sevens("arriving");
    content.set_len(0).unwrap();
    content.set_len(BASE_BYTES).unwrap();
    let map =
        File::options().create(true).truncate(true).read(true).write(true).open("/run/arriving.map").unwrap();
    map.set_len(map_of_arrived_bytes(BASE_BYTES)).unwrap();
    let base = BaseFiles { content: content.try_clone().unwrap(), arrived: Some(map.try_clone().unwrap()) };
    let source = Image::Elf612.running(&format!(
        "{MODULES}; count() {{ dd if=/dev/vda bs=64k skip=$1 count=$2 | tr -d '\\007' | wc -c; }}; \
         echo not sevens $(count 0 {NEVER}) $(dd if=/dev/vda bs=512 skip=$((39 * 128)) count=127 | tr -d '\\007' | wc -c); \
         dd if=/dev/vda of=/dev/null bs=64k skip={NEVER} count=1 || echo there is an error; poweroff -f"
    ));
    vmm.try_to_boot_over(source, BASE_BYTES, base).unwrap();
    let control = Control::connect(&socket).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| supply(control, &content, &map, NEVER));
        assert_eq!(vmm.end(), Ended::PoweredOff);
        let console = vmm.console();
        assert!(console.contains("not sevens 0 0") && console.contains("there is an error"), "{console}");
        drop(vmm);
    });
}

#[test]
fn what_cannot_lie_under_a_disk_is_refused_by_name_and_the_machine_can_still_be_booted() {
    let mut config = machine(1);
    config.disks = vec![layered_disk("refused", 5, false)];
    let mut vmm = Vmm::prepare(config);
    let source = || Image::Elf612.running("poweroff -f");
    for (bytes, content, wanted) in [
        (5 * MIB, sevens("refused"), "must have 5242880"),
        (0, sevens("refused"), "is 0"),
        (512, File::open("/dev/null").unwrap(), "not a file"),
    ] {
        let refused = vmm.try_to_boot_over(source(), bytes, whole(content)).unwrap_err();
        let ControlError::Refused(refusal) = refused else { panic!("{refused}") };
        assert_eq!(refusal.code, RefusalCode::BadBootSource);
        assert!(refusal.message.contains(wanted), "{}", refusal.message);
    }
    let larger = sevens("refused");
    larger.set_len(8 * MIB).unwrap();
    let refused = vmm.try_to_boot_over(source(), 8 * MIB, whole(larger)).unwrap_err().to_string();
    assert!(refused.contains("8388608 bytes, and the disk 4194304 alone"), "{refused}");
    vmm.boot(source());
    assert_eq!(vmm.end(), Ended::PoweredOff);
}
