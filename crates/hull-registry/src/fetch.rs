//! Reading from a repository: manifests, tags, blobs, referrers.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, LINK};
use http::{Method, StatusCode};
use hull_model::Digest;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::registry::{Ask, Repository, Server, good};
use crate::stream::{BlobStream, Download};

/// What we take for a manifest, the best first.
pub const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// Bytes of one manifest or index, as registries limit them.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Tags of one repository that are listed.
pub const TAGS_MAX: usize = 100_000;
/// Tags that are asked for at once.
const TAGS_PER_PAGE: &str = "1000";
/// Bytes of one page of tags.
const TAGS_BYTES_MAX: u64 = 4 << 20;

/// A manifest or index as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its bytes; their digest is `digest`.
    pub bytes: Bytes,
    /// What the registry says it is; empty: nothing.
    pub media_type: String,
    /// The digest of the bytes.
    pub digest: Digest,
}

/// The tags under which cosign keeps a manifest's signatures, attestations and lists of contents in a
/// registry that is not asked for referrers.
pub fn cosign_tags(manifest: &Digest) -> [String; 3] {
    ["sig", "att", "sbom"].map(|kind| format!("sha256-{}.{kind}", manifest.hex()))
}

#[derive(Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
}

impl Repository {
    /// A manifest or index by tag or digest.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` when the bytes are not those of the digest.
    pub async fn manifest(&self, reference: &str) -> Result<Fetched> {
        let digest = reference.parse::<Digest>().ok();
        let mut failure = None;
        for server in self.servers() {
            if digest.is_none() && !server.endpoint.resolves {
                continue;
            }
            match self.manifest_at(server, reference, digest).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => remember(&mut failure, server, error),
            }
        }
        Err(failure.unwrap_or_else(nobody))
    }

    async fn manifest_at(
        &self,
        server: &Server,
        reference: &str,
        expected: Option<Digest>,
    ) -> Result<Fetched> {
        let url = self.url(server, &format!("manifests/{reference}")).await?;
        let ask =
            Ask::new(Method::GET, url, &self.scope).header(ACCEPT, &MANIFEST_TYPES.join(", "));
        let client = &self.inner.client;
        const WHAT: &str = "the manifest";
        let document = client
            .document_of(Some(server), &ask, MANIFEST_BYTES_MAX, WHAT)
            .await?;
        let digest = Digest::from_bytes(Sha256::digest(&document.bytes).into());
        match expected {
            Some(expected) if expected != digest => Err(Error::WrongDigest {
                what: "manifest",
                expected,
                actual: digest,
            }),
            _ => {
                // Says in clear words when something else came.
                document.json::<serde::de::IgnoredAny>(WHAT)?;
                let media_type = document.media_type().to_owned();
                Ok(Fetched {
                    bytes: document.bytes,
                    media_type,
                    digest,
                })
            }
        }
    }

    /// All tags, in the order of the registry.
    ///
    /// # Errors
    /// `NotFound` when there is no such repository.
    pub async fn tags(&self) -> Result<Vec<String>> {
        let mut failure = None;
        for server in self.servers() {
            match self.tags_at(server).await {
                Ok(tags) => return Ok(tags),
                Err(error) => remember(&mut failure, server, error),
            }
        }
        Err(failure.unwrap_or_else(nobody))
    }

    async fn tags_at(&self, server: &Server) -> Result<Vec<String>> {
        let mut url = self
            .url(server, "tags/list")
            .await?
            .with_query("n", TAGS_PER_PAGE);
        let mut all: Vec<String> = Vec::new();
        loop {
            let ask = Ask::new(Method::GET, url.clone(), &self.scope);
            let client = &self.inner.client;
            let page = client
                .document_of(Some(server), &ask, TAGS_BYTES_MAX, "the tags")
                .await?;
            let tags = page.json::<Tags>("the tags")?.tags.unwrap_or_default();
            let empty = tags.is_empty();
            all.extend(tags);
            if all.len() > TAGS_MAX {
                let limit = TAGS_MAX as u64;
                return Err(Error::Limit {
                    what: "the repository",
                    limit,
                    unit: "tags",
                });
            }
            let link = page.headers.get(LINK).and_then(|link| link.to_str().ok());
            match link.and_then(next_page).and_then(|next| url.join(next)) {
                // Only there: the token is for it.
                Some(next) if next.origin == url.origin && next != url && !empty => url = next,
                _ => return Ok(all),
            }
        }
    }

    /// The bytes of a blob from an offset on. Nobody has checked them yet.
    ///
    /// # Errors
    /// `NotFound`; what happens later comes with the pieces.
    pub async fn blob(&self, digest: &Digest, size: u64, offset: u64) -> Result<BlobStream> {
        let mut failure = None;
        for (at, server) in self.inner.servers.iter().enumerate() {
            let url = match self.url(server, &format!("blobs/{digest}")).await {
                Ok(url) => url,
                Err(error) => {
                    remember(&mut failure, server, error);
                    continue;
                }
            };
            let download = Download {
                inner: self.inner.clone(),
                server: at,
                scope: self.scope.clone(),
                url,
                size,
            };
            match BlobStream::open(download, offset).await {
                Ok(stream) => return Ok(stream),
                Err(error) => remember(&mut failure, server, error),
            }
        }
        Err(failure.unwrap_or_else(nobody))
    }

    /// Whether a blob is there, at the registry itself.
    ///
    /// # Errors
    /// When the registry does not say.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        self.has(&format!("blobs/{digest}"))
            .await
            .map(|head| head.is_some())
    }

    /// Whether a manifest is there, at the registry itself.
    ///
    /// # Errors
    /// When the registry does not say.
    pub async fn has_manifest(&self, reference: &str) -> Result<bool> {
        self.has(&format!("manifests/{reference}"))
            .await
            .map(|head| head.is_some())
    }

    async fn has(&self, rest: &str) -> Result<Option<u64>> {
        let server = self.servers().last().ok_or_else(nobody)?;
        self.has_at(server, rest).await
    }

    async fn has_at(&self, server: &Server, rest: &str) -> Result<Option<u64>> {
        let ask = Ask::new(Method::HEAD, self.url(server, rest).await?, &self.scope)
            .header(ACCEPT, &MANIFEST_TYPES.join(", "));
        let response = self.inner.client.ask(Some(server), &ask).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = good(response, &ask).await?;
        let length = response
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok());
        Ok(Some(
            length
                .and_then(|length| length.parse().ok())
                .unwrap_or_default(),
        ))
    }

    /// Whether a tag is there: by the first server that answers, so that nobody waits for a registry
    /// that is only reached through its mirrors.
    ///
    /// # Errors
    /// When none of them says.
    pub async fn has_tag(&self, tag: &str) -> Result<bool> {
        let mut failure = None;
        for server in self.servers().filter(|one| one.endpoint.resolves) {
            match self.has_at(server, &format!("manifests/{tag}")).await {
                Ok(found) => return Ok(found.is_some()),
                Err(error) => remember(&mut failure, server, error),
            }
        }
        Err(failure.unwrap_or_else(nobody))
    }

    /// What refers to a manifest (signatures, lists of contents), as an index; none when the first
    /// server that answers knows of nothing.
    ///
    /// # Errors
    /// When none of them says.
    pub async fn referrers(&self, digest: &Digest) -> Result<Option<Fetched>> {
        let mut failure = None;
        for server in self.servers().filter(|one| one.endpoint.resolves) {
            match self.referrers_at(server, digest).await {
                Ok(found) => return Ok(found),
                Err(error) => remember(&mut failure, server, error),
            }
        }
        Err(failure.unwrap_or_else(nobody))
    }

    async fn referrers_at(&self, server: &Server, digest: &Digest) -> Result<Option<Fetched>> {
        let url = self.url(server, &format!("referrers/{digest}")).await?;
        let ask = Ask::new(Method::GET, url, &self.scope).header(ACCEPT, MANIFEST_TYPES[0]);
        let client = &self.inner.client;
        let got = client
            .document_of(Some(server), &ask, MANIFEST_BYTES_MAX, "the referrers")
            .await;
        let got = match got {
            Ok(document) if document.media_type() == MANIFEST_TYPES[0] => Ok(Fetched {
                digest: Digest::from_bytes(Sha256::digest(&document.bytes).into()),
                media_type: MANIFEST_TYPES[0].to_owned(),
                bytes: document.bytes,
            }),
            // A registry of before 1.1 has them, if at all, under a tag made of the digest.
            Ok(_) | Err(Error::Refused { .. }) => {
                let tag = format!("sha256-{}", digest.hex());
                self.manifest_at(server, &tag, None).await
            }
            Err(error) => Err(error),
        };
        match got {
            Ok(fetched) => Ok(Some(fetched)),
            Err(Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Keeps the failure that people should hear of: the registry's own rather than a mirror's.
fn remember(failure: &mut Option<Error>, server: &Server, error: Error) {
    if server.endpoint.mirror {
        let base = &server.endpoint.bases[0];
        tracing::info!(mirror = %base, %error, "a mirror does not help");
        failure.get_or_insert(error);
    } else {
        *failure = Some(error);
    }
}

pub(crate) fn nobody() -> Error {
    Error::Unsupported("there is no server to ask".to_owned())
}

/// Where `Link` says that the next page is.
fn next_page(link: &str) -> Option<&str> {
    let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then_some(address)
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

    use super::*;

    #[test]
    fn the_next_page_is_found() {
        let check = |link, expected| assert_eq!(next_page(link), expected, "{link}");
        check(
            "</v2/a/tags/list?n=1&last=x>; rel=\"next\"",
            Some("/v2/a/tags/list?n=1&last=x"),
        );
        check("</v2/a>; rel=\"prev\"", None);
        check("nonsense", None);
    }

    #[test]
    fn a_media_type_header_is_read_without_its_parameters() {
        let mut headers = http::HeaderMap::new();
        headers.insert(CONTENT_TYPE, "text/html; charset=x".parse().expect("valid"));
        let (url, bytes) = (String::new(), Bytes::from_static(b"<html>"));
        let document = crate::registry::Document {
            url,
            headers,
            bytes,
        };
        let error = document
            .json::<serde::de::IgnoredAny>("the manifest")
            .expect_err("no JSON");
        assert!(error.to_string().contains("a web page came"), "{error}");
    }
}
