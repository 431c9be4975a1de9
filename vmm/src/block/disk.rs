//! A raw file or block device as a disk.

use std::{
    fs::{File, Metadata},
    io::{self, Seek, SeekFrom},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::{
    AtFlags, FlockOperation, OFlags, StatxFlags, fcntl_getfl, fcntl_setfl, flock, ioctl_blksszget, statx,
};
use sublet_vmm_protocol::{DiskConfig, config::layered_file_bytes};
use thiserror::Error;

use super::{
    SECTOR_SIZE,
    device_limits::DeviceLimits,
    layer::{Layer, LayerError},
};

/// Largest block of a disk; larger ones than a page no guest takes.
const BLOCK_MAX: u32 = 4096;
/// Largest preferred size of an access that is passed on to the guest.
const PREFERRED_MAX: u64 = 1 << 20;

#[derive(Debug, Error)]
pub enum OpenDiskError {
    #[error("cannot open {path:?}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot open {path:?} past the page cache; its file system may lack O_DIRECT")]
    OpenDirect { path: PathBuf, source: io::Error },
    #[error("{path:?} is neither a file nor a block device")]
    NotADisk { path: PathBuf },
    #[error("{path:?} is the same disk as {other:?}; two disks cannot share one")]
    Shared { path: PathBuf, other: PathBuf },
    #[error("{path:?} is in use by another process")]
    InUse { path: PathBuf, source: rustix::io::Errno },
    #[error("{path:?} is smaller than one block of {block} bytes")]
    Empty { path: PathBuf, block: u32 },
    #[error("{path:?} cannot be used as a layered disk")]
    Layer { path: PathBuf, source: LayerError },
    #[error("{path:?} has blocks of {block} bytes; {BLOCK_MAX} at most can be passed on to a guest")]
    Blocks { path: PathBuf, block: u32 },
}

/// What makes two paths the same disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    File { device: u64, inode: u64 },
    Device(u64),
}

/// How the host's kernel wants a disk to be accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Offsets and lengths must be multiples of this many bytes.
    pub block: u32,
    /// So must be addresses and lengths in memory; 1 where it does not matter.
    pub memory_alignment: u32,
    /// Accesses of multiples of this many bytes are efficient.
    pub preferred: u32,
    /// What longer accesses are cut into; none where that does not matter, or is not told.
    pub device: Option<DeviceLimits>,
}

/// An open disk. Its size is what it was when it was opened.
#[derive(Debug)]
pub struct Disk {
    file: File,
    path: PathBuf,
    identity: Identity,
    bytes: u64,
    read_only: bool,
    shape: Shape,
    /// None: the guest's blocks are the file's.
    layer: Option<Layer>,
    /// The host cannot zero a range of it other than by writing zeroes.
    lacks_zeroing: AtomicBool,
}

impl Disk {
    /// Opens a disk and keeps other machines from writing to it. `others` are this machine's, opened before.
    pub fn open(config: &DiskConfig, others: &[Self]) -> Result<Self, OpenDiskError> {
        let path = config.path.clone();
        let failed = |source| OpenDiskError::Open { path: path.clone(), source };
        let file = open_file(config)?;
        let metadata = file.metadata().map_err(failed)?;
        let identity = identity(&metadata).ok_or_else(|| OpenDiskError::NotADisk { path: path.clone() })?;
        if let Some(other) = others.iter().find(|other| other.identity == identity) {
            return Err(OpenDiskError::Shared { path, other: other.path.clone() });
        }
        lock(&file, config)?;
        let shape = shape(&file, &metadata, config).map_err(failed)?;
        if shape.block > BLOCK_MAX {
            return Err(OpenDiskError::Blocks { path, block: shape.block });
        }
        let end = (&file).seek(SeekFrom::End(0)).map_err(failed)?;
        let layer = config.layer.as_ref().map(|layer| Layer::open(&file, end, layer)).transpose();
        let layer = layer.map_err(|source| OpenDiskError::Layer { path: path.clone(), source })?;
        let seen = layer.as_ref().map_or(end, Layer::disk_bytes);
        match seen - seen % u64::from(shape.block) {
            0 => Err(OpenDiskError::Empty { path, block: shape.block }),
            bytes => Ok(Self {
                file,
                path,
                identity,
                bytes,
                read_only: config.read_only,
                shape,
                layer,
                lacks_zeroing: AtomicBool::new(false),
            }),
        }
    }

