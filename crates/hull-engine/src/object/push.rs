//! Sending images: layers that are not there yet, the configuration, then the manifest.
//!
//! What came by a pull is sent as it came, to the byte. An image that came without compressed
//! layers gets them once, and keeps them.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use hull_model::{Digest, ErrorKind};
use hull_registry::{Access, Error, Pieces, Registry, Repository, Source, Uploaded};
use hull_storage::image::{DOCUMENT_BYTES_MAX, ImageRecord, LayerRef, Reference};
use hull_storage::{Blob, BlobReader};
use tokio::sync::mpsc;

use crate::api::{LayerStep, PushRequest, Transfer};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::object::image::{self, storage_error};
use crate::object::referrer;
use crate::object::remote::{credential, failed};

/// Bytes that are read from a blob at once.
const READ_BYTES: usize = 512 << 10;
/// Such pieces that wait for the network.
const PIECES_MAX: usize = 2;
/// Bytes between two reports of one layer.
const REPORT_BYTES: u64 = 512 << 10;

/// Sends what a name stands for; ends early when nobody listens any more.
pub(crate) async fn push(
    core: &Arc<Core>,
    request: PushRequest,
    told: mpsc::Sender<Transfer>,
) -> Result<()> {
    let gone = told.clone();
    let pushed = tokio::select! {
        done = push_all(core, request, told) => done,
        () = gone.closed() => Err(EngineError::Registry {
            text: "context canceled".to_owned(),
            kind: ErrorKind::Cancelled,
        }),
    };
    if pushed.is_err() {
        // Layers that were compressed for this.
        image::sweep(core, image::Scope::All).await?;
    }
    pushed
}

async fn push_all(
    core: &Arc<Core>,
    request: PushRequest,
    told: mpsc::Sender<Transfer>,
) -> Result<()> {
    let reference = image::parse(&request.reference)?;
    if reference.digest().is_some() {
        return Err(EngineError::Invalid(
            "cannot push a digest reference".to_owned(),
        ));
    }
    let _sweep = core.images.sweep.clone().read_owned().await;
    drop(
        told.send(Transfer::Pushing {
            repository: reference.name(),
        })
        .await,
    );
    let images = core.images.tagged(&reference);
    if images.is_empty() {
        let repository = Reference::familiar_name(&reference);
        let others = core.images.tagged(&image::parse(&repository)?);
        let text = match others.is_empty() {
            true => format!("An image does not exist locally with the tag: {repository}"),
            false => format!("tag does not exist: {}", reference.familiar()),
        };
        return Err(EngineError::Registry {
            text,
            kind: ErrorKind::NotFound,
        });
    }
    let auth = credential(&request.auth);
    let registry =
        Registry::open(&core.reloadable.registries(), reference.domain(), &auth).map_err(failed)?;
    let repository = registry.repository(reference.path(), Access::Push);
    let one = Push {
        core,
        repository: &repository,
        reference: &reference,
        told: &told,
    };
    for (name, _) in images {
        // Looked up anew: the tag before may have been of the same image.
        for (name, record) in core.images.tagged(&name) {
            one.run(&name, &record).await?;
        }
    }
    Ok(())
}

/// A repository that is being sent to.
struct Push<'a> {
    core: &'a Arc<Core>,
    repository: &'a Repository,
    reference: &'a Reference,
    told: &'a mpsc::Sender<Transfer>,
}

