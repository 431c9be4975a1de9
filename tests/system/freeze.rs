//! Frozen, for real: root of a lender's host changes what was set aside for a lent partition, behind the agent's back. First
//! with the agent stopped, to show the harm, then with it awake. It is put back, told, signed and credited.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    loan::Loan,
    world::{AN_HOUR, PATIENCE, SMALL, World, output, shell, world},
};
use sublet::{
    api::{agent::PartitionState, registry::Lease},
    domain::{
        id::{LeaseId, PartitionId},
        ledger::entry::Occasion,
        receipt::{
            chain::{Receipt, Totals},
            segment::Violation,
        },
    },
};
use sublet_lab::attacks::{ATTACKS, Attack, Harm, undisturbed};

/// Changes something, and waits until it is put back; how long that took, to a hundredth of a second.
fn attack(world: &World, partition: PartitionId, attack: &Attack) -> Duration {
    let said = world.on_host(&attack.timed(&partition.to_string(), PATIENCE.as_secs()));
    let hundredths: u64 = said.lines().last().unwrap().trim().parse().unwrap();
    Duration::from_millis(hundredths * 10)
}

/// Says how much of the time a vCPU ran.
fn thousandths(said: &str) -> u32 {
    said.lines().last().unwrap().trim().parse().unwrap()
}

/// Processes of the owner's that never rest, so many that each CPU they get has several. Each in a session of its own: the
/// kernel gives each session its share (sched(7), autogroups).
struct Load<'a>(&'a World);

impl<'a> Load<'a> {
    fn begin(world: &'a World) -> Self {
        world.on_host(
            "touch /run/loaded
             for worker in $(seq $((4 * $(nproc)))); do
                 setsid sh -c 'while [ -e /run/loaded ]; do :; done' >/dev/null 2>&1 </dev/null &
             done",
        );
        Self(world)
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        let _ = self.0.lab_host.exec(["rm", "/run/loaded"]);
    }
}

fn lease(world: &World, lease: LeaseId) -> Lease {
    world.wait(world.borrower.lease(lease)).unwrap()
}

/// What the lease shows, once it shows all of these.
fn wait_for_violations(world: &World, loan: &Loan, wanted: &BTreeSet<&str>) -> Vec<Violation> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let violations = lease(world, loan.granted.lease.id).violations;
        let told: BTreeSet<&str> = violations.iter().map(|violation| violation.what.as_str()).collect();
        if wanted.is_subset(&told) {
            return violations;
        }
        assert!(Instant::now() < deadline, "the lease shows {violations:?}, and not all of {wanted:?}");
    }
}

/// The whole receipt, once the registry has its last segment.
fn wait_for_receipt(world: &World, lease: LeaseId) -> Receipt {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let receipt = world.wait(world.borrower.receipt(lease)).unwrap();
        let last = receipt.segments.last().and_then(|segment| segment.said().ok());
        if last.is_some_and(|segment| segment.end.is_some()) {
            return receipt;
        }
        assert!(Instant::now() < deadline, "the registry has {} segments alone", receipt.segments.len());
    }
}

fn audited(world: &World) -> String {
    let file = world.directory.join("export");
    let registry = Command::new(world.programs.join("sublet-registry"))
        .arg("--database")
        .arg(world.directory.join("registry.db"))
        .arg("export")
        .arg(&file)
        .output()
        .unwrap();
    assert!(registry.status.success(), "{}", String::from_utf8_lossy(&registry.stderr));
    let audit = output(world.sublet(&["audit", file.to_str().unwrap()]));
    String::from_utf8(audit.stdout).unwrap()
}

