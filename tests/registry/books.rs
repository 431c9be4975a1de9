//! What administrators do with other people's money, and how it is seen afterwards who did it.

use sublet::{
    api::{
        problem::Code,
        registry::{Act, CreditLimit, MakeCredit, MakeDeposit, MakePayout},
    },
    client::RegistryClient,
    domain::{
        id::LeaseId,
        money::{Amount, Currency, Micros},
    },
};
use uuid::Uuid;

use crate::{
    market::{Host, end, lease, terms, wish},
    server::{Server, assert_refused},
};

/// A second costs one.
const PER_HOUR: i64 = 3_600_000_000;

fn eur() -> Currency {
    "EUR".parse().unwrap()
}

fn euros(micros: i64) -> Amount {
    Amount { micros: Micros(micros), currency: eur() }
}

fn deposit(borrower: &str, micros: i64) -> MakeDeposit {
    MakeDeposit { borrower: borrower.to_owned(), amount: euros(micros) }
}

fn administrator(server: &Server) -> RegistryClient {
    server.client(server.database().token("admin", "root"))
}

#[tokio::test]
async fn an_administrator_takes_payments_in_and_out_credits_leases_and_bounds_credit() {
    let server = Server::start();
    let (alice, bob, root) = (server.lender("alice"), server.borrower("bob"), administrator(&server));
    let host = Host::enrol(&server, &alice).await;
    let offer = host.offer(terms(1, PER_HOUR)).await;
    let none = CreditLimit { borrower: "bob".to_owned(), currency: eur(), limit: Some(Micros(0)) };
    root.set_credit_limit(&none).await.unwrap();
    assert_refused(lease(&bob, &wish(&offer, 600)).await, Code::CreditExceeded);
    let paid = root.deposit("transfer 1", &deposit("bob", 600_000_000)).await.unwrap();
    assert_eq!(root.deposit("transfer 1", &deposit("bob", 600_000_000)).await.unwrap(), paid, "once");
    assert_refused(root.deposit("transfer 1", &deposit("bob", 1)).await, Code::IdempotencyKeyReused);
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    let id = granted.lease.id;
    let credit = |lease, micros| MakeCredit { lease, amount: euros(micros), reason: "slow".to_owned() };
    assert_refused(root.credit("receipt 1", &credit(id, 1)).await, Code::LeaseNotSettled);
    let charge = end(&bob, &granted).await.unwrap().end.unwrap().charge.0;
    assert_refused(root.credit("receipt 1", &credit(id, charge + 1)).await, Code::InvalidRequest);
    let credited = root.credit("receipt 1", &credit(id, 1)).await.unwrap();
    assert_eq!(credited.entries[0].legs.borrower, Micros(1));
    let payout = MakePayout { lender: "alice".to_owned() };
    let out = root.payout("transfer 2", &payout).await.unwrap();
    assert_eq!(out.entries[0].legs.outside, Micros(charge - 1));
    assert_eq!(root.payout("transfer 2", &payout).await.unwrap(), out, "once");
    assert_eq!(alice.balances().await.unwrap().balances[0].balance, Micros(0));
    let unbounded = CreditLimit { limit: None, ..none };
    root.set_credit_limit(&unbounded).await.unwrap();
    assert_eq!(bob.balances().await.unwrap().balances[0].limit, None);
}

#[tokio::test]
async fn nobody_but_an_administrator_touches_the_books_and_what_cannot_be_is_refused() {
    let server = Server::start();
    let root = administrator(&server);
    let limit = |borrower: &str, limit| CreditLimit {
        borrower: borrower.to_owned(),
        currency: eur(),
        limit: Some(Micros(limit)),
    };
    for stranger in [server.borrower("bob"), server.lender("alice")] {
        assert_refused(stranger.deposit("r", &deposit("bob", 1)).await, Code::Forbidden);
        let payout = MakePayout { lender: "alice".to_owned() };
        assert_refused(stranger.payout("r", &payout).await, Code::Forbidden);
        assert_refused(stranger.set_credit_limit(&limit("bob", 1)).await, Code::Forbidden);
        assert_refused(stranger.acts(None).await, Code::Forbidden);
    }
    assert_refused(root.deposit("r", &deposit("nobody", 1)).await, Code::NotFound);
    assert_refused(root.deposit("r", &deposit("bob", 0)).await, Code::InvalidRequest);
    assert_refused(root.deposit("r", &deposit("bob", -1)).await, Code::InvalidRequest);
    assert_refused(root.deposit("r", &deposit("bob", i64::MAX)).await, Code::InvalidRequest);
    assert_refused(root.deposit("", &deposit("bob", 1)).await, Code::MalformedRequest);
    assert_refused(root.set_credit_limit(&limit("bob", -1)).await, Code::InvalidRequest);
    assert_refused(root.set_credit_limit(&limit("nobody", 1)).await, Code::NotFound);
    let credit = MakeCredit { lease: LeaseId(Uuid::nil()), amount: euros(1), reason: "a\nb".to_owned() };
    assert_refused(root.credit("r", &credit).await, Code::InvalidRequest);
    let credit = MakeCredit { reason: "slow".to_owned(), ..credit };
    assert_refused(root.credit("r", &credit).await, Code::NotFound);
    assert!(root.acts(None).await.unwrap().acts.is_empty(), "nothing was done");
}

#[tokio::test]
async fn each_act_says_by_whom_it_was_done_and_once() {
    let server = Server::start();
    server.borrower("bob");
    let root = administrator(&server);
    let entry = root.deposit("transfer 1", &deposit("bob", 5)).await.unwrap().entries.remove(0);
    root.deposit("transfer 1", &deposit("bob", 5)).await.unwrap();
    let arguments = ["credit-limit", "--borrower", "bob", "--limit", "1EUR"];
    assert!(server.database().run(&arguments).status.success());
    let acts = root.acts(None).await.unwrap().acts;
    assert_eq!(acts.len(), 2);
    let limit =
        Act::CreditLimit { borrower: "bob".to_owned(), currency: eur(), limit: Some(Micros(1_000_000)) };
    assert_eq!((&acts[0].act, &acts[0].administrator, acts[0].token), (&limit, &None, None));
    let reference = "transfer 1".to_owned();
    let paid = Act::Deposit { borrower: "bob".to_owned(), amount: euros(5), reference };
    assert_eq!((acts[1].id, acts[1].at, &acts[1].act), (entry.id.0, entry.at, &paid));
    assert_eq!(acts[1].administrator.as_deref(), Some("root"));
    let token = root.tokens().await.unwrap().tokens[0].id;
    assert_eq!(acts[1].token, Some(token));
}
