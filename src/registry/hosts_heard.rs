//! Which hosts were heard of lately, and who waits for news of a host. In memory alone: after a restart a host
//! is heard of with its next beat.

use std::{
    collections::{HashMap, HashSet},
    sync::{PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::domain::id::{HostId, LenderId};

/// A host is hidden after so many half beats without a word: with the two beats that may get lost, the third that comes
/// too late, and the look that notices it, within three beats.
const HALF_BEATS_MISSED: u32 = 5;

/// How long a host that is to beat so often may be without a word.
pub(super) fn silent_after(beat_every: Duration) -> Duration {
    beat_every * HALF_BEATS_MISSED / 2
}

pub(super) struct HostsHeard {
    beat_every: Duration,
    hosts: RwLock<HashMap<HostId, Host>>,
}

#[derive(Default)]
struct Host {
    heard_at: Option<Instant>,
    /// Another registry at the same database hears it.
    heard_elsewhere: bool,
    lender: Option<LenderId>,
    /// Whether its offers are shown.
    shown: bool,
    news: watch::Sender<()>,
}

impl HostsHeard {
    pub(super) fn new(beat_every: Duration) -> Self {
        Self { beat_every, hosts: RwLock::default() }
    }

    /// The host lives. True: its offers are hidden, and are to be shown.
    pub(super) fn heard(&self, host: HostId, now: Instant) -> bool {
        self.with(host, |host| {
            host.heard_at = Some(now);
            !host.shown
        })
    }

    /// Other registries hear these hosts, and no others. Answers with those of which that is news.
    pub(super) fn heard_elsewhere(&self, heard: &HashSet<HostId>) -> Vec<HostId> {
        let mut hosts = self.hosts.write().unwrap_or_else(PoisonError::into_inner);
        for host in heard {
            hosts.entry(*host).or_default();
        }
        let news = hosts.iter_mut().filter(|(id, host)| host.heard_elsewhere != heard.contains(id));
        news.map(|(id, host)| {
            host.heard_elsewhere = !host.heard_elsewhere;
            *id
        })
        .collect()
    }

    /// The hosts that this registry itself hears.
    pub(super) fn heard_here(&self, now: Instant) -> HashSet<HostId> {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        let heard = hosts.iter().filter(|(_, host)| host.is_heard_here(now, self.silent_after()));
        heard.map(|(id, _)| *id).collect()
    }

    pub(super) fn belongs(&self, host: HostId, lender: LenderId) {
        self.with(host, |host| host.lender = Some(lender));
    }

    /// Whose host it is, where that is known already.
    pub(super) fn lender(&self, host: HostId) -> Option<LenderId> {
        self.hosts.read().unwrap_or_else(PoisonError::into_inner).get(&host)?.lender
    }

    /// Whether the host is heard, where that is not what is shown: from now on it is.
    pub(super) fn settle(&self, host: HostId, now: Instant) -> Option<bool> {
        let silent_after = self.silent_after();
        self.with(host, |host| {
            let heard = host.is_heard(now, silent_after);
            (std::mem::replace(&mut host.shown, heard) != heard).then_some(heard)
        })
    }

    /// Hosts whose offers are shown though they are not heard any more.
    pub(super) fn fallen_silent(&self, now: Instant) -> Vec<HostId> {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        let fallen = hosts.iter().filter(|(_, host)| host.shown && !host.is_heard(now, self.silent_after()));
        fallen.map(|(id, _)| *id).collect()
    }

    /// Something changed at the registry that the host is to know.
    pub(super) fn tell(&self, host: HostId) {
        self.with(host, |host| host.news.send_replace(()));
    }

    /// Sees all that is told from now on.
    pub(super) fn listen(&self, host: HostId) -> watch::Receiver<()> {
        self.with(host, |host| host.news.subscribe())
    }

    fn with<T>(&self, host: HostId, act: impl FnOnce(&mut Host) -> T) -> T {
        act(self.hosts.write().unwrap_or_else(PoisonError::into_inner).entry(host).or_default())
    }

    pub(super) fn at(&self, now: Instant) -> HeardAt<'_> {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        HeardAt { hosts, now, silent_after: self.silent_after() }
    }

    pub(super) fn silent_after(&self) -> Duration {
        silent_after(self.beat_every)
    }
}

impl Host {
    fn is_heard(&self, now: Instant, silent_after: Duration) -> bool {
        self.heard_elsewhere || self.is_heard_here(now, silent_after)
    }

    fn is_heard_here(&self, now: Instant, silent_after: Duration) -> bool {
        self.heard_at.is_some_and(|at| now.saturating_duration_since(at) <= silent_after)
    }
}

/// The hosts as they are at one moment.
pub(super) struct HeardAt<'a> {
    hosts: RwLockReadGuard<'a, HashMap<HostId, Host>>,
    now: Instant,
    silent_after: Duration,
}

