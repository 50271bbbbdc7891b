//! Which images there are and what they are called: in memory, made of the store's records.
//!
//! A name is a reference in its full form with a tag, or with the digest of the manifest that a
//! registry knows the image by. Both lie in one table.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_model::spec::{ContainerConfig, Healthcheck};
use hull_model::{Digest, ErrorKind};
use hull_storage::Blob;
use hull_storage::image::{ImageRecord, Platform, Reference, RunConfig};
use serde::{Deserialize, Serialize};

use super::{Origin, key_of};
use crate::api::Image;
use crate::clock::now_ns;
use crate::error::{EngineError, Result};
use crate::logs;
use crate::store::Contents;

/// How exactly it is known when an image was last used, in nanoseconds: an hour.
const USED_STEP_NS: i64 = 3_600_000_000_000;

/// An image in memory.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) record: Arc<ImageRecord>,
    pub(super) created_ns: i64,
    /// When it came or was last used for a container.
    pub(super) used_ns: i64,
    pub(super) origin: Origin,
    /// The configuration as JSON.
    config: Arc<serde_json::Value>,
    /// What a container of it inherits.
    defaults: Arc<ContainerConfig>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Tagged {
    pub(super) image: Digest,
    pub(super) at_ns: i64,
}

#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) images: HashMap<Digest, Known>,
    pub(super) tags: BTreeMap<String, Tagged>,
    /// Images whose record is there and whose parts could not be read.
    pub(super) unreadable: HashSet<Digest>,
}

/// What a create needs of an image.
pub(crate) struct Resolved {
    pub(crate) id: Digest,
    pub(crate) layers: Vec<Digest>,
    pub(crate) defaults: Arc<ContainerConfig>,
    /// What it runs on.
    pub(crate) platform: Platform,
}

/// The images by id and name.
#[derive(Debug, Default)]
pub(crate) struct ImageTable {
    tables: Mutex<Tables>,
    /// Held shared while bytes come in that no record names yet, alone while unnamed bytes are
    /// removed.
    pub(crate) sweep: Arc<tokio::sync::RwLock<()>>,
    /// Held by who changes names or the set of images, from the look to the change in memory.
    pub(super) changing: tokio::sync::Mutex<()>,
}

/// What the store keeps of an image: everything else follows from its manifest.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) v: u32,
    pub(super) manifest: Digest,
    /// Nanoseconds since the epoch; 0 in records of the first version.
    #[serde(default)]
    pub(super) used_ns: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<Digest>,
    #[serde(default)]
    pub(super) origin: Origin,
}

/// Digests that somebody names.
#[derive(Debug, Default)]
pub(crate) struct Named {
    pub(crate) blobs: HashSet<Digest>,
    /// By diff id.
    pub(crate) layers: HashSet<Digest>,
}