impl Push<'_> {
    async fn run(&self, name: &Reference, record: &ImageRecord) -> Result<()> {
        let mut seen = HashSet::new();
        let top_first = record.layers.iter().rev();
        let diff_ids: Vec<Digest> = top_first
            .map(|layer| layer.diff_id)
            .filter(|id| seen.insert(*id))
            .collect();
        for diff_id in &diff_ids {
            self.step(*diff_id, LayerStep::Preparing).await;
        }
        let record = self.compressed(record).await?;
        let layer = |id: &Digest| record.layers.iter().find(|layer| layer.diff_id == *id);
        let layers: Vec<LayerRef> = diff_ids.iter().filter_map(layer).cloned().collect();
        let sends: Vec<_> = layers.into_iter().map(|layer| self.layer(layer)).collect();
        let mut sending = stream::iter(sends).buffer_unordered(self.core.reloadable.uploads_max());
        while let Some(sent) = sending.next().await {
            sent?;
        }
        drop(sending);
        let (job, manifest) = (self.core.clone(), record.manifest);
        let read = self.core.jobs.run(Pool::Disk, move || {
            job.storage
                .read_blob(&manifest.digest, DOCUMENT_BYTES_MAX, "manifest")
        });
        let bytes = read.await?.map_err(storage_error("read the manifest"))?;
        let size = self.core.storage.blob_size(&record.id);
        let size = size
            .map_err(storage_error("read the configuration"))?
            .unwrap_or_default();
        let config = Blob {
            digest: record.id,
            size,
        };
        let unseen: Arc<dyn Fn(u64) + Send + Sync> = Arc::new(|_| {});
        self.send(&config, None, &unseen).await?;
        let kind = record.manifest_type.clone();
        let tag = name.tag().unwrap_or_default();
        let (digest, size) = self
            .name_it(tag, &kind, Bytes::from(bytes), &record)
            .await?;
        let id = record.id;
        image::add(self.core, record, &[name.with_digest(digest)]).await?;
        let pushed = Transfer::Pushed {
            tag: tag.to_owned(),
            digest,
            size,
        };
        drop(self.told.send(pushed).await);
        image::event(self.core, "push", &id, Some(name.familiar()));
        Ok(())
    }

    /// Sends the manifest and what came with it, and gives it its tag: as a part of the index by
    /// which it came, where the registry has all parts of that. Returns what the tag stands for.
    async fn name_it(
        &self,
        tag: &str,
        kind: &str,
        manifest: Bytes,
        record: &ImageRecord,
    ) -> Result<(Digest, u64)> {
        let origin = self.core.images.origin(&record.id);
        let (digest, size) = (record.manifest.digest, manifest.len() as u64);
        if let Some(index) = origin.index {
            let own = digest.to_string();
            let put = self.repository.put_manifest(&own, kind, manifest.clone());
            put.await.map_err(failed)?;
            referrer::send(self.core, self.repository, &origin).await?;
            let sent = referrer::send_index(self.core, self.repository, (index, digest), tag);
            if let Some(size) = sent.await? {
                return Ok((index, size));
            }
            drop(self.told.send(Transfer::OnePlatform).await);
        }
        let put = self.repository.put_manifest(tag, kind, manifest);
        put.await.map_err(failed)?;
        if origin.index.is_none() {
            referrer::send(self.core, self.repository, &origin).await?;
        }
        Ok((digest, size))
    }

    async fn step(&self, digest: Digest, step: LayerStep) {
        drop(self.told.send(Transfer::Layer { digest, step }).await);
    }

    /// The image with layers that a registry should get.
    async fn compressed(&self, record: &ImageRecord) -> Result<ImageRecord> {
        let (job, image) = (self.core.clone(), record.clone());
        let compressing = self
            .core
            .jobs
            .run(Pool::Disk, move || job.storage.compress_layers(&image));
        compressing
            .await?
            .map_err(storage_error("compress the layers"))
    }

    async fn layer(&self, layer: LayerRef) -> Result<()> {
        let (id, blob) = (layer.diff_id, layer.blob);
        if self
            .repository
            .has_blob(&blob.digest)
            .await
            .map_err(failed)?
        {
            self.step(id, LayerStep::AlreadyThere).await;
            return Ok(());
        }
        let reference = self.reference;
        let images = &self.core.images;
        let from = images.repository_with(reference.domain(), reference.path(), &blob.digest);
        let (told, reported) = (self.told.clone(), AtomicU64::new(0));
        let sent: Arc<dyn Fn(u64) + Send + Sync> = Arc::new(move |current| {
            let before = reported.swap(current / REPORT_BYTES, Ordering::Relaxed);
            if before != current / REPORT_BYTES || current == blob.size {
                let step = LayerStep::Pushing {
                    current,
                    total: blob.size,
                };
                // A listener that is slow misses some of these.
                drop(told.try_send(Transfer::Layer { digest: id, step }));
            }
        });
        let uploaded = self.send(&blob, from.as_deref(), &sent).await?;
        let step = match (uploaded, from) {
            (Uploaded::Mounted, Some(from)) => LayerStep::Mounted { from },
            _ => LayerStep::Pushed,
        };
        self.step(id, step).await;
        Ok(())
    }

    async fn send(
        &self,
        blob: &Blob,
        from: Option<&str>,
        sent: &Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<Uploaded> {
        let (core, digest) = (self.core.clone(), blob.digest);
        let source: Source = Arc::new(move |offset| pieces(core.clone(), digest, offset));
        let repository = self.repository;
        let uploaded = repository.upload(&blob.digest, blob.size, from, &source, sent);
        uploaded.await.map_err(failed)
    }
}

/// Reads a blob piece by piece, each as a job of its own: a slow network holds no place.
fn pieces(core: Arc<Core>, digest: Digest, offset: u64) -> Pieces {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    // Ends with the blob, or with whoever reads it.
    tokio::spawn(async move {
        let mut opened = None;
        loop {
            let (job, reader) = (core.clone(), opened.take());
            let read = core
                .jobs
                .run(Pool::Disk, move || match reader {
                    Some(reader) => read_piece(reader),
                    None => read_piece(open_at(&job, &digest, offset)?),
                })
                .await;
            let piece = match read {
                Ok(Ok((piece, reader))) => {
                    opened = Some(reader);
                    Ok(piece)
                }
                Ok(Err(cause)) => Err(Error::Source(cause)),
                Err(error) => Err(Error::Source(io::Error::other(error))),
            };
            let size = piece.as_ref().map_or(0, Bytes::len);
            let ended = piece.as_ref().is_ok_and(Bytes::is_empty);
            // After a failure nothing follows either.
            if ended || sender.send(piece).await.is_err() || size == 0 {
                return;
            }
        }
    });
    pieces
}

fn open_at(core: &Core, digest: &Digest, offset: u64) -> io::Result<BlobReader> {
    let opened = core.storage.open_blob(digest);
    let mut reader = opened.map_err(io::Error::other)?;
    reader.skip(offset)?;
    Ok(reader)
}

fn read_piece(mut reader: BlobReader) -> io::Result<(Bytes, BlobReader)> {
    let mut bytes = Vec::with_capacity(READ_BYTES);
    (&mut reader)
        .take(READ_BYTES as u64)
        .read_to_end(&mut bytes)?;
    Ok((Bytes::from(bytes), reader))
}
