//! A registry that says what is not so: an error that names the thing, nothing half registered, and an end in bounded time.

use sublet::domain::image::digest::Digest;

use crate::{
    liar::{Asked, Liar, body_at, with_body},
    server::Server,
    store::{Store, incoming},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const IMAGE: &str = "application/vnd.sublet.image.v1";

/// What a pull of `debian/12:full` complains about behind a liar; nothing of it is in the store.
fn complaint(lie: impl Fn(&Asked, Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> String {
    let (source, target) = (Store::with_disk(), Store::new());
    let server = Server::start(&source.path());
    let liar = Liar::before(&server, lie);
    let said = target.refused(&["pull", "--patience", "1s", &liar.image("debian/12:full")]);
    assert_eq!(target.names(), [""; 0], "nothing is listed");
    assert_eq!(incoming(&target.path().join("debian/12")), 0, "nothing is left");
    said
}

/// The longest blob of the image, the packed disk, has this many bytes.
const DISK_BYTES: usize = 3 * 65_536 + 512;

fn is_disk(asked: &Asked, answer: &[u8]) -> bool {
    asked.path.contains("/blobs/") && answer.len() - body_at(answer) == DISK_BYTES
}

#[test]
fn a_wrong_byte_in_a_blob_is_found() {
    let said = complaint(|asked, mut answer| {
        if is_disk(asked, &answer) {
            let last = answer.len() - 1;
            answer[last] ^= 1;
        }
        answer
    });
    assert!(said.contains("the blob debian/12@sha256:") && said.contains("came with the digest"), "{said}");
}

#[test]
fn a_blob_that_is_shorter_or_longer_than_announced_is_refused() {
    for (body, found) in [(vec![0; 1000], "1000"), (vec![0; DISK_BYTES + 1], "197121")] {
        let said = complaint(move |asked, answer| match is_disk(asked, &answer) {
            true => with_body("application/octet-stream", &body),
            false => answer,
        });
        let expected = format!("was to have {DISK_BYTES} bytes, and {found} were sent");
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn a_registry_that_always_breaks_off_at_the_same_place_is_given_up() {
    let said = complaint(|asked, mut answer| {
        if asked.path.contains("/blobs/") {
            // Once it is asked for the rest, it sends nothing at all.
            let kept = if asked.has("range") { 0 } else { answer.len() / 2 };
            answer.truncate(body_at(&answer).max(kept));
        }
        answer
    });
    assert!(said.contains("broke off its answer"), "{said}");
}

#[test]
fn an_endless_blob_is_read_to_its_announced_end() {
    let said = complaint(|asked, answer| match is_disk(asked, &answer) {
        true => {
            let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
            [&head[..], &vec![0; 64 << 20]].concat()
        }
        false => answer,
    });
    assert!(said.contains("was to have 197120 bytes"), "{said}");
}

#[test]
fn another_manifest_than_the_one_that_was_asked_for_is_refused() {
    let (source, target) = (Store::with_disk(), Store::new());
    let server = Server::start(&source.path());
    let liar = Liar::before(&server, |asked, answer| match asked.path.contains("/manifests/") {
        true => with_body(MANIFEST, br#"{"schemaVersion":2}"#),
        false => answer,
    });
    let digest = source.digest("debian/12:full");
    let said = target.refused(&["pull", &liar.image(&format!("debian/12@{digest}"))]);
    assert!(said.contains(&format!("the manifest debian/12@{digest} came with the digest")), "{said}");
}

#[test]
fn a_manifest_that_is_too_long_is_not_read_however_it_is_sent() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n",
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
    ] {
        let said = complaint(move |asked, answer| match asked.path.contains("/manifests/") {
            true => [head.as_bytes(), &vec![b' '; 5 << 20]].concat(),
            false => answer,
        });
        assert!(said.contains("no more than 4194304 are read"), "{said}");
    }
}

/// The manifest of the image with so many more layers, all of them the same.
fn with_more_layers(answer: &[u8], count: usize) -> Vec<u8> {
    let manifest = std::str::from_utf8(&answer[body_at(answer)..]).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(manifest).unwrap();
    let layer = format!("{},", parsed["layers"][0]);
    let all = manifest.replacen("\"layers\":[", &format!("\"layers\":[{}", layer.repeat(count)), 1);
    with_body(MANIFEST, all.as_bytes())
}

#[test]
fn a_manifest_with_very_many_layers_is_refused() {
    for (count, why) in [(20_000, "more than 128 of these"), (1_000_000, "no more than 4194304 are read")] {
        let said = complaint(move |asked, answer| match asked.path.ends_with("/manifests/full") {
            true => with_more_layers(&answer, count),
            false => answer,
        });
        assert!(said.contains(why), "{said}");
    }
    let said = complaint(|asked, answer| match asked.path.ends_with("/manifests/full") {
        true => with_more_layers(&answer, 1),
        false => answer,
    });
    assert!(said.contains("too many"), "{said}");
}

/// An index of one entry.
fn index_of(digest: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{digest}","size":10,"artifactType":"{IMAGE}"}}]}}"#
    )
}

#[test]
fn an_index_that_names_itself_or_another_leads_nowhere() {
    // It says that the entry is a manifest, and answers with itself.
    let itself = index_of(&format!("sha256:{}", "1".repeat(64)));
    let said = complaint(move |asked, answer| match asked.path.contains("/manifests/") {
        true => with_body(INDEX, itself.as_bytes()),
        false => answer,
    });
    assert!(said.contains("came with the digest"), "{said}");
    // One within another can have its digest; it is not looked into.
    let inner = index_of(&format!("sha256:{}", "2".repeat(64)));
    let outer = index_of(&Digest::of(inner.as_bytes()).to_string());
    let said = complaint(move |asked, answer| match asked.path.contains("/manifests/") {
        true if asked.path.ends_with("full") => with_body(INDEX, outer.as_bytes()),
        true => with_body(INDEX, inner.as_bytes()),
        false => answer,
    });
    assert!(said.contains("is an index within an index"), "{said}");
}

#[test]
fn what_a_name_stands_for_is_found_in_an_index_of_several() {
    let (source, target) = (Store::with_disk(), Store::new());
    let server = Server::start(&source.path());
    let digest = source.digest("debian/12:full");
    let index = index_of(&digest);
    let liar = Liar::before(&server, move |asked, answer| match asked.path.ends_with("/manifests/full") {
        true => with_body(INDEX, index.as_bytes()),
        false => answer,
    });
    assert_eq!(target.said(&["pull", &liar.image("debian/12:full")])["digest"], digest);
}

#[test]
fn what_a_registry_lacks_is_named() {
    let (source, target) = (Store::with_disk(), Store::new());
    let server = Server::start(&source.path());
    let said = target.refused(&["pull", &server.image("debian/12:none")]);
    assert!(said.contains("does not have the image debian/12:none"), "{said}");
    let manifest = source.manifest("debian/12", &source.digest("debian/12:full"));
    let blob = manifest["layers"][1]["digest"].as_str().unwrap();
    std::fs::remove_file(source.blob("debian/12", blob)).unwrap();
    let said = target.refused(&["pull", &server.image("debian/12:full")]);
    assert!(said.contains(&format!("does not have the blob debian/12@{blob}")), "{said}");
    assert_eq!(target.names(), [""; 0]);
}

#[test]
fn another_artifact_is_no_image() {
    let said = complaint(|asked, answer| match asked.path.contains("/manifests/") {
        true => {
            let text = String::from_utf8(answer[body_at(&answer)..].to_vec()).unwrap();
            with_body(MANIFEST, text.replace(IMAGE, "application/vnd.other.v1").as_bytes())
        }
        false => answer,
    });
    assert!(said.contains("it is a \"application/vnd.other.v1\", and no OS image"), "{said}");
}
