//! What happens to a partition.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Change, OpenLease};
use crate::domain::{
    id::LeaseId,
    terms::{Epoch, TermsVersion},
};

/// Why the host ends a lease by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostEnd {
    /// The borrower gave it back at the host.
    Returned,
    /// Its time is up.
    Expired,
    /// Its time came to its end while the host was down.
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The owner wants it offered.
    Offer,
    /// The registry has confirmed the offer; without a registry the host itself does.
    Registered(Option<TermsVersion>),
    /// It could not be offered, and the registry does not have it.
    NotRegistered,
    /// The owner wants other terms.
    Change(Change),
    ChangeTaken(Option<TermsVersion>),
    ChangeRefused,
    /// The owner wants it back from the registry.
    Withdraw,
    Unregistered,
    /// The registry does not forget it, for it has lent it.
    StillRegistered,
    /// The host issued a key of this epoch; keys issued before and not used yet are void.
    KeyIssued(Epoch),
    /// A borrower came with a key that was found good (F5).
    Open(OpenLease),
    End(HostEnd),
    /// The registry says that the lease ends at another moment: it was renewed, or recalled.
    EndMoved {
        lease: LeaseId,
        expires_at: Timestamp,
    },
    /// The registry says that the lease of this epoch, and with it every earlier one, is over; `lease` still
    /// waits for the host's word that the partition is clean.
    LeaseOver {
        lease: Option<LeaseId>,
        epoch: Epoch,
    },
    /// Nothing of the lease that ended is left.
    Wiped,
    /// The machine for the next lease is prepared.
    Ready,
    /// The owner takes its resources back.
    Release,
}
