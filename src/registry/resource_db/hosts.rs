//! Lender hosts: their enrolment, and what they report.

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{
    Page, ResourceDb, StoreError,
    accounts::TokenDigest,
    filter::Filter,
    leases, partitions, revocations,
    tokens::NewToken,
    value::{Row, values},
    work::Work,
};
use crate::{
    api::registry::{EndReason, EndedAtHost, HostContact, KnownHost, RegisteredPartition, RevokedKey},
    domain::{
        id::{HostId, LeaseId, LenderId},
        lease::LeaseEvent,
        partition::HostEnd,
        registration::{RegistrationEvent, RegistrationNotAllowed},
    },
    registry::crash_point::CrashPoint,
};

const REVISION: &str = "SELECT revision FROM hosts WHERE id = $1";
const KNOWN: &str = "SELECT h.id, h.lender, a.name, h.address, h.tls_key, h.created_at_us, h.confirmed_at_us, \
                     (SELECT count(*) FROM partitions p WHERE p.host = h.id AND p.state <> 'withdrawn'), \
                     (SELECT count(*) FROM partitions p WHERE p.host = h.id AND p.state = 'lent') \
                     FROM hosts h JOIN accounts a ON a.id = h.lender";

/// All of a host's partitions, at one revision.
#[derive(Debug, Clone)]
pub struct HostRegister {
    pub revision: u64,
    pub partitions: Vec<RegisteredPartition>,
    pub revoked: Vec<RevokedKey>,
}

/// A wish to make a host known.
#[derive(Debug, Clone)]
pub struct Enrol {
    /// The name of the host, if it is new.
    pub host: HostId,
    pub lender: LenderId,
    pub address: String,
    pub token: TokenDigest,
    pub idempotency_key: Option<String>,
}

#[derive(Debug, Error)]
pub enum EnrolError {
    #[error("the idempotency key was used for another host")]
    IdempotencyKeyReused,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a host said of a lease that changes nothing, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    pub lease: LeaseId,
    pub why: String,
}

impl ResourceDb {
    /// Makes a host of the lender's known, with its own token. Wished for again it is the host of before, which has
    /// one token more: the answer with the one before may have been lost.
    pub async fn enrol_host(&self, enrol: Enrol) -> Result<HostId, EnrolError> {
        self.write(move |work| {
            let Enrol { host, lender, address, token, idempotency_key } = &enrol;
            let digest = request_digest(address);
            let before = match idempotency_key {
                Some(key) => work.enrolled_before(*lender, key)?,
                None => None,
            };
            let known = match before {
                Some((request, _)) if request != digest => return Err(EnrolError::IdempotencyKeyReused),
                Some((_, known)) => known,
                None => {
                    work.insert_host(*host, *lender, address)?;
                    if let Some(key) = idempotency_key {
                        let insert = "INSERT INTO host_requests (lender, idempotency_key, request_digest, host) \
                                      VALUES ($1, $2, $3, $4)";
                        work.sql.execute(insert, values![*lender, key.as_str(), digest, *host])?;
                    }
                    *host
                }
            };
            work.insert_host_token(known, NewToken::lasting(*token))?;
            Ok(known)
        })
        .await
    }

    /// Hosts as they are written down, newest first: this lender's, or all. Whether they are heard is not known here.
    pub async fn hosts(&self, lender: Option<LenderId>, page: Page) -> Result<Vec<KnownHost>, StoreError> {
        self.read(move |sql| {
            let filter = Filter::default().and("h.lender = ?", lender).and("h.id < ?", page.before);
            let (filter, values) = filter.ordered("h.id DESC", page.limit);
            sql.all(&format!("{KNOWN} {filter}"), &values, known)
        })
        .await
    }

    /// One of this lender's hosts, or of all.
    pub async fn host(
        &self,
        lender: Option<LenderId>,
        host: HostId,
    ) -> Result<Option<KnownHost>, StoreError> {
        self.read(move |sql| {
            let filter = Filter::default().and("h.id = ?", Some(host)).and("h.lender = ?", lender);
            let (filter, values) = filter.ordered("h.id", 1);
            sql.first(&format!("{KNOWN} {filter}"), &values, known)
        })
        .await
    }

