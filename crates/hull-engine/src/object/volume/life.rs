//! A volume's life: create, remove, prune, rename, copy.

use std::sync::Arc;

use hull_model::SandboxId;
use hull_model::event::Subject;
use hull_model::spec::VolumeSpec;
use hull_storage::{VOLUME_NAME_BYTES_MAX, VolumeBacking};

use super::{Hold, Turn, VolumeRecord, VolumeState, failed, inspect, list, users};
use crate::api::{Volume, VolumeCopy, VolumeRequest};
use crate::clock::new_id;
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::object::container::Request;
use crate::sizes::Count;
use crate::store::{Change, Key};

/// The one driver there is.
const DRIVER: &str = "local";
/// Under which name our own copies have a volume mounted.
const COPYING: &str = "copying";

/// Makes a volume, or finds it when it is there.
pub(crate) async fn create(core: &Arc<Core>, request: VolumeRequest) -> Result<Volume> {
    let anonymous = request.name.is_empty();
    let name = if anonymous {
        draw_name()?
    } else {
        request.name
    };
    let turn = core.volumes.turn(&name).await;
    let record = match turn.record() {
        Some(record) if record.state == VolumeState::Ready => {
            check_driver(&name, &request.spec)?;
            record
        }
        Some(_) => return Err(being_removed(&name)),
        None => {
            let record = make(
                core,
                &turn,
                VolumeRecord::new(&request.spec, anonymous),
                &request.spec,
            )
            .await?;
            finish(core, &turn, record).await?
        }
    };
    drop(turn);
    let users = users(core).remove(&name).unwrap_or_default();
    Ok(super::view(core, &name, &record, users))
}

pub(super) fn draw_name() -> Result<String> {
    let id = new_id().map_err(|e| EngineError::io("draw a name", e))?;
    Ok(id.to_string())
}

pub(super) fn being_removed(name: &str) -> EngineError {
    EngineError::WrongState(format!("volume {name} is being removed"))
}

fn check_driver(name: &str, spec: &VolumeSpec) -> Result<()> {
    match spec.driver.as_str() {
        "" | DRIVER => Ok(()),
        other => Err(EngineError::NoSuchVolumeDriver {
            volume: name.to_owned(),
            plugin: other.to_owned(),
        }),
    }
}

fn check(name: &str, spec: &VolumeSpec) -> Result<()> {
    let invalid = |text: String| Err(EngineError::Invalid(format!("create {name}: {text}")));
    check_driver(name, spec)?;
    if name.len() < 2 {
        return invalid(
            "volume name is too short, names should be at least two alphanumeric characters"
                .to_owned(),
        );
    }
    let first = name.as_bytes()[0].is_ascii_alphanumeric();
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if !first || !name.bytes().all(rest) {
        return invalid(format!(
            "\"{name}\" includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, \
             use absolute path"
        ));
    }
    if name.len() > VOLUME_NAME_BYTES_MAX {
        return invalid(format!(
            "the name is longer than {VOLUME_NAME_BYTES_MAX} characters"
        ));
    }
    match VolumeBacking::parse(&spec.options.clone().unwrap_or_default()) {
        Ok(_) => Ok(()),
        Err(fault) => invalid(fault.to_string()),
    }
}

/// Writes the intent and makes the directory; the volume is nobody's before [`finish`].
pub(super) async fn make(
    core: &Arc<Core>,
    turn: &Turn,
    record: VolumeRecord,
    spec: &VolumeSpec,
) -> Result<VolumeRecord> {
    check(&turn.name, spec)?;
    core.store.commit(vec![turn.write(&record)]).await?;
    turn.set(Some(record.clone()));
    let (job, name) = (core.clone(), turn.name.clone());
    let made = core
        .jobs
        .run(Pool::Disk, move || job.volumes.disk.make(&name))
        .await
        .and_then(|made| made.map_err(failed("make a volume")));
    match made {
        Ok(()) => Ok(record),
        Err(error) => {
            unmake(core, turn).await;
            Err(error)
        }
    }
}

/// Takes back what [`make`] did; what stays is removed at the next start.
pub(super) async fn unmake(core: &Arc<Core>, turn: &Turn) {
    let (job, name) = (core.clone(), turn.name.clone());
    let removed = core
        .jobs
        .run(Pool::Disk, move || job.volumes.disk.remove(&name))
        .await
        .and_then(|removed| removed.map_err(failed("remove a volume")));
    match removed {
        Ok(()) => core
            .store
            .record(vec![Change::remove(Key::Volume(turn.name.clone()))]),
        Err(error) => {
            tracing::error!(volume = turn.name, error = %error.chain(), "half a volume is left");
        }
    }
    turn.set(None);
}

