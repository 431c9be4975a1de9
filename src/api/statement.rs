//! A statement's entries as a table, for spreadsheets.

use super::registry::LedgerEntry;

pub const CSV_MEDIA_TYPE: &str = "text/csv";

const HEAD: [&str; 15] = [
    "entry",
    "at",
    "kind",
    "currency",
    "borrower_micros",
    "lender_micros",
    "fees_micros",
    "outside_micros",
    "lease",
    "reason",
    "reference",
    "started_at",
    "ended_at",
    "per_hour_micros",
    "ended_for",
];

/// RFC 4180, with a line of names before the entries. Amounts are in millionths, exactly.
pub fn csv(entries: &[LedgerEntry]) -> Result<String, csv::Error> {
    let mut table = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    table.write_record(HEAD)?;
    for entry in entries {
        table.write_record(row(entry))?;
    }
    let bytes = table.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    // All that was written is text.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn row(LedgerEntry { entry, used }: &LedgerEntry) -> [String; 15] {
    let (of, legs) = (&entry.occasion, &entry.legs);
    let or_nothing = |text: Option<String>| text.unwrap_or_default();
    [
        entry.id.to_string(),
        entry.at.to_string(),
        of.kind().to_owned(),
        entry.currency.to_string(),
        legs.borrower.0.to_string(),
        legs.lender.0.to_string(),
        legs.fees.0.to_string(),
        legs.outside.0.to_string(),
        or_nothing(of.lease().map(|lease| lease.to_string())),
        or_nothing(of.reason().map(no_formula)),
        or_nothing(of.reference().map(no_formula)),
        or_nothing(used.as_ref().map(|used| used.started_at.to_string())),
        or_nothing(used.as_ref().map(|used| used.ended_at.to_string())),
        or_nothing(used.as_ref().map(|used| used.per_hour_micros.to_string())),
        or_nothing(used.as_ref().map(|used| used.reason.to_string())),
    ]
}

/// What people wrote is no formula of a spreadsheet's.
fn no_formula(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{
        id::{BorrowerId, EntryId},
        ledger::entry::{Entry, Legs, Occasion},
        money::Micros,
    };

    #[test]
    fn what_people_wrote_is_quoted_and_is_no_formula() {
        let occasion = Occasion::Deposit {
            borrower: BorrowerId(Uuid::nil()),
            reference: "=HYPERLINK(\"x\"), \"y\"".to_owned(),
        };
        let entry = Entry {
            id: EntryId(Uuid::nil()),
            at: "2026-11-01T00:00:00Z".parse().unwrap(),
            currency: "EUR".parse().unwrap(),
            occasion,
            legs: Legs::of_deposit(Micros(5)),
        };
        let table = csv(&[LedgerEntry { entry, used: None }]).unwrap();
        let lines: Vec<_> = table.split("\r\n").collect();
        assert_eq!(lines[0].split(',').count(), HEAD.len());
        assert!(lines[1].starts_with(
            "00000000-0000-0000-0000-000000000000,2026-11-01T00:00:00Z,deposit,EUR,5,0,0,-5,,,"
        ));
        assert!(lines[1].contains(r#""'=HYPERLINK(""x""), ""y""""#), "{}", lines[1]);
    }
}
