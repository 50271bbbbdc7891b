//! Views of a container's files, for everything that reads or writes them from outside.
//!
//! The owner makes them, so that never two have the same upper directory mounted: those of a
//! stopped container share one, and a start waits until it is gone.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hull_model::ids::UserMaps;
use hull_model::spec::{ContainerSpec, Isolation, MountKind, NetworkMode};
use hull_model::state::State;
use hull_model::{Digest, ErrorKind, SandboxId};
use hull_sandbox::{Lowers, Mount, Propagation, Root, ViewOf};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::object::container::{Owner, Reply, Request};
use crate::object::guest_view::FilesMachine;
use crate::object::volume;
use crate::{translate, users};

/// A container's files. Whoever holds it may read and write them.
#[derive(Debug)]
pub(crate) struct FileView {
    // Before the guard: it is dropped first.
    view: hull_sandbox::View,
    _machine: Option<FilesMachine>,
    ids: UserMaps,
    _volumes: Option<volume::InUse>,
    _alone: Option<OwnedMutexGuard<()>>,
}

impl FileView {
    /// Of files in a guest, and the machine that runs for them.
    pub(super) fn of_guest(view: hull_sandbox::View, machine: Option<FilesMachine>) -> FileView {
        FileView {
            view,
            ids: UserMaps::default(),
            _machine: machine,
            _volumes: None,
            _alone: None,
        }
    }

    /// A directory that only a guest shows: `upper`, `proc`, `cgroup`.
    pub(crate) fn guest_directory(&self, name: &CStr) -> Result<OwnedFd> {
        self.view
            .of_guest(name)
            .map_err(|e| EngineError::io("open the files of the guest", e))
    }

    /// All that the container sees.
    pub(crate) fn whole(&self) -> BorrowedFd<'_> {
        self.view.whole()
    }

    /// Its users, where owners show as who they are on the host.
    pub(crate) fn ids(&self) -> Option<&UserMaps> {
        Some(&self.ids).filter(|ids| !ids.is_empty())
    }

    /// Its root without volumes and binds.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.view.alone()
    }
}

/// What an owner knows of views of its container while it does not run.
#[derive(Debug, Default)]
pub(crate) struct Views {
    current: Weak<FileView>,
    /// Locked as long as a view has the root mounted.
    root: Arc<Mutex<()>>,
    /// Whoever keeps a view for the next one lets go.
    hurry: Arc<Notify>,
}

impl Views {
    fn is_free(&self) -> bool {
        self.root.try_lock().is_ok()
    }

    /// The view that there is.
    pub(super) fn current(&self) -> Option<Arc<FileView>> {
        self.current.upgrade()
    }

    /// Waits until nobody has the root, then takes it.
    pub(super) async fn take_root(&self) -> OwnedMutexGuard<()> {
        self.root.clone().lock_owned().await
    }

    /// Keeps a view for the next one who asks, but holds nobody up.
    pub(super) fn keep(&mut self, view: &Arc<FileView>, patience: Duration) {
        self.current = Arc::downgrade(view);
        let (view, hurry) = (view.clone(), self.hurry.clone());
        tokio::spawn(async move {
            drop(tokio::time::timeout(patience, hurry.notified()).await);
            drop(view);
        });
    }

    /// Somebody waits for the root.
    pub(super) fn hurry(&self) {
        self.hurry.notify_waiters();
    }

    /// Returns when nobody looks any more.
    pub(super) async fn ended(&self) {
        self.hurry();
        drop(self.root.lock().await);
    }
}

impl Core {
    /// The layers of a root, from its digests, the lowest first; below them the mount points.
    pub(crate) fn lowers(&self, layers: &[Digest]) -> Result<Lowers> {
        let mut mounted = self.mounted(layers)?;
        mounted.push(self.mounts.points().clone());
        let (roots, names) = mounted.into_iter().map(|m| (m.root, m.name)).unzip();
        if self.lowers_by_descriptor {
            Ok(Lowers::Descriptors(roots))
        } else {
            Ok(Lowers::Directories {
                base: self.mounts.directory().to_owned(),
                names,
            })
        }
    }

