//! Fetching images: from a name to a record, layer by layer.
//!
//! ```text
//!  registry ─▶ manifest (index: the platform's) ─▶ configuration ─▶ layers ─▶ record, names
//!                                                                    │
//!    pieces ─▶ pump (async) ─▶ Rest (Read) ─▶ storage.ingest_partial ┘   one pass, joined by digest
//! ```
//!
//! Nothing is visible before it is whole. What a broken pull leaves is the beginning of a blob,
//! from which the next pull of it goes on, and layers that the next sweep takes away.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::future::try_join_all;
use hull_model::limits::LAYERS_MAX;
use hull_model::{Digest, ErrorKind};
use hull_registry::{Access, Fetched, Registry, Repository};
use hull_storage::image::{
    CONFIG_TYPES, DOCUMENT_BYTES_MAX, Descriptor, ImageConfig, ImageRecord, Index, Manifest,
    Platform, Reference,
};
use hull_storage::{Expected, IngestOptions, Partial};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedRwLockReadGuard, mpsc};

use crate::api::{LayerStep, PullRequest, RemoteImage, Transfer};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::object::image::{self, storage_error};
use crate::object::referrer;
use crate::object::remote::{self, credential, refused};
use crate::object::transfer::Told;

/// Entries of one index.
const INDEX_ENTRIES_MAX: usize = 1024;
/// Indexes in indexes that are followed.
const INDEX_DEPTH_MAX: usize = 4;
/// Pieces between the network and the thread that unpacks.
const PIECES_MAX: usize = 8;
/// Looks whether the beginning of a blob is free, before it is fetched anew.
const PARTIAL_TRIES_MAX: u32 = 50;
/// Pause between two of them.
const PARTIAL_PAUSE: Duration = Duration::from_millis(20);
/// How often a layer whose bytes are not those of its digest is fetched anew.
const WRONG_MAX: u32 = 2;

/// Fetches what a reference names; ends early when nobody listens any more.
pub(crate) async fn pull(
    core: &Arc<Core>,
    request: PullRequest,
    told: mpsc::Sender<Transfer>,
) -> Result<()> {
    let gone = told.clone();
    let done = tokio::select! {
        done = pull_all(core, request, told) => done,
        () = gone.closed() => Err(EngineError::Registry {
            text: "context canceled".to_owned(),
            kind: ErrorKind::Cancelled,
        }),
    };
    if done.is_err() {
        // Layers without an image go; their blobs wait for the next attempt.
        image::sweep(core, image::Scope::Unfinished).await?;
    }
    done
}

async fn pull_all(
    core: &Arc<Core>,
    request: PullRequest,
    told: mpsc::Sender<Transfer>,
) -> Result<()> {
    let reference = image::parse(&request.reference)?;
    let hosts = &core.reloadable.registries();
    let auth = credential(&request.auth);
    let failed = |error| refused(error, &reference);
    let registry = Registry::open(hosts, reference.domain(), &auth).map_err(failed)?;
    let repository = registry.repository(reference.path(), Access::Pull);
    let platform = request.platform.as_deref();
    let platform = platform.map(image::parse_platform).transpose()?;
    let platform = platform.unwrap_or_else(Platform::host);
    let _sweep = core.images.sweep.clone().read_owned().await;
    let one = Pull {
        core,
        repository: &repository,
        platform: &platform,
        told: &told,
    };
    let all = reference.tag().is_none() && reference.digest().is_none();
    let wanted = match all {
        false => vec![reference.clone()],
        true => {
            let tags = repository.tags().await.map_err(failed)?;
            let named = tags.iter().filter_map(|tag| reference.with_tag(tag).ok());
            named.collect()
        }
    };
    let mut newer = false;
    for reference in &wanted {
        newer |= one.run(reference).await?;
    }
    let shown = match all {
        true => reference.familiar_name(),
        false => reference.familiar(),
    };
    drop(
        told.send(Transfer::Status {
            reference: shown,
            newer,
        })
        .await,
    );
    Ok(())
}

/// One reference that is being fetched.
struct Pull<'a> {
    core: &'a Arc<Core>,
    repository: &'a Repository,
    platform: &'a Platform,
    told: &'a mpsc::Sender<Transfer>,
}

