//! The lender host's daemon.
#![forbid(unsafe_code)]

use std::{
    error::Error,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use sublet::{
    agent::{config::Config, daemon, http},
    api::http::{Shutdown, chain, init_logs},
};

/// The lender host's daemon: carves partitions, lets borrowers in, runs their guests and jobs
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file (docs/agent-config.md)
    #[arg(long, required_unless_present = "openapi")]
    config: Option<PathBuf>,
    /// Read and check the configuration and the host, and start nothing
    #[arg(long)]
    check: bool,
    /// Give back all that is set aside on this host, and end: before the agent is removed from it
    #[arg(long, conflicts_with = "check")]
    give_back: bool,
    /// Print the OpenAPI description of the HTTP API
    #[arg(long)]
    openapi: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sublet-agent: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let Some(path) = arguments.config.filter(|_| !arguments.openapi) else {
        return Ok(writeln!(io::stdout(), "{}", http::description().to_pretty_json()?)?);
    };
    let config = Config::load(&path)?;
    if arguments.check {
        return Ok(daemon::check(&config)?);
    }
    init_logs();
    if arguments.give_back {
        return Ok(daemon::give_back(config).await?);
    }
    let shutdown = Shutdown::on_signals()?;
    Ok(daemon::run(config, shutdown, |at| eprintln!("listening on {at}")).await?)
}
