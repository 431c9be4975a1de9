//! `push`: what a registry has already is not sent again; the manifest comes last.

use super::{Images, address};
use crate::{
    cli::{CliError, args::RemoteArguments, progress::Progress, report::line},
    client::ImageRegistry,
    domain::image::{
        manifest::Manifest,
        reference::{Reference, RepositoryName, Tag},
    },
    image::layout::Layout,
};

impl Images<'_> {
    pub(super) async fn push(
        &self,
        image: &Reference,
        to: &Reference,
        remote: &RemoteArguments,
    ) -> Result<(), CliError> {
        let (layout, stored) = self.stored(image)?;
        let registry = self.registry(address(to)?, remote)?;
        let (manifest, bytes) = layout.manifest(&stored.descriptor)?;
        let digest = stored.descriptor.digest;
        push(&registry, &to.repository, to.version.tag(), &layout, &manifest, &bytes).await?;
        for (entry, _) in layout.referrers(&digest)? {
            let (manifest, bytes) = layout.manifest(&entry)?;
            push(&registry, &to.repository, None, &layout, &manifest, &bytes).await?;
        }
        line(&format!("{to} is {digest}"))
    }
}

async fn push(
    registry: &ImageRegistry,
    name: &RepositoryName,
    tag: Option<&Tag>,
    layout: &Layout,
    manifest: &Manifest,
    bytes: &[u8],
) -> Result<(), CliError> {
    for blob in manifest.blobs() {
        if registry.has_blob(name, blob).await? {
            continue;
        }
        let progress = Progress::new(format!("sending {:.12}", blob.digest.hex()));
        let file = tokio::fs::File::from_std(layout.open_blob(blob)?);
        registry.push_blob(name, blob, file, progress.counter(blob.size)).await?;
        progress.done();
    }
    Ok(registry.push_manifest(name, tag, manifest, bytes).await?)
}
