//! Layers survive a crash of the host: at once by their blobs, which are synced before an image has a
//! record, and by themselves once they are synced too, behind the answer.
//!
//! After another boot a layer that was not synced is made again from its blob.

use std::sync::Arc;

use hull_model::Digest;

use super::storage_error;
use crate::core::Core;
use crate::error::Result;
use crate::jobs::Pool;
use crate::store::{Change, Contents, Key};

/// Where the store keeps in which boot it was opened last.
const BOOT: &str = "boot";

/// Syncs layers when there is time for it. The caller holds `sweep` shared.
pub(super) async fn sync_later(core: &Arc<Core>, layers: Vec<Digest>) {
    if layers.is_empty() {
        return;
    }
    // A layer that goes meanwhile must not leave a mark.
    let held = core.images.sweep.clone().read_owned().await;
    let core = core.clone();
    tokio::spawn(async move {
        let job = core.clone();
        let synced = core.jobs.run(Pool::Disk, move || {
            let _held = held;
            let mut layers = layers.iter();
            layers.try_for_each(|layer| match job.storage.is_synced(layer) {
                true => Ok(()),
                false => job.storage.sync_layer(layer),
            })
        });
        if let Ok(Err(error)) = synced.await {
            // It stays one that is made again after another boot.
            tracing::warn!(%error, "a layer cannot be synced");
        }
    });
}

/// Makes layers again of which nobody knows what the disk has of them; syncs those of this boot.
pub(crate) async fn after_boot(core: &Arc<Core>, contents: &Contents) -> Result<()> {
    let before = contents.meta.iter().find(|(key, _)| key == BOOT);
    let same = before.is_some_and(|(_, boot)| boot == core.boot_id.as_bytes());
    let unsynced = core.storage.unsynced_layers();
    let unsynced = unsynced.map_err(storage_error("list the layers"))?;
    let wanted = core.images.blobs_of(&unsynced);
    if same {
        sync_later(core, wanted.into_iter().map(|(layer, _)| layer).collect()).await;
        return Ok(());
    }
    let job = core.clone();
    let remade = core.jobs.run(Pool::Disk, move || {
        for (layer, blob) in wanted {
            tracing::info!(%layer, "making a layer again that was not synced");
            if let Err(error) = job.storage.remake_layer(&layer, &blob) {
                tracing::error!(%layer, %error, "a layer cannot be made again; load its image");
            }
        }
    });
    remade.await?;
    let boot = core.boot_id.clone().into_bytes();
    core.store
        .commit(vec![Change::put(Key::Meta(BOOT), boot)])
        .await
}
