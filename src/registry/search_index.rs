//! All that is free, in the order it is offered in: cheapest first, then least waste.
//!
//! For one request the waste of an offer is what it has beyond the request, so among offers of one price the
//! order by waste is the order by size, whatever was asked: one order serves all searches, and a place in it is a
//! cursor that stays valid while offers come and go.
//!
//! A search judges offers that are alike at once ([`kinds`]), by the predicate that judges one, and merges the runs of
//! those that do: what it does not find it hardly looks at. Offers of silent hosts are kept, but in no run.

mod kinds;
mod run;

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BinaryHeap, HashMap},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    api::registry::{LendingState, Offer, RegisteredPartition},
    domain::{
        id::{HostId, PartitionId},
        matching::{Condition, Conditions, Explanation},
        money::{Currency, Price},
        resources::Allocation,
        terms::Terms,
    },
};
use kinds::{Judge, Kind, KindNumber, Kinds};
use run::{At, Row, Run, Spot};

/// An offer's place. Prices of different currencies do not compare; each currency has its own stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    currency: Currency,
    per_hour_micros: i64,
    cpus: u32,
    memory_mib: u64,
    disk_mib: u64,
    partition: PartitionId,
    host: HostId,
}

impl Place {
    fn of(kind: &Terms, spot: &Spot) -> Self {
        Self {
            currency: kind.price.currency,
            per_hour_micros: spot.per_hour_micros,
            cpus: kind.allocation.cpus,
            memory_mib: spot.memory_mib,
            disk_mib: spot.disk_mib,
            partition: spot.partition,
            host: spot.host,
        }
    }

    fn spot(&self) -> Spot {
        Spot {
            per_hour_micros: self.per_hour_micros,
            memory_mib: self.memory_mib,
            disk_mib: self.disk_mib,
            partition: self.partition,
            host: self.host,
        }
    }

    /// As a cursor on the wire.
    pub(super) fn to_cursor(self) -> String {
        // Numbers and text alone: this cannot fail.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&self).unwrap_or_default())
    }

    pub(super) fn from_cursor(text: &str) -> Result<Self, NotACursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NotACursor)?;
        serde_json::from_slice(&bytes).map_err(|_| NotACursor)
    }
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("cursor: not one that this registry gave")]
pub(super) struct NotACursor;

#[derive(Debug, Default)]
pub(super) struct SearchIndex {
    kinds: Kinds,
    /// Kinds whose runs are not empty, by where these begin: a search opens a run when it has come that far.
    begins: BTreeMap<Place, KindNumber>,
    hosts: HashMap<HostId, HostOffers>,
    free: usize,
}

/// What is free of one host.
#[derive(Debug, Default)]
struct HostOffers {
    heard: bool,
    offers: BTreeMap<PartitionId, (KindNumber, Row)>,
}

pub(super) struct Found {
    pub(super) offers: Vec<Offer>,
    /// Where the next page begins; none: that was all.
    pub(super) next: Option<Place>,
}

impl SearchIndex {
    /// Takes the partition's row as it is now; none: it is not registered any more.
    pub(super) fn put(&mut self, host: HostId, partition: PartitionId, row: Option<&RegisteredPartition>) {
        let before = self.hosts.entry(host).or_default().offers.remove(&partition);
        if let Some((kind, row)) = before {
            self.free -= 1;
            self.change_run(kind, |run| run.remove(&row.spot));
            self.kinds.forget(kind);
        }
        let Some(row) = row.filter(|row| row.state == LendingState::Free) else { return };
        let spot = Spot {
            per_hour_micros: row.terms.price.per_hour_micros,
            memory_mib: row.terms.allocation.memory_mib,
            disk_mib: row.terms.allocation.disk_mib,
            partition,
            host,
        };
        let offer = Row { spot, version: row.version };
        self.free += 1;
        let kind = self.kinds.keep(&row.terms);
        let of_host = self.hosts.entry(host).or_default();
        of_host.offers.insert(partition, (kind, offer));
        if of_host.heard {
            self.change_run(kind, |run| run.insert(offer));
        }
    }

    /// The host is heard, or is silent: then its offers are hidden, not forgotten.
    pub(super) fn hear(&mut self, host: HostId, heard: bool) {
        let of_host = self.hosts.entry(host).or_default();
        if of_host.heard == heard {
            return;
        }
        of_host.heard = heard;
        let offers: Vec<_> = of_host.offers.values().copied().collect();
        for (kind, row) in offers {
            self.change_run(kind, |run| if heard { run.insert(row) } else { run.remove(&row.spot) });
        }
    }

    /// Changes a kind's run, and remembers where it begins now.
    fn change_run(&mut self, kind: KindNumber, change: impl FnOnce(&mut Run)) {
        let Some((terms, run)) = self.kinds.run_mut(kind) else { return };
        let began = run.first().map(|row| Place::of(terms, &row.spot));
        change(run);
        let begins = run.first().map(|row| Place::of(terms, &row.spot));
        if began != begins {
            began.map(|place| self.begins.remove(&place));
            begins.map(|place| self.begins.insert(place, kind));
        }
    }

