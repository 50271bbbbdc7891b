//! What containers do with volumes: name and fill them at create, mount them at start, let go at the
//! end, take anonymous ones along when they are removed; and what a crash left of all that.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use hull_model::spec::{ContainerSpec, HostConfig, MountForm, MountKind, MountSpec, VolumeSpec};
use hull_model::{Digest, ErrorKind, SandboxId};
use hull_os::mount;

use super::life::{
    being_removed, draw_name, event, finish_removal, finish_rename, made, make, unmake,
};
use super::{Hold, Turn, VolumeRecord, VolumeState, VolumeTable, failed, names_of, users};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::object::image_mount;
use crate::store::Change;

/// Under which name a first copy has a volume mounted.
const FILLING: &str = "filling";

/// Volumes of a container that is being created: none of them goes away meanwhile, and those that
/// were made for it are nobody else's before its record is written.
#[derive(Debug)]
pub(crate) struct Prepared {
    core: Arc<Core>,
    made: Vec<(Turn, VolumeRecord)>,
    _holds: Vec<Hold>,
}

impl Prepared {
    /// To be written together with the container's record.
    pub(crate) fn writes(&self) -> Vec<Change> {
        let ready = |(turn, record): &(Turn, VolumeRecord)| turn.write(record);
        self.made.iter().map(ready).collect()
    }

    /// The record is written. The caller keeps this until others see the container.
    pub(crate) fn committed(&mut self) {
        for (turn, record) in self.made.drain(..) {
            made(&self.core, &turn, &record);
        }
    }

    /// There will be no container.
    pub(crate) async fn abandon(self) {
        for (turn, _) in &self.made {
            unmake(&self.core, turn).await;
        }
    }
}

/// Draws names, makes volumes that are not there, and copies what the image has into empty ones.
pub(crate) async fn prepare(
    core: &Arc<Core>,
    host: &mut HostConfig,
    layers: &[Digest],
) -> Result<Prepared> {
    let mut prepared = Prepared {
        core: core.clone(),
        made: Vec::new(),
        _holds: Vec::new(),
    };
    // In the order of their names, so that two creations cannot wait for each other.
    let mut wanted = BTreeMap::<String, Vec<&MountSpec>>::new();
    for mount in &mut host.mounts {
        if let MountKind::Volume {
            name, anonymous, ..
        } = &mut mount.kind
            && name.is_empty()
        {
            (*name, *anonymous) = (draw_name()?, true);
        }
    }
    for mount in &host.mounts {
        if let MountKind::Volume { name, .. } = &mount.kind {
            wanted.entry(name.clone()).or_default().push(mount);
        }
    }
    for (name, mounts) in wanted {
        if let Err(error) = prepare_one(core, &mut prepared, &name, &mounts, layers).await {
            prepared.abandon().await;
            return Err(error);
        }
    }
    Ok(prepared)
}

async fn prepare_one(
    core: &Arc<Core>,
    prepared: &mut Prepared,
    name: &str,
    mounts: &[&MountSpec],
    layers: &[Digest],
) -> Result<()> {
    let default = (VolumeSpec::default(), false);
    let (spec, drawn) = mounts
        .iter()
        .find_map(|mount| match &mount.kind {
            MountKind::Volume {
                request, anonymous, ..
            } => Some((request.clone(), *anonymous)),
            _ => None,
        })
        .unwrap_or(default);
    let turn = core.volumes.turn(name).await;
    let record = match turn.record() {
        Some(record) if record.state == VolumeState::Ready => {
            prepared._holds.push(Hold::new(&turn.slot));
            record
        }
        Some(_) => return Err(being_removed(name)),
        None => {
            let record = make(core, &turn, VolumeRecord::new(&spec, drawn), &spec).await?;
            let record = record.in_state(VolumeState::Ready);
            prepared.made.push((turn, record.clone()));
            return fill(core, name, &record, mounts, layers).await;
        }
    };
    fill(core, name, &record, mounts, layers).await
}

/// Copies what the image has at the destinations, until the volume is not empty any more.
async fn fill(
    core: &Arc<Core>,
    name: &str,
    record: &VolumeRecord,
    mounts: &[&MountSpec],
    layers: &[Digest],
) -> Result<()> {
    let copied = mounts.iter().filter(|mount| {
        mount.form != MountForm::VolumesFrom
            && matches!(&mount.kind, MountKind::Volume { no_copy: false, subpath, .. } if subpath.is_empty())
    });
    let destinations: Vec<String> = copied.map(|mount| mount.destination.clone()).collect();
    let backing = record.backing();
    if destinations.is_empty() || backing.is_volatile() || record.snapshot_of.is_some() {
        return Ok(());
    }
    let (job, name, layers) = (core.clone(), name.to_owned(), layers.to_vec());
    let fill = move || {
        let volumes = &job.volumes;
        if !backing.is_mounted() && !volumes.is_empty(&name)? {
            return Ok(());
        }
        volumes.acquire(&name, FILLING)?;
        let filled = destinations.iter().try_for_each(|destination| {
            if !volumes.is_empty(&name)? {
                return Ok(());
            }
            match directory_of_image(&job, &layers, destination)? {
                Some(source) => volumes
                    .disk
                    .fill(&name, source.as_fd(), &backing)
                    .map_err(failed("copy from the image into a volume")),
                None => Ok(()),
            }
        });
        volumes.release(&name, FILLING).and(filled)
    };
    core.jobs.run(Pool::Disk, fill).await?
}

