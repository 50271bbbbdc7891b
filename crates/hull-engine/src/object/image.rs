//! Images: which there are, what they are called, and what comes of load, import and removal.
//!
//! The bytes are hull-storage's; the table of images and tags is the store's. A change is first
//! on the disk (blobs and layers, which nobody sees without a record), then in the store, then
//! in memory; a removal goes the other way round, so that a crash leaves only unseen bytes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hull_model::Digest;
use hull_model::event::Subject;
use hull_model::spec::ContainerConfig;
use hull_storage::image::{ImageRecord, Reference};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockWriteGuard, mpsc};

use crate::api::{Image, ImageRemoval, ImportRequest, Progress};
use crate::clock::now_ns;
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
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
    /// The configuration blob.
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

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u32,
    record: ImageRecord,
}

impl ImageTable {
    /// Takes what the store held.
    pub(crate) fn recover(storage: &hull_storage::Store, contents: &Contents) -> Self {
        let mut tables = Tables::default();
        for (key, bytes) in &contents.images {
            let id = Digest::from_bytes(*key);
            let known = serde_json::from_slice::<Stored>(bytes)
                .map_err(|e| e.to_string())
                .and_then(|stored| know(storage, stored.record).map_err(|error| error.chain()));
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
            blobs.extend(known.record.manifest);
            for layer in &known.record.layers {
                blobs.extend(layer.blob);
                layers.insert(layer.diff_id);
            }
        }
        (blobs, layers)
    }
}

fn know(storage: &hull_storage::Store, record: ImageRecord) -> Result<Known> {
    let config = storage
        .read_config(&record.id)
        .map_err(|e| EngineError::step(format!("read image {}", record.id), e.kind(), e))?;
    Ok(Known {
        defaults: Arc::new(config.defaults()),
        config: Arc::new(config.into_value()),
        record: Arc::new(record),
    })
}

/// Finds by id or prefix of one, then by reference.
fn find(tables: &Tables, text: &str) -> Result<Digest> {
    let missing = || EngineError::NoSuchImage(text.to_owned());
    if let Ok(reference) = Reference::parse(text)
        && let Some(tagged) = tables.tags.get(&reference.canonical())
    {
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
    let repository = Reference::parse(name).ok()?.repository();
    let of_image = |id: &Digest, known: &Known| {
        known.record.manifest == Some(digest)
            && tables.tags.iter().any(|(name, tagged)| {
                tagged.image == *id
                    && Reference::parse(name).is_ok_and(|r| r.repository() == repository)
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
        Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.familiar())
    };
    Some(Image {
        id: *id,
        tags: names.iter().map(|(name, _)| familiar(name)).collect(),
        digests: Vec::new(),
        config: known.config.clone(),
        size: known.record.size,
        created_ns: known.record.created_ns,
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
            job.storage.load(reader, &mut |id: &str, current, total| {
                // A reader of progress that is gone or slow does not hold the load up.
                drop(told.try_send(Progress::Layer {
                    id: id.to_owned(),
                    current,
                    total,
                }));
            })
        })
        .await?
        .map_err(storage_error("load the archive"))?;
    for image in loaded {
        let names = image.names.clone();
        let id = image.record.id;
        add(core, image.record, &names).await?;
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
    let options = import_options(&request)?;
    let _sweep = core.images.sweep.clone().read_owned().await;
    let job = core.clone();
    let record = core
        .jobs
        .run(Pool::Disk, move || job.storage.import(reader, &options))
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
    Reference::parse(text)
        .map_err(|error| EngineError::Invalid(format!("invalid reference {text:?}: {error}")))
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
    let job = core.clone();
    let kept = record.clone();
    // The layers' bytes are on the disk before the record says that they are.
    let known = core
        .jobs
        .run(Pool::Disk, move || {
            for layer in &kept.layers {
                job.storage
                    .sync_layer(&layer.diff_id)
                    .map_err(storage_error("sync a layer"))?;
            }
            know(&job.storage, kept)
        })
        .await??;
    let mut changes = vec![Change::put(
        Key::Image(*id.as_bytes()),
        to_json(&Stored { v: 1, record }),
    )];
    let at_ns = now_ns();
    changes.extend(names.iter().map(|name| tag_change(name, &id, at_ns)));
    core.store.commit(changes).await?;
    let mut tables = core.images.lock();
    tables.images.insert(id, known);
    for name in names {
        tables
            .tags
            .insert(name.canonical(), Tagged { image: id, at_ns });
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
    Change::put(Key::Tag(name.canonical()), value)
}

/// Gives an image a further name.
pub(crate) async fn tag(core: &Arc<Core>, name: &str, reference: &str) -> Result<()> {
    let id = find(&core.images.lock(), name)?;
    let reference = parse(reference)?;
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
        .insert(reference.canonical(), Tagged { image: id, at_ns });
    event(core, "tag", &id, Some(reference.familiar()));
    Ok(())
}

/// Removes a name, and the image with its last one.
pub(crate) async fn remove(core: &Arc<Core>, name: &str, force: bool) -> Result<Vec<ImageRemoval>> {
    let (id, by_name, names) = {
        let tables = core.images.lock();
        let id = find(&tables, name)?;
        let by_name = Reference::parse(name)
            .ok()
            .map(|reference| reference.canonical())
            .filter(|canonical| tables.tags.contains_key(canonical));
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
                if !blobs.contains(&blob) {
                    job.storage
                        .remove_blob(&blob)
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
            let tagged = |reference: &Reference| tables.tags.contains_key(&reference.canonical());
            let named: Vec<Reference> = Reference::parse(name)
                .ok()
                .filter(tagged)
                .into_iter()
                .collect();
            images.push(((*known.record).clone(), named));
        }
    }
    let job = core.clone();
    let _sweep = core.images.sweep.clone().read_owned().await;
    core.jobs
        .run(Pool::Disk, move || job.storage.save(&images, writer))
        .await?
        .map_err(storage_error("write the archive"))
}

fn import_options(_request: &ImportRequest) -> Result<hull_storage::image::ImportOptions> {
    Ok(hull_storage::image::ImportOptions::default())
}
