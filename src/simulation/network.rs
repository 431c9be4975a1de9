//! A network that loses, doubles, delays and by that reorders messages.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    rc::Rc,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::spawn;

/// How long a caller waits for an answer; some messages are on their way for longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Of a hundred messages so many are lost, and so many come twice.
const LOST_PERCENT: u32 = 8;
const DOUBLED_PERCENT: u32 = 8;
/// Longest ways of messages, in milliseconds: of one in a hundred, of one in ten, of the rest.
const SLOW_MS: [(u32, u64); 3] = [(1, 6000), (10, 1000), (100, 40)];
const HEALED_MS: u64 = 5;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// Nobody was there to be asked.
    NotAsked,
    /// It may have been asked.
    Silent,
}

/// All chance there is, from one seed.
pub(super) struct Dice(RefCell<StdRng>);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(RefCell::new(StdRng::seed_from_u64(seed)))
    }

    /// 0 to `sides` - 1.
    pub(super) fn roll(&self, sides: u64) -> u64 {
        self.0.borrow_mut().random_range(0..sides.max(1))
    }

    pub(super) fn percent(&self, of_a_hundred: u32) -> bool {
        self.roll(100) < u64::from(of_a_hundred)
    }

    pub(super) fn up_to_ms(&self, most: u64) -> Duration {
        Duration::from_millis(self.roll(most + 1))
    }
}

pub(super) struct Network {
    pub(super) dice: Rc<Dice>,
    healed: Cell<bool>,
}

impl Network {
    pub(super) fn new(dice: &Rc<Dice>) -> Rc<Self> {
        Rc::new(Self { dice: Rc::clone(dice), healed: Cell::new(false) })
    }

    pub(super) fn heal(&self) {
        self.healed.set(true);
    }

    pub(super) fn is_healed(&self) -> bool {
        self.healed.get()
    }

    /// Has `callee` do something, once, twice or not at all, now or later; its first answer, if one comes in time. A
    /// callee that is not there answers `None`. What is under way goes on when the caller is gone.
    pub(super) async fn call<A, F>(self: &Rc<Self>, callee: impl Fn() -> F + 'static) -> Result<A, Unanswered>
    where
        A: 'static,
        F: Future<Output = Option<A>> + 'static,
    {
        let callee = Rc::new(callee);
        let copies = if self.happens(DOUBLED_PERCENT) { 2 } else { 1 };
        let (tell, mut told) = mpsc::unbounded_channel();
        for _ in 0..copies {
            let (network, callee, tell) = (Rc::clone(self), Rc::clone(&callee), tell.clone());
            spawn(async move {
                let Some(()) = network.carries().await else { return };
                let answer = match callee().await {
                    Some(answer) => network.carries().await.map(|()| Ok(answer)),
                    None => (copies == 1).then_some(Err(Unanswered::NotAsked)),
                };
                // Whoever asked may have given up.
                answer.into_iter().for_each(|answer| drop(tell.send(answer)));
            });
        }
        // `tell` is kept: what is lost is not known to be lost.
        let answered = timeout(PATIENCE, told.recv()).await;
        drop(tell);
        answered.ok().flatten().unwrap_or(Err(Unanswered::Silent))
    }

    fn happens(&self, percent: u32) -> bool {
        !self.is_healed() && self.dice.percent(percent)
    }

    /// A message's way; none: it is lost on it.
    async fn carries(&self) -> Option<()> {
        if self.happens(LOST_PERCENT) {
            return None;
        }
        let slow = SLOW_MS.into_iter().find(|(percent, _)| self.dice.percent(*percent));
        let longest_ms = slow.filter(|_| !self.is_healed()).map_or(HEALED_MS, |(_, longest_ms)| longest_ms);
        sleep(Duration::from_millis(1) + self.dice.up_to_ms(longest_ms)).await;
        Some(())
    }
}
