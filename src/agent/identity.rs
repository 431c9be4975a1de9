//! Who this host is: its id, its owner's token, the keys it issues and the registry it trusts. Kept in the state
//! directory, readable by nobody else.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use subtle::ConstantTimeEq;
use thiserror::Error;
use uuid::Uuid;

use crate::{
    api::registry::{HostEnrolled, Issuer},
    domain::{
        id::{HostId, IssuerId},
        lending_key::{IssuerKeyPair, IssuerPublicKey, NotAnIssuerKey},
        receipt::key::{NotHex, ReceiptSigner},
        secret::Secret,
    },
};

/// Random bytes of a token or a key's seed.
const SECRET_BYTES: usize = 32;

#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("cannot {act} {path:?}")]
    File { act: &'static str, path: PathBuf, source: io::Error },
    #[error("{path:?} cannot be read; it was written by this agent and must not be changed")]
    Content { path: PathBuf, source: serde_json::Error },
    #[error("{path:?} does not hold a key")]
    Key { path: PathBuf, source: NotAnIssuerKey },
    #[error("{path:?} does not hold a key for receipts")]
    ReceiptKey { path: PathBuf, source: NotHex },
    #[error("{path:?} holds no token; delete it for a new one")]
    NoToken { path: PathBuf },
}

fn failed(act: &'static str, path: &Path) -> impl Fn(io::Error) -> IdentityError {
    move |source| IdentityError::File { act, path: path.to_owned(), source }
}

/// Who the host is to its owner and to those it lends to directly.
#[derive(Debug)]
pub struct Identity {
    own_id: HostId,
    issuer: IssuerKeyPair,
    owner_token: Secret,
    enrolment: Option<Enrolment>,
}

/// What the registry has told the host about both of them.
#[derive(Debug, Clone)]
pub struct Enrolment {
    pub host: HostId,
    pub host_token: Secret,
    pub issuer: IssuerPublicKey,
}

#[derive(Serialize, Deserialize)]
struct OwnFile {
    host: HostId,
    issuer_secret: Secret,
}

impl Identity {
    /// Reads the host's identity, or makes a new one.
    pub fn load(state_directory: &Path, owner_token_file: &Path) -> Result<Self, IdentityError> {
        let path = state_directory.join("identity.json");
        let own: OwnFile = match read(&path)? {
            Some(own) => own,
            None => {
                let issuer = IssuerKeyPair::from_seed(random());
                let own = OwnFile { host: HostId(Uuid::new_v4()), issuer_secret: issuer.secret() };
                write(&path, &own)?;
                own
            }
        };
        let issuer = IssuerKeyPair::from_secret(&own.issuer_secret)
            .map_err(|source| IdentityError::Key { path, source })?;
        let owner_token = owner_token(owner_token_file)?;
        Ok(Self { own_id: own.host, issuer, owner_token, enrolment: None })
    }

    /// This host belongs to a registry.
    pub fn enrolled(self, enrolment: Enrolment) -> Self {
        Self { enrolment: Some(enrolment), ..self }
    }

    pub fn host(&self) -> HostId {
        self.enrolment.as_ref().map_or(self.own_id, |enrolment| enrolment.host)
    }

    pub fn enrolment(&self) -> Option<&Enrolment> {
        self.enrolment.as_ref()
    }

    /// Signs the keys of this host's own, for direct lending [0165].
    pub fn issuer(&self) -> &IssuerKeyPair {
        &self.issuer
    }

    pub fn issuer_id(&self) -> IssuerId {
        IssuerId(self.own_id.0)
    }

    /// Whose keys open this host's partitions at first: the registry's, where it belongs to one.
    pub fn trusted_issuer(&self) -> IssuerPublicKey {
        self.enrolment.as_ref().map_or_else(|| self.issuer.public_key(), |enrolment| enrolment.issuer)
    }

    pub fn own_issuer(&self) -> Issuer {
        Issuer { id: self.issuer_id(), public_key: self.issuer.public_key().to_string() }
    }

    /// Whether `token` is the owner's; takes as long whatever it is.
    pub fn is_owner(&self, token: &Secret) -> bool {
        self.owner_token.reveal().as_bytes().ct_eq(token.reveal().as_bytes()).into()
    }
}

impl Enrolment {
    /// As an earlier enrolment was stored.
    pub fn load(state_directory: &Path) -> Result<Option<Self>, IdentityError> {
        let path = enrolment_path(state_directory);
        read::<HostEnrolled>(&path)?.map(|enrolled| Self::of(enrolled, &path)).transpose()
    }

    /// Stores what the registry has answered, before it is used.
    pub fn store(state_directory: &Path, enrolled: HostEnrolled) -> Result<Self, IdentityError> {
        let path = enrolment_path(state_directory);
        let enrolment = Self::of(enrolled.clone(), &path)?;
        write(&path, &enrolled)?;
        Ok(enrolment)
    }

