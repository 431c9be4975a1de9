//! Streams of output and of news, as server-sent events.

use std::pin::Pin;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use eventsource_stream::{Event, EventStreamError, Eventsource};
use futures::{Stream, StreamExt};
use reqwest::Method;

use super::http::{ClientError, Connection};
use crate::api::{
    agent::{GuestHung, GuestSilence, JobView, LogChunk},
    registry::Event as MarketEvent,
};

/// What a stream of output brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    Stdout {
        offset: u64,
        bytes: Bytes,
    },
    Stderr {
        offset: u64,
        bytes: Bytes,
    },
    Console {
        offset: u64,
        bytes: Bytes,
    },
    /// The guest is not heard: perhaps it hangs. None: it is heard again.
    Guest(Option<GuestHung>),
    /// The job's end, after its last output.
    End(Box<JobView>),
}

type Events = Pin<Box<dyn Stream<Item = Result<Event, EventStreamError<reqwest::Error>>> + Send>>;

/// An open stream of events, whatever is in them.
pub(super) struct EventStream {
    server: String,
    events: Events,
    last_id: String,
}

impl EventStream {
    /// From its start, or from after the event `last`.
    pub(super) async fn open(
        connection: &Connection,
        path: &str,
        last: Option<&str>,
    ) -> Result<Self, ClientError> {
        let mut request = connection.request(Method::GET, path);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = connection.send(request).await?;
        Ok(Self {
            server: connection.server(),
            events: Box::pin(response.bytes_stream().eventsource()),
            last_id: last.unwrap_or_default().to_owned(),
        })
    }

    /// The next event that `read` knows; none: the server closed the stream.
    pub(super) async fn next<T>(
        &mut self,
        read: impl Fn(&Event) -> Result<Option<T>, serde_json::Error>,
    ) -> Result<Option<T>, ClientError> {
        while let Some(event) = self.events.next().await {
            let event =
                event.map_err(|source| ClientError::Stream { server: self.server.clone(), source })?;
            if !event.id.is_empty() {
                self.last_id.clone_from(&event.id);
            }
            let read =
                read(&event).map_err(|source| ClientError::Event { server: self.server.clone(), source })?;
            if read.is_some() {
                return Ok(read);
            }
        }
        Ok(None)
    }

    /// Where to go on after the connection broke.
    pub(super) fn last_id(&self) -> Option<&str> {
        Some(self.last_id.as_str()).filter(|id| !id.is_empty())
    }
}

/// An open stream of output.
pub struct LogEvents(pub(super) EventStream);

impl LogEvents {
    /// The next event; none: the server closed the stream. Events of a kind not known here are passed over.
    pub async fn next(&mut self) -> Result<Option<LogEvent>, ClientError> {
        self.0.next(read).await
    }

    /// Where to go on after the connection broke.
    pub fn last_id(&self) -> Option<&str> {
        self.0.last_id()
    }
}

/// What happens at a registry, as it happens.
pub struct MarketEvents(pub(super) EventStream);

impl MarketEvents {
    /// The next event; none: the registry closed the stream. Events of a kind not known here are passed over.
    pub async fn next(&mut self) -> Result<Option<MarketEvent>, ClientError> {
        self.0.next(|event| Ok(serde_json::from_str(&event.data).ok())).await
    }

    /// Where to go on after the connection broke.
    pub fn last_id(&self) -> Option<&str> {
        self.0.last_id()
    }
}

fn read(event: &Event) -> Result<Option<LogEvent>, serde_json::Error> {
    if event.event == "end" {
        return serde_json::from_str(&event.data).map(|job| Some(LogEvent::End(Box::new(job))));
    }
    if event.event == "guest" {
        return serde_json::from_str(&event.data)
            .map(|silence: GuestSilence| Some(LogEvent::Guest(silence.guest_hung)));
    }
    if !["stdout", "stderr", "console"].contains(&event.event.as_str()) {
        return Ok(None);
    }
    let chunk: LogChunk = serde_json::from_str(&event.data)?;
    let (offset, bytes) = (chunk.offset, bytes_of(chunk)?);
    Ok(Some(match event.event.as_str() {
        "stdout" => LogEvent::Stdout { offset, bytes },
        "stderr" => LogEvent::Stderr { offset, bytes },
        _ => LogEvent::Console { offset, bytes },
    }))
}

fn bytes_of(chunk: LogChunk) -> Result<Bytes, serde_json::Error> {
    match (chunk.text, chunk.base64) {
        (Some(text), _) => Ok(text.into()),
        (None, Some(code)) => BASE64_STANDARD.decode(code).map(Bytes::from).map_err(serde::de::Error::custom),
        (None, None) => Ok(Bytes::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { event: name.to_owned(), data: data.to_owned(), ..Event::default() }
    }

    #[test]
    fn output_that_is_not_utf8_arrives_byte_for_byte() {
        let read = read(&event("stderr", r#"{"offset":7,"base64":"/wA="}"#)).unwrap();
        assert_eq!(read, Some(LogEvent::Stderr { offset: 7, bytes: Bytes::from_static(&[0xff, 0]) }));
    }

    #[test]
    fn an_event_of_an_unknown_kind_is_passed_over() {
        assert_eq!(read(&event("progress", "whatever")).unwrap(), None);
    }

    #[test]
    fn an_event_that_is_no_chunk_is_an_error() {
        assert!(read(&event("stdout", "{}")).is_err());
        assert!(read(&event("stdout", r#"{"offset":0,"base64":"*"}"#)).is_err());
    }
}
