//! What is still to be done about a partition.

use super::{Effect, Event, Partition, State, Transition};

/// Adds to `pending` what a transition asks for, and drops what need not be done any more.
pub fn add(pending: &mut Vec<Effect>, transition: &Transition) {
    for effect in &transition.effects {
        pending.retain(|before| !effect.retires(before));
        if !effect.is_a_report() {
            pending.push(effect.clone());
        } else if !pending.contains(effect) {
            // The registry may refuse what it is asked until it has heard the report.
            let before = pending.iter().position(Effect::is_a_question).unwrap_or(pending.len());
            pending.insert(before, effect.clone());
        }
    }
    pending.retain(|effect| effect.belongs_to(&transition.partition.state));
}

/// What it means that `effect` was certainly not done; none: it stays to be done.
pub fn undo(partition: &Partition, effect: &Effect) -> Option<Event> {
    match (effect, &partition.state) {
        (Effect::PrepareMachine | Effect::Register, State::Offering { .. }) => Some(Event::NotRegistered),
        (Effect::AskChange, State::Offered { change: Some(_) }) => Some(Event::ChangeRefused),
        (Effect::Unregister, State::Withdrawing) if partition.version.is_some() => {
            Some(Event::StillRegistered)
        }
        _ => None,
    }
}

impl Effect {
    /// Whether `before`, which was not done yet, need not be done any more when this is to be done.
    fn retires(&self, before: &Self) -> bool {
        match self {
            Self::Remove => true,
            Self::DiscardMachine => {
                let of_machine = [Self::PrepareMachine, Self::GuardEnd, Self::MoveEnd];
                of_machine.contains(before) || matches!(before, Self::BootAgain { .. })
            }
            Self::Unregister => before.is_a_question(),
            _ => false,
        }
    }

    /// Whether it is asked of the registry, whose answer may be lost.
    pub fn is_a_question(&self) -> bool {
        matches!(self, Self::Register | Self::AskChange | Self::Unregister)
    }

    /// The registry hears it once, however often it was asked for.
    fn is_a_report(&self) -> bool {
        matches!(self, Self::ReportEnded { .. } | Self::ReportCleaned { .. })
    }

    /// Whether it is still to be done in this state. What was asked of the registry, and may have been answered with
    /// the state's change, is not asked again: its refusal would hold up all that comes after it.
    fn belongs_to(&self, state: &State) -> bool {
        match self {
            Self::Register => matches!(state, State::Offering { .. } | State::Offered { .. }),
            Self::AskChange => matches!(state, State::Offered { change: Some(_) }),
            Self::Unregister => matches!(state, State::Withdrawing),
            _ => true,
        }
    }
}
