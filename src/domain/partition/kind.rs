//! For whom a partition is, and when it is built.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{NotAllowed, Partition, State};

/// Stays what it is until the partition is released.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Its disk is there from its carving on, its machine from its offer on.
    #[default]
    Standing,
    /// Offered as a promise, against what the host has; disk and machine are built when it is borrowed (fig. 5, S6–S7)
    /// and are gone after the lease.
    Declared,
    /// The owner's own: never offered, and built when the owner starts to use it [0018].
    Owners,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standing => "standing",
            Self::Declared => "declared",
            Self::Owners => "owner's",
        })
    }
}

impl Partition {
    /// Whether what is promised with it is taken from the reserve already [0052].
    pub fn is_created(&self) -> bool {
        self.kind != Kind::Declared || matches!(self.state, State::Lent { .. } | State::Scrubbing { .. })
    }

    /// Whether its disk is to be there.
    pub fn has_disk(&self) -> bool {
        self.kind != Kind::Declared || matches!(self.state, State::Lent { .. })
    }

    /// Whether its machine is to be there.
    pub fn needs_machine(&self) -> Result<(), NotAllowed> {
        match self.state {
            State::Carved | State::Withdrawn | State::Released => Err(NotAllowed::NotOffered),
            State::Scrubbing { clean: false, .. } => Err(NotAllowed::NotReady),
            State::Lent { .. } => Ok(()),
            _ if self.kind == Kind::Standing => Ok(()),
            _ => Err(NotAllowed::NotReady),
        }
    }

    /// Whether somebody else pays for its leases, and is given receipts of them.
    pub fn is_receipted(&self) -> bool {
        self.kind != Kind::Owners
    }

    /// Whether its machine is built when it is opened, rather than before.
    pub fn is_built_when_opened(&self) -> bool {
        self.kind != Kind::Standing
    }
}
