//! What client and lab host say to each other, each in a frame of [`sublet_guest_protocol::read_frame`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Most bytes of a stream in one message.
pub const CHUNK_LIMIT: usize = 64 * 1024;

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Set beside the host's own `PATH` and `HOME`.
    pub env: BTreeMap<String, String>,
}

impl Command {
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), env: BTreeMap::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost {
    /// First, and once.
    Run(Command),
    Stdin(Vec<u8>),
    StdinEnd,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromHost {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// Last: everything the command wrote before it ended was sent.
    Ended(Outcome),
    /// Last: it could not be started; the reason is for people.
    NotStarted(String),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Exited(u8),
    Signaled(u8),
}

impl Outcome {
    pub fn is_success(self) -> bool {
        self == Self::Exited(0)
    }

    /// As a shell would say it: the exit code, or 128 + the signal's number.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => signal.saturating_add(128),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled(signal) => write!(f, "signal {signal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sublet_guest_protocol::{FrameError, read_frame, write_frame};

    use super::*;

    fn any_message() -> impl Strategy<Value = ToHost> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..4096);
        let argv = proptest::collection::vec(".*", 0..8);
        let env = proptest::collection::btree_map("[A-Z]+", ".*", 0..4);
        prop_oneof![
            (argv, env).prop_map(|(argv, env)| ToHost::Run(Command { argv, env })),
            bytes.prop_map(ToHost::Stdin),
            Just(ToHost::StdinEnd),
        ]
    }

    proptest! {
        #[test]
        fn messages_arrive_as_they_were_sent_and_in_order(sent in proptest::collection::vec(any_message(), 0..6)) {
            let mut wire = Vec::new();
            for message in &sent {
                write_frame(&mut wire, message).unwrap();
            }
            let mut wire = wire.as_slice();
            for message in &sent {
                prop_assert_eq!(&read_frame::<ToHost>(&mut wire).unwrap(), message);
            }
            prop_assert!(matches!(read_frame::<ToHost>(&mut wire), Err(FrameError::Closed)));
        }

        #[test]
        fn noise_is_an_error_and_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = read_frame::<ToHost>(&mut noise.as_slice());
        }
    }

    #[test]
    fn a_signal_gives_the_exit_code_a_shell_would_give() {
        assert_eq!(Outcome::Signaled(9).exit_code(), 137);
        assert_eq!(Outcome::Exited(7).exit_code(), 7);
    }
}
