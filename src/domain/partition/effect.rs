//! What a partition's transitions ask of its host.

use serde::{Deserialize, Serialize};

use super::HostEnd;
use crate::domain::id::LeaseId;

/// What the host has to do. Each can be done again when it is not known whether it was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum Effect {
    /// Start a VMM, with the memory built and locked.
    PrepareMachine,
    /// Have the VMM end the guest at the lease's end, whoever else is alive then (law 5).
    GuardEnd,
    /// The lease's end is another one: the VMM is to know it.
    MoveEnd,
    /// Begin the lease's receipt: what it has is counted from now on.
    OpenReceipt { lease: LeaseId },
    /// Sign the last of the lease's receipt; `how`: it ended here, and this is why.
    CloseReceipt { lease: LeaseId, how: Option<HostEnd> },
    /// Boot this image once more: the guest of boot number `boots` ended before its job runner called, so that nothing
    /// of the borrower's has run.
    BootAgain { image: String, boots: u32 },
    /// End the guest and its VMM, and wait until their memory is free.
    DiscardMachine,
    /// Jobs that have not ended end with their lease.
    EndJobs,
    /// Erase the disk, the console, the jobs and their output (law 8).
    Wipe,
    /// Make the disk as large as the allocation says, in full.
    ShapeDisk,
    /// Ask the registry to register the offer (F6).
    Register,
    /// Ask the registry to change the offer (F7).
    AskChange,
    /// Ask the registry to forget the offer.
    Unregister,
    /// Tell the registry that a lease ended here.
    ReportEnded { lease: LeaseId, how: HostEnd },
    /// Tell the registry that the partition is clean after a lease.
    ReportCleaned { lease: LeaseId },
    /// Delete everything of the partition.
    Remove,
}
