//! Budgets, credit, renewal, recall, lost hosts, payments: what they do to leases and to the ledger.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
};

use super::*;
use crate::{
    api::registry::{AccountBalance, AskQuote, RenewLease},
    domain::{
        lease::LeaseNotAllowed,
        ledger::audit::{Auditor, Finding},
        money::{Amount, Currency},
        month::Month,
        terms::LendingRules,
    },
};

pub(super) fn eur() -> Currency {
    "EUR".parse().unwrap()
}

pub(super) fn euros(micros: i64) -> Amount {
    Amount { micros: Micros(micros), currency: eur() }
}

fn recallable() -> Terms {
    let lending = LendingRules { longest_seconds: Some(14_400), recall_notice_seconds: Some(600) };
    Terms { lending, ..terms(1_000_000) }
}

impl Market {
    async fn offer_again(&self, terms: Terms) {
        self.db.register(self.host, self.partition, put(terms, Some(1))).await.unwrap();
    }

    fn wish_with(&self, version: u64, budget: Option<Amount>) -> Reserve {
        let mut wish = self.wish();
        wish.wish.terms_version = TermsVersion(version);
        wish.wish.budget = budget;
        wish
    }

    async fn borrow_with(&self, version: u64, budget: Option<Amount>) -> Lease {
        match self.db.reserve(self.wish_with(version, budget)).await.unwrap() {
            Reserved::Now(lease) | Reserved::Before(lease) => lease,
        }
    }

    pub(super) async fn balance_of(&self, account: Account) -> AccountBalance {
        let found =
            self.db.balances(account).await.unwrap().into_iter().find(|found| found.currency == eur());
        found.unwrap_or(AccountBalance { currency: eur(), balance: Micros(0), held: Micros(0), limit: None })
    }

    async fn borrowers(&self) -> AccountBalance {
        self.balance_of(Account::Borrower(self.borrower)).await
    }

    async fn lenders(&self) -> AccountBalance {
        self.balance_of(Account::Lender(self.lender)).await
    }

    fn refused(error: &MoveEndError) -> LeaseNotAllowed {
        match error {
            MoveEndError::NotAllowed(refusal) => *refusal,
            other => panic!("{other:?}"),
        }
    }

    /// What an auditor finds.
    pub(super) async fn audit(&self) -> Vec<Finding> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("export");
        self.db.export(File::create_new(&path).unwrap()).await.unwrap();
        let mut auditor = Auditor::default();
        for line in BufReader::new(File::open(path).unwrap()).lines() {
            auditor.read(serde_json::from_str(&line.unwrap()).unwrap());
        }
        auditor.finish().1
    }
}

#[tokio::test]
async fn a_quote_says_what_the_lease_then_costs_at_most() {
    let market = market().await;
    let ask = AskQuote {
        host: market.host,
        partition: market.partition,
        duration_seconds: 7200,
        budget: Some(euros(1_500_000)),
    };
    let quote = market.db.quote(ask, market.wish().conditions).await.unwrap();
    assert_eq!((quote.ends_after_seconds, quote.ends_for), (5400, EndReason::BudgetSpent));
    assert_eq!((quote.worst_case, quote.host_address.as_str()), (euros(1_500_000), "http://host:1"));
    let lease = market.borrow_with(quote.terms_version.0, Some(euros(1_500_000))).await;
    assert_eq!(lease.expires_at, lease.started_at + Duration::from_secs(5400));
    assert_eq!((lease.worst_case, lease.expires_for), (quote.worst_case.micros, quote.ends_for));
}

#[tokio::test]
async fn what_is_lent_is_not_quoted() {
    let market = market().await;
    market.borrow().await;
    let ask = AskQuote { host: market.host, partition: market.partition, duration_seconds: 1, budget: None };
    let error = market.db.quote(ask, market.wish().conditions).await.unwrap_err();
    assert!(matches!(error, ReserveError::NotAllowed(RegistrationNotAllowed::Lent)));
}

