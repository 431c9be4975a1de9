//! Other people's money, in the hands of administrators.

use std::process::ExitCode;

use super::{
    CliError,
    args::BooksCommand,
    context::Context,
    report::{Report, table},
};
use crate::{
    api::registry::{Act, Acts, Booked, CreditLimit, MakeCredit, MakeDeposit, MakePayout},
    client::RegistryClient,
    domain::money::Amount,
};

pub(super) async fn books(context: &Context, command: BooksCommand) -> Result<ExitCode, CliError> {
    let registry = context.registry()?;
    match command {
        BooksCommand::Deposit { borrower, amount, reference } => {
            context.print(&registry.deposit(&reference, &MakeDeposit { borrower, amount }).await?)?;
        }
        BooksCommand::Payout { lender, reference } => {
            context.print(&registry.payout(&reference, &MakePayout { lender }).await?)?;
        }
        BooksCommand::Credit { lease, amount, reason, reference } => {
            let credit = MakeCredit { lease, amount, reason };
            context.print(&registry.credit(&reference, &credit).await?)?;
        }
        BooksCommand::Limit { borrower, amount, none } => {
            let Amount { micros, currency } = amount;
            let limit = CreditLimit { borrower, currency, limit: (!none).then_some(micros) };
            registry.set_credit_limit(&limit).await?;
        }
        BooksCommand::Acts => context.print(&all(&registry).await?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// All pages of it.
async fn all(registry: &RegistryClient) -> Result<Acts, CliError> {
    let mut whole = registry.acts(None).await?;
    while let Some(cursor) = whole.next_cursor.take() {
        let next = registry.acts(Some(&cursor)).await?;
        whole.acts.extend(next.acts);
        whole.next_cursor = next.next_cursor;
    }
    Ok(whole)
}

impl Report for Booked {
    fn text(&self) -> String {
        let rows = self.entries.iter().map(|entry| {
            let amount = |leg| Amount { micros: leg, currency: entry.currency }.to_string();
            [
                entry.id.to_string(),
                format!("{:.0}", entry.at),
                entry.occasion.kind().to_owned(),
                entry.occasion.reference().unwrap_or_default().to_owned(),
                amount(entry.legs.borrower),
                amount(entry.legs.lender),
                amount(entry.legs.fees),
            ]
        });
        table(["ENTRY", "AT", "KIND", "REFERENCE", "BORROWER", "LENDER", "FEES"], rows)
    }
}

impl Report for Acts {
    fn text(&self) -> String {
        let rows = self.acts.iter().map(|act| {
            let who = act.administrator.clone().unwrap_or_else(|| "at the database".to_owned());
            let [kind, whom, amount, reference] = said(&act.act);
            [format!("{:.0}", act.at), who, kind, whom, amount, reference]
        });
        table(["AT", "BY", "KIND", "WHOSE", "AMOUNT", "REFERENCE"], rows)
    }
}

/// Kind, whose account or lease, amount, reference.
fn said(act: &Act) -> [String; 4] {
    match act {
        Act::Deposit { borrower, amount, reference } => {
            ["deposit".to_owned(), borrower.clone(), amount.to_string(), reference.clone()]
        }
        Act::Payout { lender, amount, reference } => {
            ["payout".to_owned(), lender.clone(), amount.to_string(), reference.clone()]
        }
        Act::Credit { lease, amount, reference, .. } => {
            ["credit".to_owned(), lease.to_string(), amount.to_string(), reference.clone()]
        }
        Act::CreditLimit { borrower, currency, limit } => {
            let limit = limit.map_or_else(
                || format!("none in {currency}"),
                |micros| Amount { micros, currency: *currency }.to_string(),
            );
            ["credit limit".to_owned(), borrower.clone(), limit, String::new()]
        }
    }
}
