//! What can be typed.

mod books;
mod conditions;
mod images;
mod keys;
mod values;

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use uuid::Uuid;

pub use books::BooksCommand;
pub use conditions::ConditionArguments;
pub use images::{
    AboutArguments, BuildArguments, DiskFormat, ImageArguments, ImageCommand, ImportArguments,
    KernelArguments, RemoteArguments, SignerArguments,
};
pub use keys::{KeyChoice, KeyCommand, RestrictArguments, TokenCommand};
pub use values::{Forward, LeaseDuration, Size, Variable};

use crate::domain::{
    id::{HostId, JobId, LeaseId, PartitionId},
    money::Amount,
    month::Month,
    network::Network,
    receipt::key::ReceiptKey,
    tls_key::TlsKey,
};

/// Lend out isolated partitions of real computers, and borrow them.
#[derive(Debug, Parser)]
#[command(name = "sublet", version, propagate_version = true)]
pub struct Arguments {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Options {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Registry to search and borrow at
    #[arg(long, global = true, env = "SUBLET_REGISTRY", value_name = "URL")]
    pub registry: Option<String>,
    /// File that holds your token at the registry: a borrower's, a lender's or an administrator's
    #[arg(long, global = true, env = "SUBLET_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Your lender host's agent, for `host` and `partition`
    #[arg(long, global = true, env = "SUBLET_HOST", value_name = "URL")]
    pub host: Option<String>,
    /// File that holds the owner's token of that host
    #[arg(long, global = true, env = "SUBLET_OWNER_TOKEN_FILE", value_name = "FILE")]
    pub owner_token_file: Option<PathBuf>,
    /// Authorities (PEM) whose word is taken for servers over TLS, in place of this machine's own
    #[arg(long, global = true, env = "SUBLET_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The TLS key of that host, as `sublet host` shows it there: "sha256//..."; any certificate will do then
    #[arg(long, global = true, env = "SUBLET_HOST_KEY", value_name = "KEY")]
    pub host_key: Option<TlsKey>,
    /// Names what this command asks in the logs of the registry and of hosts; made up where not stated
    #[arg(long, global = true, value_name = "UUID")]
    pub request_id: Option<Uuid>,
    /// Folder for leases and their keys
    #[arg(long, global = true, env = "SUBLET_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say whether this host can lend, and what exactly is missing
    Doctor,
    /// Show a lender host: what it has, keeps, and can still lend
    Host {
        /// First have its registry give it another token, in place of the one that it goes by
        #[arg(long)]
        rotate_token: bool,
    },
    /// List your hosts as the registry knows them, or say all that it knows of one
    Hosts {
        #[arg(value_name = "HOST")]
        id: Option<HostId>,
    },
    /// Look into lending keys, narrow them before handing them on, take them back
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Your own tokens at the registry
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Carve, offer and withdraw partitions of your host
    Partition {
        #[command(subcommand)]
        command: PartitionCommand,
    },
    /// List offers that meet conditions, cheapest first
    Search(SearchArguments),
    /// Borrow the cheapest partition that meets conditions, or one of your choice
    Borrow(BorrowArguments),
    /// List the leases whose keys are kept here, or all that the registry has of you
    Leases(LeasesArguments),
    /// Run a program in a borrowed partition and exit with its exit code
    Run(RunArguments),
    /// List the jobs of a lease
    Jobs {
        #[command(flatten)]
        lease: LeaseChoice,
    },
    /// Print a job's output, and go on until it ends
    Logs {
        #[command(flatten)]
        lease: LeaseChoice,
        job: JobId,
    },
    /// End a job now
    Cancel {
        #[command(flatten)]
        lease: LeaseChoice,
        job: JobId,
    },
    /// Print the partition's console, and go on until interrupted
    Console {
        #[command(flatten)]
        lease: LeaseChoice,
    },
    /// Reach TCP ports of the guest from here
    Tunnel(TunnelArguments),
    /// Log in to the guest, or run a command in it, with this machine's own ssh
    Ssh(SshArguments),
    /// Stop the guest; the lease goes on
    Stop {
        #[command(flatten)]
        lease: LeaseChoice,
    },
    /// End a lease: the partition is given back and cleaned, and the charge is told
    Return {
        #[command(flatten)]
        lease: LeaseChoice,
    },
    /// Search, borrow, run, return and print the bill in one go
    Rent(RentArguments),
    /// Follow what happens at the registry: offers and your leases, or what happens to your hosts
    Watch,
    /// Make a lease longer, or its budget larger
    Renew(RenewArguments),
    /// As a lender: say that you want a partition back; its lease ends after the notice of its terms
    Recall { lease: LeaseId },
    /// Show what leases cost, or were paid for
    Bill(BillArguments),
    /// As an administrator: take payments in and out, credit leases, bound credit, see who did it
    Books {
        #[command(subcommand)]
        command: BooksCommand,
    },
    /// Show what a lease's host states, signed, of what was set aside for it and delivered
    Receipt(ReceiptArguments),
    /// OS images: build, import, list, verify, sign, carry to registries and back
    Image(ImageArguments),
    /// Recompute a ledger that `sublet-registry export` wrote, and say what disagrees
    Audit { file: PathBuf },
}

#[derive(Debug, Subcommand)]
pub enum PartitionCommand {
    /// Set resources aside for a new partition
    Carve(CarveArguments),
    /// List the partition table
    List,
    /// Show one partition
    Show { partition: PartitionId },
    /// Change a partition's allocation, price or key; what is not stated stays
    Change {
        partition: PartitionId,
        #[arg(long)]
        cpus: Option<u32>,
        /// For example 512MiB or 2GiB
        #[arg(long, value_name = "SIZE")]
        memory: Option<Size>,
        #[arg(long, value_name = "SIZE")]
        disk: Option<Size>,
        /// Price of an hour, for example 0.04EUR
        #[arg(long, value_name = "PRICE")]
        price: Option<Amount>,
        /// Void every key that was issued before
        #[arg(long)]
        new_key: bool,
    },
    /// Build the partition's machine and offer it (at the registry, where the host has one)
    Offer { partition: PartitionId },
    /// Take a free partition off the market
    Withdraw { partition: PartitionId },
    /// Give the partition's resources back to the host
    Release { partition: PartitionId },
    /// Lend a partition directly, without a registry, or use one of your own: print a key of the host's own
    Key {
        partition: PartitionId,
        #[arg(long = "for", value_name = "DURATION", default_value = "1h")]
        duration: LeaseDuration,
    },
}

#[derive(Debug, Args)]
pub struct CarveArguments {
    /// Host CPUs; whole cores, unless a share of each is stated
    #[arg(long)]
    pub cpus: u32,
    /// Only this part of each CPU's time, in percent, on cores that are set aside for shares
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=99))]
    pub share: Option<u8>,
    /// For example 512MiB or 2GiB
    #[arg(long, value_name = "SIZE")]
    pub memory: Size,
    /// The partition's own disk
    #[arg(long, value_name = "SIZE", default_value = "0")]
    pub disk: Size,
    /// Price of an hour, for example 0.04EUR; by the host's price list where not stated
    #[arg(long, value_name = "PRICE")]
    pub price: Option<Amount>,
    /// Promise it only: disk and machine are built when it is borrowed
    #[arg(long)]
    pub declared: bool,
    /// For your own work: never offered; `sublet partition key` lets you in
    #[arg(long, conflicts_with = "declared")]
    pub own: bool,
    /// What its guest reaches by itself: none, or nat (the internet, but none of your own networks)
    #[arg(long, value_name = "NETWORK", default_value = "none")]
    pub network: Network,
}