#[tokio::test]
async fn a_lease_ends_when_its_budget_is_spent_and_costs_no_more() {
    let market = market().await;
    let lease = market.borrow_with(1, Some(euros(500_000))).await;
    market.clock.advance(HOUR);
    market.expire_with(HostWord::Heard).await;
    let end = market.end_of(&lease).await.unwrap();
    assert_eq!((end.reason, end.charge), (EndReason::BudgetSpent, Micros(500_000)));
    assert_eq!(end.at, lease.started_at + HOUR / 2);
}

#[tokio::test]
async fn credit_covers_the_worst_case_of_all_running_leases_and_is_free_again_after_them() {
    let market = market().await;
    market.db.set_credit_limit(By::Program, "bob".to_owned(), eur(), Some(Micros(2_000_000))).await.unwrap();
    let lease = market.borrow().await;
    assert_eq!(market.borrowers().await.held, Micros(2_000_000));
    let other = PartitionId(Uuid::from_u128(21));
    market.db.register(market.host, other, put(terms(1_000_000), None)).await.unwrap();
    let mut second = market.wish();
    (second.wish.partition, second.wish.duration_seconds) = (other, 1);
    let error = market.db.reserve(second.clone()).await.unwrap_err();
    let ReserveError::Hold(HoldError::Credit(exceeded)) = error else { panic!("{error:?}") };
    assert_eq!((exceeded.held, exceeded.limit), (Micros(2_000_000), Micros(2_000_000)));
    market.clock.advance(HOUR);
    market.give_back(&lease).await;
    let after = market.borrowers().await;
    assert_eq!((after.held, after.balance), (Micros(0), Micros(-1_000_000)));
    market.db.reserve(second).await.unwrap();
}

#[tokio::test]
async fn a_deposit_makes_room_and_what_is_owed_takes_it() {
    let market = market().await;
    market.db.set_credit_limit(By::Program, "bob".to_owned(), eur(), Some(Micros(0))).await.unwrap();
    market.db.reserve(market.wish()).await.unwrap_err();
    market.db.deposit(By::Program, "bob".to_owned(), euros(2_000_000), "t1".to_owned()).await.unwrap();
    let lease = market.borrow().await;
    market.clock.advance(2 * HOUR);
    market.give_back(&lease).await;
    market.cleaned(&lease).await;
    assert_eq!(market.borrowers().await.balance, Micros(0));
    market.db.reserve(market.wish()).await.unwrap_err();
}

#[tokio::test]
async fn a_limit_in_one_currency_leaves_nothing_in_the_others() {
    let market = market().await;
    market
        .db
        .set_credit_limit(By::Program, "bob".to_owned(), "USD".parse().unwrap(), Some(Micros(9)))
        .await
        .unwrap();
    assert!(matches!(market.db.reserve(market.wish()).await, Err(ReserveError::Hold(HoldError::Credit(_)))));
    market.db.set_credit_limit(By::Program, "bob".to_owned(), "USD".parse().unwrap(), None).await.unwrap();
    market.borrow().await;
}

#[tokio::test]
async fn a_refused_lease_holds_nothing() {
    let market = market().await;
    market.borrow().await;
    market.db.reserve(market.wish()).await.unwrap_err();
    assert_eq!(market.borrowers().await.held, Micros(2_000_000));
}

#[tokio::test]
async fn a_renewal_moves_the_end_at_the_host_and_what_is_held_with_it() {
    let market = market().await;
    market.offer_again(recallable()).await;
    let lease = market.borrow_with(2, None).await;
    let revision = market.db.host_revision(market.host).await.unwrap();
    let renew = |seconds| RenewLease { duration_seconds: seconds, budget: None };
    let renewed = market.db.renew_lease(lease.id, market.borrower, renew(14_400)).await.unwrap();
    assert_eq!(renewed.expires_at, lease.started_at + 4 * HOUR);
    assert_eq!(market.borrowers().await.held, Micros(4_000_000));
    let LendingState::Lent { expires_at, .. } = market.row().await.state else { panic!() };
    assert_eq!(expires_at, renewed.expires_at);
    assert!(market.db.host_revision(market.host).await.unwrap() > revision, "the host is told");
    let again = market.db.renew_lease(lease.id, market.borrower, renew(14_400)).await.unwrap();
    assert_eq!(again, renewed, "said again it changes nothing");
    let error = market.db.renew_lease(lease.id, market.borrower, renew(14_401)).await.unwrap_err();
    assert!(matches!(error, MoveEndError::BadWish(_)), "beyond what the terms allow");
    let error = market.db.renew_lease(lease.id, market.borrower, renew(7200)).await.unwrap_err();
    assert!(matches!(Market::refused(&error), LeaseNotAllowed::Shorter { .. }));
}

