//! A whole image: manifest and config, held against each other.

use thiserror::Error;

use super::{
    chunks::{CHUNK_BYTES, DiskSize},
    config::{BadConfig, BootConfig, CONFIG_MAX_BYTES, DiskBoot, ImageConfig, KernelBoot},
    descriptor::{Annotations, DISK_BYTES, Descriptor, MERKLE_ROOT, OS, TITLE},
    digest::Digest,
    manifest::Manifest,
    media_type,
};

/// The largest kernel or initial RAM disk, in bytes.
pub const FILE_MAX_BYTES: u64 = 4 << 30;

/// An image that is what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub os: String,
    pub architecture: String,
    pub kernel_release: Option<String>,
    pub title: Option<String>,
    pub boot: Boot,
}

/// What it boots, and the blobs of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    Kernel { kernel: Descriptor, initrd: Option<Descriptor>, command_line: String },
    Disk(Disk),
}

/// A disk in chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub size: DiskSize,
    pub merkle_root: Digest,
    /// The packed blob.
    pub disk: Descriptor,
    /// The blob of leaf hashes.
    pub chunks: Descriptor,
}

/// Why a manifest and a config are no image.
#[derive(Debug, Error)]
pub enum BadImage {
    #[error("it is a {0:?}, and no OS image")]
    Kind(String),
    #[error("its config is a {0:?}")]
    ConfigKind(String),
    #[error("its config has {found}, and the manifest says {expected}")]
    ConfigDigest { expected: Digest, found: Digest },
    #[error("its config would be {0} bytes long, and no more than {CONFIG_MAX_BYTES} are read")]
    ConfigSize(u64),
    #[error("its config")]
    Config(#[from] BadConfig),
    #[error("it has no layer {0}")]
    Missing(&'static str),
    #[error("it has a layer {0:?} too many, or none that belongs to how it boots")]
    Surplus(String),
    #[error("its layer {kind} has {found} bytes, and there are {expected} of it at most")]
    TooLarge { kind: &'static str, expected: u64, found: u64 },
    #[error("its layer {kind} has {found} bytes, and should have {expected}")]
    Size { kind: &'static str, expected: u64, found: u64 },
    #[error("its annotation {name} is {found:?}, and its config says {expected:?}")]
    Annotation { name: &'static str, expected: String, found: String },
}

impl Image {
    /// Checks what a manifest says of the config, before that is fetched.
    pub fn expects_config(manifest: &Manifest) -> Result<&Descriptor, BadImage> {
        if manifest.kind() != media_type::IMAGE {
            return Err(BadImage::Kind(short(manifest.kind())));
        }
        if manifest.config.media_type != media_type::CONFIG {
            return Err(BadImage::ConfigKind(short(&manifest.config.media_type)));
        }
        if manifest.config.size > CONFIG_MAX_BYTES {
            return Err(BadImage::ConfigSize(manifest.config.size));
        }
        Ok(&manifest.config)
    }

    /// Reads manifest and config as an image.
    pub fn read(manifest: &Manifest, config: &[u8]) -> Result<Self, BadImage> {
        let expected = Self::expects_config(manifest)?.digest;
        let found = Digest::of(config);
        if found != expected {
            return Err(BadImage::ConfigDigest { expected, found });
        }
        let config = ImageConfig::read(config)?;
        let mut layers = Layers(manifest.layers.clone());
        let boot = match config.boot {
            BootConfig::Kernel(KernelBoot { command_line }) => layers.kernel(command_line)?,
            BootConfig::Disk(disk) => layers.disk(disk)?,
        };
        if let Some(surplus) = layers.0.pop() {
            return Err(BadImage::Surplus(short(&surplus.media_type)));
        }
        let image = Self {
            os: config.os,
            architecture: config.architecture,
            kernel_release: config.kernel_release,
            title: manifest.annotations.get(TITLE).cloned(),
            boot,
        };
        image.check_annotations(&manifest.annotations)?;
        Ok(image)
    }

    /// The config blob's contents.
    pub fn config(&self) -> ImageConfig {
        ImageConfig {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            kernel_release: self.kernel_release.clone(),
            boot: match &self.boot {
                Boot::Kernel { command_line, .. } => {
                    BootConfig::Kernel(KernelBoot { command_line: command_line.clone() })
                }
                Boot::Disk(Disk { size, merkle_root, .. }) => BootConfig::Disk(DiskBoot {
                    bytes: *size,
                    chunk_bytes: CHUNK_BYTES,
                    merkle_root: *merkle_root,
                }),
            },
        }
    }

    /// The manifest around a config that is stored.
    pub fn manifest(&self, config: Descriptor) -> Manifest {
        let mut manifest = Manifest::new(media_type::IMAGE, config);
        manifest.layers = self.boot.layers().cloned().collect();
        manifest.annotations = self.own_annotations().map(|(name, value)| (name.to_owned(), value)).collect();
        manifest.annotations.extend(self.title.clone().map(|title| (TITLE.to_owned(), title)));
        manifest
    }

    /// What a list of images shows of it, though it reads no config.
    fn own_annotations(&self) -> impl Iterator<Item = (&'static str, String)> + use<> {
        let disk = match &self.boot {
            Boot::Kernel { .. } => None,
            Boot::Disk(disk) => Some(disk),
        };
        let disk = disk.map(|disk| {
            [(DISK_BYTES, disk.size.bytes().to_string()), (MERKLE_ROOT, disk.merkle_root.to_string())]
        });
        std::iter::once((OS, self.os.clone())).chain(disk.into_iter().flatten())
    }

    /// An annotation may be missing; it never says something else.
    fn check_annotations(&self, annotations: &Annotations) -> Result<(), BadImage> {
        for (name, expected) in self.own_annotations() {
            match annotations.get(name) {
                Some(found) if *found != expected => {
                    return Err(BadImage::Annotation { name, expected, found: short(found) });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Boot {
    /// Kernel and initial RAM disk, or the disk and the list of its chunks.
    pub fn layers(&self) -> impl Iterator<Item = &Descriptor> {
        let (first, second) = match self {
            Self::Kernel { kernel, initrd, .. } => (kernel, initrd.as_ref()),
            Self::Disk(Disk { disk, chunks, .. }) => (disk, Some(chunks)),
        };
        std::iter::once(first).chain(second)
    }
}

/// Layers that nobody has asked for yet.
struct Layers(Vec<Descriptor>);

impl Layers {
    fn kernel(&mut self, command_line: String) -> Result<Boot, BadImage> {
        let kernel = self.need("kernel", media_type::KERNEL)?;
        let initrd = self.take(media_type::INITRD);
        at_most("kernel", &kernel, FILE_MAX_BYTES)?;
        initrd.as_ref().map_or(Ok(()), |initrd| at_most("initrd", initrd, FILE_MAX_BYTES))?;
        Ok(Boot::Kernel { kernel, initrd, command_line })
    }

    fn disk(&mut self, about: DiskBoot) -> Result<Boot, BadImage> {
        let (disk, chunks) = (self.need("disk", media_type::DISK)?, self.need("chunks", media_type::CHUNKS)?);
        at_most("disk", &disk, about.bytes.bytes())?;
        let expected = about.bytes.table_bytes();
        if chunks.size != expected {
            return Err(BadImage::Size { kind: "chunks", expected, found: chunks.size });
        }
        Ok(Boot::Disk(Disk { size: about.bytes, merkle_root: about.merkle_root, disk, chunks }))
    }

    fn need(&mut self, kind: &'static str, media_type: &str) -> Result<Descriptor, BadImage> {
        self.take(media_type).ok_or(BadImage::Missing(kind))
    }

    fn take(&mut self, media_type: &str) -> Option<Descriptor> {
        let at = self.0.iter().position(|layer| layer.media_type == media_type)?;
        Some(self.0.remove(at))
    }
}

fn at_most(kind: &'static str, layer: &Descriptor, expected: u64) -> Result<(), BadImage> {
    if layer.size <= expected {
        return Ok(());
    }
    Err(BadImage::TooLarge { kind, expected, found: layer.size })
}

/// What somebody else wrote, so that it can stand in an error.
fn short(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests;
