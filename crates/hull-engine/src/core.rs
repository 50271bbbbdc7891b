//! What all owners share: the store, the drivers, the tables. No behaviour of its own beyond
//! where things lie.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use hull_model::event::Subject;
use hull_model::spec::{ContainerSpec, Isolation, NetworkMode};
use hull_model::{Digest, SandboxId};
use hull_os::cgroup::{Hierarchies, Support};
use hull_os::crash;
use hull_storage::Mounted;

use crate::EngineConfig;
use crate::api::{AttachRequest, Container, HostFacts, LogsRequest};
use crate::error::{EngineError, Result};
use crate::events::Events;
use crate::jobs::Jobs;
use crate::names::Changes;
use crate::network::Network;
use crate::object::exec::ExecTable;
use crate::object::image::ImageTable;
use crate::object::registry::Registry;
use crate::object::transfer::Transfers;
use crate::object::volume::VolumeTable;
use crate::port::Ports;
use crate::reload::Reloadable;
use crate::sizes::{Count, Sizes, Use};
use crate::stats::{Guests, Moments};
use crate::store::Store;
use crate::{log_driver, logs};

/// Containers that join the network of one that joins the next, before we look no further.
const JOINS_MAX: usize = 16;

/// The engine's inside.
pub(crate) struct Core {
    pub(crate) config: EngineConfig,
    /// Of the running kernel: what only lives as long as it is compared with this.
    pub(crate) boot_id: String,
    /// Drawn with the data root.
    pub(crate) engine_id: String,
    pub(crate) store: Store,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) events: Events,
    pub(crate) containers: Registry,
    pub(crate) execs: ExecTable,
    pub(crate) images: ImageTable,
    pub(crate) reloadable: Reloadable,
    pub(crate) transfers: Transfers,
    pub(crate) volumes: VolumeTable,
    pub(crate) storage: hull_storage::Store,
    pub(crate) mounts: hull_storage::LayerMounts,
    pub(crate) driver: hull_sandbox::Driver,
    pub(crate) network: Network,
    pub(crate) ports: Ports,
    pub(crate) name_changes: Changes,
    pub(crate) cgroups: Hierarchies,
    /// What figures of containers are measured by.
    pub(crate) host: HostFacts,
    /// For shares of processor time.
    pub(crate) moments: Moments,
    /// What trees of files took lately.
    pub(crate) sizes: Sizes,
    /// For figures of guests.
    pub(crate) guests: Guests,
    /// Which limits this host can hold.
    pub(crate) support: Support,
    /// Whether overlay takes layers by descriptor here (Linux 6.13 and newer).
    pub(crate) lowers_by_descriptor: bool,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("data_root", &self.config.data_root)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// Directory of a container on the data root: upper directory, files, log.
    pub(crate) fn container_dir(&self, id: SandboxId) -> PathBuf {
        self.config
            .data_root
            .join("containers")
            .join(id.to_string())
    }

    /// Whose names in the network it has: its own, or those of the container whose network it
    /// joins, as in Docker.
    pub(crate) fn named_as(
        &self,
        spec: &Arc<ContainerSpec>,
        id: SandboxId,
    ) -> Result<(Arc<ContainerSpec>, SandboxId)> {
        let (mut spec, mut id) = (spec.clone(), id);
        for _ in 0..JOINS_MAX {
            let NetworkMode::Container(name) = &spec.host.network else {
                break;
            };
            id = self.containers.resolve(name)?;
            let handle = self.containers.handle(id)?;
            spec = handle.snapshot.borrow().spec.clone();
        }
        Ok((spec, id))
    }

    /// Directory in the run root that holds what was asked of its execs.
    pub(crate) fn exec_dir(&self, id: SandboxId) -> PathBuf {
        self.config.run_root.join("x").join(id.short())
    }

    /// The file that `logs` reads; none for drivers that keep nothing.
    pub(crate) fn log_file(&self, spec: &ContainerSpec, id: SandboxId) -> Option<PathBuf> {
        log_driver::file(&spec.host.log, &self.container_dir(id), id)
    }

    /// Its cgroup below the root of each hierarchy.
    pub(crate) fn cgroup_path(&self, spec: &ContainerSpec, id: SandboxId) -> String {
        let asked = spec.host.cgroup_parent.trim_matches('/');
        let parent = if asked.is_empty() {
            self.config.cgroup_parent.as_str()
        } else {
            asked
        };
        format!("{parent}/{id}")
    }

    /// Publishes what happened to a container.
    pub(crate) fn publish_container<const N: usize>(
        &self,
        id: SandboxId,
        spec: &ContainerSpec,
        action: impl Into<String>,
        facts: [(&str, String); N],
    ) {
        self.publish_container_with(id, spec, (action.into(), facts), || ());
    }

    /// Likewise, together with what `show` does.
    pub(crate) fn publish_container_with<const N: usize>(
        &self,
        id: SandboxId,
        spec: &ContainerSpec,
        (action, facts): (String, [(&str, String); N]),
        show: impl FnOnce(),
    ) {
        let mut attributes: BTreeMap<String, String> = spec.config.labels.clone();
        attributes.insert("image".to_owned(), spec.image_reference.clone());
        attributes.insert("name".to_owned(), spec.name.clone());
        let facts = facts
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value));
        attributes.extend(facts);
        let id = id.to_string();
        self.events
            .publish_with(Subject::Container, action, id, attributes, show);
    }

    /// Publishes what happened to the daemon itself.
    pub(crate) fn publish_daemon(&self, action: &str, mut facts: BTreeMap<String, String>) {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        facts.insert("name".to_owned(), name.trim().to_owned());
        let id = self.engine_id.clone();
        self.events.publish(Subject::Daemon, action, id, facts);
    }

    /// Removes its files on the data root and in the run root.
    pub(crate) fn remove_files(&self, id: SandboxId) -> Result<()> {
        for directory in [self.exec_dir(id), self.container_dir(id)] {
            crash::point("before the end of a directory");
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(EngineError::io(
                        format!("remove {}", directory.display()),
                        error,
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Freezes or thaws all processes of a container.
    pub(crate) fn freeze(&self, cgroup: &str, frozen: bool) -> Result<()> {
        let group = self.cgroups.open_group(cgroup);
        let done = if frozen { group.freeze() } else { group.thaw() };
        done.map_err(|e| EngineError::io(format!("freeze the cgroup {cgroup}"), e))
    }

    /// Process ids in a cgroup.
    pub(crate) fn processes(&self, cgroup: &str) -> Result<BTreeSet<u32>> {
        self.cgroups
            .open_group(cgroup)
            .pids()
            .map_err(|e| EngineError::io(format!("read the cgroup {cgroup}"), e))
    }

    /// Bytes that each container has written to its root; what cannot be read counts as nothing.
    pub(crate) async fn sizes_of(self: &Arc<Self>, containers: &[Arc<Container>]) -> Vec<u64> {
        let bytes = |core: &Core, container: &Arc<Container>| match container.spec.host.isolation {
            Isolation::Vm => crate::machine::written_bytes(&container.files_dir),
            Isolation::Container => {
                let is_used = match container.state.is_live() {
                    true => Use::Busy,
                    false => Use::Idle(container.started_ns.cast_unsigned()),
                };
                core.sizes.of(&container.upper_dir, Count::Lengths, is_used)
            }
        };
        self.measure(containers.to_vec(), bytes).await
    }

    /// Bytes of a layer's file; 0 when it is not there.
    pub(crate) fn layer_bytes(&self, layer: &Digest) -> u64 {
        self.storage
            .layer_path(layer)
            .metadata()
            .map_or(0, |facts| facts.len())
    }

    /// The root of an image, only for reading, for as long as the descriptor is open.
    pub(crate) fn image_root(&self, layers: &[Digest]) -> Result<Arc<OwnedFd>> {
        self.mounts
            .merged(&self.mounted(layers)?, self.lowers_by_descriptor)
            .map_err(|e| EngineError::io("mount the layers of the image", e))
    }

    /// The mounts of layers, the topmost first, without those that another one takes the place of.
    pub(crate) fn mounted(&self, layers: &[Digest]) -> Result<Vec<Mounted>> {
        let mut mounted = Vec::with_capacity(layers.len());
        for layer in layers.iter().rev() {
            let image = self.storage.layer_path(layer);
            let layer = self
                .mounts
                .ensure(layer, &image)
                .map_err(|e| EngineError::step("mount the image", e.kind(), e))?;
            let is_last = layer.hides_below;
            mounted.push(layer);
            if is_last {
                break;
            }
        }
        Ok(mounted)
    }

    /// What a container printed so far, as an attached client sees it.
    pub(crate) fn read_replay(
        &self,
        spec: &ContainerSpec,
        id: SandboxId,
        request: AttachRequest,
    ) -> Result<Vec<u8>> {
        let Some(path) = self.log_file(spec, id).filter(|path| path.exists()) else {
            return Ok(Vec::new());
        };
        let wanted = LogsRequest {
            stdout: request.stdout,
            stderr: request.stderr,
            ..LogsRequest::default()
        };
        let mut replay = Vec::new();
        logs::read_all(&path, &wanted, |line| {
            if !spec.config.tty {
                let length = u32::try_from(line.text.len()).unwrap_or(u32::MAX);
                replay.extend([if line.stderr { 2 } else { 1 }, 0, 0, 0]);
                replay.extend(length.to_be_bytes());
            }
            replay.extend_from_slice(line.text);
        })
        .map_err(|e| EngineError::io("read the log", e))?;
        Ok(replay)
    }
}
