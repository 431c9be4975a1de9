//! The OS image server.
#![forbid(unsafe_code)]

use std::{error::Error, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use sublet::{
    api::http::{Listen, Shutdown, TlsFiles, chain, init_logs},
    image_server,
};

/// Serves OS images from a directory, to hosts and to any client of OCI registries; nothing is ever written
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// In which each repository is an OCI layout at its name's path, as `sublet image` makes them
    #[arg(long, env = "SUBLET_IMAGE_STORE", value_name = "DIR")]
    directory: PathBuf,
    #[arg(long, default_value = "127.0.0.1:7080")]
    listen: SocketAddr,
    /// Speak TLS with this certificate, and those between it and its authority (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Listen on other than loopback addresses without TLS: what is served can be read on the way, and every reader
    /// verifies it all the same
    #[arg(long, conflicts_with = "tls_cert")]
    insecure_http: bool,
    /// Break off with a client that takes nothing of what it is sent for so long
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    stalled_seconds: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sublet-images: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    init_logs();
    let tls = arguments.tls_cert.zip(arguments.tls_key);
    let tls = tls.map(|(certificate, key)| TlsFiles { certificate, key, client_authorities: None });
    let listen = Listen { address: arguments.listen, insecure_http: arguments.insecure_http, tls };
    let stalled = Duration::from_secs(arguments.stalled_seconds);
    let shutdown = Shutdown::on_signals()?;
    let listening = |at| eprintln!("listening on {at}");
    Ok(image_server::run(arguments.directory, listen, stalled, shutdown, listening).await?)
}
