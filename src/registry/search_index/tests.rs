use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::{
    matching::Condition,
    money::Price,
    resources::Allocation,
    terms::{Epoch, TermsVersion},
};

const HOST: HostId = HostId(Uuid::nil());

fn row(number: u128, per_hour_micros: i64, cpus: u32, memory_mib: u64) -> RegisteredPartition {
    RegisteredPartition {
        host: HOST,
        partition: PartitionId(Uuid::from_u128(number)),
        terms: Terms {
            allocation: Allocation { cpus, memory_mib, disk_mib: 0 },
            price: Price { per_hour_micros, currency: "EUR".parse().unwrap() },
            os_images: [].into(),
            cpu_model: String::new(),
            network: Default::default(),
        },
        version: TermsVersion(1),
        epoch: Epoch(0),
        state: LendingState::Free,
    }
}

fn index(rows: &[RegisteredPartition]) -> SearchIndex {
    let mut index = SearchIndex::default();
    for row in rows {
        index.put(row.host, row.partition, Some(row));
    }
    index
}

fn numbers(offers: &[Offer]) -> Vec<u128> {
    offers.iter().map(|offer| offer.partition.0.as_u128()).collect()
}

fn search(index: &SearchIndex, conditions: &Conditions) -> Vec<u128> {
    numbers(&index.search(conditions, None, 1000, |_| true).offers)
}

#[test]
fn the_cheapest_comes_first_and_of_one_price_the_one_that_wastes_least() {
    let index = index(&[row(1, 20, 1, 64), row(2, 10, 4, 512), row(3, 10, 2, 512), row(4, 10, 2, 256)]);
    assert_eq!(search(&index, &Conditions::default()), [4, 3, 2, 1]);
    assert_eq!(search(&index, &Conditions { min_cpus: 2, ..Conditions::default() }), [4, 3, 2]);
}

#[test]
fn only_what_is_free_is_found() {
    let mut lent = row(1, 10, 1, 64);
    let mut index = index(&[lent.clone(), row(2, 10, 1, 64)]);
    lent.state = LendingState::AwaitingClean { lease: crate::domain::id::LeaseId(Uuid::nil()) };
    index.put(HOST, lent.partition, Some(&lent));
    assert_eq!(search(&index, &Conditions::default()), [2]);
    index.put(HOST, PartitionId(Uuid::from_u128(2)), None);
    assert_eq!(index.len(), 0);
}

#[test]
fn a_changed_offer_is_found_by_its_new_terms_alone() {
    let mut index = index(&[row(1, 10, 1, 64)]);
    let changed = row(1, 99, 8, 64);
    index.put(HOST, changed.partition, Some(&changed));
    assert_eq!(index.len(), 1);
    assert_eq!(search(&index, &Conditions { min_cpus: 8, ..Conditions::default() }), [1]);
}

#[test]
fn offers_of_silent_hosts_are_neither_found_nor_explained() {
    let index = index(&[row(1, 10, 1, 64)]);
    assert!(index.search(&Conditions::default(), None, 10, |_| false).offers.is_empty());
    assert_eq!(index.explain(&Conditions::default(), |_| false), Explanation::default());
}

#[test]
fn an_empty_search_says_what_the_offers_fell_to() {
    let index = index(&[row(1, 10, 1, 64), row(2, 10, 2, 64)]);
    let conditions = Conditions { min_cpus: 2, min_memory_mib: 128, ..Conditions::default() };
    let explanation = index.explain(&conditions, |_| true);
    assert_eq!(explanation.considered, 2);
    assert_eq!(explanation.fell_to, [(Condition::Cpus, 1), (Condition::Memory, 2)].into());
}

#[test]
fn only_what_was_given_as_a_cursor_is_one() {
    for text in ["", "x", "e30", "💥"] {
        assert_eq!(Place::from_cursor(text), Err(NotACursor));
    }
}

proptest! {
    #[test]
    fn page_by_page_it_is_the_same_as_at_once(
        rows in prop::collection::vec((0..4i64, 1..4u32, 64..66u64), 0..30),
        limit in 1..7usize,
        min_cpus in 0..4u32,
    ) {
        let rows: Vec<_> = (1..).zip(rows).map(|(n, (price, cpus, memory))| row(n, price, cpus, memory)).collect();
        let index = index(&rows);
        let conditions = Conditions { min_cpus, ..Conditions::default() };
        let (mut read, mut after) = (Vec::new(), None);
        loop {
            let found = index.search(&conditions, after, limit, |_| true);
            read.extend(numbers(&found.offers));
            let Some(next) = found.next else { break };
            after = Some(Place::from_cursor(&next.to_cursor()).unwrap());
        }
        prop_assert_eq!(read, search(&index, &conditions));
    }
}
