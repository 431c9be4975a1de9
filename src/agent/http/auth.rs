//! Who asks: the host's owner by its token, or a borrower by its lending key. The key is judged before it is said
//! whether there is such a partition.

use std::{collections::HashMap, sync::Arc};

use axum::{extract::FromRequestParts, http::request::Parts};

use super::Agent;
use crate::{
    agent::partition::{admission, partitions::Handle},
    api::{
        http::{Bearer, PathIds},
        problem::{Code, Problem},
    },
    domain::{
        id::PartitionId,
        lending_key::{self, KeyClaims, KeyRefusal},
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
        match lending_key::read(token.reveal(), &identity.trusted_issuer(), agent.services.clock.now()) {
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
        let claims =
            lending_key::read(token.reveal(), &identity.trusted_issuer(), agent.services.clock.now())?;
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
        let claims = admission::read_key(&key, &identity.trusted_issuer(), identity.host(), id, now)?;
        let handle = find(agent, id)?;
        admission::compare(&claims, &handle.row().partition)?;
        Ok(Self { handle, claims, key })
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
