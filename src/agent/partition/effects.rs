//! How each effect is performed. All can be done again.

use std::{io, path::Path};

use super::{driver::Driver, error::PartitionError};
use crate::{
    agent::{host::disk, registry_link::Answer},
    api::{agent::JobEnd, registry::EndReason},
    domain::{
        id::LeaseId,
        partition::{Effect, Event, HostEnd, Kind, Partition, State},
        receipt::segment::{Cleaned, DiskCleaning, MemoryCleaning},
    },
};

/// Why an effect is not done.
pub(super) struct Failure {
    pub(super) error: PartitionError,
    /// Whether it is certain that nothing was done.
    pub(super) certain: bool,
}

impl<E: Into<PartitionError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), certain: true }
    }
}

impl From<HostEnd> for EndReason {
    fn from(how: HostEnd) -> Self {
        match how {
            HostEnd::Returned => Self::Returned,
            HostEnd::Expired => Self::Expired,
            HostEnd::Lost => Self::HostLost,
        }
    }
}

impl Driver {
    /// Performs one effect; what has happened by it, where that is an event.
    pub(super) async fn act(&mut self, effect: &Effect) -> Result<Option<Event>, Failure> {
        match effect {
            Effect::PrepareMachine => return self.prepared().await,
            Effect::GuardEnd => self.guard_end().await?,
            Effect::MoveEnd => self.move_end().await?,
            Effect::OpenReceipt { lease } => self.freeze.open(*lease, &self.row).await?,
            Effect::CloseReceipt { lease, how } => {
                self.freeze.close(*lease, how.map(EndReason::from)).await?;
            }
            Effect::BootAgain { image, boots } => self.boot_again(image, *boots).await?,
            Effect::DiscardMachine => self.discard_machine().await?,
            Effect::EndJobs => self.jobs.end_all(JobEnd::LeaseEnded, self.services.clock.now()).await?,
            Effect::Wipe => return self.wipe().await.map_err(Failure::from),
            Effect::ShapeDisk => self.shape_disk().await?,
            Effect::Register => return self.register().await,
            Effect::AskChange => return self.ask_change().await,
            Effect::Unregister => return self.unregister().await,
            Effect::ReportEnded { lease, how } => {
                self.services.table.report_ended(*lease, (*how).into()).await?;
                self.tell_registry();
            }
            Effect::ReportCleaned { lease } => {
                self.services.table.report_cleaned(*lease).await?;
                self.tell_registry_now().await;
            }
            Effect::Remove => self.remove().await?,
        }
        Ok(None)
    }

    async fn prepared(&mut self) -> Result<Option<Event>, Failure> {
        self.prepare_machine().await?;
        let ready = matches!(self.row.partition.state, State::Scrubbing { clean: true, .. });
        Ok(ready.then_some(Event::Ready))
    }

    /// What the registry has granted.
    fn granted<T>(&self, answer: Answer<T>) -> Result<T, Failure> {
        let certain = self.doubt.is_refused(&answer);
        match answer {
            Answer::Yes(granted) => Ok(granted),
            Answer::No(error) | Answer::NotAsked(error) | Answer::Unknown(error) => {
                Err(Failure { error: PartitionError::of_registry(error), certain })
            }
        }
    }

    async fn register(&self) -> Result<Option<Event>, Failure> {
        let version = match &self.services.registry {
            Some(registry) => {
                let Partition { terms, version, .. } = &self.row.partition;
                Some(self.granted(registry.register(self.row.id, terms, *version).await)?)
            }
            None => None,
        };
        Ok(Some(Event::Registered(version)))
    }

    async fn ask_change(&self) -> Result<Option<Event>, Failure> {
        let State::Offered { change: Some(change) } = &self.row.partition.state else { return Ok(None) };
        let version = match (&self.services.registry, self.row.partition.version) {
            (Some(registry), Some(version)) => {
                Some(self.granted(registry.change(self.row.id, version, change).await)?)
            }
            _ => None,
        };
        Ok(Some(Event::ChangeTaken(version)))
    }

