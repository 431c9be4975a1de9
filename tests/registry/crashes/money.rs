//! Payments, payouts and credits by the registry's program, which dies at each step: all of it is booked or nothing, and
//! with the same reference again it is booked once.

use std::{collections::BTreeSet, os::unix::process::ExitStatusExt as _};

use rustix::process::Signal;
use sublet::{
    api::registry::LedgerEntry,
    client::RegistryClient,
    domain::{ledger::entry::Entry, terms::Terms},
    registry::crash_point::CrashPoint,
};

use super::books;
use crate::{
    market::{self, Host, terms, wish},
    server::Server,
};

/// What a transaction of the ledger comes by.
const PLACES: [CrashPoint; 4] =
    [CrashPoint::InEntry, CrashPoint::BeforeCommit, CrashPoint::AfterCommit, CrashPoint::BeforeAnswer];
const CURRENCIES: [&str; 2] = ["EUR", "USD"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Deposit,
    Credit,
    Payout,
}

struct Books {
    server: Server,
    host: Host,
    lender: RegistryClient,
    borrower: RegistryClient,
}

fn in_currency(currency: &str) -> Terms {
    let mut terms = terms(1, 3_600_000_000);
    terms.price.currency = currency.parse().unwrap();
    terms
}

impl Books {
    async fn open() -> Self {
        let server = Server::start();
        let (lender, borrower) = (server.lender("alice"), server.borrower("bob"));
        let host = Host::enrol(&server, &lender).await;
        Self { server, host, lender, borrower }
    }

    /// A lease that has ended, in this currency; what it cost stands to the lender's credit.
    async fn earn(&self, currency: &str) -> String {
        let offer = self.host.offer(in_currency(currency)).await;
        let granted = market::lease(&self.borrower, &wish(&offer, 600)).await.unwrap();
        market::end(&self.borrower, &granted).await.unwrap();
        granted.lease.id.to_string()
    }

    /// Who does what, under this reference; the entries it makes.
    async fn prepared(&self, step: Step, reference: &str) -> (Vec<String>, usize) {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match step {
            Step::Deposit => {
                let deposit = ["deposit", "--borrower", "bob", "--amount", "1EUR", "--reference", reference];
                (words(&deposit), 1)
            }
            Step::Credit => {
                let lease = self.earn("EUR").await;
                let credit =
                    ["credit", "--lease", &lease, "--amount", "0.5EUR", "--reason", "slow", "--reference"];
                (words(&[&credit[..], &[reference]].concat()), 1)
            }
            Step::Payout => {
                for currency in CURRENCIES {
                    self.earn(currency).await;
                }
                (words(&["payout", "--lender", "alice", "--reference", reference]), CURRENCIES.len())
            }
        }
    }

    /// The entries of this reference, as borrower and lender see them.
    async fn booked(&self, reference: &str) -> BTreeSet<String> {
        let (lent, borrowed) = (self.lender.ledger().await.unwrap(), self.borrower.ledger().await.unwrap());
        let entries = lent.entries.into_iter().chain(borrowed.entries).map(|LedgerEntry { entry, .. }| entry);
        let of_it = entries.filter(|entry| entry.occasion.reference() == Some(reference));
        of_it.map(|entry| entry.id.to_string()).collect()
    }

    /// Has the program die at this pass of the place; false: it ended before that.
    async fn dies_in(&self, step: Step, (place, pass): (CrashPoint, u32)) -> bool {
        let reference = format!("{step:?} {place} {pass}");
        let (words, entries) = self.prepared(step, &reference).await;
        let mut command = self.server.database().program();
        let output = command.args(&words).env("SUBLET_CRASH_AT", format!("{place}:{pass}")).output().unwrap();
        let died = output.status.signal() == Some(Signal::KILL.as_raw());
        assert!(died || output.status.success(), "{output:?}");
        let booked = self.booked(&reference).await.len();
        assert!([0, entries].contains(&booked) && (died || booked > 0), "{reference}: {booked} entries");
        let first = self.again(&words);
        assert_eq!(first.len(), entries, "{reference}");
        assert_eq!((&self.again(&words), &self.booked(&reference).await), (&first, &first), "booked twice");
        died
    }

    fn again(&self, words: &[String]) -> BTreeSet<String> {
        let output = self.server.database().program().args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str::<Entry>(line).unwrap().id.to_string()).collect()
    }
}

#[tokio::test]
async fn a_payment_is_booked_once_and_whole_wherever_the_program_that_books_it_dies() {
    let books = Books::open().await;
    for step in [Step::Deposit, Step::Credit, Step::Payout] {
        for place in PLACES {
            let mut deaths = 0;
            while books.dies_in(step, (place, deaths + 1)).await {
                deaths += 1;
            }
            assert!(deaths > 0, "{step:?} does not come by {place}");
        }
    }
    let owed = books.lender.balances().await.unwrap().balances;
    assert!(owed.iter().all(|balance| balance.balance.0 == 0), "the last payout left nothing: {owed:?}");
    books::assert_audited(&books.server);
}
