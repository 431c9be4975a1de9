//! The CLI's commands, a file a noun: `sublet` for borrowers and lenders.

pub mod args;
mod audit;
mod bill;
mod books;
mod borrow;
mod context;
mod doctor;
mod error;
mod hosts;
mod image;
mod job;
mod key;
mod lease_store;
mod leases;
mod partition;
mod progress;
mod receipt;
mod rent;
mod report;
mod search;
mod ssh;
mod token;
mod tunnel;
mod watch;

pub use error::{CliError, with_causes};

use std::process::ExitCode;

use args::{Arguments, Command};
use context::Context;

/// Exit code where the command itself failed; a job's own exit codes are passed on, so it is one that few
/// programs use.
pub const FAILURE: u8 = 125;

/// Whether the reader of our output went away, which is no failure of ours.
pub fn is_closed_pipe(error: &CliError) -> bool {
    matches!(error, CliError::Output(source) if source.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Carries out one command and prints what it says; the exit code is the job's where one was run.
pub async fn run(arguments: Arguments) -> Result<ExitCode, CliError> {
    let context = Context::new(arguments.options)?;
    match arguments.command {
        Command::Doctor => doctor::doctor(&context),
        Command::Host { rotate_token } => partition::host(&context, rotate_token).await,
        Command::Key { command } => key::key(&context, command).await,
        Command::Token { command } => token::token(&context, command).await,
        Command::Partition { command } => partition::partition(&context, command).await,
        Command::Search(search) => search::search(&context, &search).await,
        Command::Borrow(borrow) => borrow::borrow(&context, &borrow).await,
        Command::Hosts { id } => hosts::hosts(&context, id).await,
        Command::Leases(leases) => leases::leases(&context, &leases).await,
        Command::Run(run) => job::run(&context, &run).await,
        Command::Jobs { lease } => job::jobs(&context, lease.lease).await,
        Command::Logs { lease, job } => job::logs(&context, lease.lease, job).await,
        Command::Cancel { lease, job } => job::cancel(&context, lease.lease, job).await,
        Command::Console { lease } => job::console(&context, lease.lease).await,
        Command::Tunnel(tunnel) => tunnel::tunnel(&context, &tunnel).await,
        Command::Ssh(ssh) => ssh::ssh(&context, &ssh),
        Command::Stop { lease } => job::stop(&context, lease.lease).await,
        Command::Return { lease } => borrow::give_back(&context, lease.lease).await,
        Command::Rent(rent) => rent::rent(&context, &rent).await,
        Command::Watch => watch::watch(&context).await,
        Command::Renew(renew) => borrow::renew(&context, &renew).await,
        Command::Recall { lease } => borrow::recall(&context, lease).await,
        Command::Bill(bill) => bill::bill(&context, &bill).await,
        Command::Books { command } => books::books(&context, command).await,
        Command::Receipt(receipt) => receipt::receipt(&context, &receipt).await,
        Command::Image(arguments) => image::image(&context, arguments).await,
        Command::Audit { file } => audit::audit(&context, &file),
    }
}
