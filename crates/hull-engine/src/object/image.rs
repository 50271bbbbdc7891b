//! Images: which there are, what they are called, and what comes of load, import and removal.
//!
//! The bytes are hull-storage's; the table of images and tags is the store's. A change is first
//! on the disk (blobs and layers, which nobody sees without a record), then in the store, then
//! in memory; a removal goes the other way round, so that a crash leaves only unseen bytes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hull_model::event::Subject;
use hull_model::spec::{ContainerConfig, Healthcheck};
use hull_model::{Digest, ErrorKind};
use hull_storage::image::{
    ImageRecord, ImportOptions, Platform, Reference, RunConfig, SavedImage, apply_changes,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockWriteGuard, mpsc};

use crate::api::{Image, ImageRemoval, ImportRequest, Progress};
use crate::clock::{now_ns, rfc3339};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::logs;
use crate::object::container::to_json;
use crate::store::{Change, Contents, Key};

/// Pause between two looks whether bytes still come in.
const SWEEP_PAUSE: Duration = Duration::from_millis(50);
/// Looks before the sweep is left to the next removal.
const SWEEP_TRIES_MAX: u32 = 20_000;

/// An image in memory.
#[derive(Debug, Clone)]
struct Known {
    record: Arc<ImageRecord>,
    created_ns: i64,
    /// The configuration as JSON.
    config: Arc<serde_json::Value>,
    /// What a container of it inherits.
    defaults: Arc<ContainerConfig>,
}

#[derive(Debug, Clone, Copy)]
struct Tagged {
    image: Digest,
    at_ns: i64,
}

#[derive(Debug, Default)]
struct Tables {
    images: HashMap<Digest, Known>,
    tags: BTreeMap<String, Tagged>,
}

/// What a create needs of an image.
pub(crate) struct Resolved {
    pub(crate) id: Digest,
    pub(crate) layers: Vec<Digest>,
    pub(crate) defaults: Arc<ContainerConfig>,
}

/// The images by id and name.
#[derive(Debug, Default)]
pub(crate) struct ImageTable {
    tables: Mutex<Tables>,
    /// Held shared while bytes come in that no record names yet, alone while unnamed bytes are
    /// removed.
    pub(crate) sweep: Arc<tokio::sync::RwLock<()>>,
}

/// What the store keeps of an image: everything else follows from its manifest.
#[derive(Serialize, Deserialize)]
struct Stored {
    v: u32,
    manifest: Digest,
}

