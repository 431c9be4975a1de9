//! Guests that lack vsock call through the named port of their machine, whose other end is a socket of the VMM's. Nobody
//! else reaches it, but the boot has to be proved all the same.

use std::{path::PathBuf, time::Duration};

use tokio::{net::UnixStream, time::sleep};

use super::listener::{self, Call, Runner};
use crate::agent::partition::machine::Boot;

/// A guest that calls again and again is not answered more often.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers at a machine's port for as long as the machine is there. `boot` tells what runs in it.
pub async fn answer(socket: PathBuf, boot: impl Fn() -> Option<Boot>, tell: impl Fn(Runner)) {
    // The VMM takes the connection once a program in the guest opens the port, and the next when it has closed it.
    while let Ok(stream) = UnixStream::connect(&socket).await {
        let spoken = stream.readable().await.is_ok();
        if spoken && let Some(Call::Runner(runner)) = listener::hear(stream, &boot).await {
            tell(runner);
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use sublet_guest_protocol::{FromGuest, PROTOCOL_VERSION};
    use tokio::net::UnixListener;

    use super::*;
    use crate::{agent::guest::frames::Frames, domain::secret::Secret};

    const NONCE: &str = "0123456789abcdef0123456789abcdef";

    #[tokio::test]
    async fn a_guest_is_heard_at_its_port_call_after_call_until_its_machine_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port");
        let machine = UnixListener::bind(&path).unwrap();
        let boot = || {
            Some(Boot { image: "i".into(), nonce: Secret::new(NONCE), greeted: false, boots: 1, hung: None })
        };
        let (told, hears) = mpsc::channel();
        let answering =
            tokio::spawn(answer(path.clone(), boot, move |runner| told.send(runner.version).unwrap()));
        for (nonce, is_ours) in [(NONCE, true), ("another", false), (NONCE, true)] {
            let mut guest = Frames::new(machine.accept().await.unwrap().0);
            let hello = FromGuest::Hello { version: PROTOCOL_VERSION, nonce: nonce.into(), jobs: vec![] };
            guest.send(&hello).await.unwrap();
            // The next call is taken when this one was heard.
            drop(machine.accept().await.unwrap());
            assert_eq!(hears.try_recv().is_ok(), is_ours);
        }
        drop(machine);
        answering.await.unwrap();
    }
}
