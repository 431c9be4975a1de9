//! The registry's program: serves, makes the tokens of lenders and borrowers, and keeps their accounts.
#![forbid(unsafe_code)]

use std::{
    error::Error,
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use sublet::{
    api::{
        http::{Listen, Shutdown, TlsFiles, chain, init_logs},
        token::{Scope, TokenView},
    },
    domain::{
        id::LeaseId,
        ledger::entry::Entry,
        money::{Amount, FeeRate},
    },
    registry::{
        self, Operator, Role, Settings, http,
        resource_db::{self, AccountKind, Location},
    },
};
use uuid::Uuid;

/// The managing server: matches borrowers with offers, lends, bills
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The database's file; it is made where there is none
    #[arg(long, global = true, env = "SUBLET_DATABASE", default_value = "registry.db")]
    database: Location,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the HTTP API until SIGTERM
    Serve(Serve),
    /// By which lenders, borrowers and administrators are known; works while the registry serves
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Refuse an account's tokens, and those of its hosts; leases that run go on
    Block {
        whose: AccountOf,
        #[arg(long)]
        name: String,
    },
    /// Take an account's tokens again
    Unblock {
        whose: AccountOf,
        #[arg(long)]
        name: String,
    },
    /// The keys that lending keys are signed with
    SigningKey {
        #[command(subcommand)]
        command: SigningKeyCommand,
    },
    /// Take a borrower's payment in; the same reference again is the same payment
    Deposit {
        #[arg(long, value_name = "NAME")]
        borrower: String,
        /// For example 20.00EUR
        #[arg(long)]
        amount: Amount,
        /// By which the payment is found at the bank
        #[arg(long)]
        reference: String,
    },
    /// Pay a lender all that stands to its credit; the same reference again is the same payment
    Payout {
        #[arg(long, value_name = "NAME")]
        lender: String,
        #[arg(long)]
        reference: String,
    },
    /// Give a borrower back a part of what a lease cost; the same reference again is the same credit
    Credit {
        #[arg(long)]
        lease: LeaseId,
        #[arg(long)]
        amount: Amount,
        /// Why, for both sides to read
        #[arg(long)]
        reason: String,
        /// The receipt, or whatever else shows it
        #[arg(long)]
        reference: String,
    },
    /// Bound what a borrower's running leases may cost beyond what it has paid in
    CreditLimit {
        #[arg(long, value_name = "NAME")]
        borrower: String,
        /// For example 50EUR; in other currencies it is nothing then, unless one is set there too
        #[arg(long, value_name = "AMOUNT")]
        limit: Amount,
        /// Take the limit in this currency away
        #[arg(long)]
        none: bool,
    },
    /// Write leases, entries and balances into a new file, for `sublet audit`
    Export { file: PathBuf },
    /// Copy the database into a new file, while the registry serves; the copy holds the signing key, as the database does
    Backup { file: PathBuf },
    /// Make the database out of such a copy; one that is there is not overwritten
    Restore { file: PathBuf },
    /// Print the OpenAPI description of the HTTP API
    Openapi,
}

#[derive(Debug, clap::Args)]
struct Serve {
    #[arg(long, default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// Speak TLS with this certificate, and those between it and its authority (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Hosts must show a certificate of an authority in this file (PEM), beside their tokens
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    host_ca: Option<PathBuf>,
    /// Listen on other than loopback addresses without TLS, though tokens and keys can be read on the way
    #[arg(long, conflicts_with = "tls_cert")]
    insecure_http: bool,
    /// The registry's share of each charge, in millionths
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    fee_millionths: u32,
    /// How often hosts are to be heard; one that is silent for two and a half times this long is not offered
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    beat_every_ms: u64,
    /// How long after its end a lease of a silent host waits for the host's word before the host counts as lost
    #[arg(long, default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    host_lost_grace_seconds: u64,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it; this is the only time it is shown
    Make {
        whose: Whose,
        /// Whose token it is; the account is made where there is none
        #[arg(long)]
        name: String,
        /// What it is good for: full, read (to look), or enrol (a lender's, to enrol hosts)
        #[arg(long, default_value_t = Scope::Full)]
        scope: Scope,
        /// It is good for so many days; else until it is revoked
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650))]
        valid_days: Option<u32>,
    },
    /// List all there are, without what is secret in them
    List,
    /// Make a token good for nothing
    Revoke { id: Uuid },
}

