//! F6 and F7 with a crash at each step of either party, one after the other, over a network that is well: afterwards
//! registry and host both have what was asked for, or neither has [0055].

use std::{rc::Rc, time::Duration};

use tokio::{
    task::LocalSet,
    time::{Instant, sleep},
};

use super::{
    BROKEN, carved,
    doom::Place,
    driver::{Command, Wanted},
    enrol,
    host::Host,
    laws::Laws,
    network::{Dice, Network},
    registry::{Ask, Line, RegistryProcess},
};
use crate::{
    agent::partition::table::PartitionRow,
    api::{
        registry::{Heartbeat, LeaseGranted, LendingState, RegisteredPartition},
        secret::Secret,
    },
    domain::{
        partition::State,
        terms::{Epoch, Terms},
    },
    registry::resource_db::AccountKind,
};

/// How long somebody is dead.
const DEAD: Duration = Duration::from_millis(300);
/// Longest until the two agree again: a question to the dead is given up, and the next heartbeat is answered.
const REPAIRED_IN: Duration = Duration::from_secs(6);
/// Longest that an operation takes, deaths included.
const OPERATION: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Register,
    RegisterAgain,
    ChangePrice,
    ChangeAllocation,
    ChangeKey,
    Withdraw,
}

impl Operation {
    const ALL: [Self; 6] = [
        Self::Register,
        Self::RegisterAgain,
        Self::ChangePrice,
        Self::ChangeAllocation,
        Self::ChangeKey,
        Self::Withdraw,
    ];

    /// What the host's owner did before.
    fn before(self) -> Vec<Command> {
        match self {
            Self::Register => vec![],
            Self::RegisterAgain => vec![Command::Offer, Command::Withdraw],
            _ => vec![Command::Offer],
        }
    }

    fn is_of_what_is_on_offer(self) -> bool {
        !matches!(self, Self::Register | Self::RegisterAgain)
    }

    fn command(self) -> Command {
        let as_it_is = Wanted { per_hour_micros: 3_600_000, memory_mib: 256, new_key: false };
        match self {
            Self::Register | Self::RegisterAgain => Command::Offer,
            Self::ChangePrice => Command::Change(Wanted { per_hour_micros: 1_800_000, ..as_it_is }),
            Self::ChangeAllocation => Command::Change(Wanted { memory_mib: 512, ..as_it_is }),
            Self::ChangeKey => Command::Change(Wanted { new_key: true, ..as_it_is }),
            Self::Withdraw => Command::Withdraw,
        }
    }
}

/// What the two have of the partition.
#[derive(Debug, Clone, PartialEq)]
struct Both {
    host: PartitionRow,
    registry: Option<RegisteredPartition>,
}

impl Both {
    /// Whether neither has anything that the other has not, and there is nothing left to do.
    fn agree(&self) -> bool {
        let PartitionRow { partition, effects, .. } = &self.host;
        let same = match (&partition.state, &self.registry) {
            (State::Carved | State::Withdrawn, None) => true,
            (State::Offered { change: None }, Some(view)) => {
                let voided = match view.state {
                    LendingState::Lent { .. } => Epoch(view.epoch.0 - 1),
                    LendingState::Free | LendingState::AwaitingClean { .. } => view.epoch,
                };
                view.terms == partition.terms
                    && Some(view.version) == partition.version
                    && partition.least_epoch > voided
            }
            _ => false,
        };
        same && effects.is_empty()
    }

    fn on_offer(&self) -> Option<(&Terms, Epoch)> {
        self.registry.as_ref().map(|view| (&view.terms, view.epoch))
    }
}

/// One host, one partition, one borrower.
struct Stage {
    registry: Rc<RegistryProcess>,
    laws: Rc<Laws>,
    host: Rc<Host>,
    borrower: Secret,
}

impl Stage {
    fn new() -> Self {
        let network = Network::new(&Rc::new(Dice::new(0)));
        network.heal();
        let registry = RegistryProcess::new();
        let laws = Laws::new(&registry);
        let line = Line { network, registry: Rc::clone(&registry) };
        let lender = registry.token(AccountKind::Lender, "alice");
        let host = enrol(&line, &laws, &lender, 1_000_000);
        host.carve([carved(1)].into_iter());
        host.start();
        let borrower = registry.token(AccountKind::Borrower, "bob");
        Self { registry, laws, host, borrower }
    }

    fn both(&self) -> Both {
        let row = self.host.rows().remove(0);
        Both { registry: self.laws.registered(self.host.id).remove(&row.id), host: row }
    }

    /// Whether it comes to be so in time.
    async fn comes_to(&self, most: Duration, mut so: impl FnMut(&Both) -> bool) -> bool {
        let until = Instant::now() + most;
        while Instant::now() < until {
            if so(&self.both()) {
                return true;
            }
            sleep(LOOK_EVERY).await;
        }
        false
    }

    /// Has the owner's wish done, whole.
    async fn done(&self, command: Command) {
        let before = self.both();
        self.wish(command).await;
        let is_done = self.comes_to(OPERATION, |both| *both != before && both.agree()).await;
        assert!(is_done, "{:?}", self.both());
    }

