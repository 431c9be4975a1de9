//! Budgets, credit, renewals, recalls and payments, over HTTP and by the registry's program.

use std::process::Output;

use reqwest::header::{ACCEPT, AUTHORIZATION};
use sublet::{
    api::{
        problem::Code,
        registry::{
            AskQuote, EndReason, EndedAtHost, Heartbeat, LendingState, RegisteredPartition, RenewLease,
        },
    },
    client::HostRequestId,
    domain::{
        lending_key::{self, Operation},
        money::{Amount, Micros},
        terms::{LendingRules, Terms},
    },
};
use uuid::Uuid;

use crate::{
    market::{Host, end, lease, terms, wish},
    server::{Database, Server, assert_refused, eventually},
};

/// A second costs a thousandth.
const PER_HOUR: i64 = 3_600_000;

fn euros(micros: i64) -> Option<Amount> {
    Some(Amount { micros: Micros(micros), currency: "EUR".parse().unwrap() })
}

fn recallable(notice: u64) -> Terms {
    let lending = LendingRules { longest_seconds: Some(900), recall_notice_seconds: Some(notice) };
    Terms { lending, ..terms(1, PER_HOUR) }
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_quote_says_what_the_lease_costs_at_most_and_its_version_is_what_the_lease_accepts() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let offer = Host::enrol(&server, &lender).await.offer(terms(1, PER_HOUR)).await;
    let ask = AskQuote {
        host: offer.host,
        partition: offer.partition,
        duration_seconds: 600,
        budget: euros(100_000),
    };
    let quote = bob.quote(&ask).await.unwrap();
    assert_eq!((quote.ends_after_seconds, quote.ends_for), (100, EndReason::BudgetSpent));
    assert_eq!((Some(quote.worst_case), quote.terms_version), (euros(100_000), offer.version));
    let mut wish = wish(&offer, 600);
    wish.budget = euros(100_000);
    let granted = lease(&bob, &wish).await.unwrap();
    assert_eq!(granted.lease.worst_case, quote.worst_case.micros);
    assert_refused(bob.quote(&ask).await, Code::AlreadyLent);
    let issuer = granted.key.reveal();
    assert!(!issuer.is_empty() && granted.lease.expires_for == EndReason::BudgetSpent);
}

#[tokio::test]
async fn a_lease_ends_by_itself_when_its_budget_is_spent() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let offer = Host::enrol(&server, &lender).await.offer(terms(1, PER_HOUR)).await;
    let mut wish = wish(&offer, 600);
    wish.budget = euros(1_999);
    let granted = lease(&bob, &wish).await.unwrap();
    let end =
        eventually("the budget is spent", async || bob.lease(granted.lease.id).await.unwrap().end).await;
    assert_eq!((end.reason, end.charge), (EndReason::BudgetSpent, Micros(1_000)));
}

#[tokio::test]
async fn a_budget_in_another_currency_or_for_no_second_is_refused() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let offer = Host::enrol(&server, &lender).await.offer(terms(1, PER_HOUR)).await;
    let with = |budget: &str| {
        let mut wish = wish(&offer, 600);
        wish.budget = Some(budget.parse().unwrap());
        wish
    };
    assert_refused(lease(&bob, &with("1USD")).await, Code::InvalidRequest);
    assert_refused(lease(&bob, &with("0.000999EUR")).await, Code::InvalidRequest);
}

