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

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hull_model::health::Health;
use hull_model::limits::{
    RESTART_BACKOFF_MS, RESTART_BACKOFF_MS_MAX, RESTART_BACKOFF_RESET_S, STOP_TIMEOUT_S,
};
use hull_model::port::PublishedPort;
use hull_model::spec::{ContainerSpec, EndpointSpec, Isolation, RestartPolicy};
use hull_model::state::{EXIT_LOST, Event as StateEvent, Exit, State, step};
use hull_model::{Digest, SandboxId, signal};
use hull_sandbox::{Attachment, Event as ShimEvent, Found, Shim, Status, Target};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::api::{
    AttachRequest, Attached, Change, Container, Delivery, Endpoint, ExecRequest, Network,
    PublishRequest, RemoveOptions, UpdateRequest, WaitCondition, Waited,
};
use crate::clock::now_ns;
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::events::Told;
use crate::jobs::Pool;
use crate::names::NameServers;
use crate::network;
use crate::object::connection::Connection;
use crate::object::exec::Execs;
use crate::object::health::Monitor;
use crate::object::port::ClosedPorts;
use crate::object::view::{FileView, Views};
use crate::object::volume;
use crate::port::OpenPorts;
use crate::shutdown::relied_on;
use crate::store::{Change as Write, Key, Recorded};

/// Clients that may wait attached for a start; the oldest is let go.
const ATTACHMENTS_WAITING_MAX: usize = 16;
/// How long the shim of a container that ended may take to clean up before we do it.
const SHIM_END_WAIT: Duration = Duration::from_secs(10);
/// How long an attached client may take to read what was printed before others are told of the end,
/// as in dockerd.
const DELIVERY_WAIT: Duration = Duration::from_secs(2);
/// How long the processes of a container may take to vanish after SIGKILL.
const DISCARD_WAIT: Duration = Duration::from_secs(10);
/// Pause before a removal that failed is tried again, the first time and at most.
const REMOVE_AGAIN: Duration = Duration::from_secs(1);
const REMOVE_AGAIN_MAX: Duration = Duration::from_secs(300);

/// Times that a start is put off for others: one that fails again and again is not waited for.
const PUT_OFF_MAX: u32 = 100;
/// Pause between two looks whether somebody still has the files of a container that is to be
/// started again.
const VIEW_PAUSE: Duration = Duration::from_millis(100);

/// What is stored of a container once; changed by rename and update.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) v: u32,
    pub(crate) spec: ContainerSpec,
    pub(crate) created_ns: i64,
    pub(crate) layers: Vec<Digest>,
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

/// What is stored of a container at each change of its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StateRecord {
    pub(crate) v: u32,
    pub(crate) state: State,
    pub(crate) started_ns: i64,
    /// When a life last ended; 0: none did.
    #[serde(default)]
    pub(crate) finished_ns: i64,
    /// Somebody stopped it: only `always` starts it again with the daemon.
    pub(crate) stopped_by_hand: bool,
    pub(crate) restart_count: u32,
    /// Memory ran out in this life, which may go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) out_of_memory: bool,
    #[serde(default)]
    pub(crate) error: String,
    #[serde(default)]
    pub(crate) error_code: i32,
    #[serde(default)]
    pub(crate) failed_to_run: bool,
    /// What a daemon wrote that knew one network only.
    #[serde(default, skip_serializing)]
    endpoint: Option<Endpoint>,
    /// Leased before the start that they are for is recorded.
    #[serde(default)]
    pub(crate) endpoints: Vec<Endpoint>,
    /// A connect or disconnect is under way: links may differ from `endpoints`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) links_changing: bool,
    /// Published while it runs.
    #[serde(default)]
    pub(crate) ports: Vec<PublishedPort>,
    /// None: it has no check, or never ran.
    #[serde(default)]
    pub(crate) health: Option<Health>,
    /// Boot in which `state` was true, for what only lives as long as the kernel.
    pub(crate) boot_id: String,
}

impl StateRecord {
    pub(crate) fn created(boot_id: &str) -> Self {
        Self {
            v: 1,
            state: State::Created,
            started_ns: 0,
            finished_ns: 0,
            stopped_by_hand: false,
            restart_count: 0,
            out_of_memory: false,
            error: String::new(),
            error_code: 0,
            failed_to_run: false,
            endpoint: None,
            ports: Vec::new(),
            endpoints: Vec::new(),
            links_changing: false,
            health: None,
            boot_id: boot_id.to_owned(),
        }
    }
}

/// Version of [`ContainerRecord`]: since 2, `spec.endpoints` names every network.
pub(crate) const RECORD_VERSION: u32 = 2;

