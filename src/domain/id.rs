//! Names of things, a type each, so that none is taken for another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )*};
}

ids! {
    /// A lender host: patent (101).
    HostId,
    /// A partition of one host: patent (41), (102). Never used twice, so no old key can mean a new partition.
    PartitionId,
    /// A lease: one lending contract.
    LeaseId,
    /// A borrower: what stands in the lending state, patent (105).
    BorrowerId,
    /// A lender: who owns hosts and is paid.
    LenderId,
    /// A job within a lease.
    JobId,
    /// The key of a lease: all that is signed for it until it is revoked, then another.
    KeyId,
    /// An entry of the ledger.
    EntryId,
    /// Whoever issues lending keys: a registry, or a host that lends directly [0165].
    IssuerId,
}
