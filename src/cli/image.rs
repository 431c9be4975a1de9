//! OS images: built, imported, listed, verified, signed, and carried to registries and back.

mod build;
mod pull;
mod push;
mod show;
mod sign;

use std::{env, path::PathBuf, process::ExitCode};

use super::{
    CliError,
    args::{ImageArguments, ImageCommand, RemoteArguments, SignerArguments},
    context::{Context, read_secret},
};
use crate::{
    client::{Credentials, ImageRegistry},
    domain::image::{
        reference::{Reference, RegistryAddress},
        signature::SignaturePolicy,
    },
    image::{
        layout::Layout,
        store::{ImageStore, StoredImage},
    },
};

/// For which computers images are fetched, where a name stands for several.
const ARCHITECTURE: &str = "amd64";

pub(super) async fn image(context: &Context, arguments: ImageArguments) -> Result<ExitCode, CliError> {
    let images = Images { context, store: store(arguments.store)? };
    match arguments.command {
        ImageCommand::Build(arguments) => images.build(arguments)?,
        ImageCommand::Import(arguments) => images.import(arguments).await?,
        ImageCommand::Push { image, to, remote } => images.push(&image, &to, &remote).await?,
        ImageCommand::Pull { from, name, remote, trust } => {
            images.pull(&from, name.as_ref(), &remote, &trust).await?;
        }
        ImageCommand::List => images.list()?,
        ImageCommand::Inspect { image, remote } => images.inspect(&image, &remote).await?,
        ImageCommand::Verify { image, trust } => images.verify(&image, &trust)?,
        ImageCommand::Sign { image, key } => images.sign(&image, &key)?,
        ImageCommand::Key { file } => sign::print_key(&file)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What all of these commands use.
struct Images<'a> {
    context: &'a Context,
    store: ImageStore,
}

impl Images<'_> {
    /// Where an image of the store is, by its name.
    fn layout(&self, image: &Reference) -> Result<Layout, CliError> {
        match image.registry {
            None => Ok(self.store.layout(&image.repository)),
            Some(_) => Err(CliError::NotLocal(image.to_string())),
        }
    }

    fn stored(&self, image: &Reference) -> Result<(Layout, StoredImage), CliError> {
        let layout = self.layout(image)?;
        Ok((layout, self.store.image(&image.repository, &image.version)?))
    }

    fn registry(
        &self,
        address: &RegistryAddress,
        remote: &RemoteArguments,
    ) -> Result<ImageRegistry, CliError> {
        let credentials = remote.credentials.as_deref().map(read_secret).transpose()?;
        let credentials = credentials.map(Credentials::try_from).transpose()?;
        let registry = ImageRegistry::new(address, credentials, &self.context.trust()?)?;
        let patience = std::time::Duration::from_secs(remote.patience.seconds);
        Ok(registry.patient(patience).traced(self.context.request_id()))
    }
}

/// The registry of a reference that has to name one.
fn address(image: &Reference) -> Result<&RegistryAddress, CliError> {
    image.registry.as_ref().ok_or_else(|| CliError::NotRemote(image.to_string()))
}

fn policy(trust: &SignerArguments) -> SignaturePolicy {
    SignaturePolicy { trusted: trust.signed_by.clone(), required: !trust.signed_by.is_empty() }
}

/// By default where the XDG base directory specification puts a user's data.
fn store(directory: Option<PathBuf>) -> Result<ImageStore, CliError> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = || set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")));
    let directory = directory.or_else(|| Some(data()?.join("sublet/images")));
    Ok(ImageStore::at(directory.ok_or(CliError::NoImageStore)?))
}
