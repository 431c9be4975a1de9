//! The runner's end of a job's standard output or error.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, ioctl_fionbio, ioctl_fionread, read};

use crate::log::say;
use crate::output::Output;

const READ_BYTES: usize = 64 * 1024;

/// Closed where `end` is gone.
pub(crate) struct Pipe {
    end: Option<OwnedFd>,
    /// Once the job is over: bytes of it that are still in the pipe. What others write later is not the job's.
    left: Option<u64>,
}

impl Pipe {
    pub(crate) fn new(end: OwnedFd) -> Result<Self, Errno> {
        ioctl_fionbio(&end, true)?;
        Ok(Self { end: Some(end), left: None })
    }

    /// The job is over: what is in the pipe now is all that will be read.
    pub(crate) fn finish(&mut self) {
        if self.left.is_none() {
            self.left = Some(self.end.as_ref().and_then(|end| ioctl_fionread(end).ok()).unwrap_or(0));
            self.close_when_done();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.end.is_none()
    }

    /// Moves what the job wrote into `output`, as far as there is room.
    pub(crate) fn drain_into(&mut self, output: &mut Output) {
        let mut buffer = [0; READ_BYTES];
        while let Some(end) = &self.end {
            let wanted = output.room().min(READ_BYTES).min(clamp(self.left));
            if wanted == 0 {
                return;
            }
            match read(end, &mut buffer[..wanted]) {
                Ok(0) => self.end = None,
                Ok(count) => self.take(&buffer[..count], output),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(error) => self.give_up(error),
            }
        }
    }

    fn take(&mut self, bytes: &[u8], output: &mut Output) {
        output.push(bytes);
        self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
        self.close_when_done();
    }

    fn close_when_done(&mut self) {
        if self.left == Some(0) {
            self.end = None;
        }
    }

    fn give_up(&mut self, error: Errno) {
        say(format_args!("cannot read a job's output any further: {error}"));
        self.end = None;
    }

    /// A full buffer leaves the pipe alone: a poll would report a writer's hanging up over and over.
    pub(crate) fn watch<'a>(&'a self, output: &Output, watched: &mut Vec<PollFd<'a>>) {
        if let Some(end) = self.end.as_ref().filter(|_| output.room() > 0) {
            watched.push(PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN));
        }
    }
}

fn clamp(left: Option<u64>) -> usize {
    left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX))
}
