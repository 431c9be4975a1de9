//! Search, borrow, run, return and the bill, in one go.

use std::{
    io::{Write, stderr},
    process::ExitCode,
};

use serde_json::json;

use super::{
    CliError,
    args::RentArguments,
    borrow::{end, lease_first_free, open},
    context::Context,
    job::{follow_or_cancel, submit, told},
    lease_store::KeptLease,
    progress::Progress,
    report::{Report, allocation, line, price},
    search::offers,
};
use crate::api::{agent::JobView, registry::Lease};

pub(super) async fn rent(context: &Context, arguments: &RentArguments) -> Result<ExitCode, CliError> {
    let progress = Progress::new("searching");
    let registry = context.registry()?;
    let found = offers(&registry, arguments.conditions.conditions(Some(&arguments.image))).await?;
    progress.step("borrowing");
    let lease = lease_first_free(context, &registry, &found, arguments.duration, arguments.budget).await?;
    progress.done();
    // From here on money runs: whatever becomes of the job, the lease is ended.
    let job = use_lease(context, arguments, &lease).await;
    let progress = Progress::new("returning the partition");
    let ended = end(context, &lease).await;
    progress.done();
    let exit = job.and_then(|job| told(context, &job));
    bill(context, &ended?)?;
    exit
}

async fn use_lease(
    context: &Context,
    arguments: &RentArguments,
    lease: &KeptLease,
) -> Result<JobView, CliError> {
    say_what_was_borrowed(context, lease)?;
    let progress = Progress::new("opening the partition");
    let job = tokio::select! {
        job = open_and_submit(context, arguments, lease) => job?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(CliError::Signal)?;
            return Err(CliError::Interrupted);
        }
    };
    progress.step(format!("booting {}", arguments.image));
    follow_or_cancel(context, lease, job.id, &progress).await
}

async fn open_and_submit(
    context: &Context,
    arguments: &RentArguments,
    lease: &KeptLease,
) -> Result<JobView, CliError> {
    open(context, lease).await?;
    submit(context, lease, Some(&arguments.image), &arguments.program).await
}

/// The job's own output has standard output for itself, so this goes to standard error.
fn say_what_was_borrowed(context: &Context, lease: &KeptLease) -> Result<(), CliError> {
    if context.json() {
        return line(&json!({ "event": "lease", "lease": lease.lease, "terms": lease.terms }).to_string());
    }
    let terms = &lease.terms;
    note(&format!(
        "borrowed {} at {} for {} (lease {})",
        allocation(&terms.allocation),
        lease.host_address,
        price(&terms.price),
        lease.lease
    ))
}

fn bill(context: &Context, lease: &Lease) -> Result<(), CliError> {
    if context.json() {
        return line(&json!({ "event": "bill", "lease": lease }).to_string());
    }
    note(&lease.text())
}

fn note(text: &str) -> Result<(), CliError> {
    writeln!(stderr().lock(), "{text}").map_err(CliError::Output)
}
