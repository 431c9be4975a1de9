//! Tunnels to ports of the guest, and beats.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use sha2::{Digest, Sha256};
use sublet_guest_protocol::{FromGuest, FromHost, TUNNELS_LIMIT, TunnelId, TunnelRefusal};

use crate::host::{Host, Line, job};

const MANY: usize = 4 << 20;

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn bytes(seed: u8) -> Vec<u8> {
    (0..MANY).map(|at| (at * 7 / 3) as u8 ^ seed).collect()
}

/// Asks for a tunnel; both of its ends.
fn tunnel(host: &Host, line: &mut Line, listener: &TcpListener) -> (UnixStream, TcpStream) {
    let (id, port) = (TunnelId(rand::random()), listener.local_addr().unwrap().port());
    line.send(&FromHost::OpenTunnel { tunnel: id, port });
    let (named, near) = host.tunnel();
    assert_eq!(named, id);
    (near, listener.accept().unwrap().0)
}

fn refusal(line: &mut Line, port: u16) -> TunnelRefusal {
    let id = TunnelId(rand::random());
    line.send(&FromHost::OpenTunnel { tunnel: id, port });
    match line.next() {
        FromGuest::TunnelRefused { tunnel, why } if tunnel == id => why,
        other => panic!("{other:?} instead of a refusal"),
    }
}

fn rest_of(stream: &mut impl Read) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    rest
}

#[test]
fn a_tunnel_carries_both_ways_and_each_way_ends_by_itself() {
    let host = Host::start();
    let mut line = host.welcome();
    let (listener, _) = listen();
    let (mut near, mut far) = tunnel(&host, &mut line, &listener);
    let answering = thread::spawn(move || {
        let heard = rest_of(&mut far);
        far.write_all(&bytes(9)).unwrap();
        heard
    });
    near.write_all(&bytes(0)).unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Sha256::digest(rest_of(&mut near)), Sha256::digest(bytes(9)));
    assert_eq!(Sha256::digest(answering.join().unwrap()), Sha256::digest(bytes(0)));
}

#[test]
fn a_reader_that_does_not_read_holds_up_its_own_tunnel_and_nothing_else() {
    let host = Host::start();
    let mut line = host.welcome();
    let (listener, _) = listen();
    let (mut near, mut far) = tunnel(&host, &mut line, &listener);
    near.set_nonblocking(true).unwrap();
    while near.write(&[1; 65536]).is_ok() {}
    let (mut other_near, mut other_far) = tunnel(&host, &mut line, &listener);
    other_near.write_all(b"past it").unwrap();
    let mut heard = [0; 7];
    other_far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"past it");
    assert_eq!(line.run(job(&["echo", "past it too"])).stdout(), "past it too\n");
    near.shutdown(Shutdown::Write).unwrap();
    assert!(rest_of(&mut far).iter().all(|byte| *byte == 1));
}

#[test]
fn whoever_goes_away_ends_the_tunnel_for_the_other() {
    let host = Host::start();
    let mut line = host.welcome();
    let (listener, _) = listen();
    let (mut near, far) = tunnel(&host, &mut line, &listener);
    drop(far);
    assert_eq!(rest_of(&mut near), b"");
    let (near, mut far) = tunnel(&host, &mut line, &listener);
    drop(near);
    let gone = far.read(&mut [0; 1]);
    assert!(matches!(&gone, Ok(0)) || gone.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn a_port_at_which_nobody_listens_is_told() {
    let host = Host::start();
    let mut line = host.welcome();
    let (listener, port) = listen();
    drop(listener);
    assert_eq!(refusal(&mut line, port), TunnelRefusal::PortClosed);
    assert_eq!(line.run(job(&["true"])).exit_code(), 0);
}

#[test]
fn a_port_of_the_other_loopback_is_found() {
    // Where the machine has no IPv6 there is nothing to be found.
    let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
    let host = Host::start();
    let mut line = host.welcome();
    let (mut near, mut far) = tunnel(&host, &mut line, &listener);
    far.write_all(b"six").unwrap();
    drop(far);
    assert_eq!(rest_of(&mut near), b"six");
}

#[test]
fn tunnels_outlive_the_connection_that_asked_for_them() {
    let host = Host::start();
    let mut line = host.welcome();
    let (listener, _) = listen();
    let (mut near, mut far) = tunnel(&host, &mut line, &listener);
    drop(line);
    let _line = host.welcome();
    far.write_all(b"still").unwrap();
    drop(far);
    assert_eq!(rest_of(&mut near), b"still");
}

#[test]
fn one_tunnel_too_many_is_refused_and_one_that_ended_makes_room() {
    let host = Host::start();
    let mut line = host.welcome();
    let (listener, port) = listen();
    let (nobody, closed) = listen();
    drop(nobody);
    let mut open: Vec<_> = (0..TUNNELS_LIMIT).map(|_| tunnel(&host, &mut line, &listener)).collect();
    assert_eq!(refusal(&mut line, port), TunnelRefusal::TooMany);
    drop(open.pop());
    let room = loop {
        match refusal(&mut line, closed) {
            TunnelRefusal::TooMany => {}
            other => break other,
        }
    };
    assert_eq!(room, TunnelRefusal::PortClosed);
    tunnel(&host, &mut line, &listener);
}

#[test]
fn a_runner_that_is_to_beat_is_heard_though_nothing_happens() {
    let host = Host::start();
    let mut line = host.welcome();
    line.send(&FromHost::Beat { every_ms: 1 });
    for _ in 0..3 {
        assert_eq!(line.next(), FromGuest::Beat);
    }
}

#[test]
fn a_runner_that_was_not_told_to_beat_does_not() {
    let host = Host::start();
    let mut line = host.welcome();
    // A host of version 1 would take a beat for nonsense. Whoever has to beat does so before a second is over.
    line.send(&FromHost::Start(job(&["sleep", "1"])));
    loop {
        match line.next() {
            FromGuest::Ended { .. } => return,
            message => assert_ne!(message, FromGuest::Beat),
        }
    }
}
