//! Clients that are slow, many, or send too much: nobody else waits for them.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use sublet::domain::image::descriptor::Descriptor;

use crate::{server::Server, store::Store};

/// How long anything may take on a slow and busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server with a blob that fits into no buffer on the way, and its path.
fn with_large_blob(options: &[&str]) -> (Store, Server, String) {
    let store = Store::with_kernel();
    let blob = Descriptor::of("application/octet-stream", &vec![7; 32 << 20]);
    fs::write(store.blob("debian/micro", &blob.digest.to_string()), vec![7; 32 << 20]).unwrap();
    let server = Server::start_at(&store.path(), "127.0.0.1:0", options);
    (store, server, format!("/v2/debian/micro/blobs/{}", blob.digest))
}

/// Asks for a blob, and reads no more than that it begins.
fn stalled(server: &Server, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.authority()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: images\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    stream
}

#[test]
fn those_that_read_nothing_hold_nobody_up_and_are_forgotten_when_they_go() {
    let (_store, server, path) = with_large_blob(&[]);
    let crowd: Vec<TcpStream> = (0..100).map(|_| stalled(&server, &path)).collect();
    assert_eq!(server.metric("sublet_images_streams"), 100);
    assert_eq!(server.get(&path).body.len(), 32 << 20);
    drop(crowd);
    until_nothing_is_sent(&server);
}

#[test]
fn those_that_take_nothing_for_too_long_are_broken_off_with() {
    let (_store, server, path) = with_large_blob(&["--stalled-seconds", "1"]);
    let mut crowd: Vec<TcpStream> = (0..3).map(|_| stalled(&server, &path)).collect();
    until_nothing_is_sent(&server);
    for stream in &mut crowd {
        // What was on its way may be had; the whole never is.
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).is_err() || rest.len() < 32 << 20);
    }
}

fn until_nothing_is_sent(server: &Server) {
    let started = Instant::now();
    while server.metric("sublet_images_streams") > 0 {
        assert!(started.elapsed() < DEADLINE, "they are not forgotten");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn more_at_once_than_there_is_room_for_are_told_to_ask_again() {
    let (_store, server, path) = with_large_blob(&[]);
    let crowd: Vec<TcpStream> = (0..256).map(|_| stalled(&server, &path)).collect();
    let refused = server.get(&path);
    assert_eq!((refused.status, refused.code().as_str()), (429, "TOOMANYREQUESTS"));
    assert_eq!(server.ask("HEAD", &path, &[]).status, 200);
    drop(crowd);
}

#[test]
fn a_head_that_is_too_long_is_refused_and_what_never_ends_is_broken_off() {
    let (_store, server, path) = with_large_blob(&[]);
    let many: Vec<(&str, &str)> = vec![("x-many", "x"); 1000];
    assert_eq!(server.ask("GET", &path, &many).status, 431);
    let mut endless = TcpStream::connect(server.authority()).unwrap();
    let begun = write!(endless, "GET {path} HTTP/1.1\r\nx-long: ");
    let broken = begun.and_then(|()| (0..1000).try_for_each(|_| endless.write_all(&[b'x'; 65_536])));
    assert!(broken.is_err(), "it reads on and on");
    assert_eq!(server.ask("HEAD", &path, &[]).status, 200);
}
