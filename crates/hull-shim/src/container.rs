//! Makes the container: the shim's side between its own start and its poll loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use hull_os::namespace::{self, Kinds};
use hull_os::process::{self, ClonePlan, Cloned, SignalSet, SingleThreaded};
use hull_os::{netlink, socket};
use hull_plan::message::{self, StartFailure, Target};
use hull_plan::{Failure, FailureKind, Plan, Process, Step};

use crate::cgroup::Cgroup;
use crate::inside::{self, Given};
use crate::machine::{self, Machine};
use crate::relay::Stream;
use crate::remap;
use crate::resolver;
use crate::root;
use crate::serve::{Server, Task, decode_failure};
use crate::share;
use crate::stdio;
use crate::{given, take};

/// As unlikely to be killed for lack of memory as anything but what is exempt.
const OOM_SCORE_ADJ: &str = "-999";

/// How long the kernel may take for one answer about links.
const NETLINK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// The whole life of a shim. An error means that nobody could be told of it.
pub(crate) fn run() -> io::Result<()> {
    process::set_name(c"hull-shim");
    process::set_dumpable(false)?;
    process::set_subreaper()?;
    process::ignore_signal(libc::SIGPIPE);
    let mapping = Mapping::of(&take(given::PLAN)?)?;
    let plan = Plan::parse(mapping.bytes())?;
    close_others(&plan);
    let listener = take(given::LISTENER)?;
    listen_again(&listener)?;
    let daemon = take(given::DAEMON)?;
    process::set_nonblocking(daemon.as_fd())?;
    let run_dir = take(given::RUN_DIR)?;
    let signals = SignalSet::of(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
    signals.block_exactly()?;
    let mut server = Server::new(listener, daemon, run_dir, signals.descriptor()?);
    match start(&plan, &mut server) {
        Ok(()) => {
            // From here on nothing of the plan is needed, so its memory is given back.
            drop(mapping);
            process::give_back_memory();
            server.serve()
        }
        Err(failure) => {
            server.give_up(&wire(&failure));
            Ok(())
        }
    }
}

/// Memory of its own: bytes of a sealed descriptor, or fresh.
pub(crate) struct Mapping {
    address: *mut libc::c_void,
    length: usize,
}

impl Mapping {
    /// The bytes of a sealed descriptor, to be read.
    pub(crate) fn of(fd: &OwnedFd) -> io::Result<Mapping> {
        let size = std::fs::File::from(fd.try_clone()?).metadata()?.len();
        let length = usize::try_from(size).map_err(io::Error::other)?;
        Mapping::new(length, libc::PROT_READ, libc::MAP_PRIVATE, fd.as_raw_fd())
    }

    /// Fresh memory: a page of it costs nothing before it is written.
    pub(crate) fn anonymous(length: usize) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        Mapping::new(
            length,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
        )
    }

    /// Memory that is shared with the kernel behind a descriptor.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn shared(length: usize, fd: i32) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        Mapping::new(length, protection, libc::MAP_SHARED, fd)
    }

    fn new(length: usize, protection: i32, flags: i32, fd: i32) -> io::Result<Mapping> {
        let nowhere = std::ptr::null_mut();
        // SAFETY: a new private mapping at a place that the kernel chooses.
        let address = unsafe { libc::mmap(nowhere, length, protection, flags, fd, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { address, length })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for reading as long as `self` lives, and sealed, so that it neither
        // changes nor shrinks.
        unsafe { std::slice::from_raw_parts(self.address.cast(), self.length) }
    }
}

