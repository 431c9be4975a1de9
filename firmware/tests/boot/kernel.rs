//! Kernels: one that is none but looks like one, and Debian's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::layout::Os;

/// Of which the first is the header's.
const SETUP_SECTORS: u8 = 3;

/// A file that says it is a bzImage whose loaded part is `system`.
pub(crate) fn bzimage(system: &[u8]) -> Vec<u8> {
    let mut image = vec![0; (usize::from(SETUP_SECTORS) + 1) * 512];
    let paragraphs = u32::try_from(system.len() / 16).unwrap();
    let fields: [(usize, &[u8]); 10] = [
        (0x1f1, &[SETUP_SECTORS]),
        (0x1f4, &paragraphs.to_le_bytes()),
        (0x201, &[0x6a]),
        (0x202, b"HdrS"),
        (0x206, &0x20f_u16.to_le_bytes()),
        (0x22c, &0x7fff_ffff_u32.to_le_bytes()),
        (0x230, &[0, 0, 0x20, 0, 1]),
        (0x236, &[0x7f, 0, 0xff, 0x07]),
        (0x258, &0x100_0000_u64.to_le_bytes()),
        (0x260, &(paragraphs * 16 * 4).to_le_bytes()),
    ];
    for (at, field) in fields {
        image[at..at + field.len()].copy_from_slice(field);
    }
    image.extend(system);
    image
}

/// Bytes that do not repeat where a block of them would be taken for another.
pub(crate) fn noise(bytes: usize, seed: u32) -> Vec<u8> {
    let byte = |at: u32| (at.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 23) as u8;
    (0..u32::try_from(bytes).unwrap()).map(byte).collect()
}

/// An operating system that only looks like one.
pub(crate) fn fake(folder: &Path) -> Os {
    let (kernel, initrd) = (folder.join("kernel"), folder.join("initrd"));
    fs::write(&kernel, bzimage(&noise(3 << 20, 1))).unwrap();
    fs::write(&initrd, noise((5 << 20) + 3, 2)).unwrap();
    Os { kernel, initrd, options: "root=/dev/vda1 ro" }
}

/// Debian's kernel, and an initramfs that says a line and powers off.
pub(crate) fn debian() -> Os {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let (cache, initrd) = (target.join("lab-system/cache"), target.join("tmp/firmware-initrd.img"));
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images");
    let directory = printed(Command::new(images.join("kernel.sh")).arg("6.12").arg(cache));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boot/initramfs.sh");
    printed(Command::new(script).arg(&initrd));
    Os { kernel: Path::new(&directory).join("vmlinuz"), initrd, options: "console=ttyS0 quiet" }
}

pub(crate) fn printed(command: &mut Command) -> PathBuf {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}
