//! The borrower's and lender's command line.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use sublet::cli::{self, args::Arguments};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match cli::run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) if cli::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sublet: {}", cli::with_causes(&error));
            ExitCode::from(cli::FAILURE)
        }
    }
}
