//! TAP interfaces: made, set up, deleted. They are persistent: a VMM takes hold of one and lets it go.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{
    link::{Link, TAP_PREFIX},
    programs::{Program, ProgramError},
};

#[derive(Debug, Error)]
pub enum InterfaceError {
    #[error("cannot set the interface {tap} up")]
    Make { tap: String, source: ProgramError },
    #[error("cannot delete the interface {tap}")]
    Delete { tap: String, source: ProgramError },
    #[error("cannot write {path:?}")]
    Setting { path: PathBuf, source: io::Error },
    #[error("cannot list the host's interfaces")]
    List(#[source] io::Error),
}

/// Makes the link's interface anew: what was of that name is gone, and whatever was sent to it.
pub(super) async fn make(root: &Path, link: &Link) -> Result<(), InterfaceError> {
    delete(root, &link.tap).await?;
    let failed = |source| InterfaceError::Make { tap: link.tap.clone(), source };
    let Link { tap, mac, user, gateway, guest } = link;
    let add = format!("tuntap add dev {tap} mode tap user {user}\n");
    Program::Ip.run(&["-batch", "-"], &add).await.map_err(failed)?;
    configure(root, tap)?;
    let up = format!(
        "address add {gateway}/30 dev {tap}\nlink set dev {tap} up\n\
         neighbour replace {guest} lladdr {mac} dev {tap} nud permanent\n"
    );
    Program::Ip.run(&["-batch", "-"], &up).await.map(drop).map_err(failed)
}

/// No IPv6, no answer for addresses that are not the link's; and what comes in there may be forwarded.
fn configure(root: &Path, tap: &str) -> Result<(), InterfaceError> {
    let settings = [("ipv6", "disable_ipv6", "1"), ("ipv4", "arp_ignore", "1"), ("ipv4", "forwarding", "1")];
    for (family, name, value) in settings {
        let directory = root.join(format!("proc/sys/net/{family}/conf/{tap}"));
        // A host without IPv6 has none to turn off.
        if family == "ipv6" && !directory.exists() {
            continue;
        }
        let path = directory.join(name);
        fs::write(&path, value).map_err(|source| InterfaceError::Setting { path, source })?;
    }
    Ok(())
}

/// Deletes it if it is there.
pub(super) async fn delete(root: &Path, tap: &str) -> Result<(), InterfaceError> {
    if !is_there(root, tap) {
        return Ok(());
    }
    let deleted = Program::Ip.run(&["link", "delete", "dev", tap], "").await;
    deleted.map(drop).map_err(|source| InterfaceError::Delete { tap: tap.to_owned(), source })
}

pub(super) fn is_there(root: &Path, tap: &str) -> bool {
    root.join("sys/class/net").join(tap).exists()
}

/// Interfaces named as partitions' are, whose users are among those that the host has for partitions.
pub(super) fn all(root: &Path, is_ours: impl Fn(u32) -> bool) -> Result<Vec<String>, InterfaceError> {
    let mut found = Vec::new();
    let interfaces = root.join("sys/class/net");
    if !interfaces.exists() {
        return Ok(found);
    }
    for entry in fs::read_dir(interfaces).map_err(InterfaceError::List)? {
        let name = entry.map_err(InterfaceError::List)?.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(TAP_PREFIX).and_then(|user| user.parse().ok()).is_some_and(&is_ours) {
            found.push(name);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interfaces_of_our_own_users_are_ours() {
        let root = tempfile::tempdir().unwrap();
        for name in ["lo", "sl-5000", "sl-4999", "sl-x", "sl-", "eth0"] {
            fs::create_dir_all(root.path().join("sys/class/net").join(name)).unwrap();
        }
        assert_eq!(all(root.path(), |user| user >= 5000).unwrap(), ["sl-5000"]);
        assert!(all(Path::new("/nonexistent"), |_| true).unwrap().is_empty());
    }

    #[test]
    fn a_link_has_no_ipv6_and_forwards() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("proc/sys/net/ipv4/conf/sl-5000");
        fs::create_dir_all(&directory).unwrap();
        configure(root.path(), "sl-5000").unwrap();
        assert_eq!(fs::read_to_string(directory.join("forwarding")).unwrap(), "1");
        let error = configure(root.path(), "sl-5001").unwrap_err().to_string();
        assert!(error.contains("sl-5001/arp_ignore"), "{error}");
    }
}
