//! The poll loop: streams, ends of processes, requests of daemons.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use hull_os::namespace::Kinds;
use hull_os::process::{self, Ended, PollFd};
use hull_os::socket;
use hull_plan::codec::Writer;
use hull_plan::message::{self, EXECS_MAX, Event, Exit, KEYS_MAX, Request, StartFailure, Target};
use hull_plan::{Failure, Process};

use crate::cgroup::{Cgroup, Watch};
use crate::container::{Mapping, change_links, wire};
use crate::exec::{self, Place};
use crate::inside::report;
use crate::log::Log;
use crate::machine::{self, Machine, Said};
use crate::record;
use crate::resolver;
use crate::stdio::{READ_BYTES, Stdio};

/// How long output of other processes is waited for after a process ended. Its own output is in the
/// pipe by then; this only bounds those that it left behind with its streams.
const DRAIN_MS_MAX: u64 = 100;
/// How long slow clients are waited for at the end, where their sockets cannot take the rest.
const FLUSH_MS_MAX: u64 = 2_000;
/// How long execs are waited for after the first process ended.
const EXECS_END_MS_MAX: u64 = 2_000;
/// How often dropped lines are reported.
const DROPPED_REPORT_MS: u64 = 1_000;
/// How often lack of memory is reported at most.
const OUT_OF_MEMORY_TOLD_MS: u64 = 1_000;

/// Everything that a shim has.
#[derive(Debug)]
pub(crate) struct Server {
    listener: OwnedFd,
    connections: Vec<OwnedFd>,
    run_dir: OwnedFd,
    signals: OwnedFd,
    pub(crate) tasks: Vec<Task>,
    pub(crate) log: Log,
    pub(crate) cgroup: Cgroup,
    /// Open while the first process runs.
    memory_watch: Option<Watch>,
    memory_told: Option<Instant>,
    pub(crate) init_pidfd: Option<OwnedFd>,
    /// What the first process is, where it is no ordinary one.
    pub(crate) machine: Option<Machine>,
    pub(crate) mount_namespace: Option<OwnedFd>,
    /// Sockets that stay open for daemons to come, by what those call them.
    pub(crate) kept: Vec<(u32, OwnedFd)>,
    /// Namespaces that an exec joins.
    pub(crate) kinds: Kinds,
    /// User and group on the host that are root inside, where those are not the same.
    pub(crate) root_ids: Option<(u32, u32)>,
    /// The container's readiness to be killed, where ours is another.
    pub(crate) oom_score_adj: Option<String>,
    /// The process namespace is the container's own, so all its processes end with the first.
    pub(crate) owns_processes: bool,
    /// The network namespace is the container's own, and we are in it.
    pub(crate) owns_links: bool,
    started: (u32, i64),
    dropped_reported: Instant,
}

/// One process that we started: the first one or an exec.
#[derive(Debug)]
pub(crate) struct Task {
    target: Target,
    pid: u32,
    /// Open until its program runs.
    sync: Option<OwnedFd>,
    ready: bool,
    /// Daemons know that its program runs.
    announced: bool,
    failure: Option<StartFailure>,
    stdio: Stdio,
    ended: Option<(Ended, i64)>,
    /// When waiting for others to close its streams is over.
    deadline: Option<Instant>,
    /// It runs in a guest, which tells of its start and end.
    in_guest: bool,
    /// Its start has not been told of yet.
    is_pending: bool,
    oom_killed: bool,
}

impl Task {
    /// A process that has not executed its program yet.
    pub(crate) fn starting(target: Target, pid: u32, sync: OwnedFd, stdio: Stdio) -> Task {
        Task {
            target,
            pid,
            sync: Some(sync),
            ready: false,
            announced: false,
            failure: None,
            stdio,
            ended: None,
            deadline: None,
            in_guest: false,
            is_pending: false,
            oom_killed: false,
        }
    }

    /// A process that a guest is to start.
    pub(crate) fn in_guest(target: Target, stdio: Stdio) -> Task {
        Task {
            target,
            pid: 0,
            sync: None,
            ready: true,
            announced: false,
            failure: None,
            stdio,
            ended: None,
            deadline: None,
            in_guest: true,
            is_pending: true,
            oom_killed: false,
        }
    }

