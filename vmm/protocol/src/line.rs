//! One JSON value a line, bounded.

use std::io::{self, BufRead, Read, Write};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Longest line either side accepts, in bytes.
pub const LINE_LIMIT: usize = 64 * 1024;

#[derive(Debug, Error)]
pub enum LineError {
    #[error("cannot read or write the control socket")]
    Io(#[source] io::Error),
    #[error("a line is longer than {LINE_LIMIT} bytes")]
    TooLong,
    #[error("a line is not a message of this protocol")]
    Malformed(#[source] serde_json::Error),
    #[error("the other side closed the connection")]
    Closed,
}

/// Reads one line and what it says.
pub fn read_line<T: DeserializeOwned>(from: &mut impl BufRead) -> Result<T, LineError> {
    let mut line = Vec::new();
    from.by_ref().take(LINE_LIMIT as u64 + 1).read_until(b'\n', &mut line).map_err(LineError::Io)?;
    if line.is_empty() {
        return Err(LineError::Closed);
    }
    if line.len() > LINE_LIMIT {
        return Err(LineError::TooLong);
    }
    serde_json::from_slice(&line).map_err(LineError::Malformed)
}

/// Writes one value as one line, in one write.
pub fn write_line<T: Serialize>(to: &mut impl Write, value: &T) -> Result<(), LineError> {
    let mut line = serde_json::to_vec(value).map_err(LineError::Malformed)?;
    line.push(b'\n');
    to.write_all(&line).and_then(|()| to.flush()).map_err(LineError::Io)
}
