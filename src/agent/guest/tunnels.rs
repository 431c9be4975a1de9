//! Tunnels to ports of one guest: asked of its job runner, which dials the host anew for each, and then carried.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::BytesMut;
use sublet_guest_protocol::{TUNNELS_LIMIT, TunnelId, TunnelRefusal};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes},
    sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

use super::frames::{Duplex, Frames};

/// How long the guest may take, its boot's end included.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most tunnels that are asked for at a time: each may dial before the others have greeted.
pub(super) const OPENING_MAX: usize = 8;
/// Bytes under way in one direction of a tunnel.
const BUFFER_BYTES: usize = 32 * 1024;

/// Why there is no tunnel.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TunnelError {
    #[error("{TUNNELS_LIMIT} tunnels of this lease are open; end one first")]
    TooMany,
    #[error(
        "the guest's job runner has not answered for {} s: the guest is still booting, or hangs",
        PATIENCE.as_secs()
    )]
    GuestSilent,
    #[error("the guest has ended")]
    GuestEnded,
    #[error("nobody listens at port {0} of the guest's loopback (127.0.0.1 and ::1)")]
    PortClosed(u16),
    #[error("whoever listens at port {0} of the guest does not take connections")]
    PortSilent(u16),
    #[error("the guest could not make the connection; its console says why")]
    Failed,
    #[error("the job runner in this OS image is too old for tunnels: build the image anew")]
    Unsupported,
}

/// All tunnels of one partition's guest.
#[derive(Debug)]
pub struct Tunnels {
    slots: Arc<Semaphore>,
    opening: Semaphore,
    waiting: Mutex<HashMap<TunnelId, Waiting>>,
    /// There may be one to ask the guest for.
    wanted: Notify,
    patience: Duration,
}

#[derive(Debug)]
struct Waiting {
    port: u16,
    /// The guest was asked for it.
    asked: bool,
    answer: oneshot::Sender<Result<Frames, TunnelError>>,
}

impl Default for Tunnels {
    fn default() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(TUNNELS_LIMIT)),
            opening: Semaphore::new(OPENING_MAX),
            waiting: Mutex::default(),
            wanted: Notify::new(),
            patience: PATIENCE,
        }
    }
}

/// A tunnel, connected to its port.
pub struct Tunnel {
    guest: Box<dyn Duplex>,
    /// What came of the guest already.
    received: BytesMut,
    _slot: OwnedSemaphorePermit,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

impl Tunnels {
    /// Has the guest connect to one of its ports.
    pub async fn open(&self, port: u16) -> Result<Tunnel, TunnelError> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| TunnelError::TooMany)?;
        let answered = timeout(self.patience, self.ask(port)).await;
        let (guest, received) = answered.map_err(|_| TunnelError::GuestSilent)??.into_parts();
        Ok(Tunnel { guest, received, _slot: slot })
    }

    async fn ask(&self, port: u16) -> Result<Frames, TunnelError> {
        let _opening = self.opening.acquire().await.map_err(|_: AcquireError| TunnelError::Failed)?;
        let (answer, answered) = oneshot::channel();
        let wish = Wish { tunnels: self, id: TunnelId(rand::random()) };
        self.waiting().insert(wish.id, Waiting { port, asked: false, answer });
        self.wanted.notify_one();
        // Nobody drops the sender without an answer.
        answered.await.unwrap_or(Err(TunnelError::Failed))
    }

    /// Waits until there may be a tunnel to ask the guest for.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A tunnel that the guest is to be asked for, and the port; from now on it was.
    pub(super) fn next(&self) -> Option<(TunnelId, u16)> {
        let mut waiting = self.waiting();
        let (id, next) = waiting.iter_mut().find(|(_, waiting)| !waiting.asked)?;
        next.asked = true;
        Some((*id, next.port))
    }

    /// The guest has dialled for a tunnel. One that nobody waits for any more is hung up on.
    pub(super) fn dialled(&self, id: TunnelId, frames: Frames) {
        self.answer(id, |_| Ok(frames));
    }

    pub(super) fn refused(&self, id: TunnelId, why: TunnelRefusal) {
        self.answer(id, |port| {
            Err(match why {
                TunnelRefusal::PortClosed => TunnelError::PortClosed(port),
                TunnelRefusal::PortSilent => TunnelError::PortSilent(port),
                TunnelRefusal::TooMany => TunnelError::TooMany,
                TunnelRefusal::Failed => TunnelError::Failed,
            })
        });
    }

    /// The guest's runner does not know what a tunnel is.
    pub(super) fn unsupported(&self, id: TunnelId) {
        self.answer(id, |_| Err(TunnelError::Unsupported));
    }

    /// The guest is gone, and all that was asked of it.
    pub fn forget(&self) {
        for (_, Waiting { answer, .. }) in self.waiting().drain() {
            // Whoever asked may have gone.
            let _ = answer.send(Err(TunnelError::GuestEnded));
        }
    }

    fn answer(&self, id: TunnelId, with: impl FnOnce(u16) -> Result<Frames, TunnelError>) {
        let asked = self.waiting().remove(&id);
        if let Some(Waiting { port, answer, .. }) = asked {
            // Whoever asked may have gone.
            let _ = answer.send(with(port));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<TunnelId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits for a tunnel, for as long as this is there.
struct Wish<'a> {
    tunnels: &'a Tunnels,
    id: TunnelId,
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.tunnels.waiting().remove(&self.id);
    }
}

