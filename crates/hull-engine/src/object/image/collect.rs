//! Garbage collection: images that nobody uses go by age and by size, if the daemon is told so.
//!
//! Used is an image while a container has it; the clock starts when it came or was last used for a
//! container. Those that are longest unused go first, with all of their names.

use std::sync::Arc;
use std::time::Duration;

use super::remove::remove;
use super::usage;
use crate::ImageGc;
use crate::api::ImagesUsage;
use crate::clock::now_ns;
use crate::core::Core;
use crate::error::{EngineError, Result};

/// Pause between two looks.
const COLLECT_PAUSE: Duration = Duration::from_secs(60);

/// Collects now and again, for as long as the daemon lives; while nothing is to be, it only waits for
/// other limits.
pub(crate) fn collect_forever(core: &Arc<Core>) {
    let core = core.clone();
    tokio::spawn(async move {
        loop {
            // From before the look: limits that come meanwhile are not missed.
            let changed = core.reloadable.changed.notified();
            let limits = core.reloadable.image_gc();
            if limits == ImageGc::default() {
                changed.await;
                continue;
            }
            if let Err(error) = collect(&core, limits).await {
                tracing::warn!(error = %error.chain(), "garbage collection of images");
            }
            drop(tokio::time::timeout(COLLECT_PAUSE, changed).await);
        }
    });
}

async fn collect(core: &Arc<Core>, limits: ImageGc) -> Result<()> {
    for (id, used_ns) in unused(core) {
        let age_ns = now_ns().saturating_sub(used_ns);
        let too_old = limits
            .unused_for
            .is_some_and(|limit| u128::try_from(age_ns).is_ok_and(|age| age > limit.as_nanos()));
        if !too_old && !is_too_large(limits, &usage(core).await?) {
            return Ok(());
        }
        match remove(core, &id, true).await {
            Ok(_) => tracing::info!(image = id, too_old, "an unused image is removed"),
            // It came into use, or went, meanwhile.
            Err(EngineError::ImageInUse { .. } | EngineError::NoSuchImage(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_too_large(limits: ImageGc, usage: &ImagesUsage) -> bool {
    limits.bytes_max.is_some_and(|limit| usage.total > limit)
}

/// Images without a container, the longest unused first.
fn unused(core: &Core) -> Vec<(String, i64)> {
    let containers = core.containers.snapshots();
    for container in &containers {
        super::used(core, &container.spec.image);
    }
    let tables = core.images.lock();
    let mut unused: Vec<(String, i64)> = tables
        .images
        .iter()
        .filter(|(id, _)| {
            containers
                .iter()
                .all(|container| !container.spec.has_image(id))
        })
        .map(|(id, known)| (id.to_string(), known.used_ns))
        .collect();
    unused.sort_by_key(|(_, used_ns)| *used_ns);
    unused
}
