//! What a lease's host states, signed, of what the lease had: fetched or read from a file, and checked here.

use std::{fmt::Write as _, fs, path::Path, process::ExitCode, time::Duration};

use serde::Serialize;

use super::{
    CliError,
    args::ReceiptArguments,
    context::Context,
    lease_store::KeptLease,
    report::{Report, allocation},
};
use crate::{
    client::ClientError,
    domain::{
        id::LeaseId,
        receipt::{
            chain::{Receipt, Totals},
            key::ReceiptKey,
            segment::{Cleaned, DiskCleaning, Segment, SetAside},
        },
    },
};

pub(super) async fn receipt(context: &Context, arguments: &ReceiptArguments) -> Result<ExitCode, CliError> {
    let (receipt, known) = match &arguments.file {
        Some(file) => (read(file)?, None),
        None => fetch(context, arguments.lease).await?,
    };
    let key = match arguments.receipt_key.or(known) {
        Some(key) => Some(key),
        None if arguments.verify && arguments.file.is_some() => return Err(CliError::NoReceiptKey),
        None if arguments.verify => key_at_registry(context, receipt.lease).await?,
        None => None,
    };
    match (key, arguments.verify) {
        (Some(key), _) => context.print(&Checked::new(receipt, key)?)?,
        (None, true) => return Err(CliError::NoReceiptKey),
        (None, false) => context.print(&receipt)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<Receipt, CliError> {
    let text = fs::read_to_string(file).map_err(|source| CliError::File { path: file.to_owned(), source })?;
    serde_json::from_str::<Receipt>(&text)
        .or_else(|_| serde_json::from_str::<Checked>(&text).map(|checked| checked.receipt))
        .map_err(|source| CliError::BrokenReceipt { path: file.to_owned(), source })
}

/// From the host while the lease goes on there, else from the registry; with the key that the lease named when it was made.
async fn fetch(context: &Context, lease: Option<LeaseId>) -> Result<(Receipt, Option<ReceiptKey>), CliError> {
    let kept = match (context.lease(lease), lease) {
        (Ok(kept), _) => kept,
        (Err(_), Some(lease)) => return Ok((context.registry()?.receipt(lease).await?, None)),
        (Err(error), None) => return Err(error),
    };
    let key = kept.receipts.map(|terms| terms.key);
    let receipt = match context.borrowed_host(&kept)?.receipt(kept.partition, None).await {
        Ok(receipt) => receipt,
        Err(error) => at_registry(context, &kept, error).await?,
    };
    Ok((receipt, key))
}

/// The host does not show it: the lease is over, or the host cannot be reached.
async fn at_registry(context: &Context, kept: &KeptLease, refused: ClientError) -> Result<Receipt, CliError> {
    match context.registry() {
        Ok(registry) => Ok(registry.receipt(kept.lease).await?),
        Err(_) => Err(refused.into()),
    }
}

async fn key_at_registry(context: &Context, lease: LeaseId) -> Result<Option<ReceiptKey>, CliError> {
    let lease = context.registry()?.lease(lease).await?;
    Ok(lease.receipts.map(|terms| terms.key))
}

impl Report for Receipt {
    fn text(&self) -> String {
        format!(
            "receipt    of lease {}, {} segments\nNOT CHECKED; `sublet receipt --verify` checks it",
            self.lease,
            self.segments.len()
        )
    }
}

/// A receipt whose signatures and links are all right.
#[derive(Debug, Serialize, serde::Deserialize)]
struct Checked {
    receipt: Receipt,
    verified_by: ReceiptKey,
    #[serde(skip_deserializing)]
    totals: Totals,
    #[serde(skip)]
    segments: Vec<Segment>,
}

impl Checked {
    fn new(receipt: Receipt, key: ReceiptKey) -> Result<Self, CliError> {
        let segments = receipt.verify(key)?;
        Ok(Self { totals: Totals::of(&segments), receipt, verified_by: key, segments })
    }
}

impl Report for Checked {
    fn text(&self) -> String {
        let (Some(first), Some(last)) = (self.segments.first(), self.segments.last()) else {
            return format!("receipt    of lease {}: nothing is signed yet", self.receipt.lease);
        };
        let end = match last.end {
            Some(end) => end.reason.map_or_else(|| "ended".to_owned(), |reason| reason.to_string()),
            None => "the lease goes on".to_owned(),
        };
        let mut text = format!(
            "receipt    of lease {}, checked with key {}\nsegments   {}, from {} to {} ({end})\nset aside  {}\n{}",
            self.receipt.lease,
            self.verified_by,
            self.segments.len(),
            first.from.at,
            last.to.at,
            set_aside(&last.set_aside),
            cleaned(first.cleaned),
        );
        text += &delivered(&self.totals);
        if let Some(measured) = last.guest.as_ref().and_then(|word| word.measured()) {
            let steal_ms: u64 = measured.cpus.iter().map(|cpu| cpu.steal_ms).sum();
            // Writing into a String cannot fail.
            let _ =
                write!(text, "\nthe guest  measured {steal_ms} ms of steal in {} s", measured.up_ms / 1000);
        }
        for violation in self.segments.iter().flat_map(|segment| &segment.violations) {
            let _ = write!(text, "\nviolation  {} {violation}", violation.at);
        }
        text
    }
}

fn set_aside(set_aside: &SetAside) -> String {
    let cpus = set_aside.cpus.iter().map(|cpu| match cpu.node {
        Some(node) => format!("CPU {} of node {node}", cpu.cpu),
        None => format!("CPU {}", cpu.cpu),
    });
    let cpus: Vec<String> = cpus.collect();
    format!("{} ({})", allocation(&set_aside.allocation), cpus.join(", "))
}

fn cleaned(cleaned: Option<Cleaned>) -> String {
    match cleaned {
        None => "cleaned    never lent before".to_owned(),
        Some(Cleaned { at, disk, .. }) => {
            let disk = match disk {
                DiskCleaning::KeyDestroyed => ", the disk's key destroyed and the disk made anew",
                DiskCleaning::NoDisk => "",
            };
            format!("cleaned    {at}: memory of a new process{disk}")
        }
    }
}

fn delivered(totals: &Totals) -> String {
    let Totals { length, unwatched, lacking, ran, not_run, stopped, throttled, violations } = totals;
    let share = not_run.as_secs_f64() / ran.as_secs_f64().max(f64::MIN_POSITIVE) * 100.0;
    format!(
        "\ntime       {}, of which {} unwatched and {} with something missing\n\
         vCPUs      ran {}, wanted to and did not {} ({share:.3} %), stopped {}\n\
         disks      held up {}\nviolations {violations}",
        seconds(*length),
        seconds(*unwatched),
        seconds(*lacking),
        seconds(*ran),
        seconds(*not_run),
        seconds(*stopped),
        seconds(*throttled),
    )
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::receipt::chain::tests::{receipt, signer};

    #[test]
    fn a_checked_receipt_says_what_was_set_aside_and_what_was_delivered() {
        let text = Checked::new(receipt(&[0, 2_000_000]), signer().key()).unwrap().text();
        for said in [
            "segments   2, from 2023-11-14T22:13:20Z to 2023-11-14T22:13:40Z (returned)",
            "1 CPU, 256 MiB of memory, 64 MiB of disk (CPU 1)",
            "never lent before",
            "ran 2.000 s, wanted to and did not 0.002 s (0.100 %), stopped 0.000 s",
        ] {
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn a_receipt_that_was_tampered_with_is_refused() {
        let mut receipt = receipt(&[0, 2_000_000]);
        receipt.segments[1].text = receipt.segments[1].text.replace("2000000", "0");
        let error = Checked::new(receipt, signer().key()).unwrap_err();
        assert!(matches!(error, CliError::Receipt(_)));
    }

    #[test]
    fn what_was_saved_with_json_is_read_again_checked_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("receipt.json");
        let plain = receipt(&[0]);
        fs::write(&file, serde_json::to_string(&plain).unwrap()).unwrap();
        assert_eq!(read(&file).unwrap(), plain);
        let checked = Checked::new(plain.clone(), signer().key()).unwrap();
        fs::write(&file, serde_json::to_string(&checked).unwrap()).unwrap();
        assert_eq!(read(&file).unwrap(), plain);
    }
}
