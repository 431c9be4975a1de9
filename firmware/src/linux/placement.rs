//! Where kernel and initrd go in memory.

use alloc::vec::Vec;
use core::ops::Range as Span;

use thiserror::Error;

use super::header::Header;
use crate::memory::{Kind, Range};

/// What lies below is left to what PCs keep there: the VMM's tables, ACPI's, the kernel's own first steps.
const LOWEST: u64 = 1 << 20;
/// What `entry.s` has mapped, and what fits the fields of 32 bits.
const HIGHEST: u64 = 1 << 32;
const PAGE_BYTES: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PlacementError {
    #[error(
        "the kernel takes {bytes} bytes while it starts, and memory has no such room from {preferred:#x} on"
    )]
    Kernel { bytes: u64, preferred: u64 },
    #[error("the initrd's {0} bytes do not fit into memory beside the kernel")]
    Initrd(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    pub kernel: u64,
    /// Where the initrd begins; 0 without one.
    pub initrd: u64,
}

/// Puts the kernel where it prefers to be, else at the first place above that it runs at, and the initrd as high as it
/// may be. Neither covers what is `taken`.
pub fn place(
    map: &[Range],
    taken: &Span<u64>,
    header: &Header,
    initrd_bytes: u64,
) -> Result<Placement, PlacementError> {
    let free = without(free(map), taken);
    let no_room = PlacementError::Kernel { bytes: header.init_bytes, preferred: header.preferred };
    let kernel = place_kernel(&free, header).ok_or(no_room)?;
    if initrd_bytes == 0 {
        return Ok(Placement { kernel, initrd: 0 });
    }
    let free = without(free, &(kernel..kernel + header.init_bytes));
    let limit = header.initrd_last.saturating_add(1);
    let initrd = free.iter().rev().find_map(|span| highest(span, limit, initrd_bytes));
    Ok(Placement { kernel, initrd: initrd.ok_or(PlacementError::Initrd(initrd_bytes))? })
}

fn place_kernel(free: &[Span<u64>], header: &Header) -> Option<u64> {
    let fits = |start: u64| {
        let end = start.checked_add(header.init_bytes)?;
        free.iter().any(|span| span.start <= start && end <= span.end).then_some(start)
    };
    let above = |alignment: u64| {
        // A kernel below its preferred address would move there by itself, over whatever is there.
        let starts = free
            .iter()
            .filter_map(|span| span.start.max(header.preferred).checked_next_multiple_of(alignment));
        starts.filter_map(fits).next()
    };
    fits(header.preferred).or_else(|| header.relocatable.and_then(above))
}

/// The highest place for `bytes` in the span, below the limit.
fn highest(span: &Span<u64>, limit: u64, bytes: u64) -> Option<u64> {
    let start = span.end.min(limit).checked_sub(bytes)?;
    let start = start - start % PAGE_BYTES;
    (start >= span.start).then_some(start)
}

/// RAM that is within reach, from the lowest address up, each span apart from the others.
fn free(map: &[Range]) -> Vec<Span<u64>> {
    let span = |range: &Range| range.start..range.start.saturating_add(range.bytes);
    let (ram, other): (Vec<&Range>, Vec<&Range>) = map.iter().partition(|range| range.kind == Kind::Ram);
    let mut spans: Vec<_> = ram.into_iter().map(span).collect();
    spans.sort_by_key(|span| span.start);
    let spans = spans.into_iter().map(|span| span.start.max(LOWEST)..span.end.min(HIGHEST));
    let spans = spans.filter(|span| span.start < span.end).collect();
    other.into_iter().map(span).fold(spans, |free, taken| without(free, &taken))
}

