//! Whose images are taken, and whom a server is taken for.

use std::fs;

use crate::{
    liar::{Liar, with_body},
    server::Server,
    store::Store,
};

/// A key of a file, which is made.
fn key(store: &Store, name: &str) -> (String, String) {
    let file = store.file(name).to_str().unwrap().to_owned();
    let public = store.done(&["key", &file]).trim().to_owned();
    assert_eq!(store.done(&["key", &file]).trim(), public, "it is made once");
    (file, public)
}

#[test]
fn an_image_is_taken_where_a_trusted_key_has_signed_it() {
    let (source, target) = (Store::with_kernel(), Store::new());
    let ((ours, our_key), (_, other_key)) = (key(&source, "ours"), key(&source, "others"));
    let server = Server::start(&source.path());
    let image = server.image("debian/micro:latest");
    let said = target.refused(&["pull", &image, "--signed-by", &our_key]);
    assert!(said.contains("no trusted key has signed the image sha256:"), "{said}");
    source.done(&["sign", "debian/micro", "--key", &ours]);
    let said = target.refused(&["pull", &image, "--signed-by", &other_key]);
    assert!(said.contains("it has 1 signatures in all"), "{said}");
    assert_eq!(target.names(), [""; 0]);
    target.done(&["pull", &image, "--signed-by", &other_key, "--signed-by", &our_key]);
    let verified = target.said(&["verify", "debian/micro"]);
    assert_eq!(verified["signed_by"][0], our_key);
    target.refused(&["verify", "debian/micro", "--signed-by", &other_key]);
}

#[test]
fn a_damaged_image_is_not_verified_and_what_is_damaged_is_named() {
    let store = Store::with_disk();
    store.done(&["verify", "debian/12:full"]);
    let manifest = store.manifest("debian/12", &store.digest("debian/12:full"));
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    let path = store.blob("debian/12", digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[70_000] ^= 4;
    fs::write(path, bytes).unwrap();
    let said = store.refused(&["verify", "debian/12:full"]);
    assert!(said.contains(&format!("the blob {digest} is damaged")), "{said}");
}

#[test]
fn a_damaged_image_is_whole_again_when_it_is_pulled_again() {
    let (source, target) = (Store::with_disk(), Store::new());
    let server = Server::start(&source.path());
    target.done(&["pull", &server.image("debian/12:full")]);
    let digest = target.digest("debian/12:full");
    let manifest = target.manifest("debian/12", &digest);
    let blobs = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
    for blob in blobs.map(|blob| blob["digest"].as_str().unwrap()).chain([digest.as_str()]) {
        let path = target.blob("debian/12", blob);
        let mut bytes = fs::read(&path).unwrap();
        bytes[5] ^= 1;
        fs::write(&path, bytes).unwrap();
        target.refused(&["verify", "debian/12:full"]);
        target.done(&["pull", &server.image("debian/12:full")]);
        target.done(&["verify", "debian/12:full"]);
    }
}

#[test]
fn an_image_that_is_damaged_leaves_the_others_on_the_list() {
    let store = Store::with_disk();
    let disk = store.file("disk.raw").to_str().unwrap().to_owned();
    store.done(&["build", "debian/12:other", "--os", "Debian 13", "--disk", &disk]);
    let path = store.blob("debian/12", &store.digest("debian/12:full"));
    fs::write(path, "{}").unwrap();
    let output = store.run(&["list"]);
    let (listed, told) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && listed.contains("debian/12:other"), "{listed}");
    assert!(told.contains("debian/12:full: ") && !listed.contains("debian/12:full"), "{told}");
}

#[test]
fn a_server_over_tls_is_the_one_that_an_authority_vouches_for() {
    let (source, target) = (Store::with_kernel(), Store::new());
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = source.write("server.crt", certified.cert.pem().as_bytes());
    let secret = source.write("server.key", certified.signing_key.serialize_pem().as_bytes());
    let options = ["--tls-cert", certificate.as_str(), "--tls-key", &secret];
    let server = Server::start_at(&source.path(), "127.0.0.1:0", &options);
    let port = server.authority().rsplit_once(':').unwrap().1;
    let image = format!("https://localhost:{port}/debian/micro");
    let said = target.refused(&["pull", &image]);
    assert!(said.contains("cannot be reached"), "{said}");
    target.done(&["--ca-file", &certificate, "pull", &image]);
}

#[test]
fn a_registry_that_sends_us_for_a_token_is_shown_it() {
    let (source, target) = (Store::with_kernel(), Store::new());
    let server = Server::start(&source.path());
    let door = Liar::before(&server, |asked, answer| {
        if asked.path.starts_with("/token") {
            let is_asked_for = asked.path.contains("scope=repository%3Adebian%2Fmicro%3Apull")
                && asked.path.contains("service=images")
                && asked.says("authorization: Basic dXNlcjpwYXNzd29yZA==");
            return with_body(
                "application/json",
                if is_asked_for { br#"{"token":"let-me-in"}"# } else { b"{}" },
            );
        }
        if asked.says("authorization: Bearer let-me-in") {
            return answer;
        }
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"images\"", asked.host());
        let head = format!(
            "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: {realm}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        head.into_bytes()
    });
    let credentials = source.write("credentials", b"user:password");
    target.done(&["pull", &door.image("debian/micro"), "--credentials", &credentials]);
    let said = target.refused(&["pull", &door.image("debian/micro"), "again:1"]);
    assert!(!said.contains("let-me-in"), "{said}");
}

#[test]
fn credentials_are_not_told_where_others_could_read_them() {
    let store = Store::with_kernel();
    for wrong in ["debian/micro", "localhost:1/a"] {
        // A name of the store is no registry's, and the other way round.
        let (command, words) = if wrong.contains(':') {
            ("verify", "at a registry")
        } else {
            ("pull", "is no image of a registry")
        };
        let said = store.refused(&[command, wrong]);
        assert!(said.contains(words), "{said}");
    }
    let secret = store.write("credentials", b"no-password-here");
    let said = store.refused(&["pull", "localhost:1/a", "--credentials", &secret]);
    assert!(said.contains("USER:PASSWORD") && !said.contains("no-password-here"), "{said}");
}
