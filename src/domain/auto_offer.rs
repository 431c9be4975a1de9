//! When what is spare is offered by itself [0033], and when it is taken back.

use std::time::Duration;

/// What the owner has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long there must have been as much to spare before it is offered.
    pub spare_for: Duration,
    /// Most partitions that are offered so at a time.
    pub at_most: usize,
}

/// The host at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// One more partition leaves the reserve its minimum, and the owner's work what it uses now.
    pub is_spare: bool,
    /// The owner's work has less than it is to have.
    pub is_short: bool,
    /// Partitions that were offered so.
    pub offered: usize,
    /// Those of them that are not lent.
    pub free: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Wait,
    /// Carve another one, and offer it.
    Offer,
    /// Withdraw one that is free, and release it. One that is lent stays (law 3).
    Withdraw,
}

/// The policy, and since when there was something to spare.
#[derive(Debug, Clone)]
pub struct AutoOffer {
    policy: Policy,
    spare_since: Option<Duration>,
}

impl AutoOffer {
    pub fn new(policy: Policy) -> Self {
        Self { policy, spare_since: None }
    }

    /// What to do at this moment, on a clock that is never set back.
    pub fn look(&mut self, at: Duration, seen: &Seen) -> Step {
        if seen.is_short {
            self.spare_since = None;
            return if seen.free > 0 { Step::Withdraw } else { Step::Wait };
        }
        if !seen.is_spare || seen.offered >= self.policy.at_most {
            self.spare_since = None;
            return Step::Wait;
        }
        let since = *self.spare_since.get_or_insert(at);
        if at.saturating_sub(since) < self.policy.spare_for {
            return Step::Wait;
        }
        // Whether there is more to spare is seen when this one is there.
        self.spare_since = None;
        Step::Offer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPARE: Seen = Seen { is_spare: true, is_short: false, offered: 0, free: 0 };
    const TAKEN: Seen = Seen { is_spare: false, ..SPARE };
    const SHORT: Seen = Seen { is_short: true, offered: 2, free: 1, ..TAKEN };

    /// What is done at each second.
    fn steps(seen: &[Seen]) -> Vec<Step> {
        let mut auto = AutoOffer::new(Policy { spare_for: Duration::from_secs(2), at_most: 2 });
        (0..).zip(seen).map(|(second, seen)| auto.look(Duration::from_secs(second), seen)).collect()
    }

    #[test]
    fn what_was_spare_long_enough_is_offered_and_the_next_waits_as_long() {
        use Step::{Offer, Wait};
        assert_eq!(steps(&[SPARE; 6]), [Wait, Wait, Offer, Wait, Wait, Offer]);
        assert_eq!(steps(&[SPARE, SPARE, TAKEN, SPARE, SPARE]), [Wait; 5], "without a pause");
        let both = Seen { offered: 2, ..SPARE };
        assert_eq!(steps(&[both; 5]), [Wait; 5], "no more than was said");
    }

    #[test]
    fn when_the_owner_is_short_free_ones_are_withdrawn_at_once_and_lent_ones_stay() {
        assert_eq!(steps(&[SHORT]), [Step::Withdraw]);
        assert_eq!(steps(&[Seen { free: 0, ..SHORT }]), [Step::Wait]);
        assert_eq!(steps(&[SPARE, SPARE, Seen { free: 0, ..SHORT }, SPARE, SPARE]), [Step::Wait; 5]);
    }
}
