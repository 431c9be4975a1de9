//! Whom the kernel ends when the host runs out of memory.

use std::{fs, io};

const ADJUSTMENT: &str = "/proc/self/oom_score_adj";
/// The kernel's limits: first to be ended, and never.
const FIRST: &str = "1000";
const NEVER: &str = "-1000";

/// Runs `take`, which takes much memory, as the first process to be ended if that is too much. Afterwards, holding
/// memory that was sold, the process is never chosen if it may say so, and otherwise as it was before.
pub fn first_to_go_while<T>(take: impl FnOnce() -> T) -> T {
    let before = fs::read_to_string(ADJUSTMENT);
    // Where the kernel does not let processes say so, they are chosen as it sees fit.
    let _ = fs::write(ADJUSTMENT, FIRST);
    let taken = take();
    if never_to_go().is_err()
        && let Ok(before) = before
    {
        // Going back is always allowed to whoever could go forward.
        let _ = fs::write(ADJUSTMENT, before.trim());
    }
    taken
}

/// Takes a privilege (CAP_SYS_RESOURCE) that a host may not give.
fn never_to_go() -> io::Result<()> {
    fs::write(ADJUSTMENT, NEVER)
}
