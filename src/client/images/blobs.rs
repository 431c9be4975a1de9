//! Blobs: whole, with what is broken off gone on with where it broke; or a part of one.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use reqwest::{
    Method, Response, StatusCode,
    header::{CONTENT_RANGE, RANGE},
};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::{Access, ImageClientError, ImageRegistry, What};
use crate::domain::image::{
    descriptor::Descriptor,
    digest::{Digest, Hasher},
    reference::RepositoryName,
};

/// Most that is asked for at once where it is to be in memory, in bytes.
const PART_MAX_BYTES: u64 = 16 << 20;
/// How long to wait before a registry is asked again; it doubles each time, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A blob while it comes.
struct Arriving<'a, W> {
    name: &'a RepositoryName,
    blob: &'a Descriptor,
    sink: &'a mut W,
    progress: &'a mut (dyn FnMut(u64) + Send),
    hasher: Hasher,
    received: u64,
}

impl<W> Arriving<'_, W> {
    fn what(&self) -> What {
        What::Blob(self.name.clone(), self.blob.digest)
    }

    fn length_error(&self, found: u64) -> ImageClientError {
        ImageClientError::Length { what: self.what(), expected: self.blob.size, found }
    }
}

impl ImageRegistry {
    /// Writes a whole blob, as long as was announced and with its digest; else there is an error, and what was written is good
    /// for nothing. A registry that goes away in the middle is waited for, and asked for the rest. `progress` is told how
    /// much there is.
    pub async fn blob(
        &self,
        name: &RepositoryName,
        blob: &Descriptor,
        sink: &mut (impl AsyncWrite + Unpin),
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), ImageClientError> {
        let mut arriving = Arriving { name, blob, sink, progress, hasher: Hasher::default(), received: 0 };
        let (mut last, mut pause) = (Instant::now(), PAUSE.0);
        loop {
            let before = arriving.received;
            let error = match self.go_on(&mut arriving).await {
                Ok(()) => break,
                Err(error) => error,
            };
            if arriving.received > before {
                (last, pause) = (Instant::now(), PAUSE.0);
            }
            if !error.may_pass() || last.elapsed() + pause > self.patience {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
        arriving.sink.flush().await.map_err(ImageClientError::Keep)?;
        let (what, found) = (arriving.what(), arriving.hasher.finish());
        if found == blob.digest { Ok(()) } else { Err(ImageClientError::Digest { what, found }) }
    }

    /// A part of a blob, which has as many bytes as were asked for. Whether they are right, the caller has to see.
    pub async fn blob_part(
        &self,
        name: &RepositoryName,
        blob: &Descriptor,
        part: Range<u64>,
    ) -> Result<Vec<u8>, ImageClientError> {
        let what = What::Blob(name.clone(), blob.digest);
        let expected = part.end.saturating_sub(part.start);
        if expected == 0 || part.end > blob.size {
            return Err(ImageClientError::Range { what });
        }
        let response = self.ask(name, &blob.digest, Some(&part)).await?;
        if response.status() != StatusCode::PARTIAL_CONTENT || !is_part(&response, &part, blob.size) {
            return Err(ImageClientError::Range { what });
        }
        let bytes = self.whole(response, &what, expected.min(PART_MAX_BYTES)).await?;
        let found = bytes.len() as u64;
        if found == expected { Ok(bytes) } else { Err(ImageClientError::Length { what, expected, found }) }
    }

    /// A blob that is short enough to be in memory, with its digest.
    pub(super) async fn short_blob(
        &self,
        name: &RepositoryName,
        blob: &Descriptor,
        max: u64,
    ) -> Result<Vec<u8>, ImageClientError> {
        if blob.size > max {
            let what = What::Blob(name.clone(), blob.digest);
            return Err(ImageClientError::TooLong { what, max, found: blob.size });
        }
        let mut bytes = Vec::new();
        self.blob(name, blob, &mut bytes, &mut |_| {}).await?;
        Ok(bytes)
    }

    /// Whatever of a blob has not come yet.
    async fn go_on<W: AsyncWrite + Unpin>(
        &self,
        arriving: &mut Arriving<'_, W>,
    ) -> Result<(), ImageClientError> {
        let (size, from) = (arriving.blob.size, arriving.received);
        if from == size && size > 0 {
            return Ok(());
        }
        let rest = (from > 0).then_some(from..size);
        let mut response = self.ask(arriving.name, &arriving.blob.digest, rest.as_ref()).await?;
        // A registry that knows no parts begins at the start again.
        let mut known = match (response.status(), &rest) {
            (StatusCode::OK, _) => from,
            (StatusCode::PARTIAL_CONTENT, Some(rest)) if is_part(&response, rest, size) => 0,
            _ => return Err(ImageClientError::Range { what: arriving.what() }),
        };
        let wanted = size - from + known;
        if let Some(length) = response.content_length().filter(|length| *length != wanted) {
            return Err(arriving.length_error(from - known + length));
        }
        while let Some(piece) = self.piece(&mut response).await? {
            let skipped = known.min(piece.len() as u64);
            known -= skipped;
            // It is no longer than the piece.
            let new = &piece[skipped as usize..];
            if arriving.received + new.len() as u64 > size {
                return Err(arriving.length_error(arriving.received + new.len() as u64));
            }
            arriving.sink.write_all(new).await.map_err(ImageClientError::Keep)?;
            arriving.hasher.update(new);
            arriving.received += new.len() as u64;
            (arriving.progress)(arriving.received);
        }
        if arriving.received == size { Ok(()) } else { Err(arriving.length_error(arriving.received)) }
    }

    async fn ask(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        part: Option<&Range<u64>>,
    ) -> Result<Response, ImageClientError> {
        let mut request = self.request(Method::GET, name, &format!("blobs/{digest}"));
        if let Some(part) = part {
            request = request.header(RANGE, format!("bytes={}-{}", part.start, part.end.saturating_sub(1)));
        }
        let response = self.send(request, name, Access::Pull).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response, What::Blob(name.clone(), *digest)).await)
    }
}

/// Whether an answer says that it is this very part.
fn is_part(response: &Response, part: &Range<u64>, size: u64) -> bool {
    let said = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    said == Some(&format!("bytes {}-{}/{size}", part.start, part.end.saturating_sub(1)))
}
