//! A borrower: it asks until it is answered, under the same name, even after it was restarted.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use tokio::time::sleep;
use uuid::Uuid;

use super::{
    host::Host,
    network::Network,
    registry::{Ask, Line},
};
use crate::{
    api::{
        problem::Code,
        registry::{EndLease, Lease, LeaseGranted, MakeLease, RenewLease, Search, SearchReply},
        secret::Secret,
    },
    client::ClientError,
    domain::id::{HostId, LeaseId},
};

/// Longest lease before it is renewed, and once it is, in seconds; the terms allow a little less.
const LEASE_MAX_SECONDS: u64 = 12;
const RENEWED_MAX_SECONDS: u64 = 24;
const AGAIN: Duration = Duration::from_millis(200);

/// What outlives a restart.
#[derive(Default)]
pub(super) struct Notebook {
    /// A wish that may have been granted.
    wish: Option<(String, MakeLease)>,
    /// A lease to be ended.
    to_end: Option<LeaseGranted>,
    pub(super) granted: BTreeMap<LeaseId, Lease>,
    pub(super) ended: BTreeMap<LeaseId, Lease>,
}

pub(super) struct Borrower {
    pub(super) token: Secret,
    pub(super) line: Line,
    pub(super) hosts: BTreeMap<HostId, Rc<Host>>,
    pub(super) notebook: RefCell<Notebook>,
}

impl Borrower {
    /// Goes on where it stopped; begins nothing new once the network is healed.
    pub(super) async fn work(self: Rc<Self>) {
        loop {
            let to_end = self.notebook.borrow().to_end.clone();
            if let Some(granted) = to_end {
                self.end(&granted).await;
                continue;
            }
            let has_wish = self.notebook.borrow().wish.is_some();
            if !has_wish && !self.choose().await {
                if self.network().is_healed() {
                    return;
                }
                sleep(AGAIN).await;
                continue;
            }
            self.lend().await;
        }
    }

    fn network(&self) -> &Rc<Network> {
        &self.line.network
    }

    /// Makes up a wish.
    async fn choose(&self) -> bool {
        if self.network().is_healed() {
            return false;
        }
        let search = Ask::new("POST", "/v1/search".to_owned(), &self.token, &Search::default());
        let Ok(found) = self.line.ask::<SearchReply>(search).await else { return false };
        let dice = &self.network().dice;
        let place = dice.roll(found.offers.len() as u64) as usize;
        let Some(offer) = found.offers.get(place) else { return false };
        let wish = serde_json::json!({
            "host": offer.host,
            "partition": offer.partition,
            "terms_version": offer.terms_version,
            "duration_seconds": 1 + dice.roll(LEASE_MAX_SECONDS),
        });
        let name = Uuid::from_u128(dice.roll(u64::MAX).into()).to_string();
        self.notebook.borrow_mut().wish = Some((name, serde_json::from_value(wish).unwrap()));
        true
    }

    async fn lend(&self) {
        let Some((name, wish)) = self.notebook.borrow().wish.clone() else { return };
        let ask = Ask::new("POST", "/v1/leases".to_owned(), &self.token, &wish);
        let ask = Ask { header: Some(("idempotency-key", name)), ..ask };
        match self.line.ask::<LeaseGranted>(ask).await {
            Ok(granted) => {
                let mut notebook = self.notebook.borrow_mut();
                let lease = granted.lease.clone();
                let before = notebook.granted.insert(lease.id, lease);
                assert!(before.is_none(), "law 1: one lease for two wishes");
                (notebook.wish, notebook.to_end) = (None, Some(granted));
            }
            Err(ClientError::Refused(problem)) => {
                let expected = [Code::AlreadyLent, Code::TermsChanged, Code::HostSilent, Code::NotFound];
                assert!(expected.contains(&problem.code), "{problem:?}");
                self.notebook.borrow_mut().wish = None;
            }
            Err(_) => sleep(AGAIN).await,
        }
    }

    /// Opens the partition, uses it, and gives it back: at the registry, at the host, or not at all.
    async fn end(&self, granted: &LeaseGranted) {
        let lease = &granted.lease;
        let host = Rc::clone(&self.hosts[&lease.host]);
        for _ in 0..3 {
            let opened = host.open(self.network(), lease.partition, &granted.key, granted.allocation_digest);
            if opened.await {
                break;
            }
            sleep(AGAIN).await;
        }
        let dice = &self.network().dice;
        sleep(dice.up_to_ms(4000)).await;
        let granted = &self.renewed(granted).await;
        sleep(dice.up_to_ms(4000)).await;
        let way = dice.roll(4);
        if way == 0 {
            host.take_back(self.network(), lease.partition, &granted.key).await;
        }
        if way > 1 {
            self.end_at_registry(granted).await;
        }
        self.notebook.borrow_mut().to_end = None;
    }

    /// Wants it for longer, or not; the lease as it is then.
    async fn renewed(&self, granted: &LeaseGranted) -> LeaseGranted {
        let dice = &self.network().dice;
        let (lease, seconds) =
            (&granted.lease, LEASE_MAX_SECONDS + dice.roll(RENEWED_MAX_SECONDS - LEASE_MAX_SECONDS));
        if dice.roll(2) == 0 {
            return granted.clone();
        }
        let wish = RenewLease { duration_seconds: seconds, budget: None };
        let ask = Ask::new("POST", format!("/v1/leases/{}/renew", lease.id), &self.token, &wish);
        loop {
            match self.line.ask::<LeaseGranted>(ask.clone()).await {
                Ok(renewed) => {
                    assert!(renewed.lease.asked_until >= lease.asked_until, "a renewal made a lease shorter");
                    self.notebook.borrow_mut().granted.insert(lease.id, renewed.lease.clone());
                    return renewed;
                }
                Err(ClientError::Refused(problem)) => {
                    let expected = [Code::LeaseEnded, Code::LeaseRecalled, Code::InvalidRequest];
                    assert!(expected.contains(&problem.code), "{problem:?}");
                    return granted.clone();
                }
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    async fn end_at_registry(&self, granted: &LeaseGranted) {
        let lease = &granted.lease;
        let end = EndLease { host: lease.host, partition: lease.partition, key: granted.key.clone() };
        let ask = Ask::new("POST", format!("/v1/leases/{}/end", lease.id), &self.token, &end);
        loop {
            match self.line.ask::<Lease>(ask.clone()).await {
                Ok(ended) => {
                    let before = self.notebook.borrow_mut().ended.insert(lease.id, ended.clone());
                    assert!(before.is_none_or(|before| before == ended), "an end changed");
                    return;
                }
                Err(ClientError::Refused(problem)) => panic!("{problem:?}"),
                Err(_) => sleep(AGAIN).await,
            }
        }
    }
}
