//! Volumes: which there are, whose turn it is to change one, and what has one mounted.
//!
//! ```text
//!  create ─▶ Making ─▶ Ready ─▶ Removing ─▶ no record         life.rs
//!                       │  ▲
//!                       └──┴─ Moving (rename)
//!  export, import                                             archive.rs
//!  container: create names and fills them, start mounts them, the end lets go      container.rs
//! ```
//!
//! One task at a time changes a volume: it has the *turn*. A *hold* keeps a volume from going away
//! without keeping others from using it: that is what a container's creation takes until its record
//! names the volume. A *user* has it mounted.

mod archive;
mod container;
mod life;

pub(crate) use archive::{export, import};

pub(crate) use container::{
    InUse, Leaving, Prepared, Sources, prepare, recover, start_leaving, tell,
};
pub(crate) use life::{copy, create, prune, remove, rename, usage};

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_model::ErrorKind;
use hull_model::spec::{MountKind, VolumeSpec};
use hull_model::state::State;
use hull_storage::{VolumeBacking, VolumeError, Volumes};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use crate::api::{Container, Volume, VolumeUser};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::sizes::Use;
use crate::store::{Change, Contents, Key};

/// The label by which Docker's clients know a volume whose name was drawn.
const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// What is stored of a volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    v: u32,
    state: VolumeState,
    created_ns: i64,
    /// As given; none: none were.
    options: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    anonymous: bool,
    /// The volume that it is a read-only copy of.
    #[serde(default)]
    snapshot_of: Option<String>,
}

/// Where in its life a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum VolumeState {
    /// Nothing promised yet: found so at start-up, it is removed.
    Making,
    Ready,
    /// Its directory is being renamed from here.
    Moving(String),
    Removing,
}

impl VolumeRecord {
    fn new(spec: &VolumeSpec, anonymous: bool) -> Self {
        let mut labels = spec.labels.clone();
        if anonymous {
            let labels = labels.get_or_insert_default();
            labels.insert(ANONYMOUS_LABEL.to_owned(), String::new());
        }
        Self {
            v: 1,
            state: VolumeState::Making,
            created_ns: crate::clock::now_ns(),
            options: spec.options.clone(),
            labels,
            anonymous,
            snapshot_of: None,
        }
    }

    /// What it is made of. The options were checked when it was made.
    fn backing(&self) -> VolumeBacking {
        let options = self.options.clone().unwrap_or_default();
        VolumeBacking::parse(&options).unwrap_or(VolumeBacking::Directory)
    }

