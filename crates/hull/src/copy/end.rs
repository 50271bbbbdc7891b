//! Where images come from and go to: a repository of a registry, or a layout (a folder, an archive).

use std::sync::Arc;

use bytes::Bytes;
use hull_model::Digest;
use hull_registry::{Error, Fetched, Pieces, Referrer, Repository, Source, Uploaded};
use hull_storage::image::{Descriptor, Index};
use tokio::sync::mpsc;

use super::{CopyError, Layout, Result, Step};

/// One of the two sides.
#[derive(Debug)]
pub(crate) enum End {
    /// A repository, and the tag or digest in it.
    Registry {
        repository: Repository,
        /// The registry.
        domain: String,
        /// The repository's path.
        path: String,
        tag: String,
    },
    /// A layout, and the name in it; empty: the only one.
    Layout { layout: Layout, name: String },
}

impl End {
    /// What the name stands for.
    pub(super) async fn named(&self) -> Result<Fetched> {
        match self {
            End::Registry {
                repository, tag, ..
            } => Ok(repository.manifest(tag).await?),
            End::Layout { layout, name } => layout.named(name),
        }
    }

    pub(super) async fn manifest(&self, digest: &Digest) -> Result<Fetched> {
        match self {
            End::Registry { repository, .. } => {
                Ok(repository.manifest(&digest.to_string()).await?)
            }
            End::Layout { layout, .. } => layout.manifest(digest),
        }
    }

    /// What is under another tag; none: nothing.
    pub(super) async fn tagged(&self, tag: &str) -> Result<Option<Fetched>> {
        match self {
            End::Registry { repository, .. } => match repository.manifest(tag).await {
                Ok(fetched) => Ok(Some(fetched)),
                Err(Error::Refused { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
            End::Layout { layout, .. } => match layout.named(tag) {
                Ok(fetched) => Ok(Some(fetched)),
                Err(CopyError::NoSuchName { .. }) => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    pub(super) async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        match self {
            End::Registry { repository, .. } => {
                let Some(listed) = repository.referrers(subject).await? else {
                    return Ok(Vec::new());
                };
                let index: Index = super::index(&listed)?;
                Ok(index.manifests)
            }
            End::Layout { layout, .. } => layout.referrers(subject),
        }
    }

    pub(super) async fn has_manifest(&self, digest: &Digest) -> Result<bool> {
        match self {
            End::Registry { repository, .. } => {
                Ok(repository.has_manifest(&digest.to_string()).await?)
            }
            // Its parts may be missing, so that it is looked through again.
            End::Layout { .. } => Ok(false),
        }
    }

    pub(super) async fn has_blob(&self, part: &Descriptor) -> Result<bool> {
        match self {
            End::Registry { repository, .. } => Ok(repository.has_blob(&part.digest).await?),
            End::Layout { layout, .. } => Ok(layout.has_blob(part)),
        }
    }

    /// The bytes of a blob from an offset on.
    fn source(&self, part: &Descriptor) -> Source {
        let (digest, size) = (part.digest, part.size);
        match self {
            End::Registry { repository, .. } => {
                let repository = repository.clone();
                Arc::new(move |offset| opened_later(repository.clone(), digest, size, offset))
            }
            End::Layout { layout, .. } => layout.source(&digest),
        }
    }

    /// Takes a blob from the other end.
    pub(super) async fn take_blob(
        &self,
        part: &Descriptor,
        from: &End,
        tell: &(dyn Fn(&Digest, Step) + Sync),
    ) -> Result<Step> {
        let source = from.source(part);
        let (repository, domain) = match self {
            End::Registry {
                repository, domain, ..
            } => (repository, domain),
            End::Layout { layout, .. } => {
                let sent = |sent| tell(&part.digest, Step::Copying(sent, part.size));
                layout.take_blob(part, source(0), &sent).await?;
                return Ok(Step::Copied);
            }
        };
        let mount_from = match from {
            End::Registry {
                domain: other,
                path,
                ..
            } if other == domain => Some(path.as_str()),
            _ => None,
        };
        // Told from the connection's task; shown from here.
        let (counter, mut counted) = mpsc::channel(1);
        let sent: Arc<dyn Fn(u64) + Send + Sync> = Arc::new(move |sent| {
            // A count that is not taken yet is followed by a newer one.
            let _ = counter.try_send(sent);
        });
        let upload = repository.upload(&part.digest, part.size, mount_from, &source, &sent);
        tokio::pin!(upload);
        loop {
            tokio::select! {
                uploaded = &mut upload => return Ok(match uploaded? {
                    Uploaded::Sent => Step::Copied,
                    Uploaded::Mounted => Step::Mounted,
                }),
                Some(sent) = counted.recv() => tell(&part.digest, Step::Copying(sent, part.size)),
            }
        }
    }

    /// Whether it can have one image only, for one platform.
    pub(super) fn is_of_one(&self) -> bool {
        match self {
            End::Registry { .. } => false,
            End::Layout { layout, .. } => layout.is_of_one(),
        }
    }

    /// Nothing comes any more.
    pub(super) fn finish(&self) -> Result<()> {
        match self {
            End::Registry { .. } => Ok(()),
            End::Layout { layout, .. } => layout.finish(),
        }
    }

    pub(super) async fn put_manifest(&self, bytes: &Bytes, kind: &str) -> Result<()> {
        match self {
            End::Registry { repository, .. } => {
                let digest = hull_storage::Hasher::digest(bytes).to_string();
                repository
                    .put_manifest(&digest, kind, bytes.clone())
                    .await?;
                Ok(())
            }
            End::Layout { layout, .. } => layout.put_blob(bytes).map(drop),
        }
    }

    /// Stores what a name stands for from now on.
    pub(super) async fn name(&self, bytes: &Bytes, kind: &str) -> Result<()> {
        match self {
            End::Registry { tag, .. } => self.tag(tag, bytes, kind).await,
            End::Layout { name, .. } => self.tag(name, bytes, kind).await,
        }
    }

    pub(super) async fn tag(&self, tag: &str, bytes: &Bytes, kind: &str) -> Result<()> {
        match self {
            End::Registry { repository, .. } => {
                repository.put_manifest(tag, kind, bytes.clone()).await?;
                Ok(())
            }
            End::Layout { layout, .. } => layout.name(tag, bytes, kind),
        }
    }

    pub(super) async fn put_referrer(&self, referrer: &Referrer, bytes: &Bytes) -> Result<()> {
        match self {
            End::Registry { repository, .. } => {
                Ok(repository.put_referrer(referrer, bytes.clone()).await?)
            }
            End::Layout { layout, .. } => layout.name("", bytes, &referrer.media_type),
        }
    }
}

/// Opens a blob of a registry when its bytes are asked for.
fn opened_later(repository: Repository, digest: Digest, size: u64, offset: u64) -> Pieces {
    let (sender, pieces) = mpsc::channel(1);
    // Ends with the blob, or with whoever reads it.
    tokio::spawn(async move {
        let mut stream = match repository.blob(&digest, size, offset).await {
            Ok(stream) => stream,
            Err(error) => return drop(sender.send(Err(error)).await),
        };
        while let Some(piece) = stream.next().await {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    pieces
}
