//! `pull`: an image comes whole or not at all; layers that are here already are not fetched again.

use super::{ARCHITECTURE, Images, address, policy};
use crate::{
    cli::{
        CliError,
        args::{RemoteArguments, SignerArguments},
        progress::Progress,
    },
    client::{FetchedManifest, ImageRegistry},
    domain::image::{
        descriptor::Descriptor,
        media_type,
        reference::{Reference, RepositoryName},
        signature::{EMPTY_CONFIG, ImageSignature},
    },
    image::{layout::Layout, verify::verify_blob},
};

impl Images<'_> {
    pub(super) async fn pull(
        &self,
        from: &Reference,
        name: Option<&Reference>,
        remote: &RemoteArguments,
        trust: &SignerArguments,
    ) -> Result<(), CliError> {
        let registry = self.registry(address(from)?, remote)?;
        let local = name.cloned().unwrap_or_else(|| Reference { registry: None, ..from.clone() });
        let layout = self.layout(&local)?;
        let image = registry.image(&from.repository, &from.version, ARCHITECTURE).await?;
        let digest = image.fetched.digest;
        let found = registry.signatures(&from.repository, &digest).await?;
        let signatures: Vec<_> = found.iter().map(|(_, signature)| signature.clone()).collect();
        policy(trust).judge(&digest, &signatures)?;

        layout.add_blob(media_type::CONFIG, &image.config)?;
        for layer in image.image.boot.layers() {
            fetch(&registry, &from.repository, &layout, layer).await?;
        }
        let FetchedManifest { manifest, bytes, .. } = image.fetched;
        let added = layout.add_manifest(&manifest, &bytes, local.version.tag())?;
        for (carrier, signature) in found {
            keep_signature(&layout, &carrier, &signature)?;
        }
        self.print_stored(&local, added)
    }
}

async fn fetch(
    registry: &ImageRegistry,
    name: &RepositoryName,
    layout: &Layout,
    layer: &Descriptor,
) -> Result<(), CliError> {
    // To read it once more is quicker than to fetch it, and one that is damaged is replaced.
    if verify_blob(layout, layer, &mut |_| {}).is_ok() {
        return Ok(());
    }
    let progress = Progress::new(format!("fetching {:.12}", layer.digest.hex()));
    let incoming = layout.incoming()?;
    let mut file = tokio::fs::File::from_std(incoming.file_again()?);
    registry.blob(name, layer, &mut file, &mut |received| progress.at(received, layer.size)).await?;
    progress.done();
    Ok(incoming.keep(&layer.digest)?)
}

fn keep_signature(
    layout: &Layout,
    carrier: &FetchedManifest,
    signature: &ImageSignature,
) -> Result<(), CliError> {
    layout.add_blob(media_type::EMPTY, EMPTY_CONFIG)?;
    // Its bytes are those of the blob only where they are written as we write them; else the signature stays behind.
    let bytes = signature.to_bytes().map_err(CliError::Json)?;
    let blob = layout.add_blob(media_type::SIGNATURE_BLOB, &bytes)?;
    if carrier.manifest.layers.iter().any(|layer| layer.digest == blob.digest) {
        layout.add_manifest(&carrier.manifest, &carrier.bytes, None)?;
    }
    Ok(())
}