impl ImageTable {
    /// Takes what the store held.
    pub(crate) fn recover(storage: &hull_storage::Store, contents: &Contents) -> Self {
        let mut tables = Tables::default();
        for (key, bytes) in &contents.images {
            let id = Digest::from_bytes(*key);
            let known = serde_json::from_slice::<Stored>(bytes)
                .map_err(|e| e.to_string())
                .and_then(|stored| storage.image(&stored.manifest).map_err(|e| e.to_string()))
                .and_then(|record| know(record).map_err(|error| error.chain()));
            match known {
                Ok(known) => drop(tables.images.insert(id, known)),
                Err(error) => tracing::error!(image = %id, error, "an image cannot be read"),
            }
        }
        for (name, value) in &contents.tags {
            let (Some(id), Some(at)) = (value.first_chunk::<32>(), value.last_chunk::<8>()) else {
                tracing::error!(tag = name, "a tag cannot be read");
                continue;
            };
            let tagged = Tagged {
                image: Digest::from_bytes(*id),
                at_ns: i64::from_le_bytes(*at),
            };
            tables.tags.insert(name.clone(), tagged);
        }
        Self {
            tables: Mutex::new(tables),
            sweep: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn resolve(&self, text: &str) -> Result<Resolved> {
        let tables = self.lock();
        let id = find(&tables, text)?;
        let known = tables
            .images
            .get(&id)
            .ok_or_else(|| EngineError::NoSuchImage(text.to_owned()))?;
        Ok(Resolved {
            id,
            layers: known
                .record
                .layers
                .iter()
                .map(|layer| layer.diff_id)
                .collect(),
            defaults: known.defaults.clone(),
        })
    }

    pub(crate) fn view(&self, text: &str) -> Result<Image> {
        let tables = self.lock();
        let id = find(&tables, text)?;
        view(&tables, &id).ok_or_else(|| EngineError::NoSuchImage(text.to_owned()))
    }

    pub(crate) fn list(&self) -> Vec<Image> {
        let tables = self.lock();
        let mut all: Vec<Image> = tables
            .images
            .keys()
            .filter_map(|id| view(&tables, id))
            .collect();
        drop(tables);
        all.sort_by_key(|image| std::cmp::Reverse((image.created_ns, image.id)));
        all
    }

    /// All digests that images name: blobs, and layers by diff id.
    pub(crate) fn named(&self) -> (HashSet<Digest>, HashSet<Digest>) {
        let tables = self.lock();
        let mut blobs = HashSet::new();
        let mut layers = HashSet::new();
        for (id, known) in &tables.images {
            blobs.insert(*id);
            blobs.insert(known.record.manifest.digest);
            for layer in &known.record.layers {
                blobs.insert(layer.blob.digest);
                layers.insert(layer.diff_id);
            }
        }
        (blobs, layers)
    }
}

fn know(record: ImageRecord) -> Result<Known> {
    let config = serde_json::to_value(&record.config)
        .map_err(|e| EngineError::step("read the image", ErrorKind::Internal, e))?;
    Ok(Known {
        created_ns: record
            .config
            .created
            .as_deref()
            .and_then(logs::time_ns)
            .unwrap_or_default(),
        defaults: Arc::new(defaults(&record.config.config)),
        config: Arc::new(config),
        record: Arc::new(record),
    })
}

/// What a container inherits.
fn defaults(run: &RunConfig) -> ContainerConfig {
    let check = |check: &hull_storage::image::Healthcheck| Healthcheck {
        test: check.test.clone(),
        interval_ns: check.interval,
        timeout_ns: check.timeout,
        start_period_ns: check.start_period,
        start_interval_ns: check.start_interval,
        retries: check.retries,
    };
    ContainerConfig {
        user: run.user.clone(),
        env: run.env.clone(),
        cmd: run.cmd.clone(),
        entrypoint: run.entrypoint.clone(),
        working_dir: run.working_dir.clone(),
        volumes: run.volumes.keys().cloned().collect(),
        labels: run.labels.clone(),
        stop_signal: run.stop_signal.clone(),
        stop_timeout_s: run.stop_timeout,
        exposed_ports: run.exposed_ports.keys().cloned().collect(),
        healthcheck: run.healthcheck.as_ref().map(check),
        shell: run.shell.clone(),
        on_build: run.on_build.clone(),
        ..ContainerConfig::default()
    }
}

/// The key of a name in the table of tags.
fn canonical(text: &str) -> Option<String> {
    text.parse::<Reference>()
        .ok()
        .map(|reference| reference.with_default_tag().to_string())
}

/// Finds by id or prefix of one, then by reference.
fn find(tables: &Tables, text: &str) -> Result<Digest> {
    let missing = || EngineError::NoSuchImage(text.to_owned());
    if let Some(tagged) = canonical(text).and_then(|name| tables.tags.get(&name)) {
        return Ok(tagged.image);
    }
    if let Some(id) = find_by_digest(tables, text) {
        return Ok(id);
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if hex.is_empty() || hex.len() > 64 || !hex.bytes().all(is_hex) {
        return Err(missing());
    }
    let mut found = tables.images.keys().filter(|id| id.hex().starts_with(hex));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(*id),
        (Some(_), Some(_)) => Err(EngineError::Ambiguous(text.to_owned())),
        (None, _) => Err(missing()),
    }
}

/// `name@sha256:…`: the digest of the manifest, under a name that the image has.
fn find_by_digest(tables: &Tables, text: &str) -> Option<Digest> {
    let (name, digest) = text.split_once('@')?;
    let digest: Digest = digest.parse().ok()?;
    let repository = name.parse::<Reference>().ok()?.name();
    let of_image = |id: &Digest, known: &Known| {
        known.record.manifest.digest == digest
            && tables.tags.iter().any(|(name, tagged)| {
                tagged.image == *id
                    && name
                        .parse::<Reference>()
                        .is_ok_and(|r| r.name() == repository)
            })
    };
    tables
        .images
        .iter()
        .find(|(id, known)| of_image(id, known))
        .map(|(id, _)| *id)
}

fn view(tables: &Tables, id: &Digest) -> Option<Image> {
    let known = tables.images.get(id)?;
    let names: Vec<(&String, &Tagged)> = tables
        .tags
        .iter()
        .filter(|(_, tagged)| tagged.image == *id)
        .collect();
    let familiar = |name: &str| {
        name.parse::<Reference>()
            .map_or_else(|_| name.to_owned(), |name| name.familiar())
    };
    Some(Image {
        id: *id,
        tags: names.iter().map(|(name, _)| familiar(name)).collect(),
        digests: Vec::new(),
        config: known.config.clone(),
        size: known.record.size,
        created_ns: known.created_ns,
        tagged_ns: names
            .iter()
            .map(|(_, tagged)| tagged.at_ns)
            .max()
            .unwrap_or_default(),
        layers: known
            .record
            .layers
            .iter()
            .map(|layer| layer.diff_id)
            .collect(),
        layer_sizes: Vec::new(),
        containers: 0,
    })
}

fn storage_error(step: &str) -> impl FnOnce(hull_storage::Error) -> EngineError {
    let step = step.to_owned();
    move |error| EngineError::step(step, error.kind(), error)
}

/// Loads an archive; each image becomes visible as soon as it is whole.
pub(crate) async fn load(
    core: &Arc<Core>,
    reader: Box<dyn Read + Send>,
    progress: mpsc::Sender<Progress>,
) -> Result<()> {
    let _sweep = core.images.sweep.clone().read_owned().await;
    let job = core.clone();
    let told = progress.clone();
    let loaded = core
        .jobs
        .run(Pool::Disk, move || {
            job.storage.load(reader, &mut |seen| {
                let id = seen.file.to_owned();
                // A reader of progress that is gone or slow does not hold the load up.
                drop(told.try_send(Progress::Layer {
                    id,
                    current: seen.current,
                    total: seen.total,
                }));
            })
        })
        .await?
        .map_err(storage_error("load the archive"))?;
    for image in loaded {
        let names = image.references;
        let id = image.image.id;
        add(core, image.image, &names).await?;
        let mut lines: Vec<String> = names
            .iter()
            .map(|name| format!("Loaded image: {}", name.familiar()))
            .collect();
        if lines.is_empty() {
            lines.push(format!("Loaded image ID: {id}"));
        }
        for line in lines {
            drop(progress.send(Progress::Message(line)).await);
        }
    }
    Ok(())
}

/// Makes an image of one root file system.
pub(crate) async fn import(
    core: &Arc<Core>,
    reader: Box<dyn Read + Send>,
    request: ImportRequest,
) -> Result<Digest> {
    let reference = request.reference.as_deref().map(parse).transpose()?;
    let reference = reference.map(Reference::with_default_tag);
    let options = import_options(&request)?;
    let _sweep = core.images.sweep.clone().read_owned().await;
    let job = core.clone();
    let record = core
        .jobs
        .run(Pool::Disk, move || job.storage.import(reader, options))
        .await?
        .map_err(storage_error("import the file system"))?;
    let id = record.id;
    add(core, record, reference.as_slice()).await?;
    event(
        core,
        "import",
        &id,
        reference.as_ref().map(Reference::familiar),
    );
    Ok(id)
}

fn parse(text: &str) -> Result<Reference> {
    text.parse::<Reference>().map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        EngineError::Invalid(
            cause.map_or_else(|| error.to_string(), |why| format!("{error}: {why}")),
        )
    })
}

