//! Names of images as people type them and as registries want them.
//!
//! The grammar is that of `distribution/reference`: `[domain[:port]/]path[:tag][@digest]`. What
//! people leave out is filled in: `busybox` is `docker.io/library/busybox`.

use std::fmt;
use std::str::FromStr;

use hull_model::Digest;

use crate::error::Error;

/// Where names without a domain live.
const DEFAULT_DOMAIN: &str = "docker.io";
/// An older name of the same place.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Where names without a folder live on the default domain.
const OFFICIAL_PREFIX: &str = "library/";
/// The tag that is meant when there is none.
const DEFAULT_TAG: &str = "latest";
/// Length of domain and path together, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Length of a tag, in bytes.
pub const TAG_BYTES_MAX: usize = 128;

/// What is wrong with a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceFault {
    /// Not of the grammar.
    #[error("invalid reference format")]
    Format,
    /// Upper case in the path.
    #[error("repository name must be lowercase")]
    Uppercase,
    /// Too long.
    #[error("repository name must not be more than {NAME_BYTES_MAX} characters")]
    TooLong,
    /// 64 hex digits are an image id, never a name.
    #[error("cannot specify 64-byte hexadecimal strings")]
    Identifier,
    /// A digest that is malformed or not SHA-256.
    #[error("the digest is not of the form sha256:<64 hex digits>")]
    Digest,
}

/// A name of an image in its full form, perhaps with a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry, with its port.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository at that registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest, if there is one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Domain and path, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The same with the tag `latest` when there is neither tag nor digest.
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with this digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    /// `InvalidArgument` when it is not a tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, Error> {
        if !is_tag(tag) {
            let cause = ReferenceFault::Format;
            return Err(Error::Reference {
                text: tag.to_owned(),
                cause,
            });
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The repository in the short form that people type.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        let short = self
            .path
            .strip_prefix(OFFICIAL_PREFIX)
            .filter(|rest| !rest.contains('/'));
        let short = short.unwrap_or(&self.path);
        // A folder that looks like a domain would be read as one.
        match split_domain(short) {
            (DEFAULT_DOMAIN, path) if path == short => short.to_owned(),
            _ => self.name(),
        }
    }

    /// The whole in the short form that people type.
    pub fn familiar(&self) -> String {
        self.familiar_name() + &self.suffix()
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}"));
        let digest = self.digest.map(|digest| format!("@{digest}"));
        tag.unwrap_or_default() + &digest.unwrap_or_default()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|cause| Error::Reference {
            text: text.to_owned(),
            cause,
        })
    }
}

fn parse(text: &str) -> Result<Reference, ReferenceFault> {
    if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(ReferenceFault::Identifier);
    }
    let (rest, digest) = match text.split_once('@') {
        None => (text, None),
        Some((rest, digest)) => (
            rest,
            Some(digest.parse().map_err(|_| ReferenceFault::Digest)?),
        ),
    };
    let (domain, rest) = split_domain(rest);
    // Only what follows the last slash can be a tag: the domain may have a port.
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (rest, None),
    };
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ReferenceFault::Uppercase);
    }
    let path = match domain == DEFAULT_DOMAIN && !path.contains('/') {
        true => format!("{OFFICIAL_PREFIX}{path}"),
        false => path.to_owned(),
    };
    let valid = is_domain(domain) && path.split('/').all(is_path_component);
    if !valid || tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(ReferenceFault::Format);
    }
    if domain.len() + 1 + path.len() > NAME_BYTES_MAX {
        return Err(ReferenceFault::TooLong);
    }
    Ok(Reference {
        domain: domain.to_owned(),
        path,
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// What comes before the first slash is a domain if it looks like one.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(address) = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        let valid = |b: u8| b.is_ascii_hexdigit() || b == b':';
        return !address.is_empty() && address.bytes().all(valid);
    }
    host.split('.').all(|component| {
        let bytes = component.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        edge(bytes.first())
            && edge(bytes.last())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    })
}

/// Lower case letters and digits, joined by one of `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let edges = component.starts_with(alphanumeric) && component.ends_with(alphanumeric);
    edges
        && component.split(alphanumeric).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=TAG_BYTES_MAX).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_become_full_ones_and_short_again() {
        let check = |text: &str, full: &str, familiar: &str| {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(familiar.parse::<Reference>().unwrap(), reference, "{text}");
            assert_eq!(full.parse::<Reference>().unwrap(), reference, "{text}");
        };
        let digest = format!("sha256:{}", "ab".repeat(32));
        check("busybox", "docker.io/library/busybox", "busybox");
        check(
            "busybox:1.36",
            "docker.io/library/busybox:1.36",
            "busybox:1.36",
        );
        check("a/b", "docker.io/a/b", "a/b");
        check("library/a/b", "docker.io/library/a/b", "library/a/b");
        check("docker.io/nginx", "docker.io/library/nginx", "nginx");
        check("index.docker.io/nginx", "docker.io/library/nginx", "nginx");
        let folder = "docker.io/docker.io/a/b";
        check(folder, folder, folder);
        check("localhost/x", "localhost/x", "localhost/x");
        check(
            "localhost:5000/x:y",
            "localhost:5000/x:y",
            "localhost:5000/x:y",
        );
        check(
            "ghcr.io/a/b/c:V1.0_x-y",
            "ghcr.io/a/b/c:V1.0_x-y",
            "ghcr.io/a/b/c:V1.0_x-y",
        );
        check("[fd00::1]:5000/x", "[fd00::1]:5000/x", "[fd00::1]:5000/x");
        check("Upper/x", "Upper/x", "Upper/x");
        check("a__b/c---d.e", "docker.io/a__b/c---d.e", "a__b/c---d.e");
        let pinned = format!("busybox:1@{digest}");
        check(&pinned, &format!("docker.io/library/{pinned}"), &pinned);
        let id = "ab".repeat(32);
        check(
            &format!("{id}/x"),
            &format!("docker.io/{id}/x"),
            &format!("{id}/x"),
        );
    }

    #[test]
    fn what_is_no_reference_is_refused_with_a_reason() {
        let check = |text: &str, fault| assert_eq!(parse(text), Err(fault), "{text}");
        for text in [
            "",
            ":tag",
            "a:",
            "a:-x",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a:b:c",
            "host.:5000/a",
            "h.io:x/a",
            "-h.io/a",
            "a b",
            "ä",
            "[::g]:1/a",
            "a._b",
        ] {
            check(text, ReferenceFault::Format);
        }
        check("Busybox", ReferenceFault::Uppercase);
        check("a/B", ReferenceFault::Uppercase);
        check("a@sha256:12", ReferenceFault::Digest);
        check(&"ab".repeat(32), ReferenceFault::Identifier);
        check(&"a".repeat(300), ReferenceFault::TooLong);
        check(&format!("a:{}", "t".repeat(129)), ReferenceFault::Format);
    }

    #[test]
    fn a_default_tag_is_only_for_what_has_neither_tag_nor_digest() {
        let reference: Reference = "busybox".parse().unwrap();
        assert_eq!(
            reference.clone().with_default_tag().familiar(),
            "busybox:latest"
        );
        let pinned = reference.with_digest(Digest::from_bytes([0; 32]));
        assert_eq!(pinned.clone().with_default_tag(), pinned);
    }
}
