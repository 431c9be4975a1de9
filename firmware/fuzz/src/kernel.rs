//! A kernel's header, and where it is put in a memory whose map is the rest of the input.

use sublet_firmware::linux::header::{Header, START_BYTES};
use sublet_firmware::linux::placement::place;
use sublet_firmware::linux::zero_page::{self, Parameters};
use sublet_firmware::memory::{Kind, Range};

use crate::Seed;

const MIB: u64 = 1 << 20;
const ENTRY_BYTES: usize = 8;

pub fn run(input: &[u8]) {
    let Some((start, rest)) = input.split_first_chunk::<START_BYTES>() else { return };
    let Ok(header) = Header::parse(start, u64::MAX) else { return };
    let entries = rest.as_chunks::<ENTRY_BYTES>().0.iter().take(200);
    let map: Vec<Range> = entries
        .map(|[s0, s1, s2, b0, b1, b2, kind, _]| Range {
            start: u64::from(u32::from_le_bytes([*s0, *s1, *s2, 0])) << 12,
            bytes: u64::from(u32::from_le_bytes([*b0, *b1, *b2, 0])) << 12,
            kind: Kind::from_number(u32::from(*kind % 4)),
        })
        .collect();
    let initrd_bytes = rest.len() as u64 * 4096;
    if let Ok(placement) = place(&map, &(MIB..3 * MIB), &header, initrd_bytes) {
        let (kernel_end, initrd_end) =
            (placement.kernel + header.init_bytes, placement.initrd + initrd_bytes);
        assert!(kernel_end <= 1 << 32 && initrd_end <= 1 << 32 && placement.kernel >= MIB);
        let apart = kernel_end <= placement.initrd || initrd_end <= placement.kernel;
        assert!(apart || initrd_bytes == 0, "the initrd lies on the kernel");
    }
    let parameters =
        Parameters { header: &header, map: &map, rsdp: None, command_line: 1, initrd: 2, initrd_bytes: 3 };
    let page = zero_page::write(&parameters);
    assert_eq!(page[0x228..0x22c], [1, 0, 0, 0], "the header covers what the firmware says");
}

/// A file that says it is a bzImage whose loaded part is that long.
pub fn bzimage(system_bytes: u32) -> Vec<u8> {
    let mut image = vec![0; 1024];
    let fields: [(usize, &[u8]); 10] = [
        (0x1f1, &[1]),
        (0x1f4, &(system_bytes / 16).to_le_bytes()),
        (0x201, &[0x6a]),
        (0x202, b"HdrS"),
        (0x206, &0x20f_u16.to_le_bytes()),
        (0x22c, &0x7fff_ffff_u32.to_le_bytes()),
        (0x230, &[0, 0, 0x20, 0, 1]),
        (0x236, &[0x7f, 0, 0xff, 0x07]),
        (0x258, &0x100_0000_u64.to_le_bytes()),
        (0x260, &0x40_0000_u32.to_le_bytes()),
    ];
    for (at, field) in fields {
        image[at..at + field.len()].copy_from_slice(field);
    }
    image.resize(1024 + system_bytes as usize, 0x90);
    image
}

pub fn seeds() -> Vec<Seed> {
    let mut input = bzimage(0);
    input.extend([0, 1, 0, 0, 0xff, 0, 1, 0]);
    input.extend([0, 0x80, 0, 0, 0x10, 0, 2, 0]);
    vec![("bzimage", input)]
}
