//! Whether the registry may have granted already what it is to be asked: the answer was lost, or the agent died over it.

use crate::{agent::registry_link::Answer, domain::partition::Effect};

/// What this agent does not know of the question that it has to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt(bool);

impl Doubt {
    /// An agent that starts finds these effects still to be done: the one before may have died over the first question.
    pub fn of_pending(effects: &[Effect]) -> Self {
        Self(effects.iter().any(Effect::is_a_question))
    }

    /// These are to be done now.
    pub fn pending(&mut self, effects: &[Effect]) {
        self.0 &= effects.iter().any(Effect::is_a_question);
    }

    /// `effect` is done; another question was not asked before.
    pub fn done(&mut self, effect: &Effect) {
        self.0 &= !effect.is_a_question();
    }

    /// `effect` has failed; `certain`: nothing of it was done, this time or before.
    pub fn failed(&mut self, effect: &Effect, certain: bool) {
        self.0 |= effect.is_a_question() && !certain;
    }

    /// Whether what was asked is certainly not granted.
    pub fn is_refused<T>(self, answer: &Answer<T>) -> bool {
        match answer {
            Answer::No(_) => true,
            Answer::NotAsked(_) => !self.0,
            Answer::Yes(_) | Answer::Unknown(_) => false,
        }
    }
}
