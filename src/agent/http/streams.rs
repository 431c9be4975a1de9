//! Output as it comes, as server-sent events. Each event's id says where to go on (`Last-Event-ID`).

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName},
    response::sse::{Event, KeepAlive, KeepAliveStream, Sse},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use sublet_guest_protocol::Stream as Output;
use sublet_vmm_protocol::ConsoleLog;
use tokio::sync::watch;

use super::{Agent, auth::Borrowed, jobs::find};
use crate::{
    agent::{
        guest::{
            jobs::{Job, Stage},
            output,
        },
        partition::error::PartitionError,
        services::Services,
    },
    api::{
        agent::{GuestHung, GuestSilence, LogChunk},
        http::{PathIds, Shutdown, header_text},
        problem::{Code, Problem},
    },
    domain::id::JobId,
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Most bytes in one event.
const CHUNK_BYTES: usize = 32 * 1024;
/// The VMM writes the console without telling anybody, so it is looked at this often.
const CONSOLE_PERIOD: Duration = Duration::from_millis(100);

/// What a handler answers with.
type Events = Sse<KeepAliveStream<BoxStream<'static, Result<Event, Infallible>>>>;

/// Two numbers with a colon between them.
type Place = (u64, u64);

fn last_place(headers: &HeaderMap) -> Result<Place, Problem> {
    let Some(text) = header_text(headers, &LAST_EVENT_ID).filter(|text| !text.is_empty()) else {
        return Ok((0, 0));
    };
    let place = text.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    place.ok_or_else(|| {
        Problem::new(Code::MalformedRequest, format!("Last-Event-ID: {text:?} is not the id of an event"))
    })
}

fn event(name: &str, (a, b): Place, offset: u64, bytes: Vec<u8>) -> Event {
    let (text, base64) = match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(BASE64_STANDARD.encode(error.as_bytes()))),
    };
    let data = serde_json::to_string(&LogChunk { offset, text, base64 }).unwrap_or_default();
    Event::default().event(name).id(format!("{a}:{b}")).data(data)
}

/// Without the beginning of a character whose rest is still to come.
fn whole_characters(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Err(error) = std::str::from_utf8(&bytes)
        && error.error_len().is_none()
        && error.valid_up_to() > 0
    {
        bytes.truncate(error.valid_up_to());
    }
    bytes
}