#[tokio::test]
async fn a_renewal_beyond_the_borrowers_credit_is_refused_and_changes_nothing() {
    let market = market().await;
    market.db.set_credit_limit(By::Program, "bob".to_owned(), eur(), Some(Micros(3_000_000))).await.unwrap();
    let lease = market.borrow().await;
    let renew = RenewLease { duration_seconds: 14_400, budget: None };
    let error = market.db.renew_lease(lease.id, market.borrower, renew).await.unwrap_err();
    assert!(matches!(error, MoveEndError::Hold(HoldError::Credit(_))));
    assert_eq!(market.db.lease(market.borrower, lease.id).await.unwrap().unwrap(), lease);
}

#[tokio::test]
async fn a_larger_budget_lets_a_lease_run_longer() {
    let market = market().await;
    let lease = market.borrow_with(1, Some(euros(500_000))).await;
    let renew = |budget| RenewLease { duration_seconds: 7200, budget };
    let renewed =
        market.db.renew_lease(lease.id, market.borrower, renew(Some(euros(1_000_000)))).await.unwrap();
    assert_eq!((renewed.budget, renewed.expires_at), (Some(Micros(1_000_000)), lease.started_at + HOUR));
    let same = market.db.renew_lease(lease.id, market.borrower, renew(None)).await.unwrap();
    assert_eq!(same, renewed, "without a budget the one before counts");
    let error =
        market.db.renew_lease(lease.id, market.borrower, renew(Some(euros(600_000)))).await.unwrap_err();
    assert_eq!(Market::refused(&error), LeaseNotAllowed::SmallerBudget);
}

#[tokio::test]
async fn a_recall_is_seen_at_once_and_ends_the_lease_after_its_notice() {
    let market = market().await;
    market.offer_again(recallable()).await;
    let lease = market.borrow_with(2, None).await;
    let recalled = market.db.recall_lease(lease.id, market.lender).await.unwrap();
    let until = market.clock.now() + Duration::from_secs(600);
    assert_eq!(recalled.recall.map(|recall| recall.until), Some(until));
    assert_eq!(market.db.lease(market.borrower, lease.id).await.unwrap(), Some(recalled.clone()));
    let LendingState::Lent { expires_at, .. } = market.row().await.state else { panic!() };
    assert_eq!(expires_at, until, "the host is told");
    let renew = RenewLease { duration_seconds: 14_400, budget: None };
    let error = market.db.renew_lease(lease.id, market.borrower, renew).await.unwrap_err();
    assert_eq!(Market::refused(&error), LeaseNotAllowed::IsRecalled { until });
    market.clock.advance(Duration::from_secs(60));
    assert_eq!(market.db.recall_lease(lease.id, market.lender).await.unwrap(), recalled, "once is enough");
    market.clock.advance(HOUR);
    market.expire_with(HostWord::Heard).await;
    let end = market.end_of(&lease).await.unwrap();
    assert_eq!((end.reason, end.at), (EndReason::Recalled, until));
    assert_eq!(market.row().await.state, LendingState::AwaitingClean { lease: lease.id });
}

#[tokio::test]
async fn a_lease_is_recalled_by_its_own_lender_and_only_if_its_terms_say_so() {
    let market = market().await;
    let lease = market.borrow().await;
    let stranger = market.db.recall_lease(lease.id, LenderId(Uuid::nil())).await.unwrap_err();
    assert!(matches!(stranger, MoveEndError::NoSuchLease));
    let error = market.db.recall_lease(lease.id, market.lender).await.unwrap_err();
    assert_eq!(Market::refused(&error), LeaseNotAllowed::NoRecall);
}