impl HeardAt<'_> {
    /// Whether the host was heard of lately.
    pub(super) fn contains(&self, host: HostId) -> bool {
        self.hosts.get(&host).is_some_and(|host| host.is_heard(self.now, self.silent_after))
    }

    pub(super) fn count(&self) -> usize {
        self.hosts.values().filter(|host| host.is_heard(self.now, self.silent_after)).count()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const BEAT: Duration = Duration::from_secs(5);

    #[test]
    fn a_host_is_silent_until_it_is_heard_and_again_after_two_beats_and_a_half() {
        let hosts = HostsHeard::new(BEAT);
        let (host, other, start) = (HostId(Uuid::nil()), HostId(Uuid::max()), Instant::now());
        assert!(!hosts.at(start).contains(host));
        hosts.heard(host, start);
        assert!(hosts.at(start + 5 * BEAT / 2).contains(host));
        assert!(!hosts.at(start + 5 * BEAT / 2 + Duration::from_nanos(1)).contains(host));
        assert!(!hosts.at(start).contains(other));
        assert_eq!(hosts.at(start).count(), 1);
    }

    #[test]
    fn a_host_is_shown_when_it_is_heard_and_hidden_when_it_has_fallen_silent() {
        let hosts = HostsHeard::new(BEAT);
        let (host, start) = (HostId(Uuid::nil()), Instant::now());
        assert!(hosts.heard(host, start), "it is to be shown");
        assert_eq!((hosts.settle(host, start), hosts.settle(host, start)), (Some(true), None));
        assert!(!hosts.heard(host, start + BEAT), "it is shown");
        assert_eq!(hosts.fallen_silent(start + 3 * BEAT), []);
        let late = start + 4 * BEAT;
        assert_eq!(hosts.fallen_silent(late), [host]);
        assert_eq!((hosts.settle(host, late), hosts.fallen_silent(late)), (Some(false), vec![]));
    }

    #[test]
    fn a_host_that_is_heard_again_in_time_is_not_hidden() {
        let hosts = HostsHeard::new(BEAT);
        let (host, start) = (HostId(Uuid::nil()), Instant::now());
        hosts.heard(host, start);
        hosts.settle(host, start);
        let late = start + 4 * BEAT;
        assert_eq!(hosts.fallen_silent(late), [host]);
        hosts.heard(host, late);
        assert_eq!(hosts.settle(host, late), None);
    }

    #[test]
    fn a_host_that_another_registry_hears_is_heard_until_that_one_hears_it_no_more() {
        let hosts = HostsHeard::new(BEAT);
        let (host, now) = (HostId(Uuid::nil()), Instant::now());
        assert_eq!(hosts.heard_elsewhere(&[host].into()), [host]);
        assert!(hosts.heard_elsewhere(&[host].into()).is_empty(), "that is no news");
        assert!(hosts.at(now).contains(host) && hosts.heard_here(now).is_empty());
        assert_eq!(hosts.heard_elsewhere(&HashSet::new()), [host]);
        assert!(!hosts.at(now).contains(host));
        hosts.heard(host, now);
        assert_eq!(hosts.heard_here(now), [host].into());
    }

    #[test]
    fn news_told_while_nobody_waits_is_not_missed() {
        let hosts = HostsHeard::new(BEAT);
        let host = HostId(Uuid::nil());
        let listener = hosts.listen(host);
        assert!(!listener.has_changed().unwrap());
        hosts.tell(host);
        assert!(listener.has_changed().unwrap());
    }

    #[test]
    fn being_told_news_is_no_sign_of_life() {
        let hosts = HostsHeard::new(BEAT);
        hosts.tell(HostId(Uuid::nil()));
        assert!(!hosts.at(Instant::now()).contains(HostId(Uuid::nil())));
    }
}
