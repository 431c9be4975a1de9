//! Who a server is over TLS, and whom it asks for a certificate.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::{NoClientAuth, ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use crate::domain::tls_key::TlsKey;

#[derive(Debug, Error)]
pub enum TlsError {
    #[error("cannot read certificates from {path:?}, which is to hold them in PEM")]
    Certificates { path: PathBuf, source: pem::Error },
    #[error("{0:?} holds no certificate in PEM")]
    NoCertificate(PathBuf),
    #[error("cannot read a private key from {path:?}, which is to hold one in PEM")]
    Key { path: PathBuf, source: pem::Error },
    #[error("a certificate of {path:?} cannot be trusted")]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("clients' certificates cannot be asked for")]
    Clients(#[from] rustls::server::VerifierBuilderError),
    #[error("the certificate and the key do not belong together, or cannot be used")]
    Identity(#[source] rustls::Error),
}

/// What a server proves itself with.
#[derive(Debug)]
pub struct ServerIdentity {
    /// The server's own certificate, then those between it and its authority.
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ServerIdentity {
    pub fn new(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Self {
        Self { certificates: vec![certificate], key }
    }

    /// Reads certificates and key from files in PEM.
    pub fn load(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        let key = PrivateKeyDer::from_pem_file(key)
            .map_err(|source| TlsError::Key { path: key.to_owned(), source })?;
        Ok(Self { certificates: read_certificates(certificates)?, key })
    }
}

/// A server's side of TLS.
#[derive(Clone)]
pub struct ServerTls {
    pub(super) acceptor: TlsAcceptor,
    /// Clients may show a certificate of an authority that the server trusts.
    pub(super) asks_clients: bool,
    key: TlsKey,
}

impl ServerTls {
    /// `client_authorities`: a file (PEM) of those whose certificates clients may show; which calls need one, the
    /// handlers say.
    pub fn new(identity: ServerIdentity, client_authorities: Option<&Path>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let clients = client_verifier(client_authorities, &provider)?;
        let own = identity.certificates.first().ok_or_else(|| TlsError::NoCertificate(PathBuf::new()))?;
        let key = TlsKey::of(
            &ParsedCertificate::try_from(own).map_err(TlsError::Identity)?.subject_public_key_info(),
        );
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Identity)?
            .with_client_cert_verifier(clients)
            .with_single_cert(identity.certificates, identity.key)
            .map_err(TlsError::Identity)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { acceptor, asks_clients: client_authorities.is_some(), key })
    }

    /// The key that the server proves to have.
    pub fn key(&self) -> TlsKey {
        self.key
    }
}

fn client_verifier(
    authorities: Option<&Path>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(path) = authorities else { return Ok(Arc::new(NoClientAuth)) };
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|source| TlsError::Authority { path: path.to_owned(), source })?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    Ok(verifier.allow_unauthenticated().build()?)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Certificates { path: path.to_owned(), source };
    let read: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if read.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(read) }
}
