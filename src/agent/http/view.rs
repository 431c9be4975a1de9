//! Partitions as the wire shows them.

use crate::{
    agent::partition::{machine::MachineRecord, table::PartitionRow},
    api::agent::{GuestState, LeaseView, PartitionState, PartitionView},
    domain::{
        lending_key::KeyClaims,
        partition::{Effect, OpenLease, State},
    },
};

use super::auth::Visitor;

/// What a visitor may see of a partition: its lease is the owner's and its own borrower's business.
pub(super) fn partition_view(row: PartitionRow, by: &Visitor) -> PartitionView {
    let is_visible = |lease: &&OpenLease| match by {
        Visitor::Owner => true,
        Visitor::Borrower(claims) => claims.lease == lease.lease,
    };
    let lease = row.partition.lease().filter(is_visible).map(|lease| LeaseView {
        lease: lease.lease,
        borrower: lease.borrower,
        expires_at: lease.expires_at,
    });
    PartitionView {
        id: row.id,
        kind: row.partition.kind,
        state: state_view(&row),
        shape: row.shape,
        terms_version: row.partition.version,
        epoch: row.partition.epoch(),
        lease,
        guest: guest_view(&row.machine),
        guest_hung: row.machine.boot().and_then(|boot| boot.hung),
        host_cpus: row.partition.host_cpus,
        terms: row.partition.terms,
    }
}

/// Whether a visitor is shown the partition among the others: a borrower sees what is on offer, and its own.
pub(super) fn is_seen(row: &PartitionRow, by: &Visitor) -> bool {
    match by {
        Visitor::Owner => true,
        Visitor::Borrower(claims) => match row.partition.lease() {
            Some(lease) => lease.lease == claims.lease,
            None => matches!(row.partition.state, State::Offered { .. }),
        },
    }
}

/// What the borrower of these claims sees.
pub(super) fn own_view(row: PartitionRow, claims: KeyClaims) -> PartitionView {
    partition_view(row, &Visitor::Borrower(claims))
}

/// An offer counts once it is confirmed, a withdrawal too; after a lease it counts once the registry has heard that the
/// partition is clean.
pub(super) fn state_view(row: &PartitionRow) -> PartitionState {
    let untold = row.effects.iter().any(|effect| matches!(effect, Effect::ReportCleaned { .. }));
    match &row.partition.state {
        State::Carved | State::Offering { again: false } => PartitionState::Carved,
        State::Offered { .. } if untold => PartitionState::Scrubbing,
        State::Offered { .. } | State::Withdrawing => PartitionState::Offered,
        State::Lent { .. } => PartitionState::Lent,
        State::Scrubbing { .. } => PartitionState::Scrubbing,
        State::Withdrawn | State::Offering { again: true } | State::Released => PartitionState::Withdrawn,
    }
}

fn guest_view(machine: &MachineRecord) -> GuestState {
    let prepared = machine.built.as_ref().is_some_and(|built| built.process.is_some());
    match (machine.boot(), &machine.last) {
        (Some(boot), _) if boot.greeted => GuestState::Running { image: boot.image.clone() },
        (Some(boot), _) => GuestState::Booting { image: boot.image.clone() },
        (None, Some(last)) => GuestState::Off { how: last.end.clone() },
        (None, None) if prepared => GuestState::Prepared,
        (None, None) => GuestState::Absent,
    }
}
