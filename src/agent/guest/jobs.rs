//! The jobs of one partition: taken on durably, run one after another, ended once.
//!
//! ```text
//!         send              started
//! queued ──────▶ sent ─────────────────▶ running
//!    │             └──────┬───────────────┘
//!    └────────────────────┴──────────────────────▶ ended
//! ```

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use sublet_guest_protocol::{JobSpec, Stream};
use thiserror::Error;
use uuid::Uuid;

use super::{
    output,
    signals::{Signals, SignalsHandle},
};
use crate::{
    agent::partition::table::{
        Earlier, RequestMark, Table, TableError, json, read_json, unreadable, unsigned,
    },
    api::agent::{JobEnd, JobState, JobView},
    domain::id::{JobId, LeaseId, PartitionId},
};

/// Most jobs of a lease that have not ended.
pub const WAITING_MAX: u64 = 64;
/// Most jobs of a lease.
pub const JOBS_MAX: u64 = 1000;
/// Most bytes that waiting jobs take up together, with their standard input.
pub const WAITING_MAX_BYTES: u64 = 16 << 20;
/// Most bytes of arguments that a lease's jobs take up together.
pub const ARGUMENTS_MAX_BYTES: u64 = 16 << 20;

const COLUMNS: &str = "id, lease, image, argv, state, end, cancel_requested, submitted_at, ended_at,
    stdout_dropped, stderr_dropped";

/// The jobs of one partition.
#[derive(Debug, Clone)]
pub struct Jobs {
    partition: PartitionId,
    table: Table,
    output_directory: PathBuf,
    signals: SignalsHandle,
}

/// A job as the table has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: JobId,
    pub lease: LeaseId,
    pub image: String,
    pub argv: Vec<String>,
    pub stage: Stage,
    pub cancel_requested: bool,
    submitted_at: Timestamp,
    ended_at: Option<Timestamp>,
    dropped: (u64, u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    Queued,
    /// The guest was told to run it, and may or may not have heard.
    Sent,
    /// The guest has said that it runs.
    Running,
    Ended(JobEnd),
}

#[derive(Debug, Error)]
pub enum SubmitError {
    #[error("the Idempotency-Key was used for another job")]
    KeyReused,
    #[error(
        "a lease can have {WAITING_MAX} jobs waiting, of {WAITING_MAX_BYTES} bytes together: wait for one to end"
    )]
    TooManyWaiting,
    #[error("a lease can have {JOBS_MAX} jobs, with {ARGUMENTS_MAX_BYTES} bytes of arguments together")]
    TooMany,
    #[error(transparent)]
    Table(#[from] TableError),
}

/// A job as it is asked for.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub lease: LeaseId,
    pub image: String,
    pub spec: JobSpec,
    pub mark: Option<RequestMark>,
}

/// How a job that is over ended, and how much of its output was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub end: JobEnd,
    pub dropped: (u64, u64),
}

impl Jobs {
    pub fn new(partition: PartitionId, table: Table, directory: &Path, signals: SignalsHandle) -> Self {
        Self { partition, table, output_directory: directory.join("jobs"), signals }
    }

    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Where the jobs' output is.
    pub fn output_directory(&self) -> &Path {
        &self.output_directory
    }

    /// Stores what an agent before this one may have written and not stored.
    pub async fn store_output(&self) -> Result<(), TableError> {
        let directory = self.output_directory.clone();
        let stored = self.table.run(move |_| {
            output::store_all(&directory).map_err(|source| TableError::Files { path: directory, source })
        });
        stored.await
    }

    /// The job that an earlier request with this mark made.
    pub async fn made_by(&self, lease: LeaseId, mark: RequestMark) -> Result<Earlier<JobId>, TableError> {
        self.table.run(move |connection| earlier(connection, lease, &mark)).await
    }