    fn in_state(&self, state: VolumeState) -> Self {
        Self {
            state,
            ..self.clone()
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    turn: Arc<tokio::sync::Mutex<()>>,
    inside: Mutex<Inside>,
    /// Who has it mounted: ids of containers, and names of our own work. Locked over the mount
    /// itself, so only by blocking work.
    users: Mutex<BTreeSet<String>>,
    /// How often somebody mounted it.
    mounted: AtomicU64,
}

#[derive(Debug, Default)]
struct Inside {
    /// None: not made yet, or gone.
    record: Option<VolumeRecord>,
    holds: usize,
}

impl Slot {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn users(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self) -> Option<VolumeRecord> {
        self.inside().record.clone()
    }
}

type Slots = Arc<Mutex<BTreeMap<String, Arc<Slot>>>>;

/// All volumes.
#[derive(Debug)]
pub(crate) struct VolumeTable {
    disk: Volumes,
    slots: Slots,
}

/// The right to change one volume, whether it is there or not.
#[derive(Debug)]
pub(crate) struct Turn {
    name: String,
    slot: Arc<Slot>,
    slots: Slots,
    _guard: OwnedMutexGuard<()>,
}

impl Turn {
    fn record(&self) -> Option<VolumeRecord> {
        self.slot.record()
    }

    fn set(&self, record: Option<VolumeRecord>) {
        self.slot.inside().record = record;
    }

    fn write(&self, record: &VolumeRecord) -> Change {
        let key = Key::Volume(self.name.clone());
        Change::put(key, super::container::to_json(record))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let current = slots.get(&self.name);
        let is_current = current.is_some_and(|current| Arc::ptr_eq(current, &self.slot));
        if is_current && self.slot.inside().record.is_none() {
            slots.remove(&self.name);
        }
    }
}

/// Keeps a volume from being removed.
#[derive(Debug)]
pub(crate) struct Hold(Arc<Slot>);

impl Hold {
    fn new(slot: &Arc<Slot>) -> Self {
        slot.inside().holds += 1;
        Self(slot.clone())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.inside().holds -= 1;
    }
}

impl VolumeTable {
    /// Reads the records; what they ask for is done by [`recover`].
    pub(crate) fn open(data_root: &Path, contents: &Contents) -> Result<Self> {
        let disk = Volumes::open(data_root).map_err(failed("open the volumes"))?;
        let mut slots = BTreeMap::new();
        for (name, bytes) in &contents.volumes {
            match serde_json::from_slice::<VolumeRecord>(bytes) {
                Ok(record) => {
                    let slot = Slot::default();
                    slot.inside().record = Some(record);
                    slots.insert(name.clone(), Arc::new(slot));
                }
                Err(error) => {
                    // Never repaired by guess and never removed: a person has to look.
                    tracing::error!(volume = name, %error, "a record cannot be read; it is left alone");
                }
            }
        }
        Ok(Self {
            disk,
            slots: Arc::new(Mutex::new(slots)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, name: &str) -> Option<Arc<Slot>> {
        self.lock().get(name).cloned()
    }

    /// Waits for the turn to change a volume, which need not be there.
    async fn turn(&self, name: &str) -> Turn {
        loop {
            let slot = self.lock().entry(name.to_owned()).or_default().clone();
            let guard = slot.turn.clone().lock_owned().await;
            // Who had the turn before may have removed it: then this is nobody's any more.
            if self
                .slot(name)
                .is_some_and(|current| Arc::ptr_eq(&current, &slot))
            {
                return Turn {
                    name: name.to_owned(),
                    slot,
                    slots: self.slots.clone(),
                    _guard: guard,
                };
            }
        }
    }

    /// The turn, if nobody has it.
    fn try_turn(&self, name: &str) -> Option<Turn> {
        let slot = self.slot(name)?;
        let guard = slot.turn.clone().try_lock_owned().ok()?;
        Some(Turn {
            name: name.to_owned(),
            slot,
            slots: self.slots.clone(),
            _guard: guard,
        })
    }

    /// The volumes that are there, by name.
    fn ready(&self) -> Vec<(String, VolumeRecord)> {
        let slots = self.lock();
        let records = slots
            .iter()
            .filter_map(|(name, slot)| Some((name.clone(), slot.record()?)));
        records
            .filter(|(_, record)| record.state == VolumeState::Ready)
            .collect()
    }

    /// Where its contents are.
    pub(crate) fn data(&self, name: &str) -> std::path::PathBuf {
        self.disk.data(name)
    }

    /// Keeps a volume from going away.
    fn hold(&self, name: &str) -> Result<Hold> {
        let missing = || EngineError::NoSuchVolume(name.to_owned());
        let slot = self.slot(name).ok_or_else(missing)?;
        let mut inside = slot.inside();
        match &inside.record {
            Some(record) if record.state == VolumeState::Ready => inside.holds += 1,
            _ => return Err(missing()),
        }
        drop(inside);
        Ok(Hold(slot))
    }

    /// Mounts what a volume is made of for a user; a plain directory needs nothing.
    fn acquire(&self, name: &str, user: &str) -> Result<VolumeRecord> {
        let missing = || EngineError::NoSuchVolume(name.to_owned());
        let slot = self.slot(name).ok_or_else(missing)?;
        // Held over the mount, so that the last user's farewell cannot come between.
        let mut users = slot.users();
        let record = slot.record().ok_or_else(missing)?;
        let backing = record.backing();
        let data = self.disk.data(name);
        self.disk
            .mount(name, &backing)
            .map_err(|error| not_mounted(&data, error))?;
        if users.is_empty() && backing.is_mounted() {
            self.disk
                .settle(name, &backing)
                .map_err(failed("finish the first copy into a volume"))?;
        }
        users.insert(user.to_owned());
        slot.mounted.fetch_add(1, Ordering::Relaxed);
        Ok(record)
    }

    /// Whether somebody has it mounted now.
    pub(crate) fn is_used(&self, name: &str) -> Use {
        let Some(slot) = self.slot(name) else {
            return Use::Busy;
        };
        // Locked while it is being mounted, which may take long.
        match slot.users.try_lock() {
            Ok(users) if users.is_empty() => Use::Idle(slot.mounted.load(Ordering::Relaxed)),
            _ => Use::Busy,
        }
    }

    /// Takes a user away, and with the last one what was mounted.
    fn release(&self, name: &str, user: &str) -> Result<()> {
        let Some(slot) = self.slot(name) else {
            return Ok(());
        };
        let mut users = slot.users();
        users.remove(user);
        if !users.is_empty() {
            return Ok(());
        }
        self.disk.unmount(name).map_err(failed("unmount a volume"))
    }
}

fn failed(step: &'static str) -> impl FnOnce(VolumeError) -> EngineError {
    move |error| EngineError::step(step, error.kind(), error)
}

/// In the words that Docker's clients know. Never "not found": a client would take that for the
/// image.
fn not_mounted(data: &Path, error: VolumeError) -> EngineError {
    let step = format!("error while mounting volume '{}'", data.display());
    EngineError::step(step, ErrorKind::Internal, error)
}

/// Names of the volumes that a container has, each once.
pub(crate) fn names_of(container: &hull_model::spec::ContainerSpec) -> BTreeSet<&str> {
    let mounts = container.host.mounts.iter();
    mounts
        .filter_map(|mount| match &mount.kind {
            MountKind::Volume { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

/// Containers by the volumes that they have.
fn users(core: &Core) -> BTreeMap<String, Vec<VolumeUser>> {
    let mut users = BTreeMap::<String, Vec<VolumeUser>>::new();
    for container in core.containers.snapshots() {
        for name in names_of(&container.spec) {
            let user = VolumeUser {
                id: container.id,
                name: container.spec.name.clone(),
                writes: writes(&container, name),
            };
            users.entry(name.to_owned()).or_default().push(user);
        }
    }
    users
}

/// Whether it can write to a volume now.
fn writes(container: &Container, volume: &str) -> bool {
    let live = matches!(
        container.state,
        State::Starting | State::Running | State::Paused
    );
    let has = |mount: &hull_model::spec::MountSpec| {
        !mount.readonly && matches!(&mount.kind, MountKind::Volume { name, .. } if name == volume)
    };
    live && container.spec.host.mounts.iter().any(has)
}

fn view(core: &Core, name: &str, record: &VolumeRecord, users: Vec<VolumeUser>) -> Volume {
    Volume {
        name: name.to_owned(),
        options: record.options.clone(),
        labels: record.labels.clone(),
        created_ns: record.created_ns,
        mountpoint: core.volumes.data(name),
        anonymous: record.anonymous,
        snapshot_of: record.snapshot_of.clone(),
        users,
    }
}

/// All volumes, by name.
pub(crate) fn list(core: &Core) -> Vec<Volume> {
    let mut users = users(core);
    let ready = core.volumes.ready();
    ready
        .iter()
        .map(|(name, record)| view(core, name, record, users.remove(name).unwrap_or_default()))
        .collect()
}

/// One volume.
pub(crate) fn inspect(core: &Core, name: &str) -> Result<Volume> {
    let record = core.volumes.slot(name).and_then(|slot| slot.record());
    match record {
        Some(record) if record.state == VolumeState::Ready => {
            let users = users(core).remove(name).unwrap_or_default();
            Ok(view(core, name, &record, users))
        }
        _ => Err(EngineError::NoSuchVolume(name.to_owned())),
    }
}

/// Differences between records and directories, as sentences.
pub(crate) fn differences(core: &Core) -> Vec<String> {
    let mut problems = Vec::new();
    let before: BTreeSet<String> = core.volumes.lock().keys().cloned().collect();
    for name in core.volumes.disk.names() {
        if !before.contains(&name) && core.volumes.slot(&name).is_none() {
            problems.push(format!(
                "the directory of volume {name} has no record; create the volume to take it over, \
                 or remove the directory"
            ));
        }
    }
    for (name, record) in core.volumes.ready() {
        let data = core.volumes.data(&name);
        let Some(slot) = core.volumes.slot(&name) else {
            continue;
        };
        let users = slot.users();
        if !data.is_dir() {
            problems.push(format!("volume {name} has no directory {}", data.display()));
        } else if !record.backing().is_mounted() && core.volumes.disk.is_unsettled(&name) {
            let idle = slot.turn.try_lock().is_ok();
            if idle && core.volumes.disk.is_unsettled(&name) {
                problems.push(format!("the first copy into volume {name} is half done"));
            }
        } else if users.is_empty() && core.volumes.disk.is_mounted(&name) {
            problems.push(format!("volume {name} is mounted and nobody uses it"));
        }
    }
    problems
}
