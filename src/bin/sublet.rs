//! The borrower's and lender's command line.
#![forbid(unsafe_code)]

use std::{error::Error, process::ExitCode};

use clap::Parser;
use sublet::cli::{self, args::Arguments};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match cli::run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) if cli::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sublet: {}", with_causes(&error));
            ExitCode::from(cli::FAILURE)
        }
    }
}

/// An error and what it came from, in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
