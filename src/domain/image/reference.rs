//! What people call an image: `[[http[s]://]HOST[:PORT]/]NAME[:TAG|@DIGEST]`, as other tools for OCI registries have it.

use core::net::IpAddr;
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::digest::Digest;

/// Longest name of a repository; distribution-spec 1.1 has it together with the host's below 256.
const NAME_MAX: usize = 200;
const TAG_MAX: usize = 128;
/// The tag where none is stated.
const LATEST: &str = "latest";
/// What a repository's own files are called where it is kept: no repository lies there.
const OF_A_LAYOUT: [&str; 3] = ["blobs", "index.json", "oci-layout"];

#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadReference {
    #[error(
        "{0:?} is no name of an image: it is made of a-z and 0-9, with single separators . _ __ - between them, and / \
         between its parts"
    )]
    Name(String),
    #[error(
        "{0:?} is no tag: it is made of up to {TAG_MAX} letters, digits and _ . -, and begins with none of . -"
    )]
    Tag(String),
    #[error("{0:?} is no address of a registry: it looks like HOST or HOST:PORT")]
    Registry(String),
    #[error(transparent)]
    Digest(#[from] super::digest::NotADigest),
}

/// What a repository is called (distribution-spec 1.1): never a path out of the directory that it is kept in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryName(String);

impl RepositoryName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        let is_part = |part: &str| is_name_part(part) && !OF_A_LAYOUT.contains(&part);
        if text.len() <= NAME_MAX && text.split('/').all(is_part) {
            return Ok(Self(text.to_owned()));
        }
        Err(BadReference::Name(text.chars().take(NAME_MAX).collect()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_name_part(part: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = part.split(is_plain).filter(|separator| !separator.is_empty());
    let are_allowed = separators
        .into_iter()
        .all(|separator| matches!(separator, "." | "_" | "__") || separator.chars().all(|c| c == '-'));
    part.starts_with(is_plain) && part.ends_with(is_plain) && are_allowed
}

/// What one of a repository's manifests is called at the moment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the referrers of a manifest are listed under where a registry has no list of them (distribution-spec 1.1,
    /// referrers tag schema).
    pub fn of_referrers(subject: &Digest) -> Self {
        Self(format!("sha256-{}", subject.hex()))
    }
}

impl FromStr for Tag {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let is_tag = (1..=TAG_MAX).contains(&text.len())
            && text.chars().all(is_allowed)
            && !text.starts_with(['.', '-']);
        if is_tag {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadReference::Tag(text.chars().take(TAG_MAX).collect()))
        }
    }
}

/// Which of a repository's manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    Tag(Tag),
    Digest(Digest),
}

impl Version {
    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Tag(tag) => Some(tag),
            Self::Digest(_) => None,
        }
    }
}

/// As in a URL: what has a colon is a digest.
impl FromStr for Version {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { text.parse().map(Self::Tag) }
    }
}

/// Where a registry is, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryAddress {
    tls: bool,
    authority: String,
}

impl RegistryAddress {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    pub fn base(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority)
    }

    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether nobody else can read what is said to it: over TLS, or on this machine's loopback.
    pub fn is_confidential(&self) -> bool {
        self.tls || host_of(&self.authority).is_some_and(is_loopback)
    }
}

/// A registry on this machine's loopback is spoken to without TLS, every other over it; a scheme in front says otherwise.
impl FromStr for RegistryAddress {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        let (scheme, authority) = match text.split_once("://") {
            Some((scheme, authority)) => (Some(scheme), authority),
            None => (None, text),
        };
        let refused = || BadReference::Registry(text.chars().take(NAME_MAX).collect());
        let host = host_of(authority).ok_or_else(refused)?;
        let tls = match scheme {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(refused()),
            None => !is_loopback(host),
        };
        Ok(Self { tls, authority: authority.to_owned() })
    }
}

