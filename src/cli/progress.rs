//! Progress on a terminal; in a pipe nothing but lines that stay true.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget};

/// A spinner on standard error, where that is a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    doing: String,
}

impl Progress {
    /// Starts with what is being done first.
    pub(super) fn new(doing: impl Into<String>) -> Self {
        let doing = doing.into();
        let bar = ProgressBar::new_spinner().with_message(doing.clone());
        if stderr().is_terminal() {
            bar.enable_steady_tick(Duration::from_millis(100));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { bar, doing }
    }

    /// How much of it is done, in bytes.
    pub(super) fn at(&self, bytes: u64, whole: u64) {
        tell(&self.bar, &self.doing, bytes, whole);
    }

    /// The same, for whoever outlives this.
    pub(super) fn counter(&self, whole: u64) -> impl FnMut(u64) + Send + use<> {
        let (bar, doing) = (self.bar.clone(), self.doing.clone());
        move |bytes| tell(&bar, &doing, bytes, whole)
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

fn tell(bar: &ProgressBar, doing: &str, bytes: u64, whole: u64) {
    // Whoever sees nothing needs no text.
    if !bar.is_hidden() {
        bar.set_message(format!("{doing}: {} of {}", BinaryBytes(bytes), BinaryBytes(whole)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done();
    }
}
