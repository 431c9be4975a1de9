//! Other people's clients and registries: Debian's skopeo, and Debian's docker-registry.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use crate::{server::Server, store::Store};

fn skopeo(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("skopeo").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Debian's docker-registry, on a port of its own; it is killed when it is dropped.
pub(crate) struct Registry {
    child: Child,
    pub(crate) authority: String,
    _directory: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start(auth: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\nhttp:\n  addr: 127.0.0.1:0\n{auth}"
        );
        fs::write(directory.path().join("config.yml"), config.replace("$ROOT", &root.to_string())).unwrap();
        // user:password, by htpasswd -B.
        let user = "user:$2b$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu\n";
        fs::write(directory.path().join("htpasswd"), user).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(directory.path().join("config.yml"))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let authority = lines.by_ref().find_map(|line| {
            let (_, after) = line.split_once("listening on ")?;
            let end = after.find(|c: char| !c.is_ascii_digit() && !".:".contains(c)).unwrap_or(after.len());
            Some(after[..end].to_owned())
        });
        // It logs on.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, authority: authority.expect("it listens"), _directory: directory }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn skopeo_pulls_an_image_from_our_server() {
    let store = Store::with_disk();
    let (server, digest) = (Server::start(&store.path()), store.digest("debian/12:full"));
    let source = format!("docker://{}/debian/12:full", server.authority());
    let raw = skopeo(&["inspect", "--tls-verify=false", "--raw", &source]);
    assert_eq!(raw, fs::read(store.blob("debian/12", &digest)).unwrap());
    let target = store.file("pulled");
    let to = format!("dir:{}", target.display());
    skopeo(&["--insecure-policy", "copy", "--src-tls-verify=false", &source, &to]);
    let manifest = store.manifest("debian/12", &digest);
    for blob in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        let digest = blob["digest"].as_str().unwrap();
        let copied = fs::read(target.join(digest.strip_prefix("sha256:").unwrap())).unwrap();
        assert!(copied == fs::read(store.blob("debian/12", digest)).unwrap(), "{digest}");
    }
}

#[test]
fn a_layout_that_skopeo_wrote_is_served_and_listed_as_one_of_ours() {
    let store = Store::with_kernel();
    let server = Server::start(&store.path());
    let source = format!("docker://{}/debian/micro:latest", server.authority());
    let other = store.path().join("from/skopeo");
    fs::create_dir_all(&other).unwrap();
    let to = format!("oci:{}:latest", other.display());
    skopeo(&["--insecure-policy", "copy", "--src-tls-verify=false", &source, &to]);
    assert_eq!(store.names(), ["debian/micro:latest", "from/skopeo:latest"]);
    let (target, digest) = (Store::new(), store.digest("debian/micro:latest"));
    let pulled = target.said(&["pull", &server.image("from/skopeo"), "mine:1"]);
    assert_eq!(pulled["digest"], digest);
    assert_eq!(pulled["boot"]["kernel"]["command_line"], "console=ttyS0");
    target.done(&["verify", "mine:1"]);
}

#[test]
fn an_image_goes_to_a_stock_registry_and_comes_back_with_its_signature() {
    let (source, target) = (Store::with_disk(), Store::new());
    let (registry, key) = (Registry::start(""), source.file("key"));
    let public = source.done(&["key", key.to_str().unwrap()]);
    source.done(&["sign", "debian/12:full", "--key", key.to_str().unwrap()]);
    let remote = format!("{}/images/debian:12", registry.authority);
    source.done(&["push", "debian/12:full", &remote]);
    // What is there already is not sent again.
    source.done(&["push", "debian/12:full", &remote]);
    let pulled = target.said(&["pull", "--signed-by", public.trim(), &remote]);
    assert_eq!(pulled["digest"], source.digest("debian/12:full"));
    let verified = target.said(&["verify", "images/debian:12", "--signed-by", public.trim()]);
    assert_eq!(verified["trusted"]["by"], public.trim());
    let there = target.said(&["inspect", &remote]);
    assert_eq!(there["boot"]["disk"]["bytes"], 5 * 65_536 + 512);
}

#[test]
fn an_image_that_skopeo_carried_on_is_still_the_same() {
    let (source, target) = (Store::with_disk(), Store::new());
    let (server, registry) = (Server::start(&source.path()), Registry::start(""));
    let from = format!("docker://{}/debian/12:full", server.authority());
    let to = format!("docker://{}/carried:on", registry.authority);
    skopeo(&["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to]);
    let pulled = target.said(&["pull", &format!("{}/carried:on", registry.authority)]);
    assert_eq!(pulled["digest"], source.digest("debian/12:full"));
}

#[test]
fn a_registry_that_wants_a_password_is_told_it_and_nobody_else_is() {
    let auth = "auth:\n  htpasswd:\n    realm: here\n    path: $ROOT/htpasswd\n";
    let (source, target, registry) = (Store::with_kernel(), Store::new(), Registry::start(auth));
    let remote = format!("{}/debian/micro:1", registry.authority);
    let said = source.refused(&["push", "debian/micro", &remote]);
    assert!(said.contains("401"), "{said}");
    let wrong = source.write("wrong", b"user:other");
    let said = source.refused(&["push", "debian/micro", &remote, "--credentials", &wrong]);
    assert!(said.contains("401") && !said.contains("other"), "{said}");
    let right = source.write("right", b"user:password\n");
    source.done(&["push", "debian/micro", &remote, "--credentials", &right]);
    target.done(&["pull", &remote, "--credentials", &right]);
}