impl ContainerRecord {
    /// Brings a record of an older version to ours.
    pub(crate) fn upgrade(&mut self) {
        let mode = &self.spec.host.network;
        if self.v < 2 && self.spec.endpoints.is_empty() && network::has_networks(mode) {
            let main = network::main_network(mode).to_owned();
            self.spec.endpoints.entry(main).or_default();
        }
        self.v = RECORD_VERSION;
    }
}

impl StateRecord {
    /// Brings a record of an older version to ours.
    pub(crate) fn upgrade(&mut self) {
        self.endpoints.extend(self.endpoint.take());
    }
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What an owner can be asked.
#[derive(Debug)]
pub(crate) enum Request {
    Start {
        reply: Reply<Change>,
    },
    Stop {
        timeout_s: Option<i64>,
        signal: Option<i32>,
        reply: Reply<Change>,
    },
    Kill {
        signal: i32,
        reply: Reply<()>,
    },
    Pause {
        reply: Reply<()>,
    },
    Resume {
        reply: Reply<()>,
    },
    /// Stop for a shutdown of the host: the wish to run again is kept.
    Shutdown {
        reply: Reply<()>,
    },
    Rename {
        name: String,
        reply: Reply<()>,
    },
    Connect {
        network: Arc<Network>,
        asked: EndpointSpec,
        reply: Reply<()>,
    },
    Disconnect {
        network: String,
        reply: Reply<()>,
    },
    Remove {
        options: RemoveOptions,
        reply: Reply<()>,
    },
    Unlink {
        alias: String,
        reply: Reply<()>,
    },
    Wait {
        condition: WaitCondition,
        reply: Reply<Waiting>,
    },
    Attach {
        request: AttachRequest,
        reply: Reply<Attached>,
    },
    /// Take in what the shim has said by now, so that what is read after it is up to date.
    Settle {
        reply: Reply<()>,
    },
    /// Change its published ports, now and for later starts.
    Publish {
        change: PublishRequest,
        reply: Reply<()>,
    },
    Update {
        update: UpdateRequest,
        reply: Reply<Vec<String>>,
    },
    /// Its files, for as long as the answer is held.
    View {
        reply: Reply<Arc<FileView>>,
    },
    /// Freeze all processes until [`Request::Release`]; whether they run.
    Hold {
        reply: Reply<bool>,
    },
    Release {
        reply: Reply<()>,
    },
    Resize {
        target: Target,
        rows: u16,
        cols: u16,
        reply: Reply<()>,
    },
    ExecCreate {
        id: String,
        request: ExecRequest,
        reply: Reply<()>,
    },
    ExecStart {
        id: String,
        detach: bool,
        size: Option<(u16, u16)>,
        reply: Reply<Option<Attached>>,
    },
}

/// How others reach an owner.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) snapshot: watch::Receiver<Arc<Container>>,
}

impl Handle {
    /// Asks the owner something.
    pub(crate) async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let id = self.snapshot.borrow().id;
        self.requests
            .try_send(make(reply))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => EngineError::Unavailable(format!(
                    "container {} has too many requests waiting; try again",
                    id.short()
                )),
                mpsc::error::TrySendError::Closed(_) => {
                    EngineError::NoSuchContainer(id.to_string())
                }
            })?;
        answer
            .await
            .unwrap_or_else(|_| Err(EngineError::NoSuchContainer(id.to_string())))
    }
}

struct Stopping {
    /// When SIGKILL follows; none: never.
    kill_at: Option<Instant>,
    replies: Vec<Reply<Change>>,
}

/// What a wait is told by.
#[derive(Debug)]
pub(crate) struct Waiting {
    end: oneshot::Receiver<Waited>,
    deliveries: Option<Arc<watch::Sender<()>>>,
}

impl Waiting {
    /// The end, after the clients that were attached have what was printed before it: who waits
    /// reads what came meanwhile, as with dockerd.
    pub(crate) async fn over(self) -> Option<Waited> {
        let waited = self.end.await.ok();
        if let Some(deliveries) = self.deliveries {
            // A client that does not read keeps nobody else waiting.
            drop(tokio::time::timeout(DELIVERY_WAIT, deliveries.closed()).await);
        }
        waited
    }
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

    // ---- start

    async fn start_by_hand(&mut self) -> Result<Change> {
        match self.life.state {
            State::Running => return Ok(Change::AlreadySo),
            State::Paused => {
                return Err(EngineError::WrongState(
                    "cannot start a paused container, try unpause instead".to_owned(),
                ));
            }
            State::Removing | State::Dead => {
                return Err(EngineError::WrongState(
                    "container is marked for removal and cannot be started".to_owned(),
                ));
            }
            _ => {}
        }
        self.restart_at = None;
        self.backoff_ms = RESTART_BACKOFF_MS;
        self.life.restart_count = 0;
        self.resuming = false;
        self.life.stopped_by_hand = false;
        let started = self.start().await;
        if started.is_err() && self.spec.host.auto_remove {
            self.begin_removal(true).await.ok();
        }
        started.map(|()| Change::Made)
    }