    /// Ends a process of ours.
    pub(crate) fn kill(&self) {
        if self.ended.is_none() && self.pid != 0 {
            // SAFETY: integers only. It is not reaped yet, so the number is its own.
            unsafe { libc::kill(self.pid.cast_signed(), libc::SIGKILL) };
        }
    }

    fn end(&mut self, ended: Ended) {
        self.is_pending = false;
        self.ended.get_or_insert((ended, process::now_ns()));
    }

    /// Only the first process's output is the container's log; an exec's goes to its clients.
    fn is_logged(&self) -> bool {
        self.target == Target::Init
    }

    fn is_running(&self) -> bool {
        self.sync.is_none() && self.failure.is_none() && self.ended.is_none() && !self.is_pending
    }

    /// It ended, and its streams too, or their time is over.
    fn is_over(&self) -> bool {
        let patience_ended = || {
            self.deadline
                .is_some_and(|deadline| deadline <= Instant::now())
        };
        self.sync.is_none() && self.ended.is_some() && (self.stdio.has_ended() || patience_ended())
    }
}

/// Whether the loop goes on.
#[derive(PartialEq, Eq)]
enum Turn {
    Continue,
    Finished,
}

impl Server {
    pub(crate) fn new(
        listener: OwnedFd,
        daemon: OwnedFd,
        run_dir: OwnedFd,
        signals: OwnedFd,
    ) -> Server {
        Server {
            listener,
            connections: vec![daemon],
            run_dir,
            signals,
            tasks: Vec::new(),
            log: Log::default(),
            cgroup: Cgroup::default(),
            memory_watch: None,
            memory_told: None,
            init_pidfd: None,
            machine: None,
            mount_namespace: None,
            kept: Vec::new(),
            kinds: Kinds::none(),
            root_ids: None,
            oom_score_adj: None,
            owns_processes: false,
            owns_links: false,
            started: (0, 0),
            dropped_reported: Instant::now(),
        }
    }

