//! Starts shims, finds them again, removes what is left of them.
//!
//! ```text
//! <run>/s/<short id>/shim.sock   a daemon connects here
//!                    cgroup      path of its cgroup
//!                    status      process ids and start times, from Started on
//!                    exit        how the container ended
//!                    e.<id>      how an exec ended
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hull_model::SandboxId;
use hull_os::cgroup::Hierarchies;
use hull_os::spawn::{Program, Spawn};
use hull_os::{crash, process, socket, spawn};
use hull_plan::message::{self, Request};

use crate::Exit;
use crate::encode;
use crate::error::Error;
use crate::record::{self, ExecExit};
use crate::shim::Shim;
use crate::spec::{Attachment, ExecId, Spec};

/// Name of the listening socket in a run directory.
const SOCKET: &str = "shim.sock";
/// Name of the record of the cgroup's path in a run directory.
const CGROUP: &str = "cgroup";
/// Descriptors that every shim is given: plan, listener, connection, run directory.
const GIVEN: usize = 4;
/// Name of the program in memory, by which a shim is told from whoever got its number later.
const PROGRAM_NAME: &str = "hull-shim";
/// Pause between two looks at a shim that takes its first steps: they take it a millisecond.
const FIRST_STEPS_PAUSE: Duration = Duration::from_millis(1);
/// How long a shim may take to say how it is.
const STATUS_MS_MAX: u64 = 2_000;

/// One per daemon.
#[derive(Debug)]
pub struct Driver {
    run_dir: PathBuf,
    program: OwnedFd,
    null: OwnedFd,
    hierarchies: Hierarchies,
    /// Shims that we spawned and nobody has waited for: they stay zombies until then.
    children: Mutex<Vec<OwnedFd>>,
}

/// What was found of a sandbox after a restart of the daemon.
#[derive(Debug)]
pub enum Found {
    /// Its shim answers.
    Alive(Shim, Status),
    /// It ended, with a record.
    Exited(Exit),
    /// Neither shim nor record: it never started, or its shim was killed.
    Nothing,
    /// Its shim is there and does not answer: nobody knows.
    NoAnswer(String),
}

/// What a shim says of itself when a daemon connects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Process id on the host and start (ns since the epoch) of the first process; none while it is starting.
    pub started: Option<(u32, i64)>,
    /// Running execs and their process ids.
    pub execs: Vec<(ExecId, u32)>,
}

