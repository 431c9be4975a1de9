//! Whom a client takes for its server over TLS, and how it shows who it is itself.

use std::{fmt, path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use thiserror::Error;

use crate::{
    api::pem::{self, PemError},
    domain::tls_key::TlsKey,
};

/// Why TLS cannot be set up as it was asked for.
#[derive(Debug, Error)]
pub enum TrustError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("the certificate and the key do not belong together, or cannot be used")]
    Identity(#[source] rustls::Error),
    #[error("this machine has no certificates of authorities to trust: name a file of them")]
    System(#[source] rustls::Error),
    #[error("no verifier of certificates can be made")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// Whom a client takes for its server. By default, whomever this machine's own authorities vouch for.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    server: TrustedServer,
    identity: Option<Arc<Identity>>,
}

#[derive(Debug, Clone, Default)]
enum TrustedServer {
    #[default]
    System,
    Authorities(Arc<RootCertStore>),
    Key(TlsKey),
}

/// What the client shows of itself.
#[derive(Debug)]
struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Trust {
    /// Whoever has this key, and nobody else.
    pub fn key(key: TlsKey) -> Self {
        Self { server: TrustedServer::Key(key), identity: None }
    }

    /// Whomever the authorities in this file (PEM) vouch for, and nobody else.
    pub fn authorities(path: &Path) -> Result<Self, TrustError> {
        Ok(Self { server: TrustedServer::Authorities(Arc::new(pem::authorities(path)?)), identity: None })
    }

    /// Shows a certificate (PEM, with those between it and its authority) and proves to have its key (PEM).
    pub fn showing(self, certificate: &Path, key: &Path) -> Result<Self, TrustError> {
        let (certificates, key) = (pem::certificates(certificate)?, pem::private_key(key)?);
        Ok(Self { identity: Some(Arc::new(Identity { certificates, key })), ..self })
    }

    /// Whether only the holder of one key is trusted: then nothing may be said without TLS.
    pub(super) fn needs_tls(&self) -> bool {
        matches!(self.server, TrustedServer::Key(_))
    }

    /// For calls over TLS.
    pub(super) fn config(&self) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match &self.server {
            TrustedServer::System => Arc::new(
                rustls_platform_verifier::Verifier::new(Arc::clone(&provider)).map_err(TrustError::System)?,
            ),
            TrustedServer::Authorities(roots) => {
                WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
                    .build()?
            }
            TrustedServer::Key(key) => Arc::new(Pinned { key: *key, provider: Arc::clone(&provider) }),
        };
        let config = versions(provider)?.dangerous().with_custom_certificate_verifier(verifier);
        match &self.identity {
            None => Ok(config.with_no_client_auth()),
            Some(identity) => config
                .with_client_auth_cert(identity.certificates.clone(), identity.key.clone_key())
                .map_err(TrustError::Identity),
        }
    }
}

/// For a server that is spoken to without TLS: trusts nobody.
pub(super) fn no_tls() -> Result<ClientConfig, TrustError> {
    let config = versions(Arc::new(ring::default_provider()))?;
    Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn versions(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TrustError> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Setup)
}

/// Takes whoever proves to have one key, whatever is on the certificate; nobody vouches for a host but its registry.
#[derive(Debug)]
struct Pinned {
    key: TlsKey,
    provider: Arc<CryptoProvider>,
}

/// Rustls shows this by `Debug` in its own error.
#[derive(Error)]
#[error("this is not the host that the registry lent out: its TLS key is {found}, and should be {expected}")]
struct Impostor {
    expected: TlsKey,
    found: TlsKey,
}

impl fmt::Debug for Impostor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = TlsKey::of(&ParsedCertificate::try_from(end_entity)?.subject_public_key_info());
        if found == self.key {
            return Ok(ServerCertVerified::assertion());
        }
        let impostor = OtherError(Arc::new(Impostor { expected: self.key, found }));
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(impostor)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(feature = "server")]
#[cfg(test)]
mod tests;