/// The host of `HOST` or `HOST:PORT`, where it is that.
fn host_of(authority: &str) -> Option<&str> {
    let end = authority.rfind(']').map_or(0, |at| at + 1);
    let colon = authority[end..].find(':').map(|at| end + at);
    let (host, port) = match colon {
        Some(at) => (&authority[..at], Some(&authority[at + 1..])),
        None => (authority, None),
    };
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let is_name = host.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c)) && !host.is_empty();
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_address = address.is_some_and(|address| address.parse::<core::net::Ipv6Addr>().is_ok());
    (is_port && (is_name || is_address)).then_some(host)
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// An image of a registry's, or, without one, of the store on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub registry: Option<RegistryAddress>,
    pub repository: RepositoryName,
    pub version: Version,
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        let (registry, rest) = split_registry(text);
        let (name, version) = match rest.split_once('@') {
            Some((name, digest)) => (name, Version::Digest(digest.parse()?)),
            None => match rest.split_once(':') {
                Some((name, tag)) => (name, Version::Tag(tag.parse()?)),
                None => (rest, Version::Tag(Tag(LATEST.to_owned()))),
            },
        };
        let registry = registry.map(str::parse).transpose()?;
        Ok(Self { registry, repository: name.parse()?, version })
    }
}

/// The first part is a registry where it has a scheme, or could be no part of a name: it has a dot or a port, or is `localhost`.
fn split_registry(text: &str) -> (Option<&str>, &str) {
    let scheme = text.find("://").map_or(0, |at| at + "://".len());
    let Some(slash) = text[scheme..].find('/').map(|at| scheme + at) else {
        return if scheme > 0 { (Some(text), "") } else { (None, text) };
    };
    let first = &text[..slash];
    let is_registry = scheme > 0 || first.contains(['.', ':']) || first == "localhost";
    if is_registry { (Some(first), &text[slash + 1..]) } else { (None, text) }
}

impl TryFrom<String> for RepositoryName {
    type Error = BadReference;

    fn try_from(text: String) -> Result<Self, BadReference> {
        text.parse()
    }
}

impl From<RepositoryName> for String {
    fn from(name: RepositoryName) -> Self {
        name.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{}/", registry.base())?;
        }
        let separator = if self.version.tag().is_some() { ':' } else { '@' };
        write!(f, "{}{separator}{}", self.repository, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        assert_eq!(read("debian"), "debian:latest");
        assert_eq!(read("debian/12:full"), "debian/12:full");
        assert_eq!(read("127.0.0.1:5000/debian"), "http://127.0.0.1:5000/debian:latest");
        assert_eq!(read("localhost/debian"), "http://localhost/debian:latest");
        assert_eq!(read("[::1]:5000/a/b"), "http://[::1]:5000/a/b:latest");
        assert_eq!(read("images.example/debian"), "https://images.example/debian:latest");
        assert_eq!(read("http://images:7080/debian:1"), "http://images:7080/debian:1");
        let digest = Digest::of(b"");
        assert_eq!(read(&format!("debian@{digest}")), format!("debian@{digest}"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(NAME_MAX + 1);
        for wrong in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a b",
            "..",
            "a/..",
            "../a",
            "a/../b",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            "a\\b",
            "a\0",
            "a%2e",
            "a/blobs",
            "blobs/a",
            "a/index.json",
            "oci-layout",
            &long,
        ] {
            assert!(wrong.parse::<RepositoryName>().is_err(), "{wrong:?}");
        }
        for right in ["a", "a/b/c", "a.b_c__d--e", "0"] {
            assert_eq!(right.parse::<RepositoryName>().unwrap().as_str(), right);
        }
    }

    #[test]
    fn what_is_no_tag_digest_or_registry_is_refused() {
        for wrong in [
            "a:",
            "a:.",
            "a:-x",
            "a:x/y",
            "a:x:y",
            "a@",
            "a@x",
            "a@sha256:00",
            "ftp://h/a",
            "http:///a",
            "http://h",
            "h:x/a",
            "h:99999/a",
            "[::g]/a",
            "h.x:1:2/a",
            "u@h.x/a",
        ] {
            assert!(wrong.parse::<Reference>().is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_text_is_it_is_read_and_written_alike_or_refused(text in ".{0,64}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
