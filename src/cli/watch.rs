//! What happens at the registry, line by line, until interrupted.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use super::{CliError, context::Context, report::price};
use crate::api::registry::{Event, EventKind};

/// How long to wait before the registry is called again when the stream broke.
const RETRY: Duration = Duration::from_secs(2);

/// Follows events; goes on where it was when the connection breaks. A registry that cannot be reached at first is an
/// error, later it is waited for.
pub(super) async fn watch(context: &Context) -> Result<ExitCode, CliError> {
    let registry = context.registry()?;
    let mut last: Option<String> = None;
    loop {
        let mut events = match registry.events(last.as_deref()).await {
            Ok(events) => events,
            Err(error) if last.is_some() && error.is_unreachable() => {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        // A stream that breaks is followed again from where it broke.
        while let Ok(Some(event)) = events.next().await {
            print(&event, context.json())?;
        }
        last = events.last_id().map(str::to_owned).or(last);
        tokio::time::sleep(RETRY).await;
    }
}

fn print(event: &Event, as_json: bool) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    let written = if as_json {
        serde_json::to_writer(&mut out, event).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        writeln!(out, "{}", line(event))
    };
    written.and_then(|()| out.flush()).map_err(CliError::Output)
}

fn line(event: &Event) -> String {
    let Event { kind, at, host, partition, terms, lease, expires_at, reason, detail, .. } = event;
    let mut words = vec![format!("{at:.0}"), said(*kind).to_owned()];
    words.extend(lease.map(|lease| format!("lease {lease}")));
    words.extend(partition.map(|partition| format!("partition {partition}")));
    words.extend(host.map(|host| format!("host {host}")));
    words.extend(terms.as_ref().map(|terms| price(&terms.price)));
    words.extend(expires_at.map(|at| format!("until {at:.0}")));
    words.extend(reason.map(|reason| format!("({reason})")));
    words.extend(detail.clone());
    words.join("  ")
}

fn said(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Following => "following",
        EventKind::Reread => "events may have been missed: look again",
        EventKind::Dropped => "dropped by the registry",
        EventKind::OfferRegistered => "offered",
        EventKind::OfferChanged => "offer changed",
        EventKind::OfferWithdrawn => "withdrawn",
        EventKind::OfferTaken => "taken",
        EventKind::OfferFree => "free again",
        EventKind::LeaseMade => "lease made",
        EventKind::LeaseRenewed => "lease renewed",
        EventKind::LeaseRecalled => "lease recalled",
        EventKind::KeyRevoked => "lending key revoked",
        EventKind::LeaseEnded => "lease ended",
        EventKind::Violation => "violation",
        EventKind::HostUp => "host up",
        EventKind::HostDown => "host down",
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::domain::{id::LeaseId, lease::EndReason};

    #[test]
    fn an_event_is_a_line_of_what_belongs_to_it() {
        let at = Timestamp::UNIX_EPOCH;
        let event = Event {
            lease: Some(LeaseId(Uuid::nil())),
            reason: Some(EndReason::Returned),
            ..Event::new(EventKind::LeaseEnded, at)
        };
        let expected =
            "1970-01-01T00:00:00Z  lease ended  lease 00000000-0000-0000-0000-000000000000  (returned)";
        assert_eq!(line(&event), expected);
        assert_eq!(line(&Event::new(EventKind::Following, at)), "1970-01-01T00:00:00Z  following");
    }
}
