//! Where somebody dies, at an exact step.

use std::cell::Cell;

/// A step between two things that host and registry both know after a crash, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The host is about to write down what was decided, or what came of it.
    BeforeTable,
    /// The host's table does not take it, and the agent lives on.
    TableRefuses,
    /// The host has written it down, and nothing of it is done.
    AfterTable,
    /// The host has done it, or was granted it, and its table does not know.
    AfterEffect,
    /// The registry has heard a question, and nothing of it is durable.
    BeforeCommit,
    /// What the registry was asked for is durable, and nobody was told.
    BeforeAnswer,
}

impl Place {
    pub(super) const ALL: [Self; 6] = [
        Self::BeforeTable,
        Self::TableRefuses,
        Self::AfterTable,
        Self::AfterEffect,
        Self::BeforeCommit,
        Self::BeforeAnswer,
    ];
}

/// Strikes once, at a certain pass of a place.
#[derive(Default)]
pub(super) struct Doom {
    at: Cell<Option<(Place, u32)>>,
    has_struck: Cell<bool>,
}

impl Doom {
    /// At pass number `pass` from now on, from 1.
    pub(super) fn await_at(&self, place: Place, pass: u32) {
        self.at.set(Some((place, pass)));
    }

    /// Whether it is here and now that whoever comes by dies.
    pub(super) fn strikes(&self, place: Place) -> bool {
        let Some((at, passes_left)) = self.at.get().filter(|(at, _)| *at == place) else { return false };
        let strikes = passes_left == 1;
        self.at.set((!strikes).then_some((at, passes_left - 1)));
        self.has_struck.set(self.has_struck.get() || strikes);
        strikes
    }

    pub(super) fn has_struck(&self) -> bool {
        self.has_struck.get()
    }
}
