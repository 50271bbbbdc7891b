//! What can be asked of containers.
//!
//! Most of it goes into the mailbox of the container's owner (`object/container.rs`).

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use hull_model::egress::EGRESS_LABEL;
use hull_model::event::Subject;
use hull_model::state::State;
use hull_model::{Digest, SandboxId};
use hull_sandbox::Target;
use tokio::sync::mpsc;

use crate::api::{
    AttachRequest, Attached, Change, Container, CreateRequest, Created, EgressReport, Exec,
    ExecRequest, LogLines, LogsRequest, PublishRequest, RemoveOptions, WaitCondition, Waited,
};
use crate::clock;
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::finished;
use crate::object::container::{Handle, Request};
use crate::{api, jobs, logs, object};

/// The containers.
#[derive(Debug, Clone, Copy)]
pub struct Containers<'a>(pub(crate) &'a Arc<Core>);

impl Containers<'_> {
    pub(crate) fn handle(&self, id: SandboxId) -> Result<Handle> {
        self.0.containers.handle(id)
    }

    /// Finds a container by name, id or unique id prefix.
    ///
    /// # Errors
    /// `NoSuchContainer`, `Ambiguous`.
    pub fn resolve(&self, name: &str) -> Result<SandboxId> {
        self.0.containers.resolve(name)
    }

    /// All containers, newest first.
    pub fn list(&self) -> Vec<Arc<Container>> {
        self.0.containers.snapshots()
    }

    /// One container.
    ///
    /// # Errors
    /// `NoSuchContainer`.
    pub fn inspect(&self, id: SandboxId) -> Result<Arc<Container>> {
        Ok(self.handle(id)?.snapshot.borrow().clone())
    }

    /// What the machine of a container takes of the host's memory, where it has one that runs.
    pub async fn host_memory(&self, container: &Arc<Container>) -> Option<u64> {
        container.machine.as_ref()?;
        let pid = Some(container.pid).filter(|&pid| pid != 0)?;
        let asked = move || crate::machine::host_memory(pid);
        self.0.jobs.run(jobs::Pool::Kernel, asked).await.ok()?
    }

    /// What a container may reach outside, where that is limited.
    pub async fn egress(&self, container: &Arc<Container>) -> Option<EgressReport> {
        if !container.spec.config.labels.contains_key(EGRESS_LABEL) {
            return None;
        }
        let (core, container) = (self.0.clone(), container.clone());
        let asked = move || core.network.egress_of(&container);
        self.0.jobs.run(jobs::Pool::Kernel, asked).await.ok()?
    }

    /// Creates a container.
    ///
    /// # Errors
    /// `NoSuchImage`, `NameTaken`, `Invalid`, `Unsupported`, or a full disk.
    pub async fn create(&self, request: CreateRequest) -> Result<Created> {
        let core = self.0.clone();
        finished(async move { object::create::create(&core, request).await }).await
    }

    /// Starts a container; returns when its program runs.
    ///
    /// # Errors
    /// `StartFailed` with the text for the user, or why it may not start now.
    pub async fn start(&self, id: SandboxId) -> Result<Change> {
        self.handle(id)?.ask(|reply| Request::Start { reply }).await
    }

    /// Stops a container: stop signal, then SIGKILL after `timeout_s` (none: its own; negative:
    /// never). Returns when it has ended.
    ///
    /// # Errors
    /// `NoSuchContainer`.
    pub async fn stop(
        &self,
        id: SandboxId,
        timeout_s: Option<i64>,
        signal: Option<i32>,
    ) -> Result<Change> {
        self.handle(id)?
            .ask(|reply| Request::Stop {
                timeout_s,
                signal,
                reply,
            })
            .await
    }

    /// Stops, then starts.
    ///
    /// # Errors
    /// As `stop` and `start`.
    pub async fn restart(
        &self,
        id: SandboxId,
        timeout_s: Option<i64>,
        signal: Option<i32>,
    ) -> Result<()> {
        self.stop(id, timeout_s, signal).await?;
        self.start(id).await?;
        self.tell(id, "restart")
    }

    /// Changes limits and restart policy, also while it runs; returns warnings.
    ///
    /// # Errors
    /// `Invalid`, `WrongState` for what contradicts what it has, or the kernel's refusal.
    pub async fn update(&self, id: SandboxId, update: api::UpdateRequest) -> Result<Vec<String>> {
        self.handle(id)?
            .ask(|reply| Request::Update { update, reply })
            .await
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// `NotRunning`.
    pub async fn kill(&self, id: SandboxId, signal: i32) -> Result<()> {
        self.handle(id)?
            .ask(|reply| Request::Kill { signal, reply })
            .await
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// `NotRunning`, `WrongState`.
    pub async fn pause(&self, id: SandboxId) -> Result<()> {
        self.handle(id)?.ask(|reply| Request::Pause { reply }).await
    }

    /// Thaws all processes.
    ///
    /// # Errors
    /// `WrongState` when it is not paused.
    pub async fn resume(&self, id: SandboxId) -> Result<()> {
        self.handle(id)?
            .ask(|reply| Request::Resume { reply })
            .await
    }

    /// Changes the name.
    ///
    /// # Errors
    /// `NameTaken`, `Invalid`.
    pub async fn rename(&self, id: SandboxId, name: &str) -> Result<()> {
        let name = name.strip_prefix('/').unwrap_or(name).to_owned();
        self.handle(id)?
            .ask(|reply| Request::Rename { name, reply })
            .await
    }

    /// Publishes and takes back ports of a container, running or not; later starts do likewise.
    ///
    /// # Errors
    /// `PortsFailed` when a port is taken: nothing is changed then; `Invalid`.
    pub async fn publish(&self, id: SandboxId, change: PublishRequest) -> Result<()> {
        self.handle(id)?
            .ask(|reply| Request::Publish { change, reply })
            .await
    }

    /// Removes a container. When this returns nobody finds it any more; its last files go away
    /// beside the answer.
    ///
    /// # Errors
    /// `StillLive` without `force`.
    pub async fn remove(&self, id: SandboxId, options: RemoveOptions) -> Result<()> {
        self.handle(id)?
            .ask(|reply| Request::Remove { options, reply })
            .await
    }

    /// Takes a link of the old kind away from the container that has it.
    ///
    /// # Errors
    /// `NoSuchContainer`, also when it has no such link.
    pub async fn unlink(&self, id: SandboxId, alias: &str) -> Result<()> {
        let alias = alias.to_owned();
        self.handle(id)?
            .ask(|reply| Request::Unlink { alias, reply })
            .await
    }

    /// Registers a wait. It is registered when this returns, so a start after it is not missed.
    ///
    /// # Errors
    /// `NoSuchContainer`.
    pub async fn wait(
        &self,
        id: SandboxId,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = Waited> + Send + 'static + use<>> {
        let end = self
            .handle(id)?
            .ask(|reply| Request::Wait { condition, reply })
            .await?;
        Ok(async move {
            let gone = || Waited {
                code: 0,
                error: "the container is gone".to_owned(),
            };
            end.over().await.unwrap_or_else(gone)
        })
    }

    /// Attaches; also to a container that does not run yet.
    ///
    /// # Errors
    /// `Paused`.
    pub async fn attach(&self, id: SandboxId, request: AttachRequest) -> Result<Attached> {
        self.handle(id)?
            .ask(|reply| Request::Attach { request, reply })
            .await
    }

    /// Changes the size of the terminal.
    ///
    /// # Errors
    /// `NotRunning`.
    pub async fn resize(&self, id: SandboxId, rows: u16, cols: u16) -> Result<()> {
        let target = Target::Init;
        self.handle(id)?
            .ask(|reply| Request::Resize {
                target,
                rows,
                cols,
                reply,
            })
            .await
    }

    /// Reads the log; lines come in a bounded channel, which ends with the log.
    ///
    /// # Errors
    /// `Unsupported` when the log driver keeps none.
    pub async fn logs(
        &self,
        id: SandboxId,
        request: LogsRequest,
    ) -> Result<mpsc::Receiver<LogLines>> {
        let snapshot = self.handle(id)?.snapshot;
        let spec = snapshot.borrow().spec.clone();
        let Some(path) = self.0.log_file(&spec, id) else {
            return Err(EngineError::Unsupported(
                "configured logging driver does not support reading".to_owned(),
            ));
        };
        Ok(logs::read(self.0.jobs.clone(), path, request, snapshot))
    }

    /// Removes every container that does not run and that `keep` does not keep; returns ids and
    /// freed bytes.
    ///
    /// # Errors
    /// None so far: what cannot be removed is left.
    pub async fn prune(
        &self,
        keep: impl Fn(&Container) -> bool + Send,
    ) -> Result<(Vec<SandboxId>, u64)> {
        let mut gone = Vec::new();
        let mut freed = 0;
        for container in self.list() {
            let restarting = matches!(
                container.state,
                State::Exited {
                    restarting: true,
                    ..
                }
            );
            if container.state.is_live() || restarting || keep(&container) {
                continue;
            }
            let alone = std::slice::from_ref(&container);
            let bytes: u64 = self.0.sizes_of(alone).await.iter().sum();
            if self
                .remove(container.id, RemoveOptions::default())
                .await
                .is_ok()
            {
                gone.push(container.id);
                freed += bytes;
            }
        }
        self.0.events.publish_prune(Subject::Container, freed);
        Ok((gone, freed))
    }

    /// Bytes that each container has written to its root, and of all that it sees (its layers too);
    /// a large tree is not walked again for some seconds.
    pub async fn sizes(&self, containers: &[Arc<Container>]) -> Vec<(u64, u64)> {
        let mut known = HashMap::new();
        let mut layer_bytes = |layer: &Digest| {
            let bytes = known.entry(*layer);
            *bytes.or_insert_with(|| self.0.layer_bytes(layer))
        };
        let written = self.0.sizes_of(containers).await;
        let all = containers.iter().zip(written);
        all.map(|(container, written)| {
            let layers: u64 = container.layers.iter().map(&mut layer_bytes).sum();
            (written, written + layers)
        })
        .collect()
    }

    /// Prepares an exec; returns its id.
    ///
    /// # Errors
    /// `NotRunning`, `Paused`, `Invalid`.
    pub async fn exec_create(&self, id: SandboxId, request: ExecRequest) -> Result<String> {
        let exec = clock::new_id()
            .map_err(|e| EngineError::io("draw an id", e))?
            .to_string();
        let handle = self.handle(id)?;
        let id = exec.clone();
        handle
            .ask(|reply| Request::ExecCreate { id, request, reply })
            .await?;
        Ok(exec)
    }

    /// Starts an exec; none when detached.
    ///
    /// # Errors
    /// `NoSuchExec`, `StartFailed`, `WrongState`.
    pub async fn exec_start(
        &self,
        exec: &str,
        detach: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Option<Attached>> {
        let container = self.0.execs.get(exec)?.container;
        let id = exec.to_owned();
        self.handle(container)?
            .ask(|reply| Request::ExecStart {
                id,
                detach,
                size,
                reply,
            })
            .await
    }

    /// One exec. Its end is seen here as soon as its output has ended.
    ///
    /// # Errors
    /// `NoSuchExec`.
    pub async fn exec_inspect(&self, exec: &str) -> Result<Exec> {
        let found = self.0.execs.get(exec)?;
        if !found.running {
            return Ok(found);
        }
        // The shim tells of the end before it closes the output; its owner may not have read it.
        if let Ok(handle) = self.handle(found.container) {
            drop(handle.ask(|reply| Request::Settle { reply }).await);
        }
        self.0.execs.get(exec)
    }

    /// Changes the size of an exec's terminal.
    ///
    /// # Errors
    /// `NoSuchExec`, `NotRunning`.
    pub async fn exec_resize(&self, exec: &str, rows: u16, cols: u16) -> Result<()> {
        let container = self.0.execs.get(exec)?.container;
        let id = exec
            .parse()
            .map_err(|_| EngineError::NoSuchExec(exec.to_owned()))?;
        let target = Target::Exec(id);
        self.handle(container)?
            .ask(|reply| Request::Resize {
                target,
                rows,
                cols,
                reply,
            })
            .await
    }
}
