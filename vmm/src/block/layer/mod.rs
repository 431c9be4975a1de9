//! A disk's own space over what lies under it: chunks of 64 KiB, encrypted, and a map of which are there.
//!
//! The map comes to stand on the disk when the guest flushes: first what was written, by a sync, then the map that says so.
//! So whatever a cut of the power leaves, the map on the disk speaks of nothing that is not there whole. It comes to stand as
//! well when the driver lets go of the disk: that is no cut.
//!
//! Work that takes something of the base that has not arrived waits, and what it waits for can be asked for by others. Told
//! that more is there, it begins anew.

pub mod base;
pub mod bounce;
pub mod chunks;
pub mod cipher;
pub mod plan;

use std::{
    collections::BTreeSet,
    fs::File,
    io, mem,
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use rustix::event::{EventfdFlags, eventfd};
use sublet_vmm_protocol::{LayerConfig, WANTED_MAX, Wanted, config};
use thiserror::Error;

use self::{
    base::{Base, BaseError},
    bounce::{BOUNCES, Bounce},
    chunks::{BadMap, ChunkMap, MapBlock},
    cipher::Cipher,
    plan::{Plan, View},
};

#[derive(Debug, Error)]
pub enum LayerError {
    #[error("it has {has} bytes, and a layered disk of {wants} bytes takes {takes}")]
    TooSmall { has: u64, wants: u64, takes: u64 },
    #[error("its map cannot be read")]
    Map(#[source] io::Error),
    #[error(transparent)]
    BadMap(#[from] BadMap),
    #[error("cannot make an event descriptor")]
    Event(#[source] rustix::io::Errno),
}

/// What makes a file a layered disk.
#[derive(Debug)]
pub struct Layer {
    disk_bytes: u64,
    cipher: Cipher,
    /// What lies under it, once there is an operating system.
    base: OnceLock<Base>,
    state: Mutex<State>,
    /// Something of the base is wanted that was not before.
    wanted: OwnedFd,
    /// More of it is there, or will not be.
    arrived: OwnedFd,
}

#[derive(Debug)]
struct State {
    map: ChunkMap,
    /// Chunks that become others just now.
    claimed: Vec<Range<u64>>,
    is_flushing: bool,
    bounces: Vec<Bounce>,
    /// Chunks of the base that somebody waits for; some may have arrived meanwhile.
    wanted: BTreeSet<u64>,
    wanted_generation: u64,
    /// Those that will not arrive: told, and to be told to whoever waits for them.
    failed: BTreeSet<u64>,
    failing: BTreeSet<u64>,
}

/// A plan, and what was set aside to carry it out.
#[derive(Debug)]
pub struct Begun {
    pub plan: Plan,
    pub bounce: Bounce,
}

/// What a flush is to write of the map.
pub type Changed = Vec<(usize, MapBlock)>;

impl Layer {
    /// Of a file of `file_bytes`.
    pub fn open(file: &File, file_bytes: u64, config: &LayerConfig) -> Result<Self, LayerError> {
        let (wants, takes) = (config.bytes, config::layered_file_bytes(config.bytes));
        if file_bytes < takes {
            return Err(LayerError::TooSmall { has: file_bytes, wants, takes });
        }
        let from = config::map_offset(wants);
        let mut states = vec![0; (takes - from) as usize];
        read_map(file, &mut states, from).map_err(LayerError::Map)?;
        let state = State {
            map: ChunkMap::new(states, wants)?,
            claimed: Vec::new(),
            is_flushing: false,
            bounces: (0..BOUNCES).map(|_| Bounce::default()).collect(),
            wanted: BTreeSet::new(),
            wanted_generation: 0,
            failed: BTreeSet::new(),
            failing: BTreeSet::new(),
        };
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(LayerError::Event);
        Ok(Self {
            disk_bytes: wants,
            cipher: Cipher::new(&config.key),
            base: OnceLock::new(),
            state: Mutex::new(state),
            wanted: event()?,
            arrived: event()?,
        })
    }

    /// Puts this under it, for good.
    pub fn put_over(&self, base: Base) -> Result<(), BaseError> {
        if base.bytes() > self.disk_bytes {
            return Err(BaseError::Larger { base: base.bytes(), disk: self.disk_bytes });
        }
        self.base.set(base).map_err(|_| BaseError::Again)
    }

    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Reads what lies under it and has arrived.
    pub fn read_base(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.base.get().ok_or(io::ErrorKind::NotFound)?.read(into, offset)
    }

    pub fn cipher(&self) -> &Cipher {
        &self.cipher
    }

    /// Where a block of the map stands in the file.
    pub fn map_block(&self, number: usize) -> Range<u64> {
        let from = config::map_offset(self.disk_bytes) + number as u64 * config::MAP_BLOCK_BYTES;
        from..from + config::MAP_BLOCK_BYTES
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans work on the range, and sets aside what it takes; none while others have that, or some of the base is not there.
    /// An error: it will not be.
    pub fn begin(
        &self,
        range: &Range<u64>,
        plan: impl FnOnce(View<'_>) -> Plan,
    ) -> io::Result<Option<Begun>> {
        let mut state = self.state();
        let touched = plan::chunks(range);
        let is_taken = |claim: &Range<u64>| claim.start < touched.end && touched.start < claim.end;
        if state.claimed.iter().any(is_taken) || state.bounces.is_empty() {
            return Ok(None);
        }
        let base_bytes = self.base.get().map_or(0, Base::bytes);
        let plan = plan(View { map: &state.map, disk_bytes: self.disk_bytes, base_bytes });
        let missing = self.missing(&plan)?;
        if !missing.is_empty() {
            return self.want(&mut state, missing).map(|()| None);
        }
        let Some(bounce) = state.bounces.pop() else { return Ok(None) };
        if !plan.claims.is_empty() {
            state.claimed.push(plan.claims.clone());
        }
        Ok(Some(Begun { plan, bounce }))
    }

    /// Chunks of the base that the plan takes and that are not there.
    fn missing(&self, plan: &Plan) -> io::Result<Vec<u64>> {
        let Some(base) = self.base.get() else { return Ok(Vec::new()) };
        let mut missing = Vec::new();
        for range in plan.reads_of_base() {
            missing.extend(base.missing(plan::chunks(range))?);
        }
        Ok(missing)
    }

    fn want(&self, state: &mut State, chunks: Vec<u64>) -> io::Result<()> {
        if chunks.iter().any(|chunk| state.failing.contains(chunk)) {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        let before = state.wanted.len();
        state.wanted.extend(chunks);
        if state.wanted.len() > before {
            state.wanted_generation += 1;
            signal(&self.wanted);
        }
        Ok(())
    }

    /// What of the base somebody waits for.
    pub fn wanted(&self) -> Wanted {
        let mut state = self.state();
        let is_missing = |chunk: &u64| {
            let base = self.base.get().map(|base| base.missing(*chunk..*chunk + 1));
            // What cannot be told is asked for.
            base.is_some_and(|missing| missing.map_or(true, |missing| !missing.is_empty()))
        };
        let before = state.wanted.len();
        state.wanted.retain(is_missing);
        if state.wanted.len() < before {
            // Whoever brought it may not have known that it was waited for.
            signal(&self.arrived);
        }
        let chunks = state.wanted.iter().copied().take(WANTED_MAX).collect();
        Wanted { generation: state.wanted_generation, chunks }
    }

    pub fn has_base(&self) -> bool {
        self.base.get().is_some()
    }

    /// Becomes readable when there is more that is wanted.
    pub fn wanted_event(&self) -> BorrowedFd<'_> {
        self.wanted.as_fd()
    }

    /// It is not readable any more, until there is more that is wanted.
    pub fn acknowledge_wanted(&self) {
        // Fails only where there is nothing to read.
        let _ = rustix::io::read(&self.wanted, &mut [0; 8]);
    }

    /// More of the base is there, and these chunks will not be.
    pub fn arrived(&self, failed: &[u64]) {
        let mut state = self.state();
        failed.iter().for_each(|chunk| _ = state.wanted.remove(chunk));
        state.failed.extend(failed);
        signal(&self.arrived);
    }

    /// No work waits any more: the driver has let go of the disk.
    pub fn forget_wanted(&self) {
        self.state().wanted.clear();
    }

    /// Becomes readable when work that waits is to be asked again.
    pub fn arrived_event(&self) -> BorrowedFd<'_> {
        self.arrived.as_fd()
    }

    /// Has all work that waits asked again by `ask`. What has failed until now fails for it, and is asked for anew after that.
    pub fn ask_again(&self, ask: impl FnOnce()) {
        let mut state = self.state();
        state.failing = mem::take(&mut state.failed);
        drop(state);
        ask();
        self.state().failing.clear();
    }

    /// What was set aside is free again, whether the work was done or not.
    pub fn end(&self, claims: &Range<u64>, bounce: Bounce) {
        let mut state = self.state();
        state.bounces.push(bounce);
        if let Some(at) = state.claimed.iter().position(|claimed| !claims.is_empty() && claimed == claims) {
            state.claimed.swap_remove(at);
        }
    }

    pub fn mark(&self, chunks: Range<u64>, as_what: chunks::ChunkState) {
        self.state().map.set(chunks, as_what);
    }

    /// Whether what stands on the disk speaks of all that was written.
    pub fn is_stored(&self) -> bool {
        self.state().map.is_stored()
    }

    /// What is to be written of the map once all that was written before now is on the disk; none while somebody else does.
    pub fn begin_flush(&self) -> Option<(Changed, Bounce)> {
        let mut state = self.state();
        if state.is_flushing {
            return None;
        }
        let bounce = state.bounces.pop()?;
        state.is_flushing = true;
        Some((state.map.take_changed(), bounce))
    }

    /// `missed`: blocks that have not come to stand on the disk.
    pub fn end_flush(&self, missed: impl IntoIterator<Item = usize>, bounce: Bounce) {
        let mut state = self.state();
        state.is_flushing = false;
        state.bounces.push(bounce);
        state.map.still_changed(missed);
    }
}

fn signal(event: &OwnedFd) {
    // Fails only where it is signalled already, more often than can be counted.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

/// Past the page cache a read takes memory that is aligned.
fn read_map(file: &File, states: &mut [u8], mut from: u64) -> io::Result<()> {
    let mut bounce = Bounce::default();
    for part in states.chunks_mut(plan::SPAN_BYTES as usize) {
        let room = bounce.bytes().get_mut(..part.len()).ok_or(io::ErrorKind::OutOfMemory)?;
        file.read_exact_at(room, from)?;
        part.copy_from_slice(room);
        from += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