#[tokio::test]
async fn a_lease_of_a_silent_host_is_billed_up_to_its_last_word_once_the_grace_is_over() {
    let market = market().await;
    let lease = market.borrow().await;
    let silent = HostWord::SilentSince(lease.started_at + HOUR);
    market.clock.advance(2 * HOUR);
    market.expire_with(silent).await;
    assert_eq!(market.end_of(&lease).await, None, "its host may come back and tell");
    market.clock.advance(GRACE);
    market.expire_with(silent).await;
    let end = market.end_of(&lease).await.unwrap();
    assert_eq!(
        (end.reason, end.at, end.charge),
        (EndReason::HostLost, lease.started_at + HOUR, Micros(1_000_000))
    );
}

#[tokio::test]
async fn a_host_that_comes_back_within_the_grace_is_paid_in_full() {
    let market = market().await;
    let lease = market.borrow().await;
    market.clock.advance(2 * HOUR + GRACE / 2);
    market.expire_with(HostWord::SilentSince(lease.started_at)).await;
    market.expire_with(HostWord::Heard).await;
    let end = market.end_of(&lease).await.unwrap();
    assert_eq!((end.reason, end.charge), (EndReason::Expired, Micros(2_000_000)));
}

#[tokio::test]
async fn what_is_returned_to_a_silent_host_is_billed_up_to_its_last_word() {
    let market = market().await;
    let lease = market.borrow().await;
    let silent = HostWord::SilentSince(lease.started_at + HOUR / 2);
    market.clock.advance(HOUR);
    let ended = market.db.end_lease(lease.id, market.borrower, silent, market.clock.now()).await.unwrap();
    let end = ended.end.unwrap();
    assert_eq!((end.reason, end.charge), (EndReason::HostLost, Micros(500_000)));
}

#[tokio::test]
async fn what_a_host_says_of_a_settled_lease_changes_no_bill() {
    let market = market().await;
    let lease = market.borrow().await;
    market.clock.advance(HOUR);
    market.give_back(&lease).await;
    let before = market.end_of(&lease).await;
    market.clock.advance(HOUR);
    let late = EndedAtHost { lease: lease.id, reason: EndReason::Returned };
    market.db.host_report(market.host, vec![late], vec![], market.clock.now()).await.unwrap();
    assert_eq!(market.end_of(&lease).await, before);
    assert_eq!(market.entries(Account::Borrower(market.borrower)).await.len(), 1);
}

#[tokio::test]
async fn a_lease_renewed_while_it_was_found_overdue_runs_on() {
    let market = market().await;
    let lease = market.borrow().await;
    market.clock.advance(HOUR);
    let (ends, now) = (vec![(lease.id, lease::LeaseEvent::Expire)], market.clock.now());
    market.db.end_overdue(ends, now).await.unwrap();
    assert_eq!(market.end_of(&lease).await, None);
}

#[tokio::test]
async fn a_payout_brings_the_lenders_balance_to_nothing_and_the_same_payment_is_made_once() {
    let market = market().await;
    let lease = market.borrow().await;
    market.clock.advance(HOUR);
    market.give_back(&lease).await;
    assert_eq!(market.lenders().await.balance, Micros(900_000));
    let payout = async |reference: &str| {
        market.db.payout(By::Program, "lena".to_owned(), reference.to_owned()).await.unwrap()
    };
    let paid = payout("t1").await;
    assert_eq!((paid.len(), paid[0].legs.outside), (1, Micros(900_000)));
    assert_eq!(market.lenders().await.balance, Micros(0));
    assert_eq!(payout("t1").await, paid, "the same again");
    assert_eq!(payout("t2").await, [], "there is nothing more to pay");
    assert_eq!(market.audit().await, []);
}

