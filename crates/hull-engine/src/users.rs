//! Users of containers that are not the host's: `--userns-remap`.
//!
//! The disk has the ids of the image, whatever a container's users are: mounts translate. So a
//! container can be started with other users than the last time, and `diff`, `commit` and volumes know
//! no difference. Only who looks into a container that runs sees the host's side of its users.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_model::ids::UserMaps;
use hull_model::spec::{ContainerSpec, HostConfig, Isolation, NamespaceMode, NetworkMode};

use hull_sandbox::{MountKind, Propagation, Spec};

use crate::core::Core;
use crate::error::{EngineError, Result};

/// Who may send echo requests; by default everybody.
const PING_GROUPS: &str = "net.ipv4.ping_group_range";

/// Users of a container that starts.
pub(crate) struct Users {
    /// Its maps.
    pub(crate) maps: UserMaps,
    /// The namespace that has them, where it joins another container's.
    pub(crate) joined: Option<Arc<OwnedFd>>,
}

impl Users {
    /// None: those of the host. Namespaces of another container belong to that one's users, so who
    /// joins one has these.
    pub(crate) fn of(core: &Core, spec: &ContainerSpec) -> Result<Option<Users>> {
        if !are_mapped(&core.config.users, &spec.host) {
            return Ok(None);
        }
        let joined = match &spec.host.network {
            NetworkMode::Container(name) => Some(name),
            _ => [&spec.host.ipc, &spec.host.pid]
                .into_iter()
                .find_map(|mode| match mode {
                    NamespaceMode::Container(name) => Some(name),
                    _ => None,
                }),
        };
        let Some(name) = joined else {
            return Ok(Some(Users {
                maps: core.config.users.clone(),
                joined: None,
            }));
        };
        let id = core.containers.resolve(name)?;
        let pid = core.containers.handle(id)?.snapshot.borrow().pid;
        if pid == 0 {
            return Err(EngineError::WrongState(format!(
                "cannot join the users of a non running container: {id}"
            )));
        }
        let maps = of_process(pid)?;
        if maps.is_empty() {
            return Err(EngineError::Invalid(format!(
                "cannot join namespaces of {name}, which has the host's users: add --userns=host"
            )));
        }
        let users = hull_os::namespace::open(pid, "user")
            .map_err(|e| EngineError::io(format!("open the user namespace of {name}"), e))?;
        Ok(Some(Users {
            maps,
            joined: Some(Arc::new(users)),
        }))
    }
}

/// Whether a container has users of its own where the daemon has maps. A machine has its own anyway.
pub(crate) fn are_mapped(maps: &UserMaps, host: &HostConfig) -> bool {
    !maps.is_empty() && host.userns != NamespaceMode::Host && host.isolation == Isolation::Container
}

/// What root inside may not do as the host's root may.
pub(crate) fn adapt(sandbox: &mut Spec, spec: &ContainerSpec) {
    let Some(maps) = &sandbox.namespaces.user else {
        return;
    };
    // Groups that are none inside cannot be named.
    let groups: u32 = maps.gids.iter().map(|map| map.count).sum();
    let asked = &spec.host.sysctls;
    for setting in &mut sandbox.sysctls {
        if setting.name == PING_GROUPS && !asked.contains_key(PING_GROUPS) {
            setting.value = format!("0 {}", groups.saturating_sub(1));
        }
    }
    if spec.host.ipc == NamespaceMode::Host {
        // What belongs to the host's users cannot be mounted anew, and not every host has it.
        let there = Path::new("/dev/mqueue").exists();
        sandbox
            .mounts
            .retain(|mount| there || mount.kind != MountKind::Mqueue);
        for mount in &mut sandbox.mounts {
            if mount.kind == MountKind::Mqueue {
                mount.kind = MountKind::Bind {
                    source: PathBuf::from(&mount.destination),
                    recursive: false,
                    propagation: Propagation::Rprivate,
                    mapped: false,
                };
            }
        }
    }
}

/// The users of a process; empty: the host's.
pub(crate) fn of_process(pid: u32) -> Result<UserMaps> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        std::fs::read_to_string(&path).map_err(|e| EngineError::io(format!("read {path}"), e))
    };
    Ok(UserMaps::parse(&read("uid_map")?, &read("gid_map")?))
}

/// Refuses what needs the host's users, in Docker's words where it refuses it too.
pub(crate) fn check(maps: &UserMaps, host: &HostConfig) -> Result<()> {
    if !are_mapped(maps, host) {
        return Ok(());
    }
    let refused = [
        (
            host.privileged,
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        ),
        (
            host.network == NetworkMode::Host,
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        (
            host.pid == NamespaceMode::Host,
            "cannot share the host PID namespace when user namespaces are enabled",
        ),
        (
            host.cgroupns == NamespaceMode::Host,
            "cannot share the host's cgroup namespace when user namespaces are enabled",
        ),
    ];
    match refused.iter().find(|(is, _)| *is) {
        Some((_, why)) => Err(EngineError::Invalid((*why).to_owned())),
        None => Ok(()),
    }
}