    /// Writes the intent, spawns the shim and waits until the program runs.
    async fn start(&mut self) -> Result<()> {
        self.forget_former_life().await?;
        let before = self.life.clone();
        self.apply(StateEvent::Start)?;
        self.life.boot_id.clone_from(&self.core.boot_id);
        self.life.error.clear();
        self.life.error_code = 0;
        self.life.out_of_memory = false;
        self.life.links_changing = false;
        if let Err(error) = self.lease_endpoints() {
            self.undo_start(&error).await;
            return Err(error);
        }
        if let Err(error) = self.core.store.commit(vec![self.state_write()]).await {
            self.release_endpoints();
            self.life = before;
            return Err(error);
        }
        match self.spawn().await {
            Ok((pid, started_ns)) => {
                self.pid = pid;
                self.put_off = 0;
                self.running_since = Some(Instant::now());
                self.life.started_ns = started_ns;
                self.apply(StateEvent::Ready)?;
                self.begin_health();
                self.record_state();
                self.network_events("connect", &self.life.endpoints);
                volume::tell(&self.core, self.id, &self.spec, true);
                self.publish_with("start", []);
                Ok(())
            }
            Err(error) => {
                self.undo_start(&error).await;
                Err(error)
            }
        }
    }

    async fn undo_start(&mut self, error: &EngineError) {
        let code = match error {
            EngineError::StartFailed { exit_code, .. } => *exit_code,
            _ => 128,
        };
        self.life.error = error.chain();
        self.life.error_code = code;
        self.life.failed_to_run = matches!(error, EngineError::StartFailed { .. });
        let never_ran = self.life.started_ns == 0;
        let exit = Exit {
            code,
            oom_killed: false,
            at_ns: now_ns(),
        };
        let event = if never_ran {
            StateEvent::Undone
        } else {
            StateEvent::Failed(exit)
        };
        if let Err(error) = self.apply(event) {
            tracing::error!(container = %self.id.short(), error = %error.chain(), "undo of a start");
        }
        self.end_life();
        self.publish_with("die", [("exitCode", code.to_string())]);
    }

    // ---- end

    async fn on_exit(&mut self, exit: Exit) {
        if self.apply(StateEvent::Exited(exit)).is_err() {
            return;
        }
        self.life.finished_ns = exit.at_ns;
        let ran = self.running_since.take().map(|since| since.elapsed());
        if ran.is_some_and(|ran| ran >= Duration::from_secs(RESTART_BACKOFF_RESET_S)) {
            self.backoff_ms = RESTART_BACKOFF_MS;
        }
        let endpoints = self.life.endpoints.clone();
        self.end_health();
        self.end_life();
        // Before anybody is told that it ended, who may ask for the events then.
        if self.told_exit.take() != Some(exit) {
            self.tell_death(exit);
            self.network_events("disconnect", &endpoints);
        }
        self.rearm_or_rest().await;
        if let Some(stopping) = self.stopping.take() {
            self.event("stop", []);
            stopping
                .replies
                .into_iter()
                .for_each(|reply| answer(reply, Ok(Change::Made)));
        }
        if let Some((reply, volumes)) = self.removal.take() {
            let volumes = volumes || self.spec.host.auto_remove;
            answer(reply, self.begin_removal(volumes).await);
        } else if self.spec.host.auto_remove
            && let Err(error) = self.begin_removal(true).await
        {
            tracing::error!(container = %self.id.short(), error = %error.chain(), "automatic removal");
        }
    }

    /// Told at once and not only with the end: a container may lose a process and go on.
    fn on_out_of_memory(&mut self) {
        self.life.out_of_memory = true;
        self.record_state();
        self.publish_with("oom", []);
    }

    fn tell_death(&self, exit: Exit) {
        if exit.oom_killed && !self.life.out_of_memory {
            self.event("oom", []);
        }
        let seconds = exit.at_ns.saturating_sub(self.life.started_ns) / 1_000_000_000;
        self.event(
            "die",
            [
                ("exitCode", exit.code.to_string()),
                ("execDuration", seconds.to_string()),
            ],
        );
    }

    /// Tells the waiters, then decides whether the restart policy wants another start.
    async fn rearm_or_rest(&mut self) {
        let State::Exited { exit, .. } = self.life.state else {
            return;
        };
        if self.wants_restart(exit)
            && self.removal.is_none()
            && self.apply(StateEvent::Rearm).is_ok()
        {
            let wait = Duration::from_millis(self.backoff_ms);
            self.restart_at = Some(Instant::now() + wait);
            self.backoff_ms = (self.backoff_ms * 2).min(RESTART_BACKOFF_MS_MAX);
            self.record_state();
        }
        self.publish();
        self.tell_waiters(exit.code);
    }

