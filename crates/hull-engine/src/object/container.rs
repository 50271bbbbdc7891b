//! One container: the task that owns it, and the requests that it takes.
//!
//! ```text
//!  requests ─┐
//!  shim ─────┼──▶ Owner::run ──▶ step() ──▶ record, effect, snapshot
//!  timers ───┘
//! ```
//!
//! Everything that changes a container passes through here, one thing at a time. What takes long
//! is never awaited in place: a stop waits as a deadline, an exit as an event, the clean-up of a
//! former life as a task that only the next start or the removal waits for.
//!
//! This file is the owner and its loop. What it does is told by chapters: `life` (start, end, another
//! start), `stop`, `removal`, `client` (who waits or is attached), `recovery` (found by a new daemon);
//! what is stored is `record`, what is asked `request`, what others see `snapshot`.

mod client;
mod life;
mod record;
mod recovery;
mod removal;
mod request;
mod snapshot;
mod stop;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hull_model::limits::RESTART_BACKOFF_MS;
use hull_model::spec::{ContainerSpec, Isolation};
use hull_model::state::{Event as StateEvent, Exit, State, step};
use hull_model::{SandboxId, signal};
use hull_sandbox::{Attachment, Event as ShimEvent};
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::api::{Change, Container, WaitCondition, Waited};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::names::NameServers;
use crate::object::connection::Connection;
use crate::object::exec::Execs;
use crate::object::health::Monitor;
use crate::object::view::Views;
use crate::object::volume;
use crate::port::OpenPorts;
use crate::store::{Change as Write, Key};
use snapshot::{Shown, view};

pub(crate) use record::{ContainerRecord, RECORD_VERSION, StateRecord};
pub(in crate::object) use request::answer;
pub(crate) use request::{Handle, Reply, Request};

/// Pause between two looks whether somebody still has the files of a container that is to be
/// started again.
const VIEW_PAUSE: Duration = Duration::from_millis(100);

struct Stopping {
    /// When SIGKILL follows; none: never.
    kill_at: Option<Instant>,
    replies: Vec<Reply<Change>>,
}

/// The owner of one container.
pub(crate) struct Owner {
    pub(super) core: Arc<Core>,
    pub(super) id: SandboxId,
    pub(super) record: ContainerRecord,
    pub(super) spec: Arc<ContainerSpec>,
    pub(super) life: StateRecord,
    pub(super) pid: u32,
    pub(super) shim: Option<Connection>,
    pub(super) execs: Execs,
    /// Who answers its questions about names.
    pub(super) name_servers: NameServers,
    /// Sockets of its published ports.
    pub(super) open_ports: OpenPorts,
    pub(super) attachments: Vec<Attachment>,
    /// Open as long as output of its process is on the way to a client.
    deliveries: Arc<watch::Sender<()>>,
    pub(super) views: Views,
    /// How many readers of its files have it frozen.
    pub(super) held: u32,
    pub(super) monitor: Monitor,
    ending: Option<JoinHandle<()>>,
    /// Numbers of the endpoints of the life before, whose links the kernel takes away by and by.
    pub(super) former_links: Vec<u8>,
    /// Number of the last change of links that the shim was asked for.
    pub(super) link_changes: u32,
    compressing: Option<JoinHandle<()>>,
    waiters: Vec<(WaitCondition, oneshot::Sender<Waited>)>,
    stopping: Option<Stopping>,
    /// A forced removal that waits for the end of the process, and whether volumes go too.
    removal: Option<(Reply<()>, bool)>,
    /// Its own volumes, while it is being removed.
    leaving: volume::Leaving,
    /// Its next start is owed to that of the daemon.
    resuming: bool,
    /// Times that its start was put off for others that are about to start too.
    put_off: u32,
    /// When the program of this life was found to run, by a clock that nobody sets.
    running_since: Option<Instant>,
    /// An end that a former daemon told and died before it recorded it.
    told_exit: Option<Exit>,
    restart_at: Option<Instant>,
    /// The host goes down: nothing is started any more.
    shutting_down: bool,
    backoff_ms: u64,
    requests: mpsc::Receiver<Request>,
    snapshot: watch::Sender<Arc<Container>>,
}

