//! The end of a lease comes announced: a moment before it the guest's power button is pressed, so that its system can put its
//! affairs in order; at the end it is off, whatever it did.

use std::time::Duration;

use jiff::Timestamp;
use sublet_vmm_protocol::{PROTOCOL_VERSION, Request};

use super::driver::Driver;
use crate::{api::http::chain, domain::id::LeaseId};

/// How long before the end.
const GRACE: Duration = Duration::from_secs(5);
/// A guest that has run for less than this until then is not worth it: its borrower knew how little time there is.
const RUN_LEAST: Duration = Duration::from_secs(60);

/// Of which end a guest was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Warned {
    lease: LeaseId,
    expires_at: Timestamp,
}

impl Driver {
    fn coming_end(&self) -> Option<Warned> {
        let lease = self.row.partition.lease()?;
        Some(Warned { lease: lease.lease, expires_at: lease.expires_at })
    }

    /// How long it is until the guest is to be told; none: it is not, or was.
    pub(super) fn warning_left(&self) -> Option<Duration> {
        let until = self.coming_end().filter(|end| self.warned != Some(*end)).and(self.lease_left())?;
        let has_run = self.pulse.as_ref()?.since.elapsed();
        (has_run + until >= RUN_LEAST + GRACE).then(|| until.saturating_sub(GRACE))
    }

    /// Whether the guest was told of the end that comes.
    pub(super) fn was_warned(&self) -> bool {
        self.warned.is_some() && self.warned == self.coming_end()
    }

    pub(super) async fn warn(&mut self) {
        self.warned = self.coming_end();
        let press = Request::Stop { version: PROTOCOL_VERSION };
        match self.services.vmms.ask(self.row.id, press).await {
            Ok(_) => {
                tracing::info!(partition = %self.row.id, "the lease ends in a moment: the guest's power button is pressed");
            }
            // It may have ended by itself.
            Err(error) => {
                tracing::info!(partition = %self.row.id, error = chain(&error), "the guest cannot be told of its end")
            }
        }
    }
}
