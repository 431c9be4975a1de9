//! `list` and `inspect`.

use indicatif::BinaryBytes;
use serde::Serialize;

use super::{ARCHITECTURE, Images};
use crate::{
    cli::{
        CliError,
        args::RemoteArguments,
        error::with_causes,
        report::{Report, table},
    },
    domain::image::{
        contents::{BadImage, Boot, Disk, Image},
        descriptor::{CREATED, Descriptor},
        digest::Digest,
        manifest::{BadManifest, Manifest},
        reference::{Reference, RepositoryName},
    },
    image::{
        layout::LayoutError,
        store::{StoreError, StoredImage, read_image},
    },
};

impl Images<'_> {
    pub(super) fn list(&self) -> Result<(), CliError> {
        let mut images = Vec::new();
        for name in self.store.repositories()? {
            let layout = self.store.layout(&name);
            for entry in layout.index()?.manifests {
                let shown = shown_name(&name, &entry);
                match read_image(&layout, entry) {
                    Ok(StoredImage { descriptor, manifest, image }) => {
                        images.push(Shown::of(shown, descriptor.digest, &manifest, &image));
                    }
                    // Other artifacts, and signatures, lie beside them.
                    Err(StoreError::Image { source, .. }) if matches!(*source, BadImage::Kind(_)) => {}
                    Err(StoreError::Layout(LayoutError::Manifest {
                        source: BadManifest::MediaType { .. },
                        ..
                    })) => {}
                    // The others are no worse for it.
                    Err(error) => eprintln!("sublet: {shown}: {}", with_causes(&error)),
                }
            }
        }
        self.context.print(&ShownList { images })
    }

    pub(super) async fn inspect(&self, image: &Reference, remote: &RemoteArguments) -> Result<(), CliError> {
        let shown = match &image.registry {
            None => {
                let (_, stored) = self.stored(image)?;
                Shown::of(image.to_string(), stored.descriptor.digest, &stored.manifest, &stored.image)
            }
            Some(address) => {
                let registry = self.registry(address, remote)?;
                let there = registry.image(&image.repository, &image.version, ARCHITECTURE).await?;
                Shown::of(image.to_string(), there.fetched.digest, &there.fetched.manifest, &there.image)
            }
        };
        self.context.print(&shown)
    }

    /// Shows what is in the store now.
    pub(super) fn print_stored(&self, image: &Reference, descriptor: Descriptor) -> Result<(), CliError> {
        let stored = read_image(&self.layout(image)?, descriptor)?;
        let digest = stored.descriptor.digest;
        self.context.print(&Shown::of(image.to_string(), digest, &stored.manifest, &stored.image))
    }
}

fn shown_name(name: &RepositoryName, entry: &Descriptor) -> String {
    match entry.tag() {
        Some(tag) => format!("{name}:{tag}"),
        None => format!("{name}@{}", entry.digest),
    }
}

/// An image as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    image: String,
    digest: Digest,
    /// All its blobs, in bytes.
    size: u64,
    os: String,
    architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_release: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    boot: ShownBoot,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum ShownBoot {
    Kernel { command_line: String, initrd: bool },
    Disk { bytes: u64, merkle_root: Digest },
}

#[derive(Debug, Serialize)]
struct ShownList {
    images: Vec<Shown>,
}

impl Shown {
    fn of(name: String, digest: Digest, manifest: &Manifest, image: &Image) -> Self {
        Self {
            image: name,
            digest,
            size: manifest.blobs().map(|blob| blob.size).sum(),
            os: image.os.clone(),
            architecture: image.architecture.clone(),
            kernel_release: image.kernel_release.clone(),
            title: image.title.clone(),
            created: manifest.annotations.get(CREATED).cloned(),
            boot: match &image.boot {
                Boot::Kernel { initrd, command_line, .. } => {
                    ShownBoot::Kernel { command_line: command_line.clone(), initrd: initrd.is_some() }
                }
                Boot::Disk(Disk { size, merkle_root, .. }) => {
                    ShownBoot::Disk { bytes: size.bytes(), merkle_root: *merkle_root }
                }
            },
        }
    }
}

impl Report for ShownList {
    fn text(&self) -> String {
        let rows = self.images.iter().map(|image| {
            let boot = match image.boot {
                ShownBoot::Kernel { .. } => "kernel".to_owned(),
                ShownBoot::Disk { bytes, .. } => format!("disk of {}", BinaryBytes(bytes)),
            };
            let digest = image.digest.to_string();
            [image.image.clone(), image.os.clone(), boot, BinaryBytes(image.size).to_string(), digest]
        });
        table(["IMAGE", "OS", "BOOTS", "SIZE", "DIGEST"], rows)
    }
}

impl Report for Shown {
    fn text(&self) -> String {
        let boot = match &self.boot {
            ShownBoot::Kernel { command_line, initrd } => {
                let with = if *initrd { ", with an initial RAM disk" } else { "" };
                format!("a kernel{with}\nline       {command_line}")
            }
            ShownBoot::Disk { bytes, merkle_root } => {
                format!("a disk of {}\nroot       {merkle_root}", BinaryBytes(*bytes))
            }
        };
        let mut text = format!(
            "image      {}\ndigest     {}\nsize       {}\nos         {} ({})\nboots      {boot}",
            self.image,
            self.digest,
            BinaryBytes(self.size),
            self.os,
            self.architecture,
        );
        let more = [("release", &self.kernel_release), ("title", &self.title), ("created", &self.created)];
        for (name, value) in more {
            if let Some(value) = value {
                text.push_str(&format!("\n{name:<11}{value}"));
            }
        }
        text
    }
}
