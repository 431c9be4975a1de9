//! The first process of a guest that has no other init: it keeps a runner running and reaps orphans.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, wait};

use crate::log::say;

/// Rests before a runner that ended is started again, doubled from the first to the longest.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(16);

/// Never returns: the kernel panics when its first process ends.
pub fn run() -> ! {
    let mut rest = FIRST_REST;
    loop {
        match start_runner() {
            Ok(runner) => reap_until_end_of(runner),
            Err(error) => say(format_args!("cannot start the runner: {error}")),
        }
        say(format_args!("the runner is started again in {} s", rest.as_secs()));
        sleep(rest);
        rest = (rest * 2).min(LONGEST_REST);
    }
}

fn start_runner() -> io::Result<Pid> {
    let runner = Command::new("/proc/self/exe").spawn()?;
    let id = i32::try_from(runner.id()).ok().and_then(Pid::from_raw);
    id.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn reap_until_end_of(runner: Pid) {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == runner => {
                return say(format_args!("the runner ended: {}", ExitStatus::from_raw(status.as_raw())));
            }
            Err(rustix::io::Errno::CHILD) => return,
            _ => {}
        }
    }
}
