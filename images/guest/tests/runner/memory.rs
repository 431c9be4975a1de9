//! Jobs that want more memory than there is. A control group of the test's own plays the small machine.

use std::fs;
use std::path::PathBuf;

use sublet_guest::cgroup::Cgroups;
use sublet_guest_protocol::JobEnd;

use crate::host::{Host, a_cgroup, job, shell};

const MACHINE_BYTES: &str = "67108864";

/// A group with little memory; taken away in the end.
struct SmallMachine(PathBuf);

impl SmallMachine {
    /// Where this machine lets the test make one.
    fn make() -> Option<Self> {
        let machine = Self(a_cgroup()?);
        fs::write(machine.0.join("memory.max"), MACHINE_BYTES).ok()?;
        fs::write(machine.0.join("cgroup.subtree_control"), "+memory").ok()?;
        Some(machine)
    }

    fn host(&self) -> Host {
        Host::start_with(Some(Cgroups::within(self.0.clone())))
    }
}

impl Drop for SmallMachine {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn not_shown() {
    eprintln!("not shown here: no memory cgroup can be made; the lab's tests show it in a guest");
}

#[test]
fn a_job_that_wants_more_memory_than_there_is_ends_out_of_memory() {
    let Some(machine) = SmallMachine::make() else { return not_shown() };
    let held = machine.host().run(job(&["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]));
    assert_eq!(held.end, Some(JobEnd::OutOfMemory));
}

#[test]
fn a_descendant_that_wants_too_much_memory_takes_the_whole_job_with_it() {
    let Some(machine) = SmallMachine::make() else { return not_shown() };
    let script = "echo begun; sh -c 'dd if=/dev/zero of=/dev/null bs=200M count=1; true'; echo survived";
    let held = machine.host().run(shell(script));
    assert_eq!(held.stdout(), "begun\n");
    assert_eq!(held.end, Some(JobEnd::OutOfMemory));
}

#[test]
fn files_in_memory_count_as_the_jobs_memory() {
    let Some(machine) = SmallMachine::make() else { return not_shown() };
    let file = format!("/dev/shm/sublet-{:016x}", rand::random::<u64>());
    let held = machine.host().run(job(&["dd", "if=/dev/zero", &format!("of={file}"), "bs=1M", "count=200"]));
    fs::remove_file(file).unwrap();
    assert_eq!(held.end, Some(JobEnd::OutOfMemory));
}

#[test]
fn after_a_job_that_ran_out_of_memory_the_next_one_runs() {
    let Some(machine) = SmallMachine::make() else { return not_shown() };
    let host = machine.host();
    let mut line = host.welcome();
    line.run(job(&["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]));
    assert_eq!(line.run(job(&["echo", "alive"])).stdout(), "alive\n");
}
