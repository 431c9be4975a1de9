//! The host's own programs that networking is done with.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use thiserror::Error;
use tokio::{io::AsyncWriteExt, process::Command};

/// Where they are looked for: a service's search path may leave out what is the administrator's.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Most of what a program says about its failure that is passed on, in characters.
const SAID_MAX: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Ip,
    Nft,
    Conntrack,
    Dnsmasq,
}

#[derive(Debug, Error)]
pub enum ProgramError {
    #[error("this host has no program {0}: install the package {package}", package = .0.package())]
    Missing(Program),
    #[error("cannot run {program}")]
    Run { program: Program, source: io::Error },
    #[error("{program} failed ({status}): {said}")]
    Failed { program: Program, status: ExitStatus, said: String },
}

impl Program {
    pub const ALL: [Self; 4] = [Self::Ip, Self::Nft, Self::Conntrack, Self::Dnsmasq];

    fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Nft => "nft",
            Self::Conntrack => "conntrack",
            Self::Dnsmasq => "dnsmasq",
        }
    }

    /// Debian's.
    fn package(self) -> &'static str {
        match self {
            Self::Ip => "iproute2",
            Self::Nft => "nftables",
            Self::Conntrack => "conntrack",
            Self::Dnsmasq => "dnsmasq-base",
        }
    }

    pub fn find(self) -> Result<PathBuf, ProgramError> {
        let mut places = DIRECTORIES.iter().map(|directory| Path::new(directory).join(self.name()));
        places.find(|path| path.is_file()).ok_or(ProgramError::Missing(self))
    }

    /// The program with nothing of the agent's environment.
    pub fn command(self) -> Result<Command, ProgramError> {
        let mut command = Command::new(self.find()?);
        command.env_clear().env("LC_ALL", "C").current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command)
    }

    /// Runs it to its end; what it has said.
    pub async fn run(self, arguments: &[&str], input: &str) -> Result<String, ProgramError> {
        let failed = |source| ProgramError::Run { program: self, source };
        let mut child = self.command()?.args(arguments).spawn().map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // Where it has ended already, its exit status says why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = child.wait_with_output().await.map_err(failed)?;
        self.judge(output.status, &output.stderr)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn judge(self, status: ExitStatus, stderr: &[u8]) -> Result<(), ProgramError> {
        if status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(stderr);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(ProgramError::Failed { program: self, status, said: words.chars().take(SAID_MAX).collect() })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_package() {
        let error = ProgramError::Missing(Program::Dnsmasq).to_string();
        assert_eq!(error, "this host has no program dnsmasq: install the package dnsmasq-base");
    }

    #[test]
    fn a_failure_says_what_the_program_said_on_one_line() {
        let failed =
            Program::Nft.judge(ExitStatus::from_raw(256), b"line 1:\n   no such table\n").unwrap_err();
        assert_eq!(failed.to_string(), "nft failed (exit status: 1): line 1: no such table");
        assert!(Program::Nft.judge(ExitStatus::from_raw(0), b"a warning").is_ok());
    }
}
