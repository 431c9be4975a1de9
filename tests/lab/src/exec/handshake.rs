//! Both sides prove that they know the lab's secret, and neither tells it.
//!
//! ```text
//! host → client    32 random bytes h
//! client → host    32 random bytes c, HMAC-SHA256(secret, "client" ‖ h ‖ c)
//! host → client    HMAC-SHA256(secret, "host" ‖ h ‖ c)
//! ```

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

const LENGTH: usize = 32;

/// What lets a client run commands in the hosts of one lab.
#[derive(Clone)]
pub struct Secret([u8; LENGTH]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[derive(Debug, Error)]
pub enum SecretError {
    #[error("cannot read the lab's secret from {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("{0} does not hold 64 hexadecimal digits")]
    Malformed(PathBuf),
    #[error("cannot write the lab's secret to {0}")]
    Write(PathBuf, #[source] io::Error),
}

impl Secret {
    pub fn generate() -> Self {
        Self(rand::random())
    }

    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let text = fs::read_to_string(path).map_err(|error| SecretError::Read(path.into(), error))?;
        let mut secret = [0; LENGTH];
        hex::decode_to_slice(text.trim(), &mut secret).map_err(|_| SecretError::Malformed(path.into()))?;
        Ok(Self(secret))
    }

    /// Writes it to a new file that its owner alone can read.
    pub fn write_new(&self, path: &Path) -> Result<(), SecretError> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| writeln!(file, "{}", hex::encode(self.0)))
            .map_err(|error| SecretError::Write(path.into(), error))
    }

    fn proof(&self, side: &str, host: &[u8], client: &[u8]) -> Proof {
        // An HMAC takes a key of any length.
        let keyed: Result<Proof, _> = Hmac::new_from_slice(&self.0);
        keyed.unwrap_or_else(|_| unreachable!()).chain_update(side).chain_update(host).chain_update(client)
    }
}

type Proof = Hmac<Sha256>;

#[derive(Debug, Error)]
pub enum HandshakeError {
    #[error("the connection broke before both sides had shown who they are")]
    Io(#[source] io::Error),
    #[error("the other side does not know this lab's secret")]
    Stranger,
}

/// The host's side.
pub fn accept(stream: &mut (impl Read + Write), secret: &Secret) -> Result<(), HandshakeError> {
    let host: [u8; LENGTH] = rand::random();
    send(stream, &host)?;
    let client = receive(stream)?;
    let proof = receive(stream)?;
    check(secret.proof("client", &host, &client), proof)?;
    send(stream, &secret.proof("host", &host, &client).finalize().into_bytes())
}

/// The client's side.
pub fn introduce(stream: &mut (impl Read + Write), secret: &Secret) -> Result<(), HandshakeError> {
    let client: [u8; LENGTH] = rand::random();
    let host = receive(stream)?;
    send(stream, &client)?;
    send(stream, &secret.proof("client", &host, &client).finalize().into_bytes())?;
    check(secret.proof("host", &host, &client), receive(stream)?)
}

fn check(expected: Proof, proof: [u8; LENGTH]) -> Result<(), HandshakeError> {
    expected.verify_slice(&proof).map_err(|_| HandshakeError::Stranger)
}

fn send(stream: &mut impl Write, bytes: &[u8]) -> Result<(), HandshakeError> {
    stream.write_all(bytes).and_then(|()| stream.flush()).map_err(HandshakeError::Io)
}

fn receive(stream: &mut impl Read) -> Result<[u8; LENGTH], HandshakeError> {
    let mut bytes = [0; LENGTH];
    stream.read_exact(&mut bytes).map_err(HandshakeError::Io)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    type Ends = (Result<(), HandshakeError>, Result<(), HandshakeError>);

    fn meet(hosts: Secret, clients: Secret) -> Ends {
        let (mut host, mut client) = UnixStream::pair().unwrap();
        let accepting = thread::spawn(move || accept(&mut host, &hosts));
        let introduced = introduce(&mut client, &clients);
        (accepting.join().unwrap(), introduced)
    }

    #[test]
    fn sides_with_the_same_secret_meet() {
        let secret = Secret::generate();
        assert!(matches!(meet(secret.clone(), secret), (Ok(()), Ok(()))));
    }

    #[test]
    fn a_client_with_another_secret_is_refused_and_gets_no_proof() {
        let (accepted, introduced) = meet(Secret::generate(), Secret::generate());
        assert!(matches!(accepted, Err(HandshakeError::Stranger)));
        assert!(matches!(introduced, Err(HandshakeError::Io(_))));
    }

    #[test]
    fn a_proof_cannot_be_sent_back_to_the_side_that_made_it() {
        let secret = Secret::generate();
        let clients = secret.proof("client", &[1; LENGTH], &[2; LENGTH]).finalize().into_bytes();
        let hosts = secret.proof("host", &[1; LENGTH], &[2; LENGTH]);
        assert!(hosts.verify_slice(&clients).is_err());
    }

    #[test]
    fn a_secret_is_read_as_it_was_written_and_only_its_owner_may() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let secret = Secret::generate();
        secret.write_new(&path).unwrap();
        assert_eq!(Secret::read(&path).unwrap().0, secret.0);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_secret_is_not_in_its_debug_text() {
        let secret = Secret::generate();
        assert!(!format!("{secret:?}").contains(&hex::encode(secret.0)));
    }
}