    /// A view of a root that nobody else has mounted, with these binds. For a container that has
    /// no owner yet, or by its owner. What an image has in a directory goes from the view's `alone`
    /// to a new volume by `hull_storage::tree::fill`.
    pub(crate) fn view_of_root(
        &self,
        id: SandboxId,
        layers: &[Digest],
        mounts: &[Mount],
    ) -> Result<hull_sandbox::View> {
        let directory = self.container_dir(id);
        let (upper, work) = (directory.join("upper"), directory.join("work"));
        for made in [&upper, &work] {
            fs::create_dir_all(made)
                .map_err(|e| EngineError::io(format!("make {}", made.display()), e))?;
        }
        let root = Root {
            lowers: self.lowers(layers)?,
            upper,
            work,
            readonly: false,
            propagation: Propagation::default(),
        };
        let mounts = mounts.to_vec();
        let of = ViewOf::Stopped {
            root: &root,
            mounts: &mounts,
        };
        self.driver
            .view(&id, &of)
            .map_err(|e| EngineError::step("open the files of the container", e.kind(), e))
    }
}

/// A container that never ran has the files that a start will write, empty, as in Docker.
fn make_name_files(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    for name in ["hosts", "hostname", "resolv.conf"] {
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(directory.join(name))?;
    }
    Ok(())
}

/// As [`binds`], of a container that does not run; `names` is whose names in the network it has.
pub(super) fn binds_of(
    core: &Core,
    id: SandboxId,
    names: SandboxId,
    spec: &ContainerSpec,
    volumes: &volume::Sources,
) -> Result<Vec<Mount>> {
    if names == id {
        make_name_files(&core.container_dir(id))
            .map_err(|e| EngineError::io("make the files of names", e))?;
    }
    Ok(binds(spec, &core.container_dir(names), volumes))
}

/// What is mounted into a container and is there already.
fn binds(spec: &ContainerSpec, names: &Path, volumes: &volume::Sources) -> Vec<Mount> {
    let mut mounts = translate::mounts(spec, names, volumes);
    mounts.retain(|mount| match &mount.kind {
        hull_sandbox::MountKind::Bind { source, .. } => source.exists(),
        _ => false,
    });
    mounts
}

impl Owner {
    /// A view of the files as they are now, whether it runs or not.
    pub(super) async fn view(&mut self) -> Result<Arc<FileView>> {
        if self.life.state.is_live() {
            return self.view_of_running().await;
        }
        if let Some(view) = self.views.current.upgrade() {
            return Ok(view);
        }
        self.forget_former_life().await?;
        // Free within milliseconds: the last holder is letting go.
        let alone = self.views.take_root().await;
        let (core, id) = (self.core.clone(), self.id);
        let (layers, spec, names) = (
            self.record.layers.clone(),
            self.spec.clone(),
            self.named_by(),
        );
        let (view, volumes) = self
            .core
            .jobs
            .run(Pool::Kernel, move || {
                let (volumes, sources) = volume::InUse::new(&core, id, &spec)?;
                let mounts = binds_of(&core, id, names, &spec, &sources)?;
                let view = core.view_of_root(id, &layers, &mounts)?;
                Ok::<_, EngineError>((view, volumes))
            })
            .await??;
        let view = Arc::new(FileView {
            view,
            _machine: None,
            // Nothing is mapped where nobody lives.
            ids: UserMaps::default(),
            _volumes: Some(volumes),
            _alone: Some(alone),
        });
        self.views.current = Arc::downgrade(&view);
        Ok(view)
    }

