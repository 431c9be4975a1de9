//! Keys and tokens, as they are typed about.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use uuid::Uuid;

use super::{LeaseChoice, LeaseDuration};
use crate::{api::token::Scope, domain::lending_key::Operation};

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Print a key that opens less, for somebody else; nobody is asked for it
    Restrict(RestrictArguments),
    /// Say what a key opens, and how it was restricted; only a host can tell whether it is good
    Inspect(KeyChoice),
    /// Make the key of a lease good for nothing, with all copies of it, and keep another
    Revoke {
        #[command(flatten)]
        lease: LeaseChoice,
    },
}

#[derive(Debug, Args)]
pub struct RestrictArguments {
    #[command(flatten)]
    pub key: KeyChoice,
    /// It opens nothing from this moment on, for example 2026-12-01T18:00:00Z
    #[arg(long, value_name = "TIME")]
    pub until: Option<Timestamp>,
    /// All it is good for, beside looking at the partition: open, jobs, logs, console, tunnel, stop, return
    #[arg(long, value_name = "OPERATION", value_delimiter = ',')]
    pub only: Vec<Operation>,
}

/// A kept lease's key, or one in a file.
#[derive(Debug, Args)]
pub struct KeyChoice {
    #[command(flatten)]
    pub lease: LeaseChoice,
    /// File that holds the key, where it is none of a lease that is kept here
    #[arg(long, value_name = "FILE", conflicts_with = "lease")]
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make another token and print it; this is the only time it is shown
    Make {
        /// What it is good for: full, read (to look), or enrol (a lender's, to enrol hosts)
        #[arg(long, default_value_t = Scope::Full)]
        scope: Scope,
        /// It is good for this long, for example 12h; else until it is revoked
        #[arg(long = "for", value_name = "DURATION")]
        duration: Option<LeaseDuration>,
    },
    /// List your tokens
    List,
    /// Make a token good for nothing
    Revoke { id: Uuid },
    /// Put another token into the token file; the old one is good for nothing then
    Rotate,
}
