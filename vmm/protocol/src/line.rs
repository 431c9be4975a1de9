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

/// One value as one line.
pub fn to_line<T: Serialize>(value: &T) -> Result<Vec<u8>, LineError> {
    let mut line = serde_json::to_vec(value).map_err(LineError::Malformed)?;
    line.push(b'\n');
    Ok(line)
}

/// Writes one value as one line, in one write.
pub fn write_line<T: Serialize>(to: &mut impl Write, value: &T) -> Result<(), LineError> {
    let line = to_line(value)?;
    to.write_all(&line).and_then(|()| to.flush()).map_err(LineError::Io)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{PROTOCOL_VERSION, Request};

    fn read(bytes: &[u8]) -> Result<Request, LineError> {
        read_line(&mut BufReader::new(bytes))
    }

    #[test]
    fn values_are_read_one_a_line_in_the_order_in_which_they_were_written() {
        let requests = [Request::Stop { version: 1 }, Request::Wait { version: 1, after: 7 }];
        let mut bytes = vec![];
        requests.iter().for_each(|request| write_line(&mut bytes, request).unwrap());
        let mut reader = BufReader::new(bytes.as_slice());
        for request in requests {
            assert_eq!(read_line::<Request>(&mut reader).unwrap(), request);
        }
        assert!(matches!(read_line::<Request>(&mut reader), Err(LineError::Closed)));
    }

    #[test]
    fn a_newline_within_a_value_does_not_end_the_line() {
        let source = crate::BootSource { has_initrd: false, command_line: "c\nd".into(), base: None };
        let request = Request::Boot { version: PROTOCOL_VERSION, source };
        let mut bytes = vec![];
        write_line(&mut bytes, &request).unwrap();
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(read(&bytes).unwrap(), request);
    }

    #[test]
    fn the_longest_line_is_read_and_a_longer_one_is_not() {
        let padded = |length: usize| {
            let mut line = br#"{"request":"status","version":1}"#.to_vec();
            line.resize(length - 1, b' ');
            line.push(b'\n');
            line
        };
        assert!(read(&padded(LINE_LIMIT)).is_ok());
        assert!(matches!(read(&padded(LINE_LIMIT + 1)), Err(LineError::TooLong)));
    }

    #[test]
    fn an_endless_line_is_given_up_on() {
        let mut endless = BufReader::new(io::repeat(b'x'));
        assert!(matches!(read_line::<Request>(&mut endless), Err(LineError::TooLong)));
    }

    #[test]
    fn a_line_that_breaks_off_is_malformed() {
        assert!(matches!(read(br#"{"request":"sta"#), Err(LineError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_a_value_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