    async fn view_of_running(&self) -> Result<Arc<FileView>> {
        let (core, id, pid) = (self.core.clone(), self.id, self.pid);
        let cgroup = self.cgroup_path();
        let view = self.core.jobs.run(Pool::Kernel, move || {
            let mounts = hull_os::namespace::open(pid, "mnt")
                .map_err(|e| EngineError::io("open the mount namespace", e))?;
            let ids = users::of_process(pid)?;
            let users = (!ids.is_empty()).then(|| hull_os::namespace::open(pid, "user"));
            let users = users
                .transpose()
                .map_err(|e| EngineError::io("open the user namespace", e))?;
            // The number could be another's by now: only what is in its cgroup is of it.
            if !core.processes(&cgroup)?.contains(&pid) {
                return Err(EngineError::NotRunning(id));
            }
            let of = ViewOf::Running {
                mounts: &mounts,
                users: users.as_ref(),
            };
            core.driver
                .view(&id, &of)
                .map(|view| (view, ids))
                .map_err(|e| EngineError::step("open the files of the container", e.kind(), e))
        });
        let (view, ids) = view.await??;
        Ok(Arc::new(FileView {
            view,
            ids,
            _machine: None,
            _volumes: None,
            _alone: None,
        }))
    }

    /// Whose names in the network it has.
    pub(super) fn named_by(&self) -> SandboxId {
        let names = match &self.spec.host.network {
            NetworkMode::Container(_) => self.core.named_as(&self.spec, self.id).ok(),
            _ => None,
        };
        names.map_or(self.id, |(_, id)| id)
    }

    /// Whether a view keeps the container from starting.
    pub(super) fn is_viewed(&self) -> bool {
        !self.views.is_free()
    }

    /// Starts when the files are free again.
    pub(super) fn start_later(&self, reply: Reply<crate::api::Change>) {
        self.views.hurry();
        let root = self.views.root.clone();
        let Ok(handle) = self.core.containers.handle(self.id) else {
            return drop(reply);
        };
        tokio::spawn(async move {
            drop(root.lock().await);
            // If its owner is gone, so is who waits for the answer.
            drop(handle.requests.send(Request::Start { reply }).await);
        });
    }

    /// Stops all processes while somebody reads the files, without a change of the state; says
    /// whether it did.
    pub(super) async fn hold(&mut self) -> Result<bool> {
        if self.life.state != State::Running {
            return Ok(false);
        }
        if self.held == 0 {
            match self.freeze_all(true).await {
                // It has just ended, and nobody writes any more.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                frozen => frozen?,
            }
            self.event("pause", []);
        }
        self.held += 1;
        Ok(true)
    }

    /// The other half of [`Owner::hold`].
    pub(super) async fn release(&mut self) -> Result<()> {
        self.held = self.held.saturating_sub(1);
        if self.held == 0 && self.life.state == State::Running {
            self.freeze_all(false).await?;
            self.event("unpause", []);
        }
        Ok(())
    }

    /// Wakes what a former daemon held while it died.
    pub(super) async fn wake(&self) {
        if self.life.state == State::Running
            && let Err(error) = self.freeze_all(false).await
        {
            tracing::debug!(container = %self.id.short(), error = %error.chain(), "not thawed");
        }
    }

    async fn freeze_all(&self, frozen: bool) -> Result<()> {
        // A guest that stands still could not show its files.
        if let (Isolation::Vm, Some(shim)) = (self.spec.host.isolation, &self.shim) {
            let done = shim.get().freeze_guest(frozen);
            done.map_err(|e| EngineError::step("freeze the guest", e.kind(), e))?;
            if frozen {
                return Ok(());
            }
        }
        let (core, cgroup) = (self.core.clone(), self.cgroup_path());
        self.core
            .jobs
            .run(Pool::Kernel, move || core.freeze(&cgroup, frozen))
            .await?
    }
}

/// Whether a mount of the specification is one that a view has; used by checks of paths.
pub(crate) fn is_seen(kind: &MountKind, live: bool) -> bool {
    live || !matches!(kind, MountKind::Tmpfs { .. })
}
