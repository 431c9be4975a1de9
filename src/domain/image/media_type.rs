//! The media types of images, and of what they are carried in.

/// OCI image-spec 1.1: manifests and indexes.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image-spec 1.1: the two bytes `{}`, where an artifact has no config.
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// What an image's manifest says that it is.
pub const IMAGE: &str = "application/vnd.sublet.image.v1";
pub const CONFIG: &str = "application/vnd.sublet.image.config.v1+json";
pub const KERNEL: &str = "application/vnd.sublet.image.kernel.v1";
pub const INITRD: &str = "application/vnd.sublet.image.initrd.v1";
/// The chunks of a disk that are not all zeroes, in order.
pub const DISK: &str = "application/vnd.sublet.image.disk.v1";
/// The leaf hash of each chunk of a disk.
pub const CHUNKS: &str = "application/vnd.sublet.image.chunks.v1";

/// What a signature's manifest says that it is, and its only layer.
pub const SIGNATURE: &str = "application/vnd.sublet.signature.v1";
pub const SIGNATURE_BLOB: &str = "application/vnd.sublet.signature.v1+json";
