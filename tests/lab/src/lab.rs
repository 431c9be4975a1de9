//! A lab: hosts that share a state directory, a lender and a secret.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::disk::{self, DiskError};
use crate::exec::Secret;
use crate::exec::handshake::SecretError;
use crate::host::{Host, HostOptions, HostStartError, Record};
use crate::ports;
use crate::prepare::{System, target_directory};
use crate::qemu::KillError;

/// Names the directory of the lab where nothing else does.
pub const DIRECTORY_VARIABLE: &str = "SUBLET_LAB_DIR";

/// A lab; its hosts run on after it is dropped.
#[derive(Debug, Clone)]
pub struct Lab {
    directory: PathBuf,
}

#[derive(Debug, Error)]
pub enum LabError {
    #[error("cannot use {0}")]
    File(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Secret(SecretError),
    #[error("{0} is not the record of a host")]
    Record(PathBuf, #[source] serde_json::Error),
    #[error("this lab has no host {0:?}; it has {1}")]
    NoSuchHost(String, String),
    #[error("{0:?} cannot be a host's name: 1 to 32 characters of a-z, 0-9 and '-' can")]
    Name(String),
    #[error("cannot end {0}")]
    Kill(String, #[source] KillError),
}

#[derive(Debug, Error)]
pub enum UpError {
    #[error(transparent)]
    Lab(LabError),
    #[error("a host with repeatable time has 1 CPU, not {0}")]
    IcountCpus(u32),
    #[error("{0} was made with other options than those asked for now; end it first (sublet-lab down {0})")]
    OtherOptions(String),
    #[error("no port of this machine between 20000 and 32000 is free")]
    NoPort,
    #[error("cannot make the disk of {0}")]
    Disk(String, #[source] DiskError),
    #[error("cannot bring {0} up")]
    Start(String, #[source] HostStartError),
}

impl From<LabError> for UpError {
    fn from(error: LabError) -> Self {
        Self::Lab(error)
    }
}

impl Lab {
    /// The lab in `directory`, which is made where it is not there.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, LabError> {
        let directory = directory.as_ref();
        fs::create_dir_all(directory.join("hosts"))
            .map_err(|error| LabError::File(directory.into(), error))?;
        let directory = directory.canonicalize().map_err(|error| LabError::File(directory.into(), error))?;
        let lab = Self { directory };
        let _lock = lab.lock("lock")?;
        lab.make_secrets()?;
        Ok(lab)
    }

    /// The lab that `SUBLET_LAB_DIR` names, or else the one below cargo's target directory.
    pub fn open_default() -> Result<Self, LabError> {
        Self::open(Self::default_directory())
    }

    pub fn default_directory() -> PathBuf {
        std::env::var_os(DIRECTORY_VARIABLE).map_or_else(|| target_directory().join("lab"), PathBuf::from)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn make_secrets(&self) -> Result<(), LabError> {
        let exec = self.directory.join("exec.secret");
        if !exec.exists() {
            Secret::generate().write_new(&exec).map_err(LabError::Secret)?;
        }
        let owner = self.directory.join("owner.token");
        if !owner.exists() {
            let token = hex::encode(rand::random::<[u8; 32]>());
            write_private(&owner, token.as_bytes())?;
        }
        Ok(())
    }

    /// Held while the file lives.
    fn lock(&self, name: &str) -> Result<File, LabError> {
        let path = self.directory.join(name);
        let cannot = |error| LabError::File(path.clone(), error);
        let file = File::create(&path).map_err(cannot)?;
        file.lock().map_err(cannot)?;
        Ok(file)
    }

    fn hosts_directory(&self) -> PathBuf {
        self.directory.join("hosts")
    }

    /// All hosts, by name.
    pub fn hosts(&self) -> Result<Vec<Host>, LabError> {
        let directory = self.hosts_directory();
        let cannot = |error| LabError::File(directory.clone(), error);
        let mut hosts = Vec::new();
        for entry in fs::read_dir(&directory).map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name().to_string_lossy().into_owned();
            hosts.extend(self.find(&name)?);
        }
        hosts.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
        Ok(hosts)
    }

    /// The host of this name.
    pub fn host(&self, name: &str) -> Result<Host, LabError> {
        if let Some(host) = self.find(name)? {
            return Ok(host);
        }
        let names: Vec<_> = self.hosts()?.into_iter().map(|host| host.name).collect();
        let names = if names.is_empty() { "none".into() } else { names.join(", ") };
        Err(LabError::NoSuchHost(name.into(), names))
    }

    fn find(&self, name: &str) -> Result<Option<Host>, LabError> {
        if !is_name(name) {
            return Err(LabError::Name(name.into()));
        }
        let directory = self.hosts_directory().join(name);
        let path = directory.join("host.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LabError::File(path, error)),
        };
        let record = serde_json::from_slice(&text).map_err(|error| LabError::Record(path, error))?;
        Ok(Some(Host { name: name.into(), directory, lab: self.directory.clone(), record }))
    }

    /// The host of this name, up: made with `options` where it is not there yet, started where it is off.
    /// Tests may ask for the same host at the same time.
    pub fn up(&self, name: &str, options: &HostOptions, system: &System) -> Result<Host, UpError> {
        if !is_name(name) {
            return Err(LabError::Name(name.into()).into());
        }
        let _lock = self.lock(&format!("{name}.lock"))?;
        let mut host = match self.find(name)? {
            Some(host) if host.record.options != *options => return Err(UpError::OtherOptions(name.into())),
            Some(host) => host,
            None => self.make(name, options, system)?,
        };
        let up = if host.is_running() {
            host.wait_until_ready()
        } else {
            host.record.system = system.clone();
            write_record(&host)?;
            host.start(system)
        };
        up.map_err(|error| UpError::Start(name.into(), error))?;
        Ok(host)
    }

    fn make(&self, name: &str, options: &HostOptions, system: &System) -> Result<Host, UpError> {
        if options.icount && options.cpus != 1 {
            return Err(UpError::IcountCpus(options.cpus));
        }
        let _lock = self.lock("lock")?;
        let directory = self.hosts_directory().join(name);
        fs::create_dir_all(&directory).map_err(|error| LabError::File(directory.clone(), error))?;
        let [agent_port, exec_port] = self.choose_ports()?;
        let record = Record { options: options.clone(), system: system.clone(), agent_port, exec_port };
        let host = Host { name: name.into(), directory, lab: self.directory.clone(), record };
        disk::make_empty(&host.state_disk(), options.disk_mib)
            .map_err(|error| UpError::Disk(name.into(), error))?;
        copy_enrolment_token(&host)?;
        // Written last: what has no record is no host, and is made anew.
        write_record(&host)?;
        Ok(host)
    }

    fn choose_ports(&self) -> Result<[u16; 2], UpError> {
        let hosts = self.hosts()?;
        let mut taken: BTreeSet<u16> =
            hosts.iter().flat_map(|host| [host.record.agent_port, host.record.exec_port]).collect();
        let mut choose = || {
            let port = ports::free_port(&taken)?;
            taken.insert(port);
            Some(port)
        };
        choose().zip(choose()).map(|(agent, exec)| [agent, exec]).ok_or(UpError::NoPort)
    }

    /// Ends one host and forgets it with its disk.
    pub fn remove(&self, host: &Host) -> Result<(), LabError> {
        let _lock = self.lock(&format!("{}.lock", host.name))?;
        host.kill().map_err(|error| LabError::Kill(host.name.clone(), error))?;
        fs::remove_dir_all(&host.directory).map_err(|error| LabError::File(host.directory.clone(), error))
    }
}

fn write_record(host: &Host) -> Result<(), LabError> {
    let path = host.directory.join("host.json");
    let text =
        serde_json::to_vec_pretty(&host.record).map_err(|error| LabError::Record(path.clone(), error))?;
    let new = path.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(|error| LabError::File(path, error))
}

fn copy_enrolment_token(host: &Host) -> Result<(), LabError> {
    let Some(from) = &host.record.options.enrolment_token_file else { return Ok(()) };
    let token = fs::read(from).map_err(|error| LabError::File(from.clone(), error))?;
    let path = host.directory.join("enrolment.token");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LabError::File(path, error)),
        _ => write_private(&path, &token),
    }
}

/// A new file that its owner alone can read.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), LabError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| LabError::File(path.into(), error))
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=32).contains(&name.len()) && name.chars().all(allowed)
}

#[cfg(test)]
mod tests;
