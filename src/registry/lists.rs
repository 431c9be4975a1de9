//! Which hosts and leases there are, page by page, to whoever may see them.

use std::{sync::Arc, time::Instant};

use axum::{Json, extract::State};

use super::{
    Registry,
    accounts::{Anybody, LenderOrAdministrator},
    pages::{PageQuery, cut},
    resource_db::{Principal, WhichLeases},
};
use crate::{
    api::{
        http::{PathIds, QueryParams},
        problem::{Code, Problem},
        registry::{KnownHost, KnownHosts, Lease, LeaseQuery, Leases},
    },
    domain::id::{HostId, LeaseId, PartitionId},
};

/// Hosts, newest first: a lender's own, or for an administrator all.
#[utoipa::path(
    get, path = "/v1/hosts", tag = "hosts",
    params(PageQuery),
    security(("token" = [])),
    responses(
        (status = 200, description = "Hosts", body = KnownHosts),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn hosts(
    State(registry): State<Arc<Registry>>,
    LenderOrAdministrator(lender): LenderOrAdministrator,
    QueryParams(query): QueryParams<PageQuery>,
) -> Result<Json<KnownHosts>, Problem> {
    let (page, limit) = query.page()?;
    let (mut hosts, next_cursor) = cut(registry.db.hosts(lender, page).await?, limit, |host| host.host.0);
    registry.say_who_is_heard(&mut hosts);
    Ok(Json(KnownHosts { hosts, next_cursor }))
}

/// One of the lender's hosts, or for an administrator any.
#[utoipa::path(
    get, path = "/v1/hosts/{host}", tag = "hosts", params(("host" = HostId, Path)), security(("token" = [])),
    responses(
        (status = 200, description = "The host", body = KnownHost),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn host(
    State(registry): State<Arc<Registry>>,
    PathIds(host): PathIds<HostId>,
    LenderOrAdministrator(lender): LenderOrAdministrator,
) -> Result<Json<KnownHost>, Problem> {
    let found = registry.db.host(lender, host).await?;
    let mut found = found.ok_or_else(|| Problem::new(Code::NotFound, "there is no such host here"))?;
    registry.say_who_is_heard(std::slice::from_mut(&mut found));
    Ok(Json(found))
}

/// Leases, newest first: a borrower's own, those of a lender's hosts, or for an administrator all.
#[utoipa::path(
    get, path = "/v1/leases", tag = "leases",
    params(
        ("active" = Option<bool>, Query, description = "Only those that run, or only those that have ended"),
        ("host" = Option<HostId>, Query, description = "Only those of this host"),
        ("partition" = Option<PartitionId>, Query, description = "Only those of this partition"),
        ("limit" = Option<u32>, Query, description = "Most leases in one answer; 1 to 1000, 100 where not stated"),
        ("cursor" = Option<Uuid>, Query, description = "next_cursor of the answer before"),
    ),
    security(("token" = [])),
    responses(
        (status = 200, description = "Leases", body = Leases),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn leases(
    State(registry): State<Arc<Registry>>,
    Anybody(principal): Anybody,
    QueryParams(query): QueryParams<LeaseQuery>,
) -> Result<Json<Leases>, Problem> {
    let LeaseQuery { active, host, partition, limit, cursor } = query;
    let (borrower, lender) = match principal {
        Principal::Borrower(borrower) => (Some(borrower), None),
        Principal::Lender(lender) => (None, Some(lender)),
        Principal::Administrator => (None, None),
        Principal::Host(_) => return Err(not_for_hosts()),
    };
    let (page, limit) = PageQuery { limit, cursor }.page()?;
    let which = WhichLeases { borrower, lender, host, partition, active };
    let (mut leases, next_cursor) = cut(registry.db.leases(which, page).await?, limit, |lease| lease.id.0);
    if lender.is_some() {
        leases = leases.into_iter().map(Lease::for_lender).collect();
    }
    Ok(Json(Leases { leases, next_cursor }))
}

/// One of the borrower's leases, or of a partition of the lender's, or for an administrator any.
#[utoipa::path(
    get, path = "/v1/leases/{lease}", tag = "leases", params(("lease" = LeaseId, Path)), security(("token" = [])),
    responses(
        (status = 200, description = "The lease", body = Lease),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn lease(
    State(registry): State<Arc<Registry>>,
    PathIds(lease): PathIds<LeaseId>,
    Anybody(principal): Anybody,
) -> Result<Json<Lease>, Problem> {
    let found = match principal {
        Principal::Borrower(borrower) => registry.db.lease(borrower, lease).await?,
        Principal::Lender(lender) => registry.db.lease_of_lender(lender, lease).await?.map(Lease::for_lender),
        Principal::Administrator => registry.db.any_lease(lease).await?,
        Principal::Host(_) => return Err(not_for_hosts()),
    };
    found.map(Json).ok_or_else(no_such_lease)
}

fn not_for_hosts() -> Problem {
    Problem::new(Code::Forbidden, "this is for a borrower's, a lender's or an administrator's token")
}

/// The same answer for a lease of somebody else and for one that never was.
pub(super) fn no_such_lease() -> Problem {
    Problem::new(Code::NotFound, "there is no such lease here")
}

impl Registry {
    /// Adds to what is written down of hosts what is known of them now.
    fn say_who_is_heard(&self, hosts: &mut [KnownHost]) {
        let heard = self.market.hosts().at(Instant::now());
        for host in hosts {
            host.is_up = heard.contains(host.host);
            // Another registry may have heard it later.
            host.heard_at = host.heard_at.max(self.confirmed.heard_at(host.host));
        }
    }
}
