//! The registry's endpoints.

use reqwest::{Method, header::IF_MATCH};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    events::{EventStream, MarketEvents},
    http::{ClientError, Connection},
    trust::Trust,
};
use crate::{
    api::{
        registry::{
            Acts, AskQuote, Balances, Booked, ChangeOffer, CreditLimit, EndLease, EnrolHost, Heartbeat,
            HeartbeatReply, HostContact, HostEnrolled, KnownHost, KnownHosts, Lease, LeaseGranted,
            LeaseQuery, Leases, Ledger, MakeCredit, MakeDeposit, MakeLease, MakePayout, OfferPartition,
            Quote, RegisteredPartition, RenewLease, Search, SearchReply, Statement,
        },
        secret::Secret,
        token::{MakeToken, TokenMade, Tokens},
    },
    domain::{
        id::{HostId, KeyId, LeaseId, PartitionId},
        receipt::chain::{Receipt, SignedSegment},
        terms::TermsVersion,
    },
};

/// Names one wish for a lease, so that asking again after a broken connection makes no second lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRequestId(pub Uuid);

/// Names one wish to make a host known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRequestId(pub Uuid);

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// A registry, as a borrower, a lender or a host sees it: by its bearer.
#[derive(Debug, Clone)]
pub struct RegistryClient {
    connection: Connection,
}

impl RegistryClient {
    /// `base` is like `http://registry:7070`; `bearer` is a borrower's, a lender's or a host's token.
    pub fn new(base: &str, bearer: Option<Secret>) -> Result<Self, ClientError> {
        Self::trusting(base, bearer, &Trust::default())
    }

    /// Says who may be taken for the server over TLS.
    pub fn trusting(base: &str, bearer: Option<Secret>, trust: &Trust) -> Result<Self, ClientError> {
        Ok(Self { connection: Connection::new(base, bearer, trust)? })
    }

    /// Names all its requests `id`, so that they can be found in the logs of several servers.
    pub fn traced(mut self, id: Uuid) -> Self {
        self.connection.trace(id);
        self
    }

    /// Makes a host known; asked again with the same `id` it is the same host, with another token.
    pub async fn enrol_host(&self, id: HostRequestId, host: &EnrolHost) -> Result<HostEnrolled, ClientError> {
        let request = self.connection.request(Method::POST, "/v1/hosts");
        self.connection.call(request.header(IDEMPOTENCY_KEY, id.0.to_string()).json(host)).await
    }

    pub async fn change_contact(&self, host: HostId, contact: &HostContact) -> Result<(), ClientError> {
        let request = self.connection.request(Method::PUT, &format!("/v1/hosts/{host}/contact"));
        self.connection.call_for_nothing(request.json(contact)).await
    }

    /// The registry may hold the answer for `heartbeat.wait_ms`.
    pub async fn heartbeat(
        &self,
        host: HostId,
        heartbeat: &Heartbeat,
    ) -> Result<HeartbeatReply, ClientError> {
        self.connection.post(&format!("/v1/hosts/{host}/heartbeat"), heartbeat).await
    }

    pub async fn offer_partition(
        &self,
        host: HostId,
        partition: PartitionId,
        offer: &OfferPartition,
    ) -> Result<RegisteredPartition, ClientError> {
        let request = self.connection.request(Method::PUT, &partition_path(host, partition)).json(offer);
        self.connection.call(request).await
    }

    /// Changes a free partition whose terms are still of `version`.
    pub async fn change_partition(
        &self,
        host: HostId,
        partition: PartitionId,
        version: TermsVersion,
        offer: &ChangeOffer,
    ) -> Result<RegisteredPartition, ClientError> {
        let request = self
            .connection
            .request(Method::PATCH, &partition_path(host, partition))
            .header(IF_MATCH, format!("\"{}\"", version.0))
            .json(offer);
        self.connection.call(request).await
    }

    /// Takes a free partition off the market: with terms of `version`, or whatever they are.
    pub async fn withdraw_partition(
        &self,
        host: HostId,
        partition: PartitionId,
        version: Option<TermsVersion>,
    ) -> Result<(), ClientError> {
        let mut request = self.connection.request(Method::DELETE, &partition_path(host, partition));
        if let Some(version) = version {
            request = request.header(IF_MATCH, format!("\"{}\"", version.0));
        }
        self.connection.call_for_nothing(request).await
    }

