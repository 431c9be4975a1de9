//! What a host has said.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::Host;

/// What a kernel says when it fell to a fault of its emulator: before version 8.1 QEMU may translate an instruction while
/// another CPU patches it, and then runs the half-patched one for ever (ADR 11). No real host knows that.
pub const EMULATOR_FAULT: &str = "Oops: int3";
/// What is found, beside that, of a guest that its emulated host's CPU has lost: a fault that its kernel could not even report, and
/// a timer of KVM's that no longer comes (ADR 11). Neither says that it was the emulator's doing.
pub const LOST_GUESTS: [&str; 2] = ["how: TripleFault", "Possible timer handling issue"];
/// What a host's kernel says, beside that, of a CPU that its emulator gave back half from a guest: it no longer finds its own
/// data, so that each page fault causes another (ADR 11). Nothing that a program does can make a kernel say it.
const HALF_A_GUEST: &str = "stack guard page was hit";
const LAST_LINES: usize = 20;

impl Host {
    /// Where its console's log ends now.
    pub fn console_end(&self) -> u64 {
        fs::metadata(self.console_log()).map_or(0, |metadata| metadata.len())
    }

    /// Whether the host itself, not a guest in it, fell to its emulator since its console's log ended there.
    pub fn fell_to_its_emulator(&self, since: u64) -> bool {
        let console = self.console_since(since);
        [EMULATOR_FAULT, HALF_A_GUEST].iter().any(|fault| console.contains(fault))
    }

    /// The last lines on its console since its log ended there.
    pub fn last_of_console(&self, since: u64) -> String {
        last_lines(&self.console_since(since))
    }

    pub(super) fn console_since(&self, from: u64) -> String {
        text_from(&self.console_log(), from)
    }
}

/// What a log holds from a byte on; nothing where it is not there yet.
pub(super) fn text_from(path: &Path, from: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(from))?;
        file.read_to_end(&mut bytes)
    });
    read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n")
}
