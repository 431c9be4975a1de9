//! Lender hosts: their enrolment, and what they report.

use super::{
    ResourceDb, StoreError, accounts::TokenDigest, leases, partitions, revocations, tokens::NewToken,
    value::values, work::Work,
};
use crate::{
    api::registry::{EndedAtHost, HostContact, RegisteredPartition, RevokedKey},
    domain::{
        id::{HostId, LeaseId, LenderId},
        lease::LeaseEvent,
        registration::{RegistrationEvent, RegistrationNotAllowed},
    },
    registry::crash_point::CrashPoint,
};

const REVISION: &str = "SELECT revision FROM hosts WHERE id = $1";

/// All of a host's partitions, at one revision.
#[derive(Debug, Clone)]
pub struct HostRegister {
    pub revision: u64,
    pub partitions: Vec<RegisteredPartition>,
    pub revoked: Vec<RevokedKey>,
}

/// What a host said of a lease that changes nothing, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    pub lease: LeaseId,
    pub why: String,
}

impl ResourceDb {
    /// Makes a host of the lender's known, with its own token.
    pub async fn enrol_host(
        &self,
        host: HostId,
        lender: LenderId,
        address: String,
        digest: TokenDigest,
    ) -> Result<(), StoreError> {
        self.write(move |work| {
            let insert = "INSERT INTO hosts (id, lender, address, created_at_us) VALUES ($1, $2, $3, $4)";
            work.sql.execute(insert, values![host, lender, address.as_str(), work.now])?;
            work.insert_host_token(host, NewToken::lasting(digest))
        })
        .await
    }

    /// Where the host is reached from now on, and how it is known there.
    pub async fn change_contact(&self, host: HostId, contact: HostContact) -> Result<(), StoreError> {
        self.write(move |work| {
            let update = "UPDATE hosts SET address = $1, tls_key = $2 WHERE id = $3";
            let key = contact.tls_key.map(|key| key.to_string());
            match work.sql.execute(update, values![contact.address.as_str(), key.as_deref(), host])? {
                1 => Ok(()),
                _ => Err(StoreError::NoRow),
            }
        })
        .await
    }

    /// Whose host it is.
    pub async fn lender_of(&self, host: HostId) -> Result<LenderId, StoreError> {
        let select = "SELECT lender FROM hosts WHERE id = $1";
        self.read(move |sql| sql.one(select, values![host], |mut row| row.take())).await
    }

    /// The revision of what the registry knows of the host's partitions.
    pub async fn host_revision(&self, host: HostId) -> Result<u64, StoreError> {
        self.read(move |sql| sql.one(REVISION, values![host], |mut row| row.take())).await
    }

    /// What the registry knows of the host's partitions.
    pub async fn host_register(&self, host: HostId) -> Result<HostRegister, StoreError> {
        self.read(move |sql| {
            let revision = sql.one(REVISION, values![host], |mut row| row.take())?;
            let revoked = revocations::of_host(sql, host)?;
            Ok(HostRegister { revision, partitions: partitions::of_host(sql, host)?, revoked })
        })
        .await
    }

    /// What the host did since it was last heard: leases that ended there, partitions it has cleaned. Said
    /// again it changes nothing; what cannot be is ignored and named.
    pub async fn host_report(
        &self,
        host: HostId,
        ended: Vec<EndedAtHost>,
        cleaned: Vec<LeaseId>,
    ) -> Result<Vec<Ignored>, StoreError> {
        self.write(move |work| {
            let mut ignored = Vec::new();
            for end in &ended {
                ignored.extend(work.ended_at_host(host, end)?);
            }
            CrashPoint::InReport.pass();
            for lease in &cleaned {
                ignored.extend(work.cleaned(host, *lease)?);
            }
            Ok(ignored)
        })
        .await
    }
}

impl Work<'_> {
    fn ended_at_host(&mut self, host: HostId, end: &EndedAtHost) -> Result<Option<Ignored>, StoreError> {
        match leases::find_of_host(self.sql, host, end.lease)? {
            None => Ok(Some(unknown(end.lease))),
            Some(row) => {
                self.end(row, LeaseEvent::EndedAtHost(end.reason), self.now)?;
                Ok(None)
            }
        }
    }

    fn cleaned(&mut self, host: HostId, lease: LeaseId) -> Result<Option<Ignored>, StoreError> {
        let select = "SELECT partition FROM leases WHERE id = $1 AND host = $2";
        let partition = self.sql.first(select, values![lease, host], |mut row| row.take())?;
        let Some(partition) = partition else { return Ok(Some(unknown(lease))) };
        let row = partitions::find(self.sql, host, partition)?.ok_or(StoreError::Lost("partitions"))?;
        match row.registration.apply(RegistrationEvent::Cleaned(lease)) {
            Ok(after) => self.save_partition(&row, after, &row.terms).map(|_| None),
            // The answer to the first time it was said has not reached the host.
            Err(RegistrationNotAllowed::NotLentBy(_)) => Ok(None),
            Err(refusal) => Ok(Some(Ignored { lease, why: refusal.to_string() })),
        }
    }
}

fn unknown(lease: LeaseId) -> Ignored {
    Ignored { lease, why: "this host has no such lease".to_owned() }
}