#[derive(Debug, Args)]
pub struct SearchArguments {
    #[command(flatten)]
    pub conditions: ConditionArguments,
    /// OS image that the host must be able to start
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,
    /// Most offers to list
    #[arg(long, default_value_t = 20)]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct BorrowArguments {
    #[command(flatten)]
    pub conditions: ConditionArguments,
    /// OS image that the host must be able to start
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,
    /// Borrow this partition, as `search` lists it
    #[arg(long)]
    pub partition: Option<PartitionId>,
    /// The lease ends by itself after this time, for example 30m or 2h
    #[arg(long = "for", value_name = "DURATION", default_value = "1h")]
    pub duration: LeaseDuration,
    /// The lease ends by itself before it costs more than this, for example 1.50EUR
    #[arg(long, value_name = "AMOUNT")]
    pub budget: Option<Amount>,
}

#[derive(Debug, Args)]
pub struct LeasesArguments {
    /// All that the registry has: your own, as a lender those of your hosts, as an administrator everybody's
    #[arg(long)]
    pub all: bool,
    /// Of these, only those that run
    #[arg(long, requires = "all")]
    pub active: bool,
    /// Of these, only those of this host
    #[arg(long, requires = "all", value_name = "ID")]
    pub of_host: Option<HostId>,
    /// Of these, only those of this partition
    #[arg(long, requires = "all", value_name = "ID")]
    pub of_partition: Option<PartitionId>,
}

