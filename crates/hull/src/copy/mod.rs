//! Images from registry to registry, or between a registry and an OCI layout or an archive on the
//! disk: as they are, with all platforms, to the byte, and without any engine.
//!
//! ```text
//!  from ── manifest or index ──▶ children, depth first ──▶ blobs that are not there ──▶ to
//!                                what refers to each (--referrers)
//!  the name last: before it nobody sees a half copy
//! ```
//!
//! What the target has already is not fetched. Each end checks what it gives: a registry by its
//! protocol, a layout by hashing.

mod archive;
mod end;
mod layout;

use std::collections::HashSet;
use std::path::PathBuf;
use std::pin::Pin;

use futures_util::stream::{self, StreamExt};
use hull_model::Digest;
use hull_registry::{Fetched, Referrer};
use hull_storage::image::{Descriptor, INDEX_TYPES, Index, MANIFEST_TYPES, Manifest, Platform};
use serde::Deserialize;
use serde_json::Value;

pub(crate) use end::End;
pub(crate) use layout::{Form, Layout};

/// Indexes in indexes, and referrers of referrers, that are followed.
const DEPTH_MAX: usize = 4;
/// Entries of one index.
const ENTRIES_MAX: usize = 1024;
/// Blobs on their way at the same time.
const BLOBS_AT_ONCE: usize = 3;

/// Why a copy ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error(transparent)]
    Registry(#[from] hull_registry::Error),
    #[error("{step} {path}")]
    File {
        step: &'static str,
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{path} has no image {name:?}; it has {known:?}")]
    NoSuchName {
        path: PathBuf,
        name: String,
        known: Vec<String>,
    },
    #[error("{what} {digest}: {problem}")]
    Malformed {
        what: &'static str,
        digest: Digest,
        problem: String,
    },
    #[error("the archive {path}: {problem}")]
    Archive { path: PathBuf, problem: String },
    #[error("{digest} has nothing for {platform}")]
    NoPlatform { digest: Digest, platform: String },
}

pub(crate) type Result<T> = std::result::Result<T, CopyError>;

/// What is told on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bytes of a blob have gone, of so many.
    Copying(u64, u64),
    /// All of it has.
    Copied,
    /// The target has it.
    AlreadyThere,
    /// The target took it from another of its repositories.
    Mounted,
}

/// What to copy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Only this one; none: all.
    pub(crate) platform: Option<Platform>,
    /// Also signatures, lists of contents and the like.
    pub(crate) referrers: bool,
}

/// A copy on its way.
pub(crate) struct Copy<'a> {
    pub(crate) from: &'a End,
    pub(crate) to: &'a End,
    pub(crate) options: &'a Options,
    pub(crate) tell: &'a (dyn Fn(&Digest, Step) + Sync),
    /// Manifests that the target has by now.
    done: HashSet<Digest>,
}

/// What tells manifest and index apart, whatever the other side says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    media_type: String,
    manifests: Option<serde::de::IgnoredAny>,
    artifact_type: Option<String>,
    subject: Option<Descriptor>,
    config: Option<Descriptor>,
}

impl<'a> Copy<'a> {
    pub(crate) fn new(
        from: &'a End,
        to: &'a End,
        options: &'a Options,
        tell: &'a (dyn Fn(&Digest, Step) + Sync),
    ) -> Self {
        let done = HashSet::new();
        Self {
            from,
            to,
            options,
            tell,
            done,
        }
    }

    /// Copies all, and gives it its name at the end; returns the digest of what has the name now.
    pub(crate) async fn run(mut self) -> Result<Digest> {
        let mut top = self.from.named().await?;
        let only = match self.to.is_of_one() {
            true => Some(self.options.platform.clone().unwrap_or_else(Platform::host)),
            false => self.options.platform.clone(),
        };
        if let Some(platform) = only {
            top = self.choose(top, &platform).await?;
        }
        self.children(&top, 0).await?;
        self.to.name(&top.bytes, &media_type(&top)?).await?;
        self.done.insert(top.digest);
        if self.options.referrers {
            let subjects: Vec<Digest> = self.done.iter().copied().collect();
            for subject in subjects {
                self.referrers(&subject, 0).await?;
            }
        }
        self.to.finish()?;
        Ok(top.digest)
    }

    /// Copies a manifest with all that it names, without a name for it.
    pub(crate) async fn only(mut self, digest: &Digest) -> Result<()> {
        self.whole(digest, 0).await
    }

    async fn choose(&self, top: Fetched, platform: &Platform) -> Result<Fetched> {
        let (mut fetched, wanted) = (top, platform);
        for _ in 0..DEPTH_MAX {
            if shape(&fetched)?.manifests.is_none() {
                break;
            }
            let digest = fetched.digest;
            let index = index(&fetched)?;
            let mut entries = index.manifests.into_iter();
            let fits = |entry: &Descriptor| {
                let given = entry.platform.as_ref();
                given.is_none_or(|p| wanted.is_met_by(&p.os, &p.architecture, &p.variant))
            };
            let platform = platform.to_string();
            let chosen = entries.find(fits);
            let chosen = chosen.ok_or(CopyError::NoPlatform { digest, platform })?;
            fetched = self.from.manifest(&chosen.digest).await?;
        }
        Ok(fetched)
    }

