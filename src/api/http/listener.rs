//! The door of a server: connections are taken, and greeted over TLS where the server has it. Greetings go on side by
//! side, so that a slow one holds up nobody.

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::tls::{Greeting, ServerTls};

/// How long a greeting may take.
const GREETING_MAX: Duration = Duration::from_secs(10);
/// After how long a silence a peer is asked whether it is still there, and how long its answer may take; how many answers
/// may be missing.
const PROBED_AFTER: Duration = Duration::from_secs(30);
const PROBES: u32 = 3;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub address: SocketAddr,
    pub certificate: PeerCertificate,
}

/// A certificate that a peer proves to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerCertificate {
    /// The server asks nobody for one.
    NotAsked,
    Missing,
    /// Of an authority that the server trusts.
    Shown,
}

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        *stream.remote_addr()
    }
}

type Connection = Either<TcpStream, TlsStream<TcpStream>>;

pub(super) struct Door {
    tcp: TcpListener,
    tls: Option<ServerTls>,
    greetings: JoinSet<Option<(Connection, Peer)>>,
    greeting_max: Duration,
}

impl Door {
    pub(super) fn new(tcp: TcpListener, tls: Option<ServerTls>) -> Self {
        Self { tcp, tls, greetings: JoinSet::new(), greeting_max: GREETING_MAX }
    }

    /// With another time than the usual.
    #[cfg(test)]
    pub(super) fn greeting_within(self, greeting_max: Duration) -> Self {
        Self { greeting_max, ..self }
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = Peer;

    async fn accept(&mut self) -> (Connection, Peer) {
        loop {
            tokio::select! {
                Some(greeted) = self.greetings.join_next() => if let Ok(Some(greeted)) = greeted {
                    return greeted;
                },
                (connection, address) = Listener::accept(&mut self.tcp) => {
                    shape(&connection);
                    match self.tls.as_ref().map(ServerTls::greeting) {
                        None => return (Either::Left(connection), not_asked(address)),
                        Some(greeting) => {
                            let greeted = timeout(self.greeting_max, greet(greeting, connection, address));
                            self.greetings.spawn(async { greeted.await.ok().flatten() });
                        }
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        self.tcp.local_addr().map(not_asked)
    }
}

fn not_asked(address: SocketAddr) -> Peer {
    Peer { address, certificate: PeerCertificate::NotAsked }
}

/// None: it did not come to TLS.
async fn greet(greeting: Greeting, connection: TcpStream, address: SocketAddr) -> Option<(Connection, Peer)> {
    let greeted = greeting.acceptor.accept(connection).await;
    let stream =
        greeted.inspect_err(|error| tracing::debug!(%address, %error, "it did not come to TLS")).ok()?;
    let shown = stream.get_ref().1.peer_certificates().is_some();
    let certificate = match (greeting.asks_clients, shown) {
        (false, _) => PeerCertificate::NotAsked,
        (true, false) => PeerCertificate::Missing,
        (true, true) => PeerCertificate::Shown,
    };
    Some((Either::Right(stream), Peer { address, certificate }))
}

/// Short messages leave at once, and a peer that has vanished is found out: nothing else would end a stream or a tunnel on
/// which nobody says anything. Where it cannot be had, the connection is served without.
fn shape(connection: &TcpStream) {
    let shaped = sockopt::set_tcp_nodelay(connection, true)
        .and_then(|()| sockopt::set_socket_keepalive(connection, true))
        .and_then(|()| sockopt::set_tcp_keepidle(connection, PROBED_AFTER))
        .and_then(|()| sockopt::set_tcp_keepintvl(connection, PROBED_AFTER))
        .and_then(|()| sockopt::set_tcp_keepcnt(connection, PROBES));
    if let Err(error) = shaped {
        tracing::debug!(%error, "a connection has no keepalive");
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::api::http::ServerIdentity;

    #[tokio::test]
    async fn a_greeting_that_takes_too_long_is_given_up() {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let tls = ServerTls::new(ServerIdentity::new(certified.cert.into(), key), None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut door = Door::new(listener, Some(tls)).greeting_within(Duration::from_millis(1));
        let mut heard = [0; 16];
        tokio::select! {
            _ = door.accept() => panic!("it said nothing"),
            read = silent.read(&mut heard) => assert_eq!(read.unwrap(), 0, "closed"),
        }
    }
}
