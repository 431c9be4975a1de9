//! The read-only distribution API (distribution-spec 1.1): what is asked in which way is answered how.

use std::fs;

use serde_json::json;

use crate::{server::Server, store::Store};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn served() -> (Store, Server) {
    let store = Store::with_disk();
    let server = Server::start(&store.path());
    (store, server)
}

/// The digest of the packed disk, and its bytes.
fn disk(store: &Store) -> (String, Vec<u8>) {
    let manifest = store.manifest("debian/12", &store.digest("debian/12:full"));
    let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let bytes = fs::read(store.blob("debian/12", &digest)).unwrap();
    (digest, bytes)
}

#[test]
fn a_manifest_is_had_by_its_tag_and_by_its_digest() {
    let (store, server) = served();
    let digest = store.digest("debian/12:full");
    for version in ["full", &digest] {
        let path = format!("/v2/debian/12/manifests/{version}");
        let answer = server.get(&path);
        assert_eq!((answer.status, answer.header("content-type")), (200, MANIFEST));
        assert_eq!(answer.header("docker-content-digest"), digest);
        assert_eq!(answer.json(), store.manifest("debian/12", &digest));
        let head = server.ask("HEAD", &path, &[]);
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), answer.body.len().to_string());
        assert_eq!(head.header("content-type"), MANIFEST);
        let known = server.ask("GET", &path, &[("if-none-match", answer.header("etag"))]);
        assert_eq!((known.status, known.body.len()), (304, 0));
    }
    assert_eq!(server.get("/v2/").header("docker-distribution-api-version"), "registry/2.0");
}

#[test]
fn a_blob_is_had_whole_or_in_any_part() {
    let (store, server) = served();
    let (digest, bytes) = disk(&store);
    let (path, length) = (format!("/v2/debian/12/blobs/{digest}"), bytes.len());
    let whole = server.get(&path);
    assert_eq!((whole.status, whole.header("accept-ranges")), (200, "bytes"));
    assert_eq!(whole.header("etag"), format!("\"{digest}\""));
    assert!(whole.body == bytes);
    let head = server.ask("HEAD", &path, &[("range", "bytes=0-9")]);
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (206, "10", 0));
    for (range, part) in [
        ("bytes=0-0", 0..1),
        ("bytes=65536-131071", 65_536..131_072),
        ("bytes=100-", 100..length),
        ("bytes=-1", length - 1..length),
        ("bytes=-99999999", 0..length),
        ("bytes=5-99999999999999999999999", 5..length),
    ] {
        let answer = server.ask("GET", &path, &[("range", range)]);
        let content_range = format!("bytes {}-{}/{length}", part.start, part.end - 1);
        assert_eq!((answer.status, answer.header("content-range")), (206, &*content_range), "{range}");
        assert_eq!(answer.header("content-length"), part.len().to_string());
        assert!(answer.body == bytes[part], "{range}");
    }
}

#[test]
fn a_part_that_is_not_there_is_refused_and_one_that_cannot_be_read_passed_over() {
    let (store, server) = served();
    let (digest, bytes) = disk(&store);
    let (path, length) = (format!("/v2/debian/12/blobs/{digest}"), bytes.len());
    for range in
        [format!("bytes={length}-"), "bytes=-0".to_owned(), format!("bytes={}-{}", length, length + 5)]
    {
        let answer = server.ask("GET", &path, &[("range", &range)]);
        assert_eq!((answer.status, answer.code().as_str()), (416, "RANGE_INVALID"), "{range}");
        assert_eq!(answer.header("content-range"), format!("bytes */{length}"));
    }
    for range in ["bytes=9-5", "bytes=a-b", "chunks=0-1", "bytes=0-1,5-6", ""] {
        let answer = server.ask("GET", &path, &[("range", range)]);
        assert_eq!((answer.status, answer.body.len()), (200, length), "{range}");
    }
    // A part of another version of this is none of this.
    let other = server.ask("GET", &path, &[("range", "bytes=0-9"), ("if-range", "\"other\"")]);
    assert_eq!((other.status, other.body.len()), (200, length));
    let same = server.ask("GET", &path, &[("range", "bytes=0-9"), ("if-range", &format!("\"{digest}\""))]);
    assert_eq!((same.status, same.body.len()), (206, 10));
}

