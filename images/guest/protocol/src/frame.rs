//! Length-prefixed frames, bounded on both sides.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Longest message either side accepts, in bytes.
pub const FRAME_LIMIT: usize = 2 * 1024 * 1024;
/// Bytes of a frame before its message: the message's length, little-endian.
pub const PREFIX_BYTES: usize = 4;

#[derive(Debug, Error)]
pub enum FrameError {
    #[error("the connection broke")]
    Io(#[source] io::Error),
    #[error("a frame is {0} bytes long; {FRAME_LIMIT} is the most")]
    TooLong(usize),
    #[error("a frame is not a message of this protocol")]
    Malformed(#[source] postcard::Error),
    #[error("a frame has {0} bytes after its message")]
    TrailingBytes(usize),
    #[error("a message cannot be written down")]
    Encoding(#[source] postcard::Error),
    #[error("the other side closed the connection")]
    Closed,
}

/// Decodes the payload of one frame, which must be used up.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(payload).map_err(FrameError::Malformed)? {
        (message, []) => Ok(message),
        (_, rest) => Err(FrameError::TrailingBytes(rest.len())),
    }
}

/// One message as a frame, length first.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let frame = postcard::to_extend(message, vec![0; PREFIX_BYTES]).map_err(FrameError::Encoding)?;
    with_length(frame)
}

fn with_length(mut frame: Vec<u8>) -> Result<Vec<u8>, FrameError> {
    let length = frame.len() - PREFIX_BYTES;
    match u32::try_from(length) {
        Ok(prefix) if length <= FRAME_LIMIT => {
            frame[..PREFIX_BYTES].copy_from_slice(&prefix.to_le_bytes());
            Ok(frame)
        }
        _ => Err(FrameError::TooLong(length)),
    }
}

/// The length that a frame's first bytes announce.
pub fn announced_length(prefix: [u8; PREFIX_BYTES]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > FRAME_LIMIT { Err(FrameError::TooLong(length)) } else { Ok(length) }
}

/// Reads one message; [`FrameError::Closed`] where the stream ended between two.
pub fn read_frame<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    match read_some(from, &mut prefix[..1]).map_err(FrameError::Io)? {
        0 => return Err(FrameError::Closed),
        _ => from.read_exact(&mut prefix[1..]).map_err(FrameError::Io)?,
    }
    let mut payload = vec![0; announced_length(prefix)?];
    from.read_exact(&mut payload).map_err(FrameError::Io)?;
    decode(&payload)
}

fn read_some(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(interrupted) if interrupted.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Writes one message in one write.
pub fn write_frame<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), FrameError> {
    to.write_all(&encode(message)?).and_then(|()| to.flush()).map_err(FrameError::Io)
}

#[cfg(test)]
mod tests;