fn event(core: &Core, action: &str, id: &Digest, name: Option<String>) {
    let mut attributes = BTreeMap::new();
    if let Some(name) = &name {
        attributes.insert("name".to_owned(), name.clone());
    }
    let subject = name
        .filter(|_| action != "delete")
        .unwrap_or_else(|| id.to_string());
    core.events
        .publish(Subject::Image, action, subject, attributes);
}

/// Writes a whole image and its names down.
async fn add(core: &Arc<Core>, record: ImageRecord, names: &[Reference]) -> Result<()> {
    let id = record.id;
    let manifest = record.manifest.digest;
    let job = core.clone();
    // The layers' bytes are on the disk before the record says that they are.
    let known = core
        .jobs
        .run(Pool::Disk, move || {
            for layer in &record.layers {
                job.storage
                    .sync_layer(&layer.diff_id)
                    .map_err(storage_error("sync a layer"))?;
            }
            know(record)
        })
        .await??;
    let mut changes = vec![Change::put(
        Key::Image(*id.as_bytes()),
        to_json(&Stored { v: 1, manifest }),
    )];
    let at_ns = now_ns();
    changes.extend(names.iter().map(|name| tag_change(name, &id, at_ns)));
    core.store.commit(changes).await?;
    let mut tables = core.images.lock();
    tables.images.insert(id, known);
    for name in names {
        tables
            .tags
            .insert(name.to_string(), Tagged { image: id, at_ns });
    }
    drop(tables);
    for name in names {
        event(core, "tag", &id, Some(name.familiar()));
    }
    Ok(())
}

