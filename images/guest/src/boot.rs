//! What the kernel command line tells the runner.

use std::{fmt, fs, io};

use sublet_guest_protocol::{NONCE_PARAMETER, PORT_PARAMETER};
use thiserror::Error;

/// Where the kernel shows its command line.
pub const COMMAND_LINE: &str = "/proc/cmdline";

/// Hexadecimal digits of a nonce.
const NONCE_DIGITS: usize = 32;

#[derive(Clone, PartialEq, Eq)]
pub struct BootParameters {
    /// Proves to the host that this is the boot it asked for.
    pub nonce: String,
    /// The host's vsock port.
    pub port: u32,
}

#[derive(Debug, Error)]
pub enum BootParametersError {
    #[error("cannot read {COMMAND_LINE}; is /proc mounted?")]
    Unreadable(#[source] io::Error),
    #[error("the kernel command line has no {0}=; the host puts it there when it boots a partition")]
    Missing(&'static str),
    #[error("{NONCE_PARAMETER} on the kernel command line is not {NONCE_DIGITS} hexadecimal digits")]
    Nonce,
    #[error("{PORT_PARAMETER}={0} on the kernel command line is not a vsock port")]
    Port(String),
}

impl BootParameters {
    pub fn of_this_boot() -> Result<Self, BootParametersError> {
        Self::parse(&fs::read_to_string(COMMAND_LINE).map_err(BootParametersError::Unreadable)?)
    }

    /// Reads them off a kernel command line; of a repeated parameter, the last counts, as in the kernel.
    pub fn parse(command_line: &str) -> Result<Self, BootParametersError> {
        let nonce = value(command_line, NONCE_PARAMETER)?;
        if nonce.len() != NONCE_DIGITS || !nonce.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(BootParametersError::Nonce);
        }
        let port = value(command_line, PORT_PARAMETER)?;
        let port = port.parse().map_err(|_| BootParametersError::Port(port.to_owned()))?;
        Ok(Self { nonce: nonce.to_owned(), port })
    }
}

fn value<'a>(command_line: &'a str, name: &'static str) -> Result<&'a str, BootParametersError> {
    let assignments = command_line.split_whitespace().filter_map(|word| word.split_once('='));
    assignments
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value)
        .next_back()
        .ok_or(BootParametersError::Missing(name))
}

impl fmt::Debug for BootParameters {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("BootParameters").field("port", &self.port).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn nonce_and_port_are_found_among_other_parameters() {
        let line = format!("console=ttyS0 sublet.nonce={NONCE} quiet sublet.port=1024 panic=-1\n");
        let found = BootParameters::parse(&line).unwrap();
        assert_eq!(found, BootParameters { nonce: NONCE.into(), port: 1024 });
    }

    #[test]
    fn the_last_of_a_repeated_parameter_counts() {
        let line = format!("sublet.port=1 sublet.nonce={NONCE} sublet.port=2");
        assert_eq!(BootParameters::parse(&line).unwrap().port, 2);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let refusal = |line: &str| BootParameters::parse(line).unwrap_err().to_string();
        assert!(refusal("quiet").contains("sublet.nonce"));
        assert!(refusal(&format!("sublet.nonce={NONCE}")).contains("sublet.port"));
        assert!(refusal("sublet.nonce=12 sublet.port=1").contains("32 hexadecimal digits"));
        assert!(refusal(&format!("sublet.nonce={NONCE} sublet.port=-1")).contains("sublet.port=-1"));
    }

    #[test]
    fn the_nonce_is_not_shown() {
        let found = BootParameters::parse(&format!("sublet.nonce={NONCE} sublet.port=2")).unwrap();
        assert!(!format!("{found:?}").contains(NONCE));
    }

    proptest! {
        #[test]
        fn any_command_line_is_read_or_refused(line: String) {
            let _ = BootParameters::parse(&line);
        }
    }
}
