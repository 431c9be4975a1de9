//! Sockets of the host's that others connect to. The paths stay when the VMM is gone: from its jail it does not reach
//! them.

use std::{
    fs, io,
    os::unix::{
        fs::FileTypeExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use thiserror::Error;

#[derive(Debug, Error)]
pub enum ListenError {
    #[error("{path:?} is there already and is not a socket")]
    NotASocket { path: PathBuf },
    #[error("{path:?} belongs to a VMM that is alive")]
    InUse { path: PathBuf },
    #[error("cannot listen at {path:?}")]
    Listen { path: PathBuf, source: io::Error },
}

/// Listens at `path`, in the place of a socket that a dead VMM left there; accepting does not block.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |source| ListenError::Listen { path: path.to_owned(), source };
    if let Ok(there) = fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        if UnixStream::connect(path).is_ok() {
            return Err(ListenError::InUse { path: path.to_owned() });
        }
        fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_nobody_listens_at_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        drop(UnixListener::bind(&path).unwrap());
        let alive = listen(&path).unwrap();
        assert!(matches!(listen(&path), Err(ListenError::InUse { .. })));
        drop(alive);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path), Err(ListenError::NotASocket { .. })));
    }
}