    /// Whether a container that this one joins or is linked with is about to start too, as all are
    /// after a start of the host.
    fn waits_for_others(&mut self) -> bool {
        let names = relied_on(&self.spec);
        let is_starting = |name: &&str| {
            let id = self.core.containers.resolve(name.trim_start_matches('/'));
            let handle = id.and_then(|id| self.core.containers.handle(id));
            handle.is_ok_and(|handle| {
                let state = handle.snapshot.borrow().state;
                matches!(
                    state,
                    State::Starting
                        | State::Exited {
                            restarting: true,
                            ..
                        }
                )
            })
        };
        let waits = self.put_off < PUT_OFF_MAX && names.iter().any(is_starting);
        self.put_off += u32::from(waits);
        waits
    }

    fn wants_restart(&self, exit: Exit) -> bool {
        if self.life.stopped_by_hand {
            return false;
        }
        if self.restart_is_due() && !self.shutting_down {
            return true;
        }
        if self.shutting_down {
            // Kept as a wish: the next daemon sees an exited container whose policy wants a start.
            return false;
        }
        match self.spec.host.restart {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure { retries_max } => {
                exit.code != 0 && (retries_max == 0 || self.life.restart_count < retries_max)
            }
        }
    }

    /// The shim's connection ended without an exit: it was killed, and took its container with it.
    async fn on_shim_gone(&mut self) {
        if !self.life.state.is_live() {
            self.shim = None;
            return;
        }
        let (core, id) = (self.core.clone(), self.id);
        let cgroup = self.cgroup_path();
        let found = self.core.jobs.run_own(Pool::Kernel, move || {
            match core.driver.reattach(&id) {
                Ok(Found::Exited(exit)) => Some(exit),
                // Nobody may run twice on one root: what is left is killed before we say so.
                _ => core
                    .driver
                    .discard(&id, &cgroup, DISCARD_WAIT)
                    .err()
                    .and(None),
            }
        });
        let lost = Exit {
            code: EXIT_LOST,
            oom_killed: false,
            at_ns: now_ns(),
        };
        let exit = found.await.ok().flatten().unwrap_or(lost);
        self.on_exit(exit).await;
    }

    /// Lets go of what only a running container holds, and records the state; the rest is cleaned up
    /// beside us.
    fn end_life(&mut self) {
        if self.pid != 0 {
            volume::tell(&self.core, self.id, &self.spec, false);
        }
        self.pid = 0;
        self.execs.end_all();
        let ports = self.close_ports();
        self.release_endpoints();
        let recorded = self
            .core
            .store
            .record_watched(vec![self.state_write().releasing()]);
        self.clean_up(ports, Some(recorded));
    }

