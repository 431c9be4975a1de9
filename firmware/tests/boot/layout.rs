//! Disks of each kind that the firmware knows, with the same operating system on them.

use std::path::{Path, PathBuf};

use crate::image::{Tree, ext4, fat, gpt, mbr, unified};

pub(crate) const UUID: &str = "4b2f5f9e-94b7-4b60-9d0e-6d8c2f3a7b10";
const GRUB: &str = include_str!("../fixtures/grub-debian-12.cfg");
/// As Debian's grub-install writes it to the ESP.
const STUB: &str = "search.fs_uuid 4b2f5f9e-94b7-4b60-9d0e-6d8c2f3a7b10 root \n\
    set prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n";
const ENTRY: &str = "title Test\nversion 6.1\nsort-key test\nlinux /os/6.1/linux\ninitrd /os/6.1/initrd\n";

/// What is on the disks.
pub(crate) struct Os {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) options: &'static str,
}

/// Makes a disk in a folder.
pub(crate) type Layout = fn(&Path, &Os) -> PathBuf;

/// Each with its name.
pub(crate) const LAYOUTS: [(&str, Layout); 7] = [
    ("entries on the ESP", entries_on_esp),
    ("a unified kernel on the ESP", unified_on_esp),
    ("entries on XBOOTLDR, where the ESP is first", entries_on_xbootldr),
    ("extlinux on a disk that is not divided", extlinux_undivided),
    ("Debian's GRUB, GPT", grub_gpt),
    ("Debian's GRUB, MBR, a stub on the ESP", grub_mbr),
    ("links in Debian's root", links),
];

fn boot_tree(os: &Os) -> Tree {
    Tree::new()
        .with_copy("/os/6.1/linux", &os.kernel)
        .with_copy("/os/6.1/initrd", &os.initrd)
        .with("/loader/loader.conf", "timeout 3\ndefault test-*\n")
        .with("/loader/entries/test-6.1.conf", format!("{ENTRY}options {}\n", os.options))
        .with("/loader/entries/rescue.conf", "title Rescue\nsort-key a\nlinux /no/such/kernel\n")
}

fn entries_on_esp(folder: &Path, os: &Os) -> PathBuf {
    let esp = fat(folder, "esp", 32, &boot_tree(os));
    gpt(folder, "disk", &[(&esp, "ef00")])
}

fn unified_on_esp(folder: &Path, os: &Os) -> PathBuf {
    let image = unified(folder, &os.kernel, &os.initrd, os.options);
    let esp = fat(folder, "esp", 32, &Tree::new().with_copy("/EFI/Linux/os-6.1.efi", &image));
    gpt(folder, "disk", &[(&esp, "ef00")])
}

fn entries_on_xbootldr(folder: &Path, os: &Os) -> PathBuf {
    let esp = fat(folder, "esp", 16, &Tree::new().with("/EFI/BOOT/BOOTX64.EFI", "no kernel"));
    let boot = ext4(folder, "boot", UUID, &boot_tree(os), &[]);
    gpt(folder, "disk", &[(&esp, "ef00"), (&boot, "ea00")])
}

fn extlinux_undivided(folder: &Path, os: &Os) -> PathBuf {
    let menu = format!(
        "default l0\nprompt 0\nlabel l1\n\tlinux /no\nlabel l0\n\tmenu label Test\n\tlinux ../vmlinuz\n\
         \tinitrd /boot/initrd.img\n\tappend {}\n",
        os.options
    );
    let tree = Tree::new()
        .with("/boot/extlinux/extlinux.conf", menu)
        .with_copy("/boot/vmlinuz-6.1", &os.kernel)
        .with_link("/boot/vmlinuz", "vmlinuz-6.1")
        .with_copy("/boot/initrd.img", &os.initrd);
    ext4(folder, "disk", UUID, &tree, &[])
}

/// Debian's own file, with other options for the kernel.
fn grub_tree(os: &Os) -> Tree {
    Tree::new()
        .with("/boot/grub/grub.cfg", GRUB.replace("root=/dev/vda1 ro  quiet", os.options))
        .with_copy("/boot/vmlinuz-6.1.0-57-cloud-amd64", &os.kernel)
        .with_copy("/boot/initrd.img-6.1.0-57-cloud-amd64", &os.initrd)
}

fn grub_gpt(folder: &Path, os: &Os) -> PathBuf {
    let root = ext4(folder, "root", UUID, &grub_tree(os), &[]);
    gpt(folder, "disk", &[(&root, "8304")])
}

fn grub_mbr(folder: &Path, os: &Os) -> PathBuf {
    let esp = fat(folder, "esp", 12, &Tree::new().with("/EFI/debian/grub.cfg", STUB));
    let root = ext4(folder, "root", UUID, &grub_tree(os), &["-O", "^metadata_csum,^64bit", "-b", "1024"]);
    mbr(folder, "disk", &[(&esp, "ef"), (&root, "83")])
}

fn links(folder: &Path, os: &Os) -> PathBuf {
    let tree = Tree::new()
        .with_copy("/boot/vmlinuz-6.1", &os.kernel)
        .with_link("/vmlinuz", "boot/vmlinuz-6.1")
        .with_copy("/boot/initrd.img-6.1", &os.initrd)
        .with_link("/initrd.img", "boot/initrd.img-6.1");
    let root = ext4(folder, "root", UUID, &tree, &[]);
    gpt(folder, "disk", &[(&root, "8304")])
}