/// Makes a volume everybody's.
pub(super) async fn finish(
    core: &Arc<Core>,
    turn: &Turn,
    record: VolumeRecord,
) -> Result<VolumeRecord> {
    let record = record.in_state(VolumeState::Ready);
    if let Err(error) = core.store.commit(vec![turn.write(&record)]).await {
        unmake(core, turn).await;
        return Err(error);
    }
    made(core, turn, &record);
    Ok(record)
}

/// The record says so: now everybody may know.
pub(super) fn made(core: &Core, turn: &Turn, record: &VolumeRecord) {
    turn.set(Some(record.clone()));
    event(core, &turn.name, "create", []);
}

pub(super) fn event<const N: usize>(
    core: &Core,
    name: &str,
    action: &str,
    facts: [(&str, String); N],
) {
    let mut attributes: std::collections::BTreeMap<_, _> = facts
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    attributes.insert("driver".to_owned(), DRIVER.to_owned());
    core.events
        .publish(Subject::Volume, action, name, attributes);
}

/// Refuses when anybody uses the volume.
fn check_unused(core: &Core, turn: &Turn) -> Result<()> {
    let name = &turn.name;
    let users = users(core).remove(name).unwrap_or_default();
    let mut ids: Vec<String> = users.iter().map(|user| user.id.to_string()).collect();
    if turn.slot.inside().holds > 0 {
        ids.push("a container that is being created".to_owned());
    }
    if ids.is_empty() {
        return Ok(());
    }
    Err(EngineError::VolumeInUse {
        name: name.clone(),
        users: ids,
    })
}

/// Removes a volume that nobody uses.
pub(crate) async fn remove(core: &Arc<Core>, name: &str) -> Result<()> {
    let turn = core.volumes.turn(name).await;
    let Some(record) = turn.record() else {
        return Err(EngineError::NoSuchVolume(name.to_owned()));
    };
    check_unused(core, &turn)?;
    let intent = record.in_state(VolumeState::Removing);
    core.store
        .commit(vec![turn.write(&intent).releasing()])
        .await?;
    turn.set(Some(intent));
    finish_removal(core, turn).await
}

/// Destroys what is left; the record goes last, so that a crash here is continued at start-up.
pub(super) async fn finish_removal(core: &Arc<Core>, turn: Turn) -> Result<()> {
    let (job, name) = (core.clone(), turn.name.clone());
    core.jobs
        .run(Pool::Disk, move || job.volumes.disk.remove(&name))
        .await?
        .map_err(failed("remove a volume"))?;
    core.store
        .record(vec![Change::remove(Key::Volume(turn.name.clone()))]);
    turn.set(None);
    event(core, &turn.name, "destroy", []);
    Ok(())
}

/// Removes every volume that nobody uses and that `keep` does not keep; returns names and freed
/// bytes.
pub(crate) async fn prune(
    core: &Arc<Core>,
    keep: impl Fn(&Volume) -> bool + Send,
) -> Result<(Vec<String>, u64)> {
    let (mut gone, mut freed) = (Vec::new(), 0);
    let unused = list(core).into_iter();
    let unused: Vec<Volume> = unused
        .filter(|volume| volume.users.is_empty() && !keep(volume))
        .collect();
    for volume in unused {
        let bytes: u64 = usage(core, std::slice::from_ref(&volume))
            .await
            .iter()
            .sum();
        if remove(core, &volume.name).await.is_ok() {
            gone.push(volume.name);
            freed += bytes;
        }
    }
    core.events.publish_prune(Subject::Volume, freed);
    Ok((gone, freed))
}

/// Bytes that each volume takes on the disk; what cannot be read counts as nothing.
pub(crate) async fn usage(core: &Arc<Core>, volumes: &[Volume]) -> Vec<u64> {
    let names = volumes.iter().map(|volume| volume.name.clone()).collect();
    let bytes = |core: &Core, name: &String| {
        let disk = &core.volumes.disk;
        let data = core
            .sizes
            .of(&disk.data(name), Count::OnDisk, core.volumes.is_used(name));
        match disk.is_mounted(name) {
            true => data,
            false => data + disk.image_bytes(name),
        }
    };
    core.measure(names, bytes).await
}