    /// Takes down what is left of a life, but not before it is recorded how that ended: until then
    /// its exit record is all that says so.
    fn clean_up(&mut self, ports: ClosedPorts, recorded: Option<Recorded>) {
        let shim = self.shim.take();
        let (core, id, cgroup) = (self.core.clone(), self.id, self.cgroup_path());
        let spec = self.spec.clone();
        self.ending = Some(tokio::spawn(async move {
            if let Some(mut shim) = shim {
                shim.ended(SHIM_END_WAIT).await;
            }
            if let Some(recorded) = recorded
                && !recorded.on_disk().await
            {
                tracing::error!(container = %id.short(), "its end is not recorded; what is left of it stays");
                return;
            }
            let job = core.clone();
            let done = core.jobs.run_own(Pool::Kernel, move || {
                ports.take_back(&job);
                let done = job.driver.discard(&id, &cgroup, DISCARD_WAIT);
                job.volumes.release_all(&id.to_string(), &spec);
                done
            });
            match done.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(container = %id.short(), %error, "something of it is left");
                }
                Err(error) => {
                    tracing::warn!(container = %id.short(), error = %error.chain(), "not cleaned up");
                }
            }
        }));
    }

    /// Nothing of the life before stands in the way of the next one.
    pub(super) async fn forget_former_life(&mut self) -> Result<()> {
        let Some(ending) = self.ending.take() else {
            return Ok(());
        };
        let (core, id) = (self.core.clone(), self.id);
        let numbers = std::mem::take(&mut self.former_links);
        let jobs = self.core.jobs.clone();
        let detached = jobs.run(Pool::Kernel, move || {
            numbers
                .into_iter()
                .try_for_each(|number| core.network.detach(id, number))
        });
        // Both wait for the kernel: for links to go, and for the disk, as an overlay syncs its
        // file system when it goes.
        let (ended, detached) = tokio::join!(ending, detached);
        drop(ended);
        detached?
    }

    async fn wait_for_ending(&mut self) {
        if let Some(ending) = self.ending.take() {
            drop(ending.await);
        }
    }

    // ---- stop, kill, pause

    async fn stop(&mut self, timeout_s: Option<i64>, with: Option<i32>, reply: Reply<Change>) {
        if !self.life.state.is_live() {
            self.disarm().await;
            return answer(reply, Ok(Change::AlreadySo));
        }
        if self.life.state == State::Paused {
            // A frozen process cannot receive the signal.
            if let Err(error) = self.freeze(StateEvent::Resume).await {
                return answer(reply, Err(error));
            }
        }
        self.stop_running(timeout_s, with, reply);
    }

    /// Sends the stop signal; its answer comes with the end.
    pub(super) fn stop_running(
        &mut self,
        timeout_s: Option<i64>,
        with: Option<i32>,
        reply: Reply<Change>,
    ) {
        self.life.stopped_by_hand = true;
        self.record_state();
        let timeout_s = timeout_s
            .or(self.spec.config.stop_timeout_s)
            .unwrap_or(STOP_TIMEOUT_S);
        let kill_at = u64::try_from(timeout_s)
            .ok()
            .map(|s| Instant::now() + Duration::from_secs(s));
        let with = with.unwrap_or_else(|| self.stop_signal());
        self.event("kill", [("signal", with.to_string())]);
        self.signal(with);
        let stopping = self.stopping.get_or_insert(Stopping {
            kill_at,
            replies: Vec::new(),
        });
        stopping.kill_at = match (stopping.kill_at, kill_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        stopping.replies.push(reply);
    }

    /// Asks for the end without a wish to stay stopped; the caller waits for it.
    async fn shutdown(&mut self, reply: Reply<()>) {
        self.restart_at = None;
        self.shutting_down = true;
        if !self.life.state.is_live() {
            return answer(reply, Ok(()));
        }
        let by_hand = self.life.stopped_by_hand;
        let (stopped, _ends_with_the_host) = oneshot::channel();
        self.stop(None, None, stopped).await;
        self.life.stopped_by_hand = by_hand;
        self.record_state();
        answer(reply, Ok(()));
    }

    fn stop_signal(&self) -> i32 {
        signal::parse(&self.spec.config.stop_signal).unwrap_or(signal::TERM)
    }

    /// Calls a pending restart off.
    pub(super) async fn disarm(&mut self) {
        if self.restart_at.take().is_some() {
            self.life.stopped_by_hand = true;
            drop(self.apply(StateEvent::Disarm));
            self.record_state();
            self.publish();
        }
    }

    async fn kill(&mut self, with: i32) -> Result<()> {
        if !self.life.state.is_live() {
            return Err(EngineError::NotRunning(self.id));
        }
        if with == signal::KILL || with == self.stop_signal() {
            self.forget_restart();
            self.life.stopped_by_hand = true;
            self.record_state();
        }
        if with == signal::KILL && self.life.state == State::Paused {
            self.freeze(StateEvent::Resume).await?;
        }
        self.event("kill", [("signal", with.to_string())]);
        self.signal(with);
        Ok(())
    }

    /// Sends a signal; that the process is gone already is not an error, its exit is on the way.
    pub(super) fn signal(&self, with: i32) {
        if let Some(shim) = &self.shim
            && let Err(error) = shim.get().signal(with)
        {
            tracing::debug!(container = %self.id.short(), %error, "signal not sent");
        }
    }

    async fn freeze(&mut self, event: StateEvent) -> Result<()> {
        let before = self.life.state;
        self.apply(event)?;
        let frozen = self.life.state == State::Paused;
        let cgroup = self.cgroup_path();
        let core = self.core.clone();
        let done = self
            .core
            .jobs
            .run(Pool::Kernel, move || core.freeze(&cgroup, frozen))
            .await
            .and_then(|result| result);
        if let Err(error) = done {
            self.life.state = before;
            return Err(error);
        }
        if frozen {
            self.suspend_health();
        } else {
            self.resume_health();
        }
        self.record_state();
        self.publish_with(if frozen { "pause" } else { "unpause" }, []);
        Ok(())
    }

    // ---- rename, remove

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

    async fn remove(&mut self, options: RemoveOptions, reply: Reply<()>) {
        let restarting = matches!(
            self.life.state,
            State::Exited {
                restarting: true,
                ..
            }
        );
        if !self.life.state.is_live() && (options.force || !restarting) {
            return answer(reply, self.begin_removal(options.volumes).await);
        }
        if !options.force {
            let state = self.life.state.docker_word();
            return answer(reply, Err(EngineError::StillLive { id: self.id, state }));
        }
        if self.removal.is_some() {
            return answer(reply, Err(EngineError::BeingRemoved(self.id)));
        }
        self.removal = Some((reply, options.volumes));
        self.life.stopped_by_hand = true;
        if self.life.state == State::Paused
            && let Err(error) = self.freeze(StateEvent::Resume).await
        {
            tracing::warn!(container = %self.id.short(), error = %error.chain(), "thaw before removal");
        }
        self.event("kill", [("signal", signal::KILL.to_string())]);
        self.signal(signal::KILL);
    }

    /// Writes the intent to remove; from then on nobody finds the container any more, and what is
    /// left of it goes away beside the answer.
    pub(crate) async fn begin_removal(&mut self, with_volumes: bool) -> Result<()> {
        let before = self.life.clone();
        self.restart_at = None;
        self.apply(StateEvent::Remove)?;
        let (leaving, mut writes) = if with_volumes {
            volume::start_leaving(&self.core, self.id, &self.spec)
        } else {
            Default::default()
        };
        writes.push(self.state_write().releasing());
        if let Err(error) = self.core.store.commit(writes).await {
            self.life = before;
            return Err(error);
        }
        leaving.committed();
        self.leaving = leaving;
        self.core.containers.forget(self.id, &self.spec.name);
        self.publish();
        self.event("destroy", []);
        let code = match before.state {
            State::Exited { exit, .. } => exit.code,
            _ => before.error_code,
        };
        for (_, waiter) in self.waiters.drain(..) {
            drop(waiter.send(Waited {
                code,
                error: String::new(),
            }));
        }
        Ok(())
    }

    /// Destroys what is left; the record goes last, so that a crash here is continued at start-up.
    async fn finish_removal(mut self) {
        self.requests.close();
        self.wait_for_ending().await;
        self.views.ended().await;
        if let Some(compressing) = self.compressing.take() {
            drop(compressing.await);
        }
        std::mem::take(&mut self.leaving).finish(&self.core).await;
        let mut pause = REMOVE_AGAIN;
        while let Err(error) = self.destroy().await {
            tracing::error!(
                container = %self.id.short(), error = %error.chain(),
                "removal is not complete; it is tried again"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REMOVE_AGAIN_MAX);
        }
        self.forget_record();
    }

    async fn destroy(&self) -> Result<()> {
        let (core, id, cgroup) = (self.core.clone(), self.id, self.cgroup_path());
        let removed = self.core.jobs.run_own(Pool::Disk, move || {
            core.driver
                .discard(&id, &cgroup, DISCARD_WAIT)
                .map_err(|e| EngineError::step("discard the sandbox", e.kind(), e))?;
            core.remove_files(id)
        });
        removed.await.and_then(|result| result)
    }

    fn forget_record(&self) {
        self.core.store.record(vec![
            Write::remove(Key::Container(*self.id.as_bytes())),
            Write::remove(Key::State(*self.id.as_bytes())),
        ]);
        self.core.moments.forget(self.id);
        self.core.containers.gone(self.id);
    }

    // ---- wait, attach, resize

    fn wait(&mut self, condition: WaitCondition) -> Waiting {
        let (sender, end) = oneshot::channel();
        let at_once = match (condition, self.life.state) {
            (
                WaitCondition::NotRunning,
                State::Exited {
                    exit,
                    restarting: false,
                },
            ) => Some(exit.code),
            (WaitCondition::NotRunning, State::Created) => Some(self.life.error_code),
            _ => None,
        };
        match at_once {
            Some(code) => drop(sender.send(Waited {
                code,
                error: String::new(),
            })),
            None => {
                self.waiters.retain(|(_, waiter)| !waiter.is_closed());
                self.waiters.push((condition, sender));
            }
        }
        // Who waits attached for a start is no client that still reads.
        let delivered = at_once.is_some() && !self.attachments.is_empty();
        Waiting {
            end,
            deliveries: (!delivered).then(|| self.deliveries.clone()),
        }
    }

    fn tell_waiters(&mut self, code: i32) {
        for (condition, waiter) in std::mem::take(&mut self.waiters) {
            if condition == WaitCondition::Removed {
                self.waiters.push((condition, waiter));
            } else {
                drop(waiter.send(Waited {
                    code,
                    error: String::new(),
                }));
            }
        }
    }

    fn attach(&mut self, request: AttachRequest) -> Result<Attached> {
        if self.life.state == State::Paused {
            return Err(EngineError::Paused(self.id));
        }
        let tty = self.spec.config.tty;
        let (ours, theirs) = stream_pair()?;
        let replay = if request.logs {
            self.core.read_replay(&self.spec, self.id, request)?
        } else {
            Vec::new()
        };
        if request.stream {
            let attachment = Attachment {
                stream: theirs,
                stdin: request.stdin && self.spec.config.open_stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                framed: !tty,
            };
            match &mut self.shim {
                Some(shim) => shim
                    .get_mut()
                    .attach(Target::Init, attachment)
                    .map_err(|e| EngineError::step("attach", e.kind(), e))?,
                None => {
                    if self.attachments.len() == ATTACHMENTS_WAITING_MAX {
                        self.attachments.remove(0);
                    }
                    self.attachments.push(attachment);
                }
            }
        }
        self.event("attach", []);
        Ok(Attached {
            stream: ours,
            tty,
            replay,
            delivery: Delivery::new(self.deliveries.subscribe()),
        })
    }

    fn resize(&mut self, target: Target, rows: u16, cols: u16) -> Result<()> {
        let Some(shim) = &mut self.shim else {
            return Err(EngineError::NotRunning(self.id));
        };
        shim.get_mut()
            .resize(target, rows, cols)
            .map_err(|e| EngineError::step("resize the terminal", e.kind(), e))?;
        self.event(
            "resize",
            [("height", rows.to_string()), ("width", cols.to_string())],
        );
        Ok(())
    }

    // ---- after a restart of the daemon; who decides is recover.rs

    /// What the store said: the state, and whether it was written in this boot.
    pub(crate) fn recorded(&self) -> (State, bool) {
        (self.life.state, self.life.boot_id == self.core.boot_id)
    }

    pub(crate) fn is_being_removed(&self) -> bool {
        self.life.state == State::Removing
    }

    pub(crate) fn short(&self) -> String {
        self.id.short()
    }

    /// Asks for the shim of a former daemon.
    pub(crate) async fn reattach(&self) -> Result<Found> {
        let (core, id) = (self.core.clone(), self.id);
        self.core
            .jobs
            .run_own(Pool::Kernel, move || core.driver.reattach(&id))
            .await?
            .map_err(|e| EngineError::step("find the sandbox again", e.kind(), e))
    }

    /// Tells what a former daemon recorded and died before it told.
    pub(crate) fn tell_creation(&self, told: &Told) {
        if !told.knows(self.id, "create", self.record.created_ns) {
            self.event("create", []);
        }
    }

    /// As [`Owner::tell_creation`], of the program that runs.
    pub(crate) fn tell_start(&self, told: &Told) {
        if self.life.state.is_live() && !told.knows(self.id, "start", self.life.started_ns) {
            self.network_events("connect", &self.life.endpoints);
            self.event("start", []);
        }
    }

    /// As [`Owner::tell_creation`], of the end of the last life.
    pub(crate) fn tell_exit(&self, told: &Told) {
        if let State::Exited { exit, .. } = self.life.state
            && self.life.started_ns != 0
            && !told.knows(self.id, "die", exit.at_ns)
        {
            self.tell_death(exit);
        }
    }

    /// As [`Owner::tell_creation`], of the removal.
    pub(crate) fn tell_end(&self, told: &Told) {
        if !told.knows(self.id, "destroy", self.record.created_ns) {
            self.event("destroy", []);
        }
    }

    /// Notes an end that is not recorded and may have been told.
    pub(crate) fn was_told(&mut self, told: &Told, exit: Exit) {
        self.told_exit = told.knows(self.id, "die", exit.at_ns).then_some(exit);
    }

    /// Takes over a shim that was found again.
    pub(crate) async fn adopt_found(&mut self, shim: Shim, status: &Status) {
        match Connection::new(shim) {
            Ok(connection) => self.shim = Some(connection),
            Err(error) => {
                tracing::error!(container = %self.id.short(), error = %error.chain(), "not adopted");
                return;
            }
        }
        match status.started {
            Some((pid, started_ns)) => self.adopt_running(pid, started_ns),
            // The former daemon died between spawn and start: the shim tells us how that ends.
            None => self.adopt_starting().await,
        }
        self.republish().await;
        self.wake().await;
        self.finish_link_change().await;
        for probe in self.execs.recover(&self.core, self.id) {
            // Nobody waits for it any more; another one follows.
            self.kill_exec(&probe);
        }
        self.compress_log();
        self.publish();
    }

    /// How long it runs in this life; 0: it does not.
    pub(super) fn ran_ns(&self) -> i64 {
        let ran = self
            .running_since
            .map_or(Duration::ZERO, |since| since.elapsed());
        i64::try_from(ran.as_nanos()).unwrap_or(i64::MAX)
    }

    fn adopt_running(&mut self, pid: u32, started_ns: i64) {
        self.pid = pid;
        // The only look at the clock, for what ran before us.
        let ran_ns = now_ns().saturating_sub(started_ns).try_into().unwrap_or(0);
        let now = Instant::now();
        let began = now.checked_sub(Duration::from_nanos(ran_ns));
        self.running_since = Some(began.unwrap_or(now));
        if self.spec.config.stdin_once
            && let Some(shim) = &mut self.shim
        {
            // The client that was attached died with the former daemon, and its input with it.
            drop(shim.get_mut().close_stdin(Target::Init));
        }
        if self.life.state == State::Starting {
            self.life.started_ns = started_ns;
            drop(self.apply(StateEvent::Ready));
            self.begin_health();
            self.record_state();
        }
        if self.life.state == State::Running {
            self.resume_health();
        }
    }

    async fn adopt_starting(&mut self) {
        let mut event = next_event(&mut self.shim).await;
        while event == ShimEvent::Kept {
            self.take_kept().await;
            event = next_event(&mut self.shim).await;
        }
        match event {
            ShimEvent::Started { pid, started_at_ns } => self.adopt_running(pid, started_at_ns),
            ShimEvent::StartFailed(failure) => {
                self.undo_start(&super::exec::start_failed(&failure)).await;
            }
            ShimEvent::Exited(exit) => self.on_exit(exit).await,
            _ => self.on_shim_gone().await,
        }
    }

    /// Carries on a life that ended while no daemon was there.
    pub(crate) async fn ended_meanwhile(&mut self, exit: Exit) {
        if self.life.state == State::Starting {
            // It did run: the former daemon died before it heard so.
            let started = self.core.driver.started_ns(&self.id);
            self.life.started_ns = started.unwrap_or(exit.at_ns);
        }
        self.on_exit(exit).await;
    }

    /// Whether the program of a life that was starting ran.
    pub(crate) fn has_run(&self) -> bool {
        self.core.driver.started_ns(&self.id).is_some()
    }

    /// A start that a crash cut off before anything ran.
    pub(crate) fn start_never_happened(&mut self) {
        let exit = Exit {
            code: EXIT_LOST,
            oom_killed: false,
            at_ns: now_ns(),
        };
        let event = if self.life.started_ns == 0 {
            StateEvent::Undone
        } else {
            StateEvent::Failed(exit)
        };
        drop(self.apply(event));
        self.end_life();
        self.publish();
    }

    /// What a life left that had ended before the former daemon did.
    pub(crate) fn discard_leftovers(&mut self) {
        let ports = self.close_ports();
        self.release_endpoints();
        self.clean_up(ports, None);
    }

    /// Goes on with an automatic removal that a crash cut off between the exit and its intent.
    pub(crate) async fn remove_if_due(&mut self) {
        if self.spec.host.auto_remove
            && let Err(error) = self.begin_removal(true).await
        {
            tracing::error!(container = %self.id.short(), error = %error.chain(), "automatic removal");
        }
    }

    /// Arms what the restart policy wants when the daemon starts.
    pub(crate) fn resume_wishes(&mut self) {
        let State::Exited { exit, restarting } = self.life.state else {
            return;
        };
        let always = self.spec.host.restart == RestartPolicy::Always;
        if !(restarting || always || self.wants_restart(exit)) {
            return;
        }
        self.resuming = true;
        if self.restart_at.is_none() && self.apply(StateEvent::Rearm).is_ok() {
            self.restart_at = Some(Instant::now() + Duration::from_millis(self.backoff_ms));
            self.publish();
        }
    }

    pub(crate) async fn go_on_removing(self) {
        self.finish_removal().await;
    }

    // ---- small parts

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

pub(super) fn answer<T>(reply: Reply<T>, result: Result<T>) {
    // The client may have gone away; what it asked for is done all the same.
    drop(reply.send(result));
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

/// What a snapshot is made of.
struct Shown<'a> {
    core: &'a Core,
    id: SandboxId,
    record: &'a ContainerRecord,
    spec: &'a Arc<ContainerSpec>,
    life: &'a StateRecord,
    pid: u32,
    execs: Vec<String>,
}

fn view(shown: Shown<'_>) -> Container {
    let Shown {
        core,
        id,
        record,
        spec,
        life,
        pid,
        execs,
    } = shown;
    let files_dir = core.container_dir(id);
    let log_path = crate::log_driver::public_file(&spec.host.log, &files_dir, id);
    Container {
        id,
        spec: spec.clone(),
        state: life.state,
        created_ns: record.created_ns,
        started_ns: life.started_ns,
        finished_ns: life.finished_ns,
        pid,
        error: life.error.clone(),
        error_code: life.error_code,
        failed_to_run: life.failed_to_run,
        restart_count: life.restart_count,
        out_of_memory: life.out_of_memory,
        endpoints: life.endpoints.clone(),
        health: life.health.clone(),
        ports: life.ports.clone(),
        mounts: crate::translate::mount_points(spec, &core.volumes),
        log_path,
        upper_dir: files_dir.join("upper"),
        files_dir,
        execs,
        layers: record.layers.clone(),
        warnings: record.warnings.clone(),
        machine: crate::machine::facts_of(core, id, spec),
    }
}
