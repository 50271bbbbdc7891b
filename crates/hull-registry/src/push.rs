//! Writing to a repository: blobs and manifests.
//!
//! ```text
//!  POST uploads ──▶ place ──▶ small: PUT with the bytes
//!                             big:   PATCH with the bytes ──▶ broken? GET place, PATCH the rest
//!                                    PUT without bytes
//! ```

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hull_model::Digest;
use hyper::body::{Frame, Incoming};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::connection::RequestBody;
use crate::error::{Error, Result};
use crate::fetch::{MANIFEST_TYPES, nobody};
use crate::registry::{ATTEMPTS_MAX, Ask, Repository, Server, backoff, good, request};
use crate::stream::Pieces;
use crate::url::Url;

/// A blob of so many bytes is sent in a way that can be gone on with.
const RESUMABLE_BYTES_MIN: u64 = 4 << 20;

/// What a registry says that knows referrers.
const SUBJECT: &str = "oci-subject";

/// Points to a manifest that refers to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What is attached by it: a signature, a list of contents.
    pub artifact_type: String,
    /// What it refers to; none: it is found by the index that names it.
    pub subject: Option<Digest>,
}

/// The index under the tag that older registries have instead of a list.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Referrers {
    schema_version: u32,
    media_type: String,
    manifests: Vec<Value>,
}

impl Default for Referrers {
    fn default() -> Self {
        Self {
            schema_version: 2,
            media_type: MANIFEST_TYPES[0].to_owned(),
            manifests: Vec::new(),
        }
    }
}

impl Referrers {
    /// Names one more; says whether it was not there.
    fn name(&mut self, referrer: &Referrer) -> bool {
        let digest = Value::String(referrer.digest.to_string());
        if self
            .manifests
            .iter()
            .any(|m| m.get("digest") == Some(&digest))
        {
            return false;
        }
        let mut entry = json!({
            "mediaType": referrer.media_type,
            "digest": digest,
            "size": referrer.size,
        });
        if !referrer.artifact_type.is_empty() {
            entry["artifactType"] = Value::String(referrer.artifact_type.clone());
        }
        self.manifests.push(entry);
        true
    }
}

/// Gives the bytes of a blob from an offset on; may be called again after a broken upload.
pub type Source = Arc<dyn Fn(u64) -> Pieces + Send + Sync>;

/// What became of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uploaded {
    /// It was sent.
    Sent,
    /// The registry took it from another of its repositories.
    Mounted,
}