/// Gives a volume that no container has another name.
pub(crate) async fn rename(core: &Arc<Core>, from: &str, to: &str) -> Result<()> {
    // In the order of the names, so that two renames cannot wait for each other.
    let (first, second) = (from.min(to), from.max(to));
    if first == second {
        return Err(EngineError::Invalid(format!("volume {from} has this name")));
    }
    let first = core.volumes.turn(first).await;
    let second = core.volumes.turn(second).await;
    let (source, target) = if first.name == from {
        (first, second)
    } else {
        (second, first)
    };
    let Some(record) = source.record() else {
        return Err(EngineError::NoSuchVolume(from.to_owned()));
    };
    if target.record().is_some() {
        return Err(taken(to));
    }
    check(to, &VolumeSpec::default())?;
    check_unused(core, &source)?;
    let intent = record.in_state(VolumeState::Moving(from.to_owned()));
    let old = Change::remove(Key::Volume(from.to_owned()));
    core.store.commit(vec![target.write(&intent), old]).await?;
    source.set(None);
    target.set(Some(intent));
    finish_rename(core, &target, record).await?;
    event(core, to, "rename", [("oldName", from.to_owned())]);
    Ok(())
}

/// Refuses to make a volume that is there.
pub(super) fn check_unused_name(turn: &Turn) -> Result<()> {
    match turn.record() {
        Some(_) => Err(taken(&turn.name)),
        None => Ok(()),
    }
}

fn taken(name: &str) -> EngineError {
    EngineError::WrongState(format!("volume {name} exists already"))
}

/// Renames the directory, then says so; doing it again changes nothing.
pub(super) async fn finish_rename(
    core: &Arc<Core>,
    turn: &Turn,
    record: VolumeRecord,
) -> Result<()> {
    let Some(VolumeRecord {
        state: VolumeState::Moving(from),
        ..
    }) = turn.record()
    else {
        return Ok(());
    };
    let (job, to) = (core.clone(), turn.name.clone());
    core.jobs
        .run(Pool::Disk, move || job.volumes.disk.rename(&from, &to))
        .await?
        .map_err(failed("rename a volume"))?;
    let record = record.in_state(VolumeState::Ready);
    core.store.commit(vec![turn.write(&record)]).await?;
    turn.set(Some(record));
    Ok(())
}

/// Makes a new volume with what another one holds: a clone, or a read-only snapshot.
pub(crate) async fn copy(core: &Arc<Core>, request: VolumeCopy) -> Result<Volume> {
    let hold = core.volumes.hold(&request.from)?;
    let source = inspect(core, &request.from)?;
    let turn = core.volumes.turn(&request.to).await;
    check_unused_name(&turn)?;
    let spec = VolumeSpec {
        driver: String::new(),
        options: source.options.clone(),
        labels: request.labels.clone().or_else(|| source.labels.clone()),
    };
    let mut record = VolumeRecord::new(&spec, false);
    record.snapshot_of = request.snapshot.then(|| request.from.clone());
    if record.backing().is_volatile() {
        return Err(EngineError::Unsupported(format!(
            "volume {} lives in memory only while it is used, and so would its copy",
            request.from
        )));
    }
    let record = make(core, &turn, record, &spec).await?;
    let paused = if request.pause {
        pause(core, &source).await
    } else {
        Vec::new()
    };
    let copied = copy_contents(core, &turn, &hold, request.from).await;
    for id in paused {
        drop(ask(core, id, |reply| Request::Resume { reply }).await);
    }
    match copied {
        Ok(()) => drop(finish(core, &turn, record).await?),
        Err(error) => {
            unmake(core, &turn).await;
            return Err(error);
        }
    }
    drop(turn);
    inspect(core, &request.to)
}

/// Holds the programs that write to a volume, so that the copy is of one moment.
async fn pause(core: &Arc<Core>, source: &Volume) -> Vec<SandboxId> {
    let mut paused = Vec::new();
    for user in source.users.iter().filter(|user| user.writes) {
        // One that is paused already, or has ended, does not write.
        let paused_now = ask(core, user.id, |reply| Request::Pause { reply }).await;
        if paused_now.is_ok() {
            paused.push(user.id);
        }
    }
    paused
}

async fn ask(
    core: &Core,
    id: SandboxId,
    make: impl FnOnce(tokio::sync::oneshot::Sender<Result<()>>) -> Request,
) -> Result<()> {
    core.containers.handle(id)?.ask(make).await
}

async fn copy_contents(core: &Arc<Core>, turn: &Turn, _hold: &Hold, from: String) -> Result<()> {
    let (job, to) = (core.clone(), turn.name.clone());
    let copy = move || {
        let volumes = &job.volumes;
        volumes.acquire(&from, COPYING)?;
        let copied = volumes.acquire(&to, COPYING).and_then(|record| {
            let data = volumes.data(&from);
            let source = std::fs::File::open(&data)
                .map_err(|e| EngineError::io(format!("open {}", data.display()), e))?;
            let source = std::os::fd::AsFd::as_fd(&source);
            volumes
                .disk
                .fill(&to, source, &record.backing())
                .map_err(failed("copy a volume"))
        });
        let released = volumes.release(&to, COPYING);
        volumes.release(&from, COPYING).and(released).and(copied)
    };
    core.jobs.run(Pool::Disk, copy).await?
}