fn without(free: Vec<Span<u64>>, taken: &Span<u64>) -> Vec<Span<u64>> {
    let split =
        |span: Span<u64>| [span.start..span.end.min(taken.start), span.start.max(taken.end)..span.end];
    free.into_iter().flat_map(split).filter(|span| span.start < span.end).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::linux::header::tests::start;

    const MIB: u64 = 1 << 20;

    fn ram(start: u64, bytes: u64) -> Range {
        Range { start, bytes, kind: Kind::Ram }
    }

    fn header(system_bytes: u32) -> Header {
        Header::parse(&start(system_bytes), u64::MAX).unwrap()
    }

    #[test]
    fn a_kernel_goes_where_it_prefers_and_its_initrd_to_the_top() {
        let map = [ram(0, 640 << 10), ram(MIB, 255 * MIB)];
        let placement = place(&map, &(MIB..9 * MIB), &header(4 << 20), 10 * MIB + 1).unwrap();
        assert_eq!(placement, Placement { kernel: 16 * MIB, initrd: 256 * MIB - 10 * MIB - 4096 });
    }

    #[test]
    fn a_kernel_whose_place_is_taken_goes_higher_where_it_is_aligned() {
        let map = [ram(MIB, 255 * MIB)];
        let placement = place(&map, &(17 * MIB..19 * MIB + 1), &header(4 << 20), 0).unwrap();
        assert_eq!(placement.kernel, 20 * MIB);
        let fixed = Header { relocatable: None, ..header(4 << 20) };
        assert!(place(&map, &(17 * MIB..18 * MIB), &fixed, 0).is_err());
    }

    #[test]
    fn an_initrd_stays_below_what_the_kernel_can_address_and_out_of_reserved_ranges() {
        let hole = Range { start: 2000 * MIB, bytes: 40 * MIB, kind: Kind::AcpiNvs };
        let map = [ram(MIB, 3000 * MIB), hole, ram(4096 * MIB, 4096 * MIB)];
        let placement = place(&map, &(MIB..2 * MIB), &header(MIB as u32), 8 * MIB).unwrap();
        assert_eq!(placement.initrd, 2040 * MIB);
        let placement = place(&map, &(MIB..2 * MIB), &header(MIB as u32), 9 * MIB).unwrap();
        assert_eq!(placement.initrd, 1991 * MIB);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_size() {
        let map = [ram(MIB, 63 * MIB)];
        let error = place(&map, &(MIB..2 * MIB), &header(4 << 20), 40 * MIB).unwrap_err();
        assert_eq!(error, PlacementError::Initrd(40 * MIB));
        let error = place(&map, &(MIB..2 * MIB), &header(8 << 20), 0).unwrap_err();
        assert_eq!(error, PlacementError::Kernel { bytes: 64 * MIB, preferred: 16 * MIB });
        let error = place(&map, &(MIB..2 * MIB), &header(1 << 20), u64::MAX).unwrap_err();
        assert_eq!(error, PlacementError::Initrd(u64::MAX));
    }

    proptest! {
        #[test]
        fn nothing_is_put_where_something_else_is(
            ranges in proptest::collection::vec((0..2048u64, 0..512u64, 0..3u32), 1..8),
            taken in (0..64u64, 0..64u64),
            system_pages in 1..4096u32,
            initrd_bytes in 1..256 * MIB,
        ) {
            let kind = |kind| if kind == 2 { Kind::Reserved } else { Kind::Ram };
            let map: Vec<_> = ranges.iter()
                .map(|(start, bytes, k)| Range { start: start * MIB, bytes: bytes * MIB, kind: kind(*k) }).collect();
            let taken = taken.0 * MIB..(taken.0 + taken.1) * MIB;
            let header = header(system_pages * 4096);
            if let Ok(found) = place(&map, &taken, &header, initrd_bytes) {
                let kernel = found.kernel..found.kernel + header.init_bytes;
                let initrd = found.initrd..found.initrd + initrd_bytes;
                let apart = |one: &Span<u64>, other: &Span<u64>| one.end <= other.start || other.end <= one.start || other.is_empty();
                prop_assert!(apart(&kernel, &initrd) && apart(&kernel, &taken) && apart(&initrd, &taken));
                prop_assert!(kernel.start >= LOWEST && initrd.start >= LOWEST);
                for range in map.iter().filter(|range| range.kind == Kind::Reserved) {
                    let reserved = range.start..range.start + range.bytes;
                    prop_assert!(apart(&kernel, &reserved) && apart(&initrd, &reserved));
                }
                for byte in [kernel.start, kernel.end - 1, initrd.start, initrd.end - 1] {
                    let within = |range: &Range| range.start <= byte && byte - range.start < range.bytes;
                    prop_assert!(map.iter().any(within));
                }
            }
        }
    }
}
