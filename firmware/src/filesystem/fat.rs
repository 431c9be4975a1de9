//! FAT12, FAT16 and FAT32, with long names, to read only (Microsoft, FAT: General Overview of On-Disk Format, 1.03).

mod directory;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use self::directory::{Entry, entries};
use super::{ENTRIES_LIMIT, File, FileError, FileSystem};
use crate::disk::Volume;

const BOOT_SECTOR_BYTES: usize = 512;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// Clusters below which a FAT has entries of 12 bits, or of 16.
const FAT12_CLUSTERS: u64 = 4085;
const FAT16_CLUSTERS: u64 = 65525;
/// Clusters are numbered from here on.
const FIRST_CLUSTER: u32 = 2;
/// Largest directory that the format allows: 65,536 entries of 32 bytes.
const DIRECTORY_LIMIT: u64 = 2 << 20;

/// Bits of an entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Fat12,
    Fat16,
    Fat32,
}

/// Where a directory begins.
#[derive(Debug, Clone, Copy)]
enum Root {
    /// A fixed range of the volume.
    Range {
        start: u64,
        bytes: u64,
    },
    Cluster(u32),
}

/// A range of the volume that belongs to a file.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: u64,
    bytes: u64,
}

#[derive(Clone)]
struct Fat {
    volume: Volume,
    width: Width,
    table: u64,
    root: Root,
    /// Of cluster [`FIRST_CLUSTER`].
    data: u64,
    cluster_bytes: u64,
    clusters: u64,
    uuid: String,
    label: String,
}

/// None where the volume's first sector is not that of a FAT.
pub(super) fn mount(volume: &Volume) -> Result<Option<Box<dyn FileSystem>>, FileError> {
    if volume.bytes() < BOOT_SECTOR_BYTES as u64 {
        return Ok(None);
    }
    let mut sector = [0; BOOT_SECTOR_BYTES];
    volume.read(0, &mut sector)?;
    Ok(Fat::parse(volume, &sector).map(|fat| Box::new(fat) as Box<dyn FileSystem>))
}

impl Fat {
    fn parse(volume: &Volume, sector: &[u8; BOOT_SECTOR_BYTES]) -> Option<Self> {
        let short = |at: usize| u64::from(u16::from_le_bytes([sector[at], sector[at + 1]]));
        let long = |at: usize| short(at) | short(at + 2) << 16;
        let either = |at16: usize, at32: usize| if short(at16) != 0 { short(at16) } else { long(at32) };
        let (sector_bytes, cluster_sectors) = (short(11), u64::from(sector[13]));
        let (reserved, tables, root_entries) = (short(14), u64::from(sector[16]), short(17));
        let is_fat = sector.ends_with(&SIGNATURE)
            && matches!(sector_bytes, 512 | 1024 | 2048 | 4096)
            && cluster_sectors.is_power_of_two()
            && reserved > 0
            && matches!(tables, 1 | 2);
        let (total, table_sectors) = (either(19, 32), either(22, 36));
        let root_sectors = (root_entries * 32).div_ceil(sector_bytes.max(1));
        let data_sector = reserved + tables * table_sectors + root_sectors;
        let clusters = total.checked_sub(data_sector).filter(|_| is_fat)? / cluster_sectors;
        let width = match clusters {
            0..FAT12_CLUSTERS => Width::Fat12,
            FAT12_CLUSTERS..FAT16_CLUSTERS => Width::Fat16,
            _ => Width::Fat32,
        };
        let root = match width {
            Width::Fat32 => Root::Cluster(u32::try_from(long(44)).ok()?),
            _ => Root::Range { start: (data_sector - root_sectors) * sector_bytes, bytes: root_entries * 32 },
        };
        let identity = if width == Width::Fat32 { 67 } else { 39 };
        let label = String::from_utf8_lossy(&sector[identity + 4..identity + 15]).trim_end().to_string();
        Some(Self {
            volume: volume.clone(),
            width,
            table: reserved * sector_bytes,
            root,
            data: data_sector * sector_bytes,
            cluster_bytes: cluster_sectors * sector_bytes,
            clusters,
            uuid: format!("{:04X}-{:04X}", short(identity + 2), short(identity)),
            label,
        })
    }