    pub async fn search(&self, search: &Search) -> Result<SearchReply, ClientError> {
        self.connection.post("/v1/search", search).await
    }

    /// Borrows; asked again with the same `id` it answers with the same lease.
    pub async fn make_lease(
        &self,
        id: LeaseRequestId,
        lease: &MakeLease,
    ) -> Result<LeaseGranted, ClientError> {
        let request = self
            .connection
            .request(Method::POST, "/v1/leases")
            .header(IDEMPOTENCY_KEY, id.0.to_string())
            .json(lease);
        self.connection.call(request).await
    }

    pub async fn quote(&self, wish: &AskQuote) -> Result<Quote, ClientError> {
        self.connection.post("/v1/quotes", wish).await
    }

    /// Makes a lease longer, or its budget larger; asked again it answers the same.
    pub async fn renew_lease(&self, lease: LeaseId, wish: &RenewLease) -> Result<LeaseGranted, ClientError> {
        self.connection.post(&format!("/v1/leases/{lease}/renew"), wish).await
    }

    /// The lender wants its partition back.
    pub async fn recall_lease(&self, lease: LeaseId) -> Result<Lease, ClientError> {
        self.connection.post(&format!("/v1/leases/{lease}/recall"), &()).await
    }

    /// The newest leases that there are for whoever asks.
    pub async fn leases(&self) -> Result<Leases, ClientError> {
        self.find_leases(&LeaseQuery::default()).await
    }

    pub async fn find_leases(&self, query: &LeaseQuery) -> Result<Leases, ClientError> {
        let asked = asked([
            ("active", query.active.map(|active| active.to_string())),
            ("host", query.host.map(|host| host.to_string())),
            ("partition", query.partition.map(|partition| partition.to_string())),
            ("limit", query.limit.map(|limit| limit.to_string())),
            ("cursor", query.cursor.map(|cursor| cursor.to_string())),
        ]);
        self.connection.get(&format!("/v1/leases{asked}")).await
    }

    /// A lender's own hosts, or for an administrator all; the part of them after `cursor`.
    pub async fn hosts(&self, cursor: Option<&str>) -> Result<KnownHosts, ClientError> {
        let asked = asked([("cursor", cursor.map(str::to_owned))]);
        self.connection.get(&format!("/v1/hosts{asked}")).await
    }

    pub async fn host(&self, host: HostId) -> Result<KnownHost, ClientError> {
        self.connection.get(&format!("/v1/hosts/{host}")).await
    }

    pub async fn lease(&self, lease: LeaseId) -> Result<Lease, ClientError> {
        self.connection.get(&format!("/v1/leases/{lease}")).await
    }

    pub async fn end_lease(&self, lease: LeaseId, end: &EndLease) -> Result<Lease, ClientError> {
        self.connection.post(&format!("/v1/leases/{lease}/end"), end).await
    }

    /// As the lease's host: the next segment of its receipt.
    pub async fn put_segment(
        &self,
        lease: LeaseId,
        number: u32,
        segment: &SignedSegment,
    ) -> Result<(), ClientError> {
        let request = self.connection.request(Method::PUT, &format!("/v1/leases/{lease}/receipt/{number}"));
        self.connection.call_for_nothing(request.json(segment)).await
    }

    /// A lease's receipt, as far as its host has handed it over.
    pub async fn receipt(&self, lease: LeaseId) -> Result<Receipt, ClientError> {
        self.connection.get(&format!("/v1/leases/{lease}/receipt")).await
    }

    /// What happens from now on, or from after the event `last` on.
    pub async fn events(&self, last: Option<&str>) -> Result<MarketEvents, ClientError> {
        EventStream::open(&self.connection, "/v1/events", last).await.map(MarketEvents)
    }

