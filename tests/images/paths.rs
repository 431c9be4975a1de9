//! Names that are paths, links that lead out, files that are none: nothing outside the directory is ever served.

use std::{fs, os::unix::fs::symlink, process::Command};

use crate::{server::Server, store::Store};

/// A store with a secret beside it, whose digest is what it would be asked for by.
fn beside_a_secret() -> (Store, String) {
    let store = Store::with_disk();
    store.write("secret", b"secret");
    let digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    (store, digest.to_owned())
}

#[test]
fn a_name_that_is_a_path_leads_nowhere() {
    let (store, digest) = beside_a_secret();
    fs::create_dir_all(store.file("outside/blobs/sha256")).unwrap();
    fs::copy(store.file("secret"), store.file("outside/blobs/sha256").join(&digest)).unwrap();
    fs::write(store.file("outside/index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
    let server = Server::start(&store.path());
    for name in [
        "../outside",
        "debian/../../outside",
        "debian/12/../../../outside",
        "%2e%2e/outside",
        "..%2foutside",
        "debian%2f..%2f..%2foutside",
        "/../outside",
        ".",
        "debian/12/blobs",
        "debian/12/.incoming",
    ] {
        for rest in [format!("blobs/sha256:{digest}"), "tags/list".to_owned(), "manifests/latest".to_owned()]
        {
            let answer = server.get(&format!("/v2/{name}/{rest}"));
            assert!(matches!(answer.status, 400 | 404), "{name}: {answer:?}");
            assert!(!answer.body.windows(6).any(|bytes| bytes == b"secret"), "{name}");
        }
    }
    for path in ["/v2/debian/12/blobs/../../../secret", "/../secret", "/v2/../secret", "//secret"] {
        assert!(matches!(server.get(path).status, 400 | 404), "{path}");
    }
}

#[test]
fn a_link_is_not_followed_wherever_it_is() {
    let (store, digest) = beside_a_secret();
    let blobs = store.path().join("debian/12/blobs/sha256");
    symlink(store.file("secret"), blobs.join(&digest)).unwrap();
    fs::create_dir_all(store.file("outside/blobs/sha256")).unwrap();
    fs::write(store.file("outside/oci-layout"), "{}").unwrap();
    fs::write(store.file("outside/index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
    fs::copy(store.file("secret"), store.file("outside/blobs/sha256").join(&digest)).unwrap();
    symlink(store.file("outside"), store.path().join("linked")).unwrap();
    symlink("debian", store.path().join("within")).unwrap();
    let server = Server::start(&store.path());
    for repository in ["debian/12", "linked", "within/12"] {
        let answer = server.get(&format!("/v2/{repository}/blobs/sha256:{digest}"));
        assert_eq!(answer.status, 404, "{repository}");
    }
    assert_eq!(server.get("/v2/linked/tags/list").status, 404);
    let catalog = server.get("/v2/_catalog").json();
    assert_eq!(catalog["repositories"], serde_json::json!(["debian/12"]));
}

#[test]
fn what_is_no_file_is_no_blob_and_holds_nobody_up() {
    let (store, digest) = beside_a_secret();
    let blob = store.path().join("debian/12/blobs/sha256").join(&digest);
    let made = Command::new("mkfifo").arg(&blob).status().unwrap();
    assert!(made.success());
    let server = Server::start(&store.path());
    assert_eq!(server.get(&format!("/v2/debian/12/blobs/sha256:{digest}")).code(), "BLOB_UNKNOWN");
    fs::remove_file(&blob).unwrap();
    fs::create_dir(&blob).unwrap();
    assert_eq!(server.get(&format!("/v2/debian/12/blobs/sha256:{digest}")).code(), "BLOB_UNKNOWN");
}

#[test]
fn a_damaged_manifest_or_index_is_not_passed_on() {
    let store = Store::with_disk();
    let digest = store.digest("debian/12:full");
    let path = store.blob("debian/12", &digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(path, bytes).unwrap();
    let server = Server::start(&store.path());
    let answer = server.get("/v2/debian/12/manifests/full");
    assert_eq!((answer.status, answer.code().as_str()), (500, "MANIFEST_INVALID"));
    let index = store.path().join("debian/12/index.json");
    for text in
        ["", "[]", "{", &format!("{{\"schemaVersion\":2,\"manifests\":[{}{{}}]}}", "{},".repeat(1_000_000))]
    {
        fs::write(&index, text).unwrap();
        let answer = server.get("/v2/debian/12/tags/list");
        assert_eq!((answer.status, answer.code().as_str()), (500, "UNKNOWN"));
    }
    assert_eq!(server.get("/healthz").status, 200);
}