/// A directory as the image has it; none when it has none there.
fn directory_of_image(core: &Core, layers: &[Digest], path: &str) -> Result<Option<OwnedFd>> {
    let root = core.image_root(layers)?;
    let path = CString::new(path).map_err(|e| EngineError::io("read a path", e.into()))?;
    match mount::open_directory_in_root(root.as_fd(), &path) {
        Ok(found) => Ok(Some(found)),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(EngineError::io("look into the image", error)),
    }
}

/// Where the volumes of a container are, for as long as it starts: by destination.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    paths: BTreeMap<String, PathBuf>,
    /// What the paths of parts of volumes lead through.
    pub(crate) held: Vec<OwnedFd>,
    readonly: Vec<String>,
}

impl Sources {
    /// Something to be read that is open already.
    pub(crate) fn add(&mut self, destination: &str, place: OwnedFd) {
        let path = hull_os::process::path_of_own_descriptor(place.as_fd());
        self.paths.insert(destination.to_owned(), path);
        self.readonly.push(destination.to_owned());
        self.held.push(place);
    }

    /// Keeps what a path leads through.
    pub(crate) fn hold(&mut self, place: OwnedFd) {
        self.held.push(place);
    }

    /// With those of another kind.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.paths.extend(other.paths);
        self.held.extend(other.held);
        self.readonly.extend(other.readonly);
        self
    }

    /// The path to mount at a destination, and whether only for reading.
    pub(crate) fn at(&self, destination: &str) -> Option<(PathBuf, bool)> {
        let path = self.paths.get(destination)?.clone();
        Some((path, self.readonly.iter().any(|one| one == destination)))
    }
}

/// Volumes of a container that somebody looks at while it does not run.
#[derive(Debug)]
pub(crate) struct InUse {
    core: Arc<Core>,
    user: String,
    spec: Arc<ContainerSpec>,
}

impl InUse {
    /// Mounts them; they are let go with the value.
    pub(crate) fn new(
        core: &Arc<Core>,
        id: SandboxId,
        spec: &Arc<ContainerSpec>,
    ) -> Result<(Self, Sources)> {
        let user = format!("looking into {id}");
        let images = image_mount::sources(core, spec)?;
        let sources = core.volumes.acquire_all(&user, spec)?.and(images);
        let (core, spec) = (core.clone(), spec.clone());
        Ok((Self { core, user, spec }, sources))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.core.volumes.release_all(&self.user, &self.spec);
    }
}

impl VolumeTable {
    fn is_empty(&self, name: &str) -> Result<bool> {
        self.disk
            .is_empty(name)
            .map_err(failed("look into a volume"))
    }

    /// Mounts all volumes of a container; when one fails, none is left.
    pub(crate) fn acquire_all(&self, user: &str, spec: &ContainerSpec) -> Result<Sources> {
        let mut sources = Sources::default();
        for mount in &spec.host.mounts {
            if let MountKind::Volume { name, subpath, .. } = &mount.kind
                && let Err(error) = self.acquire_one(user, name, subpath, mount, &mut sources)
            {
                self.release_all(user, spec);
                return Err(error);
            }
        }
        Ok(sources)
    }

    fn acquire_one(
        &self,
        user: &str,
        name: &str,
        subpath: &str,
        mount: &MountSpec,
        sources: &mut Sources,
    ) -> Result<()> {
        let record = self.acquire(name, user)?;
        let data = self.data(name);
        let path = if subpath.is_empty() {
            data
        } else {
            // A program in another container may change links at this moment, so the part is
            // opened below the volume, and the shim is led to what was opened.
            let failed = |cause: std::io::Error| {
                let step = format!("cannot access subpath {subpath:?} of volume {name:?}");
                EngineError::step(step, ErrorKind::Internal, cause)
            };
            let open = || {
                let top = std::fs::File::open(&data)?;
                mount::open_place_in_root(top.as_fd(), &CString::new(subpath)?)
            };
            let place = open().map_err(failed)?;
            let path = hull_os::process::path_of_own_descriptor(place.as_fd());
            sources.held.push(place);
            path
        };
        if record.snapshot_of.is_some() {
            sources.readonly.push(mount.destination.clone());
        }
        sources.paths.insert(mount.destination.clone(), path);
        Ok(())
    }

    /// Lets go of all volumes of a container that has ended.
    pub(crate) fn release_all(&self, user: &str, spec: &ContainerSpec) {
        for name in names_of(spec) {
            if let Err(error) = self.release(name, user) {
                tracing::warn!(volume = name, error = %error.chain(), "it stays mounted");
            }
        }
    }