#[tokio::test]
async fn a_renewed_lease_has_a_key_until_its_new_end_and_its_host_is_told() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(recallable(60)).await;
    let granted = lease(&bob, &wish(&offer, 300)).await.unwrap();
    let known = host.beat(Heartbeat::default()).await.revision;
    let renew = |seconds| RenewLease { duration_seconds: seconds, budget: None };
    let renewed = bob.renew_lease(granted.lease.id, &renew(600)).await.unwrap();
    let issuers = [host.enrolled.issuer.public_key.parse().unwrap()];
    let claims =
        lending_key::read(renewed.key.reveal(), &issuers, Operation::Open, granted.lease.expires_at).unwrap();
    assert_eq!((claims.expires_at, claims.epoch), (renewed.lease.expires_at, granted.lease.epoch));
    let waiting = Heartbeat { known_revision: Some(known), wait_ms: 10_000, ..Heartbeat::default() };
    let told = host.beat(waiting).await.partitions.remove(0);
    assert!(
        matches!(told.state, LendingState::Lent { expires_at, .. } if expires_at == renewed.lease.expires_at)
    );
    assert_refused(bob.renew_lease(granted.lease.id, &renew(901)).await, Code::InvalidRequest);
    let eve = server.borrower("eve");
    assert_refused(eve.renew_lease(granted.lease.id, &renew(700)).await, Code::NotFound);
    end(&bob, &renewed).await.unwrap();
    assert_refused(bob.renew_lease(granted.lease.id, &renew(700)).await, Code::LeaseEnded);
}

#[tokio::test]
async fn a_recall_ends_the_lease_after_its_notice_and_both_sides_see_it_at_once() {
    let server = Server::start();
    let (alice, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &alice).await;
    let offer = host.offer(recallable(1)).await;
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    assert_refused(server.lender("carol").recall_lease(granted.lease.id).await, Code::NotFound);
    assert_refused(bob.recall_lease(granted.lease.id).await, Code::Forbidden);
    let recalled = alice.recall_lease(granted.lease.id).await.unwrap();
    assert_eq!(bob.lease(granted.lease.id).await.unwrap().recall, recalled.recall);
    assert_eq!(alice.lease(granted.lease.id).await.unwrap().recall, recalled.recall);
    let renew = RenewLease { duration_seconds: 900, budget: None };
    assert_refused(bob.renew_lease(granted.lease.id, &renew).await, Code::LeaseRecalled);
    let end = eventually("the notice is over", async || bob.lease(granted.lease.id).await.unwrap().end).await;
    assert_eq!((end.reason, Some(end.at)), (EndReason::Recalled, recalled.recall.map(|recall| recall.until)));
    let offer: RegisteredPartition = host.offer(terms(1, 0)).await;
    let other = lease(&bob, &wish(&offer, 600)).await.unwrap();
    assert_refused(alice.recall_lease(other.lease.id).await, Code::RecallNotAllowed);
}

#[tokio::test]
async fn credit_bounds_what_running_leases_may_cost_and_a_deposit_makes_room() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let offer = Host::enrol(&server, &lender).await.offer(terms(1, PER_HOUR)).await;
    let run = |arguments: &[&str]| succeeded(server.database().run(arguments));
    run(&["credit-limit", "--borrower", "bob", "--limit", "0.5EUR"]);
    assert_refused(lease(&bob, &wish(&offer, 600)).await, Code::CreditExceeded);
    let deposit = ["deposit", "--borrower", "bob", "--amount", "0.1EUR", "--reference", "transfer 7"];
    assert_eq!(run(&deposit), run(&deposit), "the same payment again is the same entry");
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    let balance = bob.balances().await.unwrap().balances.remove(0);
    assert_eq!((balance.balance, balance.held), (Micros(100_000), Micros(600_000)));
    end(&bob, &granted).await.unwrap();
    assert_eq!(bob.balances().await.unwrap().balances[0].held, Micros(0));
}

#[tokio::test]
async fn a_host_that_was_lost_says_so_and_is_paid_up_to_its_last_word() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, PER_HOUR)).await;
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    let confirmed = host.beat(Heartbeat::default()).await.now;
    let lost = EndedAtHost { lease: granted.lease.id, reason: EndReason::HostLost };
    host.beat(Heartbeat { ended: vec![lost], ..Heartbeat::default() }).await;
    let end = bob.lease(granted.lease.id).await.unwrap().end.unwrap();
    assert_eq!(end.reason, EndReason::HostLost);
    assert!(end.at <= confirmed, "{} is after {confirmed}", end.at);
}

