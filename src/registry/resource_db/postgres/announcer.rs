//! Announces changes, of this registry and of others, each partition's in the order in which they were committed.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::super::work::{Change, OnCommit};
use crate::domain::id::{HostId, PartitionId};

pub(super) struct Announcer(Mutex<Announced>);

struct Announced {
    /// The host's revision with the latest change of each partition.
    latest: HashMap<(HostId, PartitionId), u64>,
    on_commit: OnCommit,
}

impl Announcer {
    pub(super) fn new(on_commit: OnCommit) -> Self {
        Self(Mutex::new(Announced { latest: HashMap::new(), on_commit }))
    }

    /// Announces what is news. A change that comes after a later one of its partition is none.
    pub(super) fn announce(&self, mut changes: Vec<Change>) {
        let mut announced = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.retain(|change| announced.is_news(change));
        if !changes.is_empty() {
            (announced.on_commit)(changes);
        }
    }
}

impl Announced {
    fn is_news(&mut self, change: &Change) -> bool {
        let latest = self.latest.entry((change.host, change.partition)).or_default();
        let is_news = change.revision > *latest;
        *latest = change.revision.max(*latest);
        is_news
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::{domain::id::LenderId, registry::resource_db::Happened};

    #[test]
    fn a_change_that_was_overtaken_is_not_announced() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        let on_commit: OnCommit = Box::new(move |changes: Vec<Change>| {
            kept.lock()
                .unwrap()
                .extend(changes.iter().map(|change| (change.partition.0.as_u128(), change.revision)));
        });
        let announcer = Announcer::new(on_commit);
        let change = |partition, revision| Change {
            happened: Happened::Withdrawn,
            lender: LenderId(Uuid::nil()),
            borrower: None,
            end_reason: None,
            host: HostId(Uuid::nil()),
            revision,
            partition: PartitionId(Uuid::from_u128(partition)),
            row: None,
        };
        announcer.announce(vec![change(1, 3), change(2, 4)]);
        announcer.announce(vec![change(1, 2), change(1, 3), change(2, 5)]);
        assert_eq!(*heard.lock().unwrap(), [(1, 3), (2, 4), (2, 5)]);
    }
}