enum Input {
    Request(Option<Request>),
    Shim(ShimEvent),
    ProbeOutput(Vec<u8>),
    Deadline,
}

impl Owner {
    /// Makes the owner of a container and the handle to it; the caller spawns [`Owner::run`].
    pub(crate) fn new(
        core: Arc<Core>,
        id: SandboxId,
        record: ContainerRecord,
        life: StateRecord,
    ) -> (Owner, Handle) {
        let (sender, requests) = mpsc::channel(hull_model::limits::MAILBOX_LENGTH_MAX);
        let spec = Arc::new(record.spec.clone());
        let shown = Shown {
            core: &core,
            id,
            record: &record,
            spec: &spec,
            life: &life,
            pid: 0,
            execs: Vec::new(),
        };
        let first = Arc::new(view(shown));
        let (snapshot, receiver) = watch::channel(first);
        let owner = Owner {
            core,
            id,
            record,
            spec,
            life,
            pid: 0,
            shim: None,
            execs: Execs::default(),
            name_servers: NameServers::default(),
            open_ports: OpenPorts::default(),
            attachments: Vec::new(),
            deliveries: Arc::default(),
            views: Views::default(),
            held: 0,
            monitor: Monitor::default(),
            ending: None,
            former_links: Vec::new(),
            link_changes: 0,
            compressing: None,
            waiters: Vec::new(),
            stopping: None,
            removal: None,
            leaving: volume::Leaving::default(),
            resuming: false,
            put_off: 0,
            running_since: None,
            told_exit: None,
            restart_at: None,
            shutting_down: false,
            backoff_ms: RESTART_BACKOFF_MS,
            requests,
            snapshot,
        };
        (
            owner,
            Handle {
                requests: sender,
                snapshot: receiver,
            },
        )
    }

    /// Serves until the container is removed or the engine is dropped.
    pub(crate) async fn run(mut self) {
        // Looked at first: an owner that was found again may have begun its removal already.
        while self.life.state != State::Removing {
            let deadline = self.next_deadline();
            let input = tokio::select! {
                event = next_event(&mut self.shim) => Input::Shim(event),
                request = self.requests.recv() => Input::Request(request),
                output = self.monitor.output() => Input::ProbeOutput(output),
                () = sleep_until(deadline) => Input::Deadline,
            };
            match input {
                Input::Request(None) => return,
                Input::Request(Some(request)) => self.on_request(request).await,
                Input::Shim(event) => self.on_shim(event).await,
                Input::ProbeOutput(output) => self.probe_said(output),
                Input::Deadline => self.on_deadline().await,
            }
        }
        self.finish_removal().await;
    }

    async fn on_request(&mut self, request: Request) {
        match request {
            Request::Start { reply } if self.is_viewed() => self.start_later(reply),
            Request::Start { reply } => answer(reply, self.start_by_hand().await),
            Request::Stop {
                timeout_s,
                signal,
                reply,
            } => {
                self.forget_restart();
                self.stop(timeout_s, signal, reply).await;
            }
            Request::Kill { signal, reply } => answer(reply, self.kill(signal).await),
            Request::Pause { reply } => answer(reply, self.freeze(StateEvent::Pause).await),
            Request::Resume { reply } => answer(reply, self.freeze(StateEvent::Resume).await),
            Request::Shutdown { reply } => self.shutdown(reply).await,
            Request::Rename { name, reply } => answer(reply, self.rename(name).await),
            Request::Connect {
                network,
                asked,
                reply,
            } => answer(reply, self.connect(&network, asked).await),
            Request::Unlink { alias, reply } => answer(reply, self.unlink(&alias).await),
            Request::Disconnect { network, reply } => {
                answer(reply, self.disconnect(&network).await);
            }
            Request::Remove { options, reply } => self.remove(options, reply).await,
            Request::Settle { reply } => {
                self.settle().await;
                answer(reply, Ok(()));
            }
            Request::Publish { change, reply } => answer(reply, self.change_ports(change).await),
            Request::Wait { condition, reply } => answer(reply, Ok(self.wait(condition))),
            Request::Attach { request, reply } => answer(reply, self.attach(request)),
            Request::Update { update, reply } => answer(reply, self.update(update).await),
            Request::View { reply } if self.spec.host.isolation == Isolation::Vm => {
                self.view_of_machine(reply).await;
            }
            Request::View { reply } => {
                let view = self.view().await;
                answer(reply, view);
            }
            Request::Hold { reply } => answer(reply, self.hold().await),
            Request::Release { reply } => answer(reply, self.release().await),
            Request::Resize {
                target,
                rows,
                cols,
                reply,
            } => {
                answer(reply, self.resize(target, rows, cols));
            }
            Request::ExecCreate { id, request, reply } => {
                answer(reply, self.exec_create(id, request));
            }
            Request::ExecStart {
                id,
                detach,
                size,
                reply,
            } => {
                self.exec_start(&id, detach, size, reply);
            }
        }
    }

