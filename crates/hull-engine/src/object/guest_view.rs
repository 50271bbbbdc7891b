//! Views of files that are in the guest of a machine.
//!
//! ```text
//!  runs:     ask its guest for a file server ─────────────────────────────┐
//!  stopped:  boot the same disks with nothing to run, then ask that guest ─┴─▶ a view (FUSE)
//! ```
//!
//! A guest's file system is never mounted by this kernel. Who looks once usually looks again at once, so the
//! machine of a stopped container stays for some seconds, or until its container is to start.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use hull_model::limits::MACHINE_START_MS_MAX;
use hull_model::spec::Isolation;
use hull_model::state::State;
use hull_model::{Digest, SandboxId};
use hull_os::socket;
use hull_sandbox::{Lowers, Mount, Namespaces, Process, Propagation, Root, Shim, Spec, ViewOf};
use tokio::sync::OwnedMutexGuard;

use crate::clock::new_id;
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::machine;
use crate::object::container::{Owner, Reply, answer};
use crate::object::view::FileView;
use crate::object::volume;

/// How long a machine may take until its guest serves files.
const BOOT_WAIT: Duration = Duration::from_millis(MACHINE_START_MS_MAX);
/// How long it may take to complete its disk.
const END_WAIT: Duration = Duration::from_secs(15);
/// How long what is left of it may take to go.
const DISCARD_WAIT: Duration = Duration::from_secs(10);
/// How long it stays for the next look.
const LINGER: Duration = Duration::from_secs(10);

/// A machine that runs for its files. It ends, with everything written, when it was dropped.
#[derive(Debug)]
pub(crate) struct FilesMachine {
    core: Arc<Core>,
    runtime: tokio::runtime::Handle,
    /// None once it was dropped.
    held: Option<Held>,
}

/// What it has as long as it runs.
#[derive(Debug)]
struct Held {
    shim: Shim,
    cgroup: String,
    _volumes: volume::InUse,
    _alone: OwnedMutexGuard<()>,
}

impl Drop for FilesMachine {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else {
            return;
        };
        let core = self.core.clone();
        self.runtime.spawn(async move {
            let job = core.clone();
            let ended = core.jobs.run_own(Pool::Files, move || {
                let mut held = held;
                let id = *held.shim.id();
                if let Err(error) = held.shim.end(END_WAIT) {
                    tracing::warn!(machine = %id.short(), %error, "files may not be complete");
                }
                let discarded = job.driver.discard(&id, &held.cgroup, DISCARD_WAIT);
                if let Err(error) = discarded {
                    tracing::warn!(machine = %id.short(), %error, "a machine is left");
                }
            });
            drop(ended.await);
        });
    }
}

impl Owner {
    /// A view of files in a guest; who asks waits for it, the container's owner only for a boot.
    pub(super) async fn view_of_machine(&mut self, reply: Reply<Arc<FileView>>) {
        match self.life.state {
            State::Paused => answer(reply, Err(EngineError::Paused(self.id))),
            state if state.is_live() => match self.ask_guest() {
                Ok(stream) => {
                    let (core, id) = (self.core.clone(), self.id);
                    tokio::spawn(async move {
                        answer(reply, open(&core, id, stream, None).await);
                    });
                }
                Err(error) => answer(reply, Err(error)),
            },
            _ => {
                let view = self.view_of_stopped_machine().await;
                answer(reply, view);
            }
        }
    }

    fn ask_guest(&self) -> Result<OwnedFd> {
        let shim = self.shim.as_ref().ok_or(EngineError::NotRunning(self.id))?;
        serve(shim.get())
    }

