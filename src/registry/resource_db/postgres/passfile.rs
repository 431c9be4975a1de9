//! Passwords, as PostgreSQL's own programs have them in a file: `HOST:PORT:DATABASE:USER:PASSWORD`, a line each.

use std::{
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::api::secret::Secret;

#[derive(Debug, Error)]
pub enum PassfileError {
    #[error("cannot read the password file {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("others can read the password file {} (mode {mode:o}): chmod 600 it", path.display())]
    ReadableByOthers { path: PathBuf, mode: u32 },
    #[error("the password file {} has no line for {login}", path.display())]
    NoLine { path: PathBuf, login: String },
}

/// The password of the first line for this host, port, database and user.
pub(super) fn password(path: &Path, login: &[String; 4]) -> Result<Secret, PassfileError> {
    let failed = |source| PassfileError::File { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PassfileError::ReadableByOthers { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    let found = text.lines().find_map(|line| password_for(line, login));
    found.ok_or_else(|| PassfileError::NoLine { path: path.to_owned(), login: login.join(":") })
}

fn password_for(line: &str, login: &[String; 4]) -> Option<Secret> {
    let fields = fields(line);
    let (password, asked) = fields.split_last().filter(|(_, asked)| asked.len() == login.len())?;
    let fits = asked.iter().zip(login).all(|(asked, login)| asked == "*" || asked == login);
    fits.then(|| Secret::new(password.as_str()))
}

/// Of a comment, none. A backslash takes the next letter as it is.
fn fields(line: &str) -> Vec<String> {
    if line.starts_with('#') {
        return Vec::new();
    }
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (letter, fields.last_mut()) {
            (':', _) => fields.push(String::new()),
            ('\\', Some(field)) => field.extend(letters.next()),
            (letter, Some(field)) => field.push(letter),
            (_, None) => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn login() -> [String; 4] {
        ["db", "5432", "sublet", "registry"].map(str::to_owned)
    }

    fn passfile(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pass");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let text =
            "# db:5432:sublet:registry:no\nother:*:*:*:no\ndb:5432:*:registry:a\\:b\\\\c\n*:*:*:*:late\n";
        let (_directory, path) = passfile(text, 0o600);
        assert_eq!(password(&path, &login()).unwrap().reveal(), "a:b\\c");
    }

    #[test]
    fn a_file_without_such_a_line_is_named_with_what_was_looked_for() {
        let (_directory, path) = passfile("db:5432:sublet:other:no\nshort:line\n", 0o600);
        let error = password(&path, &login()).unwrap_err();
        assert!(error.to_string().contains("db:5432:sublet:registry"), "{error}");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_directory, path) = passfile("*:*:*:*:secret\n", 0o640);
        assert!(matches!(
            password(&path, &login()),
            Err(PassfileError::ReadableByOthers { mode: 0o640, .. })
        ));
    }
}