impl Driver {
    /// Prepares the run directory and one sealed copy of the shim program for all spawns.
    ///
    /// # Errors
    /// When either cannot be made.
    pub fn open(run_dir: &Path, shim_program: &'static [u8]) -> Result<Driver, Error> {
        let failed = |step| move |cause| Error::Open { step, cause };
        let run_dir = run_dir.join("s");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&run_dir)
            .map_err(failed("create the run directory of shims"))?;
        let program = process::sealed_copy(c"hull-shim", shim_program, true)
            .map_err(failed("copy the shim program into memory"))?;
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(failed("open /dev/null"))?
            .into();
        let hierarchies = Hierarchies::detect().map_err(failed("find the cgroup hierarchies"))?;
        Ok(Driver {
            run_dir,
            program,
            null,
            hierarchies,
            children: Mutex::default(),
        })
    }

    /// Spawns the shim of a new sandbox and returns at once: [`crate::Event::Started`] or
    /// [`crate::Event::StartFailed`] follows.
    ///
    /// # Errors
    /// When the plan cannot be encoded or the shim not be spawned; nothing is left then.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the shim has copies; ours must be closed"
    )]
    pub fn start(&self, spec: &Spec, attach: Vec<Attachment>) -> Result<Shim, Error> {
        self.reap();
        let log_dir = open_log_dir(spec)?;
        let host = encode::Host {
            log_dir: log_dir.as_ref(),
            hierarchies: &self.hierarchies,
            given: GIVEN,
        };
        let encoded = encode::encode(spec, &attach, &host)?;
        let dir = self.dir(&spec.id.short());
        match self.spawn(spec, &dir, &encoded) {
            Ok(shim) => Ok(shim),
            Err((step, cause)) => {
                let _ = std::fs::remove_dir_all(&dir);
                Err(Error::Step {
                    step,
                    id: spec.id.short(),
                    cause,
                })
            }
        }
    }

    fn spawn(
        &self,
        spec: &Spec,
        path: &Path,
        encoded: &encode::Encoded<'_>,
    ) -> Result<Shim, (&'static str, io::Error)> {
        let step = |step| move |cause| (step, cause);
        let dir = make_run_dir(path).map_err(step("create the run directory"))?;
        crash::point("after the run directory");
        std::fs::write(path.join(CGROUP), &spec.cgroup.path)
            .map_err(step("write down the cgroup"))?;
        let listener =
            socket::listen(dir.as_fd(), SOCKET).map_err(step("listen for the next daemon"))?;
        crash::point("after the listener");
        let (ours, theirs) = socket::message_pair().map_err(step("make a socket"))?;
        process::set_nonblocking(ours.as_fd()).map_err(step("make a socket"))?;
        let plan = process::sealed_copy(c"hull-plan", &encoded.plan, false)
            .map_err(step("copy the plan"))?;
        let mut descriptors: Vec<BorrowedFd<'_>> =
            vec![plan.as_fd(), listener.as_fd(), theirs.as_fd(), dir.as_fd()];
        debug_assert_eq!(descriptors.len(), GIVEN, "the plan counts on it");
        descriptors.extend(&encoded.descriptors);
        let child = spawn::spawn(&Spawn {
            program: Program::Descriptor(self.program.as_fd()),
            args: &[c"hull-shim"],
            env: &[],
            stdio: [self.null.as_fd(); 3],
            descriptors: &descriptors,
        })
        .map_err(step("spawn the shim"))?;
        crash::point("after the spawn");
        let copy = child.pidfd.try_clone().map_err(step("keep the shim"))?;
        self.children
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(copy);
        let has_guest = spec.machine.is_some();
        Ok(Shim::new(spec.id, ours, child.pidfd, has_guest))
    }

    /// Finds a sandbox again.
    ///
    /// # Errors
    /// When its run directory cannot be read.
    pub fn reattach(&self, id: &SandboxId) -> Result<Found, Error> {
        let short = id.short();
        let dir = match File::open(self.dir(&short)) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(cause) => {
                return Err(Error::Step {
                    step: "open the run directory",
                    id: short,
                    cause,
                });
            }
        };
        let first_steps = Instant::now() + Duration::from_millis(STATUS_MS_MAX);
        let (socket, pidfd) = match settled_listener(dir.as_fd(), first_steps) {
            Ok(Listener::Shim(socket, pidfd)) => (socket, pidfd),
            // Nobody listens: what it left behind is all there will be.
            Ok(Listener::Nobody) => return self.recorded(id),
            Ok(Listener::NotYet) => {
                return Ok(Found::NoAnswer("its shim takes no steps".to_owned()));
            }
            Err(_) => {
                return Ok(Found::NoAnswer(
                    "its shim accepts no connections".to_owned(),
                ));
            }
        };
        let mut shim = Shim::new(*id, socket, pidfd, false);
        let hello = Request::Hello {
            version: hull_plan::VERSION,
        };
        if shim.send(&hello, &[]).is_err() {
            return self.recorded(id);
        }
        let deadline = Instant::now() + Duration::from_millis(STATUS_MS_MAX);
        loop {
            wait_readable(shim.as_fd(), deadline);
            let received = shim.receive()?;
            if shim.is_gone() {
                wait_ended(&shim, deadline);
                return self.recorded(id);
            }
            if received && let Some(status) = status_of(&mut shim) {
                return Ok(Found::Alive(shim, status));
            }
            if Instant::now() >= deadline {
                return Ok(Found::NoAnswer(format!("no answer in {STATUS_MS_MAX} ms")));
            }
        }
    }

    fn recorded(&self, id: &SandboxId) -> Result<Found, Error> {
        let path = self.dir(&id.short()).join("exit");
        match record::read_exit(&path) {
            Ok(Some(exit)) => Ok(Found::Exited(exit)),
            Ok(None) => Ok(Found::Nothing),
            Err(cause) => Err(Error::Step {
                step: "read the exit record",
                id: id.short(),
                cause,
            }),
        }
    }

    /// When a sandbox began to run (ns since the epoch), also one that has ended; none when it did not.
    pub fn started_ns(&self, id: &SandboxId) -> Option<i64> {
        record::read_started(&self.dir(&id.short()).join("status"))
    }

    /// Exit records of execs, also of those that ended while no daemon was there.
    ///
    /// # Errors
    /// When the run directory cannot be read.
    pub fn exec_exits(&self, id: &SandboxId) -> Result<Vec<ExecExit>, Error> {
        let failed = |cause| Error::Step {
            step: "read exec records",
            id: id.short(),
            cause,
        };
        let dir = self.dir(&id.short());
        let mut exits = Vec::new();
        for name in names(&dir).map_err(failed)? {
            let Some(exec) = name.strip_prefix(record::EXEC_PREFIX) else {
                continue;
            };
            let Ok(exec) = exec.parse() else { continue };
            if let Some(exit) = record::read_exit(&dir.join(&name)).map_err(failed)? {
                exits.push(ExecExit { id: exec, exit });
            }
        }
        Ok(exits)
    }

    /// Removes the record of an exec that the caller has taken over.
    ///
    /// # Errors
    /// When it cannot be removed; that it is not there is fine.
    pub fn forget_exec(&self, id: &SandboxId, exec: &ExecId) -> Result<(), Error> {
        let name = format!("{}{exec}", record::EXEC_PREFIX);
        match std::fs::remove_file(self.dir(&id.short()).join(name)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(Error::Step {
                step: "remove an exec record",
                id: id.short(),
                cause,
            }),
            _ => Ok(()),
        }
    }

    /// Removes all that is left of a sandbox: kills its shim and what is in its cgroup and sees it
    /// empty, then removes cgroup and run directory. Idempotent.
    ///
    /// # Errors
    /// [`Error::Deadline`] when something is still alive; calling again continues.
    pub fn discard(&self, id: &SandboxId, cgroup: &str, deadline: Duration) -> Result<(), Error> {
        self.discard_short(&id.short(), Some(cgroup), deadline)
    }

    /// As [`Driver::discard`], for a leftover that no record knows: its cgroup is the one that was
    /// written down when it was started.
    ///
    /// # Errors
    /// As [`Driver::discard`].
    pub fn discard_unknown(&self, short: &str, deadline: Duration) -> Result<(), Error> {
        let cgroup = std::fs::read_to_string(self.dir(short).join(CGROUP)).ok();
        self.discard_short(short, cgroup.as_deref(), deadline)
    }

    fn discard_short(
        &self,
        short: &str,
        cgroup: Option<&str>,
        deadline: Duration,
    ) -> Result<(), Error> {
        self.reap();
        let until = Instant::now() + deadline;
        let failed = |step| {
            let id = short.to_owned();
            move |cause| Error::Step { step, id, cause }
        };
        let late = |what: &str| Error::Deadline {
            id: short.to_owned(),
            what: what.to_owned(),
            waited_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        };
        if cgroup.is_some_and(|path| !encode::is_safe_cgroup(path)) {
            return Err(Error::Invalid {
                what: "cgroup",
                why: "has no safe path".to_owned(),
            });
        }
        let dir = self.dir(short);
        // The shim first: it could still start something.
        let Ok(found) = find_shim(&dir, until) else {
            return Err(late("a shim that does not answer"));
        };
        if let Some(shim) = found {
            let _ = process::pidfd_send_signal(shim.as_fd(), SIGKILL);
            wait_readable(shim.as_fd(), until);
            if process::pidfd_send_signal(shim.as_fd(), 0).is_ok() && !is_zombie(&shim) {
                return Err(late("a shim"));
            }
            let _ = process::try_wait(shim.as_fd());
            crash::point("after the end of a shim");
        }
        if let Some(cgroup) = cgroup {
            let group = self.hierarchies.open_group(cgroup);
            let timed_out = |cause: &io::Error| {
                matches!(
                    cause.kind(),
                    io::ErrorKind::TimedOut | io::ErrorKind::ResourceBusy
                )
            };
            match group.kill_all(until).and_then(|()| group.remove(until)) {
                Err(cause) if timed_out(&cause) => return Err(late(&cause.to_string())),
                result => result.map_err(failed("remove the cgroup"))?,
            }
            crash::point("after the end of a cgroup");
        }
        match std::fs::remove_dir_all(&dir) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove the run directory")(cause))
            }
            _ => Ok(()),
        }
    }

    /// Short ids of all sandboxes that have a run directory.
    ///
    /// # Errors
    /// When the run directory cannot be read.
    pub fn list(&self) -> Result<Vec<String>, Error> {
        names(&self.run_dir).map_err(|cause| Error::Open {
            step: "list the run directory",
            cause,
        })
    }

    /// The shim program, for other short-lived roles of it.
    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// Tries whether a mount of this directory can have other users than its file system.
    ///
    /// # Errors
    /// What the kernel says to a user namespace, or to a mount of it.
    pub fn try_users(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let child = spawn::spawn(&Spawn {
            program: Program::Descriptor(self.program()),
            args: &[c"hull-users-probe"],
            env: &[],
            stdio: [self.null(); 3],
            descriptors: &[dir],
        })?;
        let mut fds = [hull_os::process::PollFd::readable(child.pidfd.as_fd())];
        if process::poll(&mut fds, Some(USERS_PROBE_MS_MAX))? == 0 {
            let _ = process::pidfd_send_signal(child.pidfd.as_fd(), SIGKILL);
        }
        match process::wait(child.pidfd.as_fd())?.code() {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    pub(crate) fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    fn dir(&self, short: &str) -> PathBuf {
        self.run_dir.join(short)
    }

    /// Waits for our shims that have ended.
    fn reap(&self) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        // An error means that it was waited for elsewhere.
        children.retain(|child| matches!(process::try_wait(child.as_fd()), Ok(None)));
    }
}