    /// Serves until the first process has ended and everybody knows.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        let mut memory = Mapping::anonymous(READ_BYTES)?;
        let buffer = memory.bytes_mut();
        let mut fds = Vec::new();
        loop {
            let timeout = self.gather(&mut fds);
            process::poll(&mut fds, timeout)?;
            // Streams first: later steps open descriptors, whose numbers may be those of ones that
            // were closed since the wait.
            for task in &mut self.tasks {
                let log = task.is_logged().then_some(&mut self.log);
                task.stdio.turn(&fds, buffer, log);
            }
            let mut said = Vec::new();
            let has_daemon = !self.connections.is_empty();
            if let Some(machine) = &mut self.machine {
                machine.leave_without(has_daemon);
                machine.turn(&fds, buffer, &mut said);
                machine.end_in_time();
            }
            self.hear_requests(&fds, buffer);
            self.accept(&fds);
            said.into_iter().for_each(|said| self.hear_guest(said));
            self.reap(buffer);
            self.hear_starts(buffer);
            self.tend_memory(&fds);
            self.tend_log();
            if self.settle() == Turn::Finished {
                return Ok(());
            }
        }
    }

    /// Tells that there will be no container, and cleans up.
    pub(crate) fn give_up(mut self, failure: &StartFailure) {
        self.cgroup.remove();
        self.kept.clear();
        self.tell(&Event::StartFailed(failure.clone()), &[]);
    }

    /// What to wait for and how long.
    fn gather(&self, fds: &mut Vec<PollFd>) -> Option<u32> {
        fds.clear();
        let mut add = |fd: &OwnedFd| {
            fds.push(PollFd::readable(fd.as_fd()));
        };
        add(&self.signals);
        add(&self.listener);
        self.connections.iter().for_each(&mut add);
        self.tasks
            .iter()
            .filter_map(|task| task.sync.as_ref())
            .for_each(&mut add);
        if let Some(machine) = &self.machine {
            machine.process.sync.iter().for_each(add);
        }
        fds.extend(self.log.interest());
        fds.extend(self.memory_watch.as_ref().map(Watch::interest));
        let log_is_full = self.log.holds_up();
        if let Some(machine) = &self.machine {
            machine.interests(fds, log_is_full);
        }
        for task in &self.tasks {
            task.stdio.interests(fds, log_is_full && task.is_logged());
        }
        let settled = self.machine.as_ref().and_then(Machine::deadline);
        let deadlines = self.tasks.iter().filter_map(|task| task.deadline);
        let earliest = deadlines.chain(settled).min()?;
        let left = earliest
            .saturating_duration_since(Instant::now())
            .as_millis();
        // Rounded up, so that the deadline is over after the wait.
        Some(u32::try_from(left + 1).unwrap_or(u32::MAX))
    }

    fn accept(&mut self, fds: &[PollFd]) {
        if is_ready(fds, self.listener.as_fd())
            && let Ok(connection) = socket::accept(self.listener.as_fd())
        {
            self.connections.push(connection);
        }
    }

    fn hear_requests(&mut self, fds: &[PollFd], buffer: &mut [u8]) {
        let mut index = 0;
        while index < self.connections.len() {
            let connection = &self.connections[index];
            if !is_ready(fds, connection.as_fd()) {
                index += 1;
                continue;
            }
            match socket::receive(connection.as_fd(), buffer) {
                Ok((0, _)) => drop(self.connections.swap_remove(index)),
                Ok((length, descriptors)) => {
                    let request = Request::decode(&buffer[..length]);
                    let result = request
                        .map_err(|malformed| malformed.to_string())
                        .and_then(|request| self.answer(index, request, descriptors));
                    if let Err(text) = result {
                        let event = Event::Refused {
                            text: message::text(&text),
                        };
                        send_to(&self.connections[index], &event);
                    }
                    index += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => index += 1,
                Err(_) => drop(self.connections.swap_remove(index)),
            }
        }
    }

    fn answer(
        &mut self,
        connection: usize,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let system = |error: io::Error| error.to_string();
        if request.target().is_some_and(|target| !self.has(target)) {
            // It ended while the request was on its way: its client sees the end of the stream.
            return Ok(());
        }
        if let Some(machine) = &mut self.machine
            && Machine::takes(&request)
        {
            machine.pass(&request);
            return Ok(());
        }
        match request {
            Request::Hello { .. } => {
                self.send_status(connection);
                self.send_kept(connection);
            }
            Request::Exec { id, clients } => self.start_exec(id, &clients, descriptors),
            Request::Attach { target, streams } => {
                let socket = descriptors
                    .into_iter()
                    .next()
                    .ok_or("attach without a socket")?;
                self.task(target)?
                    .stdio
                    .attach(socket, streams)
                    .map_err(system)?;
            }
            Request::Resize { target, rows, cols } => {
                self.task(target)?
                    .stdio
                    .resize(rows, cols)
                    .map_err(system)?;
            }
            Request::CloseStdin { target } => self.task(target)?.stdio.close_stdin(),
            Request::Keep { keys } => self.kept.extend(keys.into_iter().zip(descriptors)),
            Request::OpenResolver { port, rules } => {
                resolver::open(self, port.into(), &rules).map_err(system)?;
                if let Some(machine) = &mut self.machine {
                    machine.begin_names().map_err(system)?;
                }
            }
            // What else is for a guest was passed on, if there is one.
            Request::Files
            | Request::Freeze { .. }
            | Request::Limit { .. }
            | Request::WriteFile { .. } => {
                let machine = self.machine.as_mut().ok_or("no guest")?;
                let stream = descriptors.into_iter().next();
                let stream = stream.ok_or("files without a stream")?;
                machine.serve_files(stream).map_err(system)?;
            }
            Request::Release { keys } => self.kept.retain(|(key, _)| !keys.contains(key)),
            Request::ChangeLinks { number, requests } => {
                let failure = match self.owns_links {
                    true => change_links(&requests).err().unwrap_or_default(),
                    false => "this sandbox has no network of its own".to_owned(),
                };
                let event = Event::LinksChanged {
                    number,
                    failure: message::text(&failure),
                };
                send_to(&self.connections[connection], &event);
            }
            Request::Signal { signal } => {
                let init = self.init_pidfd.as_ref().ok_or("not running")?;
                process::pidfd_send_signal(init.as_fd(), signal).map_err(system)?;
            }
            Request::SignalExec { id, signal } => {
                let task = self.task(Target::Exec(id))?;
                if task.ended.is_none() {
                    let pid = task.pid.cast_signed();
                    // Its whole session, if it began one already: a shell does not pass it on.
                    // SAFETY: integers only. It is not reaped yet, so the number is its own.
                    unsafe {
                        if libc::kill(-pid, signal) != 0 {
                            libc::kill(pid, signal);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn has(&self, target: Target) -> bool {
        self.tasks.iter().any(|task| task.target == target)
    }

    fn task(&mut self, target: Target) -> Result<&mut Task, String> {
        self.tasks
            .iter_mut()
            .find(|task| task.target == target)
            .ok_or("no such process".to_owned())
    }

    fn send_status(&self, connection: usize) {
        let mut writer = Writer::default();
        let status = Event::Status {
            version: hull_plan::VERSION,
            started: self.started,
            exit: None,
            has_guest: self.machine.is_some(),
        };
        status.encode(&mut writer);
        for task in self.tasks.iter().filter(|task| task.is_running()) {
            if let Target::Exec(id) = task.target {
                Event::ExecStarted { id, pid: task.pid }.encode(&mut writer);
            }
        }
        let started = self.started.0 != 0;
        let pidfd: Vec<BorrowedFd<'_>> = self
            .init_pidfd
            .iter()
            .filter(|_| started)
            .map(AsFd::as_fd)
            .collect();
        let _ = socket::send(
            self.connections[connection].as_fd(),
            &writer.finish(),
            &pidfd,
        );
    }

    /// Keeps a socket of our own making, and gives daemons copies.
    pub(crate) fn keep(&mut self, key: u32, socket: OwnedFd) {
        let kept = Event::Kept { keys: vec![key] };
        self.tell(&kept, &[socket.as_fd()]);
        self.kept.push((key, socket));
    }

    fn send_kept(&self, connection: usize) {
        for part in self.kept.chunks(KEYS_MAX) {
            let mut writer = Writer::default();
            let keys = part.iter().map(|(key, _)| *key).collect();
            Event::Kept { keys }.encode(&mut writer);
            let sockets: Vec<BorrowedFd<'_>> = part.iter().map(|(_, fd)| fd.as_fd()).collect();
            let connection = self.connections[connection].as_fd();
            let _ = socket::send(connection, &writer.finish(), &sockets);
        }
    }

    fn start_exec(&mut self, id: [u8; 32], clients: &[u32], descriptors: Vec<OwnedFd>) {
        if let Err(failure) = self.try_start_exec(id, clients, descriptors) {
            self.tell(&Event::ExecFailed { id, failure }, &[]);
        }
    }

    fn try_start_exec(
        &mut self,
        id: [u8; 32],
        clients: &[u32],
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), StartFailure> {
        let failed = |cause: io::Error| wire(&Failure::system("exec", "read the request", &cause));
        let plain = |text: &str| wire(&Failure::plain("exec", text.to_owned()));
        let mut descriptors = descriptors.into_iter();
        let steps = descriptors
            .next()
            .ok_or_else(|| plain("request without a process"))?;
        if self.tasks.len() > EXECS_MAX {
            return Err(plain("too many execs at the same time"));
        }
        let target = Target::Exec(id);
        if self.tasks.iter().any(|task| task.target == target) {
            return Err(plain("this exec runs already"));
        }
        let Some(init) = self.init_pidfd.as_ref().filter(|_| self.started.0 != 0) else {
            return Err(plain("container is not running"));
        };
        let mapping = Mapping::of(&steps).map_err(failed)?;
        drop(steps);
        let process = Process::parse(mapping.bytes()).map_err(|error| failed(error.into()))?;
        if let Some(machine) = &mut self.machine {
            let number = machine.number();
            let (mut stdio, streams) =
                machine::make_streams(&process, number, target).map_err(failed)?;
            for (socket, &streams) in descriptors.zip(clients) {
                stdio.attach(socket, streams).map_err(failed)?;
            }
            machine.exec(&id, mapping.bytes(), streams);
            self.tasks.push(Task::in_guest(target, stdio));
            return Ok(());
        }
        let place = Place {
            init: init.as_fd(),
            kinds: self.kinds,
            cgroup: &self.cgroup,
            root_ids: self.root_ids,
            oom_score_adj: self.oom_score_adj.as_deref(),
        };
        let mut added = exec::start(process, &place)?;
        for (socket, &streams) in descriptors.zip(clients) {
            added.stdio.attach(socket, streams).map_err(failed)?;
        }
        self.tasks
            .push(Task::starting(target, added.pid, added.sync, added.stdio));
        Ok(())
    }

    /// Takes what processes say between their clone and their program.
    fn hear_starts(&mut self, buffer: &mut [u8]) {
        let mut started = Vec::new();
        if let Some(machine) = &mut self.machine {
            machine.process.hear_start(buffer);
        }
        for task in &mut self.tasks {
            task.hear_start(buffer);
            let runs = task.sync.is_none() && task.failure.is_none() && !task.is_pending;
            if runs && !task.announced {
                task.announced = true;
                started.push((task.target, task.pid));
            }
        }
        for (target, pid) in started {
            match target {
                Target::Init => {
                    let at_ns = process::now_ns();
                    self.started = (pid, at_ns);
                    // Before it is told: when both daemon and shim die then, this says that it ran.
                    let _ = record::write_status(self.run_dir.as_fd(), pid, at_ns);
                    let pidfd = self.init_pidfd.take();
                    let pidfds: Vec<BorrowedFd<'_>> = pidfd.iter().map(AsFd::as_fd).collect();
                    self.tell(&Event::Started { pid, at_ns }, &pidfds);
                    self.init_pidfd = pidfd;
                    // Behind the answer: nobody waits for it.
                    self.memory_watch = self.cgroup.watch();
                }
                Target::Exec(id) => self.tell(&Event::ExecStarted { id, pid }, &[]),
            }
        }
    }

    /// Takes the ends of processes, ours and orphans.
    fn reap(&mut self, buffer: &mut [u8]) {
        let mut info = [0u8; 128];
        // The signals' details do not matter: several ends may have come as one.
        while process::read(self.signals.as_fd(), &mut info).is_ok() {}
        let mut init_ended = false;
        while let Ok(Some((pid, ended))) = process::try_wait_any() {
            let now = process::now_ns();
            if let Some(machine) = &mut self.machine
                && machine.process.pid == pid
            {
                machine.process.hear_start(buffer);
                machine.process.end(ended);
                self.end_machine(ended);
                continue;
            }
            let is_it = |task: &&mut Task| task.pid == pid && !task.in_guest;
            let Some(task) = self.tasks.iter_mut().find(is_it) else {
                continue;
            };
            task.ended = Some((ended, now));
            task.deadline = Some(Instant::now() + Duration::from_millis(DRAIN_MS_MAX));
            task.hear_start(buffer);
            let log = task.is_logged().then_some(&mut self.log);
            task.stdio.drain(buffer, log);
            init_ended |= task.target == Target::Init;
        }
        if init_ended && !self.owns_processes {
            self.cgroup.kill();
        }
    }

    /// Reports processes that are over; finished when the first one is.
    fn settle(&mut self) -> Turn {
        let mut index = 0;
        let mut finished = Turn::Continue;
        while index < self.tasks.len() {
            let task = &self.tasks[index];
            let is_init = task.target == Target::Init;
            let waits =
                is_init && (self.must_wait_for_execs(task) || self.must_wait_for_machine(task));
            if !task.is_over() || waits {
                index += 1;
                continue;
            }
            let task = self.tasks.swap_remove(index);
            self.report_end(task);
            if is_init {
                finished = Turn::Finished;
            }
        }
        finished
    }

    /// The end of the first process is the last word, but not for longer than a bound.
    fn must_wait_for_execs(&self, init: &Task) -> bool {
        let patience = Duration::from_millis(EXECS_END_MS_MAX);
        let waited = init
            .deadline
            .is_some_and(|deadline| deadline + patience <= Instant::now());
        self.tasks.len() > 1 && !waited
    }

    /// A machine completes its disk and ends before its process is told to have ended: whoever hears
    /// of that may start it again.
    fn must_wait_for_machine(&self, init: &Task) -> bool {
        let Some(machine) = &self.machine else {
            return false;
        };
        if machine.process.ended.is_some() {
            return false;
        }
        if init.is_over() && (init.failure.is_some() || machine.is_settled()) {
            machine.kill();
        }
        true
    }

    /// What the guest of our machine says about its processes.
    fn hear_guest(&mut self, said: Said) {
        let Some(machine) = &mut self.machine else {
            return;
        };
        let machine_pid = machine.process.pid;
        let event = match said {
            Said::Event(event) => event,
            // Its shim does not wait for ever for processes that were added, nor do we.
            Said::Done => return self.end_guest(Ended::Code(0)),
            Said::Gone => return,
        };
        let target = match &event {
            Event::Started { .. } | Event::StartFailed(_) | Event::Exited(_) => Target::Init,
            Event::ExecStarted { id, .. }
            | Event::ExecFailed { id, .. }
            | Event::ExecExited { id, .. } => Target::Exec(*id),
            Event::LinksChanged { .. } => {
                if machine.was_asked_for_links() {
                    self.tell(&event, &[]);
                }
                return;
            }
            Event::OutOfMemory => return self.tell_out_of_memory(),
            _ => return,
        };
        if matches!(event, Event::Exited(_)) {
            machine.begin_to_settle();
        }
        let in_guest = |task: &&mut Task| task.target == target && task.in_guest;
        let Some(task) = self.tasks.iter_mut().find(in_guest) else {
            return;
        };
        match event {
            // A number of the guest's means nothing here, or another process.
            Event::Started { .. } | Event::ExecStarted { .. } => {
                (task.pid, task.is_pending) = (machine_pid, false);
            }
            Event::StartFailed(failure) | Event::ExecFailed { failure, .. } => {
                task.failure.get_or_insert(failure);
                task.end(Ended::Code(255));
            }
            Event::Exited(exit) | Event::ExecExited { exit, .. } => {
                task.oom_killed = exit.oom_killed;
                task.end(Ended::Code(exit.code.clamp(0, 255)));
            }
            _ => {}
        }
    }

    /// What ran in the guest has ended.
    fn end_guest(&mut self, ended: Ended) {
        let Some(machine) = &mut self.machine else {
            return;
        };
        for task in self.tasks.iter_mut().filter(|task| task.in_guest) {
            if task.is_pending && task.ended.is_none() {
                let why = machine.process.failure.take();
                task.failure = Some(why.unwrap_or_else(|| machine.failure()));
            }
            task.end(Machine::end_of_machine(ended));
        }
    }

    /// With the machine everything in its guest has ended.
    fn end_machine(&mut self, ended: Ended) {
        let Some(machine) = &mut self.machine else {
            return;
        };
        machine.break_streams();
        self.end_guest(ended);
        for task in self.tasks.iter_mut().filter(|task| task.in_guest) {
            // Clients that hold a stream of it hold up nothing.
            let patience = Duration::from_millis(DRAIN_MS_MAX);
            task.deadline
                .get_or_insert_with(|| Instant::now() + patience);
        }
    }

    fn report_end(&mut self, task: Task) {
        let Task {
            target,
            failure,
            ended,
            mut stdio,
            oom_killed,
            ..
        } = task;
        let (ended, at_ns) = ended.unwrap_or((Ended::Code(255), process::now_ns()));
        if target == Target::Init {
            // Whoever hears of the end may use them again.
            self.kept.clear();
        }
        if let Some(failure) = failure {
            let event = match target {
                Target::Init => {
                    self.finish_cgroup();
                    Event::StartFailed(failure)
                }
                Target::Exec(id) => Event::ExecFailed { id, failure },
            };
            return self.tell(&event, &[]);
        }
        let exit = Exit {
            code: ended.code(),
            oom_killed: oom_killed || self.cgroup.oom_killed(),
            at_ns,
        };
        let (name, event) = match target {
            Target::Init => ("exit".to_owned(), Event::Exited(exit)),
            Target::Exec(id) => (record::exec_name(&id), Event::ExecExited { id, exit }),
        };
        if target == Target::Init {
            self.log.end_all();
            self.flush_log();
            self.report_dropped(true);
        }
        let _ = record::write_exit(self.run_dir.as_fd(), &name, &exit);
        self.tell(&event, &[]);
        stdio.flush_to_sockets();
        if target == Target::Init {
            self.flush_clients(&mut stdio);
            // Clients wait for the end of the stream, and taking a cgroup down takes the kernel long.
            drop(stdio);
            self.finish_cgroup();
        }
    }

    fn finish_cgroup(&self) {
        if !self.owns_processes {
            self.cgroup.kill();
        }
        self.cgroup.remove();
    }

    /// Waits until the log's service has taken all, but not for longer than a bound.
    fn flush_log(&mut self) {
        let deadline = Instant::now() + Duration::from_millis(FLUSH_MS_MAX);
        while let Some(interest) = self.log.interest()
            && let left = deadline.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            let left = u32::try_from(left.as_millis() + 1).unwrap_or(0);
            let _ = process::poll(&mut [interest], Some(left));
            self.log.flush_service();
        }
        self.log.give_up_service();
    }

    /// Only where a socket may not have a buffer that takes the rest.
    fn flush_clients(&mut self, stdio: &mut Stdio) {
        let deadline = Instant::now() + Duration::from_millis(FLUSH_MS_MAX);
        while !stdio.is_flushed() && Instant::now() < deadline {
            let mut fds = Vec::new();
            stdio.interests(&mut fds, false);
            let left = deadline
                .saturating_duration_since(Instant::now())
                .as_millis();
            if process::poll(&mut fds, Some(u32::try_from(left).unwrap_or(0))).is_err() {
                return;
            }
            stdio.turn(&fds, &mut [0; 64], Some(&mut self.log));
        }
    }

    fn tend_memory(&mut self, fds: &[PollFd]) {
        let Some(watch) = &mut self.memory_watch else {
            return;
        };
        if !is_ready_at(fds, watch.interest().descriptor()) {
            return;
        }
        match watch.ran_out() {
            Ok(true) => self.tell_out_of_memory(),
            Ok(false) => {}
            Err(_) => self.memory_watch = None,
        }
    }

    /// A container that runs out of memory all the time does not fill the events with it.
    fn tell_out_of_memory(&mut self) {
        let pause = Duration::from_millis(OUT_OF_MEMORY_TOLD_MS);
        if self.memory_told.is_none_or(|told| told.elapsed() >= pause) {
            self.memory_told = Some(Instant::now());
            self.tell(&Event::OutOfMemory, &[]);
        }
    }

    fn tend_log(&mut self) {
        self.log.flush_service();
        self.report_dropped(false);
        if self.log.take_rotated() {
            self.tell(&Event::LogRotated, &[]);
        }
    }

    fn report_dropped(&mut self, now: bool) {
        let due = self.dropped_reported.elapsed() >= Duration::from_millis(DROPPED_REPORT_MS);
        if self.log.has_dropped() && (now || due) {
            let lines = self.log.take_dropped();
            self.dropped_reported = Instant::now();
            self.tell(&Event::LogDropped { lines }, &[]);
        }
    }

    /// Tells all daemons. One that does not read for so long that its socket is full is cut off;
    /// it learns the state when it connects again.
    fn tell(&mut self, event: &Event, descriptors: &[BorrowedFd<'_>]) {
        let mut writer = Writer::default();
        event.encode(&mut writer);
        let bytes = writer.finish();
        self.connections
            .retain(|connection| socket::send(connection.as_fd(), &bytes, descriptors).is_ok());
    }
}

impl Task {
    /// Takes what the process says before its program runs.
    fn hear_start(&mut self, buffer: &mut [u8]) {
        while let Some(sync) = &self.sync {
            let (length, mut descriptors) = match socket::receive(sync.as_fd(), buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It ended without reading what we sent. The kernel says so once, before it gives
                // out what was said to us.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                Err(_) => (0, Vec::new()),
                Ok(received) => received,
            };
            match buffer[..length].first() {
                Some(&report::TERMINAL) => {
                    if let Some(master) = descriptors.pop() {
                        let _ = self.stdio.set_terminal(master);
                    }
                }
                Some(&report::READY) => self.ready = true,
                Some(&report::FAILED) => {
                    self.failure = decode_failure(&buffer[..length]);
                }
                // Closed: by its execve, or by its end.
                _ => {
                    self.sync = None;
                    if self.failure.is_none() && !self.ready {
                        self.failure = Some(wire(&Failure::plain(
                            "start",
                            "process ended before its program could run".to_owned(),
                        )));
                    }
                }
            }
        }
    }
}

/// Reads a failure that a child reported.
pub(crate) fn decode_failure(message: &[u8]) -> Option<StartFailure> {
    let (&kind, bytes) = message.split_first()?;
    if kind != report::FAILED {
        return None;
    }
    match Event::decode_all(bytes).ok()?.into_iter().next()? {
        Event::StartFailed(failure) => Some(failure),
        _ => None,
    }
}

fn is_ready(fds: &[PollFd], fd: BorrowedFd<'_>) -> bool {
    is_ready_at(fds, fd.as_raw_fd())
}

fn is_ready_at(fds: &[PollFd], number: RawFd) -> bool {
    fds.iter()
        .any(|entry| entry.descriptor() == number && entry.ready() != 0)
}

fn send_to(connection: &OwnedFd, event: &Event) {
    let mut writer = Writer::default();
    event.encode(&mut writer);
    // One that is full is noticed at the next event.
    let _ = socket::send(connection.as_fd(), &writer.finish(), &[]);
}
