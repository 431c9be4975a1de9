//! `GET /v1/events`: what happens, as it happens, to whoever may know it.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName},
    response::sse::{self, KeepAlive, KeepAliveStream, Sse},
};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::sync::watch;

use super::{
    Registry,
    accounts::Anybody,
    event_log::{EventId, Unread},
    resource_db::Principal,
};
use crate::api::{
    http::header_text,
    problem::{Code, Problem},
    registry::{Event, EventKind},
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Most readers at a time.
const READERS_MAX: usize = 4096;

/// What the handler answers with.
type Events = Sse<KeepAliveStream<BoxStream<'static, Result<sse::Event, Infallible>>>>;

/// What happens from now on, or from after the event `last-event-id` on.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", security(("token" = [])),
    params(("last-event-id" = Option<String>, Header, description = "Goes on after this event; where it is not known any more, the first event is `reread`")),
    responses(
        (status = 200, description = "An event for each that the asker may know of, named after its kind. A lender sees its hosts, a borrower offers and its leases, a host itself",
            body = Event, content_type = "text/event-stream"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn events(
    State(registry): State<Arc<Registry>>,
    Anybody(principal): Anybody,
    headers: HeaderMap,
) -> Result<Events, Problem> {
    let last = last_event(&headers)?;
    let place = Place::take(&registry)?;
    let log = registry.market.events();
    let (news, latest) = (log.listen(), log.latest());
    let (last, greeting) = match last {
        None => (latest, Some(EventKind::Following)),
        Some(last) if log.can_go_on_after(last) => (last, None),
        Some(_) => (latest, Some(EventKind::Reread)),
    };
    let greeting = greeting.map(|kind| told(&Event::new(kind, registry.clock.now()), last));
    let reader = Reader { registry, principal, last, news, waiting: Vec::new(), _place: place };
    let following = stream::unfold(Some(reader), |reader| async { reader?.next().await });
    let events = stream::iter(greeting).chain(following).map(Ok).boxed();
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn last_event(headers: &HeaderMap) -> Result<Option<EventId>, Problem> {
    let Some(text) = header_text(headers, &LAST_EVENT_ID).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let refused = |_| {
        let detail = format!("Last-Event-ID: {text:?} is not the id of an event");
        Problem::new(Code::MalformedRequest, detail)
    };
    text.parse().map(Some).map_err(refused)
}

fn told(event: &Event, id: EventId) -> sse::Event {
    // Text and numbers alone: this cannot fail.
    let data = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default().event(event.kind.as_str()).id(id.to_string()).data(data)
}

/// One of the places for readers; free again when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(registry: &Registry) -> Result<Self, Problem> {
        let place = Self(Arc::clone(&registry.event_readers));
        if place.0.fetch_add(1, Ordering::SeqCst) < READERS_MAX {
            return Ok(place);
        }
        let detail = format!("{READERS_MAX} follow events already; try again later");
        Err(Problem::new(Code::TooManyRequests, detail))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One reader, and how far it has read.
struct Reader {
    registry: Arc<Registry>,
    principal: Principal,
    last: EventId,
    news: watch::Receiver<EventId>,
    /// What it is to be given next, the last first.
    waiting: Vec<(EventId, Arc<Event>)>,
    _place: Place,
}

impl Reader {
    /// The next event that is for it. It is asked for only when the reader has taken what came before.
    async fn next(mut self) -> Option<(sse::Event, Option<Self>)> {
        loop {
            if let Some((id, event)) = self.waiting.pop() {
                return Some((told(&event, id), Some(self)));
            }
            self.news.mark_unchanged();
            match self.registry.market.events().after(self.last) {
                Unread::Lost => return Some((self.dropped(), None)),
                Unread::Events(events) if events.is_empty() => {
                    tokio::select! {
                        changed = self.news.changed() => changed.ok()?,
                        () = self.registry.shutdown.clone().wait() => return None,
                    }
                }
                Unread::Events(events) => {
                    self.last = events.last().map_or(self.last, |kept| kept.id);
                    let mine = events.into_iter().rev().filter(|kept| kept.is_for(self.principal));
                    self.waiting = mine.map(|kept| (kept.id, kept.event)).collect();
                }
            }
        }
    }

    fn dropped(&self) -> sse::Event {
        let detail = "more has happened than is kept since you read last: read faster".to_owned();
        let event =
            Event { detail: Some(detail), ..Event::new(EventKind::Dropped, self.registry.clock.now()) };
        told(&event, self.last)
    }
}
