//! What may change while the engine runs, and the event that says so.
//!
//! Pulls and pushes under way go on with what they began with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hull_model::limits::{TRANSFERS_MAX, UPLOADS_MAX};
use hull_registry::{Hosts, RegistryOptions};

use crate::core::Core;
use crate::error::{EngineError, Result};

/// New values for what a running engine takes.
#[derive(Debug, Clone, Default)]
pub struct Reload {
    /// Mirrors, insecure registries, proxies.
    pub registries: RegistryOptions,
    /// Layers that are fetched at the same time; 0: the usual number.
    pub downloads_max: usize,
    /// Layers that are sent at the same time; 0: the usual number.
    pub uploads_max: usize,
    /// What subscribers are told of it.
    pub facts: BTreeMap<String, String>,
}

/// The values that are in force.
#[derive(Debug)]
pub(crate) struct Reloadable(Mutex<(Arc<Hosts>, usize)>);

impl Reloadable {
    /// The first values.
    ///
    /// # Errors
    /// Which option of registries cannot be used.
    pub(crate) fn new(registries: RegistryOptions, uploads_max: usize) -> Result<Self> {
        Ok(Self(Mutex::new((hosts(registries)?, uploads_max))))
    }

    /// Which servers stand for a registry.
    pub(crate) fn registries(&self) -> Arc<Hosts> {
        let values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        values.0.clone()
    }

    /// Layers that are sent at the same time.
    pub(crate) fn uploads_max(&self) -> usize {
        let values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match values.1 {
            0 => UPLOADS_MAX,
            given => given.min(TRANSFERS_MAX),
        }
    }
}

fn hosts(options: RegistryOptions) -> Result<Arc<Hosts>> {
    let hosts = Hosts::new(options).map_err(|error| EngineError::Invalid(error.to_string()))?;
    Ok(Arc::new(hosts))
}

/// Puts new values in force, all or none.
pub(crate) fn reload(core: &Core, new: Reload) -> Result<()> {
    let values = (hosts(new.registries)?, new.uploads_max);
    *core
        .reloadable
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = values;
    core.transfers.resize(new.downloads_max);
    core.publish_daemon("reload", new.facts);
    Ok(())
}
