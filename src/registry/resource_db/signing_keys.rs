//! The registry's identity, and the keys that it signs lending keys with.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    ResourceDb, StoreError,
    value::{Row, values},
};
use crate::{
    api::secret::Secret,
    domain::{
        id::IssuerId,
        lending_key::{IssuerKeyPair, IssuerPublicKey},
    },
};

/// A key by which the registry signs, will sign or has signed.
#[derive(Debug, Clone)]
pub struct SigningKey {
    pub number: u64,
    pub public_key: IssuerPublicKey,
    /// None: it was retired.
    pub secret: Option<Secret>,
    pub signs_from: Timestamp,
    pub retired_at: Option<Timestamp>,
}

impl ResourceDb {
    /// The registry's identity; `fresh` becomes it, with its first signing key, where there is none yet.
    pub async fn issuer(&self, fresh: (IssuerId, Secret)) -> Result<IssuerId, StoreError> {
        self.write(move |work| {
            let insert = "INSERT INTO issuer (one, id, secret) VALUES (1, $1, $2) ON CONFLICT DO NOTHING";
            work.sql.execute(insert, values![fresh.0, fresh.1.reveal()])?;
            let kept = |mut row: Row| Ok((row.take()?, row.take::<String>()?));
            let (id, secret) = work.sql.one("SELECT id, secret FROM issuer", &[], kept)?;
            if !secret.is_empty() {
                let pair = IssuerKeyPair::from_secret(&Secret::new(secret.as_str()));
                let pair = pair.map_err(|_| StoreError::Unreadable { column: 2 })?;
                let insert = "INSERT INTO signing_keys (number, public_key, secret, signs_from_us) \
                              VALUES (1, $1, $2, $3) ON CONFLICT DO NOTHING";
                let public_key = pair.public_key().to_string();
                work.sql.execute(insert, values![public_key.as_str(), secret.as_str(), work.now])?;
                work.sql.execute("UPDATE issuer SET secret = ''", &[])?;
            }
            Ok(id)
        })
        .await
    }

    /// All there ever were, oldest first.
    pub async fn signing_keys(&self) -> Result<Vec<SigningKey>, StoreError> {
        self.read(|sql| {
            let select = "SELECT number, public_key, secret, signs_from_us, retired_at_us FROM signing_keys \
                          ORDER BY number";
            sql.all(select, &[], SigningKey::of)
        })
        .await
    }

    /// Another key, which signs from `after` from now on; hosts are to hear of it before.
    pub async fn add_signing_key(&self, seed: [u8; 32], after: Duration) -> Result<SigningKey, StoreError> {
        self.write(move |work| {
            let pair = IssuerKeyPair::from_seed(seed);
            let signs_from = work.now.saturating_add(after).unwrap_or(Timestamp::MAX);
            let insert = "INSERT INTO signing_keys (number, public_key, secret, signs_from_us) \
                          SELECT max(number) + 1, $1, $2, $3 FROM signing_keys \
                          RETURNING number, public_key, secret, signs_from_us, retired_at_us";
            let (public_key, secret) = (pair.public_key().to_string(), pair.secret());
            work.sql.one(insert, values![public_key.as_str(), secret.reveal(), signs_from], SigningKey::of)
        })
        .await
    }

    /// Retires keys that signed no key of a lease that runs, and of which another has taken over for at least `margin`:
    /// registries of this database may have signed by the former until then. How many were retired.
    pub async fn retire_signing_keys(&self, margin: Duration) -> Result<u64, StoreError> {
        let margin_us = i64::try_from(margin.as_micros()).unwrap_or(i64::MAX);
        self.write(move |work| {
            let update = "UPDATE signing_keys SET secret = NULL, retired_at_us = $1 \
                          WHERE retired_at_us IS NULL AND EXISTS (SELECT 1 FROM signing_keys n \
                          WHERE n.number > signing_keys.number AND n.signs_from_us <= $2 AND NOT EXISTS \
                          (SELECT 1 FROM leases l WHERE l.state = 'active' AND l.started_at_us < n.signs_from_us + $3))";
            let settled = work.now.as_microsecond().saturating_sub(margin_us);
            work.sql.execute(update, values![work.now, settled, margin_us])
        })
        .await
    }
}

impl SigningKey {
    fn of(mut row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            number: row.take()?,
            public_key: row.take_word()?,
            secret: row.take::<Option<String>>()?.map(Secret::new),
            signs_from: row.take()?,
            retired_at: row.take()?,
        })
    }
}
