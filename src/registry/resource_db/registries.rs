//! The registries at one database, and which hosts each of them hears: told to the others, as hosts beat at one.

use std::{collections::HashSet, time::Duration};

use uuid::Uuid;

use super::{ResourceDb, StoreError, value::values, work::Work};
use crate::domain::id::HostId;

impl ResourceDb {
    /// The name of this registry among those at the database; none: there can be no other.
    pub fn registry(&self) -> Option<Uuid> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(postgres) => Some(postgres.registry()),
        }
    }

    /// This registry lives, and hears these hosts and no others. Answers with those that other registries hear; one that
    /// has not said that it lives for `silent_after` hears none.
    pub async fn hear(
        &self,
        registry: Uuid,
        hosts: HashSet<HostId>,
        silent_after: Duration,
    ) -> Result<HashSet<HostId>, StoreError> {
        self.write(move |work| {
            work.lives(registry)?;
            work.forget_registries(silent_after)?;
            work.hears(registry, &hosts)?;
            let others = "SELECT DISTINCT host FROM hosts_heard WHERE registry <> $1";
            Ok(work.sql.all(others, values![registry], |mut row| row.take())?.into_iter().collect())
        })
        .await
    }
}

impl Work<'_> {
    fn lives(&mut self, registry: Uuid) -> Result<(), StoreError> {
        let upsert = "INSERT INTO registries (id, seen_at_us) VALUES ($1, $2) \
                      ON CONFLICT (id) DO UPDATE SET seen_at_us = $2";
        self.sql.execute(upsert, values![registry, self.now])?;
        Ok(())
    }

    fn forget_registries(&mut self, silent_after: Duration) -> Result<(), StoreError> {
        let silent_since = self.now.saturating_sub(silent_after).unwrap_or(self.now);
        self.sql.execute("DELETE FROM registries WHERE seen_at_us < $1", values![silent_since])?;
        Ok(())
    }

    /// Only what is news is written.
    fn hears(&mut self, registry: Uuid, hosts: &HashSet<HostId>) -> Result<(), StoreError> {
        let kept = "SELECT host FROM hosts_heard WHERE registry = $1";
        let kept = self.sql.all(kept, values![registry], |mut row| row.take())?;
        let kept: HashSet<HostId> = kept.into_iter().collect();
        for host in hosts.difference(&kept) {
            let insert = "INSERT INTO hosts_heard (registry, host) VALUES ($1, $2)";
            self.sql.execute(insert, values![registry, *host])?;
        }
        for host in kept.difference(hosts) {
            let delete = "DELETE FROM hosts_heard WHERE registry = $1 AND host = $2";
            self.sql.execute(delete, values![registry, *host])?;
        }
        Ok(())
    }
}
