//! A program that reads what somebody else made: it has no network, sees no file but its own system's programs and the one that
//! it is to read, writes one other, and ends when its time is over. bubblewrap makes its walls, prlimit its bounds.

use std::{io, path::Path, process::Stdio, time::Duration};

use thiserror::Error;
use tokio::{io::AsyncReadExt as _, process::Command, time::timeout};

/// Where the two files are within the walls.
pub(super) const INPUT: &str = "/input";
pub(super) const OUTPUT: &str = "/output";

/// Most memory addresses that it may use, in bytes.
const MEMORY_MAX: u64 = 4 << 30;
const FILES_MAX: u32 = 64;
/// Most that is kept of what it complains about, in bytes.
const COMPLAINT_MAX: u64 = 4096;

#[derive(Debug, Error)]
pub enum SandboxError {
    #[error("{program} cannot be started; Debian has it in the package {package}")]
    NoProgram { program: &'static str, package: &'static str, source: io::Error },
    #[error("{program} has not finished within {} s", .limit.as_secs())]
    TooLong { program: &'static str, limit: Duration },
    #[error("{program} cannot be waited for")]
    Wait { program: &'static str, source: io::Error },
    #[error("{program} gave up: {complaint}")]
    Failed { program: &'static str, complaint: String },
}

/// A program of the system's, in Debian's package of that name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program {
    pub(super) path: &'static str,
    pub(super) package: &'static str,
    /// What it ends with where all went well.
    pub(super) fine: &'static [i32],
}

/// Runs it on `input`; it can write `output`, which is there, and no more than `output_max` bytes of it.
pub(super) async fn run(
    program: Program,
    arguments: &[&str],
    (input, output): (&Path, &Path),
    output_max: u64,
    limit: Duration,
) -> Result<(), SandboxError> {
    if let Err(source) = std::fs::metadata(program.path) {
        return Err(SandboxError::NoProgram { program: program.path, package: program.package, source });
    }
    let mut command = within_walls((input, output), output_max);
    command.args(["--", program.path]).args(arguments);
    let no_walls = |source| SandboxError::NoProgram { program: "prlimit", package: "util-linux", source };
    let mut child = command.spawn().map_err(no_walls)?;
    let complaints = child.stderr.take();
    let finished = timeout(limit, async {
        let mut complaint = Vec::new();
        if let Some(stderr) = complaints {
            stderr.take(COMPLAINT_MAX).read_to_end(&mut complaint).await?;
        }
        Ok((child.wait().await?, complaint))
    });
    let Program { path: program, fine, .. } = program;
    let finished = finished.await.map_err(|_| SandboxError::TooLong { program, limit })?;
    let (status, complaint) = finished.map_err(|source| SandboxError::Wait { program, source })?;
    if status.code().is_some_and(|code| fine.contains(&code)) {
        return Ok(());
    }
    Err(failure(program, &complaint))
}

/// What is to be run is to follow.
fn within_walls((input, output): (&Path, &Path), output_max: u64) -> Command {
    let mut command = Command::new("prlimit");
    command
        .args([
            format!("--fsize={output_max}"),
            format!("--as={MEMORY_MAX}"),
            format!("--nofile={FILES_MAX}"),
        ])
        .args([
            "--core=0",
            "--",
            "bwrap",
            "--unshare-all",
            "--die-with-parent",
            "--new-session",
            "--clearenv",
        ])
        .args(["--cap-drop", "ALL", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib"])
        .args(["--symlink", "usr/lib64", "/lib64", "--dev", "/dev", "--chdir", "/"])
        .args(["--ro-bind".as_ref(), input.as_os_str(), INPUT.as_ref()])
        .args(["--bind".as_ref(), output.as_os_str(), OUTPUT.as_ref()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn failure(program: &'static str, complaint: &[u8]) -> SandboxError {
    let text = String::from_utf8_lossy(complaint);
    let complaint = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let complaint = complaint.trim().to_owned();
    if complaint.contains("failed to execute bwrap") {
        let source = io::ErrorKind::NotFound.into();
        return SandboxError::NoProgram { program: "bwrap", package: "bubblewrap", source };
    }
    SandboxError::Failed { program, complaint }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SHELL: Program = Program { path: "/usr/bin/sh", package: "dash", fine: &[0] };

    /// What a script within the walls ends with, and what it wrote.
    async fn script(script: &str, limit: Duration) -> (Result<(), SandboxError>, String) {
        let root = tempfile::tempdir().unwrap();
        let (input, output) = (root.path().join("in"), root.path().join("out"));
        fs::write(&input, "what is to be read").unwrap();
        fs::write(&output, "").unwrap();
        fs::write(root.path().join("beside"), "").unwrap();
        let ended = run(SHELL, &["-c", script], (&input, &output), 65_536, limit).await;
        assert_eq!(fs::read_to_string(&input).unwrap(), "what is to be read");
        (ended, fs::read_to_string(&output).unwrap())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_program_within_the_walls_sees_two_files_and_its_system_and_no_network() {
        let (ended, wrote) = script("cat /input > /output", LONG).await;
        ended.unwrap();
        assert_eq!(wrote, "what is to be read");
        let (ended, wrote) = script("ls / | tr '\\n' ' ' > /output", LONG).await;
        ended.unwrap();
        assert_eq!(wrote, "dev input lib lib64 output usr ");
        let look =
            "ls /sys /proc /etc /home /root /tmp 2> /dev/null; cat /proc/net/dev; env | grep -v PWD; true";
        let (ended, wrote) = script(&format!("({look}) > /output"), LONG).await;
        ended.unwrap();
        assert_eq!(wrote, "");
    }

    #[tokio::test]
    async fn a_program_within_the_walls_writes_one_file_and_no_more_of_it_than_allowed() {
        for elsewhere in ["echo > /input", "echo > /usr/there", "dd if=/dev/zero of=/output bs=65537 count=1"]
        {
            let (ended, _) = script(elsewhere, LONG).await;
            assert!(matches!(ended, Err(SandboxError::Failed { .. })), "{elsewhere}: {ended:?}");
        }
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_ended() {
        let (ended, _) = script("while true; do :; done", Duration::from_millis(200)).await;
        assert!(matches!(ended, Err(SandboxError::TooLong { .. })), "{ended:?}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named_with_its_package() {
        let none = Program { path: "/usr/bin/no-such-program", package: "a-package", fine: &[0] };
        let nothing = Path::new("/dev/null");
        let error = run(none, &[], (nothing, nothing), 1, LONG).await.unwrap_err();
        assert!(error.to_string().contains("a-package"), "{error}");
    }
}