    /// Takes a job on: when this returns it is stored.
    pub async fn submit(&self, job: NewJob, now: Timestamp) -> Result<JobId, SubmitError> {
        let (partition, id) = (self.partition, JobId(Uuid::now_v7()));
        let submitted = self.table.run(move |connection| {
            let transaction = connection.transaction()?;
            let outcome = insert(&transaction, partition, id, &job, now)?;
            transaction.commit()?;
            Ok(outcome)
        });
        let submitted = submitted.await??;
        self.signals.jobs_changed();
        Ok(submitted)
    }

    pub async fn get(&self, id: JobId) -> Result<Option<Job>, TableError> {
        let partition = self.partition;
        self.table
            .run(move |connection| {
                let query = format!("SELECT {COLUMNS} FROM jobs WHERE partition = ? AND id = ?");
                Ok(connection.query_row(&query, keys(partition, id), read).optional()?)
            })
            .await
    }

    /// Newest first.
    pub async fn list(&self) -> Result<Vec<Job>, TableError> {
        let partition = self.partition;
        self.table
            .run(move |connection| {
                let query = format!("SELECT {COLUMNS} FROM jobs WHERE partition = ? ORDER BY number DESC");
                let mut query = connection.prepare(&query)?;
                let jobs = query.query_map([partition.to_string()], read)?.collect::<Result<_, _>>()?;
                Ok(jobs)
            })
            .await
    }

    /// The job that the guest shall run now: the one it was sent, else the first that waits, marked as sent.
    pub async fn next(&self) -> Result<Option<Job>, TableError> {
        let partition = self.partition.to_string();
        self.table
            .run(move |connection| {
                let query = "UPDATE jobs SET state = 'sent' WHERE state = 'queued' AND number = (
                        SELECT min(number) FROM jobs WHERE partition = ?1 AND state = 'queued'
                    ) AND NOT EXISTS (
                        SELECT 1 FROM jobs WHERE partition = ?1 AND state IN ('sent', 'running'))";
                connection.execute(query, [&partition])?;
                in_flight(connection, &partition)
            })
            .await
    }

    /// What the guest is to be told of a job; none: it has ended.
    pub async fn spec(&self, id: JobId) -> Result<Option<JobSpec>, TableError> {
        let partition = self.partition;
        self.table
            .run(move |connection| {
                let query = "SELECT spec FROM jobs WHERE partition = ? AND id = ? AND state <> 'ended'";
                Ok(connection.query_row(query, keys(partition, id), decoded).optional()?)
            })
            .await
    }

    /// The job that the guest was sent and that has not ended.
    pub async fn in_flight(&self) -> Result<Option<Job>, TableError> {
        let partition = self.partition.to_string();
        self.table.run(move |connection| in_flight(connection, &partition)).await
    }

    /// The guest says that it runs the job.
    pub async fn started(&self, id: JobId) -> Result<(), TableError> {
        self.change(id, "UPDATE jobs SET state = 'running' WHERE partition = ? AND id = ? AND state = 'sent'")
            .await
    }

    /// Ends the job, unless it has ended.
    pub async fn end(&self, id: JobId, ending: Ending, now: Timestamp) -> Result<(), TableError> {
        let partition = self.partition;
        self.table
            .run(move |connection| {
                let (stdout, stderr) = ending.dropped;
                connection.execute(
                    "UPDATE jobs SET state = 'ended', spec = x'', end = ?, ended_at = ?, stdout_dropped = ?, stderr_dropped = ?
                     WHERE partition = ? AND id = ? AND state <> 'ended'",
                    params![
                        json(&ending.end)?,
                        now.to_string(),
                        i64::try_from(stdout).unwrap_or(i64::MAX),
                        i64::try_from(stderr).unwrap_or(i64::MAX),
                        partition.to_string(),
                        id.to_string()
                    ],
                )?;
                Ok(())
            })
            .await?;
        self.signals.jobs_changed();
        Ok(())
    }

    /// A job that waits is over at once; the guest is told of one that it may run.
    pub async fn cancel(&self, id: JobId, now: Timestamp) -> Result<(), TableError> {
        let partition = self.partition;
        self.table
            .run(move |connection| {
                let transaction = connection.transaction()?;
                transaction.execute(
                    "UPDATE jobs SET state = 'ended', spec = x'', end = ?, ended_at = ?
                     WHERE partition = ? AND id = ? AND state = 'queued'",
                    params![
                        json(&JobEnd::Cancelled)?,
                        now.to_string(),
                        partition.to_string(),
                        id.to_string()
                    ],
                )?;
                transaction.execute(
                    "UPDATE jobs SET cancel_requested = 1 WHERE partition = ? AND id = ? AND state <> 'ended'",
                    keys(partition, id),
                )?;
                Ok(transaction.commit()?)
            })
            .await?;
        self.signals.jobs_changed();
        Ok(())
    }

    /// Ends every job that has not ended: what they ran in is gone.
    pub async fn end_all(&self, end: JobEnd, now: Timestamp) -> Result<(), TableError> {
        let partition = self.partition.to_string();
        self.table
            .run(move |connection| {
                connection.execute(
                    "UPDATE jobs SET state = 'ended', spec = x'', end = ?, ended_at = ? WHERE partition = ? AND state <> 'ended'",
                    params![json(&end)?, now.to_string(), partition],
                )?;
                Ok(())
            })
            .await?;
        self.signals.jobs_changed();
        Ok(())
    }

    /// Deletes every job and its output (law 8).
    pub async fn wipe(&self) -> Result<(), TableError> {
        let (partition, directory) = (self.partition.to_string(), self.output_directory.clone());
        self.table
            .run(move |connection| {
                connection.execute("DELETE FROM jobs WHERE partition = ?", [partition])?;
                Ok(())
            })
            .await?;
        match tokio::fs::remove_dir_all(&directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(TableError::Files { path: directory, source: error });
            }
            _ => self.signals.jobs_changed(),
        }
        Ok(())
    }

    async fn change(&self, id: JobId, statement: &'static str) -> Result<(), TableError> {
        let partition = self.partition;
        self.table
            .run(move |connection| {
                connection.execute(statement, keys(partition, id))?;
                Ok(())
            })
            .await?;
        self.signals.jobs_changed();
        Ok(())
    }

    pub fn view(&self, job: Job) -> JobView {
        let held = |stream| output::held_bytes(&output::path(&self.output_directory, job.id, stream));
        JobView {
            id: job.id,
            lease: job.lease,
            stdout_bytes: held(Stream::Stdout),
            stderr_bytes: held(Stream::Stderr),
            image: job.image,
            argv: job.argv,
            state: match job.stage {
                Stage::Queued | Stage::Sent => JobState::Queued,
                Stage::Running => JobState::Running,
                Stage::Ended(end) => JobState::Ended { end },
            },
            submitted_at: job.submitted_at,
            ended_at: job.ended_at,
            stdout_dropped_bytes: job.dropped.0,
            stderr_dropped_bytes: job.dropped.1,
        }
    }
}

