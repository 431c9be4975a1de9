//! Which of the host's interfaces forward for partitions' sake. An interface that forwarded before is left as it is;
//! one that did not is written down before it is opened, and shut again when the last partition with a network is gone.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Gone when the host is started anew, as all is that it tells of.
const RECORD: &str = "run/sublet-network.json";

#[derive(Debug, Error)]
pub enum ForwardingError {
    #[error("cannot use the record of what was changed of the host's network, {path:?}")]
    Record { path: PathBuf, source: io::Error },
    #[error("{path:?} is no record of what was changed of the host's network")]
    Unreadable { path: PathBuf, source: serde_json::Error },
    #[error("cannot write {path:?}")]
    Setting { path: PathBuf, source: io::Error },
}

/// What was changed of a host whose file systems are mounted under `root`.
#[derive(Debug, Clone)]
pub(super) struct Forwarding {
    root: PathBuf,
    record: PathBuf,
}

impl Forwarding {
    pub(super) fn new(root: PathBuf) -> Self {
        let record = root.join(RECORD);
        Self { root, record }
    }

    /// Whether anything of the host may have been changed.
    pub(super) fn has_record(&self) -> bool {
        self.record.exists()
    }

    /// Interfaces that forward for partitions' sake alone, with those of `uplinks` that will. A host that forwards
    /// by its owner's will has none.
    pub(super) fn claim(&self, uplinks: &BTreeSet<String>) -> Result<BTreeSet<String>, ForwardingError> {
        let recorded = self.recorded()?;
        let mut opened = recorded.clone();
        if self.is_on("ip_forward") {
            opened.clear();
        } else {
            let shut = |name: &&String| self.setting(name).exists() && !self.is_on(&conf(name));
            opened.extend(uplinks.iter().filter(shut).cloned());
        }
        if opened != recorded || !self.has_record() {
            self.write(&opened)?;
        }
        Ok(opened)
    }

    /// Has them forward; the rules that keep everybody else's packets back must be there.
    pub(super) fn open(&self, opened: &BTreeSet<String>) -> Result<(), ForwardingError> {
        opened.iter().filter(|name| !self.is_on(&conf(name))).try_for_each(|name| self.set(name, "1"))
    }

    /// Puts everything back, before the rules go. Where the owner has come to have the host forward, that stays.
    pub(super) fn close(&self) -> Result<(), ForwardingError> {
        let opened = if self.is_on("ip_forward") { BTreeSet::new() } else { self.recorded()? };
        let mut there = opened.iter().filter(|name| self.setting(name).exists());
        there.try_for_each(|name| self.set(name, "0"))
    }

    /// Nothing of the host is changed any more.
    pub(super) fn forget(&self) -> Result<(), ForwardingError> {
        match fs::remove_file(&self.record) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(self.failed(source)),
            _ => Ok(()),
        }
    }

    fn recorded(&self) -> Result<BTreeSet<String>, ForwardingError> {
        match fs::read(&self.record) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| ForwardingError::Unreadable { path: self.record.clone(), source }),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Whole or not at all.
    fn write(&self, opened: &BTreeSet<String>) -> Result<(), ForwardingError> {
        let new = self.record.with_extension("new");
        let bytes = serde_json::to_vec(opened)
            .map_err(|source| ForwardingError::Unreadable { path: self.record.clone(), source })?;
        let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, &self.record));
        written.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> ForwardingError {
        ForwardingError::Record { path: self.record.clone(), source }
    }

    fn is_on(&self, setting: &str) -> bool {
        let path = self.root.join("proc/sys/net/ipv4").join(setting);
        fs::read_to_string(path).is_ok_and(|value| value.trim() != "0")
    }

    fn setting(&self, interface: &str) -> PathBuf {
        self.root.join("proc/sys/net/ipv4").join(conf(interface))
    }

    fn set(&self, interface: &str, value: &str) -> Result<(), ForwardingError> {
        let path = self.setting(interface);
        fs::write(&path, value).map_err(|source| ForwardingError::Setting { path, source })
    }
}

/// An interface's setting. Where the interface's name has a dot, its directory has it too.
fn conf(interface: &str) -> String {
    Path::new("conf").join(interface).join("forwarding").to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host(tempfile::TempDir);

    impl Host {
        fn new(ip_forward: &str, interfaces: &[(&str, &str)]) -> (Self, Forwarding) {
            let root = tempfile::tempdir().unwrap();
            let settings = root.path().join("proc/sys/net/ipv4");
            fs::create_dir_all(&settings).unwrap();
            fs::write(settings.join("ip_forward"), format!("{ip_forward}\n")).unwrap();
            for (name, value) in interfaces {
                fs::create_dir_all(settings.join("conf").join(name)).unwrap();
                fs::write(settings.join(conf(name)), format!("{value}\n")).unwrap();
            }
            fs::create_dir(root.path().join("run")).unwrap();
            let forwarding = Forwarding::new(root.path().to_owned());
            (Self(root), forwarding)
        }

        fn forwards(&self, name: &str) -> bool {
            let path = self.0.path().join("proc/sys/net/ipv4").join(conf(name));
            fs::read_to_string(path).unwrap().trim() == "1"
        }
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_did_not_forward_forwards_no_more_when_all_is_over() {
        let (host, forwarding) = Host::new("0", &[("eth0", "0"), ("br0", "1")]);
        let opened = forwarding.claim(&names(&["eth0", "br0", "gone"])).unwrap();
        assert_eq!(opened, names(&["eth0"]));
        assert!(!host.forwards("eth0") && forwarding.has_record());
        forwarding.open(&opened).unwrap();
        assert!(host.forwards("eth0"));
        // An agent that was started anew still knows.
        assert_eq!(forwarding.claim(&names(&["eth0", "br0"])).unwrap(), names(&["eth0"]));
        forwarding.close().unwrap();
        assert!(!host.forwards("eth0") && host.forwards("br0") && forwarding.has_record());
        forwarding.forget().unwrap();
        assert!(!forwarding.has_record());
    }

    #[test]
    fn a_host_whose_owner_has_it_forward_in_the_meantime_goes_on_forwarding() {
        let (host, forwarding) = Host::new("0", &[("eth0", "0")]);
        forwarding.open(&forwarding.claim(&names(&["eth0"])).unwrap()).unwrap();
        fs::write(host.0.path().join("proc/sys/net/ipv4/ip_forward"), "1\n").unwrap();
        assert_eq!(forwarding.claim(&names(&["eth0"])).unwrap(), names(&[]));
        forwarding.close().unwrap();
        assert!(host.forwards("eth0"));
    }

    #[test]
    fn a_host_that_forwards_anyway_is_left_as_it_is() {
        let (host, forwarding) = Host::new("1", &[("eth0", "1")]);
        assert_eq!(forwarding.claim(&names(&["eth0"])).unwrap(), names(&[]));
        forwarding.close().unwrap();
        assert!(host.forwards("eth0"));
    }
}
