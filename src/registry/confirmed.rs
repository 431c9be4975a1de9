//! When each host was heard last, on the clock for money: a lost host's leases are billed up to then. Kept in memory;
//! written down when a host is first heard, now and then while it is, and when the registry ends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use super::{Registry, resource_db::StoreError};
use crate::{
    api::http::chain,
    domain::{id::HostId, lease::HostWord},
};

/// How often it is written down which hosts are heard.
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// Most hosts in one transaction.
const BATCH_MAX: usize = 500;

pub(super) struct Confirmed {
    started: Instant,
    silent_after: Duration,
    hosts: Mutex<HashMap<HostId, Heard>>,
    /// A host is heard that was not.
    returned: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Timestamp,
    instant: Instant,
    written: bool,
}

impl Confirmed {
    pub(super) fn new(silent_after: Duration) -> Self {
        let (hosts, returned) = (Mutex::default(), Notify::new());
        Self { started: Instant::now(), silent_after, hosts, returned }
    }

    /// The host lives. True: it was not heard before by this registry.
    fn heard(&self, host: HostId, at: Timestamp, instant: Instant) -> bool {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let before = hosts.insert(host, Heard { at, instant, written: false });
        if before.is_none_or(|before| self.is_silent(before.instant, instant)) {
            self.returned.notify_one();
        }
        before.is_none()
    }

    pub(super) fn silent_after(&self) -> Duration {
        self.silent_after
    }

    fn last(&self, host: HostId) -> Option<Heard> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).get(&host).copied()
    }

    /// When this registry heard the host last.
    pub(super) fn heard_at(&self, host: HostId) -> Option<Timestamp> {
        self.last(host).map(|heard| heard.at)
    }

    fn is_silent(&self, heard: Instant, now: Instant) -> bool {
        now.saturating_duration_since(heard) > self.silent_after
    }

    /// What is known of the host; `written` is the last moment that was written down.
    pub(super) fn word(
        &self,
        host: HostId,
        written: Option<Timestamp>,
        now: Timestamp,
        instant: Instant,
    ) -> HostWord {
        if let Some(heard) = self.last(host) {
            let silent = self.is_silent(heard.instant, instant);
            return if silent { HostWord::SilentSince(heard.at) } else { HostWord::Heard };
        }
        // Another registry hears it, or this one did until it was started again.
        let lately = SignedDuration::try_from(WRITE_EVERY + self.silent_after).unwrap_or(SignedDuration::MAX);
        if written.is_some_and(|at| now.duration_since(at) <= lately) {
            return HostWord::Heard;
        }
        if !self.is_silent(self.started, instant) {
            return HostWord::NotYetHeard;
        }
        HostWord::SilentSince(written.unwrap_or(Timestamp::UNIX_EPOCH))
    }

    /// Waits until a host is heard that was not.
    pub(super) async fn returned(&self) {
        self.returned.notified().await;
    }

    /// What was heard and is not written down; it counts as written.
    fn unwritten(&self) -> Vec<(HostId, Timestamp)> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let unwritten = hosts.iter_mut().filter(|(_, heard)| !heard.written);
        let written = unwritten.map(|(host, heard)| {
            heard.written = true;
            (*host, heard.at)
        });
        written.collect()
    }
}

/// Writes down now and then which hosts are heard, and once more at the end.
pub(super) async fn run(registry: Arc<Registry>) {
    loop {
        let ends = tokio::select! {
            () = tokio::time::sleep(WRITE_EVERY) => false,
            () = registry.shutdown.clone().wait() => true,
        };
        if let Err(error) = registry.write_confirmed().await {
            tracing::error!(error = chain(&error), "it could not be written down which hosts are heard");
        }
        if ends {
            return;
        }
    }
}

impl Registry {
    /// The host lives.
    pub(super) async fn hear(&self, host: HostId) -> Result<(), StoreError> {
        let (now, instant) = (self.clock.now(), Instant::now());
        self.market.heard(host);
        if self.confirmed.heard(host, now, instant) {
            self.db.confirm_hosts(vec![(host, now)]).await?;
        }
        Ok(())
    }

    /// What is known of the host now.
    pub(super) async fn word_of(&self, host: HostId) -> Result<HostWord, StoreError> {
        let written = match self.confirmed.last(host) {
            Some(_) => None,
            None => self.db.host_confirmed_at(host).await?,
        };
        Ok(self.confirmed.word(host, written, self.clock.now(), Instant::now()))
    }

    /// The last moment at which the host was heard; the epoch: never.
    pub(super) async fn confirmed_at(&self, host: HostId) -> Result<Timestamp, StoreError> {
        match self.confirmed.last(host) {
            Some(heard) => Ok(heard.at),
            None => Ok(self.db.host_confirmed_at(host).await?.unwrap_or(Timestamp::UNIX_EPOCH)),
        }
    }

    async fn write_confirmed(&self) -> Result<(), StoreError> {
        let unwritten = self.confirmed.unwritten();
        for batch in unwritten.chunks(BATCH_MAX) {
            self.db.confirm_hosts(batch.to_vec()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const BEATS: Duration = Duration::from_secs(15);
    const HOST: HostId = HostId(Uuid::nil());

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn a_host_is_heard_until_it_falls_silent_and_then_it_counts_when_it_was_heard_last() {
        let (confirmed, start) = (Confirmed::new(BEATS), Instant::now());
        assert!(confirmed.heard(HOST, at(0), start) && !confirmed.heard(HOST, at(5), start));
        assert_eq!(confirmed.word(HOST, None, at(20), start + BEATS), HostWord::Heard);
        let late = start + BEATS + Duration::from_nanos(1);
        assert_eq!(confirmed.word(HOST, None, at(21), late), HostWord::SilentSince(at(5)));
    }

    #[test]
    fn a_registry_that_was_just_started_goes_by_what_was_written_down_lately() {
        let confirmed = Confirmed::new(BEATS);
        let now = Instant::now();
        assert_eq!(confirmed.word(HOST, Some(at(0)), at(75), now), HostWord::Heard);
        assert_eq!(confirmed.word(HOST, Some(at(0)), at(76), now), HostWord::NotYetHeard);
        let late = now + BEATS + Duration::from_secs(1);
        assert_eq!(confirmed.word(HOST, Some(at(0)), at(76), late), HostWord::SilentSince(at(0)));
        assert_eq!(confirmed.word(HOST, None, at(76), late), HostWord::SilentSince(Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn each_moment_is_written_down_once() {
        let (confirmed, now) = (Confirmed::new(BEATS), Instant::now());
        confirmed.heard(HOST, at(0), now);
        assert_eq!(confirmed.unwritten(), [(HOST, at(0))]);
        assert_eq!(confirmed.unwritten(), []);
        confirmed.heard(HOST, at(5), now);
        assert_eq!(confirmed.unwritten(), [(HOST, at(5))]);
    }
}
