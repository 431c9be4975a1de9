//! A lender, its host with a partition on offer, and a borrower.

use std::{collections::HashMap, sync::Mutex};

use sublet::{
    api::registry::{
        ChangeOffer, EndLease, EnrolHost, Heartbeat, HeartbeatReply, HostEnrolled, Lease, LeaseGranted,
        MakeLease, Offer, OfferPartition, RegisteredPartition, Search,
    },
    client::{ClientError, HostRequestId, LeaseRequestId, RegistryClient},
    domain::{
        id::PartitionId,
        matching::Conditions,
        money::Price,
        resources::Allocation,
        terms::{Terms, TermsVersion},
    },
};
use uuid::Uuid;

use crate::server::Server;

/// A host as its agent is: with the host's own token.
pub(crate) struct Host {
    pub(crate) enrolled: HostEnrolled,
    pub(crate) client: RegistryClient,
    /// The latest version of each offer that it was told.
    known: Mutex<HashMap<PartitionId, TermsVersion>>,
}

pub(crate) fn terms(cpus: u32, per_hour_micros: i64) -> Terms {
    Terms {
        allocation: Allocation { cpus, memory_mib: 256, disk_mib: 64 },
        price: Price { per_hour_micros, currency: "EUR".parse().unwrap() },
        os_images: ["debian-micro".to_owned()].into(),
        cpu_model: "AMD EPYC 7763".to_owned(),
        network: Default::default(),
        qualities: Default::default(),
        lending: Default::default(),
    }
}

impl Host {
    /// Enrols a host and lets it be heard.
    pub(crate) async fn enrol(server: &Server, lender: &RegistryClient) -> Self {
        let wish = EnrolHost { address: "http://192.0.2.1:7180".to_owned() };
        let enrolled = lender.enrol_host(HostRequestId(Uuid::new_v4()), &wish).await.unwrap();
        let client = server.client(enrolled.host_token.clone());
        let host = Self { enrolled, client, known: Mutex::default() };
        host.beat(Heartbeat::default()).await;
        host
    }

    pub(crate) async fn beat(&self, beat: Heartbeat) -> HeartbeatReply {
        self.client.heartbeat(self.enrolled.host, &beat).await.unwrap()
    }

    pub(crate) async fn cleaned(&self, lease: &Lease) -> HeartbeatReply {
        self.beat(Heartbeat { cleaned: vec![lease.id], ..Heartbeat::default() }).await
    }

    pub(crate) async fn offer(&self, terms: Terms) -> RegisteredPartition {
        self.put(PartitionId(Uuid::new_v4()), terms).await.unwrap()
    }

    pub(crate) async fn put(
        &self,
        partition: PartitionId,
        terms: Terms,
    ) -> Result<RegisteredPartition, ClientError> {
        let known_version = self.known.lock().unwrap().get(&partition).copied();
        let offer = OfferPartition { terms, known_version };
        self.told(self.client.offer_partition(self.enrolled.host, partition, &offer).await?)
    }

    pub(crate) async fn change(
        &self,
        partition: PartitionId,
        version: TermsVersion,
        terms: Terms,
    ) -> Result<RegisteredPartition, ClientError> {
        let offer = ChangeOffer { terms, new_key: false };
        self.told(self.client.change_partition(self.enrolled.host, partition, version, &offer).await?)
    }

    fn told(&self, offered: RegisteredPartition) -> Result<RegisteredPartition, ClientError> {
        self.known.lock().unwrap().insert(offered.partition, offered.version);
        Ok(offered)
    }

    pub(crate) async fn withdraw(&self, partition: PartitionId) -> Result<(), ClientError> {
        self.client.withdraw_partition(self.enrolled.host, partition, None).await
    }
}

pub(crate) async fn offers(borrower: &RegistryClient, conditions: Conditions) -> Vec<Offer> {
    borrower.search(&Search { conditions, ..Search::default() }).await.unwrap().offers
}

pub(crate) async fn all_offers(borrower: &RegistryClient) -> Vec<Offer> {
    offers(borrower, Conditions::default()).await
}

pub(crate) fn wish(offer: &RegisteredPartition, duration_seconds: u64) -> MakeLease {
    MakeLease {
        host: offer.host,
        partition: offer.partition,
        terms_version: offer.version,
        duration_seconds,
        budget: None,
    }
}

/// A new wish, with a name of its own.
pub(crate) async fn lease(borrower: &RegistryClient, wish: &MakeLease) -> Result<LeaseGranted, ClientError> {
    borrower.make_lease(LeaseRequestId(Uuid::new_v4()), wish).await
}

pub(crate) fn end_of(granted: &LeaseGranted) -> EndLease {
    EndLease { host: granted.lease.host, partition: granted.lease.partition, key: granted.key.clone() }
}

pub(crate) async fn end(borrower: &RegistryClient, granted: &LeaseGranted) -> Result<Lease, ClientError> {
    borrower.end_lease(granted.lease.id, &end_of(granted)).await
}