fn tag_change(name: &Reference, id: &Digest, at_ns: i64) -> Change {
    let mut value = id.as_bytes().to_vec();
    value.extend(at_ns.to_le_bytes());
    Change::put(Key::Tag(name.to_string()), value)
}

/// Gives an image a further name.
pub(crate) async fn tag(core: &Arc<Core>, name: &str, reference: &str) -> Result<()> {
    let id = find(&core.images.lock(), name)?;
    let reference = parse(reference)?.with_default_tag();
    if reference.digest().is_some() {
        return Err(EngineError::Invalid(
            "refusing to create a tag with a digest reference".to_owned(),
        ));
    }
    let at_ns = now_ns();
    core.store
        .commit(vec![tag_change(&reference, &id, at_ns)])
        .await?;
    core.images
        .lock()
        .tags
        .insert(reference.to_string(), Tagged { image: id, at_ns });
    event(core, "tag", &id, Some(reference.familiar()));
    Ok(())
}

/// Removes a name, and the image with its last one.
pub(crate) async fn remove(core: &Arc<Core>, name: &str, force: bool) -> Result<Vec<ImageRemoval>> {
    let (id, by_name, names) = {
        let tables = core.images.lock();
        let id = find(&tables, name)?;
        let by_name = canonical(name).filter(|canonical| tables.tags.contains_key(canonical));
        let names: Vec<String> = tables
            .tags
            .iter()
            .filter(|(_, tagged)| tagged.image == id)
            .map(|(name, _)| name.clone())
            .collect();
        (id, by_name, names)
    };
    let going: Vec<String> = match &by_name {
        Some(one) => vec![one.clone()],
        None if names.len() > 1 && !force => {
            return Err(EngineError::ImageConflict(format!(
                "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
                &id.hex()[..12]
            )));
        }
        None => names.clone(),
    };
    let last = going.len() == names.len();
    if last {
        refuse_in_use(core, &id, name, force && by_name.is_none())?;
    }
    let mut changes: Vec<Change> = going
        .iter()
        .map(|name| Change::remove(Key::Tag(name.clone())))
        .collect();
    if last {
        changes.push(Change::remove(Key::Image(*id.as_bytes())));
    }
    core.store.commit(changes).await?;
    let mut removals = Vec::new();
    {
        let mut tables = core.images.lock();
        for name in &going {
            tables.tags.remove(name);
        }
        if last {
            tables.images.remove(&id);
        }
    }
    for name in &going {
        let familiar = parse(name).map_or_else(|_| name.clone(), |reference| reference.familiar());
        event(core, "untag", &id, Some(familiar.clone()));
        removals.push(ImageRemoval::Untagged(familiar));
    }
    if last {
        event(core, "delete", &id, None);
        removals.push(ImageRemoval::Deleted(id));
        sweep(core).await?;
    }
    Ok(removals)
}

fn refuse_in_use(core: &Core, id: &Digest, name: &str, stopped_too: bool) -> Result<()> {
    let user = core.containers.snapshots().into_iter().find(|container| {
        container.spec.image == *id && (container.state.is_live() || !stopped_too)
    });
    match user {
        Some(container) => Err(EngineError::ImageInUse {
            image: name.to_owned(),
            container: container.id.short(),
            running: container.state.is_live(),
        }),
        None => Ok(()),
    }
}

