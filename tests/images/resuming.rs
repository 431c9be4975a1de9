//! A pull goes on where it broke off; several into one store do not disturb one another.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use sublet::{
    client::{ImageRegistry, Trust},
    domain::image::{descriptor::Descriptor, digest::Digest},
};

use crate::{
    liar::{Liar, body_at},
    server::Server,
    store::{Store, incoming},
};

fn registry(address: &str) -> ImageRegistry {
    let registry = ImageRegistry::new(&address.parse().unwrap(), None, &Trust::default()).unwrap();
    registry.patient(Duration::from_secs(60))
}

/// A blob that is far longer than what is on its way at any time.
fn large(store: &Store) -> (Descriptor, Vec<u8>) {
    let bytes: Vec<u8> = (0..48u32 << 20).map(|at| (at % 253) as u8).collect();
    let blob = Descriptor::of("application/octet-stream", &bytes);
    fs::write(store.blob("debian/12", &blob.digest.to_string()), &bytes).unwrap();
    (blob, bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_the_middle_and_comes_back_is_asked_for_the_rest() {
    let store = Store::with_disk();
    let (blob, bytes) = large(&store);
    let mut server = Server::start(&store.path());
    let (address, authority) = (server.address.clone(), server.authority().to_owned());
    let (mut received, mut restarted) = (Vec::new(), None);
    let mut progress = |so_far: u64| {
        if so_far > blob.size / 3 && restarted.is_none() {
            server.kill();
            restarted = Some(Server::start_at(&store.path(), &authority, &[]));
        }
    };
    let name = "debian/12".parse().unwrap();
    registry(&address).blob(&name, &blob, &mut received, &mut progress).await.unwrap();
    assert!(received == bytes, "it came whole");
    let again = restarted.unwrap().metric("sublet_images_sent_bytes_total");
    assert!(again < blob.size, "only the rest was sent again: {again} of {}", blob.size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_breaks_off_again_and_again_or_knows_no_parts_gets_there() {
    let store = Store::with_disk();
    let (blob, bytes) = large(&store);
    let server = Server::start(&store.path());
    let name = "debian/12".parse().unwrap();
    let breaks = Liar::before(&server, |_, mut answer| {
        answer.truncate(body_at(&answer) + (10 << 20));
        answer
    });
    let mut received = Vec::new();
    registry(&breaks.address).blob(&name, &blob, &mut received, &mut |_| {}).await.unwrap();
    assert!(received == bytes, "it came in pieces");

    let whole = server.get(&format!("/v2/debian/12/blobs/{}", blob.digest)).body;
    let forgets = Liar::before(&server, move |asked, mut answer| {
        if asked.has("range") {
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", whole.len());
            return [head.as_bytes(), &whole].concat();
        }
        answer.truncate(body_at(&answer) + (10 << 20));
        answer
    });
    let mut received = Vec::new();
    registry(&forgets.address).blob(&name, &blob, &mut received, &mut |_| {}).await.unwrap();
    assert!(received == bytes, "what had come was not taken twice");
}

#[tokio::test]
async fn a_part_of_a_blob_is_as_long_as_it_was_asked_for() {
    let store = Store::with_disk();
    let (blob, bytes) = large(&store);
    let server = Server::start(&store.path());
    let (name, registry) = ("debian/12".parse().unwrap(), registry(&server.address));
    let part = registry.blob_part(&name, &blob, 65_536..131_072).await.unwrap();
    assert!(part == bytes[65_536..131_072]);
    for wrong in [5..5, blob.size - 1..blob.size + 1, 0..blob.size] {
        assert!(registry.blob_part(&name, &blob, wrong).await.is_err());
    }
    let ignores = Liar::before(&server, |_, answer| {
        let text = String::from_utf8_lossy(&answer[..body_at(&answer)]).replace("206", "200");
        [text.as_bytes(), &answer[body_at(&answer)..]].concat()
    });
    let liar = self::registry(&ignores.address);
    let error = liar.blob_part(&name, &blob, 0..10).await.unwrap_err();
    assert!(error.to_string().contains("asked for in part"), "{error}");
    let missing = Descriptor::new("a/b", Digest::of(b"missing"), 100);
    assert!(registry.blob_part(&name, &missing, 0..10).await.is_err());
}

#[test]
fn pulls_at_the_same_time_into_one_store_all_succeed() {
    let (source, target) = (Store::with_disk(), Store::new());
    let server = Server::start(&source.path());
    let pull = |tag: usize| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sublet"));
        command.stdout(Stdio::null()).args(["image", "--store"]).arg(target.path()).arg("pull");
        command.args([server.image("debian/12:full"), format!("debian/12:v{tag}")]).spawn().unwrap()
    };
    let pulls: Vec<_> = (0..6).map(pull).collect();
    for mut pull in pulls {
        assert!(pull.wait().unwrap().success());
    }
    assert_eq!(target.names().len(), 6);
    target.done(&["verify", "debian/12:v0"]);
    assert_eq!(incoming(&target.path().join("debian/12")), 0);
}