impl ImageTable {
    /// Takes what the store held.
    pub(crate) fn recover(storage: &hull_storage::Store, contents: &Contents) -> Self {
        let mut tables = Tables::default();
        for (key, bytes) in &contents.images {
            let id = Digest::from_bytes(*key);
            let known = serde_json::from_slice::<Stored>(bytes)
                .map_err(|e| e.to_string())
                .and_then(|stored| {
                    let record = storage.image(&stored.manifest).map_err(|e| e.to_string())?;
                    let used_ns = match stored.used_ns {
                        // Of the first version: the clock starts now.
                        0 => now_ns(),
                        used_ns => used_ns,
                    };
                    let origin = Origin {
                        parent: stored.parent,
                        ..stored.origin
                    };
                    know(record, used_ns, origin).map_err(|error| error.chain())
                });
            match known {
                Ok(known) => drop(tables.images.insert(id, known)),
                Err(error) => {
                    tracing::error!(image = %id, error, "an image cannot be read");
                    tables.unreadable.insert(id);
                }
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
            ..Self::default()
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn resolve(&self, text: &str) -> Result<Resolved> {
        let tables = self.lock();
        let id = tables.find(text)?;
        let known = tables.known(&id, text)?;
        Ok(Resolved {
            id,
            layers: diff_ids(&known.record),
            defaults: known.defaults.clone(),
            platform: platform_of(&known.record),
        })
    }

    /// All that is known of an image.
    pub(crate) fn record(&self, id: &Digest) -> Result<Arc<ImageRecord>> {
        let tables = self.lock();
        let known = tables.images.get(id);
        known
            .map(|known| known.record.clone())
            .ok_or_else(|| EngineError::NoSuchImage(id.to_string()))
    }

    /// Whether a layer is here, with the blob that an image says it was made of. A pair that no
    /// image names is not believed: the blob may be of something else.
    pub(crate) fn has_layer(
        &self,
        storage: &hull_storage::Store,
        diff_id: &Digest,
        blob: &Blob,
    ) -> bool {
        let named = |known: &Known| {
            let mut layers = known.record.layers.iter();
            layers.any(|layer| layer.diff_id == *diff_id && layer.blob == *blob)
        };
        self.lock().images.values().any(named)
            && storage.has_layer(diff_id).unwrap_or(false)
            && storage.has_blob(&blob.digest).unwrap_or(false)
    }

    /// Those of some layers that images have, with the blobs that they were made of.
    pub(crate) fn blobs_of(&self, layers: &[Digest]) -> Vec<(Digest, Blob)> {
        let tables = self.lock();
        let all = tables
            .images
            .values()
            .flat_map(|known| &known.record.layers);
        let found: BTreeMap<Digest, Blob> = all
            .filter(|layer| layers.contains(&layer.diff_id))
            .map(|layer| (layer.diff_id, layer.blob))
            .collect();
        found.into_iter().collect()
    }

    /// Where an image came from.
    pub(crate) fn origin(&self, id: &Digest) -> Origin {
        let tables = self.lock();
        let known = tables.images.get(id);
        known.map(|known| known.origin.clone()).unwrap_or_default()
    }

    /// The image that a name stands for.
    pub(crate) fn image_of(&self, name: &Reference) -> Option<Digest> {
        let tables = self.lock();
        tables.tags.get(&key_of(name)).map(|tagged| tagged.image)
    }

    /// The images under the tags of a repository, or under one of them.
    pub(crate) fn tagged(&self, name: &Reference) -> Vec<(Reference, Arc<ImageRecord>)> {
        let tables = self.lock();
        let fits = |known: &Reference| {
            known.digest().is_none()
                && known.name() == name.name()
                && (name.tag().is_none() || known.tag() == name.tag())
        };
        let found = tables.tags.iter().filter_map(|(text, tagged)| {
            let known = text.parse::<Reference>().ok().filter(fits)?;
            Some((known, tables.images.get(&tagged.image)?.record.clone()))
        });
        found.collect()
    }

    /// A repository of a registry, other than `path`, that is known to have a blob.
    pub(crate) fn repository_with(
        &self,
        domain: &str,
        path: &str,
        blob: &Digest,
    ) -> Option<String> {
        let tables = self.lock();
        tables.tags.iter().find_map(|(text, tagged)| {
            let known = text.parse::<Reference>().ok()?;
            let fits = known.digest().is_some() && known.domain() == domain && known.path() != path;
            let record = &tables.images.get(&tagged.image).filter(|_| fits)?.record;
            let mut layers = record.layers.iter();
            let has = layers.any(|layer| layer.blob.digest == *blob);
            has.then(|| known.path().to_owned())
        })
    }

    pub(crate) fn view(&self, text: &str) -> Result<Image> {
        let tables = self.lock();
        let id = tables.find(text)?;
        let names = tables.names_of(&id);
        tables
            .known(&id, text)
            .map(|known| view(&tables, &id, known, &names))
    }

    pub(crate) fn list(&self) -> Vec<Image> {
        let tables = self.lock();
        let mut names: HashMap<Digest, Vec<(&str, Tagged)>> = HashMap::new();
        for (name, tagged) in &tables.tags {
            names.entry(tagged.image).or_default().push((name, *tagged));
        }
        let none = Vec::new();
        let mut all: Vec<Image> = tables
            .images
            .iter()
            .map(|(id, known)| view(&tables, id, known, names.get(id).unwrap_or(&none)))
            .collect();
        drop(tables);
        all.sort_by_key(|image| std::cmp::Reverse((image.created_ns, image.id)));
        all
    }

    /// All digests that images name, and whether that is all there is to know: not when an image
    /// could not be read.
    pub(crate) fn named(&self) -> (Named, bool) {
        let tables = self.lock();
        let mut named = Named::default();
        for known in tables.images.values() {
            named.add(known);
        }
        (named, tables.unreadable.is_empty())
    }
}

impl Stored {
    pub(super) fn of(known: &Known) -> Self {
        Self {
            v: 1,
            manifest: known.record.manifest.digest,
            used_ns: known.used_ns,
            parent: known.origin.parent,
            origin: known.origin.clone(),
        }
    }
}

impl Named {
    pub(super) fn add(&mut self, known: &Known) {
        let record = &known.record;
        self.blobs.extend(&known.origin.blobs);
        self.blobs.insert(record.id);
        self.blobs.insert(record.manifest.digest);
        for layer in &record.layers {
            self.blobs.insert(layer.blob.digest);
            self.layers.insert(layer.diff_id);
        }
    }
}

impl Tables {
    /// Notes that an image was used now; the record to write, unless that is known well enough.
    pub(super) fn used(&mut self, id: &Digest, now_ns: i64) -> Option<Stored> {
        let known = self.images.get_mut(id)?;
        if now_ns - known.used_ns < USED_STEP_NS {
            return None;
        }
        known.used_ns = now_ns;
        Some(Stored::of(known))
    }

    fn known(&self, id: &Digest, text: &str) -> Result<&Known> {
        self.images
            .get(id)
            .ok_or_else(|| EngineError::NoSuchImage(text.to_owned()))
    }

    /// All names of an image, in order.
    pub(super) fn names_of(&self, id: &Digest) -> Vec<(&str, Tagged)> {
        self.tags
            .iter()
            .filter(|(_, tagged)| tagged.image == *id)
            .map(|(name, tagged)| (name.as_str(), *tagged))
            .collect()
    }

    /// Finds by name, then by id or prefix of one.
    pub(super) fn find(&self, text: &str) -> Result<Digest> {
        let missing = || EngineError::NoSuchImage(text.to_owned());
        if let Some(tagged) = self.name(text).and_then(|name| self.tags.get(&name)) {
            return Ok(tagged.image);
        }
        if let Some(id) = self.find_by_digest(text) {
            return Ok(id);
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if hex.is_empty() || hex.len() > 64 || !hex.bytes().all(is_hex) {
            return Err(missing());
        }
        let mut found = self.images.keys().filter(|id| id.hex().starts_with(hex));
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(*id),
            (Some(_), Some(_)) => Err(EngineError::Ambiguous(text.to_owned())),
            (None, _) => Err(missing()),
        }
    }

    /// The key in the table of names that a text means. A digest beside a tag is what counts.
    pub(super) fn name(&self, text: &str) -> Option<String> {
        let reference: Reference = text.parse().ok()?;
        let key = match reference.digest() {
            Some(digest) => reference.with_digest(digest).to_string(),
            None => reference.with_default_tag().to_string(),
        };
        self.tags.contains_key(&key).then_some(key)
    }

    /// `name@sha256:…`: the digest of the manifest, under a name that the image has.
    fn find_by_digest(&self, text: &str) -> Option<Digest> {
        let reference: Reference = text.parse().ok()?;
        let digest = reference.digest()?;
        let repository = reference.name();
        let named = |id: &Digest| {
            self.names_of(id).iter().any(|(name, _)| {
                name.parse::<Reference>()
                    .is_ok_and(|name| name.name() == repository)
            })
        };
        self.images
            .iter()
            .find(|(id, known)| known.record.manifest.digest == digest && named(id))
            .map(|(id, _)| *id)
    }
}

pub(super) fn know(record: ImageRecord, used_ns: i64, origin: Origin) -> Result<Known> {
    let config = serde_json::to_value(&record.config)
        .map_err(|e| EngineError::step("read the image", ErrorKind::Internal, e))?;
    Ok(Known {
        created_ns: record
            .config
            .created
            .as_deref()
            .and_then(logs::time_ns)
            .unwrap_or_default(),
        used_ns,
        origin,
        defaults: Arc::new(defaults(&record.config.config)),
        config: Arc::new(config),
        record: Arc::new(record),
    })
}

/// What a container inherits.
pub(crate) fn defaults(run: &RunConfig) -> ContainerConfig {
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

pub(super) fn diff_ids(record: &ImageRecord) -> Vec<Digest> {
    record.layers.iter().map(|layer| layer.diff_id).collect()
}

pub(super) fn platform_of(record: &ImageRecord) -> Platform {
    Platform {
        os: record.config.os.clone(),
        architecture: record.config.architecture.clone(),
        variant: record.config.variant.clone(),
        ..Platform::default()
    }
}

/// A name in the form that people type.
pub(super) fn familiar(name: &str) -> String {
    name.parse::<Reference>()
        .map_or_else(|_| name.to_owned(), |name| name.familiar())
}

fn view(tables: &Tables, id: &Digest, known: &Known, names: &[(&str, Tagged)]) -> Image {
    let (digests, tags): (Vec<_>, Vec<_>) = names.iter().partition(|(name, _)| name.contains('@'));
    let shown = |names: &[(&str, Tagged)]| names.iter().map(|(name, _)| familiar(name)).collect();
    let tagged_ns = tags.iter().map(|(_, tagged)| tagged.at_ns).max();
    let record = &known.record;
    Image {
        id: *id,
        tags: shown(&tags),
        digests: shown(&digests),
        config: known.config.clone(),
        size: record.size,
        created_ns: known.created_ns,
        tagged_ns: tagged_ns.unwrap_or_default(),
        layers: diff_ids(record),
        layer_sizes: record.layer_sizes.clone(),
        manifest: record.manifest.digest,
        manifest_bytes: record.manifest.size,
        manifest_type: record.manifest_type.clone(),
        content_bytes: content_bytes(record),
        containers: 0,
        parent: known
            .origin
            .parent
            .filter(|parent| tables.images.contains_key(parent)),
    }
}

/// Bytes of the manifest and of the layers as they came.
fn content_bytes(record: &ImageRecord) -> u64 {
    let blobs: BTreeMap<Digest, u64> = record
        .layers
        .iter()
        .map(|layer| (layer.blob.digest, layer.blob.size))
        .collect();
    blobs.values().sum::<u64>() + record.manifest.size
}