impl Tunnel {
    /// Carries what `client` and the guest say, each way until its end.
    pub async fn carry(mut self, mut client: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        client.write_all(&self.received).await?;
        copy_bidirectional_with_sizes(&mut client, &mut self.guest, BUFFER_BYTES, BUFFER_BYTES).await?;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use sublet_guest_protocol::{FromGuest, encode};
    use tokio::io::{AsyncReadExt, DuplexStream};

    use super::*;

    /// A tunnel, and its guest.
    pub(crate) async fn opened() -> (DuplexStream, Tunnel) {
        let tunnels = Arc::new(Tunnels::default());
        let asked = wish(&tunnels, 22);
        let (id, port) = next(&tunnels).await;
        assert_eq!(port, 22);
        let (mut guest, far) = tokio::io::duplex(64);
        // What comes right after the greeting is the tunnel's already.
        guest.write_all(&[encode(&FromGuest::Beat).unwrap().as_slice(), b"SSH-"].concat()).await.unwrap();
        let mut frames = Frames::new(far);
        frames.receive::<FromGuest>().await.unwrap();
        tunnels.dialled(id, frames);
        (guest, asked.await.unwrap().unwrap())
    }

    /// What the guest is asked for next.
    async fn next(tunnels: &Tunnels) -> (TunnelId, u16) {
        loop {
            if let Some(next) = tunnels.next() {
                return next;
            }
            tunnels.wanted().await;
        }
    }

    fn wish(tunnels: &Arc<Tunnels>, port: u16) -> tokio::task::JoinHandle<Result<Tunnel, TunnelError>> {
        let tunnels = Arc::clone(tunnels);
        tokio::spawn(async move { tunnels.open(port).await })
    }

    fn impatient() -> Arc<Tunnels> {
        Arc::new(Tunnels { patience: Duration::from_millis(50), ..Tunnels::default() })
    }

    async fn error(asked: tokio::task::JoinHandle<Result<Tunnel, TunnelError>>) -> TunnelError {
        asked.await.unwrap().unwrap_err()
    }

    #[tokio::test]
    async fn a_tunnel_carries_what_came_with_the_greeting_and_each_way_ends_by_itself() {
        let (mut guest, tunnel) = opened().await;
        let (mut client, near) = tokio::io::duplex(64);
        let carrying = tokio::spawn(tunnel.carry(near));
        client.write_all(b"to the guest").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        guest.read_to_string(&mut heard).await.unwrap();
        guest.write_all(b"hello").await.unwrap();
        drop(guest);
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        assert_eq!((heard.as_str(), said.as_str()), ("to the guest", "SSH-hello"));
        carrying.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn each_refusal_of_the_guest_is_told_as_what_it_is() {
        let tunnels = Arc::new(Tunnels::default());
        for (why, told) in [
            (TunnelRefusal::PortClosed, TunnelError::PortClosed(80)),
            (TunnelRefusal::PortSilent, TunnelError::PortSilent(80)),
            (TunnelRefusal::TooMany, TunnelError::TooMany),
            (TunnelRefusal::Failed, TunnelError::Failed),
        ] {
            let asked = wish(&tunnels, 80);
            let (id, _) = next(&tunnels).await;
            tunnels.refused(id, why);
            assert_eq!(error(asked).await, told);
        }
    }

    #[tokio::test]
    async fn a_guest_that_never_dials_is_given_up_and_what_it_does_later_is_of_no_account() {
        let tunnels = impatient();
        let asked = wish(&tunnels, 22);
        let (id, _) = next(&tunnels).await;
        assert_eq!(error(asked).await, TunnelError::GuestSilent);
        tunnels.refused(id, TunnelRefusal::Failed);
        tunnels.dialled(id, Frames::new(tokio::io::duplex(1).0));
        assert_eq!(tunnels.next(), None);
        assert_eq!(tunnels.slots.available_permits(), TUNNELS_LIMIT);
    }

    #[tokio::test]
    async fn what_was_asked_of_a_guest_is_not_asked_of_the_next() {
        let tunnels = Arc::new(Tunnels::default());
        let asked = wish(&tunnels, 22);
        tunnels.wanted().await;
        tunnels.forget();
        assert_eq!(error(asked).await, TunnelError::GuestEnded);
        assert_eq!(tunnels.next(), None);
    }

    #[tokio::test]
    async fn whoever_goes_away_while_it_waits_leaves_nothing() {
        let tunnels = Arc::new(Tunnels::default());
        let asked = wish(&tunnels, 22);
        next(&tunnels).await;
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        assert!(tunnels.waiting().is_empty());
        assert_eq!(tunnels.slots.available_permits(), TUNNELS_LIMIT);
        assert_eq!(tunnels.opening.available_permits(), OPENING_MAX);
    }

    #[tokio::test]
    async fn tunnels_are_bounded_and_asked_for_a_few_at_a_time() {
        let tunnels = impatient();
        let mut asked: Vec<_> = (0..TUNNELS_LIMIT).map(|_| wish(&tunnels, 22)).collect();
        while tunnels.slots.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(tunnels.open(22).await.unwrap_err(), TunnelError::TooMany);
        let first: Vec<_> = std::iter::from_fn(|| tunnels.next()).collect();
        assert_eq!(first.len(), OPENING_MAX);
        assert_eq!(error(asked.swap_remove(0)).await, TunnelError::GuestSilent);
    }
}