impl Pull<'_> {
    /// Returns whether anything changed.
    async fn run(&self, reference: &Reference) -> Result<bool> {
        let failed = |error| refused(error, reference);
        let digest = reference.digest().map(|digest| digest.to_string());
        let tag = digest.as_deref().or(reference.tag()).unwrap_or_default();
        let top = self.repository.manifest(tag).await.map_err(failed)?;
        let named = Transfer::Pulling {
            repository: reference.path().to_owned(),
            tag: tag.to_owned(),
        };
        drop(self.told.send(named).await);
        let top_digest = top.digest;
        let (manifest, indexes) = self.choose(top, reference).await?;
        let attached = referrer::fetch(self.core, self.repository, &manifest.digest, &indexes);
        let (record, origin) = tokio::join!(self.fetch(&manifest, reference), attached);
        let record = record?;
        let mut names = vec![reference.with_digest(top_digest)];
        if reference.digest().is_none() {
            names.push(reference.clone());
        }
        let id = record.id;
        let images = &self.core.images;
        let newer = names.iter().any(|name| images.image_of(name) != Some(id));
        image::add_from(self.core, record, &names, origin).await?;
        drop(
            self.told
                .send(Transfer::Pulled { digest: top_digest })
                .await,
        );
        image::event(self.core, "pull", &id, Some(reference.familiar()));
        Ok(newer)
    }

    /// The manifest for the platform, and the indexes that lead to it.
    async fn choose(&self, top: Fetched, reference: &Reference) -> Result<(Fetched, Vec<Fetched>)> {
        let mut fetched = top;
        let mut indexes = Vec::new();
        for _ in 0..=INDEX_DEPTH_MAX {
            let Some(index) = index_of(&fetched)? else {
                return Ok((fetched, indexes));
            };
            let found = index
                .manifests
                .iter()
                .find(|entry| fits(entry, self.platform));
            let wanted = found.ok_or_else(|| {
                let platform = self.platform;
                let text =
                    format!("no matching manifest for {platform} in the manifest list entries");
                EngineError::Registry {
                    text,
                    kind: ErrorKind::NotFound,
                }
            })?;
            let digest = wanted.digest.to_string();
            let failed = |error| refused(error, reference);
            let next = self.repository.manifest(&digest).await.map_err(failed)?;
            indexes.push(std::mem::replace(&mut fetched, next));
        }
        Err(EngineError::Invalid(format!(
            "{} leads through more than {INDEX_DEPTH_MAX} indexes",
            reference.familiar()
        )))
    }

    /// Brings everything that a manifest names into the store.
    async fn fetch(&self, fetched: &Fetched, reference: &Reference) -> Result<ImageRecord> {
        let manifest: Manifest = read(&fetched.bytes, "manifest", reference)?;
        let kind = manifest.config.media_type.as_str();
        if !CONFIG_TYPES.contains(&kind) && !kind.is_empty() {
            return Err(EngineError::Invalid(format!(
                "{} is not an image: its configuration is of the type {kind:?}",
                reference.familiar()
            )));
        }
        if manifest.layers.len() > LAYERS_MAX {
            return Err(EngineError::step(
                format!("pull {}", reference.familiar()),
                ErrorKind::LimitReached,
                format!(
                    "the image has {} layers, {LAYERS_MAX} can be",
                    manifest.layers.len()
                ),
            ));
        }
        let config_bytes = config_of(self.repository, &manifest).await?;
        let config: ImageConfig = read(&config_bytes, "image configuration", reference)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(EngineError::Invalid(format!(
                "{}: the configuration has {} layers, the manifest {}",
                reference.familiar(),
                diff_ids.len(),
                manifest.layers.len()
            )));
        }
        self.layers(&manifest.layers, diff_ids).await?;
        let (job, bytes) = (self.core.clone(), fetched.bytes.clone());
        let stored = self.core.jobs.run(Pool::Disk, move || {
            job.storage.put_blob(&config_bytes)?;
            let manifest = job.storage.put_blob(&bytes)?;
            job.storage.image(&manifest.digest)
        });
        stored.await?.map_err(storage_error("store the image"))
    }

    /// All layers, each once; several at a time.
    async fn layers(&self, layers: &[Descriptor], diff_ids: &[Digest]) -> Result<()> {
        let mut seen = HashSet::new();
        let mut waiting = Vec::new();
        let told = Told::new(self.told.clone());
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            if !seen.insert((layer.digest, *diff_id)) {
                continue;
            }
            let blob = layer.blob();
            if self
                .core
                .images
                .has_layer(&self.core.storage, diff_id, &blob)
            {
                told.step(layer.digest, LayerStep::AlreadyHere).await;
                continue;
            }
            told.step(layer.digest, LayerStep::Queued).await;
            let wanted = Wanted {
                repository: self.repository.clone(),
                diff_id: *diff_id,
                blob: Expected::from(blob),
                digest: blob.digest,
                size: blob.size,
            };
            waiting.push(self.core.transfers.join(self.core, wanted));
        }
        try_join_all(waiting.iter().map(|running| told.follow(running))).await?;
        Ok(())
    }
}

