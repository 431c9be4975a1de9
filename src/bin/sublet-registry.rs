//! The registry's program: serves, and makes the tokens of lenders and borrowers.
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
use sublet::{
    api::http::{Shutdown, chain, init_logs},
    domain::money::FeeRate,
    registry::{
        Settings,
        http::{self, Listen, TlsFiles},
        make_token,
        resource_db::{AccountKind, Location},
    },
};

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
    /// Make a token and print it; this is the only time it is shown. Works while the registry serves
    Token {
        whose: Whose,
        /// Whose token it is; the account is made where there is none
        #[arg(long)]
        name: String,
    },
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
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Whose {
    /// Enrols hosts, and reads what was paid for them
    Lender,
    Borrower,
}

impl From<Whose> for AccountKind {
    fn from(whose: Whose) -> Self {
        match whose {
            Whose::Lender => Self::Lender,
            Whose::Borrower => Self::Borrower,
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
    match arguments.command {
        Command::Serve(options) => serve(arguments.database, options).await,
        Command::Token { whose, name } => {
            let token = make_token(arguments.database, whose.into(), name).await?;
            Ok(writeln!(io::stdout(), "{}", token.reveal())?)
        }
        Command::Openapi => Ok(writeln!(io::stdout(), "{}", http::description().to_pretty_json()?)?),
    }
}

async fn serve(database: Location, options: Serve) -> Result<(), Box<dyn Error>> {
    init_logs();
    let settings = Settings {
        database,
        fee_rate: FeeRate::from_millionths(options.fee_millionths)?,
        beat_every: Duration::from_millis(options.beat_every_ms),
    };
    let tls = options.tls_cert.zip(options.tls_key).map(|(certificate, key)| TlsFiles {
        certificate,
        key,
        host_authorities: options.host_ca,
    });
    let listen = Listen { address: options.listen, insecure_http: options.insecure_http, tls };
    let shutdown = Shutdown::on_signals()?;
    Ok(http::run(settings, listen, shutdown, |at| eprintln!("listening on {at}")).await?)
}
