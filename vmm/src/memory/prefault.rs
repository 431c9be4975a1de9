//! Puts a page behind every address, on all the guest's CPUs at once: clearing pages takes most of the time that it
//! takes to prepare a large machine.

use std::{
    io, ptr,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{Builder, Scope, ScopedJoinHandle, scope},
};

use rustix::{
    io::{Errno, retry_on_intr},
    mm::{Advice, madvise},
};
use thiserror::Error;
use vm_memory::{GuestMemoryRegion, GuestRegionMmap};

use crate::threads::{PinError, pin_current};

/// What one thread takes on at a time.
const PIECE: usize = 64 << 20;
/// A thread here calls the kernel and little else.
const STACK_BYTES: usize = 128 << 10;

#[derive(Debug, Error)]
pub enum PrefaultError {
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    Pin(PinError),
    #[error("a thread broke")]
    Broken,
    #[error("the host's kernel does not have the pages, or not where the guest's CPUs are")]
    Pages(#[source] Errno),
}

/// On a kernel older than 5.14 nothing happens, and locking brings in the pages.
pub(super) fn prefault(regions: &[GuestRegionMmap], cpus: &[u32]) -> Result<(), PrefaultError> {
    let pieces: Vec<Piece> = regions.iter().flat_map(Piece::of).collect();
    let next = AtomicUsize::new(0);
    scope(|scope| {
        let start = |cpu| start(scope, cpu, &pieces, &next);
        let threads: Vec<_> = cpus.iter().take(pieces.len()).map(|cpu| start(*cpu)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.map_err(PrefaultError::Thread)?.join().map_err(|_| PrefaultError::Broken)?
        })
    })
}

fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    cpu: u32,
    pieces: &'scope [Piece],
    next: &'scope AtomicUsize,
) -> io::Result<ScopedJoinHandle<'scope, Result<(), PrefaultError>>> {
    Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, move || {
        pin_current(&[cpu]).map_err(PrefaultError::Pin)?;
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            piece.populate()?;
        }
        Ok(())
    })
}

/// A part of a mapping.
struct Piece {
    start: usize,
    bytes: usize,
}

impl Piece {
    fn of(region: &GuestRegionMmap) -> impl Iterator<Item = Self> + use<> {
        let (start, bytes) = (region.as_ptr() as usize, region.len() as usize);
        (0..bytes).step_by(PIECE).map(move |at| Self { start: start + at, bytes: PIECE.min(bytes - at) })
    }

    fn populate(&self) -> Result<(), PrefaultError> {
        let start = ptr::with_exposed_provenance_mut(self.start);
        // SAFETY: the range is a part of a mapping that is never unmapped; populating changes no byte of it.
        let populated = retry_on_intr(|| unsafe { madvise(start, self.bytes, Advice::LinuxPopulateWrite) });
        match populated {
            // Not known to this kernel.
            Err(Errno::INVAL) => Ok(()),
            populated => populated.map_err(PrefaultError::Pages),
        }
    }
}
