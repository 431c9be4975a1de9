//! Where guests' job runners dial in, over vsock. Any guest can dial any port of the host, so a connection has to prove
//! which guest it comes from: its context id is the kernel's word, and the nonce says that it is of this boot.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::io::Errno;
use sublet_guest_protocol::{
    FromGuest, FromHost, GREETING_LIMIT, JobProgress, OLDEST_VERSION, PROTOCOL_VERSION, TunnelId,
};
use subtle::ConstantTimeEq;
use thiserror::Error;
use tokio::time::timeout;
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use super::{
    frames::{Duplex, Frames},
    tunnels::OPENING_MAX,
};
use crate::agent::partition::{
    driver::Command,
    machine::Boot,
    partitions::{Handle, Partitions},
};

/// How long a guest may take to greet.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);
/// Most connections of one guest that have not greeted yet: those of its tunnels, and of its runner.
const UNGREETED_MAX: usize = OPENING_MAX + 4;

#[derive(Debug, Error)]
#[error("cannot listen for guests on vsock port {port}")]
pub struct ListenError {
    port: u32,
    source: io::Error,
}

/// Listens for guests; none: this kernel has no vsock.
pub fn listen(port: u32) -> Result<Option<VsockListener>, ListenError> {
    let missing = |error: &io::Error| error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error());
    match VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port)) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if missing(&error) => Ok(None),
        Err(source) => Err(ListenError { port, source }),
    }
}

