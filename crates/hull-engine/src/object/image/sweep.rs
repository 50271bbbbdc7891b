//! Bytes go that nobody names: parts of images that were removed, and what a crash or a failed
//! load left.
//!
//! A name is taken away under the lock, in microseconds; the blocks are given back after it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hull_model::Digest;
use hull_storage::{Discarded, Usage};
use tokio::sync::OwnedRwLockWriteGuard;

use super::storage_error;
use super::table::{Known, Named};
use crate::api::{ImageUsage, ImagesUsage};
use crate::core::Core;
use crate::error::Result;
use crate::jobs::Pool;

/// Pause between two looks whether bytes still come in.
const SWEEP_PAUSE: Duration = Duration::from_millis(50);
/// Looks before the sweep is left to the next removal.
const SWEEP_TRIES_MAX: u32 = 20_000;
/// How long a removal waits for the blocks: small images are gone when it answers.
const FREE_PATIENCE: Duration = Duration::from_millis(20);

/// Where to look for what nobody names.
#[derive(Debug)]
pub(crate) enum Scope {
    /// Everywhere.
    All,
    /// Everywhere, after a pull that failed: its blobs are kept for the next attempt.
    Unfinished,
    /// Among these.
    Parts(Named),
}

impl Scope {
    /// Among the parts of an image.
    pub(super) fn of(known: &Known) -> Self {
        let mut named = Named::default();
        named.add(known);
        Self::Parts(named)
    }
}

/// Removes blobs and layers that neither an image nor a container names: at once, or as soon as
/// no load, import or create is between its bytes and its record. (Waiting for the lock in line
/// would make creates wait for loads.)
pub(crate) async fn sweep(core: &Arc<Core>, scope: Scope) -> Result<()> {
    if let Ok(alone) = core.images.sweep.clone().try_write_owned() {
        return sweep_alone(core, alone, scope).await;
    }
    let core = core.clone();
    tokio::spawn(async move {
        for _ in 0..SWEEP_TRIES_MAX {
            tokio::time::sleep(SWEEP_PAUSE).await;
            if let Ok(alone) = core.images.sweep.clone().try_write_owned() {
                if let Err(error) = sweep_alone(&core, alone, scope).await {
                    tracing::warn!(error = %error.chain(), "sweep of unnamed layers");
                }
                return;
            }
        }
    });
    Ok(())
}

async fn sweep_alone(
    core: &Arc<Core>,
    alone: OwnedRwLockWriteGuard<()>,
    scope: Scope,
) -> Result<()> {
    let job = core.clone();
    let discarded = core
        .jobs
        .run(Pool::Disk, move || {
            let _alone = alone;
            discard(&job, &scope)
        })
        .await??;
    let job = core.clone();
    let freeing =
        tokio::spawn(async move { job.jobs.run(Pool::Disk, move || drop(discarded)).await });
    drop(tokio::time::timeout(FREE_PATIENCE, freeing).await);
    Ok(())
}

/// What images and containers name; none when that is not all known, because an image could not
/// be read: then nothing is removed, for it might be a part of that one.
fn named(core: &Core) -> Option<Named> {
    let (mut named, complete) = core.images.named();
    if !complete {
        tracing::warn!("an image cannot be read; unnamed blobs and layers are left where they are");
        return None;
    }
    let containers = core.containers.snapshots();
    named
        .layers
        .extend(containers.iter().flat_map(|container| &container.layers));
    Some(named)
}

fn discard(core: &Core, scope: &Scope) -> Result<Vec<Discarded>> {
    let old = core.storage.remove_old_partials();
    old.map_err(storage_error("remove old downloads"))?;
    let Some(named) = named(core) else {
        return Ok(Vec::new());
    };
    let (layers, blobs): (Vec<Digest>, Vec<Digest>) = match scope {
        Scope::Parts(parts) => (
            parts.layers.iter().copied().collect(),
            parts.blobs.iter().copied().collect(),
        ),
        Scope::All | Scope::Unfinished => {
            let layers = core.storage.layers();
            let blobs = core.storage.blobs();
            let blobs = blobs.map_err(storage_error("list the blobs"))?;
            (
                layers.map_err(storage_error("list the layers"))?,
                blobs.into_iter().map(|blob| blob.digest).collect(),
            )
        }
    };
    let mut discarded = Vec::new();
    for layer in layers.iter().filter(|layer| !named.layers.contains(layer)) {
        core.mounts.release(layer);
        let gone = core.storage.discard_layer(layer);
        discarded.extend(gone.map_err(storage_error("remove a layer"))?);
    }
    for blob in blobs.iter().filter(|blob| !named.blobs.contains(blob)) {
        if let Scope::Unfinished = scope {
            let kept = core.storage.keep_as_partial(blob);
            kept.map_err(storage_error("keep a blob for later"))?;
            continue;
        }
        let gone = core.storage.discard_blob(blob);
        discarded.extend(gone.map_err(storage_error("remove a blob"))?);
        if let Scope::Parts(_) = scope {
            // A sweep after a failed pull may have come first, and kept what was removed on purpose.
            let gone = core.storage.remove_partial(blob);
            gone.map_err(storage_error("remove the beginning of a blob"))?;
        }
    }
    Ok(discarded)
}

/// Removes what a crash left between its bytes and its record, before anybody can ask for more. What
/// a pull had fetched waits for the next one.
pub(crate) async fn sweep_at_start(core: &Arc<Core>) {
    if let Err(error) = sweep(core, Scope::Unfinished).await {
        tracing::warn!(error = %error.chain(), "sweep of what a crash left");
    }
}

/// What images take on the disk.
pub(crate) async fn usage(core: &Arc<Core>) -> Result<ImagesUsage> {
    let job = core.clone();
    let usage = core
        .jobs
        .run(Pool::Disk, move || job.storage.usage())
        .await?
        .map_err(storage_error("measure the images"))?;
    Ok(share(core, &usage))
}

/// Splits what lies there among those who name it.
fn share(core: &Core, usage: &Usage) -> ImagesUsage {
    let records: BTreeMap<Digest, Named> = {
        let tables = core.images.lock();
        let parts = tables.images.iter().map(|(id, known)| {
            let mut named = Named::default();
            named.add(known);
            (*id, named)
        });
        parts.collect()
    };
    let (mut blobs, mut layers) = (BTreeMap::new(), BTreeMap::new());
    for parts in records.values() {
        count(&mut blobs, &parts.blobs);
        count(&mut layers, &parts.layers);
    }
    let sum = |parts: &Named, least: usize| {
        let of = |names: &HashSet<Digest>,
                  users: &BTreeMap<Digest, usize>,
                  sizes: &BTreeMap<Digest, u64>| {
            names
                .iter()
                .filter(|name| users.get(name).is_some_and(|&users| users >= least))
                .filter_map(|name| sizes.get(name))
                .sum::<u64>()
        };
        of(&parts.blobs, &blobs, &usage.blobs) + of(&parts.layers, &layers, &usage.layers)
    };
    let images = core.images.list().into_iter().filter_map(|image| {
        let parts = records.get(&image.id)?;
        Some(ImageUsage {
            total: sum(parts, 1),
            shared: sum(parts, 2),
            image,
        })
    });
    ImagesUsage {
        images: images.collect(),
        total: usage.total(),
    }
}

fn count(users: &mut BTreeMap<Digest, usize>, names: &HashSet<Digest>) {
    for name in names {
        *users.entry(*name).or_default() += 1;
    }
}
