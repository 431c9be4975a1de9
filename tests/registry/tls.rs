//! The registry over TLS, and hosts that show certificates.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sublet::{
    api::{problem::Code, registry::EnrolHost, secret::Secret},
    client::{HostRequestId, RegistryClient, Trust},
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::server::{Database, Server, assert_refused, eventually};

/// An authority of a test's own, with a certificate for a registry on loopback and one for a host.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        let authority = Self(tempfile::tempdir().unwrap());
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(authority.path("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        for (name, address) in [("registry", "127.0.0.1"), ("host", "host.example")] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![address.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            std::fs::write(authority.path(&format!("{name}.crt")), certificate.pem()).unwrap();
            std::fs::write(authority.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn trust(&self) -> Trust {
        Trust::authorities(&self.path("ca.crt")).unwrap()
    }

    /// Has the files be those of another authority.
    fn replace_by(&self, other: &Self) {
        for name in ["ca.crt", "registry.crt", "registry.key", "host.crt", "host.key"] {
            std::fs::copy(other.path(name), self.path(name)).unwrap();
        }
    }

    fn start(&self, options: &[&str]) -> Server {
        let (certificate, key) = (self.path("registry.crt"), self.path("registry.key"));
        let tls = ["--tls-cert", text(&certificate), "--tls-key", text(&key)];
        Server::start_with(Database::new(), &[&tls, options].concat())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn client(server: &Server, token: Secret, trust: &Trust) -> RegistryClient {
    RegistryClient::trusting(server.address(), Some(token), trust).unwrap()
}

#[tokio::test]
async fn the_registry_serves_over_tls_whoever_knows_its_authority() {
    let authority = Authority::new();
    let server = authority.start(&[]);
    assert!(server.address().starts_with("https://"));
    let token = server.database().token("borrower", "bob");
    assert!(client(&server, token.clone(), &authority.trust()).search(&<_>::default()).await.is_ok());
    let stranger = client(&server, token.clone(), &Authority::new().trust());
    assert!(stranger.search(&<_>::default()).await.unwrap_err().is_unreachable());
    let plain = RegistryClient::new(&server.address().replace("https", "http"), Some(token)).unwrap();
    assert!(plain.search(&<_>::default()).await.is_err());
}

#[tokio::test]
async fn hosts_show_certificates_where_the_registry_asks_for_them_and_others_need_none() {
    let authority = Authority::new();
    let server = authority.start(&["--host-ca", text(&authority.path("ca.crt"))]);
    let (alice, bob) =
        (server.database().token("lender", "alice"), server.database().token("borrower", "bob"));
    let nobody = authority.trust();
    let certified = nobody.clone().showing(&authority.path("host.crt"), &authority.path("host.key")).unwrap();
    assert!(client(&server, bob, &nobody).search(&<_>::default()).await.is_ok());

    let wish = EnrolHost { address: "https://192.0.2.1:7180".to_owned() };
    let refused =
        client(&server, alice.clone(), &nobody).enrol_host(HostRequestId(Uuid::new_v4()), &wish).await;
    assert_refused(refused, Code::HostCertificateNeeded);
    let enrolled =
        client(&server, alice, &certified).enrol_host(HostRequestId(Uuid::new_v4()), &wish).await.unwrap();

    let stolen = client(&server, enrolled.host_token.clone(), &nobody);
    assert_refused(stolen.heartbeat(enrolled.host, &<_>::default()).await, Code::HostCertificateNeeded);
    let host = client(&server, enrolled.host_token, &certified);
    assert!(host.heartbeat(enrolled.host, &<_>::default()).await.is_ok());

    let other = Authority::new();
    let stranger = nobody.showing(&other.path("host.crt"), &other.path("host.key")).unwrap();
    let token = server.database().token("borrower", "bob");
    assert!(
        client(&server, token, &stranger).search(&<_>::default()).await.is_err(),
        "nobody vouches for it"
    );
}

#[tokio::test]
async fn certificates_are_read_again_at_a_hangup_and_those_of_before_stay_where_they_cannot_be() {
    let authority = Authority::new();
    let server = authority.start(&["--host-ca", text(&authority.path("ca.crt"))]);
    let token = server.database().token("borrower", "bob");
    let before = authority.trust();
    let serves = async |trust: &Trust| {
        client(&server, token.clone(), trust).search(&<_>::default()).await.is_ok().then_some(())
    };
    assert!(serves(&before).await.is_some());

    let other = Authority::new();
    authority.replace_by(&other);
    assert!(serves(&before).await.is_some(), "nobody has said that they changed");
    server.hang_up();
    eventually("the other certificate is shown", async || serves(&other.trust()).await).await;
    assert!(serves(&before).await.is_none());
    let host = other.trust().showing(&other.path("host.crt"), &other.path("host.key")).unwrap();
    assert!(serves(&host).await.is_some(), "hosts' authorities were read again too");

    std::fs::write(authority.path("registry.crt"), "no certificate").unwrap();
    server.hang_up();
    eventually("it is refused", async || server.log().contains("cannot be read again").then_some(())).await;
    assert!(serves(&other.trust()).await.is_some());
    assert!(server.log().contains("registry.crt"), "{}", server.log());
}

#[tokio::test]
async fn a_hangup_ends_no_registry_that_has_no_certificates() {
    let server = Server::start();
    let bob = server.borrower("bob");
    server.hang_up();
    let heard = async || server.log().contains("no certificates to read again").then_some(());
    eventually("it has heard it", heard).await;
    assert!(bob.search(&<_>::default()).await.is_ok());
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    let authority = Authority::new();
    let certificate = authority.path("registry.crt");
    for half in [vec!["--tls-cert", text(&certificate)], vec!["--tls-key", text(&certificate)]] {
        assert!(!Database::new().run(&[vec!["serve"], half].concat()).status.success());
    }
    let wrong = ["serve", "--tls-cert", text(&certificate), "--tls-key", text(&certificate)];
    let output = Database::new().run(&wrong);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("registry.crt"), "{said}");
}
