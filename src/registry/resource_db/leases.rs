//! Leases: their rows, found and shown. How they are made is in [`super::reserve`], how they go on in
//! [`super::courses`].

use jiff::Timestamp;

use super::{
    Page, ResourceDb, StoreError,
    filter::Filter,
    receipts,
    sql::Sql,
    value::{Row, Value, values},
};
use crate::{
    api::registry::{Lease, LeaseEnd},
    domain::{
        id::{BorrowerId, HostId, KeyId, LeaseId, LenderId, PartitionId},
        lease::{End, EndReason, LeaseCourse, LeaseState, Recall, paid_until},
        ledger::{
            contract::Contract,
            record::{LeaseRecord, RecordedEnd},
        },
        money::Micros,
        terms::Epoch,
        tls_key::TlsKey,
    },
};

pub(super) const SELECT: &str = "SELECT l.id, l.host, h.address, h.confirmed_at_us, l.partition, l.borrower, l.lender, l.epoch, \
                                 l.contract, l.started_at_us, l.asked_until_us, l.expires_at_us, l.budget_micros, l.recalled_at_us, \
                                 l.recall_until_us, l.worst_case_micros, l.state, l.ended_at_us, l.end_reason, h.tls_key, l.key_id \
                                 FROM leases l JOIN hosts h ON h.id = l.host";

pub(super) struct LeaseRow {
    pub(super) id: LeaseId,
    pub(super) host: HostId,
    host_address: String,
    /// The last moment that is known at which its host was heard.
    pub(super) host_confirmed_at: Option<Timestamp>,
    pub(super) partition: PartitionId,
    pub(super) borrower: BorrowerId,
    pub(super) lender: LenderId,
    epoch: Epoch,
    /// Letter for letter as it is stored.
    contract_text: String,
    pub(super) contract: Contract,
    pub(super) budget: Option<Micros>,
    /// What it holds of the borrower's credit.
    pub(super) worst_case: Micros,
    pub(super) course: LeaseCourse,
    host_tls_key: Option<TlsKey>,
    pub(super) key: KeyId,
}

/// Which leases are asked for; what is not stated is not asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct WhichLeases {
    pub borrower: Option<BorrowerId>,
    pub lender: Option<LenderId>,
    pub host: Option<HostId>,
    pub partition: Option<PartitionId>,
    /// Those that run, or those that have ended.
    pub active: Option<bool>,
}

impl WhichLeases {
    pub fn of(borrower: BorrowerId) -> Self {
        Self { borrower: Some(borrower), ..Self::default() }
    }

    fn filter(self, page: Page) -> (String, Vec<Value>) {
        let active = |active| if active { "l.state = 'active'" } else { "l.state <> 'active'" };
        Filter::default()
            .and("l.borrower = ?", self.borrower)
            .and("l.lender = ?", self.lender)
            .and("l.host = ?", self.host)
            .and("l.partition = ?", self.partition)
            .and_that(self.active.map(active))
            .and("l.id < ?", page.before)
            .ordered("l.id DESC", page.limit)
    }
}

/// What its host has reported of it.
fn with_violations(sql: &mut dyn Sql, lease: Lease) -> Result<Lease, StoreError> {
    let violations = receipts::violations(sql, lease.id)?;
    Ok(Lease { violations, ..lease })
}

impl ResourceDb {
    pub async fn lease(&self, borrower: BorrowerId, lease: LeaseId) -> Result<Option<Lease>, StoreError> {
        self.read(move |sql| {
            let found = find_of_borrower(sql, borrower, lease)?.map(LeaseRow::view);
            found.map(|lease| with_violations(sql, lease)).transpose()
        })
        .await
    }

    /// A lease of a partition of the lender's.
    pub async fn lease_of_lender(
        &self,
        lender: LenderId,
        lease: LeaseId,
    ) -> Result<Option<Lease>, StoreError> {
        self.read(move |sql| {
            let found = find_of_lender(sql, lender, lease)?.map(LeaseRow::view);
            found.map(|lease| with_violations(sql, lease)).transpose()
        })
        .await
    }

    /// Anybody's.
    pub async fn any_lease(&self, lease: LeaseId) -> Result<Option<Lease>, StoreError> {
        self.read(move |sql| Ok(find(sql, lease)?.map(LeaseRow::view))).await
    }

    /// Leases, newest first.
    pub async fn leases(&self, which: WhichLeases, page: Page) -> Result<Vec<Lease>, StoreError> {
        self.read(move |sql| {
            let (filter, values) = which.filter(page);
            sql.all(&format!("{SELECT} {filter}"), &values, |row| Ok(LeaseRow::of(row)?.view()))
        })
        .await
    }

    /// How many leases run.
    pub async fn active_leases(&self) -> Result<u64, StoreError> {
        let count = "SELECT count(*) FROM leases WHERE state = 'active'";
        self.read(move |sql| sql.one(count, &[], |mut row| row.take())).await
    }
}

pub(super) fn find(sql: &mut dyn Sql, lease: LeaseId) -> Result<Option<LeaseRow>, StoreError> {
    sql.first(&format!("{SELECT} WHERE l.id = $1"), values![lease], LeaseRow::of)
}