/// Takes the calls of guests for as long as the agent runs.
pub async fn serve(listener: VsockListener, partitions: Arc<Partitions>) {
    let calls = Arc::new(Calls { partitions, ungreeted: Mutex::default() });
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => Arc::clone(&calls).take(stream, peer.cid()),
            Err(error) => {
                // Out of descriptors, most likely: give those that are open time to end.
                tracing::warn!(%error, "a guest's call could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

struct Calls {
    partitions: Arc<Partitions>,
    /// By context id.
    ungreeted: Mutex<HashMap<u32, usize>>,
}

impl Calls {
    /// Hears the greeting of a guest of ours; anybody else is hung up on.
    fn take(self: Arc<Self>, stream: impl Duplex + 'static, cid: u32) {
        let Some(handle) = self.partition_of(cid).filter(|_| self.enter(cid)) else { return };
        tokio::spawn(async move {
            let call = hear(stream, || handle.row().machine.boot().cloned()).await;
            self.leave(cid);
            match call {
                Some(Call::Runner(runner)) => drop(handle.tell(Command::Runner(runner))),
                Some(Call::Tunnel(id, frames)) => handle.tunnels.dialled(id, frames),
                None => {}
            }
        });
    }

    fn partition_of(&self, cid: u32) -> Option<Handle> {
        let has_it = |handle: &Handle| handle.row().machine.built.is_some_and(|built| built.cid == cid);
        self.partitions.all().into_iter().find(has_it)
    }

    fn enter(&self, cid: u32) -> bool {
        let mut ungreeted = self.ungreeted.lock().unwrap_or_else(PoisonError::into_inner);
        let count = ungreeted.entry(cid).or_default();
        let room = *count < UNGREETED_MAX;
        *count += usize::from(room);
        room
    }

    fn leave(&self, cid: u32) {
        let mut ungreeted = self.ungreeted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = ungreeted.get_mut(&cid) {
            *count -= 1;
        }
        ungreeted.retain(|_, count| *count > 0);
    }
}

/// Why a guest has dialled.
pub(super) enum Call {
    Runner(Runner),
    Tunnel(TunnelId, Frames),
}

/// A job runner that has proven itself.
pub struct Runner {
    pub frames: Frames,
    /// The version of the protocol that it speaks.
    pub version: u32,
    pub known: Vec<JobProgress>,
}

/// Who calls, if it proves itself in time.
pub(super) async fn hear(stream: impl Duplex + 'static, boot: impl FnOnce() -> Option<Boot>) -> Option<Call> {
    timeout(GREETING_PATIENCE, greeting(Frames::new(stream), boot)).await.ok().flatten()
}

/// Who calls, once it has proven itself. `boot` tells what runs in its partition when the greeting has come.
async fn greeting(mut frames: Frames, boot: impl FnOnce() -> Option<Boot>) -> Option<Call> {
    match frames.receive_within(GREETING_LIMIT).await.ok()? {
        FromGuest::Hello { version, nonce, jobs } => {
            let Err(reason) = admit(&nonce, version, boot()) else {
                return Some(Call::Runner(Runner { frames, version, known: jobs }));
            };
            refuse(frames, reason).await;
            None
        }
        FromGuest::Tunnel { nonce, tunnel } => {
            let admitted = admit(&nonce, PROTOCOL_VERSION, boot()).is_ok();
            admitted.then_some(Call::Tunnel(tunnel, frames))
        }
        _ => None,
    }
}

fn admit(nonce: &str, version: u32, boot: Option<Boot>) -> Result<(), String> {
    let spoken = OLDEST_VERSION..=PROTOCOL_VERSION;
    match boot {
        Some(boot) if !same(boot.nonce.reveal(), nonce) => {
            Err("the nonce is not that of this boot".to_owned())
        }
        Some(_) if spoken.contains(&version) => Ok(()),
        Some(_) => Err(format!(
            "this host speaks versions {OLDEST_VERSION} to {PROTOCOL_VERSION} of the protocol, not {version}"
        )),
        None => Err("this guest was not booted".to_owned()),
    }
}

async fn refuse(mut frames: Frames, refusal: String) {
    tracing::warn!(refusal, "a guest's job runner was refused");
    // It may have hung up already.
    let _ = frames.send(&FromHost::Refused { reason: refusal }).await;
}

/// Takes as long wherever two nonces differ.
fn same(ours: &str, theirs: &str) -> bool {
    ours.as_bytes().ct_eq(theirs.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use sublet_guest_protocol::JobId;

    use super::*;
    use crate::domain::secret::Secret;

    const NONCE: &str = "0123456789abcdef0123456789abcdef";

    fn boot() -> Option<Boot> {
        let image = "debian-micro".to_owned();
        Some(Boot { image, nonce: Secret::new(NONCE), greeted: false, boots: 1, hung: None })
    }

    fn hello(version: u32, nonce: &str) -> FromGuest {
        FromGuest::Hello { version, nonce: nonce.to_owned(), jobs: vec![] }
    }

    /// Whether a guest that says this is let in, and what it hears where it is not.
    async fn greet(says: FromGuest, boot: Option<Boot>) -> (bool, Option<FromHost>) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut guest = Frames::new(near);
        guest.send(&says).await.unwrap();
        let admitted = greeting(Frames::new(far), || boot).await.is_some();
        (admitted, guest.receive().await.ok())
    }

    #[tokio::test]
    async fn a_guest_with_the_nonce_of_its_boot_is_let_in() {
        for version in OLDEST_VERSION..=PROTOCOL_VERSION {
            assert_eq!(greet(hello(version, NONCE), boot()).await, (true, None));
        }
        let tunnel = FromGuest::Tunnel { nonce: NONCE.to_owned(), tunnel: TunnelId(7) };
        assert_eq!(greet(tunnel, boot()).await, (true, None));
    }

    #[tokio::test]
    async fn a_guest_with_another_nonce_or_version_or_that_was_not_booted_is_told_so() {
        let other = NONCE.replace('0', "1");
        for (says, boot) in [
            (hello(PROTOCOL_VERSION, &other), boot()),
            (hello(PROTOCOL_VERSION, ""), boot()),
            (hello(PROTOCOL_VERSION + 1, NONCE), boot()),
            (hello(OLDEST_VERSION - 1, NONCE), boot()),
            (hello(PROTOCOL_VERSION, NONCE), None),
        ] {
            let (admitted, heard) = greet(says.clone(), boot).await;
            assert!(!admitted && matches!(heard, Some(FromHost::Refused { .. })), "{says:?}");
        }
    }

    #[tokio::test]
    async fn whoever_does_not_greet_is_hung_up_on() {
        let jobs = vec![JobProgress { job: JobId([0; 16]), stdout_from: 1, stderr_from: 1 }; 1000];
        for (says, boot) in [
            (FromGuest::Started { job: JobId([0; 16]) }, boot()),
            (FromGuest::Tunnel { nonce: NONCE.replace('0', "1"), tunnel: TunnelId(7) }, boot()),
            (FromGuest::Tunnel { nonce: NONCE.to_owned(), tunnel: TunnelId(7) }, None),
            (FromGuest::Hello { version: PROTOCOL_VERSION, nonce: NONCE.to_owned(), jobs }, boot()),
        ] {
            assert_eq!(greet(says, boot).await, (false, None));
        }
    }
}
