//! Who asks: the host's owner by its token, or a borrower by its lending key. The key is judged before it is said
//! whether there is such a partition.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{FromRequestParts, MatchedPath},
    http::request::Parts,
};
use jiff::Timestamp;
use thiserror::Error;

use super::Agent;
use crate::{
    agent::{
        partition::{admission, error::PartitionError, partitions::Handle},
        services::Services,
    },
    api::{
        http::{Bearer, PathIds},
        problem::{Code, Problem},
    },
    domain::{
        id::PartitionId,
        lending_key::{KeyClaims, KeyRefusal, Operation},
        partition::Kind,
        secret::Secret,
    },
};

/// The owner, and nobody else.
pub(super) struct Owner;

impl FromRequestParts<Arc<Agent>> for Owner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, agent: &Arc<Agent>) -> Result<Self, Problem> {
        let Bearer(token) = Bearer::from_request_parts(parts, agent).await?;
        let identity = &agent.services.identity;
        if identity.is_owner(&token) {
            return Ok(Self);
        }
        match agent.services.keys.read(&token, Operation::Look, agent.services.clock.now()) {
            Ok(_) => Err(Problem::new(
                Code::Forbidden,
                "a lending key does not allow that; the owner's token does",
            )),
            Err(_) => Err(Problem::new(Code::Unauthorized, "this is not the token of the host's owner")),
        }
    }
}

/// The owner, or whoever has a key of any partition of this host.
pub(super) enum Visitor {
    Owner,
    Borrower(KeyClaims),
}

impl FromRequestParts<Arc<Agent>> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, agent: &Arc<Agent>) -> Result<Self, Problem> {
        let Bearer(token) = Bearer::from_request_parts(parts, agent).await?;
        let identity = &agent.services.identity;
        if identity.is_owner(&token) {
            return Ok(Self::Owner);
        }
        let (keys, now, operation) = (&agent.services.keys, agent.services.clock.now(), operation(parts)?);
        let claims = keys.read(&token, operation, now).or_else(|refusal| {
            // Of a partition of its own the host says what it says to borrowers.
            keys.read_own(&token, operation, now).map_err(|_| refusal)
        })?;
        if claims.host != identity.host() {
            return Err(KeyRefusal::OtherHost.into());
        }
        Ok(Self::Borrower(claims))
    }
}

/// A partition of this host, asked for by its owner.
pub(super) struct Owned(pub(super) Handle);

impl FromRequestParts<Arc<Agent>> for Owned {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, agent: &Arc<Agent>) -> Result<Self, Problem> {
        Owner::from_request_parts(parts, agent).await?;
        Ok(Self(find(agent, partition_of(parts).await?)?))
    }
}

/// A partition of this host, asked for with its key. Whether the lease is open is judged by whoever asks further.
pub(super) struct Borrowed {
    pub(super) handle: Handle,
    pub(super) claims: KeyClaims,
    pub(super) key: Secret,
    services: Arc<Services>,
}

impl Borrowed {
    /// Whether the lease of the key is open, and the key still good.
    pub(super) fn admit(&self) -> Result<(), PartitionError> {
        if self.services.keys.is_revoked(self.claims.key) {
            return Err(KeyRefusal::Revoked.into());
        }
        admission::admit(&self.claims, &self.handle.row().partition)
    }
}

impl FromRequestParts<Arc<Agent>> for Borrowed {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, agent: &Arc<Agent>) -> Result<Self, Problem> {
        let Bearer(key) = Bearer::from_request_parts(parts, agent).await?;
        let (identity, now) = (&agent.services.identity, agent.services.clock.now());
        if identity.is_owner(&key) {
            let detail = "the owner's token does not allow that; the lending key of the lease does";
            return Err(Problem::new(Code::Forbidden, detail));
        }
        let id = partition_of(parts).await?;
        let claims = read_for(agent, id, &key, operation(parts)?, now)?;
        let claims = admission::for_partition(claims, identity.host(), id)?;
        let handle = find(agent, id)?;
        admission::compare(&claims, &handle.row().partition)?;
        Ok(Self { handle, claims, key, services: Arc::clone(&agent.services) })
    }
}

/// A partition of this host, asked for by its owner or with its key.
pub(super) struct Seen {
    pub(super) handle: Handle,
    pub(super) by: Visitor,
}

impl FromRequestParts<Arc<Agent>> for Seen {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, agent: &Arc<Agent>) -> Result<Self, Problem> {
        let by = Visitor::from_request_parts(parts, agent).await?;
        let id = partition_of(parts).await?;
        if let Visitor::Borrower(claims) = &by
            && claims.partition != id
        {
            return Err(KeyRefusal::OtherPartition.into());
        }
        let handle = find(agent, id)?;
        if let Visitor::Borrower(claims) = &by {
            admission::compare(claims, &handle.row().partition)?;
        }
        Ok(Self { handle, by })
    }
}

/// What a key claims that opens this partition: the owner's own are opened by the host's keys, others by those of whom it
/// trusts.
fn read_for(
    agent: &Agent,
    partition: PartitionId,
    key: &Secret,
    operation: Operation,
    now: Timestamp,
) -> Result<KeyClaims, KeyRefusal> {
    let keys = &agent.services.keys;
    let known = agent.partitions.get(partition).map(|handle| handle.row().partition.kind);
    match known {
        Some(Kind::Owners) => keys.read_own(key, operation, now),
        _ => keys.read(key, operation, now),
    }
}

/// What a call is, as restrictions of keys name it: by its route.
fn operation(parts: &Parts) -> Result<Operation, Problem> {
    let route = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default();
    named(route).ok_or_else(|| Problem::internal(&UnnamedRoute(route.to_owned())))
}

fn named(route: &str) -> Option<Operation> {
    let of_partition = match route {
        "/v1/host" | "/v1/partitions" => return Some(Operation::Look),
        route => route.strip_prefix("/v1/partitions/{id}")?,
    };
    Some(match of_partition {
        "" | "/receipt" => Operation::Look,
        "/borrow" => Operation::Open,
        "/jobs" | "/jobs/{job}" | "/jobs/{job}/cancel" => Operation::Jobs,
        "/jobs/{job}/logs" => Operation::Logs,
        "/console" => Operation::Console,
        "/tunnel/{port}" => Operation::Tunnel,
        "/stop" => Operation::Stop,
        "/return" => Operation::Return,
        _ => return None,
    })
}

#[derive(Debug, Error)]
#[error("no key can be restricted to or from {0:?}, which is served all the same")]
struct UnnamedRoute(String);

/// The partition that the path names.
async fn partition_of(parts: &mut Parts) -> Result<PartitionId, Problem> {
    let PathIds(ids): PathIds<HashMap<String, String>> = PathIds::from_request_parts(parts, &()).await?;
    let id = ids.get("id").and_then(|id| id.parse().ok());
    id.ok_or_else(|| Problem::new(Code::NotFound, format!("{} names no partition", parts.uri.path())))
}

fn find(agent: &Agent, id: PartitionId) -> Result<Handle, Problem> {
    let handle = agent.partitions.get(id);
    handle.ok_or_else(|| Problem::new(Code::NotFound, format!("this host has no partition {id}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_that_a_key_opens_has_an_operation() {
        let description = serde_json::to_value(crate::agent::http::description()).unwrap();
        for (route, item) in description["paths"].as_object().unwrap() {
            let methods = item.as_object().unwrap().values();
            let opened = methods.filter_map(|call| call["security"].as_array());
            let by_key = opened.flatten().any(|way| way.get("lending_key").is_some());
            assert!(!by_key || named(route).is_some(), "{route}");
        }
    }
}
