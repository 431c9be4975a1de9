//! `sublet ssh`: this machine's own ssh, which reaches the guest through a tunnel.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        process::CommandExt,
    },
    path::Path,
    process::{Command, ExitCode},
};

use super::{CliError, args::SshArguments, context::Context};
use crate::domain::id::LeaseId;

/// Becomes ssh; returns only where there is none.
pub(super) fn ssh(context: &Context, arguments: &SshArguments) -> Result<ExitCode, CliError> {
    let lease = context.lease(arguments.lease.lease)?.lease;
    let own = std::env::current_exe().map_err(CliError::OwnPath)?;
    let known_hosts = context.leases.known_hosts(lease)?;
    let error = Command::new("ssh")
        .args(options(lease, &own, &known_hosts, arguments.port))
        .arg(format!("{}@{}", arguments.user, alias(lease)))
        .args(&arguments.arguments)
        // The tunnel finds the lease, and with it the key, where this command did.
        .env("SUBLET_STATE_DIR", context.leases.state_directory())
        .exec();
    match error.kind() {
        io::ErrorKind::NotFound => Err(CliError::NoSsh),
        _ => Err(CliError::Ssh(error)),
    }
}

/// The guest's name to ssh. Another lease's guest is another machine.
fn alias(lease: LeaseId) -> String {
    format!("sublet-{lease}")
}

/// A host key is taken at first sight and held to from then on: the way to the guest leads through the lease's own host,
/// and the file belongs to the lease alone.
fn options(lease: LeaseId, own: &Path, known_hosts: &Path, port: u16) -> Vec<OsString> {
    let mut proxy = OsString::from("ProxyCommand=");
    proxy.push(shell_word(own.as_os_str()));
    proxy.push(format!(" tunnel --lease {lease} --stdio {port}"));
    let mut file = OsString::from("UserKnownHostsFile=");
    file.push(config_word(known_hosts.as_os_str()));
    let alias = OsString::from(format!("HostKeyAlias={}", alias(lease)));
    let checking =
        ["StrictHostKeyChecking=accept-new", "CheckHostIP=no", "HashKnownHosts=no"].map(OsString::from);
    let settings = [proxy, file, alias].into_iter().chain(checking);
    settings.flat_map(|setting| [OsString::from("-o"), setting]).collect()
}

/// A word of a command that ssh gives to a shell, after putting something in place of each `%` and a character.
fn shell_word(text: &OsStr) -> OsString {
    let mut word = vec![b'\''];
    for byte in text.as_bytes() {
        match byte {
            b'\'' => word.extend(b"'\\''"),
            b'%' => word.extend(b"%%"),
            byte => word.push(*byte),
        }
    }
    word.push(b'\'');
    OsString::from_vec(word)
}

/// A word of ssh's configuration (ssh_config(5)).
fn config_word(text: &OsStr) -> OsString {
    let mut word = vec![b'"'];
    for byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => word.extend([b'\\', *byte]),
            b'%' => word.extend(b"%%"),
            byte => word.push(*byte),
        }
    }
    word.push(b'"');
    OsString::from_vec(word)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const LEASE: LeaseId = LeaseId(Uuid::from_u128(7));

    #[test]
    fn each_lease_has_its_own_host_key_and_no_secret_is_in_the_arguments() {
        let options = options(LEASE, Path::new("/usr/bin/sublet"), Path::new("/s/known_hosts/7"), 22);
        let options: Vec<_> = options.iter().map(|option| option.to_str().unwrap()).collect();
        let lease = "00000000-0000-0000-0000-000000000007";
        assert_eq!(
            options,
            [
                "-o",
                &format!("ProxyCommand='/usr/bin/sublet' tunnel --lease {lease} --stdio 22"),
                "-o",
                "UserKnownHostsFile=\"/s/known_hosts/7\"",
                "-o",
                &format!("HostKeyAlias=sublet-{lease}"),
                "-o",
                "StrictHostKeyChecking=accept-new",
                "-o",
                "CheckHostIP=no",
                "-o",
                "HashKnownHosts=no",
            ]
        );
    }

    #[test]
    fn paths_reach_the_shell_and_ssh_as_they_are() {
        let odd = OsStr::new("/it's 100% \"odd\"");
        assert_eq!(shell_word(odd), OsStr::new(r#"'/it'\''s 100%% "odd"'"#));
        assert_eq!(config_word(odd), OsStr::new(r#""/it's 100%% \"odd\"""#));
    }
}