    /// The host has another token from now on.
    pub fn change_token(state_directory: &Path, host_token: Secret) -> Result<(), IdentityError> {
        let path = enrolment_path(state_directory);
        match read::<HostEnrolled>(&path)? {
            Some(enrolled) => write(&path, &HostEnrolled { host_token, ..enrolled }),
            None => Err(IdentityError::NoToken { path }),
        }
    }

    fn of(enrolled: HostEnrolled, path: &Path) -> Result<Self, IdentityError> {
        let HostEnrolled { host, host_token, issuer } = enrolled;
        let issuer = issuer
            .public_key
            .parse()
            .map_err(|source| IdentityError::Key { path: path.to_owned(), source })?;
        Ok(Self { host, host_token, issuer })
    }
}

/// What this host signs its receipts with: made once, since leases name its public half.
pub fn receipt_signer(state_directory: &Path) -> Result<ReceiptSigner, IdentityError> {
    let path = state_directory.join("receipt-key.json");
    if let Some(secret) = read::<Secret>(&path)? {
        return ReceiptSigner::from_secret(&secret)
            .map_err(|source| IdentityError::ReceiptKey { path, source });
    }
    let signer = ReceiptSigner::from_seed(random());
    write(&path, &signer.secret())?;
    Ok(signer)
}

/// The name of this host's wish to be enrolled: asked for again after a lost answer, it is the same host.
pub fn enrolment_request(state_directory: &Path) -> Result<Uuid, IdentityError> {
    let path = state_directory.join("enrolment-request.json");
    if let Some(request) = read(&path)? {
        return Ok(request);
    }
    let request = Uuid::new_v4();
    write(&path, &request)?;
    Ok(request)
}

fn enrolment_path(state_directory: &Path) -> PathBuf {
    state_directory.join("registry.json")
}

/// Fresh from the system's random source.
pub fn random<const N: usize>() -> [u8; N] {
    rand::random()
}

fn owner_token(path: &Path) -> Result<Secret, IdentityError> {
    if !path.exists() {
        let token = format!("sublet-owner-{}", hex::encode(random::<SECRET_BYTES>()));
        write_file(path, token.as_bytes())?;
    }
    read_secret(path)
}

/// A secret that stands in a file by itself.
pub fn read_secret(path: &Path) -> Result<Secret, IdentityError> {
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    match text.trim() {
        "" => Err(IdentityError::NoToken { path: path.to_owned() }),
        token => Ok(Secret::new(token)),
    }
}

pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, IdentityError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| IdentityError::Content { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), IdentityError> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|source| IdentityError::Content { path: path.to_owned(), source })?;
    write_file(path, &text)
}

/// All of it or nothing, durably, for this user alone.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let new = path.with_extension("new");
    let written = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new).and_then(
        |mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        },
    );
    written.map_err(failed("write", &new))?;
    fs::rename(&new, path).map_err(failed("write", path))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("store", directory))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn load(directory: &tempfile::TempDir) -> Result<Identity, IdentityError> {
        Identity::load(directory.path(), &directory.path().join("owner.token"))
    }

    #[test]
    fn a_host_stays_who_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (first, again) = (load(&directory).unwrap(), load(&directory).unwrap());
        assert_eq!((first.host(), first.own_issuer()), (again.host(), again.own_issuer()));
        assert!(again.is_owner(&first.owner_token));
        let key = || receipt_signer(directory.path()).unwrap().key();
        assert_eq!(key(), key());
    }

    #[test]
    fn no_secret_can_be_read_by_others() {
        let directory = tempfile::tempdir().unwrap();
        load(&directory).unwrap();
        receipt_signer(directory.path()).unwrap();
        for file in fs::read_dir(directory.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
        }
    }

    #[test]
    fn another_token_is_not_the_owners() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("owner.token"), "mine\n").unwrap();
        let identity = load(&directory).unwrap();
        assert!(identity.is_owner(&Secret::new("mine")));
        assert!(!identity.is_owner(&Secret::new("min")));
        assert!(!identity.is_owner(&Secret::new("")));
    }

    #[test]
    fn an_empty_token_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("owner.token"), "\n").unwrap();
        assert!(matches!(load(&directory), Err(IdentityError::NoToken { .. })));
    }

    #[test]
    fn an_enrolled_host_has_the_registrys_name_for_it_and_trusts_its_keys() {
        let directory = tempfile::tempdir().unwrap();
        let registry = IssuerKeyPair::from_seed([1; 32]);
        let enrolled = HostEnrolled {
            host: HostId(Uuid::from_u128(9)),
            host_token: Secret::new("t"),
            issuer: Issuer {
                id: IssuerId(Uuid::from_u128(8)),
                public_key: registry.public_key().to_string(),
            },
        };
        assert!(Enrolment::load(directory.path()).unwrap().is_none());
        Enrolment::store(directory.path(), enrolled).unwrap();
        let enrolment = Enrolment::load(directory.path()).unwrap().unwrap();
        let identity = load(&directory).unwrap().enrolled(enrolment);
        assert_eq!(identity.host(), HostId(Uuid::from_u128(9)));
        assert_eq!(identity.trusted_issuer(), registry.public_key());
    }
}
