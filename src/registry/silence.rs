//! Hides hosts that have fallen silent.

use std::{sync::Arc, time::Duration};

use super::Registry;

/// How often it is looked, in beats; but not more seldom than [`LOOK_AGAIN`].
const LOOKS_A_BEAT: u32 = 4;
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn run(registry: Arc<Registry>) {
    let pause = (registry.settings.beat_every / LOOKS_A_BEAT).min(LOOK_AGAIN);
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => registry.market.hide_silent(),
            () = registry.shutdown.clone().wait() => return,
        }
    }
}
