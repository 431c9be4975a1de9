//! What leases cost.

use std::process::ExitCode;

use super::{
    CliError,
    context::Context,
    report::{Report, allocation, price, table},
};
use crate::{
    api::registry::{Lease, Ledger},
    domain::{id::LeaseId, money::Micros},
};

pub(super) async fn bill(context: &Context, lease: Option<LeaseId>) -> Result<ExitCode, CliError> {
    let registry = context.registry()?;
    match lease {
        Some(lease) => context.print(&registry.lease(lease).await?)?,
        None => context.print(&registry.ledger().await?)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Report for Lease {
    fn text(&self) -> String {
        let ending = match &self.end {
            None => "not ended yet; billing goes on".to_owned(),
            Some(end) => format!(
                "{} ({})\ncharge     {} {}",
                end.at,
                lower(&format!("{:?}", end.reason)),
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
        let rows = self.rows.iter().map(|row| {
            let used = row.ended_at.duration_since(row.started_at);
            [
                row.lease.to_string(),
                row.started_at.to_string(),
                format!("{:.0} s", used.as_secs_f64().ceil()),
                lower(&format!("{:?}", row.reason)),
                format!("{} {}/h", Micros(row.per_hour_micros), row.currency),
                format!("{} {}", row.charge, row.currency),
            ]
        });
        table(["LEASE", "FROM", "TIME", "ENDED", "PRICE", "CHARGE"], rows)
    }
}

/// `HostLost` as people write it: "host lost".
fn lower(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_read_as_words() {
        assert_eq!(lower("HostLost"), "host lost");
        assert_eq!(lower("Returned"), "returned");
    }
}
