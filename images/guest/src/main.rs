//! Started by the guest's init, or as its init.

use std::fs;
use std::process::ExitCode;

use sublet_guest::boot::BootParameters;
use sublet_guest::cgroup::Cgroups;
use sublet_guest::link::{Backoff, Host, Vsock};
use sublet_guest::log::{in_full, say};
use sublet_guest::port::NamedPort;
use sublet_guest::runner::Runner;
use sublet_guest::supervisor;
use sublet_guest_protocol::HOST_CID;

const FIRST_PROCESS: u32 = 1;

fn main() -> ExitCode {
    if std::process::id() == FIRST_PROCESS {
        supervisor::run()
    }
    match BootParameters::of_this_boot() {
        Ok(boot) => run(boot),
        Err(error) => {
            say(in_full(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(boot: BootParameters) -> ! {
    // The kernel's out-of-memory killer takes a job, never the runner.
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        say(format_args!("cannot protect itself from the out-of-memory killer: {error}"));
    }
    let cgroups = Cgroups::find();
    match &cgroups {
        Some(cgroups) => cgroups.prepare(),
        None => say("cgroup2 is not mounted: jobs are ended by process group, and their memory is unbounded"),
    }
    let dial = Host { vsock: Vsock { cid: HOST_CID, port: boot.port }, port: NamedPort::default() };
    Runner::new(dial, boot.nonce, Backoff::default(), cgroups).run()
}
