//! Lending keys that are to open nothing any more, though their leases run.

use thiserror::Error;

use super::{
    ResourceDb, StoreError, leases,
    sql::Sql,
    value::{Row, values},
    work::{Happened, Work},
};
use crate::{
    api::registry::{Lease, RevokedKey},
    domain::id::{BorrowerId, HostId, KeyId, LeaseId},
};

#[derive(Debug, Error)]
pub enum RevokeError {
    #[error("there is no such lease, or none with such a key")]
    NoSuchLease,
    #[error("lease {0} has ended, and with it its key")]
    Ended(LeaseId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ResourceDb {
    /// Has `fresh` take the place of the key of the borrower's lease; its host hears of it.
    pub async fn revoke_key_of(
        &self,
        borrower: BorrowerId,
        lease: LeaseId,
        fresh: KeyId,
    ) -> Result<Lease, RevokeError> {
        self.write(move |work| {
            let row = leases::find_of_borrower(work.sql, borrower, lease)?;
            work.revoke_key(row.ok_or(RevokeError::NoSuchLease)?, fresh)
        })
        .await
    }

    /// Has `fresh` take the place of `key`, whosever it is.
    pub async fn revoke_key(&self, key: KeyId, fresh: KeyId) -> Result<Lease, RevokeError> {
        self.write(move |work| {
            let row = leases::find_of_key(work.sql, key)?;
            work.revoke_key(row.ok_or(RevokeError::NoSuchLease)?, fresh)
        })
        .await
    }
}

impl Work<'_> {
    fn revoke_key(&mut self, row: leases::LeaseRow, fresh: KeyId) -> Result<Lease, RevokeError> {
        let update = "UPDATE leases SET key_id = $1 WHERE id = $2 AND state = 'active'";
        if self.sql.execute(update, values![fresh, row.id])? != 1 {
            return Err(RevokeError::Ended(row.id));
        }
        let insert =
            "INSERT INTO revoked_keys (id, host, until_us) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        self.sql.execute(insert, values![row.key, row.host, row.course.asked_until])?;
        self.sql.execute("DELETE FROM revoked_keys WHERE until_us <= $1", values![self.now])?;
        self.announce(row.host, row.partition, Happened::KeyRevoked)?;
        let lease = leases::find_of_borrower(self.sql, row.borrower, row.id)?;
        Ok(lease.ok_or(StoreError::Lost("leases"))?.view())
    }
}

/// What the host is to refuse; what has expired it refuses by itself.
pub(super) fn of_host(sql: &mut dyn Sql, host: HostId) -> Result<Vec<RevokedKey>, StoreError> {
    let select = "SELECT id, until_us FROM revoked_keys WHERE host = $1 ORDER BY until_us, id";
    sql.all(select, values![host], |mut row: Row| Ok(RevokedKey { key: row.take()?, until: row.take()? }))
}