#[tokio::test]
async fn a_silent_hosts_lease_ends_as_lost_once_the_grace_is_over() {
    let options = ["--beat-every-ms", "100", "--host-lost-grace-seconds", "1"];
    let server = Server::start_with(Database::new(), &options);
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, PER_HOUR)).await;
    let heard = host.beat(Heartbeat::default()).await.now;
    let granted = lease(&bob, &wish(&offer, 2)).await.unwrap();
    let end = eventually("the host is lost", async || bob.lease(granted.lease.id).await.unwrap().end).await;
    assert_eq!(end.reason, EndReason::HostLost);
    assert!(end.at <= heard.max(granted.lease.started_at));
}

#[tokio::test]
async fn a_statement_is_read_as_json_and_as_a_table_and_the_whole_ledger_is_audited_offline() {
    let options = ["--fee-millionths", "100000", "--beat-every-ms", "3600000"];
    let server = Server::start_with(Database::new(), &options);
    let (alice, bob) = (server.lender("alice"), server.database().token("borrower", "bob"));
    let borrower = server.client(bob.clone());
    let host = Host::enrol(&server, &alice).await;
    let offer = host.offer(terms(1, 1_000_000_000_000)).await;
    let run = |arguments: &[&str]| succeeded(server.database().run(arguments));
    run(&["deposit", "--borrower", "bob", "--amount", "5000EUR", "--reference", "=1+1"]);
    let ended = end(&borrower, &lease(&borrower, &wish(&offer, 600)).await.unwrap()).await.unwrap();
    let id = ended.id.to_string();
    run(&["credit", "--lease", &id, "--amount", "1EUR", "--reason", "slow", "--reference", "receipt 1"]);
    run(&["payout", "--lender", "alice", "--reference", "transfer 8"]);
    assert_eq!(alice.balances().await.unwrap().balances[0].balance, Micros(0));

    let month = ended.started_at.to_string()[..7].to_owned();
    let statement = borrower.statement(&month, None).await.unwrap();
    let sum = &statement.sums[0];
    assert_eq!(
        (sum.opening, sum.deposits, sum.credits),
        (Micros(0), Micros(5_000_000_000), Micros(1_000_000))
    );
    assert_eq!(sum.closing, borrower.balances().await.unwrap().balances[0].balance);
    assert!(!statement.is_final && statement.entries.len() == 3);
    let paged = format!("{}/v1/statements/{month}?limit=1", server.address());
    let table =
        sublet::client::bare().unwrap().get(paged).header(AUTHORIZATION, format!("Bearer {}", bob.reveal()));
    let answer = table.header(ACCEPT, "text/csv").send().await.unwrap();
    assert!(answer.headers().contains_key("x-next-cursor"));
    let table = answer.text().await.unwrap();
    assert!(table.starts_with("entry,at,kind,") && table.contains(",'=1+1,"), "{table}");

    let export = server.database().beside("export.jsonl");
    run(&["export", export.to_str().unwrap()]);
    let audit = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sublet"));
        command.arg("audit").arg(&export).output().unwrap()
    };
    assert!(succeeded(audit()).contains("everything agrees"));
    let text = std::fs::read_to_string(&export).unwrap();
    std::fs::write(&export, text.replace("\"borrower\":5000000000", "\"borrower\":5000000001")).unwrap();
    let found = audit();
    assert_eq!(found.status.code(), Some(1));
    assert!(String::from_utf8(found.stdout).unwrap().contains("do not sum to nothing"));
}

#[tokio::test]
async fn a_host_that_did_not_hear_the_answer_is_enrolled_once() {
    let server = Server::start();
    let alice = server.lender("alice");
    let once = HostRequestId(Uuid::new_v4());
    let wish = |address: &str| sublet::api::registry::EnrolHost { address: address.to_owned() };
    let first = alice.enrol_host(once, &wish("http://192.0.2.1:1")).await.unwrap();
    let again = alice.enrol_host(once, &wish("http://192.0.2.1:1")).await.unwrap();
    assert_eq!(first.host, again.host);
    for token in [first.host_token, again.host_token] {
        server.client(token).heartbeat(first.host, &Heartbeat::default()).await.unwrap();
    }
    assert_refused(alice.enrol_host(once, &wish("http://192.0.2.2:1")).await, Code::IdempotencyKeyReused);
}