    /// The cluster after this one; none at the end of its chain.
    fn next(&self, cluster: u32) -> Result<Option<u32>, FileError> {
        let mut bytes = [0; 4];
        let at = u64::from(cluster);
        let (entry, end) = match self.width {
            Width::Fat12 => {
                self.volume.read(self.table + at * 3 / 2, &mut bytes[..2])?;
                (u32::from_le_bytes(bytes) >> (4 * (cluster & 1)) & 0xfff, 0xff8)
            }
            Width::Fat16 => {
                self.volume.read(self.table + at * 2, &mut bytes[..2])?;
                (u32::from_le_bytes(bytes), 0xfff8)
            }
            Width::Fat32 => {
                self.volume.read(self.table + at * 4, &mut bytes)?;
                (u32::from_le_bytes(bytes) & 0x0fff_ffff, 0x0fff_fff8)
            }
        };
        Ok((entry < end).then_some(entry))
    }

    /// Where the first `bytes` of the chain are that begins at `cluster`; fewer where it ends before.
    fn chain(&self, cluster: u32, bytes: u64) -> Result<Vec<Run>, FileError> {
        let wanted = bytes.div_ceil(self.cluster_bytes);
        if wanted > self.clusters {
            return Err(FileError::Damaged(format!("{bytes} bytes are more than the file system has")));
        }
        let (mut runs, mut next) = (Vec::<Run>::new(), Some(cluster));
        for _ in 0..wanted {
            let Some(cluster) = next else { break };
            let start = self.start_of(cluster)?;
            match runs.last_mut() {
                Some(run) if run.start + run.bytes == start => run.bytes += self.cluster_bytes,
                _ => runs.push(Run { start, bytes: self.cluster_bytes }),
            }
            next = self.next(cluster)?;
        }
        Ok(runs)
    }

    fn start_of(&self, cluster: u32) -> Result<u64, FileError> {
        let index = cluster.checked_sub(FIRST_CLUSTER).map(u64::from).filter(|index| *index < self.clusters);
        let index = index.ok_or_else(|| FileError::Damaged(format!("a chain leads to cluster {cluster}")))?;
        Ok(self.data + index * self.cluster_bytes)
    }

    fn directory(&self, root: Root) -> Result<Vec<Entry>, FileError> {
        let runs = match root {
            Root::Range { start, bytes } => Vec::from([Run { start, bytes }]),
            Root::Cluster(cluster) => {
                self.chain(cluster, DIRECTORY_LIMIT.min(self.clusters * self.cluster_bytes))?
            }
        };
        entries(&self.volume, &runs, ENTRIES_LIMIT)
    }

    fn find(&self, path: &str) -> Result<Option<Entry>, FileError> {
        let mut found: Option<Entry> = None;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let entries = self.directory(self.root_of(found.as_ref())?)?;
            let same = |entry: &Entry| entry.name.eq_ignore_ascii_case(name);
            found = Some(entries.into_iter().find(same).ok_or(FileError::NotFound)?);
        }
        Ok(found)
    }

    /// Where an entry's directory begins; the file system's own without an entry, and where `..` says cluster 0.
    fn root_of(&self, entry: Option<&Entry>) -> Result<Root, FileError> {
        match entry {
            None => Ok(self.root),
            Some(entry) if !entry.is_directory => Err(FileError::NotADirectory),
            Some(entry) if entry.cluster == 0 => Ok(self.root),
            Some(entry) => Ok(Root::Cluster(entry.cluster)),
        }
    }
}

impl FileSystem for Fat {
    fn kind(&self) -> &'static str {
        "FAT"
    }

    fn uuid(&self) -> &str {
        &self.uuid
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn open(&self, path: &str) -> Result<Box<dyn File>, FileError> {
        let entry = self.find(path)?.filter(|entry| !entry.is_directory).ok_or(FileError::NotAFile)?;
        let runs = if entry.bytes == 0 { Vec::new() } else { self.chain(entry.cluster, entry.bytes)? };
        Ok(Box::new(Opened { volume: self.volume.clone(), runs, bytes: entry.bytes }))
    }

    fn list(&self, path: &str) -> Result<Vec<String>, FileError> {
        let found = self.find(path)?;
        let entries = self.directory(self.root_of(found.as_ref())?)?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    }
}

struct Opened {
    volume: Volume,
    runs: Vec<Run>,
    bytes: u64,
}

impl File for Opened {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, start: u64, mut into: &mut [u8]) -> Result<(), FileError> {
        if self.bytes < start.saturating_add(into.len() as u64) {
            return Err(FileError::Ends(self.bytes));
        }
        let mut skip = start;
        for run in &self.runs {
            if skip >= run.bytes {
                skip -= run.bytes;
                continue;
            }
            let length = usize::try_from(run.bytes - skip).map_or(into.len(), |left| left.min(into.len()));
            self.volume.read(run.start + skip, &mut into[..length])?;
            (into, skip) = (&mut into[length..], 0);
        }
        if into.is_empty() {
            Ok(())
        } else {
            Err(FileError::Damaged("its chain of clusters is too short".to_string()))
        }
    }
}
