//! The firmware in a machine of ours: it finds the kernel on a disk.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use sublet_vmm_protocol::{BootFiles, DiskConfig, Ended};

use crate::vmm::{Image, MODULES, Vmm, disk, machine};

/// Where `lab.rs` has put it.
const FIRMWARE: &str = "/tmp/firmware";

fn run(arguments: &[&str]) {
    let status = Command::new("/bin/busybox").args(arguments).status().unwrap();
    assert!(status.success(), "{arguments:?}: {status}");
}

/// A disk with an ext2 that has these files.
fn file_system(name: &str, bytes: u64, files: &[(&str, &Path)]) -> DiskConfig {
    let path = PathBuf::from(format!("/var/lib/sublet/{name}.disk"));
    fs::File::create(&path).unwrap().set_len(bytes).unwrap();
    let (image, folder) = (path.to_str().unwrap(), format!("/run/{name}"));
    fs::create_dir_all(&folder).unwrap();
    run(&["mke2fs", "-F", image]);
    run(&["mount", "-t", "ext2", "-o", "loop", image, &folder]);
    for (file, from) in files {
        let place = PathBuf::from(format!("{folder}{file}"));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(from, place).unwrap();
    }
    run(&["umount", "-d", &folder]);
    DiskConfig::new(path)
}

#[test]
fn the_firmware_starts_the_kernel_that_it_finds_on_a_disk_with_options_of_both() {
    let source = Image::BzImage61
        .running(&format!("{MODULES}; cat /proc/cmdline; cmp /dev/vda /dev/zero; echo looked; poweroff -f"));
    let menu = PathBuf::from("/run/extlinux.conf");
    let text = format!(
        "default debian\nlabel debian\n linux /vmlinuz\n initrd /initrd.img\n append {}\n",
        source.command_line
    );
    fs::write(&menu, text).unwrap();
    let files = [
        ("/vmlinuz", source.kernel.as_path()),
        ("/initrd.img", &source.initrd),
        ("/extlinux/extlinux.conf", &menu),
    ];
    let mut config = machine(1);
    // The first disk has nothing to start.
    config.disks = vec![disk("seed", 1 << 20), file_system("bootable", 64 << 20, &files)];
    let mut vmm = Vmm::prepare(config);
    let firmware = BootFiles::open(Path::new(FIRMWARE), None).unwrap();
    vmm.start(&firmware, "the-vmm=says-so").unwrap();
    assert_eq!(vmm.end(), Ended::PoweredOff);
    let console = vmm.console();
    for line in [
        "started by Linux's boot protocol, with 191 MiB",
        "vda: nothing to start.",
        "vdb/vmlinuz: debian",
        "Starting Linux after ",
    ] {
        assert!(console.contains(line), "{line}: {console}");
    }
    assert!(console.contains("the-vmm=says-so\r\n") && console.contains("looked"), "{console}");
}

#[test]
fn the_firmware_says_what_it_lacks_and_halts_where_there_is_no_operating_system() {
    let mut config = machine(1);
    config.disks = vec![disk("nothing", 1 << 20)];
    let mut vmm = Vmm::prepare(config);
    vmm.start(&BootFiles::open(Path::new(FIRMWARE), None).unwrap(), "").unwrap();
    vmm.wait_for("No disk has an operating system that can be started. Halted.");
    assert!(vmm.console().contains("vda: no file system that is known here."), "{}", vmm.console());
}
