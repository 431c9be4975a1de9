//! What each failure is on the wire.

use std::io::ErrorKind;

use crate::{
    agent::{
        guest::{jobs::SubmitError, tunnels::TunnelError},
        host::carve::CarveError,
        partition::{error::PartitionError, table::TableError},
    },
    api::{
        http::chain,
        problem::{Code, Problem},
    },
    client::ClientError,
    domain::partition::NotAllowed,
};

impl From<TableError> for Problem {
    fn from(error: TableError) -> Self {
        if error.is_full() {
            tracing::error!(error = chain(&error), "the partition table has no room left");
            return Self::new(
                Code::StorageFull,
                "the disk of this host's partition table is full: nothing new is stored until its owner makes room",
            );
        }
        tracing::error!(error = chain(&error), "the partition table failed");
        Self::new(Code::StorageFailed, "the host cannot read or write its partition table now")
    }
}

impl From<PartitionError> for Problem {
    fn from(error: PartitionError) -> Self {
        use PartitionError as E;
        let code = match error {
            E::Key(refusal) => return refusal.into(),
            E::Table(error) | E::Submit(SubmitError::Table(error)) => return error.into(),
            E::RegistryRefused(ClientError::Refused(problem)) => return *problem,
            E::RegistryRefused(_) | E::RegistryUnreachable(_) => Code::RegistryUnreachable,
            E::NotAllowed(refusal) => refusal.into(),
            E::NotBorrowed => Code::NotBorrowed,
            E::KeysFromRegistry => Code::PartitionOffered,
            E::Carve(CarveError::NotWholeCores { .. } | CarveError::OddHugePages(_))
            | E::Duration { .. }
            | E::Terms(_)
            | E::Job(_) => Code::InvalidRequest,
            E::Carve(_) | E::NoUserLeft(_) => Code::InsufficientResources,
            E::Disk(ref error) if error.is_full() => Code::InsufficientResources,
            E::Files(ref error) if error.kind() == ErrorKind::StorageFull => Code::StorageFull,
            E::Disk(_) | E::DiskKey(_) | E::Files(_) => Code::StorageFailed,
            E::Network(_) => Code::NetworkUnavailable,
            E::UnknownImage(_) => Code::UnknownOsImage,
            E::OtherImage { .. } => Code::OtherImageRunning,
            E::NoGuest | E::NoGuestForTunnel => Code::GuestNotRunning,
            E::NoMachine => Code::PartitionNotReady,
            E::Vmm(_) | E::Boot(_) => Code::GuestFailed,
            E::Submit(SubmitError::KeyReused) | E::KeyReused => Code::IdempotencyKeyReused,
            E::Submit(SubmitError::TooManyWaiting | SubmitError::TooMany) => Code::TooManyRequests,
            E::Tunnel(ref error) => error.into(),
            E::NoJob | E::Gone => Code::NotFound,
            E::Issue(_) | E::Reserve(_) | E::Image(_) | E::NoUser | E::Thread(_) => {
                return Self::internal(&error);
            }
        };
        Self::new(code, chain(&error))
    }
}

impl From<&TunnelError> for Code {
    fn from(error: &TunnelError) -> Self {
        match error {
            TunnelError::TooMany => Self::TooManyRequests,
            TunnelError::GuestEnded => Self::GuestNotRunning,
            TunnelError::GuestSilent => Self::GuestSilent,
            TunnelError::PortClosed(_) => Self::GuestPortClosed,
            TunnelError::PortSilent(_) | TunnelError::Failed => Self::TunnelFailed,
            TunnelError::Unsupported => Self::TunnelsUnsupported,
        }
    }
}

impl From<NotAllowed> for Code {
    fn from(refusal: NotAllowed) -> Self {
        match refusal {
            NotAllowed::Frozen | NotAllowed::HeldBy(_) => Self::PartitionFrozen,
            NotAllowed::NotOffered => Self::PartitionNotOffered,
            NotAllowed::AlreadyOffered => Self::PartitionOffered,
            NotAllowed::Lent => Self::PartitionLent,
            NotAllowed::NotReady | NotAllowed::Unexpected => Self::PartitionNotReady,
            NotAllowed::EpochPassed => Self::KeyEpochPassed,
            NotAllowed::NotLent => Self::NotBorrowed,
            NotAllowed::Owners => Self::PartitionNotOffered,
        }
    }
}