/// A layer to be brought into the store.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) repository: Repository,
    pub(crate) diff_id: Digest,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    blob: Expected,
}

impl Wanted {
    /// Brings it in; `step` is told how far it is.
    pub(crate) async fn bring(
        &self,
        core: &Arc<Core>,
        sweep: &Arc<OwnedRwLockReadGuard<()>>,
        step: &(dyn Fn(LayerStep) + Send + Sync),
    ) -> Result<()> {
        // Left by a pull that did not get to its end.
        if core.storage.blob_size(&self.digest).ok().flatten() == Some(self.size) {
            step(LayerStep::Extracting { total: self.size });
            let (job, wanted) = (core.clone(), self.clone());
            let held = sweep.clone();
            let again = core.jobs.run(Pool::Download, move || {
                let _held = held;
                let stream = job.storage.open_blob(&wanted.digest)?;
                job.storage.ingest_layer(stream, &wanted.options(false))
            });
            again.await?.map_err(|error| self.failed(&error))?;
            return Ok(());
        }
        for attempt in 1.. {
            match self.download(core, sweep, step).await {
                Err(EngineError::Registry {
                    kind: ErrorKind::InvalidArgument,
                    text,
                }) if attempt < WRONG_MAX => {
                    tracing::warn!(layer = %self.digest, text, "fetching a layer anew");
                }
                done => return done,
            }
        }
        Ok(())
    }

    fn options(&self, keep_blob: bool) -> IngestOptions {
        IngestOptions {
            diff_id: Some(self.diff_id),
            blob: self.blob,
            keep_blob,
        }
    }

    /// What is there of it. A pull that was given up closes its file soon.
    async fn partial(&self, core: &Core) -> Result<Partial> {
        let failed = |error| self.failed(&error);
        for _ in 0..PARTIAL_TRIES_MAX {
            if let Some(partial) = core.storage.partial(&self.digest).map_err(failed)? {
                return Ok(partial);
            }
            tokio::time::sleep(PARTIAL_PAUSE).await;
        }
        core.storage.new_partial().map_err(failed)
    }

    /// One pass: network, hash, kept blob, decompression, hash, EROFS.
    async fn download(
        &self,
        core: &Arc<Core>,
        sweep: &Arc<OwnedRwLockReadGuard<()>>,
        step: &(dyn Fn(LayerStep) + Send + Sync),
    ) -> Result<()> {
        let partial = self.partial(core).await?;
        let offset = partial.len().min(self.size);
        let failed = |error| EngineError::Registry {
            kind: match hull_registry::Error::kind(&error) {
                // Not to be confused with bytes that came and were wrong.
                ErrorKind::InvalidArgument => ErrorKind::Unavailable,
                kind => kind,
            },
            text: remote::chain(&error),
        };
        let opened = self.repository.blob(&self.digest, self.size, offset).await;
        let mut stream = opened.map_err(failed)?;
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let total = self.size;
        let pump = async move {
            let mut current = offset;
            while let Some(piece) = stream.next().await {
                let piece = piece?;
                current += piece.len() as u64;
                step(LayerStep::Downloading { current, total });
                if sender.send(Some(piece)).await.is_err() {
                    // The other side failed and says why.
                    return Ok(());
                }
            }
            step(LayerStep::Downloaded);
            step(LayerStep::Extracting { total });
            drop(sender.send(None).await);
            Ok(())
        };
        let (job, options) = (core.clone(), self.options(true));
        let held = sweep.clone();
        let unpack = core.jobs.run(Pool::Download, move || {
            let _held = held;
            let rest = Rest {
                pieces,
                current: Bytes::new(),
                ended: false,
            };
            job.storage.ingest_partial(partial, rest, &options)
        });
        let (pumped, unpacked) = tokio::join!(pump, unpack);
        // When the network broke, whatever was unpacked failed for that reason.
        pumped.map_err(failed)?;
        unpacked?.map_err(|error| self.failed(&error))?;
        Ok(())
    }

