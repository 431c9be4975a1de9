//! What those who run the registry did with accounts, each act written in the transaction that does it.

use uuid::Uuid;

use super::{
    Page, ResourceDb, StoreError,
    filter::Filter,
    value::{json, values},
    work::Work,
};
use crate::api::registry::{Act, RecordedAct};

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Whoever can write the database itself, by the registry's program.
    Program,
    /// Whoever showed this token, an administrator's.
    Administrator(Uuid),
}

impl ResourceDb {
    /// All acts, newest first.
    pub async fn acts(&self, page: Page) -> Result<Vec<RecordedAct>, StoreError> {
        self.read(move |sql| {
            let filter = Filter::default().and("id < ?", page.before).ordered("id DESC", page.limit);
            let select = format!("SELECT id, at_us, administrator, token, act FROM acts {}", filter.0);
            sql.all(&select, &filter.1, |mut row| {
                let (id, at, administrator, token) = (row.take()?, row.take()?, row.take()?, row.take()?);
                Ok(RecordedAct { id, at, administrator, token, act: row.take_json()? })
            })
        })
        .await
    }
}

impl Work<'_> {
    /// Writes down that it was done. An act of this name that was written before is the same one, done again.
    pub(super) fn note(&mut self, by: By, name: Uuid, act: &Act) -> Result<(), StoreError> {
        let whose = match by {
            By::Program => None,
            By::Administrator(token) => Some((token, self.administrator(token)?)),
        };
        let (token, administrator) = whose.unzip();
        let insert = "INSERT INTO acts (id, at_us, administrator, token, act) VALUES ($1, $2, $3, $4, $5) \
                      ON CONFLICT (id) DO NOTHING";
        let row = values![name, self.now, administrator.as_deref(), token, json(act)?];
        self.sql.execute(insert, row).map(drop)
    }

    fn administrator(&mut self, token: Uuid) -> Result<String, StoreError> {
        let select = "SELECT administrator FROM access_tokens WHERE id = $1";
        self.sql.one(select, values![token], |mut row| row.take())
    }
}
