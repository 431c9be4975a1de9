//! What can go wrong with a command, as a person reads it.

use std::{io, net::SocketAddr, path::PathBuf};

use thiserror::Error;

use crate::{
    client::{BadCredentials, ClientError, ImageClientError, TrustError},
    domain::{
        id::LeaseId,
        image::signature::{NotHex, NotVouchedFor},
        lending_key::{InvalidKey, RestrictError},
        receipt::chain::BadReceipt,
    },
    image::{
        build::BuildError, convert::ConvertError, from_directory::DescriptionError, layout::LayoutError,
        sign::SignError, store::StoreError, verify::VerifyError,
    },
};

/// An error and what it came from, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[derive(Debug, Error)]
pub enum CliError {
    #[error("{what} is not known; give it with {option} or in {variable}")]
    Missing { what: &'static str, option: &'static str, variable: &'static str },
    #[error("cannot use {path:?}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path:?} does not hold a lease; move it away")]
    BrokenLease { path: PathBuf, source: serde_json::Error },
    #[error("there is no folder for leases: set HOME, or give one with --state-dir")]
    NoStateDirectory,
    #[error("no lease is kept here; borrow first")]
    NoLease,
    #[error("lease {0} is not kept here; `sublet leases` lists those that are")]
    UnknownLease(LeaseId),
    #[error("{0} leases are kept here; name one with --lease (`sublet leases` lists them)")]
    SeveralLeases(usize),
    #[error("no offer meets the conditions: {0}")]
    NoOffer(String),
    #[error("partition {0} is not on offer")]
    NotOnOffer(crate::domain::id::PartitionId),
    #[error("the host is not able to lend; see what is missing above")]
    CannotLend,
    #[error("the host has been out of reach for {0} seconds; the job goes on there, `sublet logs` shows it")]
    LostTouch(u64, #[source] ClientError),
    #[error("cannot read standard input")]
    Stdin(#[source] io::Error),
    #[error("cannot wait for an interrupt")]
    Signal(#[source] io::Error),
    #[error("interrupted")]
    Interrupted,
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("cannot take a connection on {0}")]
    Accept(SocketAddr, #[source] io::Error),
    #[error("the tunnel broke")]
    Tunnel(#[source] io::Error),
    #[error(
        "there is no ssh on this machine: install it (Debian: openssh-client), or reach the guest's SSH server with another \
         client through `sublet tunnel 8022:22`"
    )]
    NoSsh,
    #[error("cannot start ssh")]
    Ssh(#[source] io::Error),
    #[error("cannot tell which program this is, which ssh is to start")]
    OwnPath(#[source] io::Error),
    #[error("cannot make a table of the entries")]
    Table(#[from] csv::Error),
    #[error("line {line} of {path:?} is not of a ledger's export")]
    BrokenExport { path: PathBuf, line: usize, source: serde_json::Error },
    #[error("{path:?} is not a receipt")]
    BrokenReceipt { path: PathBuf, source: serde_json::Error },
    #[error(
        "there is no key to check the receipt with: give the one that the lease names with --receipt-key"
    )]
    NoReceiptKey,
    #[error("the receipt proves nothing")]
    Receipt(#[from] BadReceipt),
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    #[error("cannot print as JSON")]
    Json(#[source] serde_json::Error),
    #[error("this is not a lending key")]
    NotAKey(#[source] InvalidKey),
    #[error(transparent)]
    Restrict(#[from] RestrictError),
    #[error("{what} is not known; give it with {option}")]
    MissingOption { what: &'static str, option: &'static str },
    #[error("there is no folder for images: set HOME, or give one with --store")]
    NoImageStore,
    #[error("{0} is at a registry, and this is about images of the store: `sublet image pull` it first")]
    NotLocal(String),
    #[error(
        "{0} is no image of a registry's: put its HOST[:PORT]/ in front, with http:// where it has no TLS"
    )]
    NotRemote(String),
    #[error("--created is no moment")]
    Created(#[source] jiff::Error),
    #[error(transparent)]
    ImageStore(#[from] StoreError),
    #[error(transparent)]
    ImageLayout(#[from] LayoutError),
    #[error(transparent)]
    ImageBuild(#[from] BuildError),
    #[error(transparent)]
    ImageDirectory(#[from] DescriptionError),
    #[error(transparent)]
    ImageConvert(#[from] ConvertError),
    #[error("the image is damaged")]
    ImageDamaged(#[from] VerifyError),
    #[error("cannot sign the image")]
    ImageSign(#[from] SignError),
    #[error("this is no key for images")]
    ImageKey(#[from] NotHex),
    #[error(transparent)]
    NotVouchedFor(#[from] NotVouchedFor),
    #[error("cannot use --credentials")]
    Credentials(#[from] BadCredentials),
    #[error(transparent)]
    ImageClient(#[from] ImageClientError),
    #[error("cannot use --ca-file")]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Client(#[from] ClientError),
}