    /// What makes it another than its file.
    pub fn layer(&self) -> Option<&Layer> {
        self.layer.as_ref()
    }

    /// How large its file is at least.
    pub fn file_bytes(&self) -> u64 {
        if self.layer.is_some() { layered_file_bytes(self.bytes) } else { self.bytes }
    }

    pub fn sectors(&self) -> u64 {
        self.bytes / SECTOR_SIZE
    }

    /// All of it that the guest sees.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether these bytes lie on the disk and begin and end with a block.
    pub fn has(&self, offset: u64, bytes: u64) -> bool {
        let is_aligned = |number: u64| number.is_multiple_of(u64::from(self.shape.block));
        offset.checked_add(bytes).is_some_and(|end| end <= self.bytes)
            && is_aligned(offset)
            && is_aligned(bytes)
    }

    /// Whether zeroing costs as much as writing: so it does where the host has to write the zeroes, and may on a block
    /// device, whose kernel does it unasked.
    pub fn is_zeroed_by_writing(&self) -> bool {
        // What is written of a layered disk to zero a range is two parts of chunks at most.
        self.layer.is_none() && self.writes_zeroes()
    }

    fn writes_zeroes(&self) -> bool {
        self.lacks_zeroing() || matches!(self.identity, Identity::Device(_))
    }

    /// Whether the kernel has said that it cannot zero a range.
    pub fn lacks_zeroing(&self) -> bool {
        self.lacks_zeroing.load(Ordering::Relaxed)
    }

    /// The kernel has just said so.
    pub fn learn_that_it_lacks_zeroing(&self) {
        self.lacks_zeroing.store(true, Ordering::Relaxed);
    }
}

impl AsFd for Disk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open_file(config: &DiskConfig) -> Result<File, OpenDiskError> {
    let path = || config.path.clone();
    let mut flags = OFlags::NONBLOCK;
    flags.set(OFlags::DIRECT, config.direct);
    // Has the kernel keep everybody else off a block device, its partitions and the whole of it; files ignore it.
    flags.set(OFlags::EXCL, !config.read_only);
    // A pipe in the place of a disk must not keep this process waiting, so it is opened without; but io_uring would
    // take the flag for "never wait for the disk".
    let opened = File::options()
        .read(true)
        .write(!config.read_only)
        .custom_flags(flags.bits() as i32)
        .open(path())
        .and_then(|file| {
            fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
            Ok(file)
        });
    opened.map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY) => OpenDiskError::InUse { path: path(), source: rustix::io::Errno::BUSY },
        Some(libc::EINVAL) if config.direct => OpenDiskError::OpenDirect { path: path(), source },
        _ => OpenDiskError::Open { path: path(), source },
    })
}

fn identity(metadata: &Metadata) -> Option<Identity> {
    let kind = metadata.file_type();
    if kind.is_block_device() {
        return Some(Identity::Device(metadata.rdev()));
    }
    kind.is_file().then(|| Identity::File { device: metadata.dev(), inode: metadata.ino() })
}

fn lock(file: &File, config: &DiskConfig) -> Result<(), OpenDiskError> {
    let lock = match config.read_only {
        true => FlockOperation::NonBlockingLockShared,
        false => FlockOperation::NonBlockingLockExclusive,
    };
    flock(file, lock).map_err(|source| OpenDiskError::InUse { path: config.path.clone(), source })
}

fn shape(file: &File, metadata: &Metadata, config: &DiskConfig) -> io::Result<Shape> {
    let preferred = metadata.blksize().clamp(SECTOR_SIZE, PREFERRED_MAX) as u32;
    let (block, memory_alignment) = match config.direct {
        true => direct_alignment(file, metadata)?,
        false => (SECTOR_SIZE as u32, 1),
    };
    let number = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
    let device = config.direct.then(|| DeviceLimits::of(number)).flatten();
    Ok(Shape { block, memory_alignment, preferred: preferred.max(block), device })
}

