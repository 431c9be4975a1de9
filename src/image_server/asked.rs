//! What a path below `/v2/` asks for.

use super::refusal::{Code, Refusal};
use crate::domain::image::{
    digest::Digest,
    reference::{RepositoryName, Version},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// Whether this API is served.
    Version,
    /// All repositories.
    Catalog,
    Tags(RepositoryName),
    Manifest(RepositoryName, Version),
    Referrers(RepositoryName, Digest),
    Blob(RepositoryName, Digest),
}

impl Asked {
    /// Reads a path as it was sent: nothing that is served needs any of it escaped.
    pub(super) fn read(path: &str) -> Result<Self, Refusal> {
        let nothing = || Refusal::new(Code::NotFound, format!("nothing is served at {path}"));
        let rest = path.strip_prefix("/v2").map(|rest| rest.strip_prefix('/').unwrap_or(rest));
        let rest = rest.ok_or_else(nothing)?;
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return repository(name).map(Self::Tags);
        }
        let mut parts = rest.rsplitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(""), None, None) => Ok(Self::Version),
            (Some("_catalog"), None, None) => Ok(Self::Catalog),
            (Some(version), Some("manifests"), Some(name)) => {
                let version = version
                    .parse()
                    .map_err(|error| Refusal::new(Code::ManifestUnknown, format!("{error}")))?;
                Ok(Self::Manifest(repository(name)?, version))
            }
            (Some(subject), Some("referrers"), Some(name)) => {
                Ok(Self::Referrers(repository(name)?, digest(subject)?))
            }
            (Some(blob), Some("blobs"), Some(name)) => Ok(Self::Blob(repository(name)?, digest(blob)?)),
            _ => Err(nothing()),
        }
    }
}

fn repository(name: &str) -> Result<RepositoryName, Refusal> {
    name.parse().map_err(|error| Refusal::new(Code::NameInvalid, format!("{error}")))
}

fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error| Refusal::new(Code::DigestInvalid, format!("{error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_the_words_of_the_api_in_it() {
        let digest = Digest::of(b"");
        let name = |text: &str| text.parse::<RepositoryName>().unwrap();
        assert_eq!(Asked::read("/v2/").unwrap(), Asked::Version);
        assert_eq!(Asked::read("/v2").unwrap(), Asked::Version);
        assert_eq!(Asked::read("/v2/_catalog").unwrap(), Asked::Catalog);
        assert_eq!(Asked::read("/v2/a/tags/list").unwrap(), Asked::Tags(name("a")));
        assert_eq!(Asked::read("/v2/tags/tags/list").unwrap(), Asked::Tags(name("tags")));
        let tag = Version::Tag("latest".parse().unwrap());
        let manifests = Asked::read("/v2/manifests/b/manifests/latest").unwrap();
        assert_eq!(manifests, Asked::Manifest(name("manifests/b"), tag));
        let path = format!("/v2/a/b/c/blobs/{digest}");
        assert_eq!(Asked::read(&path).unwrap(), Asked::Blob(name("a/b/c"), digest));
        let path = format!("/v2/a/referrers/{digest}");
        assert_eq!(Asked::read(&path).unwrap(), Asked::Referrers(name("a"), digest));
    }

    #[test]
    fn what_is_no_name_or_digest_is_refused_by_its_code() {
        let code = |path: &str| Asked::read(path).unwrap_err().code();
        let digest = Digest::of(b"");
        for name in ["..", "../..", "a/..", "%2e%2e", "A", "a//b", "", ".hidden", "a/blobs/sha256", "a\\b"] {
            let path = format!("/v2/{name}/blobs/{digest}");
            assert_eq!(code(&path), Code::NameInvalid, "{path}");
        }
        assert_eq!(code("/v2/a/blobs/../../etc/passwd"), Code::NotFound);
        assert_eq!(code("/v2/a/blobs/passwd"), Code::DigestInvalid);
        assert_eq!(code("/v2/a/blobs/sha256:.."), Code::DigestInvalid);
        assert_eq!(code("/v2/a/manifests/.."), Code::ManifestUnknown);
        assert_eq!(code("/v2/a/manifests/sha512:00"), Code::ManifestUnknown);
        for path in ["/v2/a", "/v2/a/b", "/v2/_other", "/v2/a/blobs", "/v3/"] {
            assert_eq!(code(path), Code::NotFound, "{path}");
        }
    }
}
