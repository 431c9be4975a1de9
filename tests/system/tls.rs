//! Registry, host and borrower, each over TLS with the others: the registry by an authority of its own, which hosts' certificates
//! are of too, and the host by the key that its registry says it has.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use sublet::{
    client::{AgentClient, RegistryClient, Trust},
    domain::{secret::Secret, tls_key::TlsKey},
};
use sublet_lab::{HostOptions, HostTls};

use crate::world::{AnotherHost, make_token, output, start_registry, world};

/// Whom a lab host sees its registry as, beside whom this machine does.
const ADDRESSES: [&str; 2] = ["127.0.0.1", "10.0.2.2"];

/// A registry, a lender's host and a borrower, of which none speaks plain HTTP.
struct Town {
    files: PathBuf,
    registry: String,
    host: AnotherHost,
    host_key: TlsKey,
}

impl Town {
    fn begin() -> Self {
        let world = world();
        let files = world.directory.join("tls");
        fs::create_dir_all(&files).unwrap();
        make_certificates(&files);
        let file = |name: &str| files.join(name).into_os_string().into_string().unwrap();
        let [certificate, key, authority] = ["registry.crt", "registry.key", "ca.crt"].map(file);
        let options = ["--tls-cert", &certificate, "--tls-key", &key, "--host-ca", &authority];
        let registry = start_registry(&world.programs, &files, &options);
        let options = HostOptions {
            cpus: 2,
            memory_mib: 1536,
            disk_mib: 2048,
            registry: Some(registry.clone()),
            enrolment_token_file: Some(make_token(&world.programs, &files, "lender", "alice")),
            tls: Some(HostTls {
                registry_authority: files.join("ca.crt"),
                certificate: files.join("host.crt"),
                key: files.join("host.key"),
            }),
            ..HostOptions::default()
        };
        make_token(&world.programs, &files, "borrower", "bob");
        let host = world.lone_host("host-tls", &options);
        let host_key = key_of(&host, &files);
        Self { files, registry, host, host_key }
    }

    /// Runs the `sublet` program as somebody, and as the host's owner.
    fn sublet(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(world().programs.join("sublet"));
        command
            .args(arguments)
            .env("SUBLET_REGISTRY", &self.registry)
            .env("SUBLET_CA_FILE", self.files.join("ca.crt"))
            .env("SUBLET_TOKEN_FILE", self.files.join(format!("{name}.token")))
            .env("SUBLET_STATE_DIR", self.files.join(name))
            .env("SUBLET_HOST", self.host.0.address())
            .env("SUBLET_HOST_KEY", self.host_key.to_string())
            .env("SUBLET_OWNER_TOKEN_FILE", self.host.0.owner_token_file())
            .stdin(Stdio::null());
        command
    }

    /// What it says as JSON, which must succeed.
    fn told(&self, name: &str, arguments: &[&str]) -> Value {
        let output = output(self.sublet(name, &[&["--json"], arguments].concat()));
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What it says that is wrong, which it must.
    fn refused(&self, mut command: Command) -> String {
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    /// Has the borrower believe that its only lease is of a host with this key; the one that it knew before.
    fn pin(&self, key: &str) -> String {
        let leases = fs::read_dir(self.files.join("bob/leases")).unwrap();
        let leases: Vec<_> = leases.map(|lease| lease.unwrap().path()).collect();
        let mut kept: Value = serde_json::from_slice(&fs::read(&leases[0]).unwrap()).unwrap();
        let before =
            kept["host_tls_key"].as_str().expect("a lease says by which key its host is known").to_owned();
        kept["host_tls_key"] = key.into();
        fs::write(&leases[0], kept.to_string()).unwrap();
        before
    }
}

/// An authority, and certificates of its for the registry and for the host.
fn make_certificates(files: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(files.join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for (name, addresses) in [("registry", &ADDRESSES[..]), ("host", &["host.example"])] {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = addresses.iter().map(|address| (*address).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        fs::write(files.join(format!("{name}.crt")), certificate.pem()).unwrap();
        fs::write(files.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// The host's key, as its owner learns it: by the certificate that lies on the host itself.
fn key_of(host: &AnotherHost, files: &Path) -> TlsKey {
    let certificate = host.0.exec(["cat", "/var/lib/sublet/tls.crt"]).unwrap();
    fs::write(files.join("host-own.crt"), certificate.stdout).unwrap();
    let trust = Trust::authorities(&files.join("host-own.crt")).unwrap();
    let owner = Secret::new(host.0.owner_token().unwrap());
    let owner = AgentClient::trusting(&host.0.address(), Some(owner), &trust).unwrap();
    world().wait(owner.host()).unwrap().tls_key.expect("a host that speaks TLS")
}

#[test]
fn a_job_is_run_where_registry_host_and_borrower_speak_nothing_but_tls_with_one_another() {
    let town = Town::begin();
    let carved =
        town.told("alice", &["partition", "carve", "--cpus", "1", "--memory", "256MiB", "--disk", "16MiB"]);
    let partition = carved["id"].as_str().unwrap();
    town.told("alice", &["partition", "offer", partition]);
    let known = town.told("alice", &["hosts"]);
    assert_eq!(known["hosts"][0]["tls_key"], town.host_key.to_string(), "{known}");
    assert_eq!((&known["hosts"][0]["is_up"], &known["hosts"][0]["partitions"]), (&true.into(), &1.into()));

    town.told("bob", &["borrow"]);
    let job = ["run", "--image", "debian-micro", "--", "echo", "over TLS"];
    let ran = output(town.sublet("bob", &job));
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        "over TLS\n",
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let pinned = town.pin(&TlsKey::of(b"an impostor's").to_string());
    let said = town.refused(town.sublet("bob", &["jobs"]));
    assert!(said.contains("not the host that the registry lent out"), "{said}");
    assert_eq!(town.pin(&pinned), TlsKey::of(b"an impostor's").to_string());
    assert_eq!(pinned, town.host_key.to_string());
    town.told("bob", &["return"]);
    let leases = town.told("alice", &["leases", "--all"]);
    assert_eq!(leases["leases"][0]["end"]["reason"], "returned");

    // Nobody whom this machine trusts vouches for the registry.
    let mut stranger = town.sublet("bob", &["search"]);
    stranger.env_remove("SUBLET_CA_FILE");
    town.refused(stranger);
    let plain = [&town.registry, &town.host.0.address()].map(|address| address.replace("https", "http"));
    assert!(world().wait(RegistryClient::new(&plain[0], None).unwrap().leases()).is_err());
    assert!(world().wait(AgentClient::new(&plain[1], None).unwrap().host()).is_err());
}
