//! Tells the other registries at the same database which hosts are heard here, and learns which are heard there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::Registry;
use crate::api::http::chain;

/// How often that is, in beats; but not more seldom than [`TELL_AGAIN`].
const TELLINGS_A_BEAT: u32 = 4;
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// A registry that did not tell for this long is dead, however short a beat is.
const SILENT_MIN: Duration = Duration::from_secs(3);

pub(super) async fn run(registry: Arc<Registry>) {
    let Some(name) = registry.db.registry() else { return };
    let pause = (registry.settings.beat_every / TELLINGS_A_BEAT).min(TELL_AGAIN);
    let hosts = registry.market.hosts();
    loop {
        let silent_after = hosts.silent_after().max(SILENT_MIN);
        match registry.db.hear(name, hosts.heard_here(Instant::now()), silent_after).await {
            Ok(elsewhere) => registry.market.heard_elsewhere(&elsewhere),
            Err(error) => {
                tracing::warn!(error = chain(&error), "other registries cannot be told now who is heard")
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = registry.shutdown.clone().wait() => return,
        }
    }
}
