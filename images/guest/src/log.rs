//! What the runner says on the guest's console, for people.

use std::error::Error;
use std::fmt::Display;
use std::io::{Write, stderr};

/// One line. A console that cannot be written to is no reason to stop.
pub fn say(line: impl Display) {
    let _ = writeln!(stderr(), "sublet-guest: {line}");
}

/// An error and its causes, in one line.
#[must_use]
pub fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {}", without_number(&next.to_string()));
        cause = next.source();
    }
    text
}

/// "No such file or directory (os error 2)" without what only programmers read.
fn without_number(text: &str) -> &str {
    text.split_once(" (os error ").map_or(text, |(words, _)| words)
}