    /// A container of a former daemon has its volumes, as far as is known.
    pub(crate) fn adopt(&self, id: SandboxId, spec: &ContainerSpec) {
        for name in names_of(spec) {
            if let Some(slot) = self.slot(name) {
                slot.users().insert(id.to_string());
            }
        }
    }
}

/// Says that a container's volumes are mounted, or not any more.
pub(crate) fn tell(core: &Core, id: SandboxId, spec: &ContainerSpec, mounted: bool) {
    for mount in &spec.host.mounts {
        let MountKind::Volume { name, .. } = &mount.kind else {
            continue;
        };
        let container = ("container", id.to_string());
        if mounted {
            let facts = [
                container,
                ("destination", mount.destination.clone()),
                ("propagation", String::new()),
                ("read/write", (!mount.readonly).to_string()),
            ];
            event(core, name, "mount", facts);
        } else {
            event(core, name, "unmount", [container]);
        }
    }
}

/// Volumes that go with a container that is being removed.
#[derive(Debug, Default)]
pub(crate) struct Leaving(Vec<Turn>);

/// Finds the volumes that were made for a container and that nobody else has; their intents are
/// to be written with the container's.
pub(crate) fn start_leaving(
    core: &Core,
    id: SandboxId,
    spec: &ContainerSpec,
) -> (Leaving, Vec<Change>) {
    let mut leaving = Leaving::default();
    let mut writes = Vec::new();
    let drawn = spec
        .host
        .mounts
        .iter()
        .filter_map(|mount| match &mount.kind {
            MountKind::Volume {
                name,
                anonymous: true,
                ..
            } => Some(name),
            _ => None,
        });
    let names: std::collections::BTreeSet<&String> = drawn.collect();
    if names.is_empty() {
        return (leaving, writes);
    }
    let users = users(core);
    for name in names {
        let others = users
            .get(name)
            .is_some_and(|users| users.iter().any(|user| user.id != id));
        // Somebody who has the turn is about to use it.
        let Some(turn) = core.volumes.try_turn(name).filter(|_| !others) else {
            continue;
        };
        let Some(record) = turn
            .record()
            .filter(|record| record.state == VolumeState::Ready)
        else {
            continue;
        };
        if turn.slot.inside().holds > 0 {
            continue;
        }
        writes.push(
            turn.write(&record.in_state(VolumeState::Removing))
                .releasing(),
        );
        leaving.0.push(turn);
    }
    (leaving, writes)
}

impl Leaving {
    /// The intents are written: from now on nobody finds them.
    pub(crate) fn committed(&self) {
        for turn in &self.0 {
            let record = turn.record();
            turn.set(record.map(|record| record.in_state(VolumeState::Removing)));
        }
    }

    /// Removes them, once the container has let go of them.
    pub(crate) async fn finish(self, core: &Arc<Core>) {
        for turn in self.0 {
            let name = turn.name.clone();
            if let Err(error) = finish_removal(core, turn).await {
                tracing::error!(volume = name, error = %error.chain(), "its removal is continued when the daemon starts");
            }
        }
    }
}

/// Finishes or undoes what a crash cut off. Containers that may run have been adopted before.
pub(crate) async fn recover(core: &Arc<Core>) {
    let names: Vec<String> = core.volumes.lock().keys().cloned().collect();
    for name in names {
        let turn = core.volumes.turn(&name).await;
        let Some(record) = turn.record() else {
            continue;
        };
        match &record.state {
            VolumeState::Making => unmake(core, &turn).await,
            VolumeState::Removing => {
                // May take long: beside the start, and nobody else can have the name meanwhile.
                let leaving = Leaving(vec![turn]);
                let core = core.clone();
                tokio::spawn(async move { leaving.finish(&core).await });
            }
            VolumeState::Moving(_) => {
                if let Err(error) = finish_rename(core, &turn, record.clone()).await {
                    tracing::error!(volume = name, error = %error.chain(), "its renaming is tried again at the next start");
                }
            }
            VolumeState::Ready => {
                let (job, name) = (core.clone(), name.clone());
                let tidy = move || tidy(&job, &name, &record);
                if let Err(error) = core.jobs.run(Pool::Disk, tidy).await.and_then(|done| done) {
                    tracing::error!(volume = turn.name, error = %error.chain(), "a volume is not in order");
                }
            }
        }
    }
}

/// A first copy that was cut off is finished, a mount that nobody uses is taken away.
fn tidy(core: &Core, name: &str, record: &VolumeRecord) -> Result<()> {
    let (volumes, backing) = (&core.volumes, record.backing());
    let unused = volumes
        .slot(name)
        .is_none_or(|slot| slot.users().is_empty());
    if backing.is_mounted() && unused {
        return volumes
            .disk
            .unmount(name)
            .map_err(failed("unmount a volume"));
    }
    if !backing.is_mounted() && volumes.disk.is_unsettled(name) {
        return volumes
            .disk
            .settle(name, &backing)
            .map_err(failed("finish the first copy into a volume"));
    }
    Ok(())
}
