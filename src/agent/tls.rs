//! The host's TLS: with a certificate of the owner's, or with a key of the host's own, which is made at the first start and
//! stays. The certificate around the host's own key is made anew at each start: it says nothing that anybody relies on.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;

use super::{
    config::{Config, TlsConfig},
    identity::{IdentityError, write_file},
};
use crate::{
    api::http::{ServerIdentity, ServerTls, TlsError},
    domain::tls_key::TlsKey,
};

#[derive(Debug, Error)]
pub enum HostTlsError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Write(#[from] IdentityError),
    #[error("{path:?} does not hold the host's key; it was written by this agent and must not be changed")]
    Key { path: PathBuf, source: rcgen::Error },
    #[error(
        "the certificate is of another key, {found}, and borrowers know this host by {known}: start the agent again, so that \
         the registry tells them of it"
    )]
    OtherKey { known: TlsKey, found: TlsKey },
    #[error("the host speaks plain HTTP")]
    NoTls,
    #[error("no certificate can be made")]
    Certificate(#[source] rcgen::Error),
}

/// None: the host is to speak plain HTTP.
pub(super) fn load(config: &Config) -> Result<Option<ServerTls>, HostTlsError> {
    let identity = match (&config.tls, config.speaks_tls()) {
        (Some(TlsConfig { certificate: Some(certificate), key: Some(key) }), _) => {
            ServerIdentity::load(certificate, key)?
        }
        (_, true) => own(&config.state_directory, &config.advertise)?,
        (_, false) => return Ok(None),
    };
    Ok(Some(ServerTls::new(identity, None)?))
}

/// The same once more, when it may have changed: but for the key, by which borrowers know the host.
pub(super) fn load_again(config: &Config, known: TlsKey) -> Result<ServerTls, HostTlsError> {
    let tls = load(config)?.ok_or(HostTlsError::NoTls)?;
    let found = tls.key();
    if found == known { Ok(tls) } else { Err(HostTlsError::OtherKey { known, found }) }
}

fn own(state_directory: &Path, advertise: &str) -> Result<ServerIdentity, HostTlsError> {
    let key = own_key(&state_directory.join("tls.key"))?;
    let certificate = CertificateParams::new(names(advertise))
        .and_then(|certificate| certificate.self_signed(&key))
        .map_err(HostTlsError::Certificate)?;
    // For the owner's own programs on this machine.
    write_file(&state_directory.join("tls.crt"), certificate.pem().as_bytes())?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(ServerIdentity::new(certificate.der().clone(), key))
}

fn own_key(path: &Path) -> Result<KeyPair, HostTlsError> {
    match std::fs::read_to_string(path) {
        Ok(pem) => {
            KeyPair::from_pem(&pem).map_err(|source| HostTlsError::Key { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(HostTlsError::Certificate)?;
            write_file(path, key.serialize_pem().as_bytes())?;
            Ok(key)
        }
        Err(source) => Err(HostTlsError::Read { path: path.to_owned(), source }),
    }
}

/// Whom the certificate says the host is: who is advertised, and this machine to itself.
fn names(advertise: &str) -> Vec<String> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let mut names: Vec<_> = loopback.iter().map(IpAddr::to_string).collect();
    names.push("localhost".to_owned());
    let advertised = reqwest::Url::parse(advertise).ok();
    let host = advertised.as_ref().and_then(reqwest::Url::host_str);
    names.extend(host.map(|host| host.trim_start_matches('[').trim_end_matches(']').to_owned()));
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_host_keeps_its_key_whatever_it_is_advertised_as_and_nobody_else_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let key = |advertise| ServerTls::new(own(directory.path(), advertise).unwrap(), None).unwrap().key();
        assert_eq!(key("https://192.0.2.7:7180"), key("https://[2001:db8::1]:7180"));
        let mode = directory.path().join("tls.key").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_key_file_that_holds_none_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("tls.key"), "no key").unwrap();
        let error = own(directory.path(), "https://host").unwrap_err();
        assert!(error.to_string().contains("tls.key"), "{error}");
    }

    #[test]
    fn a_certificate_names_who_is_advertised_and_this_machine() {
        assert_eq!(names("https://[::1]:1"), ["127.0.0.1", "::1", "localhost"]);
        assert_eq!(names("https://host.example"), ["127.0.0.1", "::1", "host.example", "localhost"]);
    }
}
