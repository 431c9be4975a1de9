//! CPU time that threads have spent.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ReadingError;

/// The calling thread's, up to now.
pub(super) fn by_this_thread() -> Result<Duration, ReadingError> {
    by_thread(Path::new("/proc/thread-self"))
}

/// That of all of a process's threads but its vCPUs', who spend theirs in the guest.
pub(super) fn beside_vcpus(process: u32) -> Result<Duration, ReadingError> {
    let threads = PathBuf::from(format!("/proc/{process}/task"));
    let entries = fs::read_dir(&threads).map_err(|error| ReadingError::File(threads.clone(), error))?;
    let mut spent = Duration::ZERO;
    for entry in entries {
        let thread = entry.map_err(|error| ReadingError::File(threads.clone(), error))?.path();
        if !read(&thread.join("comm"))?.starts_with("vcpu") {
            spent += by_thread(&thread)?;
        }
    }
    Ok(spent)
}

fn by_thread(thread: &Path) -> Result<Duration, ReadingError> {
    let text = read(&thread.join("schedstat"))?;
    on_cpu(&text).ok_or(ReadingError::Schedstat(text))
}

/// The first field: time on a CPU, in nanoseconds (Documentation/scheduler/sched-stats.rst).
fn on_cpu(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

fn read(path: &Path) -> Result<String, ReadingError> {
    fs::read_to_string(path).map_err(|error| ReadingError::File(path.into(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_works_has_spent_more_than_before() {
        let before = by_this_thread().unwrap();
        while by_this_thread().unwrap() == before {}
        assert!(beside_vcpus(std::process::id()).unwrap() >= before);
    }

    #[test]
    fn what_says_no_time_is_told_so() {
        assert_eq!(on_cpu("12000 7 3\n"), Some(Duration::from_micros(12)));
        assert_eq!(on_cpu("\n"), None);
    }
}
