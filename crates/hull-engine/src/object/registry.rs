//! Which containers there are: ids, names, and how to reach their owners.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_model::SandboxId;

use crate::api::Container;
use crate::error::{EngineError, Result};
use crate::object::container::Handle;

#[derive(Debug, Default)]
struct Tables {
    handles: BTreeMap<SandboxId, Handle>,
    /// A name is here before its container is, so that two creates never get the same.
    names: HashMap<String, SandboxId>,
    /// Removed for everybody, but their last files are still going.
    leaving: HashSet<SandboxId>,
}

/// The containers by id and name. Its lock is held for look-ups only, never over a wait.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Tables>);

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a name.
    pub(crate) fn take_name(&self, name: &str, id: SandboxId) -> Result<()> {
        crate::name::check(name)?;
        let mut tables = self.lock();
        if let Some(holder) = tables.names.get(name) {
            return Err(EngineError::NameTaken {
                name: name.to_owned(),
                holder: *holder,
            });
        }
        tables.names.insert(name.to_owned(), id);
        Ok(())
    }

    /// Gives a name back, when it is that container's.
    pub(crate) fn free_name(&self, name: &str, id: SandboxId) {
        let mut tables = self.lock();
        if tables.names.get(name) == Some(&id) {
            tables.names.remove(name);
        }
    }

    pub(crate) fn insert(&self, id: SandboxId, name: &str, handle: Handle) {
        let mut tables = self.lock();
        tables.names.insert(name.to_owned(), id);
        tables.handles.insert(id, handle);
    }

    /// Nobody finds it any more; what is left of it goes until [`Registry::gone`].
    pub(crate) fn forget(&self, id: SandboxId, name: &str) {
        let mut tables = self.lock();
        tables.handles.remove(&id);
        tables.leaving.insert(id);
        drop(tables);
        self.free_name(name, id);
    }

    pub(crate) fn gone(&self, id: SandboxId) {
        self.lock().leaving.remove(&id);
    }

    /// Containers whose last files are still going.
    pub(crate) fn leaving(&self) -> Vec<SandboxId> {
        self.lock().leaving.iter().copied().collect()
    }

    pub(crate) fn handle(&self, id: SandboxId) -> Result<Handle> {
        let tables = self.lock();
        let found = tables.handles.get(&id).cloned();
        found.ok_or_else(|| EngineError::NoSuchContainer(id.to_string()))
    }

    /// Finds by full id, then by name, then by unique id prefix, as Docker does.
    pub(crate) fn resolve(&self, text: &str) -> Result<SandboxId> {
        let missing = || EngineError::NoSuchContainer(text.to_owned());
        let tables = self.lock();
        if let Ok(id) = text.parse::<SandboxId>() {
            return if tables.handles.contains_key(&id) {
                Ok(id)
            } else {
                Err(missing())
            };
        }
        let name = text.strip_prefix('/').unwrap_or(text);
        if let Some(id) = tables.names.get(name)
            && tables.handles.contains_key(id)
        {
            return Ok(*id);
        }
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(hex) {
            return Err(missing());
        }
        let first: SandboxId = format!("{text:0<64}").parse().map_err(|_| missing())?;
        let mut found = tables
            .handles
            .range(first..)
            .map(|(id, _)| *id)
            .take_while(|id| id.to_string().starts_with(text));
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id),
            (Some(_), Some(_)) => Err(EngineError::Ambiguous(text.to_owned())),
            (None, _) => Err(missing()),
        }
    }

    /// Snapshots of all, newest first.
    pub(crate) fn snapshots(&self) -> Vec<Arc<Container>> {
        let tables = self.lock();
        let mut all: Vec<Arc<Container>> = tables
            .handles
            .values()
            .map(|handle| handle.snapshot.borrow().clone())
            .collect();
        drop(tables);
        all.sort_by_key(|container| std::cmp::Reverse(container.created_ns));
        all
    }

    pub(crate) fn handles(&self) -> Vec<(SandboxId, Handle)> {
        self.lock()
            .handles
            .iter()
            .map(|(id, handle)| (*id, handle.clone()))
            .collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().handles.len()
    }
}
