//! Disks that others built: of the format that is stated, whole by themselves, and no larger than allowed.

use std::{fs, process::Command};

use crate::store::{Store, incoming};

fn qemu_img(store: &Store, arguments: &[&str]) {
    let mut command = Command::new("qemu-img");
    let output = command.current_dir(store.file("")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A store with `disk.raw` beside it, and `disk.qcow2` made of that.
fn with_qcow2(options: &[&str]) -> (Store, String) {
    let store = Store::with_disk();
    let convert = [&["convert", "-f", "raw", "-O", "qcow2"], options, &["disk.raw", "disk.qcow2"]].concat();
    qemu_img(&store, &convert);
    let path = store.file("disk.qcow2").to_str().unwrap().to_owned();
    (store, path)
}

fn import<'a>(disk: &'a str, format: &'a str) -> Vec<&'a str> {
    vec!["import", "imported", "--os", "Debian 12", "--format", format, "--disk", disk]
}

/// What an import complains about; nothing of it is in the store.
fn refused(store: &Store, arguments: &[&str]) -> String {
    let said = store.refused(arguments);
    assert_eq!(store.names(), ["debian/12:full"], "nothing is listed");
    assert_eq!(incoming(&store.path().join("imported")), 0, "nothing is left");
    said
}

#[test]
fn a_qcow2_disk_becomes_the_image_that_the_raw_one_is() {
    for options in [&["-o", "compat=1.1"][..], &["-o", "compat=0.10"], &["-c"]] {
        let (store, disk) = with_qcow2(options);
        let imported = store.said(&import(&disk, "qcow2"));
        let built = store.said(&["inspect", "debian/12:full"]);
        assert_eq!(imported["boot"], built["boot"], "{options:?}");
        assert_eq!(imported["digest"], built["digest"]);
        assert_eq!(incoming(&store.path().join("imported")), 0);
    }
}

#[test]
fn a_format_is_what_was_stated_and_never_guessed() {
    let (store, disk) = with_qcow2(&[]);
    let raw = store.file("disk.raw").to_str().unwrap().to_owned();
    let said = refused(&store, &import(&raw, "qcow2"));
    assert!(said.contains("is no qcow2 disk, though it was said to be one"), "{said}");
    // Its bytes are a disk's like any others.
    let imported = store.said(&import(&disk, "raw"));
    assert_eq!(imported["boot"]["disk"]["bytes"], fs::metadata(&disk).unwrap().len());
    let output = store.run(&["import", "a", "--os", "x", "--disk", &disk]);
    assert_eq!(output.status.code(), Some(2), "a disk without a format is not understood");
}

#[test]
fn a_disk_that_names_other_files_is_refused() {
    let (store, _) = with_qcow2(&[]);
    qemu_img(&store, &["create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "over.qcow2"]);
    let over = store.file("over.qcow2").to_str().unwrap().to_owned();
    let said = refused(&store, &import(&over, "qcow2"));
    assert!(said.contains("over.qcow2") && said.contains("has a backing file"), "{said}");
    let external = "data_file=data.raw,data_file_raw=on";
    qemu_img(&store, &["create", "-q", "-f", "qcow2", "-o", external, "external.qcow2", "1M"]);
    let external = store.file("external.qcow2").to_str().unwrap().to_owned();
    let said = refused(&store, &import(&external, "qcow2"));
    assert!(said.contains("its data is in another file"), "{said}");
}

#[test]
fn a_small_file_does_not_become_a_huge_disk() {
    let store = Store::with_disk();
    qemu_img(&store, &["create", "-q", "-f", "qcow2", "huge.qcow2", "100G"]);
    let huge = store.file("huge.qcow2").to_str().unwrap().to_owned();
    let said = refused(&store, &import(&huge, "qcow2"));
    assert!(said.contains("would become a disk of 107374182400 bytes"), "{said}");
    let mut allowed = import(&huge, "qcow2");
    allowed.extend(["--max-size", "1TiB"]);
    let imported = store.said(&allowed);
    assert_eq!(imported["boot"]["disk"]["bytes"], 107_374_182_400u64);
}

#[test]
fn a_disk_that_lies_about_itself_fails_within_its_walls() {
    let (store, disk) = with_qcow2(&[]);
    let whole = fs::read(&disk).unwrap();
    // Tables of clusters that are nowhere, and a file that ends too soon.
    let mut wild = whole.clone();
    wild[40..48].copy_from_slice(&0x00ff_ffff_ffff_0000u64.to_be_bytes());
    fs::write(&disk, wild).unwrap();
    let said = refused(&store, &import(&disk, "qcow2"));
    assert!(said.contains("disk.qcow2") && said.contains("qemu-img gave up"), "{said}");
    for kept in [whole.len() - 131_072, 200, 100] {
        fs::write(&disk, &whole[..kept]).unwrap();
        let said = refused(&store, &import(&disk, "qcow2"));
        assert!(said.contains("disk.qcow2"), "{said}");
    }
    let missing = store.file("missing").to_str().unwrap().to_owned();
    let said = refused(&store, &import(&missing, "qcow2"));
    assert!(said.contains("cannot read"), "{said}");
}

#[test]
fn a_kernel_and_its_ram_disk_are_imported_as_they_are() {
    let store = Store::with_kernel();
    let (kernel, initrd) = (store.write("k", b"a kernel"), store.write("i", b"a RAM disk"));
    let files = ["--kernel", &kernel, "--initrd", &initrd, "--command-line", "console=ttyS0"];
    let imported = store.said(&[&["import", "copy", "--os", "Debian 12 (micro)"], &files[..]].concat());
    assert_eq!(imported["digest"], store.digest("debian/micro"));
}

#[test]
fn a_folder_that_our_recipes_made_says_itself_what_it_is() {
    let store = Store::new();
    let folder = store.file("debian-micro");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("vmlinuz"), "kernel").unwrap();
    let text = r#"{"name":"debian-micro","os":"Debian 12 (micro)","kernel_release":"6.12.1","kernel":"vmlinuz",
        "command_line":"console=ttyS0"}"#;
    fs::write(folder.join("image.json"), text).unwrap();
    let built = store.said(&["build", "debian-micro", "--from", folder.to_str().unwrap()]);
    assert_eq!(built["os"], "Debian 12 (micro)");
    assert_eq!(built["kernel_release"], "6.12.1");
    assert_eq!(built["created"], "2025-11-24T16:00:00Z");
    assert_eq!(store.names(), ["debian-micro:latest"]);

    let with_disk = Store::with_disk();
    let text = r#"{"name":"debian-12","os":"Debian 12","kernel_release":"6.1.0","disk":"disk.raw"}"#;
    with_disk.write("image.json", text.as_bytes());
    let built = with_disk.said(&["build", "again", "--from", with_disk.file("").to_str().unwrap()]);
    assert_eq!(built["boot"], with_disk.said(&["inspect", "debian/12:full"])["boot"]);
}