impl Mapping {
    /// The bytes of fresh memory.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped as long as `self` lives, which is borrowed alone. Writing to a mapping that
        // may only be read ends the process; it changes nothing.
        unsafe { std::slice::from_raw_parts_mut(self.address.cast(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`; slices of it do not outlive it.
        unsafe { libc::munmap(self.address, self.length) };
    }
}

/// A failure in the form of a message.
pub(crate) fn wire(failure: &Failure) -> StartFailure {
    StartFailure {
        step: message::text(failure.step),
        errno: failure.errno,
        text: message::text(&failure.text),
        kind: failure.kind,
    }
}

fn close_others(plan: &Plan<'_>) {
    let mut keep = vec![given::LISTENER, given::DAEMON, given::RUN_DIR];
    for step in plan.steps() {
        match step {
            Step::Join { fd, .. } | Step::LowerDescriptor(fd) | Step::SharedMemory(fd) => {
                keep.push(fd)
            }
            Step::Log(log) => keep.push(log.dir),
            Step::Attachment(attachment) => keep.push(attachment.fd),
            Step::Keep { fd, .. } => keep.push(fd),
            Step::Machine { agent, .. } => keep.push(agent),
            Step::Share { listener, .. } => keep.push(listener),
            Step::Process(steps) => {
                keep.extend(Process::parse(steps).iter().flat_map(Process::passed));
            }
            _ => {}
        }
    }
    process::close_all_except(&mut keep);
}

/// Whoever connects sees the process that called listen last; so that is us and not the daemon.
fn listen_again(listener: &OwnedFd) -> io::Result<()> {
    process::set_nonblocking(listener.as_fd())?;
    socket::listen_again(listener.as_fd())
}

/// Starts the first process: it runs, or is about to, or there is a failure and nothing is left.
fn start(plan: &Plan<'_>, server: &mut Server) -> Result<(), Failure> {
    let system =
        |step, text: &'static str| move |cause: io::Error| Failure::system(step, text, &cause);
    let process = process_of(plan)?;
    let (mut stdio, streams) =
        stdio::make(&process).map_err(system("stdio", "make standard streams"))?;
    let mut guest = Guest::of(plan)?;
    let clients = guest.as_mut().map_or(&mut stdio, |guest| &mut guest.stdio);
    open_log_and_clients(plan, server, clients)?;
    let sources = root::open(plan)?;
    let (ours, theirs) = socket::message_pair().map_err(system("sync", "make a socket"))?;
    let init = match plan.steps().any(|step| step == Step::Init) {
        true => Some(open_self().map_err(system("init", "open our own program"))?),
        false => None,
    };
    let proof = SingleThreaded::prove().map_err(system("clone", "count our threads"))?;
    let oom_score_adj = protect_ourselves(plan);
    server.oom_score_adj.clone_from(&oom_score_adj);
    server.kinds = joined_kinds(plan);
    let cgroup = Cgroup::create_for_clone(plan)?;
    // So that what was just made is removed if nothing comes of it.
    server.cgroup = Cgroup::open(plan)?;
    match clone(&proof, plan, cgroup.as_ref())
        .map_err(system("clone", "clone the first process"))?
    {
        Cloned::Child => inside::run(Given {
            plan: *plan,
            process,
            sources,
            streams,
            sync: theirs,
            init,
        }),
        Cloned::Parent { pid, pidfd } => {
            drop((theirs, cgroup));
            let result = Cgroup::create(plan).and_then(|cgroup| {
                server.cgroup = cgroup;
                let (process, streams, sync) = (&process, &streams, &ours);
                let binds = &sources.binds;
                Waiting {
                    pid,
                    process,
                    streams,
                    binds,
                    sync,
                }
                .admit(&proof, plan, server)
            });
            drop(sources);
            let result = result.and_then(|()| equip(plan, server, pid, oom_score_adj.as_deref()));
            drop(streams);
            root::close_lowers(plan);
            let told = result.and_then(|()| {
                socket::send(ours.as_fd(), b"g", &[])
                    .map(drop)
                    .map_err(system("sync", "wake the first process"))
            });
            match told {
                // The child has a better reason than that it is not there any more.
                Err(failure) if failure.step != "sync" => {
                    return Err(end_child(&pidfd, &ours).unwrap_or(failure));
                }
                _ => {}
            }
            let _ = process::set_nonblocking(ours.as_fd());
            server.init_pidfd = Some(pidfd);
            close_passed(&process);
            let Some(guest) = guest else {
                let task = Task::starting(Target::Init, pid, ours, stdio);
                server.tasks.push(task);
                return Ok(());
            };
            let outputs = stdio.take_outputs();
            let machine = Task::starting(Target::Init, pid, ours, stdio);
            guest
                .hand_over(plan, server, machine, outputs)
                .map_err(system("machine", "take over the machine"))
        }
    }
}

fn process_of<'a>(plan: &Plan<'a>) -> Result<Process<'a>, Failure> {
    let steps = plan.steps().find_map(|step| match step {
        Step::Process(steps) => Some(steps),
        _ => None,
    });
    Process::parse(steps.unwrap_or_default())
        .map_err(|malformed| Failure::plain("plan", malformed.to_string()))
}

/// What was given to the first process only.
fn close_passed(process: &Process<'_>) {
    for fd in process.passed() {
        // SAFETY: it was given to us to be passed on, which is done, and nobody else uses it here.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// What runs in the guest of a machine, at our end.
struct Guest<'a> {
    stdio: stdio::Stdio,
    streams: Vec<(Target, Stream)>,
    agent: OwnedFd,
    start: &'a [u8],
}

impl<'a> Guest<'a> {
    /// The one that the plan has, if its first process is a machine.
    fn of(plan: &Plan<'a>) -> Result<Option<Guest<'a>>, Failure> {
        let failed = |cause| Failure::system("machine", "make streams of the guest", &cause);
        let found = plan.steps().find_map(|step| match step {
            Step::Machine {
                agent,
                stdio,
                guest,
            } => Some((agent, stdio, guest)),
            _ => None,
        });
        let Some((agent, steps, start)) = found else {
            return Ok(None);
        };
        let steps = Process::parse(steps).map_err(|error| failed(error.into()))?;
        let (stdio, streams) = machine::make_streams(&steps, 0, Target::Init).map_err(failed)?;
        let agent = take(agent).map_err(failed)?;
        Ok(Some(Guest {
            stdio,
            streams,
            agent,
            start,
        }))
    }

    fn hand_over(
        self,
        plan: &Plan<'_>,
        server: &mut Server,
        process: Task,
        outputs: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let mut machine = Machine::new(process, outputs, self.agent, self.start, self.streams)?;
        if plan
            .steps()
            .any(|step| matches!(step, Step::Resolver { .. }))
        {
            machine.open_names()?;
        }
        server.machine = Some(machine);
        server.tasks.push(Task::in_guest(Target::Init, self.stdio));
        Ok(())
    }
}

/// Ends a child that we cannot serve; what it had to say, if anything.
fn end_child(pidfd: &OwnedFd, sync: &OwnedFd) -> Option<Failure> {
    let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    let _ = process::wait(pidfd.as_fd());
    last_word(sync)
}

/// Why a child that has ended did so, if it said: what we could not do for it followed from that.
fn last_word(sync: &OwnedFd) -> Option<Failure> {
    let mut buffer = [0u8; 8192];
    loop {
        let length = match socket::receive(sync.as_fd(), &mut buffer) {
            // The kernel says once that it did not read all of what we sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
            Err(_) | Ok((0, _)) => return None,
            Ok((length, _)) => length,
        };
        if let Some(failure) = decode_failure(&buffer[..length]) {
            return Some(Failure {
                step: "start",
                errno: failure.errno,
                text: failure.text.to_string_lossy().into_owned(),
                kind: failure.kind,
            });
        }
    }
}

/// A child, which waits for what only root of the host can do where it has users of its own.
struct Waiting<'a> {
    pid: u32,
    process: &'a Process<'a>,
    streams: &'a stdio::ChildStreams,
    binds: &'a [OwnedFd],
    sync: &'a OwnedFd,
}

impl Waiting<'_> {
    /// Gives it its ids, its cgroup, limits and streams, and hands over its root.
    fn admit(
        &self,
        proof: &SingleThreaded,
        plan: &Plan<'_>,
        server: &mut Server,
    ) -> Result<(), Failure> {
        if !remap::is_wanted(plan) {
            return Ok(());
        }
        let failed = |text: &'static str| {
            move |cause: io::Error| Failure::system("user namespace", text, &cause)
        };
        let enter = failed("attach the child to its cgroup");
        server.cgroup.attach(self.pid).map_err(enter)?;
        // What is above the hard limit it may not set itself.
        for (resource, soft, hard) in self.process.rlimits() {
            process::set_rlimit_of(self.pid, resource, soft, hard)
                .map_err(failed("set limits of the child"))?;
        }
        let ids = remap::root_of(plan);
        server.root_ids = Some(ids);
        remap::give_streams(ids, self.streams).map_err(failed("give it its streams"))?;
        let root = remap::equip(proof, plan, self.pid, self.binds)?;
        socket::send(self.sync.as_fd(), b"m", &[root.as_fd()])
            .map(drop)
            .map_err(failed("hand over the root"))
    }
}

fn open_log_and_clients(
    plan: &Plan<'_>,
    server: &mut Server,
    stdio: &mut stdio::Stdio,
) -> Result<(), Failure> {
    for step in plan.steps() {
        let result = match step {
            Step::Log(log) => server.log.open_file(&log),
            Step::LogService(service) => {
                let initialize = "failed to initialize logging driver";
                let failed = |cause| Failure::system("log", initialize, &cause);
                server.log.open_service(&service).map_err(failed)?;
                Ok(())
            }
            Step::Attachment(client) => {
                take(client.fd).and_then(|socket| stdio.attach(socket, client.streams))
            }
            Step::Keep { key, fd } => take(fd).map(|socket| server.kept.push((key, socket))),
            _ => Ok(()),
        };
        result.map_err(|cause| Failure::system("stdio", "open the log and clients", &cause))?;
    }
    Ok(())
}

fn open_self() -> io::Result<OwnedFd> {
    process::open(hull_os::mount::cwd(), c"/proc/self/exe", libc::O_RDONLY, 0)
}

/// Lowers our own readiness to be killed where we may, and returns what the container shall have.
fn protect_ourselves(plan: &Plan<'_>) -> Option<String> {
    let asked = plan.steps().find_map(|step| match step {
        Step::OomScoreAdj(value) => Some(value.to_string()),
        _ => None,
    });
    let before = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?;
    let lowered = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).is_ok();
    asked.or_else(|| lowered.then(|| before.trim().to_owned()))
}

fn own_kinds(plan: &Plan<'_>) -> Kinds {
    plan.steps()
        .find_map(|step| match step {
            Step::Namespaces(kinds) => Some(Kinds::from_bits(kinds)),
            _ => None,
        })
        .unwrap_or_default()
}

/// The namespaces that an exec has to join.
fn joined_kinds(plan: &Plan<'_>) -> Kinds {
    plan.steps()
        .filter_map(|step| match step {
            Step::Join { kinds, .. } => Some(Kinds::from_bits(kinds)),
            _ => None,
        })
        .fold(own_kinds(plan).with(Kinds::MOUNT), Kinds::with)
}

/// Clones the first process, in the process namespace of another container where asked for.
fn clone(proof: &SingleThreaded, plan: &Plan<'_>, cgroup: Option<&OwnedFd>) -> io::Result<Cloned> {
    // The view of cgroups is left by the child once it is in its cgroup.
    let namespaces = own_kinds(plan).with(Kinds::MOUNT).without(Kinds::CGROUP);
    let cgroup = cgroup.map(AsFd::as_fd);
    let clone_plan = ClonePlan {
        namespaces,
        cgroup,
        ..ClonePlan::default()
    };
    if let Some(cloned) = remap::clone_in(proof, plan, namespaces) {
        return cloned;
    }
    let joined = plan.steps().find_map(|step| match step {
        Step::Join { kinds, fd } if Kinds::from_bits(kinds) == Kinds::PID => Some(fd),
        _ => None,
    });
    let Some(fd) = joined else {
        return process::clone(proof, &clone_plan);
    };
    let own = namespace::open_own("pid")?;
    namespace::join(take(fd)?.as_fd(), Kinds::PID)?;
    let cloned = process::clone(proof, &clone_plan);
    if !matches!(cloned, Ok(Cloned::Child)) {
        namespace::join(own.as_fd(), Kinds::PID)?;
    }
    cloned
}

/// What the first process needs from outside, while it makes its own view.
fn equip(
    plan: &Plan<'_>,
    server: &mut Server,
    pid: u32,
    oom_score_adj: Option<&str>,
) -> Result<(), Failure> {
    share::start_all(plan, &server.cgroup)
        .map_err(|cause| Failure::system("mount", "start a file server", &cause))?;
    server.owns_links = make_links(plan, pid)?;
    for step in plan.steps() {
        if let Step::Resolver { port, rules } = step {
            let failed =
                |cause| Failure::system("network", "open the name server's sockets", &cause);
            resolver::open(server, port, rules).map_err(failed)?;
        }
    }
    if let Some(value) = oom_score_adj {
        std::fs::write(format!("/proc/{pid}/oom_score_adj"), value).map_err(|cause| {
            Failure::system("oom_score_adj", "write /proc/<pid>/oom_score_adj", &cause)
        })?;
    }
    // With this open, the end of the first process does not wait for its mounts to be taken down.
    server.mount_namespace = namespace::open(pid, "mnt").ok();
    server.owns_processes = own_kinds(plan).contains(Kinds::PID);
    Ok(())
}

/// Makes the links, and enters the network namespace for it, for good: what the shim serves there
/// later is opened there, and further links are set up there. Whether there were any.
fn make_links(plan: &Plan<'_>, pid: u32) -> Result<bool, Failure> {
    if !plan.steps().any(|step| matches!(step, Step::Links { .. })) {
        return Ok(false);
    }
    let failed = |cause: io::Error| Failure::system("network", "set up networking", &cause);
    let told = |error: netlink::NetlinkError| Failure {
        step: "network",
        errno: error.errno(),
        text: format!("set up networking: {error}"),
        kind: FailureKind::Other,
    };
    // Each socket belongs to the namespace in which it was opened.
    let mut outer = netlink::Socket::route(NETLINK_TIMEOUT).map_err(failed)?;
    let namespace = namespace::open(pid, "net").map_err(failed)?;
    namespace::join(namespace.as_fd(), Kinds::NETWORK).map_err(failed)?;
    let mut inner = netlink::Socket::route(NETLINK_TIMEOUT).map_err(failed)?;
    for step in plan.steps() {
        let Step::Links {
            host,
            inside,
            netns_fd_offset,
        } = step
        else {
            continue;
        };
        if !host.is_empty() {
            let mut host = host.to_vec();
            netlink::fill_netns(&mut host, netns_fd_offset, namespace.as_fd());
            outer.execute(&host).map_err(told)?;
        }
        if !inside.is_empty() {
            inner.execute(inside).map_err(told)?;
        }
    }
    Ok(true)
}

/// Carries out requests for links in the container's network namespace, which is ours by now.
pub(crate) fn change_links(requests: &[u8]) -> Result<(), String> {
    netlink::Socket::route(NETLINK_TIMEOUT)
        .map_err(|error| error.to_string())?
        .execute(requests)
        .map_err(|error| format!("{error}: {}", error.cause))
}