fn keys(partition: PartitionId, id: JobId) -> [String; 2] {
    [partition.to_string(), id.to_string()]
}

fn in_flight(connection: &Connection, partition: &str) -> Result<Option<Job>, TableError> {
    let query = format!("SELECT {COLUMNS} FROM jobs WHERE partition = ? AND state IN ('sent', 'running')");
    Ok(connection.query_row(&query, [partition], read).optional()?)
}

fn earlier(
    connection: &Connection,
    lease: LeaseId,
    mark: &RequestMark,
) -> Result<Earlier<JobId>, TableError> {
    let query = "SELECT id, request_digest FROM jobs WHERE lease = ? AND request_key = ?";
    let found = connection
        .query_row(query, [&lease.to_string(), &mark.key], |row| Ok((id(row)?, row.get(1)?)))
        .optional()?;
    Ok(Earlier::of(found, mark))
}

/// Inserts the job, or finds the one that the same request made before.
fn insert(
    transaction: &Transaction<'_>,
    partition: PartitionId,
    id: JobId,
    job: &NewJob,
    now: Timestamp,
) -> Result<Result<JobId, SubmitError>, TableError> {
    match job.mark.as_ref().map(|mark| earlier(transaction, job.lease, mark)).transpose()? {
        Some(Earlier::Same(id)) => return Ok(Ok(id)),
        Some(Earlier::Other) => return Ok(Err(SubmitError::KeyReused)),
        Some(Earlier::None) | None => {}
    }
    let spec = JobSpec { id: sublet_guest_protocol::JobId(id.0.into_bytes()), ..job.spec.clone() };
    let (argv, spec) = (json(&spec.argv)?, encoded(&spec)?);
    let load = Load::of(transaction, partition)?;
    if load.jobs >= JOBS_MAX || load.arguments_bytes + argv.len() as u64 > ARGUMENTS_MAX_BYTES {
        return Ok(Err(SubmitError::TooMany));
    }
    if load.waiting >= WAITING_MAX || load.waiting_bytes + spec.len() as u64 > WAITING_MAX_BYTES {
        return Ok(Err(SubmitError::TooManyWaiting));
    }
    transaction.execute(
        "INSERT INTO jobs
            (id, partition, lease, request_key, request_digest, image, argv, spec, state, submitted_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?)",
        params![
            id.to_string(),
            partition.to_string(),
            job.lease.to_string(),
            job.mark.as_ref().map(|mark| &mark.key),
            job.mark.as_ref().map(|mark| mark.digest),
            job.image,
            argv,
            spec,
            now.to_string()
        ],
    )?;
    Ok(Ok(id))
}

