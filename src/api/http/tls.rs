//! Who a server is over TLS, and whom it asks for a certificate.

use std::{
    error::Error,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{NoClientAuth, ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use crate::{
    api::pem::{self, PemError},
    domain::tls_key::TlsKey,
};

#[derive(Debug, Error)]
pub enum TlsError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("the server has no certificate")]
    NoCertificate,
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
        Ok(Self { key: pem::private_key(key)?, certificates: pem::certificates(certificates)? })
    }
}

/// A server's side of TLS. Clones share it, and what takes its place.
#[derive(Clone)]
pub struct ServerTls(Arc<RwLock<Greeting>>);

/// How connections are greeted.
#[derive(Clone)]
pub(super) struct Greeting {
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
        let own = identity.certificates.first().ok_or(TlsError::NoCertificate)?;
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
        let greeting = Greeting { acceptor, asks_clients: client_authorities.is_some(), key };
        Ok(Self(Arc::new(RwLock::new(greeting))))
    }

    /// The key that the server proves to have.
    pub fn key(&self) -> TlsKey {
        self.greeting().key
    }

    /// How the next connection is greeted.
    pub(super) fn greeting(&self) -> Greeting {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Greets from now on with what was read anew; connections that there are go on. What cannot be used changes nothing.
    pub fn renew<E: Error>(&self, read: Result<Self, E>) {
        match read {
            Ok(new) => {
                *self.0.write().unwrap_or_else(PoisonError::into_inner) = new.greeting();
                tracing::info!("the server's certificates were read again");
            }
            Err(error) => tracing::error!(
                error = super::chain(&error),
                "the server's certificates cannot be read again; those that were read before are still shown"
            ),
        }
    }
}

fn client_verifier(
    authorities: Option<&Path>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(path) = authorities else { return Ok(Arc::new(NoClientAuth)) };
    let roots = pem::authorities(path)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    Ok(verifier.allow_unauthenticated().build()?)
}
