//! Progress on a terminal; in a pipe nothing but lines that stay true.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget};

/// A spinner on standard error, where that is a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Starts with what is being done first.
    pub(super) fn new(doing: impl Into<String>) -> Self {
        let bar = ProgressBar::new_spinner().with_message(doing.into());
        if stderr().is_terminal() {
            bar.enable_steady_tick(Duration::from_millis(100));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { bar }
    }

    /// What is being done now.
    pub(super) fn step(&self, doing: impl Into<String>) {
        self.bar.set_message(doing.into());
    }

    /// Takes the spinner away, before anything else is printed.
    pub(super) fn done(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done();
    }
}
