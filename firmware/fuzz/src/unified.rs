//! The start of a unified kernel image.

use std::fs;
use std::process::{Command, Stdio};

use sublet_firmware::config::unified;
use tempfile::TempDir;

use crate::Seed;

pub fn run(input: &[u8]) {
    let bytes = input.len() as u64 * 2;
    let start = &input[..input.len().min(unified::START_BYTES)];
    if let Ok(image) = unified::parse(start, bytes) {
        let ranges =
            image.initrds.iter().chain([&image.linux]).chain(&image.command_line).chain(&image.description);
        for range in ranges {
            assert!(range.start <= range.end && range.end <= bytes, "{range:?} of {bytes}");
        }
    }
    let _ = unified::command_line(input);
    let _ = unified::os_release(&String::from_utf8_lossy(input), "ID");
}

/// A program with sections, as the system's own tool makes it.
pub fn seeds() -> Vec<Seed> {
    let folder = TempDir::new().unwrap();
    let (path, text) = (folder.path().join("image"), folder.path().join("text"));
    fs::write(&text, "ID=debian\n").unwrap();
    let mut objcopy = Command::new("objcopy");
    for (section, address) in
        [(".osrel", 0x20000), (".cmdline", 0x30000), (".linux", 0x40000), (".initrd", 0x50000)]
    {
        objcopy.args(["--add-section", &format!("{section}={}", text.display())]);
        objcopy.args(["--change-section-vma", &format!("{section}={address:#x}")]);
    }
    let status =
        objcopy.arg("/usr/lib/systemd/boot/efi/linuxx64.efi.stub").arg(&path).stderr(Stdio::null()).status();
    assert!(status.unwrap().success(), "objcopy");
    let mut start = fs::read(path).unwrap();
    start.truncate(unified::START_BYTES);
    vec![("stub", start)]
}