    pub(super) async fn unregister(&self) -> Result<Option<Event>, Failure> {
        if let Some(registry) = &self.services.registry {
            self.granted(registry.withdraw(self.row.id, self.row.partition.version).await)?;
        }
        let withdrawing = self.row.partition.state == State::Withdrawing;
        Ok(withdrawing.then_some(Event::Unregistered))
    }

    fn tell_registry(&self) {
        if let Some(registry) = &self.services.registry {
            registry.tell();
        }
    }

    /// Waits until the registry has heard what there is to report. Where it cannot be reached, it hears it later.
    async fn tell_registry_now(&self) {
        if let Some(registry) = &self.services.registry
            && let Err(error) = registry.beat(None, 0).await
        {
            tracing::warn!(error = crate::api::http::chain(&error), "the registry is told later");
            registry.tell();
        }
    }

    pub(super) async fn shape_disk(&self) -> Result<(), PartitionError> {
        let (path, mib) = (self.services.disk(self.row.id), self.row.partition.terms.allocation.disk_mib);
        self.freeze.pause().await;
        let shaped = tokio::task::spawn_blocking(move || disk::shape(&path, mib)).await?;
        // The machine, where there is one, is watched again.
        self.freeze.begin(&self.row).await;
        Ok(shaped?)
    }

    /// Sets disk blocks aside for a change, before anything else is changed.
    pub(super) async fn reserve_disk(&self, mib: u64) -> Result<(), PartitionError> {
        let path = self.services.disk(self.row.id);
        Ok(tokio::task::spawn_blocking(move || disk::reserve(&path, mib)).await??)
    }

    /// Law 8.
    async fn wipe(&mut self) -> Result<Option<Event>, PartitionError> {
        self.jobs.wipe().await?;
        self.freeze.pause().await;
        let (directory, path) = (self.services.directory(self.row.id), self.services.disk(self.row.id));
        let partition = &self.row.partition;
        let mib = if partition.kind == Kind::Declared { 0 } else { partition.terms.allocation.disk_mib };
        let (id, keys) = (self.row.id, self.services.disk_keys.clone());
        tokio::task::spawn_blocking(move || {
            // What comes after this may be cut short: nobody can read the disk any more.
            keys.destroy(id)?;
            remove_consoles(&directory, None).map_err(PartitionError::Files)?;
            Ok::<_, PartitionError>(disk::wipe(&path, mib)?)
        })
        .await??;
        let mut row = self.row.clone();
        row.machine.last = None;
        row.machine.deadline = None;
        if let State::Scrubbing { lease, .. } = row.partition.state {
            row.machine.cleaned = Some(self.cleaned(lease));
        }
        self.store(row).await?;
        Ok(Some(Event::Wiped))
    }

    /// What the next lease's receipt says of how this one's remains were removed.
    fn cleaned(&self, after: LeaseId) -> Cleaned {
        let has_disk = self.row.partition.terms.allocation.disk_mib > 0;
        let disk = if has_disk { DiskCleaning::KeyDestroyed } else { DiskCleaning::NoDisk };
        Cleaned { at: self.services.clock.now(), after, memory: MemoryCleaning::NewProcess, disk }
    }

    async fn remove(&mut self) -> Result<(), PartitionError> {
        self.discard_machine().await?;
        self.services.disk_keys.destroy(self.row.id)?;
        let directory = self.services.directory(self.row.id);
        match tokio::fs::remove_dir_all(&directory).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PartitionError::Files(error)),
            _ => Ok(self.services.table.delete(self.row.id).await?),
        }
    }
}

/// Deletes the consoles of guests that are over: all but `kept`.
pub(super) fn remove_consoles(directory: &Path, kept: Option<&Path>) -> io::Result<()> {
    for entry in directory.read_dir()? {
        let entry = entry?;
        let is_console = entry.file_name().to_string_lossy().starts_with("console-");
        if is_console && Some(entry.path().as_path()) != kept {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