    pub(super) async fn on_shim(&mut self, event: ShimEvent) {
        match event {
            ShimEvent::Exited(exit) => self.on_exit(exit).await,
            ShimEvent::Gone => self.on_shim_gone().await,
            ShimEvent::ExecStarted { id, pid } => {
                self.exec_started(&id.to_string(), pid);
                self.publish();
            }
            ShimEvent::ExecFailed { id, failure } => self.exec_failed(&id.to_string(), &failure),
            ShimEvent::ExecExited { id, exit } => self.exec_ended(&id.to_string(), exit),
            ShimEvent::Kept => self.take_kept().await,
            ShimEvent::LogDropped { lines } => {
                tracing::warn!(container = %self.id.short(), lines, "log lines were dropped: the disk is full");
            }
            ShimEvent::LogRotated => self.compress_log(),
            ShimEvent::OutOfMemory => self.on_out_of_memory(),
            ShimEvent::Refused { text } => {
                tracing::warn!(container = %self.id.short(), text, "the shim refused a request");
            }
            ShimEvent::LinksChanged { number, failure } => {
                tracing::warn!(container = %self.id.short(), number, failure, "links were changed late");
            }
            ShimEvent::Started { .. } | ShimEvent::StartFailed(_) => {
                tracing::debug!(container = %self.id.short(), "a start was reported late");
            }
        }
    }

    /// Compresses files of the log that are full, beside us.
    pub(super) fn compress_log(&mut self) {
        let Some(path) = self.core.log_file(&self.spec, self.id) else {
            return;
        };
        if !crate::log_driver::compresses(&self.spec.host.log) {
            return;
        }
        let (jobs, id) = (self.core.jobs.clone(), self.id);
        self.compressing = Some(tokio::spawn(async move {
            let done = jobs.run(Pool::Disk, move || crate::logs::files::compress(&path));
            if let Ok(Err(error)) = done.await {
                tracing::warn!(container = %id.short(), %error, "a log was not compressed");
            }
        }));
    }

    async fn settle(&mut self) {
        while let Some(Ok(Some(event))) = self.shim.as_mut().map(|shim| shim.get_mut().try_event())
        {
            self.on_shim(event).await;
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let kill_at = self.stopping.as_ref().and_then(|stopping| stopping.kill_at);
        let health = self.monitor.deadline();
        kill_at
            .into_iter()
            .chain(self.restart_at)
            .chain(health)
            .min()
    }

    async fn on_deadline(&mut self) {
        let now = Instant::now();
        if let Some(stopping) = &mut self.stopping
            && stopping.kill_at.is_some_and(|at| at <= now)
        {
            stopping.kill_at = None;
            self.event("kill", [("signal", signal::KILL.to_string())]);
            self.signal(signal::KILL);
        }
        if self.restart_at.is_some_and(|at| at <= now)
            && (self.is_viewed() || self.waits_for_others())
        {
            self.views.hurry();
            self.restart_at = Some(now + VIEW_PAUSE);
        }
        self.tend_health(now);
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            // What the start of the daemon or of the host brings back did not fail.
            if !std::mem::take(&mut self.resuming) {
                self.life.restart_count += 1;
            }
            if let Err(error) = self.start().await {
                tracing::warn!(container = %self.id.short(), error = %error.chain(), "restart failed");
                self.rearm_or_rest().await;
            }
        }
    }