    /// A failure of ours, or of the bytes.
    fn failed(&self, error: &hull_storage::Error) -> EngineError {
        let text = match error {
            hull_storage::Error::WrongDigest { .. } | hull_storage::Error::WrongSize { .. } => {
                format!(
                    "filesystem layer verification failed for digest {}: {}",
                    self.digest,
                    remote::chain(error)
                )
            }
            _ => format!(
                "failed to register layer {}: {}",
                self.digest,
                remote::chain(error)
            ),
        };
        EngineError::Registry {
            text,
            kind: error.kind(),
        }
    }
}

/// What comes from the network, for a thread that blocks. A channel that closes without an end is
/// an interruption.
struct Rest {
    pieces: mpsc::Receiver<Option<Bytes>>,
    current: Bytes,
    ended: bool,
}

impl Read for Rest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.current.has_remaining() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Some(piece)) => self.current = piece,
                Some(None) => self.ended = true,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let size = buffer.len().min(self.current.remaining());
        self.current.copy_to_slice(&mut buffer[..size]);
        Ok(size)
    }
}

/// The index, if it is one.
fn index_of(fetched: &Fetched) -> Result<Option<Index>> {
    let unreadable = |cause: serde_json::Error| EngineError::Registry {
        text: format!("manifest {}: {cause}", fetched.digest),
        kind: ErrorKind::InvalidArgument,
    };
    let shape: Shape = serde_json::from_slice(&fetched.bytes).map_err(unreadable)?;
    if shape.schema_version == 1 {
        return Err(EngineError::Unsupported(format!(
            "manifest {} is of schema 1, which nobody should use any more; push the image again \
             with a newer client",
            fetched.digest
        )));
    }
    if shape.manifests.is_none() {
        return Ok(None);
    }
    let index: Index = serde_json::from_slice(&fetched.bytes).map_err(unreadable)?;
    if index.manifests.len() > INDEX_ENTRIES_MAX {
        return Err(EngineError::Registry {
            text: format!(
                "index {} has more than {INDEX_ENTRIES_MAX} entries",
                fetched.digest
            ),
            kind: ErrorKind::LimitReached,
        });
    }
    Ok(Some(index))
}

/// What tells manifest and index apart, whatever the registry says.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: u32,
    manifests: Option<serde::de::IgnoredAny>,
}

fn read<T: DeserializeOwned>(bytes: &[u8], what: &str, reference: &Reference) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|cause| {
        let step = format!("read the {what} of {}", reference.familiar());
        EngineError::step(step, ErrorKind::InvalidArgument, cause)
    })
}

/// Whether an entry of an index is for a platform. Nested indexes have none and are for all.
fn fits(entry: &Descriptor, wanted: &Platform) -> bool {
    let attests = entry.annotations.contains_key("vnd.docker.reference.type");
    let Some(platform) = entry.platform.as_ref().filter(|_| !attests) else {
        return !attests;
    };
    wanted.is_met_by(&platform.os, &platform.architecture, &platform.variant)
}

async fn config_of(repository: &Repository, manifest: &Manifest) -> Result<Vec<u8>> {
    const WHAT: &str = "image configuration";
    remote::blob(repository, &manifest.config, DOCUMENT_BYTES_MAX, WHAT).await
}

/// What a registry has under a reference, without fetching it.
pub(crate) async fn look(core: &Arc<Core>, request: PullRequest) -> Result<RemoteImage> {
    let reference = image::parse(&request.reference)?.with_default_tag();
    let failed = |error| refused(error, &reference);
    let auth = credential(&request.auth);
    let registry = Registry::open(&core.reloadable.registries(), reference.domain(), &auth);
    let repository = registry
        .map_err(failed)?
        .repository(reference.path(), Access::Pull);
    let digest = reference.digest().map(|digest| digest.to_string());
    let tag = digest.as_deref().or(reference.tag()).unwrap_or_default();
    let fetched = repository.manifest(tag).await.map_err(failed)?;
    let platform = |platform: &Platform| {
        (
            platform.architecture.clone(),
            platform.os.clone(),
            platform.variant.clone(),
        )
    };
    let platforms = match index_of(&fetched)? {
        Some(index) => index
            .manifests
            .iter()
            .filter_map(|m| m.platform.as_ref())
            .map(platform)
            .collect(),
        None => {
            let manifest: Manifest = read(&fetched.bytes, "manifest", &reference)?;
            let config = config_of(&repository, &manifest).await?;
            let config: ImageConfig = read(&config, "image configuration", &reference)?;
            vec![(config.architecture, config.os, config.variant)]
        }
    };
    Ok(RemoteImage {
        media_type: fetched.media_type,
        digest: fetched.digest,
        size: fetched.bytes.len() as u64,
        platforms,
    })
}