/// What the jobs of a lease take up.
struct Load {
    jobs: u64,
    waiting: u64,
    arguments_bytes: u64,
    waiting_bytes: u64,
}

impl Load {
    fn of(transaction: &Transaction<'_>, partition: PartitionId) -> rusqlite::Result<Self> {
        let query = "SELECT count(*) AS jobs, count(*) FILTER (WHERE state <> 'ended') AS waiting,
                coalesce(sum(length(argv)), 0) AS arguments_bytes, coalesce(sum(length(spec)), 0) AS waiting_bytes
            FROM jobs WHERE partition = ?";
        transaction.query_row(query, [partition.to_string()], |row| {
            Ok(Self {
                jobs: unsigned(row, "jobs")?,
                waiting: unsigned(row, "waiting")?,
                arguments_bytes: unsigned(row, "arguments_bytes")?,
                waiting_bytes: unsigned(row, "waiting_bytes")?,
            })
        })
    }
}

/// As one frame of the guest's protocol, which bounds it.
fn encoded(spec: &JobSpec) -> Result<Vec<u8>, TableError> {
    sublet_guest_protocol::encode(spec)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()).into())
}

fn decoded(row: &Row<'_>) -> rusqlite::Result<JobSpec> {
    let frame: Vec<u8> = row.get("spec")?;
    sublet_guest_protocol::decode(frame.get(4..).unwrap_or_default())
        .map_err(|error| unreadable("spec", error))
}

fn id(row: &Row<'_>) -> rusqlite::Result<JobId> {
    row.get::<_, String>("id")?.parse().map_err(|error| unreadable("id", error))
}

fn read(row: &Row<'_>) -> rusqlite::Result<Job> {
    let moment = |text: String, column| text.parse().map_err(|error| unreadable(column, error));
    let ended_at: Option<String> = row.get("ended_at")?;
    let lease: String = row.get("lease")?;
    Ok(Job {
        id: id(row)?,
        lease: lease.parse().map_err(|error| unreadable("lease", error))?,
        image: row.get("image")?,
        argv: read_json(row, "argv")?,
        stage: match row.get::<_, String>("state")?.as_str() {
            "queued" => Stage::Queued,
            "sent" => Stage::Sent,
            "running" => Stage::Running,
            _ => Stage::Ended(read_json(row, "end")?),
        },
        cancel_requested: row.get("cancel_requested")?,
        submitted_at: moment(row.get("submitted_at")?, "submitted_at")?,
        ended_at: ended_at.map(|text| moment(text, "ended_at")).transpose()?,
        dropped: (unsigned(row, "stdout_dropped")?, unsigned(row, "stderr_dropped")?),
    })
}

#[cfg(test)]
mod tests;
