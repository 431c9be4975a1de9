//! How long it takes to judge a lending key: what a host does at each call of a borrower's.

use std::hint::black_box;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use sublet::domain::{
    id::{BorrowerId, HostId, IssuerId, KeyId, LeaseId, PartitionId},
    lending_key::{IssuerKeyPair, KeyClaims, KnownPartition, Operation, issue, read},
    resources::Allocation,
    terms::Epoch,
};
use uuid::Uuid;

use super::RegistryBenchError;
use crate::bench::report::median;

const CHECKS: usize = 2000;

/// Median of many.
pub(super) fn check_us() -> Result<f64, RegistryBenchError> {
    let failed = |error: &dyn std::fmt::Display| RegistryBenchError::Key(error.to_string());
    let issuer = IssuerKeyPair::from_seed(rand::random());
    let allocation = Allocation { cpus: 2, memory_mib: 1024, disk_mib: 1024 }.digest();
    let now = Timestamp::now();
    let claims = KeyClaims {
        issuer: IssuerId(Uuid::now_v7()),
        host: HostId(Uuid::now_v7()),
        partition: PartitionId(Uuid::new_v4()),
        lease: LeaseId(Uuid::now_v7()),
        key: KeyId(Uuid::now_v7()),
        epoch: Epoch(7),
        allocation,
        borrower: BorrowerId(Uuid::now_v7()),
        expires_at: now + SignedDuration::from_hours(1),
    };
    let key = issue(&issuer, &claims, rand::random()).map_err(|error| failed(&error))?;
    let known =
        KnownPartition { host: claims.host, partition: claims.partition, epoch: claims.epoch, allocation };
    let pinned = [issuer.public_key()];
    let mut took_us = Vec::with_capacity(CHECKS);
    for _ in 0..CHECKS {
        let started = Instant::now();
        let read =
            read(black_box(key.reveal()), &pinned, Operation::Jobs, now).map_err(|error| failed(&error))?;
        read.compare(&known).map_err(|error| failed(&error))?;
        took_us.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(took_us).unwrap_or_default())
}
