//! Certificates and keys in files of PEM (RFC 7468), as either end of TLS is given them.

use std::path::{Path, PathBuf};

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error, PemObject as _},
    },
};
use thiserror::Error;

/// Why a file is not what it is to be.
#[derive(Debug, Error)]
pub enum PemError {
    #[error("cannot read certificates from {path:?}, which is to hold them in PEM")]
    Certificates { path: PathBuf, source: Error },
    #[error("{0:?} holds no certificate in PEM")]
    NoCertificate(PathBuf),
    #[error("cannot read a private key from {path:?}, which is to hold one in PEM")]
    Key { path: PathBuf, source: Error },
    #[error("a certificate of {path:?} cannot be trusted")]
    Authority { path: PathBuf, source: rustls::Error },
}

/// All certificates in the file; at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let failed = |source| PemError::Certificates { path: path.to_owned(), source };
    let read: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if read.is_empty() { Err(PemError::NoCertificate(path.to_owned())) } else { Ok(read) }
}

pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| PemError::Key { path: path.to_owned(), source })
}

/// Whoever the certificates in the file are of, to be trusted with what they vouch for.
pub fn authorities(path: &Path) -> Result<RootCertStore, PemError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|source| PemError::Authority { path: path.to_owned(), source })?;
    }
    Ok(roots)
}