    /// Where the host is reached from now on, and how it is known there.
    pub async fn change_contact(&self, host: HostId, contact: HostContact) -> Result<(), StoreError> {
        self.write(move |work| {
            let update = "UPDATE hosts SET address = $1, tls_key = $2, receipt_key = $3 WHERE id = $4";
            let tls_key = contact.tls_key.map(|key| key.to_string());
            let receipt_key = contact.receipt_key.map(|key| key.to_string());
            let row = values![contact.address.as_str(), tls_key.as_deref(), receipt_key.as_deref(), host];
            match work.sql.execute(update, row)? {
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

    /// The last moments at which these hosts were heard.
    pub async fn confirm_hosts(&self, heard: Vec<(HostId, Timestamp)>) -> Result<(), StoreError> {
        self.write(move |work| {
            let update = "UPDATE hosts SET confirmed_at_us = $1 WHERE id = $2 \
                          AND (confirmed_at_us IS NULL OR confirmed_at_us < $1)";
            for (host, at) in &heard {
                work.sql.execute(update, values![*at, *host])?;
            }
            Ok(())
        })
        .await
    }

    /// The last moment at which the host was heard that was written down.
    pub async fn host_confirmed_at(&self, host: HostId) -> Result<Option<Timestamp>, StoreError> {
        let select = "SELECT confirmed_at_us FROM hosts WHERE id = $1";
        self.read(move |sql| sql.one(select, values![host], |mut row| row.take())).await
    }

    /// What the host did since it was last heard, at `confirmed_at`: leases that ended there, partitions it has cleaned. Said
    /// again it changes nothing; what cannot be is ignored and named.
    pub async fn host_report(
        &self,
        host: HostId,
        ended: Vec<EndedAtHost>,
        cleaned: Vec<LeaseId>,
        confirmed_at: Timestamp,
    ) -> Result<Vec<Ignored>, StoreError> {
        self.write(move |work| {
            let mut ignored = Vec::new();
            for end in &ended {
                ignored.extend(work.ended_at_host(host, end, confirmed_at)?);
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

fn known(mut row: Row) -> Result<KnownHost, StoreError> {
    Ok(KnownHost {
        host: row.take()?,
        lender: row.take()?,
        lender_name: row.take()?,
        address: row.take()?,
        tls_key: row.take_word_or_none()?,
        enrolled_at: row.take()?,
        is_up: false,
        heard_at: row.take()?,
        partitions: row.take()?,
        lent: row.take()?,
    })
}

fn request_digest(address: &str) -> [u8; 32] {
    Sha256::digest(address).into()
}

impl Work<'_> {
    /// What was asked for under this key, and the host that it came to.
    fn enrolled_before(
        &mut self,
        lender: LenderId,
        key: &str,
    ) -> Result<Option<([u8; 32], HostId)>, StoreError> {
        let select =
            "SELECT request_digest, host FROM host_requests WHERE lender = $1 AND idempotency_key = $2";
        self.sql.first(select, values![lender, key], |mut row| Ok((row.take()?, row.take()?)))
    }

    fn insert_host(&mut self, host: HostId, lender: LenderId, address: &str) -> Result<(), StoreError> {
        let insert = "INSERT INTO hosts (id, lender, address, created_at_us) VALUES ($1, $2, $3, $4)";
        self.sql.execute(insert, values![host, lender, address, self.now])?;
        Ok(())
    }

    fn ended_at_host(
        &mut self,
        host: HostId,
        end: &EndedAtHost,
        confirmed_at: Timestamp,
    ) -> Result<Option<Ignored>, StoreError> {
        match leases::find_of_host(self.sql, host, end.lease)? {
            None => Ok(Some(unknown(end.lease))),
            Some(row) => {
                let how = match end.reason {
                    EndReason::Returned => HostEnd::Returned,
                    EndReason::HostLost => HostEnd::Lost,
                    EndReason::Expired | EndReason::Recalled | EndReason::BudgetSpent => HostEnd::Expired,
                };
                self.end(row, LeaseEvent::EndedAtHost { how, confirmed_at }, self.now)?;
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
