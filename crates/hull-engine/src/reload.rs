//! What may change while the engine runs, and the event that says so.
//!
//! Pulls and pushes under way go on with what they began with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_model::limits::{TRANSFERS_MAX, UPLOADS_MAX};
use hull_registry::{Hosts, RegistryOptions};
use tokio::sync::Notify;

use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::{EngineConfig, ImageGc};

/// New values for what a running engine takes.
#[derive(Debug, Clone, Default)]
pub struct Reload {
    /// Mirrors, insecure registries, proxies.
    pub registries: RegistryOptions,
    /// Layers that are fetched at the same time; 0: the usual number.
    pub downloads_max: usize,
    /// Layers that are sent at the same time; 0: the usual number.
    pub uploads_max: usize,
    /// When images that nobody uses go.
    pub image_gc: ImageGc,
    /// What subscribers are told of it.
    pub facts: BTreeMap<String, String>,
}

/// The values that are in force.
#[derive(Debug)]
pub(crate) struct Reloadable {
    values: Mutex<Values>,
    /// Wakes who waits for the time that a value says.
    pub(crate) changed: Notify,
}

#[derive(Debug)]
struct Values {
    registries: Arc<Hosts>,
    uploads_max: usize,
    image_gc: ImageGc,
}

impl Reloadable {
    /// The first values.
    ///
    /// # Errors
    /// Which option of registries cannot be used.
    pub(crate) fn new(config: &EngineConfig) -> Result<Self> {
        let values = Values {
            registries: hosts(config.registries.clone())?,
            uploads_max: config.uploads_max,
            image_gc: config.image_gc,
        };
        Ok(Self {
            values: Mutex::new(values),
            changed: Notify::new(),
        })
    }

    fn values(&self) -> MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which servers stand for a registry.
    pub(crate) fn registries(&self) -> Arc<Hosts> {
        self.values().registries.clone()
    }

    /// Layers that are sent at the same time.
    pub(crate) fn uploads_max(&self) -> usize {
        match self.values().uploads_max {
            0 => UPLOADS_MAX,
            given => given.min(TRANSFERS_MAX),
        }
    }

    /// When images that nobody uses go.
    pub(crate) fn image_gc(&self) -> ImageGc {
        self.values().image_gc
    }
}

fn hosts(options: RegistryOptions) -> Result<Arc<Hosts>> {
    let hosts = Hosts::new(options).map_err(|error| EngineError::Invalid(error.to_string()))?;
    Ok(Arc::new(hosts))
}

/// Puts new values in force, all or none.
pub(crate) fn reload(core: &Core, new: Reload) -> Result<()> {
    let values = Values {
        registries: hosts(new.registries)?,
        uploads_max: new.uploads_max,
        image_gc: new.image_gc,
    };
    *core.reloadable.values() = values;
    core.reloadable.changed.notify_waiters();
    core.transfers.resize(new.downloads_max);
    core.publish_daemon("reload", new.facts);
    Ok(())
}
