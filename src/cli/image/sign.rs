//! `sign`, `key` and `verify`: who vouches for an image, and whether it is what it says.

use std::path::Path;

use serde::Serialize;

use super::{Images, policy};
use crate::{
    cli::{
        CliError,
        args::SignerArguments,
        context::{read_secret, write_secret},
        progress::Progress,
        report::{Report, line},
    },
    domain::image::{
        digest::Digest,
        reference::Reference,
        signature::{ImageKey, ImageSigner, Vouched},
    },
    image::{
        sign::{sign, signatures},
        verify::verify,
    },
};

impl Images<'_> {
    pub(super) fn sign(&self, image: &Reference, key: &Path) -> Result<(), CliError> {
        let signer = ImageSigner::from_secret(&read_secret(key)?)?;
        let (layout, stored) = self.stored(image)?;
        let digest = stored.descriptor.digest;
        sign(&layout, stored.descriptor, &signer)?;
        line(&format!("{digest} is signed by {}", signer.key()))
    }

    pub(super) fn verify(&self, image: &Reference, trust: &SignerArguments) -> Result<(), CliError> {
        let (layout, stored) = self.stored(image)?;
        let digest = stored.descriptor.digest;
        let progress = Progress::new("verifying");
        verify(&layout, &stored, &mut |read, whole| progress.at(read, whole))?;
        progress.done();
        let found = signatures(&layout, &digest)?;
        let trusted = policy(trust).judge(&digest, &found)?;
        let good = found.iter().filter(|signature| signature.vouches_for(&digest));
        let signed_by = good.map(|signature| signature.key).collect();
        self.context.print(&Verified { image: image.to_string(), digest, signed_by, trusted })
    }
}

#[derive(Serialize)]
struct Verified {
    image: String,
    digest: Digest,
    /// Whoever has signed it, trusted or not.
    signed_by: Vec<ImageKey>,
    trusted: Vouched,
}

impl Report for Verified {
    fn text(&self) -> String {
        let keys: Vec<String> = self.signed_by.iter().map(ToString::to_string).collect();
        let signed = if keys.is_empty() { "by nobody".to_owned() } else { keys.join("\n           ") };
        let trusted = match self.trusted {
            Vouched::By(key) => format!("\ntrusted    {key}"),
            Vouched::ByNobody => String::new(),
        };
        format!(
            "image      {}\ndigest     {}\nverified   every byte\nsigned     {signed}{trusted}",
            self.image, self.digest
        )
    }
}

/// The public key of a file; a secret one is made where there is none.
pub(super) fn print_key(file: &Path) -> Result<(), CliError> {
    if !file.exists() {
        let signer = ImageSigner::from_seed(rand::random());
        let written = write_secret(file, &signer.secret());
        written.map_err(|source| CliError::File { path: file.to_owned(), source })?;
    }
    line(&ImageSigner::from_secret(&read_secret(file)?)?.key().to_string())
}