    async fn view_of_stopped_machine(&mut self) -> Result<Arc<FileView>> {
        if let Some(view) = self.views.current() {
            return Ok(view);
        }
        self.forget_former_life().await?;
        let alone = self.views.take_root().await;
        let (core, id, spec) = (self.core.clone(), self.id, self.spec.clone());
        let layers = self.record.layers.clone();
        let names = self.named_by();
        // A boot takes seconds: no start of another container waits for its place.
        let booted = self.core.jobs.run(Pool::Files, move || {
            let (volumes, sources) = volume::InUse::new(&core, id, &spec)?;
            let mounts = crate::object::view::binds_of(&core, id, names, &spec, &sources)?;
            let machine = files_spec(&core, id, &spec, &layers, mounts)?;
            let cgroup = machine.cgroup.path.clone();
            let failed = |e: hull_sandbox::Error| {
                EngineError::step("start a machine for the files", e.kind(), e)
            };
            let mut shim = core.driver.start(&machine, Vec::new()).map_err(failed)?;
            if let Err(error) = shim.wait_started(BOOT_WAIT) {
                drop(core.driver.discard(shim.id(), &cgroup, DISCARD_WAIT));
                return Err(failed(error));
            }
            Ok((shim, cgroup, volumes))
        });
        let (shim, cgroup, volumes) = booted.await??;
        let stream = serve(&shim)?;
        let machine = FilesMachine {
            core: self.core.clone(),
            runtime: tokio::runtime::Handle::current(),
            held: Some(Held {
                shim,
                cgroup,
                _volumes: volumes,
                _alone: alone,
            }),
        };
        let view = open(&self.core, self.id, stream, Some(machine)).await?;
        self.views.keep(&view, LINGER);
        Ok(view)
    }
}

/// Asks a guest for a file server, at the other end of what this returns.
fn serve(shim: &Shim) -> Result<OwnedFd> {
    let (ours, theirs) =
        socket::stream_pair().map_err(|e| EngineError::io("make a stream for files", e))?;
    shim.serve_files(theirs.as_fd())
        .map_err(|e| EngineError::step("ask the guest for its files", e.kind(), e))?;
    Ok(ours)
}

async fn open(
    core: &Arc<Core>,
    id: SandboxId,
    stream: OwnedFd,
    machine: Option<FilesMachine>,
) -> Result<Arc<FileView>> {
    let job = core.clone();
    let view = core.jobs.run(Pool::Kernel, move || {
        job.driver
            .view(&id, &ViewOf::Guest(&stream))
            .map_err(|e| EngineError::step("open the files of the guest", e.kind(), e))
    });
    Ok(Arc::new(FileView::of_guest(view.await??, machine)))
}

/// The machine of a container with nothing to run.
fn files_spec(
    core: &Core,
    id: SandboxId,
    spec: &hull_model::spec::ContainerSpec,
    layers: &[Digest],
    mounts: Vec<Mount>,
) -> Result<Spec> {
    debug_assert_eq!(spec.host.isolation, Isolation::Vm);
    let machine = new_id().map_err(|e| EngineError::io("draw an id", e))?;
    let nowhere = core.container_dir(id).join("machine");
    let sandbox = Spec {
        id: machine,
        root: Root {
            lowers: Lowers::Descriptors(Vec::new()),
            upper: nowhere.clone(),
            work: nowhere,
            readonly: false,
            propagation: Propagation::default(),
        },
        hostname: String::new(),
        domainname: String::new(),
        namespaces: Namespaces::default(),
        link_steps: Vec::new(),
        mounts,
        masked_paths: Vec::new(),
        readonly_paths: Vec::new(),
        devices: Vec::new(),
        cgroup: hull_sandbox::Cgroup {
            path: core.cgroup_path(spec, machine),
            ..hull_sandbox::Cgroup::default()
        },
        sysctls: Vec::new(),
        oom_score_adj: None,
        kept: Vec::new(),
        resolver: None,
        process: Process {
            args: vec!["files".to_owned()],
            cwd: "/".to_owned(),
            ..Process::default()
        },
        init: false,
        log: hull_sandbox::Log::default(),
        machine: None,
    };
    machine::Asked {
        core,
        id,
        spec,
        layers,
        endpoints: &[],
        files_only: true,
    }
    .into_machine(sandbox)
}
