//! Lists, page by page.

use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::resource_db::Page;
use crate::api::problem::{Code, Problem};

const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

/// Which part of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// Most rows in one answer; 1 to 1000, 100 where not stated.
    pub(super) limit: Option<u32>,
    /// `next_cursor` of the answer before.
    pub(super) cursor: Option<Uuid>,
}

impl PageQuery {
    /// The page and one row more: it tells whether another page follows.
    pub(super) fn page(&self) -> Result<(Page, usize), Problem> {
        let limit = self.limit.unwrap_or(LIMIT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            let detail = format!("limit: 1 to {LIMIT_MAX}, not {limit}");
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
        let page = Page { before: self.cursor, limit: limit + 1 };
        Ok((page, usize::try_from(limit).unwrap_or(usize::MAX)))
    }
}

/// Cuts the row too many off; with it the name by which the next page begins.
pub(super) fn cut<T>(mut rows: Vec<T>, limit: usize, name: impl Fn(&T) -> Uuid) -> (Vec<T>, Option<String>) {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|last| name(last).to_string());
    (rows, next)
}