#[derive(Debug, Subcommand)]
enum SigningKeyCommand {
    /// Have another key take over; the one before is trusted until no lease is left that it signed for
    Rotate {
        /// Seconds until it signs; hosts are to hear of it before, with a heartbeat
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        after: u32,
    },
    /// List all there ever were
    List,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Whose {
    /// Sees all, and takes lending keys back
    Admin,
    /// Enrols hosts, and reads what was paid for them
    Lender,
    Borrower,
}

impl From<Whose> for Role {
    fn from(whose: Whose) -> Self {
        match whose {
            Whose::Admin => Self::Administrator,
            Whose::Lender => Self::Account(AccountKind::Lender),
            Whose::Borrower => Self::Account(AccountKind::Borrower),
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AccountOf {
    Lender,
    Borrower,
}

impl From<AccountOf> for AccountKind {
    fn from(whose: AccountOf) -> Self {
        match whose {
            AccountOf::Lender => Self::Lender,
            AccountOf::Borrower => Self::Borrower,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sublet-registry: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let database = arguments.database;
    match arguments.command {
        Command::Serve(options) => serve(database, options).await,
        Command::Deposit { borrower, amount, reference } => {
            print(&[registry::deposit(database, borrower, amount, reference).await?])
        }
        Command::Payout { lender, reference } => print(&registry::payout(database, lender, reference).await?),
        Command::Credit { lease, amount, reason, reference } => {
            print(&[registry::credit(database, lease, amount, reason, reference).await?])
        }
        Command::CreditLimit { borrower, limit, none } => {
            let Amount { micros, currency } = limit;
            let limit = (!none).then_some(micros);
            Ok(registry::set_credit_limit(database, borrower, currency, limit).await?)
        }
        Command::Export { file } => Ok(registry::export(database, &file).await?),
        Command::Token { command } => token(&Operator::at(database).await?, command).await,
        Command::Block { whose, name } => {
            Ok(Operator::at(database).await?.block(whose.into(), name, true).await?)
        }
        Command::Unblock { whose, name } => {
            Ok(Operator::at(database).await?.block(whose.into(), name, false).await?)
        }
        Command::SigningKey { command } => signing_key(&Operator::at(database).await?, command).await,
        Command::Backup { file } => Ok(resource_db::backup(&database, &file)?),
        Command::Restore { file } => Ok(resource_db::restore(&file, &database)?),
        Command::Openapi => Ok(writeln!(io::stdout(), "{}", http::description().to_pretty_json()?)?),
    }
}

/// Prints entries, a line of JSON each.
fn print(entries: &[Entry]) -> Result<(), Box<dyn Error>> {
    for entry in entries {
        writeln!(io::stdout(), "{}", serde_json::to_string(entry)?)?;
    }
    Ok(())
}

async fn token(operator: &Operator, command: TokenCommand) -> Result<(), Box<dyn Error>> {
    match command {
        TokenCommand::Make { whose, name, scope, valid_days } => {
            let expires_at =
                valid_days.map(|days| Timestamp::now() + SignedDuration::from_hours(24 * i64::from(days)));
            let token = operator.make_token(whose.into(), name, scope, expires_at).await?;
            Ok(writeln!(io::stdout(), "{}", token.reveal())?)
        }
        TokenCommand::List => list_tokens(operator).await,
        TokenCommand::Revoke { id } => Ok(operator.revoke_token(id).await?),
    }
}

async fn list_tokens(operator: &Operator) -> Result<(), Box<dyn Error>> {
    for token in operator.tokens().await? {
        let until = token.expires_at.map_or_else(|| "revoked".to_owned(), |at| at.to_string());
        let TokenView { id, role, name, scope, created_at, .. } = token;
        writeln!(io::stdout(), "{id}  {role} {name}  {scope}  made {created_at}, good until {until}")?;
    }
    Ok(())
}

async fn signing_key(operator: &Operator, command: SigningKeyCommand) -> Result<(), Box<dyn Error>> {
    let keys = match command {
        SigningKeyCommand::Rotate { after } => {
            vec![operator.rotate_signing_key(Duration::from_secs(after.into())).await?]
        }
        SigningKeyCommand::List => operator.signing_keys().await?,
    };
    for key in keys {
        let state = key.retired_at.map_or_else(|| "trusted".to_owned(), |at| format!("retired {at}"));
        writeln!(io::stdout(), "{}  {}  signs from {}, {state}", key.number, key.public_key, key.signs_from)?;
    }
    Ok(())
}

async fn serve(database: Location, options: Serve) -> Result<(), Box<dyn Error>> {
    init_logs();
    let settings = Settings {
        database,
        fee_rate: FeeRate::from_millionths(options.fee_millionths)?,
        beat_every: Duration::from_millis(options.beat_every_ms),
        host_lost_grace: Duration::from_secs(options.host_lost_grace_seconds),
    };
    let tls = options.tls_cert.zip(options.tls_key).map(|(certificate, key)| TlsFiles {
        certificate,
        key,
        client_authorities: options.host_ca,
    });
    let listen = Listen { address: options.listen, insecure_http: options.insecure_http, tls };
    let shutdown = Shutdown::on_signals()?;
    Ok(http::run(settings, listen, shutdown, |at| eprintln!("listening on {at}")).await?)
}