#[tokio::test]
async fn the_ledger_adds_up_to_what_all_its_entries_are_and_to_nothing() {
    let market = market().await;
    market.db.deposit(By::Program, "bob".to_owned(), euros(5_000_000), "in".to_owned()).await.unwrap();
    let lease = market.borrow().await;
    market.clock.advance(HOUR);
    market.give_back(&lease).await;
    market.cleaned(&lease).await;
    market.db.payout(By::Program, "lena".to_owned(), "out".to_owned()).await.unwrap();
    market.borrow().await;
    let [borrower, lender, fees, outside] = [4_000_000, 0, 100_000, -4_100_000].map(Micros);
    let legs = Legs { borrower, lender, fees, outside };
    let expected = LedgerSum { currency: eur(), legs, held: Micros(2_000_000) };
    assert_eq!(market.db.ledger_sums().await.unwrap(), [expected]);
}

#[tokio::test]
async fn a_deposit_is_booked_once_and_its_reference_stands_for_no_other() {
    let market = market().await;
    let deposit =
        async |micros| market.db.deposit(By::Program, "bob".to_owned(), euros(micros), "t1".to_owned()).await;
    assert_eq!(deposit(5).await.unwrap(), deposit(5).await.unwrap());
    assert_eq!(market.borrowers().await.balance, Micros(5));
    assert!(matches!(deposit(6).await, Err(BookError::ReferenceUsed(_))));
    let nobody = market.db.deposit(By::Program, "nobody".to_owned(), euros(5), "t2".to_owned()).await;
    assert!(matches!(nobody, Err(BookError::Account(AccountError::NoSuchAccount { .. }))));
    let nothing = market.db.deposit(By::Program, "bob".to_owned(), euros(0), "t3".to_owned()).await;
    assert!(matches!(nothing, Err(BookError::Nothing(_))));
}

#[tokio::test]
async fn a_credit_takes_back_from_lender_and_fees_and_never_more_than_the_lease_cost() {
    let market = market().await;
    let lease = market.borrow().await;
    let credit = async |micros, reference: &str| {
        market.db.credit(By::Program, lease.id, euros(micros), "slow".to_owned(), reference.to_owned()).await
    };
    assert!(matches!(credit(1, "r0").await, Err(BookError::NotSettled)));
    market.clock.advance(HOUR);
    market.give_back(&lease).await;
    let entry = credit(400_000, "r1").await.unwrap();
    assert_eq!((entry.legs.lender, entry.legs.fees), (Micros(-360_000), Micros(-40_000)));
    assert_eq!(credit(400_000, "r1").await.unwrap(), entry, "the same again");
    assert!(matches!(credit(600_001, "r2").await, Err(BookError::TooMuch { .. })));
    credit(600_000, "r2").await.unwrap();
    assert_eq!(market.borrowers().await.balance, Micros(0));
    assert_eq!(market.lenders().await.balance, Micros(0));
    assert_eq!(market.audit().await, []);
}

#[tokio::test]
async fn a_months_statement_leads_from_one_balance_to_the_next() {
    let market = market().await;
    let month = |text: &str| text.parse::<Month>().unwrap();
    let bob = Account::Borrower(market.borrower);
    market.db.deposit(By::Program, "bob".to_owned(), euros(5_000_000), "t1".to_owned()).await.unwrap();
    let mut opening = Micros(0);
    for (name, days) in [("2026-01", 31), ("2026-02", 28)] {
        let lease = market.borrow().await;
        market.clock.advance(HOUR);
        market.give_back(&lease).await;
        market.cleaned(&lease).await;
        let sums = market.db.month_sums(bob, month(name)).await.unwrap();
        assert_eq!((sums.len(), sums[0].opening, sums[0].leases), (1, opening, Micros(-1_000_000)));
        opening = sums[0].closing;
        let entries = market.db.month_entries(bob, month(name), all()).await.unwrap();
        assert_eq!(entries.iter().filter(|entry| entry.used.is_some()).count(), 1);
        market.clock.advance(days * 24 * HOUR);
    }
    assert_eq!(opening, market.borrowers().await.balance);
    assert_eq!(market.db.month_sums(bob, month("2025-12")).await.unwrap(), []);
}

