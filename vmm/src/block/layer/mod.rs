//! A disk's own space over what lies under it: chunks of 64 KiB, encrypted, and a map of which are there.
//!
//! The map comes to stand on the disk when the guest flushes: first what was written, by a sync, then the map that says so.
//! So whatever a cut of the power leaves, the map on the disk speaks of nothing that is not there whole. It comes to stand as
//! well when the driver lets go of the disk: that is no cut.

pub mod bounce;
pub mod chunks;
pub mod cipher;
pub mod plan;

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sublet_vmm_protocol::{LayerConfig, config};
use thiserror::Error;

use self::{
    bounce::{BOUNCES, Bounce},
    chunks::{BadMap, ChunkMap, MapBlock},
    cipher::Cipher,
    plan::{Plan, View},
};
use super::disk::Disk;

#[derive(Debug, Error)]
pub enum LayerError {
    #[error("it has {has} bytes, and a layered disk of {wants} bytes takes {takes}")]
    TooSmall { has: u64, wants: u64, takes: u64 },
    #[error("its map cannot be read")]
    Map(#[source] io::Error),
    #[error(transparent)]
    BadMap(#[from] BadMap),
}

/// What makes a file a layered disk.
#[derive(Debug)]
pub struct Layer {
    disk_bytes: u64,
    cipher: Cipher,
    /// What lies under it.
    base: Option<Box<Disk>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    map: ChunkMap,
    /// Chunks that become others just now.
    claimed: Vec<Range<u64>>,
    is_flushing: bool,
    bounces: Vec<Bounce>,
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
    pub fn open(
        file: &File,
        file_bytes: u64,
        config: &LayerConfig,
        base: Option<Disk>,
    ) -> Result<Self, LayerError> {
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
        };
        let (base, cipher) = (base.map(Box::new), Cipher::new(&config.key));
        Ok(Self { disk_bytes: wants, cipher, base, state: Mutex::new(state) })
    }

    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    pub fn base(&self) -> Option<&Disk> {
        self.base.as_deref()
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

    /// Plans work on the range, and sets aside what it takes; none while others have that.
    pub fn begin(&self, range: &Range<u64>, plan: impl FnOnce(View<'_>) -> Plan) -> Option<Begun> {
        let mut state = self.state();
        let touched = plan::chunks(range);
        let is_taken = |claim: &Range<u64>| claim.start < touched.end && touched.start < claim.end;
        if state.claimed.iter().any(is_taken) {
            return None;
        }
        let bounce = state.bounces.pop()?;
        let base_bytes = self.base().map_or(0, Disk::bytes).min(self.disk_bytes);
        let plan = plan(View { map: &state.map, disk_bytes: self.disk_bytes, base_bytes });
        if !plan.claims.is_empty() {
            state.claimed.push(plan.claims.clone());
        }
        Some(Begun { plan, bounce })
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