#[test]
fn nobody_writes_and_what_is_not_there_is_refused_as_clients_expect() {
    let (_store, server) = served();
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        for path in ["/v2/debian/12/blobs/uploads/", "/v2/debian/12/manifests/full", "/v2/"] {
            let answer = server.ask(method, path, &[]);
            assert_eq!((answer.status, answer.code().as_str()), (405, "UNSUPPORTED"), "{method} {path}");
            assert_eq!(answer.header("allow"), "GET, HEAD");
        }
    }
    let none = format!("sha256:{}", "0".repeat(64));
    for (path, status, code) in [
        ("/v2/debian/12/manifests/none".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/debian/12/manifests/{none}"), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/debian/12/blobs/{none}"), 404, "BLOB_UNKNOWN"),
        ("/v2/debian/12/blobs/sha256:xyz".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/none/manifests/full".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/none/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/Debian/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("/v2/debian/12/tags/list?n=x".to_owned(), 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/debian/12".to_owned(), 404, "NOT_FOUND"),
    ] {
        let answer = server.get(&path);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}");
        assert!(!answer.header("x-request-id").is_empty());
    }
    let elsewhere = server.get("/elsewhere");
    assert_eq!((elsewhere.status, elsewhere.json()["code"].as_str()), (404, Some("not_found")));
}

#[test]
fn lists_come_in_pages_and_what_is_new_is_in_them() {
    let (store, server) = served();
    assert_eq!(server.get("/v2/_catalog").json(), json!({ "repositories": ["debian/12"] }));
    let disk = store.file("disk.raw").to_str().unwrap().to_owned();
    for image in ["debian/12:b", "debian/12:a", "zebra:1"] {
        store.done(&["build", image, "--os", "Debian 12", "--disk", &disk]);
    }
    let tags = |query: &str| server.get(&format!("/v2/debian/12/tags/list{query}"));
    assert_eq!(tags("").json(), json!({ "name": "debian/12", "tags": ["a", "b", "full"] }));
    let first = tags("?n=2");
    assert_eq!(first.json()["tags"], json!(["a", "b"]));
    assert_eq!(first.header("link"), "</v2/debian/12/tags/list?n=2&last=b>; rel=\"next\"");
    let last = tags("?n=2&last=b");
    assert_eq!((last.json()["tags"].clone(), last.header("link")), (json!(["full"]), ""));
    assert_eq!(tags("?n=0").json()["tags"], json!([]));
    let repositories = server.get("/v2/_catalog?n=1");
    assert_eq!(repositories.json(), json!({ "repositories": ["debian/12"] }));
    assert_eq!(repositories.header("link"), "</v2/_catalog?n=1&last=debian/12>; rel=\"next\"");
}

#[test]
fn what_is_about_an_image_is_listed_with_it_by_its_type() {
    let (store, server) = served();
    let (digest, key) = (store.digest("debian/12:full"), store.file("key"));
    let path = format!("/v2/debian/12/referrers/{digest}");
    let empty = server.get(&path);
    assert_eq!(empty.header("content-type"), "application/vnd.oci.image.index.v1+json");
    assert_eq!(empty.json()["manifests"], json!([]));
    store.done(&["key", key.to_str().unwrap()]);
    store.done(&["sign", "debian/12:full", "--key", key.to_str().unwrap()]);
    let signature = "application/vnd.sublet.signature.v1";
    let listed = server.get(&format!("{path}?artifactType={signature}"));
    assert_eq!(listed.header("oci-filters-applied"), "artifactType");
    assert_eq!(listed.json()["manifests"][0]["artifactType"], signature);
    let carrier = listed.json()["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let manifest = server.get(&format!("/v2/debian/12/manifests/{carrier}")).json();
    assert_eq!(manifest["subject"]["digest"], digest);
    assert_eq!(server.get(&format!("{path}?artifactType=text/plain")).json()["manifests"], json!([]));
    let none = format!("/v2/debian/12/referrers/sha256:{}", "0".repeat(64));
    assert_eq!(server.get(&none).json()["manifests"], json!([]));
}

#[test]
fn a_server_that_is_told_to_ends_in_order() {
    let (_store, server) = served();
    assert_eq!(server.get("/healthz").body, b"ok\n");
    assert_eq!(server.end(), Some(0));
}
