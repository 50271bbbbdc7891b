//! Images: which there are, what they are called, and what comes of load, import and removal.
//!
//! ```text
//! table.rs     what is known, in memory
//! origin.rs    where an image came from: index, referrers, parent
//! archive.rs   load, import, save
//! platform.rs  what images run on, against what is wanted
//! remove.rs    names and images go: rmi, prune
//! sweep.rs     bytes go that nobody names
//! collect.rs   images go by age and size
//! durable.rs   layers survive a crash of the host
//! ```
//!
//! The bytes are hull-storage's; the table of images and tags is the store's. A change is first
//! on the disk (blobs and layers, which nobody sees without a record), then in the store, then
//! in memory; a removal goes the other way round, so that a crash leaves only unseen bytes.

mod archive;
mod collect;
mod durable;
mod origin;
mod platform;
mod remove;
mod sweep;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use hull_model::Digest;
use hull_model::event::Subject;
use hull_storage::image::{ImageRecord, Reference};

use crate::clock::now_ns;
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::object::container::to_json;
use crate::store::{Change, Key};

pub(crate) use archive::{download, import, import_docker, load, save};
pub(crate) use collect::collect_forever;
pub(crate) use durable::after_boot;
pub(crate) use origin::Origin;
pub(super) use platform::parse_platform;
pub(crate) use platform::{check_platform, is_for};
pub(crate) use remove::{prune, remove};
pub(crate) use sweep::{Scope, sweep, sweep_at_start, usage};
pub(crate) use table::{ImageTable, defaults};
use table::{Stored, Tagged, know};

pub(super) fn storage_error(step: &str) -> impl FnOnce(hull_storage::Error) -> EngineError {
    let step = step.to_owned();
    move |error| EngineError::step(step, error.kind(), error)
}

pub(crate) fn parse(text: &str) -> Result<Reference> {
    text.parse::<Reference>().map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        EngineError::Invalid(
            cause.map_or_else(|| error.to_string(), |why| format!("{error}: {why}")),
        )
    })
}

/// Tells of an image, by its id; `name` is what it was called, or its id again as in Docker.
pub(super) fn event(core: &Core, action: &str, id: &Digest, name: Option<String>) {
    let name = name.unwrap_or_else(|| id.to_string());
    let attributes = BTreeMap::from([("name".to_owned(), name)]);
    core.events
        .publish(Subject::Image, action, id.to_string(), attributes);
}

/// Writes a whole image and its names down.
///
/// The caller holds `sweep` shared since before its first blob. An image that is there already
/// keeps the manifest that it came with, unless one of the names is the digest of the new one: the
/// manifest that a registry knows is worth more than one that an archive made us write.
pub(crate) async fn add(
    core: &Arc<Core>,
    record: ImageRecord,
    names: &[Reference],
) -> Result<Digest> {
    add_from(core, record, names, Origin::default()).await
}

/// The same with what is known of where it came from.
pub(crate) async fn add_from(
    core: &Arc<Core>,
    record: ImageRecord,
    names: &[Reference],
    origin: Origin,
) -> Result<Digest> {
    let id = record.id;
    let by_digest = names
        .iter()
        .any(|name| name.digest() == Some(record.manifest.digest));
    let used_ns = now_ns();
    let layers: Vec<Digest> = record.layers.iter().map(|layer| layer.diff_id).collect();
    let known = know(record, used_ns, origin)?;
    let _changing = core.images.changing.lock().await;
    let before = core.images.lock().images.get(&id).cloned();
    let origin = known.origin.clone();
    let origin = origin.or_before(before.as_ref().map(|before| &before.origin));
    let (mut stays, goes) = match before {
        Some(before) if before.record.manifest != known.record.manifest && !by_digest => {
            (before, Some(known))
        }
        before => (known, before),
    };
    stays.origin = origin;
    let at_ns = now_ns();
    let stored = Stored::of(&stays);
    let mut changes = vec![Change::put(Key::Image(*id.as_bytes()), to_json(&stored))];
    changes.extend(names.iter().map(|name| name_change(name, &id, at_ns)));
    core.store.commit(changes).await?;
    durable::sync_later(core, layers).await;
    {
        let mut tables = core.images.lock();
        tables.unreadable.remove(&id);
        tables.images.insert(id, stays);
        for name in names {
            let tagged = Tagged { image: id, at_ns };
            tables.tags.insert(key_of(name), tagged);
        }
    }
    if let Some(goes) = goes {
        sweep::sweep(core, sweep::Scope::of(&goes)).await?;
    }
    Ok(id)
}

/// Tells of the names that an image was made with: of those that came with a pull or an archive Docker
/// does not tell.
pub(crate) fn tell_names(core: &Core, id: &Digest, names: &[Reference]) {
    for name in names {
        event(core, "tag", id, Some(name.familiar()));
    }
}

/// What a name is in the table: with a digest, a tag beside it does not count.
fn key_of(name: &Reference) -> String {
    match name.digest() {
        Some(digest) => name.with_digest(digest).to_string(),
        None => name.to_string(),
    }
}

fn name_change(name: &Reference, id: &Digest, at_ns: i64) -> Change {
    let mut value = id.as_bytes().to_vec();
    value.extend(at_ns.to_le_bytes());
    Change::put(Key::Tag(key_of(name)), value)
}

/// Gives an image a further name.
pub(crate) async fn tag(core: &Arc<Core>, name: &str, reference: &str) -> Result<()> {
    let reference = parse(reference)?.with_default_tag();
    if reference.digest().is_some() {
        return Err(EngineError::Invalid(
            "refusing to create a tag with a digest reference".to_owned(),
        ));
    }
    let _changing = core.images.changing.lock().await;
    let id = core.images.lock().find(name)?;
    let at_ns = now_ns();
    core.store
        .commit(vec![name_change(&reference, &id, at_ns)])
        .await?;
    let tagged = Tagged { image: id, at_ns };
    core.images
        .lock()
        .tags
        .insert(reference.to_string(), tagged);
    event(core, "tag", &id, Some(reference.familiar()));
    Ok(())
}

/// Remembers that an image was used for a container, for those who remove what nobody uses.
pub(crate) fn used(core: &Core, id: &Digest) {
    let now_ns = now_ns();
    let stored = core.images.lock().used(id, now_ns);
    if let Some(stored) = stored {
        let change = Change::put(Key::Image(*id.as_bytes()), to_json(&stored));
        core.store.record(vec![change]);
    }
}