#[tokio::test]
async fn a_months_entries_are_read_page_by_page_oldest_first() {
    let market = market().await;
    for number in 0..5 {
        market.db.deposit(By::Program, "bob".to_owned(), euros(1), format!("t{number}")).await.unwrap();
    }
    let (bob, month) = (Account::Borrower(market.borrower), "2026-01".parse::<Month>().unwrap());
    let (mut read, mut before) = (Vec::new(), None);
    loop {
        let page = market.db.month_entries(bob, month, Page { before, limit: 2 }).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.entry.id.0);
        read.extend(page.iter().map(|entry| entry.entry.occasion.reference().unwrap().to_owned()));
    }
    assert_eq!(read, ["t0", "t1", "t2", "t3", "t4"]);
}

#[tokio::test]
async fn what_was_changed_in_the_database_behind_the_registrys_back_is_found() {
    let market = market().await;
    let lease = market.borrow_with(1, Some(euros(900_000))).await;
    market.clock.advance(HOUR / 2);
    market.give_back(&lease).await;
    market.cleaned(&lease).await;
    market.borrow().await;
    assert_eq!(market.audit().await, []);
    for change in [
        "UPDATE leases SET ended_at_us = ended_at_us - 1 WHERE state = 'settled'",
        "UPDATE leases SET borrower = lender WHERE state = 'settled'",
        "UPDATE leases SET worst_case_micros = 1 WHERE state = 'active'",
        "UPDATE leases SET budget_micros = 1 WHERE state = 'settled'",
        "UPDATE balances SET balance_micros = balance_micros + 1",
        "UPDATE balances SET held_micros = 0",
        "DELETE FROM entries",
    ] {
        market.database.tamper(change).await;
        assert_ne!(market.audit().await, [], "{change}");
    }
}

#[tokio::test]
async fn an_entry_whose_legs_do_not_sum_to_nothing_is_the_databases_to_refuse() {
    let market = market().await;
    let lease = market.borrow().await;
    market.give_back(&lease).await;
    let insert = "INSERT INTO entries (id, at_us, kind, borrower, lender, lease, currency, borrower_micros, lender_micros, \
                  fees_micros, outside_micros, reason, reference) SELECT borrower, at_us, 'credit', borrower, \
                  lender, lease, currency, 10, -8, -1, 0, 'x', 'y' FROM entries";
    let error = market.database.execute(insert).await.unwrap_err();
    assert!(error.to_lowercase().contains("check constraint"), "{error}");
}

#[tokio::test]
async fn a_host_that_is_enrolled_again_is_the_same_host_with_another_token() {
    let market = market().await;
    let enrol = |address: &str, token| Enrol {
        host: HostId(Uuid::new_v4()),
        lender: market.lender,
        address: address.to_owned(),
        token,
        idempotency_key: Some("once".to_owned()),
    };
    let first = market.db.enrol_host(enrol("http://a", [20; 32])).await.unwrap();
    assert_eq!(market.db.enrol_host(enrol("http://a", [21; 32])).await.unwrap(), first);
    for token in [[20; 32], [21; 32]] {
        let access = market.db.access(token, market.clock.now()).await.unwrap();
        assert_eq!(access.map(|access| access.principal), Some(Principal::Host(first)));
    }
    let other = market.db.enrol_host(enrol("http://b", [22; 32])).await;
    assert!(matches!(other, Err(EnrolError::IdempotencyKeyReused)));
}

#[tokio::test]
async fn a_new_key_raises_the_epoch_of_a_free_partition_and_is_refused_while_it_is_lent() {
    let market = market().await;
    let offer = ChangeOffer { terms: terms(1_000_000), new_key: true };
    let change =
        |version| market.db.change(market.host, market.partition, TermsVersion(version), offer.clone());
    let changed = change(1).await.unwrap();
    assert_eq!((changed.epoch, changed.version), (Epoch(1), TermsVersion(2)));
    assert_eq!(market.borrow_with(2, None).await.epoch, Epoch(2));
    let refused = change(2).await;
    assert!(matches!(refused, Err(RegisterError::NotAllowed(RegistrationNotAllowed::Lent))));
}
