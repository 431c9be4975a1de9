use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::{
    network::Network,
    qualities::Qualities,
    terms::{Epoch, TermsVersion},
};

const HOST: HostId = HostId(Uuid::nil());

fn host(number: u128) -> HostId {
    HostId(Uuid::from_u128(number))
}

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
            qualities: Default::default(),
            lending: Default::default(),
        },
        version: TermsVersion(1),
        epoch: Epoch(0),
        state: LendingState::Free,
    }
}

/// Of hosts that are all heard.
fn index(rows: &[RegisteredPartition]) -> SearchIndex {
    let mut index = SearchIndex::default();
    for row in rows {
        index.put(row.host, row.partition, Some(row));
        index.hear(row.host, true);
    }
    index
}

fn numbers(offers: &[Offer]) -> Vec<u128> {
    offers.iter().map(|offer| offer.partition.0.as_u128()).collect()
}

fn search(index: &SearchIndex, conditions: &Conditions) -> Vec<u128> {
    numbers(&index.search(conditions, None, 1000).offers)
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
    assert!(index.kinds.is_empty(), "nothing is kept of a kind of which there is none");
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
fn offers_of_silent_hosts_are_hidden_and_not_forgotten() {
    let mut index = index(&[row(1, 10, 1, 64)]);
    index.hear(HOST, false);
    assert!(search(&index, &Conditions::default()).is_empty());
    assert_eq!((index.explain(&Conditions::default()), index.len()), (Explanation::default(), 1));
    let dearer = row(1, 20, 1, 64);
    index.put(HOST, dearer.partition, Some(&dearer));
    index.hear(HOST, true);
    assert_eq!(index.search(&Conditions::default(), None, 9).offers[0].terms, dearer.terms);
}

#[test]
fn an_empty_search_says_what_the_offers_fell_to() {
    let index = index(&[row(1, 10, 1, 64), row(2, 10, 2, 64)]);
    let conditions = Conditions {
        min_cpus: 2,
        min_memory_mib: 128,
        max_price_per_hour_micros: Some(-1),
        ..Conditions::default()
    };
    let explanation = index.explain(&conditions);
    assert_eq!(explanation.considered, 2);
    let fell_to = [(Condition::Cpus, 1), (Condition::Memory, 2), (Condition::Price, 2)];
    assert_eq!(explanation.fell_to, fell_to.into());
}

#[test]
fn only_what_was_given_as_a_cursor_is_one() {
    for text in ["", "x", "e30", "💥"] {
        assert_eq!(Place::from_cursor(text), Err(NotACursor));
    }
}

/// What becomes of a market.
#[derive(Debug, Clone)]
enum Step {
    Offer(Box<RegisteredPartition>),
    Lend(u128, u128),
    Hear(u128, bool),
}

/// Few values of each kind, so that offers meet and differ in every way.
fn terms() -> impl Strategy<Value = Terms> {
    let sizes = (1..4u32, 64..68u64, 0..3u64, 0..6i64);
    let words = (prop::sample::select(vec!["EUR", "USD"]), prop::sample::select(vec!["AMD", "Intel"]));
    let rest = (any::<bool>(), any::<bool>(), prop::option::of(0..2u8), prop::option::of(1..4u32));
    (sizes, words, rest).prop_map(
        |((cpus, memory_mib, disk_mib, price), (currency, model), (nat, huge, zone, performance))| Terms {
            allocation: Allocation { cpus, memory_mib, disk_mib },
            price: Price { per_hour_micros: price, currency: currency.parse().unwrap() },
            os_images: if huge { ["micro".to_owned()].into() } else { [].into() },
            cpu_model: model.to_owned(),
            network: if nat { Network::Nat } else { Network::None },
            qualities: Qualities {
                performance,
                huge_pages: huge,
                labels: zone.map(|zone| ("zone".to_owned(), zone.to_string())).into_iter().collect(),
                ..Qualities::default()
            },
            lending: Default::default(),
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let offer = (0..4u128, 0..60u128, terms()).prop_map(|(of, number, terms)| {
        Step::Offer(Box::new(RegisteredPartition { host: host(of), terms, ..row(number, 0, 1, 64) }))
    });
    prop_oneof![
        12 => offer,
        2 => (0..4u128, 0..60u128).prop_map(|(of, number)| Step::Lend(of, number)),
        1 => (0..4u128, any::<bool>()).prop_map(|(of, heard)| Step::Hear(of, heard)),
    ]
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let sizes = (0..4u32, 64..69u64, 0..4u64, prop::option::of(0..6i64));
    let words =
        (prop::option::of(Just("EUR")), prop::option::of(Just("amd")), prop::option::of(Just("micro")));
    let rest = (any::<bool>(), any::<bool>(), prop::option::weighted(0.3, 0..2u8), 0..4u32);
    (sizes, words, rest).prop_map(
        |((cpus, memory, disk, price), (currency, model, os), (nat, huge, zone, performance))| Conditions {
            min_cpus: cpus,
            min_performance: performance,
            min_memory_mib: memory,
            min_disk_mib: disk,
            max_price_per_hour_micros: price,
            currency: currency.map(|currency| currency.parse().unwrap()),
            cpu_model: model.map(str::to_owned),
            os_image: os.map(str::to_owned),
            network: if nat { Network::Nat } else { Network::None },
            huge_pages: huge,
            labels: zone.map(|zone| ("zone".to_owned(), zone.to_string())).into_iter().collect(),
            ..Conditions::default()
        },
    )
}

/// The market as a plain list: what the index is to be equal to.
#[derive(Default)]
struct Plain {
    free: BTreeMap<(HostId, PartitionId), RegisteredPartition>,
    heard: std::collections::BTreeSet<HostId>,
}

impl Plain {
    fn on_offer(&self) -> impl Iterator<Item = &RegisteredPartition> {
        self.free.values().filter(|row| self.heard.contains(&row.host))
    }

    fn search(&self, conditions: &Conditions) -> Vec<(HostId, PartitionId)> {
        let mut found: Vec<_> = self.on_offer().filter(|row| conditions.satisfied_by(&row.terms)).collect();
        found.sort_by_key(|row| {
            let Terms { allocation, price, .. } = &row.terms;
            let size = (allocation.cpus, allocation.memory_mib, allocation.disk_mib);
            (price.currency, price.per_hour_micros, size, row.partition, row.host)
        });
        found.into_iter().map(|row| (row.host, row.partition)).collect()
    }
}

fn after(steps: &[Step]) -> (SearchIndex, Plain) {
    let (mut index, mut plain) = (SearchIndex::default(), Plain::default());
    for step in steps {
        match step {
            Step::Offer(row) => {
                index.put(row.host, row.partition, Some(row));
                plain.free.insert((row.host, row.partition), RegisteredPartition::clone(row));
            }
            Step::Lend(of, number) => {
                let partition = PartitionId(Uuid::from_u128(*number));
                index.put(host(*of), partition, None);
                plain.free.remove(&(host(*of), partition));
            }
            Step::Hear(of, heard) => {
                index.hear(host(*of), *heard);
                if *heard {
                    plain.heard.insert(host(*of))
                } else {
                    plain.heard.remove(&host(*of))
                };
            }
        }
    }
    (index, plain)
}

fn names(offers: &[Offer]) -> Vec<(HostId, PartitionId)> {
    offers.iter().map(|offer| (offer.host, offer.partition)).collect()
}

proptest! {
    #[test]
    fn whatever_happened_the_index_finds_what_a_plain_scan_finds_page_by_page_too(
        mut steps in prop::collection::vec(step(), 0..400),
        wishes in prop::collection::vec((conditions(), 1..9usize), 1..8),
    ) {
        steps.splice(0..0, (0..3).map(|of| Step::Hear(of, true)));
        let (index, plain) = after(&steps);
        prop_assert_eq!(index.len(), plain.free.len());
        for (conditions, limit) in wishes {
            let expected = plain.search(&conditions);
            prop_assert_eq!(&names(&index.search(&conditions, None, 1000).offers), &expected);
            let (mut read, mut after) = (Vec::new(), None);
            loop {
                let found = index.search(&conditions, after, limit);
                read.extend(names(&found.offers));
                let Some(next) = found.next else { break };
                after = Some(Place::from_cursor(&next.to_cursor()).unwrap());
            }
            prop_assert_eq!(read, expected);
            let mut explanation = Explanation::default();
            plain.on_offer().for_each(|row| explanation.count(&conditions, &row.terms));
            prop_assert_eq!(index.explain(&conditions), explanation);
        }
    }

    #[test]
    fn a_cursor_stays_valid_while_offers_come_and_go(
        steps in prop::collection::vec(step(), 50..200),
        later in prop::collection::vec(step(), 0..100),
        limit in 1..9usize,
    ) {
        let mut steps: Vec<_> = (0..4).map(|of| Step::Hear(of, true)).chain(steps).collect();
        let first = after(&steps).0.search(&Conditions::default(), None, limit);
        steps.extend(later);
        let (index, plain) = after(&steps);
        if let Some(next) = first.next {
            let rest: Vec<_> = names(&index.search(&Conditions::default(), Some(next), 1000).offers);
            let place = |offer: &Offer| {
                let Terms { allocation, price, .. } = &offer.terms;
                let size = (allocation.cpus, allocation.memory_mib, allocation.disk_mib);
                (price.currency, price.per_hour_micros, size, offer.partition, offer.host)
            };
            let all = index.search(&Conditions::default(), None, 1000).offers;
            let last = first.offers.last().map(place);
            let expected: Vec<_> = all.iter().filter(|offer| Some(place(offer)) > last).cloned().collect();
            prop_assert_eq!(rest, names(&expected));
        }
        prop_assert_eq!(index.len(), plain.free.len());
    }
}
