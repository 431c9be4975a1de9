//! What leases cost.

use std::process::ExitCode;

use super::{
    CliError,
    args::BillArguments,
    context::Context,
    report::{Report, allocation, price, table, text, words},
};
use crate::{
    api::{
        registry::{Lease, Ledger, LedgerEntry, Statement},
        statement::csv,
    },
    client::RegistryClient,
    domain::{money::Micros, month::Month},
};

pub(super) async fn bill(context: &Context, arguments: &BillArguments) -> Result<ExitCode, CliError> {
    let registry = context.registry()?;
    match (arguments.lease, arguments.month) {
        (Some(lease), _) => context.print(&registry.lease(lease).await?)?,
        (None, Some(month)) => statement(context, &whole_month(&registry, month).await?, arguments.csv)?,
        (None, None) => context.print(&registry.ledger().await?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The statement with all of the month's entries.
async fn whole_month(registry: &RegistryClient, month: Month) -> Result<Statement, CliError> {
    let month = month.to_string();
    let mut whole = registry.statement(&month, None).await?;
    while let Some(cursor) = whole.next_cursor.take() {
        let next = registry.statement(&month, Some(&cursor)).await?;
        whole.entries.extend(next.entries);
        whole.next_cursor = next.next_cursor;
    }
    Ok(whole)
}

fn statement(context: &Context, statement: &Statement, as_table: bool) -> Result<(), CliError> {
    if as_table { text(&csv(&statement.entries)?) } else { context.print(statement) }
}

impl Report for Lease {
    fn text(&self) -> String {
        let ending = match &self.end {
            None => format!(
                "{} at the latest ({}); billing goes on, up to {} {}{}",
                self.expires_at,
                words(&format!("{:?}", self.expires_for)),
                self.worst_case,
                self.terms.price.currency,
                if self.recall.is_some() { "\nrecalled   the lender wants the partition back" } else { "" },
            ),
            Some(end) => format!(
                "{} ({})\ncharge     {} {}",
                end.at,
                words(&format!("{:?}", end.reason)),
                end.charge,
                end.currency
            ),
        };
        format!(
            "lease      {}\nhad        {}\nprice      {}, by the begun second\nfrom       {}\nuntil      {ending}",
            self.id,
            allocation(&self.terms.allocation),
            price(&self.terms.price),
            self.started_at,
        )
    }
}

impl Report for Ledger {
    fn text(&self) -> String {
        entries(&self.entries)
    }
}

impl Report for Statement {
    fn text(&self) -> String {
        let over = if self.is_final { "" } else { ", which is not over yet" };
        let sums = self.sums.iter().map(|sum| {
            let amounts = [sum.opening, sum.leases, sum.credits, sum.deposits, sum.payouts, sum.closing];
            let [opening, leases, credits, deposits, payouts, closing] = amounts.map(|sum| sum.to_string());
            [sum.currency.to_string(), opening, leases, credits, deposits, payouts, closing]
        });
        let sums = table(["", "OPENING", "LEASES", "CREDITS", "DEPOSITS", "PAYOUTS", "CLOSING"], sums);
        format!("statement of {}{over}\n{sums}\n\n{}", self.month, entries(&self.entries))
    }
}

fn entries(entries: &[LedgerEntry]) -> String {
    let rows = entries.iter().map(|LedgerEntry { entry, used }| {
        let of = &entry.occasion;
        let what = match (of.lease(), of.reference()) {
            (Some(lease), _) => lease.to_string(),
            (None, reference) => reference.unwrap_or_default().to_owned(),
        };
        let (time, ended) = match used {
            Some(used) => {
                let time = used.ended_at.duration_since(used.started_at);
                (format!("{:.0} s", time.as_secs_f64().ceil()), words(&format!("{:?}", used.reason)))
            }
            None => (String::new(), of.reason().unwrap_or_default().to_owned()),
        };
        let price =
            used.as_ref().map(|used| format!("{} {}/h", Micros(used.per_hour_micros), entry.currency));
        let amount = |leg: Micros| format!("{leg} {}", entry.currency);
        [
            entry.at.to_string(),
            of.kind().to_owned(),
            what,
            time,
            ended,
            price.unwrap_or_default(),
            amount(entry.legs.borrower),
            amount(entry.legs.lender),
        ]
    });
    table(["AT", "KIND", "LEASE", "TIME", "ENDED", "PRICE", "BORROWER", "LENDER"], rows)
}
