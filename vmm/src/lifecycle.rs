//! What state a machine is in, what may be done in it, and when it changes.
//!
//! ```text
//!            boot                 the guest, kill, stop_at
//! Prepared ────────▶ Running ──────────────────────────────▶ Off{how}
//!     │                                                        ▲
//!     └──────────────────────── kill ──────────────────────────┘
//! ```
//!
//! Pure: no clock, no KVM. A machine is never prepared twice and never runs twice: what a guest has touched is not
//! handed to another. `release` ends the process in any state. Each arrow adds one to the generation.

use sublet_vmm_protocol::{Ended, MachineState};

/// What a request wants to do to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Boot,
    Stop,
    Kill,
}

/// State and how often it has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    state: MachineState,
    generation: u64,
}

impl Lifecycle {
    /// A machine as it is when its VMM is ready.
    pub fn prepared() -> Self {
        Self { state: MachineState::Prepared, generation: 1 }
    }

    pub fn state(&self) -> &MachineState {
        &self.state
    }

    /// Grows by one with each change of state.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the state allows it; if not, why, for people.
    pub fn admit(&self, action: Action) -> Result<(), &'static str> {
        match (action, &self.state) {
            (Action::Boot, MachineState::Prepared)
            | (Action::Stop, MachineState::Running { .. })
            // Killing a guest that has ended asks for what is so already; a caller that was cut off may repeat it.
            | (Action::Kill, _) => Ok(()),
            (Action::Boot, MachineState::Running { .. }) => Err("the machine runs already"),
            (Action::Boot, MachineState::Off { .. }) => {
                Err("the machine has run; prepare another for another guest")
            }
            (Action::Stop, MachineState::Prepared) => Err("nothing has been booted"),
            (Action::Stop, MachineState::Off { .. }) => Err("the guest has ended"),
        }
    }

    /// `Prepared → Running`. Anywhere else nothing happens.
    pub fn started(&mut self, since_boottime_ns: u64) {
        if self.state == MachineState::Prepared {
            self.change(MachineState::Running { since_boottime_ns });
        }
    }

    /// To `Off`. Only the first end counts.
    pub fn ended(&mut self, how: Ended) {
        if !matches!(self.state, MachineState::Off { .. }) {
            self.change(MachineState::Off { how });
        }
    }

    fn change(&mut self, state: MachineState) {
        self.state = state;
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use sublet_vmm_protocol::Stopped;

    use super::*;

    const KILLED: Ended = Ended::Killed { by: Stopped::Request };

    #[derive(Debug, Clone)]
    enum Step {
        Started(u64),
        Ended(Ended),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<u64>().prop_map(Step::Started),
            prop_oneof![Just(Ended::PoweredOff), Just(Ended::Panicked), Just(KILLED)].prop_map(Step::Ended),
        ]
    }

    fn rank(state: &MachineState) -> u8 {
        match state {
            MachineState::Prepared => 0,
            MachineState::Running { .. } => 1,
            MachineState::Off { .. } => 2,
        }
    }

    #[test]
    fn a_guest_boots_once_and_only_from_prepared() {
        let mut life = Lifecycle::prepared();
        assert!(life.admit(Action::Boot).is_ok());
        life.started(5);
        assert_eq!(life.state(), &MachineState::Running { since_boottime_ns: 5 });
        assert!(life.admit(Action::Boot).is_err());
        life.ended(Ended::PoweredOff);
        assert!(life.admit(Action::Boot).is_err());
    }

    #[test]
    fn only_a_running_guest_can_be_asked_to_stop() {
        let mut life = Lifecycle::prepared();
        assert!(life.admit(Action::Stop).is_err());
        life.started(5);
        assert!(life.admit(Action::Stop).is_ok());
        life.ended(Ended::Rebooted);
        assert!(life.admit(Action::Stop).is_err());
    }

    #[test]
    fn the_first_end_is_the_one_that_is_told() {
        let mut life = Lifecycle::prepared();
        life.started(5);
        life.ended(Ended::Panicked);
        life.ended(Ended::Rebooted);
        assert_eq!(life.state(), &MachineState::Off { how: Ended::Panicked });
        assert_eq!(life.generation(), 3);
    }

    #[test]
    fn a_machine_that_never_ran_can_be_killed() {
        let mut life = Lifecycle::prepared();
        assert!(life.admit(Action::Kill).is_ok());
        life.ended(KILLED);
        assert_eq!((life.state(), life.generation()), (&MachineState::Off { how: KILLED }, 2));
    }

    proptest! {
        #[test]
        fn states_only_go_forward_and_each_change_is_counted(steps in vec(any_step(), 0..12)) {
            let mut life = Lifecycle::prepared();
            for step in steps {
                let before = life.clone();
                match step {
                    Step::Started(since) => life.started(since),
                    Step::Ended(how) => life.ended(how),
                }
                prop_assert!(rank(life.state()) >= rank(before.state()));
                let changed = u64::from(life.state() != before.state());
                prop_assert_eq!(life.generation(), before.generation() + changed);
            }
        }
    }
}