    /// The key of the lease opens nothing any more, nor does any copy; the answer has another.
    pub async fn revoke_key_of(&self, lease: LeaseId) -> Result<LeaseGranted, ClientError> {
        self.connection.post(&format!("/v1/leases/{lease}/key/revoke"), &json!({})).await
    }

    /// As an administrator: the key opens nothing any more.
    pub async fn revoke_key(&self, key: KeyId) -> Result<Lease, ClientError> {
        self.connection.post(&format!("/v1/keys/{key}/revoke"), &json!({})).await
    }

    pub async fn make_token(&self, wish: &MakeToken) -> Result<TokenMade, ClientError> {
        self.connection.post("/v1/tokens", wish).await
    }

    /// A token that takes the place of the one that asks, once it is used.
    pub async fn rotate_token(&self) -> Result<TokenMade, ClientError> {
        self.connection.post("/v1/tokens/rotate", &json!({})).await
    }

    pub async fn tokens(&self) -> Result<Tokens, ClientError> {
        self.connection.get("/v1/tokens").await
    }

    pub async fn revoke_token(&self, token: Uuid) -> Result<(), ClientError> {
        let request = self.connection.request(Method::DELETE, &format!("/v1/tokens/{token}"));
        self.connection.call_for_nothing(request).await
    }

    /// As an administrator: a borrower has paid. The reference makes it one payment, however often it is asked for.
    pub async fn deposit(&self, reference: &str, deposit: &MakeDeposit) -> Result<Booked, ClientError> {
        self.book("/v1/deposits", reference, deposit).await
    }

    /// As an administrator: a lender was paid all that stands to its credit.
    pub async fn payout(&self, reference: &str, payout: &MakePayout) -> Result<Booked, ClientError> {
        self.book("/v1/payouts", reference, payout).await
    }

    /// As an administrator: a borrower gets back a part of what a lease cost.
    pub async fn credit(&self, reference: &str, credit: &MakeCredit) -> Result<Booked, ClientError> {
        self.book("/v1/credits", reference, credit).await
    }

    async fn book(&self, path: &str, reference: &str, what: &impl Serialize) -> Result<Booked, ClientError> {
        let request = self.connection.request(Method::POST, path);
        self.connection.call(request.header(IDEMPOTENCY_KEY, reference).json(what)).await
    }

    /// As an administrator: bounds a borrower's credit.
    pub async fn set_credit_limit(&self, limit: &CreditLimit) -> Result<(), ClientError> {
        let request = self.connection.request(Method::PUT, "/v1/credit-limits").json(limit);
        self.connection.call_for_nothing(request).await
    }

    /// As an administrator: what was done with accounts; the part of it after `cursor`.
    pub async fn acts(&self, cursor: Option<&str>) -> Result<Acts, ClientError> {
        let asked = asked([("cursor", cursor.map(str::to_owned))]);
        self.connection.get(&format!("/v1/acts{asked}")).await
    }

    pub async fn balances(&self) -> Result<Balances, ClientError> {
        self.connection.get("/v1/balances").await
    }

    pub async fn ledger(&self) -> Result<Ledger, ClientError> {
        self.connection.get("/v1/ledger").await
    }

    /// A month of one's own account, `2026-11`; the part of it after `cursor`.
    pub async fn statement(&self, month: &str, cursor: Option<&str>) -> Result<Statement, ClientError> {
        let asked = asked([("cursor", cursor.map(str::to_owned))]);
        self.connection.get(&format!("/v1/statements/{month}{asked}")).await
    }
}

/// The query of a URL, of what is stated; words and names alone, which stand in a URL as they are.
fn asked<const N: usize>(values: [(&str, Option<String>); N]) -> String {
    let stated = values.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    let stated: Vec<_> = stated.collect();
    if stated.is_empty() { String::new() } else { format!("?{}", stated.join("&")) }
}

fn partition_path(host: HostId, partition: PartitionId) -> String {
    format!("/v1/hosts/{host}/partitions/{partition}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_what_is_stated() {
        assert_eq!(asked([("a", None), ("b", None)]), "");
        assert_eq!(
            asked([("a", Some("1".to_owned())), ("b", None), ("c", Some("x-y".to_owned()))]),
            "?a=1&c=x-y"
        );
    }
}