pub(crate) const SIGKILL: i32 = 9;

/// How long the look at what the kernel can may take.
const USERS_PROBE_MS_MAX: u32 = 10_000;

fn open_log_dir(spec: &Spec) -> Result<Option<OwnedFd>, Error> {
    let Some(path) = &spec.log.path else {
        return Ok(None);
    };
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir)
        .map(|dir| Some(dir.into()))
        .map_err(|cause| Error::Step {
            step: "open the directory of the log",
            id: spec.id.short(),
            cause,
        })
}

/// Makes the run directory, or empties that of an earlier life.
fn make_run_dir(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            for name in names(path)? {
                std::fs::remove_file(path.join(name))?;
            }
        }
        result => result?,
    }
    File::open(path).map(OwnedFd::from)
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Who listens on the socket of a run directory.
enum Listener {
    /// A shim.
    Shim(OwnedFd, OwnedFd),
    /// Whoever made the socket: its shim was spawned and has not taken its first steps.
    NotYet,
    /// Nobody: the shim is gone, or there never was one.
    Nobody,
}

/// Connects and looks who it is. The kernel names the process that called `listen` last: the
/// daemon that made the socket, dead or alive, until the shim calls it too.
fn listener(dir: BorrowedFd<'_>) -> io::Result<Listener> {
    let socket = match socket::connect(dir, SOCKET) {
        Ok(socket) => socket,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
        Err(_) => return Ok(Listener::Nobody),
    };
    let Ok(pid) = socket::peer_pid(socket.as_fd()) else {
        return Ok(Listener::NotYet);
    };
    let pidfd = process::pidfd_open(pid);
    // Looked at while the handle is held, so that the number is not another's by now.
    let program = std::fs::read_link(format!("/proc/{pid}/exe"));
    let is_shim = program.is_ok_and(|path| path.to_string_lossy().contains(PROGRAM_NAME));
    match pidfd {
        Ok(pidfd) if is_shim => Ok(Listener::Shim(socket, pidfd)),
        _ => Ok(Listener::NotYet),
    }
}

