//! All that is free, in the order it is offered in: cheapest first, then least waste.
//!
//! For one request the waste of an offer is what it has beyond the request, so among offers of one price the
//! order by waste is the order by size, whatever was asked: one order serves all searches, and a place in it is a
//! cursor that stays valid while offers come and go.

use std::{collections::BTreeMap, collections::HashMap, ops::Bound};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    api::registry::{LendingState, Offer, RegisteredPartition},
    domain::{
        id::{HostId, PartitionId},
        matching::{Conditions, Explanation},
        money::Currency,
        terms::Terms,
    },
};

/// An offer's place. Prices of different currencies do not compare; each currency has its own run.
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
    fn of(host: HostId, partition: PartitionId, terms: &Terms) -> Self {
        Self {
            currency: terms.price.currency,
            per_hour_micros: terms.price.per_hour_micros,
            cpus: terms.allocation.cpus,
            memory_mib: terms.allocation.memory_mib,
            disk_mib: terms.allocation.disk_mib,
            partition,
            host,
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
    offers: BTreeMap<Place, Offer>,
    places: HashMap<(HostId, PartitionId), Place>,
}

pub(super) struct Found {
    pub(super) offers: Vec<Offer>,
    /// Where the next page begins; none: that was all.
    pub(super) next: Option<Place>,
}

impl SearchIndex {
    /// Takes the partition's row as it is now; none: it is not registered any more.
    pub(super) fn put(&mut self, host: HostId, partition: PartitionId, row: Option<&RegisteredPartition>) {
        if let Some(place) = self.places.remove(&(host, partition)) {
            self.offers.remove(&place);
        }
        let Some(row) = row.filter(|row| row.state == LendingState::Free) else { return };
        let place = Place::of(host, partition, &row.terms);
        let offer = Offer { host, partition, terms: row.terms.clone(), terms_version: row.version };
        self.places.insert((host, partition), place);
        self.offers.insert(place, offer);
    }

    pub(super) fn len(&self) -> usize {
        self.offers.len()
    }

    /// The first `limit` offers after `after` that meet the conditions, of hosts that are heard.
    pub(super) fn search(
        &self,
        conditions: &Conditions,
        after: Option<Place>,
        limit: usize,
        is_heard: impl Fn(HostId) -> bool,
    ) -> Found {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut matching = self
            .offers
            .range((from, Bound::Unbounded))
            .filter(|(_, offer)| is_heard(offer.host) && conditions.satisfied_by(&offer.terms));
        let page: Vec<_> = matching.by_ref().take(limit).collect();
        let next = matching.next().and_then(|_| page.last().map(|(place, _)| **place));
        Found { offers: page.into_iter().map(|(_, offer)| offer.clone()).collect(), next }
    }

    /// Why nothing matches.
    pub(super) fn explain(&self, conditions: &Conditions, is_heard: impl Fn(HostId) -> bool) -> Explanation {
        let mut explanation = Explanation::default();
        for offer in self.offers.values().filter(|offer| is_heard(offer.host)) {
            explanation.count(conditions, &offer.terms);
        }
        explanation
    }
}

#[cfg(test)]
mod tests;
