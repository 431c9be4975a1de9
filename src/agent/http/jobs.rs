//! Jobs: submitted, looked at, cancelled. The key is checked again each time (S53).

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use sublet_guest_protocol::JobSpec;

use super::{Agent, auth::Borrowed, owner::mark};
use crate::{
    agent::{
        guest::jobs::Job,
        partition::{
            driver::{Command, SubmitJob},
            error::PartitionError,
        },
    },
    api::{
        agent::{JobView, Jobs, RunJob},
        http::{JsonBody, PathIds},
        problem::{Code, Problem},
    },
    domain::id::JobId,
};

/// Starts an OS where none runs, and runs a program in it. Jobs of a lease run one after another.
#[utoipa::path(
    post, path = "/v1/partitions/{id}/jobs", tag = "jobs", request_body = RunJob,
    security(("lending_key" = [])),
    params(
        ("id" = String, Path, format = "uuid"),
        ("idempotency-key" = Option<String>, Header, description = "Asked again with it, the same job is the answer"),
    ),
    responses(
        (status = 201, description = "The job; it survives the agent's death", body = JobView),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn run(
    borrowed: Borrowed,
    headers: HeaderMap,
    JsonBody(wanted): JsonBody<RunJob>,
) -> Result<(StatusCode, Json<JobView>), Problem> {
    let mark = mark(&headers, &wanted)?;
    let image = wanted.image.clone();
    let job = Box::new(SubmitJob { image, spec: spec(wanted)?, mark });
    let claims = borrowed.claims.clone();
    let id = borrowed.handle.ask(|reply| Command::Submit(claims, job, reply)).await?;
    Ok((StatusCode::CREATED, Json(view(&borrowed, id).await?)))
}

fn spec(wanted: RunJob) -> Result<JobSpec, Problem> {
    let stdin = wanted.stdin_base64.unwrap_or_default();
    let stdin = BASE64_STANDARD
        .decode(stdin)
        .map_err(|error| Problem::new(Code::InvalidRequest, format!("stdin_base64: {error}")))?;
    let spec = JobSpec {
        // The host names it.
        id: sublet_guest_protocol::JobId([0; 16]),
        argv: wanted.argv,
        env: wanted.env,
        working_directory: wanted.working_directory,
        stdin,
        time_limit_ms: wanted.time_limit_ms,
    };
    spec.validate().map_err(PartitionError::from)?;
    Ok(spec)
}

/// All jobs of the lease.
#[utoipa::path(
    get, path = "/v1/partitions/{id}/jobs", tag = "jobs", security(("lending_key" = [])),
    params(("id" = String, Path, format = "uuid")),
    responses(
        (status = 200, description = "The jobs, newest first", body = Jobs),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(borrowed: Borrowed) -> Result<Json<Jobs>, Problem> {
    borrowed.admit()?;
    let mut jobs = borrowed.handle.jobs.list().await?;
    jobs.retain(|job| job.lease == borrowed.claims.lease);
    Ok(Json(Jobs { jobs: jobs.into_iter().map(|job| borrowed.handle.jobs.view(job)).collect() }))
}

/// One job.
#[utoipa::path(
    get, path = "/v1/partitions/{id}/jobs/{job}", tag = "jobs", security(("lending_key" = [])),
    params(("id" = String, Path, format = "uuid"), ("job" = String, Path, format = "uuid")),
    responses(
        (status = 200, description = "The job", body = JobView),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn job(
    borrowed: Borrowed,
    PathIds((_, id)): PathIds<(String, JobId)>,
) -> Result<Json<JobView>, Problem> {
    Ok(Json(view(&borrowed, id).await?))
}

/// Ends a job: at once where it waits, else as soon as its guest has heard of it.
#[utoipa::path(
    post, path = "/v1/partitions/{id}/jobs/{job}/cancel", tag = "jobs", security(("lending_key" = [])),
    params(("id" = String, Path, format = "uuid"), ("job" = String, Path, format = "uuid")),
    responses(
        (status = 200, description = "The job", body = JobView),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn cancel(
    State(agent): State<Arc<Agent>>,
    borrowed: Borrowed,
    PathIds((_, id)): PathIds<(String, JobId)>,
) -> Result<Json<JobView>, Problem> {
    find(&borrowed, id).await?;
    borrowed.handle.jobs.cancel(id, agent.services.clock.now()).await?;
    Ok(Json(view(&borrowed, id).await?))
}

async fn view(borrowed: &Borrowed, id: JobId) -> Result<JobView, Problem> {
    Ok(borrowed.handle.jobs.view(find(borrowed, id).await?))
}

/// The job, where it is of the lease whose key was shown.
pub(super) async fn find(borrowed: &Borrowed, id: JobId) -> Result<Job, PartitionError> {
    borrowed.admit()?;
    let job = borrowed.handle.jobs.get(id).await?;
    job.filter(|job| job.lease == borrowed.claims.lease).ok_or(PartitionError::NoJob)
}