    async fn rename(&mut self, name: String) -> Result<()> {
        if name == self.spec.name {
            return Err(EngineError::Invalid(
                "Renaming a container with the same name as its current name".to_owned(),
            ));
        }
        self.core.containers.take_name(&name, self.id)?;
        let mut record = self.record.clone();
        record.spec.name.clone_from(&name);
        let write = Write::put(Key::Container(*self.id.as_bytes()), to_json(&record));
        if let Err(error) = self.core.store.commit(vec![write]).await {
            self.core.containers.free_name(&name, self.id);
            return Err(error);
        }
        let old = std::mem::replace(&mut self.record, record).spec.name;
        self.core.containers.free_name(&old, self.id);
        self.spec = Arc::new(self.record.spec.clone());
        self.publish_with("rename", [("oldName", format!("/{old}"))]);
        Ok(())
    }

    pub(super) fn apply(&mut self, event: StateEvent) -> Result<()> {
        match step(self.life.state, event) {
            Ok((state, _effect)) => {
                self.life.state = state;
                Ok(())
            }
            Err(refused) => Err(self.refusal(refused.state, event)),
        }
    }

    fn refusal(&self, state: State, event: StateEvent) -> EngineError {
        match (state, event) {
            (State::Paused, StateEvent::Pause) => {
                EngineError::WrongState(format!("Container {} is already paused", self.id))
            }
            (_, StateEvent::Pause) => EngineError::NotRunning(self.id),
            (_, StateEvent::Resume) => {
                EngineError::WrongState(format!("Container {} is not paused", self.id))
            }
            (State::Removing, _) => EngineError::BeingRemoved(self.id),
            (state, _) => EngineError::StillLive {
                id: self.id,
                state: state.docker_word(),
            },
        }
    }

    pub(super) fn cgroup_path(&self) -> String {
        self.core.cgroup_path(&self.spec, self.id)
    }

    pub(super) fn state_write(&self) -> Write {
        Write::put(Key::State(*self.id.as_bytes()), to_json(&self.life))
    }

    #[track_caller]
    pub(super) fn record_state(&self) {
        self.core.store.record(vec![self.state_write().releasing()]);
    }

    pub(super) fn publish(&self) {
        self.snapshot.send_replace(Arc::new(self.shown()));
        self.core.name_changes.count();
    }

    /// Publishes the state and what happened as one: who sees the state finds the event, and who
    /// hears of the event sees the state.
    pub(super) fn publish_with<const N: usize>(
        &self,
        action: impl Into<String>,
        facts: [(&str, String); N],
    ) {
        let view = Arc::new(self.shown());
        let show = || drop(self.snapshot.send_replace(view));
        self.core
            .publish_container_with(self.id, &self.spec, (action.into(), facts), show);
        self.core.name_changes.count();
    }

    fn shown(&self) -> Container {
        view(Shown {
            core: &self.core,
            id: self.id,
            record: &self.record,
            spec: &self.spec,
            life: &self.life,
            pid: self.pid,
            execs: self.execs.running(),
        })
    }

    pub(super) fn event<const N: usize>(
        &self,
        action: impl Into<String>,
        facts: [(&str, String); N],
    ) {
        self.core
            .publish_container(self.id, &self.spec, action, facts);
    }
}

/// A connected pair: one end for the engine's client, one for the shim.
pub(super) fn stream_pair() -> Result<(UnixStream, OwnedFd)> {
    let pair = || {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((UnixStream::from_std(ours)?, OwnedFd::from(theirs)))
    };
    pair().map_err(|e| EngineError::io("make a stream for the client", e))
}

pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    // Our own records: maps with text keys and plain values, which JSON always can hold.
    serde_json::to_vec(value).unwrap_or_default()
}

pub(super) async fn next_event(shim: &mut Option<Connection>) -> ShimEvent {
    match shim {
        Some(connection) => connection.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
