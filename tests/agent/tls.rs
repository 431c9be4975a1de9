//! The agent over TLS, with a key of the host's own.

use std::{fs, os::unix::fs::PermissionsExt as _};

use rcgen::{CertificateParams, KeyPair};
use sublet::{
    api::secret::Secret,
    client::{AgentClient, ClientError, Trust},
    domain::tls_key::TlsKey,
};

use crate::server::{Agent, Host};

fn with_tls() -> Host {
    let host = Host::new();
    let config = fs::read_to_string(host.config()).unwrap();
    let config =
        config.replace("advertise = 'http:", "advertise = 'https:").replace("[reserve]", "[tls]\n[reserve]");
    fs::write(host.config(), config).unwrap();
    host
}

async fn key_of(agent: &Agent, trust: &Trust) -> Result<TlsKey, ClientError> {
    let owner = AgentClient::trusting(&agent.address, Some(Secret::new(agent.owner_token())), trust)?;
    owner.host().await.map(|host| host.tls_key.expect("a host that speaks TLS"))
}

#[tokio::test]
async fn a_host_makes_a_key_of_its_own_keeps_it_and_is_known_by_it() {
    let agent = Agent::start_on(with_tls());
    assert!(agent.address.starts_with("https://"));
    let mode = fs::metadata(agent.host.state("tls.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Whoever is on the host itself finds its certificate there.
    let certificate = Trust::authorities(&agent.host.state("tls.crt")).unwrap();
    let key = key_of(&agent, &certificate).await.unwrap();
    assert_eq!(key_of(&agent, &Trust::key(key)).await.unwrap(), key);
    assert!(key_of(&agent, &Trust::key(TlsKey::of(b"another"))).await.unwrap_err().is_unreachable());

    let again = Agent::start_on(agent.kill());
    assert_eq!(key_of(&again, &Trust::key(key)).await.unwrap(), key);
}

#[tokio::test]
async fn a_host_without_its_key_is_another_host() {
    let host = with_tls();
    let agent = Agent::start_on(host.clone());
    let certificate = Trust::authorities(&host.state("tls.crt")).unwrap();
    let key = key_of(&agent, &certificate).await.unwrap();
    let host = agent.kill();
    fs::remove_file(host.state("tls.key")).unwrap();
    let again = Agent::start_on(host);
    assert!(key_of(&again, &Trust::key(key)).await.unwrap_err().is_unreachable());
}

#[tokio::test]
async fn plain_http_is_not_answered_by_a_host_that_speaks_tls() {
    let agent = Agent::start_on(with_tls());
    let plain = AgentClient::new(&agent.address.replace("https", "http"), None).unwrap();
    assert!(plain.host().await.is_err());
}

/// A host with a certificate of its owner's, which vouches for itself.
fn with_certificate(key: &KeyPair) -> Host {
    let host = Host::new();
    let config = fs::read_to_string(host.config()).unwrap();
    let (certificate, key_file) = (host.file("tls.crt"), host.file("tls.key"));
    let tls = format!(
        "[tls]\ncertificate = '{}'\nkey = '{}'\n[reserve]",
        certificate.display(),
        key_file.display()
    );
    let config = config.replace("advertise = 'http:", "advertise = 'https:").replace("[reserve]", &tls);
    fs::write(host.config(), config).unwrap();
    certify(&host, key, "127.0.0.1");
    host
}

/// Puts a new certificate of this key, for this name, where the agent reads it.
fn certify(host: &Host, key: &KeyPair, name: &str) {
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(key).unwrap();
    fs::write(host.file("tls.crt"), certificate.pem()).unwrap();
    fs::write(host.file("tls.key"), key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_after_a_hangup_but_none_of_another_key() {
    let key = KeyPair::generate().unwrap();
    let host = with_certificate(&key);
    let agent = Agent::start_on(host.clone());
    let authority = Trust::authorities(&host.file("tls.crt")).unwrap();
    let known = key_of(&agent, &authority).await.unwrap();

    certify(&host, &key, "host.example");
    agent.hang_up();
    agent.says("certificates were read again").await;
    assert!(key_of(&agent, &authority).await.is_err(), "the name that it shows now is another");
    assert_eq!(key_of(&agent, &Trust::key(known)).await.unwrap(), known);

    certify(&host, &KeyPair::generate().unwrap(), "127.0.0.1");
    agent.hang_up();
    agent.says("the certificate is of another key").await;
    assert_eq!(key_of(&agent, &Trust::key(known)).await.unwrap(), known);
}