    async fn wish(&self, command: Command) {
        let inbox = self.host.inbox(self.both().host.id).unwrap();
        assert!(inbox.send(command).await.is_ok(), "the agent lives");
    }

    /// Somebody has just borrowed it, and the host has not heard of it yet.
    fn lend(&self) {
        let view = self.both().registry.unwrap();
        let beat = self.host.question("POST", "heartbeat", &Heartbeat::default());
        self.registry.answer(&beat).unwrap().unwrap();
        let wish = serde_json::json!({
            "host": view.host, "partition": view.partition, "terms_version": view.version, "duration_seconds": 20,
        });
        let lend = Ask::new("POST", "/v1/leases".to_owned(), &self.borrower, &wish);
        let granted = self.registry.answer(&lend).unwrap().unwrap();
        serde_json::from_value::<LeaseGranted>(granted).unwrap();
    }

    /// Whoever died is started again; the host's machines went on.
    async fn revive(&self, place: Place) {
        sleep(DEAD).await;
        match place {
            Place::BeforeTable | Place::AfterTable | Place::AfterEffect => self.host.start(),
            Place::TableRefuses => {}
            Place::BeforeCommit | Place::BeforeAnswer => self.registry.start(),
        }
    }
}

/// Does the operation with somebody's death at this pass of the place; false: it was over before that.
async fn dies_in(operation: Operation, is_lent: bool, place: Place, pass: u32) -> bool {
    let stage = Stage::new();
    let named = format!("{operation:?}, lent meanwhile: {is_lent}, {place:?}, pass {pass}");
    for command in operation.before() {
        stage.done(command).await;
    }
    if is_lent {
        stage.lend();
    }
    let (before, stored) = (stage.both(), stage.host.stored.get());
    let doom = Rc::clone(&stage.registry.doom);
    doom.await_at(place, pass);
    stage.wish(operation.command()).await;
    let is_over = |both: &Both| stage.host.stored.get() > stored && both.agree();
    let ended = stage.comes_to(OPERATION, |both| doom.has_struck() || is_over(both)).await;
    assert!(ended, "{named}: it does not end: {:?}", stage.both());
    if doom.has_struck() {
        stage.revive(place).await;
    }
    let repaired = stage.comes_to(REPAIRED_IN, Both::agree).await;
    let after = stage.both();
    assert!(repaired, "{named}: the two do not agree: {after:?}");
    assert_both_or_neither(&named, (operation, is_lent), (place, pass), &before, &after);
    doom.has_struck()
}

fn assert_both_or_neither(
    named: &str,
    (operation, is_lent): (Operation, bool),
    (place, pass): (Place, u32),
    before: &Both,
    after: &Both,
) {
    let neither = after.on_offer() == before.on_offer();
    let raised = |epochs| before.on_offer().map(|(terms, epoch)| (terms, Epoch(epoch.0 + epochs)));
    let both = match (operation, after.on_offer()) {
        (Operation::Register | Operation::RegisterAgain, Some((terms, _))) => {
            *terms == before.host.partition.terms
        }
        (Operation::ChangePrice, Some((terms, _))) => terms.price.per_hour_micros == 1_800_000,
        (Operation::ChangeAllocation, Some((terms, _))) => terms.allocation.memory_mib == 512,
        (Operation::ChangeKey, is) => is == raised(1),
        (Operation::Withdraw, is) => is.is_none(),
        _ => false,
    };
    assert!(both || neither, "{named}: half of it is done: {after:?}");
    // What its owner was promised is done: the wish was written down, and the registry has not refused.
    let is_unwritten = matches!(place, Place::BeforeTable | Place::TableRefuses) && pass == 1;
    let refused = is_lent || is_unwritten;
    let promised = !matches!(place, Place::BeforeCommit | Place::BeforeAnswer);
    assert!(both != refused || (neither && !promised), "{named}: {after:?}");
}

fn history(operation: Operation, is_lent: bool, place: Place, pass: u32) -> bool {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    BROKEN.set(false);
    let died = LocalSet::new().block_on(&runtime, dies_in(operation, is_lent, place, pass));
    assert!(!BROKEN.get(), "something broke, as is told above");
    died
}

#[test]
fn register_change_and_withdraw_are_done_by_both_or_by_neither_whoever_dies_at_whichever_step() {
    let lent = Operation::ALL.into_iter().filter(|operation| operation.is_of_what_is_on_offer());
    let all = Operation::ALL.into_iter().map(|operation| (operation, false));
    let cases: Vec<_> = all.chain(lent.map(|operation| (operation, true))).collect();
    std::thread::scope(|scope| {
        for half in [0, 1] {
            let cases = cases.iter().skip(half).step_by(2);
            scope.spawn(move || {
                for (operation, is_lent) in cases {
                    for place in Place::ALL {
                        let deaths = (1..).take_while(|pass| history(*operation, *is_lent, place, *pass));
                        let deaths = deaths.count();
                        println!("{operation:?}, lent meanwhile: {is_lent}: {deaths} deaths {place:?}");
                        assert!(deaths > 0, "nobody died {place:?}");
                    }
                }
            });
        }
    });
}
