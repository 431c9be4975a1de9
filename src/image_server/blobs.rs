//! Blobs, whole or in part. They are read in large pieces, the next while one is being sent.

use std::{fs::File, io, ops::Range, sync::Arc};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use futures::stream;
use prometheus::{IntCounter, IntGauge};
use rustix::{buffer::spare_capacity, io::pread};
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};

use super::{
    ImageServer,
    directory::Opened,
    range::Wanted,
    refusal::{Code, Refusal},
};
use crate::{
    api::http::header_text,
    domain::image::{digest::Digest, reference::RepositoryName},
};

/// How much is read and sent at once, in bytes.
const PIECE_BYTES: u64 = 512 * 1024;

impl ImageServer {
    pub(super) async fn blob(
        self: &Arc<Self>,
        name: RepositoryName,
        digest: Digest,
        request: &Parts,
    ) -> Result<Response, Refusal> {
        let opened = self.blocking(move |server| {
            let unknown = || Refusal::new(Code::BlobUnknown, format!("{name} has no blob {digest}"));
            server.directory.blob(&name, &digest)?.ok_or_else(unknown)
        });
        let Opened { file, bytes } = opened.await?;
        let mut headers = headers(&digest);
        if is_known(&request.headers, &digest) {
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
        let (status, part) = match wanted(&request.headers, &digest, bytes) {
            Wanted::Whole => (StatusCode::OK, 0..bytes),
            Wanted::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
            Wanted::Unsatisfiable => {
                let refusal = Refusal::new(Code::RangeInvalid, format!("the blob has {bytes} bytes"));
                return Err(refusal.with(header::CONTENT_RANGE, value(format!("bytes */{bytes}"))));
            }
        };
        headers.insert(header::CONTENT_LENGTH, (part.end - part.start).into());
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {}-{}/{bytes}", part.start, part.end - 1);
            headers.insert(header::CONTENT_RANGE, value(range));
        }
        // Of a HEAD nothing is read.
        let body = if request.method == Method::HEAD { Body::empty() } else { self.body(file, part)? };
        Ok((status, headers, body).into_response())
    }

    fn body(&self, file: File, part: Range<u64>) -> Result<Body, Refusal> {
        let busy = || Refusal::new(Code::TooManyRequests, "too many blobs are being sent at once; ask again");
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| busy())?;
        let sending = Sending::new(file, part, permit, &self.metrics.sent, &self.metrics.streams);
        Ok(Body::from_stream(stream::try_unfold(sending, Sending::next)))
    }
}

fn headers(digest: &Digest) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // What has this digest never changes.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=31536000, immutable"));
    headers.extend(named(digest));
    headers
}

/// By what a client knows what it is sent.
pub(super) fn named(digest: &Digest) -> [(header::HeaderName, HeaderValue); 2] {
    let name = header::HeaderName::from_static("docker-content-digest");
    [(name, value(digest.to_string())), (header::ETAG, value(etag(digest)))]
}

/// Whether the client says that it has this already.
pub(super) fn is_known(headers: &HeaderMap, digest: &Digest) -> bool {
    let etag = etag(digest);
    let known = header_text(headers, &header::IF_NONE_MATCH).unwrap_or_default();
    known.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == etag)
}

/// A part that was asked for on condition of another blob's name is none of this one.
fn wanted(headers: &HeaderMap, digest: &Digest, bytes: u64) -> Wanted {
    let is_other = header_text(headers, &header::IF_RANGE).is_some_and(|name| name != etag(digest));
    let range = header_text(headers, &header::RANGE).filter(|_| !is_other);
    Wanted::read(range, bytes)
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Of text that is ASCII; it always is.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// A part of a blob on its way to a client.
struct Sending {
    file: Arc<File>,
    /// What has not been asked of the disk yet.
    rest: Range<u64>,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    sent: IntCounter,
    _counted: Counted,
    _permit: OwnedSemaphorePermit,
}

impl Sending {
    fn new(
        file: File,
        part: Range<u64>,
        permit: OwnedSemaphorePermit,
        sent: &IntCounter,
        streams: &IntGauge,
    ) -> Self {
        let (sent, _counted) = (sent.clone(), Counted::one_more(streams));
        Self { file: Arc::new(file), rest: part, reading: None, sent, _counted, _permit: permit }
    }

    /// The next piece, and what is left; a blob that is shorter now than it was breaks the connection off.
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let Some(reading) = self.reading.take().or_else(|| self.begin()) else { return Ok(None) };
        let piece = reading.await.map_err(io::Error::other)??;
        self.reading = self.begin();
        self.sent.inc_by(piece.len() as u64);
        Ok(Some((piece, self)))
    }

    /// Has the next piece read. None: there is none.
    fn begin(&mut self) -> Option<JoinHandle<io::Result<Bytes>>> {
        let start = self.rest.start;
        let end = (start + PIECE_BYTES).min(self.rest.end);
        self.rest.start = end;
        let file = Arc::clone(&self.file);
        (start < end).then(|| tokio::task::spawn_blocking(move || read(&file, start..end)))
    }
}

fn read(file: &File, part: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(part.end - part.start).map_err(io::Error::other)?;
    let mut piece = Vec::with_capacity(length);
    while piece.len() < length {
        let at = part.start + piece.len() as u64;
        if pread(file, spare_capacity(&mut piece), at)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // There may be room for more than was asked for.
        piece.truncate(length);
    }
    Ok(piece.into())
}

/// Counts as one for as long as it lives.
struct Counted(IntGauge);

impl Counted {
    fn one_more(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
