use std::{net::SocketAddr, path::PathBuf};

use axum::{Router, extract::ConnectInfo, routing::get};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::*;
use crate::{
    api::{
        http::{Peer, ServerIdentity, ServerTls, Shutdown, TlsError, chain, serve},
        problem::{Code, Problem},
        secret::Secret,
    },
    client::{AgentClient, ClientError},
};

/// An authority, and whom it vouches for: each a certificate and its key, in PEM.
struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(directory.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Certificate and key of somebody at `address`.
    fn vouch_for(&self, address: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![address.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (certificate_path, key_path) =
            (self.path(&format!("{address}.crt")), self.path(&format!("{address}.key")));
        std::fs::write(&certificate_path, certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        (certificate_path, key_path)
    }

    fn server(&self, address: &str, client_authorities: Option<&Path>) -> ServerTls {
        let (certificate, key) = self.vouch_for(address);
        ServerTls::new(ServerIdentity::load(&certificate, &key).unwrap(), client_authorities).unwrap()
    }
}

/// A server that answers each call with what it knows of the caller, as a problem.
struct Server {
    address: SocketAddr,
    heard: watch::Receiver<Vec<String>>,
    _shutdown: watch::Sender<bool>,
}

impl Server {
    async fn start(tls: ServerTls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hear, heard) = watch::channel(Vec::new());
        let answer = async move |ConnectInfo(peer): ConnectInfo<Peer>| {
            hear.send_modify(|heard| heard.push(format!("{:?}", peer.certificate)));
            Problem::new(Code::Forbidden, format!("{:?}", peer.certificate))
        };
        let routes = Router::new().route("/v1/host", get(answer));
        let (told, shutdown) = watch::channel(false);
        tokio::spawn(serve(listener, Some(tls), routes, Shutdown::on(shutdown)));
        Self { address, heard, _shutdown: told }
    }

    /// Calls it; what it said of the caller.
    async fn call(&self, scheme: &str, trust: &Trust) -> Result<String, ClientError> {
        let base = format!("{scheme}://{}", self.address);
        let client = AgentClient::trusting(&base, Some(Secret::new("a lending key")), trust)?;
        match client.host().await {
            Err(ClientError::Refused(problem)) => Ok(problem.detail),
            Err(error) => Err(error),
            Ok(_) => panic!("an answer of another server"),
        }
    }
}

fn is_untrusted(result: Result<String, ClientError>) -> bool {
    matches!(result, Err(ClientError::Unreachable { source, .. }) if source.is_connect())
}

#[tokio::test]
async fn a_server_is_known_by_its_authority_and_by_nothing_else() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Server::start(authority.server("127.0.0.1", None)).await;
    let trusted = Trust::authorities(&authority.path("ca.crt")).unwrap();
    assert_eq!(server.call("https", &trusted).await.unwrap(), "NotAsked");
    assert!(is_untrusted(server.call("https", &Trust::authorities(&other.path("ca.crt")).unwrap()).await));
    let elsewhere = Server::start(authority.server("192.0.2.1", None)).await;
    assert!(is_untrusted(elsewhere.call("https", &trusted).await), "the certificate is another server's");
}

#[tokio::test]
async fn a_borrower_never_hands_its_key_to_an_impostor() {
    let authority = Authority::new();
    let tls = authority.server("127.0.0.1", None);
    let key = tls.key();
    let host = Server::start(tls).await;
    assert_eq!(host.call("https", &Trust::key(key)).await.unwrap(), "NotAsked");
    // Somebody else at that address, whom the same authority vouches for.
    let impostor = Server::start(authority.server("127.0.0.1", None)).await;
    let refusal = impostor.call("https", &Trust::key(key)).await;
    let error = chain(refusal.as_ref().unwrap_err());
    assert!(error.contains("not the host that the registry lent out"), "{error}");
    assert!(is_untrusted(refusal));
    assert!(impostor.heard.borrow().is_empty(), "it heard of the key");
    let plain = impostor.call("http", &Trust::key(key)).await;
    assert!(matches!(plain, Err(ClientError::NoTls(_))), "{plain:?}");
}

#[tokio::test]
async fn who_shows_a_certificate_of_the_authority_is_known_by_it() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Server::start(authority.server("127.0.0.1", Some(&authority.path("ca.crt")))).await;
    let nobody = Trust::authorities(&authority.path("ca.crt")).unwrap();
    assert_eq!(server.call("https", &nobody).await.unwrap(), "Missing");
    let (certificate, key) = authority.vouch_for("host.example");
    let host = nobody.clone().showing(&certificate, &key).unwrap();
    assert_eq!(server.call("https", &host).await.unwrap(), "Shown");
    let (certificate, key) = other.vouch_for("host.example");
    let stranger = nobody.showing(&certificate, &key).unwrap();
    assert!(server.call("https", &stranger).await.is_err(), "of another authority");
}

#[tokio::test]
async fn greetings_that_never_end_hold_up_nobody() {
    let authority = Authority::new();
    let server = Server::start(authority.server("127.0.0.1", None)).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let trust = Trust::authorities(&authority.path("ca.crt")).unwrap();
    assert_eq!(server.call("https", &trust).await.unwrap(), "NotAsked");
}

#[tokio::test]
async fn who_speaks_plain_http_to_it_is_not_answered() {
    let authority = Authority::new();
    let server = Server::start(authority.server("127.0.0.1", None)).await;
    assert!(server.call("http", &Trust::default()).await.is_err());
    assert!(server.heard.borrow().is_empty());
}

#[test]
fn files_that_do_not_fit_are_named() {
    let authority = Authority::new();
    let (certificate, key) = authority.vouch_for("127.0.0.1");
    let (_, other_key) = authority.vouch_for("192.0.2.1");
    let refusal = |certificate: &Path, key: &Path| {
        ServerIdentity::load(certificate, key)
            .and_then(|identity| ServerTls::new(identity, None))
            .err()
            .unwrap()
    };
    assert!(matches!(refusal(&certificate, &other_key), TlsError::Identity(_)));
    assert!(matches!(refusal(&key, &key), TlsError::Pem(PemError::NoCertificate(path)) if path == key));
    assert!(
        matches!(refusal(&certificate, &certificate), TlsError::Pem(PemError::Key { path, .. }) if path == certificate)
    );
    let missing = authority.path("missing");
    assert!(
        matches!(refusal(&missing, &key), TlsError::Pem(PemError::Certificates { path, .. }) if path == missing)
    );
}