    /// Brings over what a manifest or index names.
    fn children<'b>(
        &'b mut self,
        fetched: &'b Fetched,
        depth: usize,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + 'b>> {
        Box::pin(async move {
            if depth > DEPTH_MAX {
                let problem = format!("it leads through more than {DEPTH_MAX} indexes");
                return Err(malformed("index", fetched.digest, problem));
            }
            if shape(fetched)?.manifests.is_none() {
                return self.blobs(fetched).await;
            }
            for entry in index(fetched)?.manifests {
                self.whole(&entry.digest, depth + 1).await?;
            }
            Ok(())
        })
    }

    /// Brings over a manifest with all that it names; nothing where the target has it.
    async fn whole(&mut self, digest: &Digest, depth: usize) -> Result<()> {
        if self.done.contains(digest) {
            return Ok(());
        }
        if !self.to.has_manifest(digest).await? {
            let child = self.from.manifest(digest).await?;
            self.children(&child, depth).await?;
            let kind = media_type(&child)?;
            self.to.put_manifest(&child.bytes, &kind).await?;
        }
        self.done.insert(*digest);
        Ok(())
    }

    async fn blobs(&self, fetched: &Fetched) -> Result<()> {
        let manifest: Manifest = serde_json::from_slice(&fetched.bytes)
            .map_err(|cause| malformed("manifest", fetched.digest, cause.to_string()))?;
        let all = std::iter::once(&manifest.config).chain(&manifest.layers);
        // What has an address of its own is fetched from there by whoever runs it.
        let elsewhere = |part: &Descriptor| {
            let urls = part.other.get("urls").and_then(Value::as_array);
            urls.is_some_and(|urls| !urls.is_empty())
        };
        let mut seen = HashSet::new();
        let wanted: Vec<Descriptor> = all
            .filter(|part| !elsewhere(part) && seen.insert(part.digest))
            .cloned()
            .collect();
        let copies: Vec<_> = wanted.iter().map(|part| self.blob(part)).collect();
        let mut copies = stream::iter(copies).buffer_unordered(BLOBS_AT_ONCE);
        while let Some(copied) = copies.next().await {
            copied?;
        }
        Ok(())
    }

    async fn blob(&self, part: &Descriptor) -> Result<()> {
        let step = match self.to.has_blob(part).await? {
            true => Step::AlreadyThere,
            false => self.to.take_blob(part, self.from, self.tell).await?,
        };
        (self.tell)(&part.digest, step);
        Ok(())
    }

    /// Brings over what refers to a manifest.
    fn referrers<'b>(
        &'b mut self,
        subject: &'b Digest,
        depth: usize,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + 'b>> {
        Box::pin(async move {
            let listed = self.from.referrers(subject).await?;
            for tag in hull_registry::cosign_tags(subject) {
                if let Some(fetched) = self.from.tagged(&tag).await? {
                    self.children(&fetched, 0).await?;
                    let kind = media_type(&fetched)?;
                    self.to.tag(&tag, &fetched.bytes, &kind).await?;
                }
            }
            for entry in listed {
                if depth >= DEPTH_MAX || self.done.contains(&entry.digest) {
                    continue;
                }
                let fetched = self.from.manifest(&entry.digest).await?;
                self.children(&fetched, 0).await?;
                let referrer = describe(&fetched)?;
                self.to.put_referrer(&referrer, &fetched.bytes).await?;
                self.done.insert(entry.digest);
                self.referrers(&entry.digest, depth + 1).await?;
            }
            Ok(())
        })
    }
}

/// What a manifest is, as the one says that refers to another.
fn describe(fetched: &Fetched) -> Result<Referrer> {
    let shape = shape(fetched)?;
    let config = shape.config.map(|config| config.media_type);
    Ok(Referrer {
        media_type: media_type(fetched)?,
        digest: fetched.digest,
        size: fetched.bytes.len() as u64,
        artifact_type: shape.artifact_type.or(config).unwrap_or_default(),
        subject: shape.subject.map(|subject| subject.digest),
    })
}

fn malformed(what: &'static str, digest: Digest, problem: String) -> CopyError {
    CopyError::Malformed {
        what,
        digest,
        problem,
    }
}

fn shape(fetched: &Fetched) -> Result<Shape> {
    serde_json::from_slice(&fetched.bytes)
        .map_err(|cause| malformed("manifest", fetched.digest, cause.to_string()))
}

/// The index, within its limit.
pub(crate) fn index(fetched: &Fetched) -> Result<Index> {
    let index: Index = serde_json::from_slice(&fetched.bytes)
        .map_err(|cause| malformed("index", fetched.digest, cause.to_string()))?;
    if index.manifests.len() > ENTRIES_MAX {
        let problem = format!("it has more than {ENTRIES_MAX} entries");
        return Err(malformed("index", fetched.digest, problem));
    }
    Ok(index)
}

/// Whether it is an index.
pub(crate) fn is_index(fetched: &Fetched) -> Result<bool> {
    Ok(shape(fetched)?.manifests.is_some())
}

/// What a document says that it is, or else what the registry says.
pub(crate) fn media_type(fetched: &Fetched) -> Result<String> {
    let shape = shape(fetched)?;
    let usual = match shape.manifests {
        Some(_) => INDEX_TYPES[0],
        None => MANIFEST_TYPES[0],
    };
    let own = Some(shape.media_type).filter(|own| !own.is_empty());
    let said = || Some(fetched.media_type.clone()).filter(|said| said.contains("json"));
    Ok(own.or_else(said).unwrap_or_else(|| usual.to_owned()))
}