    /// Free partitions, those of silent hosts included.
    pub(super) fn len(&self) -> usize {
        self.free
    }

    /// The first `limit` offers after `after` that meet the conditions, of hosts that are heard.
    pub(super) fn search(&self, conditions: &Conditions, after: Option<Place>, limit: usize) -> Found {
        let mut judge = self.kinds.judge(conditions);
        let mut unopened = self.begins.iter().peekable();
        let mut heads = BinaryHeap::new();
        let (mut offers, mut next) = (Vec::new(), None);
        loop {
            // A run that begins behind the first of those that are open can wait.
            while let Some((_, kind)) = unopened.next_if(|(begins, _)| {
                heads.peek().is_none_or(|Reverse(head): &Reverse<Head<'_>>| **begins < head.place)
            }) {
                heads.extend(self.open(*kind, &mut judge, conditions, after.as_ref()).map(Reverse));
            }
            let Some(Reverse(head)) = heads.pop() else { break };
            if offers.len() == limit {
                return Found { offers, next };
            }
            offers.extend(head.offer());
            next = Some(head.place);
            heads.extend(head.following(conditions).map(Reverse));
        }
        Found { offers, next: None }
    }

    fn open<'a>(
        &'a self,
        kind: KindNumber,
        judge: &mut Judge<'_>,
        conditions: &Conditions,
        after: Option<&Place>,
    ) -> Option<Head<'a>> {
        let kind = self.kinds.get(kind).filter(|kind| judge.passes(kind))?;
        Head::first(kind, conditions, after)
    }

    /// Why nothing matches.
    pub(super) fn explain(&self, conditions: &Conditions) -> Explanation {
        let mut explanation = Explanation::default();
        for Kind { terms, run, .. } in self.kinds.iter() {
            let count = u64::try_from(run.len()).unwrap_or(u64::MAX);
            explanation.considered += count;
            let differing = [Condition::Memory, Condition::Disk, Condition::Price];
            let unmet = conditions.unmet_by(terms).filter(|condition| !differing.contains(condition));
            unmet.for_each(|condition| explanation.fell(condition, count));
            run.explain(conditions, &mut explanation);
        }
        explanation
    }
}

/// The next offer of one kind that matches.
struct Head<'a> {
    place: Place,
    kind: &'a Kind,
    at: At,
}

impl<'a> Head<'a> {
    fn at(kind: &'a Kind, at: At) -> Option<Self> {
        Some(Self { place: Place::of(&kind.terms, &kind.run.row(at)?.spot), kind, at })
    }

    fn first(kind: &'a Kind, conditions: &Conditions, after: Option<&Place>) -> Option<Self> {
        let Some(after) = after else {
            return Self::at(kind, kind.run.first_match(conditions, None)?);
        };
        let from = first_spot_after(after, &kind.terms)?;
        let head = Self::at(kind, kind.run.first_match(conditions, from.as_ref())?)?;
        if head.place > *after { Some(head) } else { head.following(conditions) }
    }

    fn following(self, conditions: &Conditions) -> Option<Self> {
        Self::at(self.kind, self.kind.run.next_match(conditions, self.at)?)
    }

    fn offer(&self) -> Option<Offer> {
        let (kind, Row { spot, version }) = (&*self.kind.terms, *self.kind.run.row(self.at)?);
        let allocation =
            Allocation { memory_mib: spot.memory_mib, disk_mib: spot.disk_mib, ..kind.allocation };
        let price = Price { per_hour_micros: spot.per_hour_micros, ..kind.price };
        let terms = Terms { allocation, price, ..kind.clone() };
        Some(Offer { host: spot.host, partition: spot.partition, terms, terms_version: version })
    }
}

/// From where on a run of this kind lies after `after`, which itself may be there: none of it does, all of it does, or
/// from this spot on.
fn first_spot_after(after: &Place, kind: &Terms) -> Option<Option<Spot>> {
    if kind.price.currency != after.currency {
        return (kind.price.currency > after.currency).then_some(None);
    }
    let spot = after.spot();
    let (least_partition, least_host) = (PartitionId(uuid::Uuid::nil()), HostId(uuid::Uuid::nil()));
    let cheapest = |per_hour_micros| Spot {
        per_hour_micros,
        memory_mib: 0,
        disk_mib: 0,
        partition: least_partition,
        host: least_host,
    };
    Some(Some(match kind.allocation.cpus.cmp(&after.cpus) {
        Ordering::Less => cheapest(spot.per_hour_micros.checked_add(1)?),
        Ordering::Equal => spot,
        Ordering::Greater => cheapest(spot.per_hour_micros),
    }))
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for Head<'_> {}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.cmp(&other.place)
    }
}

#[cfg(test)]
mod tests;