/// Alignment that O_DIRECT asks for, on the disk and in memory. Kernels before 6.1, and some file systems, do not say.
fn direct_alignment(file: &File, metadata: &Metadata) -> io::Result<(u32, u32)> {
    let about = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    let is_told = about.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && about.stx_dio_offset_align != 0;
    let block = match is_told {
        true => about.stx_dio_offset_align,
        false if metadata.file_type().is_block_device() => ioctl_blksszget(file)?,
        false => BLOCK_MAX,
    };
    let memory_alignment = if is_told { about.stx_dio_mem_align.max(1) } else { block };
    Ok((block.max(SECTOR_SIZE as u32), memory_alignment))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::symlink,
        path::{Path, PathBuf},
    };

    use super::*;

    fn file(bytes: usize) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        fs::write(&path, vec![0; bytes]).unwrap();
        (directory, path)
    }

    fn open(path: &Path, read_only: bool) -> Result<Disk, OpenDiskError> {
        Disk::open(&DiskConfig { read_only, ..DiskConfig::new(path) }, &[])
    }

    #[test]
    fn a_disk_is_as_many_whole_sectors_as_its_file() {
        let (_directory, path) = file(1500);
        let disk = open(&path, false).unwrap();
        assert_eq!((disk.sectors(), disk.bytes()), (2, 1024));
    }

    #[test]
    fn a_disk_has_whole_blocks_within_its_end_and_no_others() {
        let (_directory, path) = file(4096);
        let disk = open(&path, false).unwrap();
        assert!(disk.has(0, 4096) && disk.has(512, 512) && disk.has(4096, 0));
        for (offset, bytes) in [(0, 4608), (4096, 512), (1, 512), (0, 511), (u64::MAX - 511, 1024)] {
            assert!(!disk.has(offset, bytes), "{offset} {bytes}");
        }
    }

    #[test]
    fn a_disk_that_is_written_by_one_machine_is_not_given_to_another() {
        let (_directory, path) = file(4096);
        let _first = open(&path, false).unwrap();
        for read_only in [true, false] {
            assert!(matches!(open(&path, read_only), Err(OpenDiskError::InUse { .. })));
        }
    }

    #[test]
    fn a_disk_that_nobody_writes_can_be_shared_between_machines() {
        let (_directory, path) = file(4096);
        let _first = open(&path, true).unwrap();
        assert!(open(&path, true).is_ok());
    }

    #[test]
    fn one_disk_by_two_names_is_still_one() {
        let (directory, path) = file(4096);
        let [link, hard] = ["link", "hard"].map(|name| directory.path().join(name));
        symlink(&path, &link).unwrap();
        fs::hard_link(&path, &hard).unwrap();
        let first = [open(&path, true).unwrap()];
        for name in [link, hard] {
            let second = Disk::open(&DiskConfig { read_only: true, ..DiskConfig::new(&name) }, &first);
            assert!(matches!(second, Err(OpenDiskError::Shared { path, .. }) if path == name));
        }
    }

    #[test]
    fn what_is_no_disk_is_named() {
        let (directory, path) = file(0);
        assert!(matches!(open(&path, true), Err(OpenDiskError::Empty { block: 512, .. })));
        assert!(matches!(open(directory.path(), true), Err(OpenDiskError::NotADisk { .. })));
        assert!(matches!(open(&directory.path().join("x"), true), Err(OpenDiskError::Open { .. })));
    }

    #[test]
    fn a_disk_past_the_page_cache_says_how_it_is_to_be_accessed() {
        let (_directory, path) = file(1 << 20);
        match Disk::open(&DiskConfig { direct: true, ..DiskConfig::new(&path) }, &[]) {
            Ok(disk) => {
                let shape = disk.shape();
                assert!(shape.block.is_power_of_two() && shape.preferred >= shape.block, "{shape:?}");
            }
            // Not every file system has it; that is said then.
            Err(error) => assert!(matches!(error, OpenDiskError::OpenDirect { .. }), "{error}"),
        }
    }
}
