//! The guest protocol's frames over an asynchronous stream.

use std::fmt;

use bytes::BytesMut;
use serde::{Serialize, de::DeserializeOwned};
use sublet_guest_protocol::{FRAME_LIMIT, FrameError, announced_length, decode, encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes that announce a frame's length.
const PREFIX: usize = 4;

/// A stream to a guest: vsock, or a socket pair in tests.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Duplex for S {}

/// A stream cut into messages.
pub struct Frames {
    stream: Box<dyn Duplex>,
    received: BytesMut,
}

impl fmt::Debug for Frames {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Frames").finish_non_exhaustive()
    }
}

impl Frames {
    pub fn new(stream: impl Duplex + 'static) -> Self {
        Self { stream: Box::new(stream), received: BytesMut::new() }
    }

    /// The next message. Nothing is lost when this is given up before it is ready.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        self.receive_within(FRAME_LIMIT).await
    }

    /// The next message, which must be of no more bytes than `limit`.
    pub async fn receive_within<T: DeserializeOwned>(&mut self, limit: usize) -> Result<T, FrameError> {
        loop {
            if let Some(payload) = self.take(limit)? {
                return decode(&payload);
            }
            let read = self.stream.read_buf(&mut self.received).await.map_err(FrameError::Io)?;
            match (read, self.received.is_empty()) {
                (0, true) => return Err(FrameError::Closed),
                (0, false) => return Err(FrameError::Io(std::io::ErrorKind::UnexpectedEof.into())),
                _ => {}
            }
        }
    }

    /// The payload of the first frame, once all of it is there.
    fn take(&mut self, limit: usize) -> Result<Option<BytesMut>, FrameError> {
        let Some(prefix) = self.received.first_chunk::<PREFIX>() else { return Ok(None) };
        let length = announced_length(*prefix)?;
        if length > limit {
            return Err(FrameError::TooLong(length));
        }
        let end = PREFIX + length;
        if self.received.len() < end {
            self.received.reserve(end - self.received.len());
            return Ok(None);
        }
        let mut frame = self.received.split_to(end);
        Ok(Some(frame.split_off(PREFIX)))
    }

    /// The stream, and what came of it after the last message.
    pub fn into_parts(self) -> (Box<dyn Duplex>, BytesMut) {
        (self.stream, self.received)
    }

    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), FrameError> {
        self.stream.write_all(&encode(message)?).await.map_err(FrameError::Io)?;
        self.stream.flush().await.map_err(FrameError::Io)
    }
}

#[cfg(test)]
mod tests {
    use sublet_guest_protocol::{FRAME_LIMIT, FromHost, JobId};

    use super::*;

    const FORGET: FromHost = FromHost::Forget { job: JobId([7; 16]) };

    #[tokio::test]
    async fn messages_arrive_however_the_stream_cuts_them() {
        let (mut near, far) = tokio::io::duplex(1);
        let mut far = Frames::new(far);
        let bytes = [encode(&FORGET).unwrap(), encode(&FORGET).unwrap()].concat();
        let sending = tokio::spawn(async move { near.write_all(&bytes).await.map(|()| near) });
        assert_eq!(far.receive::<FromHost>().await.unwrap(), FORGET);
        assert_eq!(far.receive::<FromHost>().await.unwrap(), FORGET);
        drop(sending.await.unwrap());
        assert!(matches!(far.receive::<FromHost>().await, Err(FrameError::Closed)));
    }

    #[tokio::test]
    async fn a_frame_that_is_too_long_or_cut_off_is_an_error() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        let long = Frames::new(far).receive::<FromHost>().await;
        assert!(matches!(long, Err(FrameError::TooLong(length)) if length > FRAME_LIMIT));
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(&encode(&FORGET).unwrap()).await.unwrap();
        let long = Frames::new(far).receive_within::<FromHost>(16).await;
        assert!(matches!(long, Err(FrameError::TooLong(17))));
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(&[9, 0, 0, 0, 1]).await.unwrap();
        drop(near);
        assert!(matches!(Frames::new(far).receive::<FromHost>().await, Err(FrameError::Io(_))));
    }
}