#[test]
fn what_root_changes_behind_the_agents_back_is_put_back_told_signed_and_credited() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    let busy = shell("debian-micro", "echo begun; while :; do :; done");
    world.wait(async {
        let job = loan.submit(busy).await.unwrap();
        loan.wait_for_output(job.id, "begun").await;
    });
    let wanted: BTreeSet<&str> = ATTACKS.iter().map(|attack| attack.watched).collect();
    let partition = offer.id.to_string();

    // Nobody guards: each change stays, and does harm, until the agent goes on.
    let load = Load::begin(world);
    let undisturbed = thousandths(&world.on_host(&undisturbed(&partition)));
    assert!(undisturbed > 900, "the vCPU ran {undisturbed} thousandths of the time");
    for attack in &ATTACKS {
        world.on_host("kill -STOP $(cat /run/sublet-agent.pid)");
        let ran = thousandths(&world.on_host(&attack.unanswered(&partition)));
        world.on_host("kill -CONT $(cat /run/sublet-agent.pid)");
        world.on_host(&attack.until_put_back(&partition));
        eprintln!("{}: the vCPU ran {ran} thousandths of the time", attack.watched);
        assert!(ran < 800 || attack.harm != Harm::Time, "{attack:?} does no harm: {ran}");
    }
    drop(load);
    let told = wait_for_violations(world, &loan, &wanted);
    assert!(told.iter().all(|violation| violation.before != violation.after), "{told:?}");

    // Guarded: each change is gone before long; one second is promised, and how long it was is told.
    for attacking in &ATTACKS {
        let noticed = attack(world, offer.id, attacking);
        eprintln!("{}: put back after {noticed:?}", attacking.watched);
    }
    world.wait_for_partition(offer.id, |view| view.state == PartitionState::Lent);

    let ended = loan.end().end.unwrap();
    let receipt = wait_for_receipt(world, loan.granted.lease.id);
    let terms = loan.granted.lease.receipts.unwrap();
    let segments = receipt.verify(terms.key).unwrap();
    let totals = Totals::of(&segments);
    assert!(totals.stopped > Duration::ZERO && totals.lacking > Duration::ZERO, "{totals:?}");
    assert!(totals.unwatched > Duration::ZERO, "an agent that does not run watches nothing: {totals:?}");
    let violations = segments.iter().flat_map(|segment| &segment.violations);
    let signed: BTreeSet<&str> = violations.map(|violation| violation.what.as_str()).collect();
    assert!(wanted.is_subset(&signed), "{signed:?}");
    let measured = segments.iter().rev().find_map(|segment| segment.guest.as_ref()).unwrap().measured();
    assert_eq!(measured.unwrap().cpus.len(), 1, "the guest's runner has said what it measured");

    let entries = world.wait(world.borrower.ledger()).unwrap().entries;
    let is_credit = |of: &Occasion| of.is_of_receipt() && of.lease() == Some(loan.granted.lease.id);
    let credit = entries.into_iter().find(|entry| is_credit(&entry.entry.occasion)).unwrap();
    assert!(credit.entry.legs.borrower.0 > 0 && credit.entry.legs.borrower <= ended.charge);
    let audit = audited(world);
    assert!(audit.contains("everything agrees"), "{audit}");

    let file = world.directory.join("receipt.json");
    fs::write(&file, serde_json::to_string(&receipt).unwrap()).unwrap();
    let check = |file: &str| {
        let key = terms.key.to_string();
        output(world.sublet(&["receipt", "--verify", "--receipt-key", &key, "--file", file]))
    };
    let checked = check(file.to_str().unwrap());
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.contains("violation"), "{checked:?}");
    let forged = fs::read_to_string(&file).unwrap().replacen("stopped_ns\\\":", "stopped_ns\\\":1", 1);
    fs::write(&file, forged).unwrap();
    assert!(!check(file.to_str().unwrap()).status.success());
}

#[test]
fn a_lease_says_how_its_partition_was_cleaned_and_its_receipt_can_be_read_while_it_runs() {
    let world = world();
    let offer = world.offer(SMALL);
    let first = world.borrow(offer.id, AN_HOUR);
    first.end();
    world.wait_for_partition(offer.id, |view| view.state == PartitionState::Offered);

    let second = world.borrow(offer.id, AN_HOUR);
    let receipt = world.wait(second.agent.receipt(offer.id, None)).unwrap();
    let segments = receipt.verify(second.granted.lease.receipts.unwrap().key).unwrap();
    let opening = segments.first().unwrap();
    assert_eq!(opening.cleaned.unwrap().after, first.granted.lease.id);
    assert_eq!(opening.set_aside.allocation, SMALL);
    assert_eq!(opening.set_aside.cpus.len(), 1);
    let of_another = world.wait(second.agent.receipt(offer.id, Some(first.granted.lease.id)));
    assert!(of_another.is_err(), "a receipt is its own borrower's business");

    // With a guest that has run, and nobody who changed anything, there is nothing to tell.
    assert_eq!(second.shell("echo alive").success(), "alive\n");
    second.end();
    let receipt = wait_for_receipt(world, second.granted.lease.id);
    let segments = receipt.verify(second.granted.lease.receipts.unwrap().key).unwrap();
    let violations: Vec<_> = segments.iter().flat_map(|segment| &segment.violations).collect();
    assert!(violations.is_empty(), "{violations:?}");
    let totals = Totals::of(&segments);
    assert_eq!((totals.lacking, totals.stopped), (Duration::ZERO, Duration::ZERO), "{totals:?}");
}