impl Repository {
    /// Brings a blob in; from the repository `mount_from` of the same registry, where that is given
    /// and the registry can. `sent` is told how many bytes have gone, in all.
    ///
    /// # Errors
    /// `Denied`, `Unauthenticated`, or what the source says.
    pub async fn upload(
        &self,
        digest: &Digest,
        size: u64,
        mount_from: Option<&str>,
        source: &Source,
        sent: &Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<Uploaded> {
        let server = self.servers().last().ok_or_else(nobody)?;
        let scope = match mount_from {
            Some(from) => format!("{} repository:{from}:pull", self.scope),
            None => self.scope.clone(),
        };
        let mut upload = Upload {
            repository: self,
            server,
            scope,
            digest,
            size,
            source,
            sent,
        };
        let mut attempt = 1;
        if let Some(from) = mount_from {
            match upload.run(Some(from)).await {
                // Not allowed to read there: then the bytes are sent.
                Err(Error::Refused { .. }) => upload.scope.clone_from(&self.scope),
                Err(error) if error.is_transient() => {}
                done => return done,
            }
        }
        loop {
            let failure = match upload.run(None).await {
                Err(error) if error.is_transient() && attempt < ATTEMPTS_MAX => error,
                done => return done,
            };
            tracing::debug!(%digest, attempt, %failure, "sending a blob again");
            tokio::time::sleep(backoff(attempt)).await;
            attempt += 1;
        }
    }

    /// Brings in a blob that is at hand.
    ///
    /// # Errors
    /// As [`Repository::upload`].
    pub async fn put_blob(&self, digest: &Digest, bytes: Bytes) -> Result<Uploaded> {
        let size = bytes.len() as u64;
        let source: Source = Arc::new(move |offset| {
            let (sender, pieces) = mpsc::channel(1);
            let from = usize::try_from(offset)
                .unwrap_or(bytes.len())
                .min(bytes.len());
            // There is a place for it, and whoever reads it holds the other end.
            let _ = sender.try_send(Ok(bytes.slice(from..)));
            pieces
        });
        let unseen: Arc<dyn Fn(u64) + Send + Sync> = Arc::new(|_| {});
        self.upload(digest, size, None, &source, &unseen).await
    }

    /// Stores a manifest that refers to another one, so that both registries that list referrers
    /// themselves and older ones, by a tag made of the digest, know of it.
    ///
    /// # Errors
    /// As [`Repository::put_manifest`].
    pub async fn put_referrer(&self, referrer: &Referrer, bytes: Bytes) -> Result<()> {
        let digest = referrer.digest.to_string();
        let kind = &referrer.media_type;
        let known = self.put_manifest(&digest, kind, bytes).await?;
        let Some(subject) = referrer.subject.filter(|_| !known) else {
            return Ok(());
        };
        let tag = format!("sha256-{}", subject.hex());
        let mut index = match self.manifest(&tag).await {
            Ok(fetched) => serde_json::from_slice(&fetched.bytes).unwrap_or_default(),
            Err(Error::Refused { .. }) => Referrers::default(),
            Err(error) => return Err(error),
        };
        if !index.name(referrer) {
            return Ok(());
        }
        let index = serde_json::to_vec(&index).unwrap_or_default();
        let put = self.put_manifest(&tag, MANIFEST_TYPES[0], Bytes::from(index));
        put.await.map(drop)
    }

    /// Stores a manifest or index under a tag or its digest; says whether the registry will list it
    /// among the referrers of what it refers to.
    ///
    /// # Errors
    /// `Denied`, `Unauthenticated`, or what the registry has against it.
    pub async fn put_manifest(&self, reference: &str, kind: &str, bytes: Bytes) -> Result<bool> {
        let server = self.servers().last().ok_or_else(nobody)?;
        let url = self.url(server, &format!("manifests/{reference}")).await?;
        let mut ask = Ask::new(Method::PUT, url, &self.scope).header(CONTENT_TYPE, kind);
        ask.body = bytes;
        let mut attempt = 1;
        loop {
            let put = async {
                let response = self.inner.client.ask(Some(server), &ask).await?;
                let response = good(response, &ask).await?;
                Ok::<_, Error>(response.headers().contains_key(SUBJECT))
            };
            match put.await {
                // The same bytes under the same name: twice is once.
                Err(error) if error.is_transient() && attempt < ATTEMPTS_MAX => {
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                done => return done,
            }
        }
    }
}

/// One blob on its way.
struct Upload<'a> {
    repository: &'a Repository,
    server: &'a Server,
    scope: String,
    digest: &'a Digest,
    size: u64,
    source: &'a Source,
    sent: &'a Arc<dyn Fn(u64) + Send + Sync>,
}

impl Upload<'_> {
    async fn run(&self, mount_from: Option<&str>) -> Result<Uploaded> {
        let digest = self.digest.to_string();
        let mut url = self.repository.url(self.server, "blobs/uploads/").await?;
        if let Some(from) = mount_from {
            url = url.with_query("mount", &digest).with_query("from", from);
        }
        let ask = Ask::new(Method::POST, url, &self.scope).header(CONTENT_LENGTH, "0");
        let response = self
            .repository
            .inner
            .client
            .ask(Some(self.server), &ask)
            .await?;
        let response = good(response, &ask).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(Uploaded::Mounted);
        }
        let place = place(&response, &ask)?;
        if self.size < RESUMABLE_BYTES_MIN {
            let url = place.with_query("digest", &digest);
            self.send(Method::PUT, url, 0).await?;
        } else {
            let place = self.patch(place).await?;
            let url = place.with_query("digest", &digest);
            let ask = Ask::new(Method::PUT, url, &self.scope);
            let ask = ask.header(CONTENT_LENGTH, "0");
            let response = self
                .repository
                .inner
                .client
                .ask(Some(self.server), &ask)
                .await?;
            good(response, &ask).await?;
        }
        Ok(Uploaded::Sent)
    }

    /// Sends all bytes, in several goes if need be; returns where the upload is to be finished.
    async fn patch(&self, mut place: Url) -> Result<Url> {
        let mut at = 0;
        let mut attempt = 1;
        loop {
            let failure = match self.send(Method::PATCH, place.clone(), at).await {
                Ok(response) => {
                    let ask = Ask::new(Method::PATCH, place, &self.scope);
                    return self::place(&response, &ask);
                }
                Err(error) if error.is_transient() && attempt < ATTEMPTS_MAX => error,
                Err(error) => return Err(error),
            };
            tokio::time::sleep(backoff(attempt)).await;
            // Without an answer to this the whole blob is sent again, by the caller.
            let (next, there) = self.status(&place).await.map_err(|_| failure)?;
            if there > self.size {
                return Err(Error::Malformed {
                    what: "the state of the upload",
                    url: place.to_string(),
                    problem: format!("{there} bytes of {}", self.size),
                });
            }
            attempt = if there > at { 1 } else { attempt + 1 };
            tracing::debug!(digest = %self.digest, there, "going on after a broken upload");
            (place, at) = (next, there);
            if at == self.size {
                return Ok(place);
            }
        }
    }

    /// Where an upload goes on, and how many bytes the registry has of it.
    async fn status(&self, place: &Url) -> Result<(Url, u64)> {
        let ask = Ask::new(Method::GET, place.clone(), &self.scope);
        let response = self
            .repository
            .inner
            .client
            .ask(Some(self.server), &ask)
            .await?;
        let response = good(response, &ask).await?;
        let range = response
            .headers()
            .get(RANGE)
            .and_then(|value| value.to_str().ok());
        let last = range
            .and_then(|range| range.rsplit_once('-'))
            .and_then(|(_, last)| last.parse().ok());
        // `0-0` is what an upload without any byte says too.
        let there = last.map_or(0, |last: u64| if last == 0 { 0 } else { last + 1 });
        Ok((
            self::place(&response, &ask).unwrap_or_else(|_| place.clone()),
            there,
        ))
    }

    /// Sends the bytes from an offset on, once.
    async fn send(&self, method: Method, url: Url, from: u64) -> Result<Response<Incoming>> {
        let mut ask = Ask::new(method, url, &self.scope)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, &(self.size - from).to_string());
        if from > 0 {
            ask = ask.header(CONTENT_RANGE, &format!("{from}-{}", self.size - 1));
        }
        let own = Some(self.server).filter(|server| {
            server
                .endpoint
                .bases
                .iter()
                .any(|base| base.origin == ask.url.origin)
        });
        let request = request(&ask, own, &ask.url.origin, self.body(from));
        let connections = &self.repository.inner.client.connections;
        let response = connections.send(ask.go_method(), &ask.url, request).await?;
        good(response, &ask).await
    }

    fn body(&self, from: u64) -> RequestBody {
        let state = ((self.source)(from), from, self.sent.clone());
        let frames = stream::unfold(Some(state), |state| async move {
            let (mut pieces, at, sent) = state?;
            match pieces.recv().await? {
                Ok(bytes) => {
                    let at = at + bytes.len() as u64;
                    sent(at);
                    Some((Ok(Frame::data(bytes)), Some((pieces, at, sent))))
                }
                Err(error) => Some((Err(io::Error::other(error)), None)),
            }
        });
        BodyExt::boxed_unsync(StreamBody::new(frames))
    }
}

/// Where the upload goes on.
fn place(response: &Response<Incoming>, ask: &Ask<'_>) -> Result<Url> {
    let location = response
        .headers()
        .get(LOCATION)
        .and_then(|value| value.to_str().ok());
    let url = location.and_then(|location| ask.url.join(location));
    let malformed = |problem: &str| Error::Malformed {
        what: "the place of the upload",
        url: ask.url.to_string(),
        problem: problem.to_owned(),
    };
    let url = url.ok_or_else(|| malformed("it is missing, or no address"))?;
    if ask.url.origin.tls && !url.origin.tls {
        return Err(malformed("it leads away from TLS"));
    }
    Ok(url)
}