#[derive(Debug, Args)]
pub struct RenewArguments {
    #[command(flatten)]
    pub lease: LeaseChoice,
    /// So much longer, for example 30m or 2h
    #[arg(long = "for", value_name = "DURATION", required_unless_present = "budget")]
    pub more: Option<LeaseDuration>,
    /// What the lease may cost in all from now on, for example 3.00EUR
    #[arg(long, value_name = "AMOUNT")]
    pub budget: Option<Amount>,
}

#[derive(Debug, Args)]
pub struct BillArguments {
    /// Only this lease
    #[arg(long, conflicts_with_all = ["month", "csv"])]
    pub lease: Option<LeaseId>,
    /// The statement of a month, by UTC, for example 2026-11
    #[arg(long, value_name = "YYYY-MM")]
    pub month: Option<Month>,
    /// Print the month's entries as a table for spreadsheets
    #[arg(long, requires = "month")]
    pub csv: bool,
}

#[derive(Debug, Args)]
pub struct ReceiptArguments {
    /// Which lease; not needed where only one is kept here
    #[arg(value_name = "LEASE", conflicts_with = "file")]
    pub lease: Option<LeaseId>,
    /// Check every signature and link; without a key to check with it fails
    #[arg(long)]
    pub verify: bool,
    /// The host's key for receipts, 64 hexadecimal digits; that which the lease names where not stated
    #[arg(long, value_name = "KEY")]
    pub receipt_key: Option<ReceiptKey>,
    /// A receipt that was saved with --json, instead of asking for it
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct LeaseChoice {
    /// Which lease; not needed where only one is kept here
    #[arg(long, value_name = "ID")]
    pub lease: Option<LeaseId>,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    pub lease: LeaseChoice,
    /// OS image to run in; the one that is running where not stated
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,
    /// Print the job's id and leave it running
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub program: ProgramArguments,
}

#[derive(Debug, Args)]
pub struct TunnelArguments {
    #[command(flatten)]
    pub lease: LeaseChoice,
    /// Ports: here, and in the guest. 127.0.0.1:8022:22 is the same as 8022:22; 0:22 takes a port that is free
    #[arg(value_name = "[BIND:]LOCAL:GUEST", required_unless_present = "stdio")]
    pub forwards: Vec<Forward>,
    /// One connection to this port, over standard input and output
    #[arg(long, value_name = "PORT", conflicts_with = "forwards", value_parser = clap::value_parser!(u16).range(1..))]
    pub stdio: Option<u16>,
}

#[derive(Debug, Args)]
pub struct SshArguments {
    #[command(flatten)]
    pub lease: LeaseChoice,
    /// Whom to log in as
    #[arg(long, default_value = "root")]
    pub user: String,
    /// Port of the guest's SSH server
    #[arg(long, default_value_t = 22, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// What ssh is to be given after the destination: options, a command
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub arguments: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct RentArguments {
    #[command(flatten)]
    pub conditions: ConditionArguments,
    /// OS image to run in
    #[arg(long, value_name = "NAME")]
    pub image: String,
    /// The lease ends by itself after this time, for example 30m or 2h
    #[arg(long = "for", value_name = "DURATION", default_value = "1h")]
    pub duration: LeaseDuration,
    /// The lease ends by itself before it costs more than this, for example 1.50EUR
    #[arg(long, value_name = "AMOUNT")]
    pub budget: Option<Amount>,
    #[command(flatten)]
    pub program: ProgramArguments,
}

#[derive(Debug, Clone, Args)]
pub struct ProgramArguments {
    /// Environment variable for the program
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<Variable>,
    /// Directory to run in, within the guest
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Give the program this command's standard input
    #[arg(long)]
    pub stdin: bool,
    /// End the program after this time, for example 90s
    #[arg(long, value_name = "DURATION")]
    pub time_limit: Option<LeaseDuration>,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