/// As [`listener`], but waits for what passes: a shim that is taking its first steps, and a child
/// that was copied from us in that moment and holds the socket of a dead shim until its execve.
fn settled_listener(dir: BorrowedFd<'_>, until: Instant) -> io::Result<Listener> {
    loop {
        let found = listener(dir);
        let passes = match &found {
            Ok(Listener::NotYet) => true,
            Ok(_) => false,
            // Our own looks fill its queue.
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if !passes || Instant::now() >= until {
            return found;
        }
        std::thread::sleep(FIRST_STEPS_PAUSE);
    }
}

/// The shim of a run directory: who listens, or else who wrote the status.
///
/// # Errors
/// `TimedOut` when there is one that cannot be told yet.
fn find_shim(dir: &Path, until: Instant) -> io::Result<Option<OwnedFd>> {
    let Ok(open) = File::open(dir) else {
        return Ok(None);
    };
    match settled_listener(open.as_fd(), until)? {
        Listener::Shim(_, pidfd) => return Ok(Some(pidfd)),
        Listener::NotYet => return Err(io::ErrorKind::TimedOut.into()),
        Listener::Nobody => {}
    }
    let Some((pid, start)) = record::read_shim(&dir.join("status")) else {
        return Ok(None);
    };
    let pidfd = process::pidfd_open(pid).ok();
    Ok(pidfd.filter(|_| process::start_time(pid).is_ok_and(|time| time == start)))
}

/// A zombie can be signalled, but runs no more.
fn is_zombie(pidfd: &OwnedFd) -> bool {
    let mut fds = [hull_os::process::PollFd::readable(pidfd.as_fd())];
    process::poll(&mut fds, Some(0)).is_ok_and(|ready| ready > 0)
}

pub(crate) fn wait_readable(fd: BorrowedFd<'_>, deadline: Instant) {
    let left = deadline
        .saturating_duration_since(Instant::now())
        .as_millis();
    let mut fds = [hull_os::process::PollFd::readable(fd)];
    let _ = process::poll(&mut fds, Some(u32::try_from(left).unwrap_or(u32::MAX)));
}

fn wait_ended(shim: &Shim, deadline: Instant) {
    wait_readable(shim.pidfd(), deadline);
}

fn status_of(shim: &mut Shim) -> Option<Status> {
    let mut status = None;
    for event in shim.take_waiting() {
        match event {
            message::Event::Status {
                started, has_guest, ..
            } => {
                shim.set_guest(has_guest);
                let started = Some(started).filter(|(pid, _)| *pid != 0);
                status = Some(Status {
                    started,
                    execs: Vec::new(),
                });
            }
            message::Event::ExecStarted { id, pid } => {
                if let Some(status) = &mut status {
                    status.execs.push((ExecId::from_bytes(id), pid));
                }
            }
            // What came before the status is in the status.
            _ => {}
        }
    }
    status
}