/// Removes dangling images, or all without containers.
pub(crate) async fn prune(core: &Arc<Core>, all: bool) -> Result<(Vec<ImageRemoval>, u64)> {
    let used: HashSet<Digest> = core
        .containers
        .snapshots()
        .iter()
        .map(|container| container.spec.image)
        .collect();
    let mut removals = Vec::new();
    let mut freed = 0;
    for image in core.images.list() {
        if used.contains(&image.id) || !(all || image.tags.is_empty()) {
            continue;
        }
        match remove(core, &image.id.to_string(), true).await {
            Ok(mut gone) => {
                freed += image.size;
                removals.append(&mut gone);
            }
            // It came into use meanwhile.
            Err(EngineError::ImageInUse { .. } | EngineError::NoSuchImage(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((removals, freed))
}

/// Removes blobs and layers that neither an image nor a container names: at once, or as soon as
/// no load, import or create is between its bytes and its record. (Waiting for the lock in line
/// would make creates wait for loads.)
pub(crate) async fn sweep(core: &Arc<Core>) -> Result<()> {
    if let Ok(alone) = core.images.sweep.clone().try_write_owned() {
        return sweep_alone(core, alone).await;
    }
    let core = core.clone();
    tokio::spawn(async move {
        for _ in 0..SWEEP_TRIES_MAX {
            tokio::time::sleep(SWEEP_PAUSE).await;
            if let Ok(alone) = core.images.sweep.clone().try_write_owned() {
                if let Err(error) = sweep_alone(&core, alone).await {
                    tracing::warn!(error = %error.chain(), "sweep of unnamed layers");
                }
                return;
            }
        }
    });
    Ok(())
}

async fn sweep_alone(core: &Arc<Core>, alone: OwnedRwLockWriteGuard<()>) -> Result<()> {
    let job = core.clone();
    core.jobs
        .run(Pool::Disk, move || {
            let _alone = alone;
            let (blobs, mut layers) = job.images.named();
            layers.extend(
                job.containers
                    .snapshots()
                    .iter()
                    .flat_map(|c| c.layers.clone()),
            );
            for layer in job
                .storage
                .layers()
                .map_err(storage_error("list the layers"))?
            {
                if !layers.contains(&layer) {
                    job.mounts.release(&layer);
                    job.storage
                        .remove_layer(&layer)
                        .map_err(storage_error("remove a layer"))?;
                }
            }
            for blob in job
                .storage
                .blobs()
                .map_err(storage_error("list the blobs"))?
            {
                if !blobs.contains(&blob.digest) {
                    job.storage
                        .remove_blob(&blob.digest)
                        .map_err(storage_error("remove a blob"))?;
                }
            }
            Ok(())
        })
        .await?
}

/// Writes images as an archive.
pub(crate) async fn save(
    core: &Arc<Core>,
    names: Vec<String>,
    writer: Box<dyn Write + Send>,
) -> Result<()> {
    let mut images = Vec::new();
    {
        let tables = core.images.lock();
        for name in &names {
            let id = find(&tables, name)?;
            let Some(known) = tables.images.get(&id) else {
                continue;
            };
            let named: Vec<Reference> = canonical(name)
                .filter(|name| tables.tags.contains_key(name))
                .and_then(|name| name.parse().ok())
                .into_iter()
                .collect();
            images.push((known.record.clone(), named));
        }
    }
    let job = core.clone();
    let _sweep = core.images.sweep.clone().read_owned().await;
    core.jobs
        .run(Pool::Disk, move || {
            let saved: Vec<SavedImage<'_>> = images
                .iter()
                .map(|(image, references)| SavedImage { image, references })
                .collect();
            job.storage.save(&saved, writer)
        })
        .await?
        .map_err(storage_error("write the archive"))
}

fn import_options(request: &ImportRequest) -> Result<ImportOptions> {
    let mut config = RunConfig::default();
    apply_changes(&mut config, &request.changes)
        .map_err(|error| EngineError::step("apply the changes", error.kind(), error))?;
    Ok(ImportOptions {
        config,
        message: request.message.clone(),
        platform: request
            .platform
            .as_deref()
            .map_or_else(Platform::host, platform),
        created: rfc3339(now_ns()),
    })
}

/// Reads `os/arch[/variant]`.
fn platform(text: &str) -> Platform {
    let mut parts = text.split('/').map(ToOwned::to_owned);
    let os = parts.next().unwrap_or_default();
    let host = Platform::host();
    Platform {
        os: if os.is_empty() { host.os } else { os },
        architecture: parts.next().unwrap_or(host.architecture),
        variant: parts.next().unwrap_or_default(),
        ..Platform::default()
    }
}