pub(super) fn find_of_borrower(
    sql: &mut dyn Sql,
    borrower: BorrowerId,
    lease: LeaseId,
) -> Result<Option<LeaseRow>, StoreError> {
    Ok(find(sql, lease)?.filter(|row| row.borrower == borrower))
}

pub(super) fn find_of_lender(
    sql: &mut dyn Sql,
    lender: LenderId,
    lease: LeaseId,
) -> Result<Option<LeaseRow>, StoreError> {
    Ok(find(sql, lease)?.filter(|row| row.lender == lender))
}

pub(super) fn find_of_host(
    sql: &mut dyn Sql,
    host: HostId,
    lease: LeaseId,
) -> Result<Option<LeaseRow>, StoreError> {
    Ok(find(sql, lease)?.filter(|row| row.host == host))
}

pub(super) fn find_of_key(sql: &mut dyn Sql, key: KeyId) -> Result<Option<LeaseRow>, StoreError> {
    let select = format!("{SELECT} WHERE l.key_id = $1 OR (l.key_id IS NULL AND l.id = $1)");
    sql.first(&select, values![key], LeaseRow::of)
}

impl LeaseRow {
    pub(super) fn of(mut row: Row) -> Result<Self, StoreError> {
        let (id, host, host_address, host_confirmed_at) =
            (row.take()?, row.take()?, row.take()?, row.take()?);
        let (partition, borrower, lender, epoch) =
            (row.take()?, row.take()?, row.take()?, Epoch(row.take()?));
        let contract_text: String = row.take()?;
        let contract: Contract = serde_json::from_str(&contract_text).map_err(|_| row.unreadable())?;
        let (started_at, asked_until, _planned) = (row.take()?, row.take()?, row.take::<Timestamp>()?);
        let budget: Option<Micros> = row.take()?;
        let recall = row.take::<Option<_>>()?.zip(row.take()?);
        let worst_case = row.take()?;
        let paid = budget.and_then(|budget| contract.use_paid_by(budget));
        let course = LeaseCourse {
            started_at,
            asked_until,
            paid_until: paid_until(started_at, paid),
            recall: recall.map(|(asked_at, until)| Recall { asked_at, until }),
            state: lease_state(&mut row)?,
        };
        Ok(Self {
            id,
            host,
            host_address,
            host_confirmed_at,
            partition,
            borrower,
            lender,
            epoch,
            contract_text,
            contract,
            budget,
            worst_case,
            course,
            host_tls_key: row.take_word_or_none()?,
            key: row.take::<Option<_>>()?.unwrap_or(KeyId(id.0)),
        })
    }

    pub(super) fn view(self) -> Lease {
        let planned = self.course.planned_end();
        let end = self.course.end().map(|end| self.end_view(end));
        Lease {
            id: self.id,
            host: self.host,
            host_address: self.host_address,
            host_tls_key: self.host_tls_key,
            partition: self.partition,
            borrower: self.borrower,
            lender: self.lender,
            terms: self.contract.terms,
            rounding: self.contract.rounding,
            key: self.key,
            epoch: self.epoch,
            started_at: self.course.started_at,
            asked_until: self.course.asked_until,
            expires_at: planned.at,
            expires_for: planned.reason,
            budget: self.budget,
            worst_case: self.worst_case,
            recall: self.course.recall,
            receipts: self.contract.receipts,
            violations: Vec::new(),
            end,
        }
    }

    fn end_view(&self, end: End) -> LeaseEnd {
        let bill = self.contract.billing(self.course.started_at, end.at).settle();
        let currency = self.contract.terms.price.currency;
        LeaseEnd { at: end.at, reason: end.reason, charge: bill.charge, currency }
    }

    /// As auditors see it.
    pub(super) fn record(&self) -> LeaseRecord {
        LeaseRecord {
            lease: self.id,
            host: self.host,
            partition: self.partition,
            borrower: self.borrower,
            lender: self.lender,
            epoch: self.epoch,
            contract: self.contract_text.clone(),
            started_at: self.course.started_at,
            asked_until: self.course.asked_until,
            expires_at: self.course.planned_end().at,
            budget: self.budget,
            recall: self.course.recall,
            worst_case: self.worst_case,
            end: self.course.end().map(|End { at, reason }| RecordedEnd { at, reason }),
        }
    }
}

/// State, moment and reason of the end, as they follow one another.
fn lease_state(row: &mut Row) -> Result<LeaseState, StoreError> {
    let (state, at) = (row.take::<String>()?, row.take::<Option<_>>()?);
    let reason = row.take::<Option<String>>()?.map(|reason| reason.parse::<EndReason>());
    let reason = reason.transpose().map_err(|_| row.unreadable())?;
    match (state.as_str(), at.zip(reason).map(|(at, reason)| End { at, reason })) {
        ("active", None) => Ok(LeaseState::Active),
        ("ended", Some(end)) => Ok(LeaseState::Ended(end)),
        ("settled", Some(end)) => Ok(LeaseState::Settled(end)),
        _ => Err(row.unreadable()),
    }
}

pub(super) fn state_column(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Active => "active",
        LeaseState::Ended(_) => "ended",
        LeaseState::Settled(_) => "settled",
    }
}
