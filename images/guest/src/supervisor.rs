//! The first process of a guest that has no other init: it keeps a runner running and reaps orphans.

use std::io;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, wait};

use crate::log::say;

/// Rest before a runner that ended is started again.
const REST: Duration = Duration::from_secs(1);

/// Never returns: the kernel panics when its first process ends.
pub fn run() -> ! {
    loop {
        match start_runner() {
            Ok(runner) => reap_until_end_of(runner),
            Err(error) => say(format_args!("cannot start the runner: {error}")),
        }
        sleep(REST);
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
                return say(format_args!("the runner ended ({status:?}) and is started again"));
            }
            Err(rustix::io::Errno::CHILD) => return,
            _ => {}
        }
    }
}
