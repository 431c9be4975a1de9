//! Images, as they are typed about.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{LeaseDuration, Size};
use crate::domain::image::{reference::Reference, signature::ImageKey};

#[derive(Debug, Args)]
pub struct ImageArguments {
    /// Folder of images, as `sublet-images` serves it
    #[arg(long, global = true, env = "SUBLET_IMAGE_STORE", value_name = "DIR")]
    pub store: Option<PathBuf>,
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make an image of a kernel, a raw disk, or a folder that images/build.sh made
    Build(BuildArguments),
    /// Make an image of what others built: a disk whose format you state, or a kernel and an initial RAM disk
    Import(ImportArguments),
    /// Send an image, with its signatures, to a registry
    Push {
        /// NAME[:TAG] or NAME@DIGEST of the store
        image: Reference,
        /// HOST[:PORT]/NAME[:TAG]; http:// or https:// in front says how it is spoken to
        to: Reference,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Fetch an image, with its signatures, from a registry
    Pull {
        /// HOST[:PORT]/NAME[:TAG] or HOST[:PORT]/NAME@DIGEST
        from: Reference,
        /// What it is to be called in the store; as at the registry where not stated
        #[arg(value_name = "NAME[:TAG]")]
        name: Option<Reference>,
        #[command(flatten)]
        remote: RemoteArguments,
        #[command(flatten)]
        trust: SignerArguments,
    },
    /// List all images of the store
    List,
    /// Show an image of the store, or one at a registry without fetching it
    Inspect {
        image: Reference,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Read every byte of an image of the store, and say whether it is what it says, and who has signed it
    Verify {
        image: Reference,
        #[command(flatten)]
        trust: SignerArguments,
    },
    /// Sign an image of the store; `push` sends the signature with it
    Sign {
        image: Reference,
        /// File with the secret key, as `sublet image key` makes it
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Print the public key of a file with a secret key; where there is none, one is made
    Key { file: PathBuf },
}

/// What is said of an image.
#[derive(Debug, Args)]
pub struct AboutArguments {
    /// The guest's OS, as people call it, for example "Debian 12"
    #[arg(long, value_name = "TEXT")]
    pub os: Option<String>,
    #[arg(long, value_name = "NAME", default_value = "amd64")]
    pub architecture: String,
    /// The kernel's release, as `uname -r` says it
    #[arg(long, value_name = "RELEASE")]
    pub kernel_release: Option<String>,
    /// What people call the image
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
    /// When it was built, in seconds since 1970; now where not stated
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS")]
    pub created: Option<i64>,
}

/// A kernel that the host starts.
#[derive(Debug, Args)]
pub struct KernelArguments {
    /// The kernel (bzImage or ELF)
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    #[arg(long, value_name = "TEXT", default_value = "", requires = "kernel")]
    pub command_line: String,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("of").required(true).args(["kernel", "disk", "from"]))]
pub struct BuildArguments {
    /// NAME[:TAG]
    pub image: Reference,
    #[command(flatten)]
    pub kernel: KernelArguments,
    /// A raw disk
    #[arg(long, value_name = "FILE")]
    pub disk: Option<PathBuf>,
    /// A folder with an image.json, which says OS and kernel too
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    #[command(flatten)]
    pub about: AboutArguments,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("of").required(true).args(["kernel", "disk"]))]
pub struct ImportArguments {
    /// NAME[:TAG]
    pub image: Reference,
    #[command(flatten)]
    pub kernel: KernelArguments,
    /// A disk; of which format, is not guessed
    #[arg(long, value_name = "FILE", requires = "format")]
    pub disk: Option<PathBuf>,
    #[arg(long, requires = "disk")]
    pub format: Option<DiskFormat>,
    /// The largest disk that a file may become
    #[arg(long, value_name = "SIZE", default_value = "64GiB")]
    pub max_size: Size,
    #[command(flatten)]
    pub about: AboutArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DiskFormat {
    Raw,
    Qcow2,
}

/// How a registry is spoken to.
#[derive(Debug, Args)]
pub struct RemoteArguments {
    /// File with USER:PASSWORD, where the registry does not let everybody in
    #[arg(long, value_name = "FILE")]
    pub credentials: Option<PathBuf>,
    /// How long a registry that goes away in the middle is waited for
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    pub patience: LeaseDuration,
}

/// Whose images are taken.
#[derive(Debug, Args)]
pub struct SignerArguments {
    /// A key whose word is taken, as `sublet image key` prints it; with any, an image that none of them signed is refused
    #[arg(long = "signed-by", value_name = "KEY")]
    pub signed_by: Vec<ImageKey>,
}