/// A job's output, then its end.
#[utoipa::path(
    get, path = "/v1/partitions/{id}/jobs/{job}/logs", tag = "jobs", security(("lending_key" = [])),
    params(
        ("id" = String, Path, format = "uuid"),
        ("job" = String, Path, format = "uuid"),
        ("last-event-id" = Option<String>, Header, description = "Goes on after this event"),
    ),
    responses(
        (status = 200, description = "Events stdout and stderr with a LogChunk each, guest with a GuestSilence, at last end with the JobView",
            body = LogChunk, content_type = "text/event-stream"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn logs(
    State(agent): State<Arc<Agent>>,
    borrowed: Borrowed,
    PathIds((_, id)): PathIds<(String, JobId)>,
    headers: HeaderMap,
) -> Result<Events, Problem> {
    find(&borrowed, id).await?;
    let changes = borrowed.handle.jobs.signals().watch();
    let at = last_place(&headers)?;
    let shutdown = agent.shutdown.clone();
    let follower = JobFollower { borrowed, id, at, changes, turn: false, hung: None, shutdown };
    Ok(sse(stream::unfold(Some(follower), |follower| async { follower?.next().await })))
}

fn sse(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Events {
    Sse::new(events.boxed()).keep_alive(KeepAlive::default())
}

/// Follows one job.
struct JobFollower {
    borrowed: Borrowed,
    id: JobId,
    /// Bytes of stdout and stderr that were sent.
    at: Place,
    changes: watch::Receiver<u64>,
    /// The streams take turns.
    turn: bool,
    /// What was told of the guest's silence.
    hung: Option<GuestHung>,
    shutdown: Shutdown,
}

type Next<T> = Option<(Result<Event, Infallible>, Option<T>)>;

impl JobFollower {
    async fn next(mut self) -> Next<Self> {
        loop {
            self.changes.mark_unchanged();
            self.borrowed.admit().ok()?;
            if let Some(event) = self.output().await.or_else(|| self.silence()) {
                return Some((Ok(event), Some(self)));
            }
            let job = find(&self.borrowed, self.id).await.ok()?;
            if matches!(job.stage, Stage::Ended(_)) {
                // What has ended has all of its output stored, some of it perhaps since it was looked at.
                return match self.output().await {
                    Some(event) => Some((Ok(event), Some(self))),
                    None => Some((Ok(self.end(job)), None)),
                };
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = self.shutdown.clone().wait() => return None,
            }
        }
    }

    /// Where the guest is not heard any more, or is again.
    fn silence(&mut self) -> Option<Event> {
        let hung = self.borrowed.handle.row().machine.boot().and_then(|boot| boot.hung);
        if hung == self.hung {
            return None;
        }
        self.hung = hung;
        let data = serde_json::to_string(&GuestSilence { guest_hung: hung }).unwrap_or_default();
        Some(Event::default().event("guest").id(format!("{}:{}", self.at.0, self.at.1)).data(data))
    }

    fn end(&self, job: Job) -> Event {
        let view = self.borrowed.handle.jobs.view(job);
        let data = serde_json::to_string(&view).unwrap_or_default();
        Event::default().event("end").id(format!("{}:{}", self.at.0, self.at.1)).data(data)
    }

    async fn output(&mut self) -> Option<Event> {
        self.turn = !self.turn;
        let order =
            if self.turn { [Output::Stdout, Output::Stderr] } else { [Output::Stderr, Output::Stdout] };
        for stream in order {
            let event = self.output_of(stream).await;
            if event.is_some() {
                return event;
            }
        }
        None
    }

    async fn output_of(&mut self, stream: Output) -> Option<Event> {
        let path = output::path(self.borrowed.handle.jobs.output_directory(), self.id, stream);
        let (name, at) = match stream {
            Output::Stdout => ("stdout", &mut self.at.0),
            Output::Stderr => ("stderr", &mut self.at.1),
        };
        let offset = *at;
        let stored = tokio::task::spawn_blocking(move || output::read_stored(&path, offset, CHUNK_BYTES));
        let bytes = whole_characters(stored.await.ok()?.ok()?);
        *at += bytes.len() as u64;
        (!bytes.is_empty()).then(|| event(name, self.at, offset, bytes))
    }
}

/// The console of the guest that runs, or of the one that ended last.
#[utoipa::path(
    get, path = "/v1/partitions/{id}/console", tag = "leases", security(("lending_key" = [])),
    params(
        ("id" = String, Path, format = "uuid"),
        ("last-event-id" = Option<String>, Header, description = "Goes on after this event"),
    ),
    responses(
        (status = 200, description = "Events console with a LogChunk each, until the guest has ended",
            body = LogChunk, content_type = "text/event-stream"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn console(
    State(agent): State<Arc<Agent>>,
    borrowed: Borrowed,
    headers: HeaderMap,
) -> Result<Events, Problem> {
    borrowed.admit()?;
    let row = borrowed.handle.row();
    let cid = row.machine.console_of().ok_or(PartitionError::NoGuest)?;
    let last = last_place(&headers)?;
    // Another guest's console is read from its start.
    let offset = if last.0 == u64::from(cid) { last.1 } else { 0 };
    let follower = ConsoleFollower {
        services: Arc::clone(&agent.services),
        borrowed,
        cid,
        offset,
        shutdown: agent.shutdown.clone(),
    };
    Ok(sse(stream::unfold(Some(follower), |follower| async { follower?.next().await })))
}

/// Follows one guest's console.
struct ConsoleFollower {
    services: Arc<Services>,
    borrowed: Borrowed,
    cid: u32,
    offset: u64,
    shutdown: Shutdown,
}

impl ConsoleFollower {
    async fn next(mut self) -> Next<Self> {
        loop {
            // Looked at before the console: of a guest that has ended, all is there. Another lease's is not shown.
            self.borrowed.admit().ok()?;
            let row = self.borrowed.handle.row();
            let runs = row.machine.boot().is_some() && row.machine.console_of() == Some(self.cid);
            let path = self.services.console(row.id, self.cid);
            let offset = self.offset;
            let slice =
                tokio::task::spawn_blocking(move || ConsoleLog::open(&path)?.read_from(offset, CHUNK_BYTES))
                    .await
                    .ok()?
                    .ok()?;
            if !slice.bytes.is_empty() {
                let bytes = whole_characters(slice.bytes);
                self.offset = slice.offset + bytes.len() as u64;
                let place = (self.cid.into(), self.offset);
                return Some((Ok(event("console", place, slice.offset, bytes)), Some(self)));
            }
            if !runs {
                return None;
            }
            tokio::select! {
                () = tokio::time::sleep(CONSOLE_PERIOD) => {}
                () = self.shutdown.clone().wait() => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_not_cut_in_two() {
        let text = "añ".as_bytes();
        assert_eq!(whole_characters(text[..2].to_vec()), b"a");
        assert_eq!(whole_characters(text.to_vec()), text);
        assert_eq!(
            whole_characters(text[1..2].to_vec()),
            &text[1..2],
            "what never becomes one is sent as it is"
        );
        assert_eq!(whole_characters(vec![b'a', 0xff, b'b']), [b'a', 0xff, b'b']);
    }

    #[test]
    fn an_event_id_that_is_none_is_refused() {
        let mut headers = HeaderMap::new();
        assert_eq!(last_place(&headers).unwrap(), (0, 0));
        headers.insert(LAST_EVENT_ID, "12:7".parse().unwrap());
        assert_eq!(last_place(&headers).unwrap(), (12, 7));
        headers.insert(LAST_EVENT_ID, "12".parse().unwrap());
        assert_eq!(last_place(&headers).unwrap_err().code, Code::MalformedRequest);
    }
}
