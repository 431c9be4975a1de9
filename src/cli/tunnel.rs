//! Tunnels to ports of the guest: from ports of this machine, or over standard input and output.

use std::{
    io::{self, Read, Write, stderr, stdin, stdout},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional, split},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

use super::{
    CliError,
    args::{Forward, TunnelArguments},
    context::Context,
    report::Report,
};
use crate::{
    client::{AgentClient, ClientError, Tunnel},
    domain::id::PartitionId,
};

/// Most bytes that are read from standard input at a time, and how many such pieces may wait.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES_WAITING: usize = 2;
/// How long nothing is taken after taking a connection failed: this machine is short of something.
const REST: Duration = Duration::from_millis(100);

pub(super) async fn tunnel(context: &Context, arguments: &TunnelArguments) -> Result<ExitCode, CliError> {
    let lease = context.lease(arguments.lease.lease)?;
    let guest = Guest { host: context.borrowed_host(&lease)?, partition: lease.partition };
    match arguments.stdio {
        Some(port) => stdio(&guest, port).await?,
        None => forward(context, &guest, &arguments.forwards).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whose ports these are.
#[derive(Clone)]
struct Guest {
    host: AgentClient,
    partition: PartitionId,
}

impl Guest {
    async fn connect(&self, port: u16) -> Result<Tunnel, ClientError> {
        self.host.tunnel(self.partition, port).await
    }
}

/// Forwards until interrupted, or until the key opens nothing any more.
async fn forward(context: &Context, guest: &Guest, forwards: &[Forward]) -> Result<(), CliError> {
    // What the key does not open is told now, not at the first connection.
    guest.host.partition(guest.partition).await?;
    let mut listeners = JoinSet::new();
    for forward in forwards {
        let listener =
            TcpListener::bind(forward.local).await.map_err(|error| CliError::Listen(forward.local, error))?;
        let listening = listener.local_addr().map_err(|error| CliError::Listen(forward.local, error))?;
        context.print(&Listening { listening, port: forward.guest })?;
        if !listening.ip().is_loopback() {
            say(&format!("whoever reaches {listening} reaches port {} of the guest", forward.guest));
        }
        listeners.spawn(serve(listener, listening, guest.clone(), forward.guest));
    }
    tokio::select! {
        Some(ended) = listeners.join_next() => ended.unwrap_or(Ok(())),
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(CliError::Signal),
    }
}

/// Makes a tunnel of each connection; ends when there can be no more of them.
async fn serve(listener: TcpListener, at: SocketAddr, guest: Guest, port: u16) -> Result<(), CliError> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            taken = listener.accept() => match taken {
                Ok((connection, _)) => drop(connections.spawn(carry(connection, guest.clone(), port))),
                Err(error) => {
                    say(&format!("{at}: {error}"));
                    tokio::time::sleep(REST).await;
                }
            },
            Some(ended) = connections.join_next() => match ended {
                Ok(Err(error)) if is_lasting(&error) => return Err(error.into()),
                Ok(Err(error)) => say(&format!("{at}: {error}")),
                Ok(Ok(())) | Err(_) => {}
            },
        }
    }
}

/// A connection that breaks is its two ends' business; one that does not come about is told.
async fn carry(mut connection: TcpStream, guest: Guest, port: u16) -> Result<(), ClientError> {
    let mut tunnel = guest.connect(port).await?;
    // A connection that cannot have it is slower, and no worse.
    let _ = connection.set_nodelay(true);
    let _ = copy_bidirectional(&mut connection, &mut tunnel).await;
    Ok(())
}

/// Whether no later connection can fare better: the lease is over, or the key does not open it.
fn is_lasting(error: &ClientError) -> bool {
    use crate::api::problem::Code;
    matches!(
        error.code(),
        Some(
            Code::KeyInvalid
                | Code::KeyExpired
                | Code::KeyEpochPassed
                | Code::KeyForOtherHost
                | Code::KeyForOtherPartition
                | Code::KeyAllocationMismatch
                | Code::Forbidden
                | Code::LeaseEnded
                | Code::NotFound
                | Code::TunnelsUnsupported
        )
    )
}

/// One connection over standard input and output, until the guest has ended its direction.
async fn stdio(guest: &Guest, port: u16) -> Result<(), CliError> {
    let (mut from_guest, mut to_guest) = split(guest.connect(port).await?);
    let mut pieces = read_stdin();
    let outward = async {
        while let Some(piece) = pieces.recv().await {
            if to_guest.write_all(&piece.map_err(CliError::Stdin)?).await.is_err() {
                break;
            }
        }
        // A guest that takes no more, or has been told that no more comes, may still have something to say.
        let _ = to_guest.shutdown().await;
        std::future::pending().await
    };
    let inward = async {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        while from_guest.read_buf(&mut piece).await.map_err(CliError::Tunnel)? > 0 {
            write_stdout(piece.split().freeze()).await.map_err(CliError::Output)?;
            piece.reserve(PIECE_BYTES);
        }
        Ok(())
    };
    tokio::select! {
        ended = inward => ended,
        failed = outward => failed,
    }
}

/// Standard input by a thread of its own, which nobody waits for at the end: a read from a terminal cannot be given up.
fn read_stdin() -> mpsc::Receiver<io::Result<Bytes>> {
    let (pieces, received) = mpsc::channel(PIECES_WAITING);
    std::thread::spawn(move || {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let piece = match stdin().read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => Ok(Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            if pieces.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    });
    received
}

/// By a thread of its own as well: whoever does not read holds up one direction and not both.
async fn write_stdout(piece: Bytes) -> io::Result<()> {
    let written = tokio::task::spawn_blocking(move || {
        let mut out = stdout().lock();
        out.write_all(&piece)?;
        out.flush()
    });
    written.await.map_err(io::Error::other)?
}

/// What is forwarded has no other place to be told of than standard error, which may be gone.
fn say(text: &str) {
    let _ = writeln!(stderr().lock(), "sublet: {text}");
}

/// A port of this machine that leads to one of the guest's.
#[derive(Debug, Serialize)]
struct Listening {
    listening: SocketAddr,
    port: u16,
}

impl Report for Listening {
    fn text(&self) -> String {
        format!("{} leads to port {} of the guest", self.listening, self.port)
    }
}
