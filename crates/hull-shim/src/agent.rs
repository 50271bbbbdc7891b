//! The first process of a guest: makes what the plan of a container expects of a host, has the same
//! shim carry it out, and carries its streams, requests and events over the channel.
//!
//! ```text
//!  modules ─ a root that can be left ─ channel: Hello ─▶ Start
//!     clock, randomness, disks, cgroups, files, links ─ shim inside ─ relay until it ends ─ Done
//! ```
//!
//! It decides nothing, and has nobody to tell but the channel: what fails before there is one goes to the
//! console and ends the machine.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use hull_os::cgroup::{Hierarchies, Limits};
use hull_os::mount;
use hull_os::namespace;
use hull_os::netlink;
use hull_os::process::{self, PollFd, SignalSet};
use hull_os::socket;
use hull_os::spawn::{self, Program, Spawn};
use hull_plan::codec::Writer;
use hull_plan::frame::{
    DIALED_COUNT, DIALED_MAX, DIALED_MIN, FILES, Frame, Guest, HIERARCHIES, Kind, LAYERS,
    SEED_BYTES, SHARES, TO_GUEST_BYTES_MAX, UPPER, stream,
};
use hull_plan::message::{self, Event, Exit, Request};
use hull_plan::plan::streams;
use hull_plan::process::Stdin;
use hull_plan::{Failure, Process, ProcessStep};

use crate::container::wire;
use crate::relay::{Channel, Stream};
use crate::stdio::READ_BYTES;

/// Version of the agent, as it says in its first frame.
const VERSION: u32 = 1;
/// Name of the channel's port.
const PORT_NAME: &str = "hull.agent";
/// How long a device may take to appear after its module is there.
const DEVICE_WAIT: Duration = Duration::from_secs(20);
/// Descriptors that a process in a guest may have where nobody set a limit: what Docker's service gives.
const DESCRIPTORS_MAX: u64 = 1 << 20;
/// Pause between two looks.
const DEVICE_PAUSE: Duration = Duration::from_millis(2);
/// How long the kernel may take for one answer about links.
const NETLINK_TIMEOUT: Duration = Duration::from_secs(10);
/// Where programs in the guest ask for names.
const NAME_SERVER: (std::net::Ipv4Addr, u16) = (std::net::Ipv4Addr::new(127, 0, 0, 11), 53);
/// Modules that few guests need.
const LATER: &str = "/later";
/// Cgroup of the container.
const GUEST_CGROUP: &str = "/sys/fs/cgroup/hull";
/// How large a piece of free memory the kernel gives back to the host: as a power of two of pages. Its own choice,
/// 2 MiB, leaves what lies scattered in a small guest.
const REPORT_ORDER: &str = "/sys/module/page_reporting/parameters/page_reporting_order";
/// 64 KiB.
const REPORTED_PAGES_ORDER: &str = "4";
/// How long processes may take to stand still.
const FREEZE_WAIT: Duration = Duration::from_secs(1);
/// Questions that may be under way.
const QUESTIONS_MAX: usize = 256;

/// The whole life of the agent; comes back only when there is nothing to be done in this guest.
pub(crate) fn run() -> io::Result<()> {
    // Nobody sees an error beyond the console; the kernel panics when we end, and so the machine.
    let told = |step: &str, error: io::Error| {
        eprintln!("hull-agent: {step}: {error}");
        error
    };
    prepare().map_err(|error| told("prepare", error))?;
    let port = open_port().map_err(|error| told("open the channel", error))?;
    let mut agent = Agent::new(port).map_err(|error| told("begin", error))?;
    agent.serve().map_err(|error| told("serve", error))
}

/// Puts modules in and changes from the kernel's first root, which cannot be left, to one that can.
fn prepare() -> io::Result<()> {
    // The kernel's own limits are for a machine of users; these are what a container inherits elsewhere.
    process::set_rlimit(libc::RLIMIT_NOFILE, DESCRIPTORS_MAX, DESCRIPTORS_MAX)?;
    process::set_rlimit(libc::RLIMIT_NPROC, libc::RLIM_INFINITY, libc::RLIM_INFINITY)?;
    // We and the shim inside work by turns. To wake each other on another processor costs an emulated guest more
    // than all else of an exec. Programs run everywhere.
    let _ = process::use_first_processor();
    fs::create_dir_all("/new")?;
    let none = mount::Attributes::none();
    // Devices are there before the modules, so that nothing of them is missed.
    let mut modules: Vec<_> = fs::read_dir("/modules")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    modules.sort();
    for path in modules {
        put_module(&path)?;
        let _ = fs::remove_file(&path);
    }
    make_filesystem(c"tmpfs", c"/new", none)?;
    keep_later_modules()?;
    for directory in ["dev", "proc", "sys", "run", "tmp", "files", "l", "u", "v"] {
        fs::create_dir(Path::new("/new").join(directory))?;
    }
    make_filesystem(c"devtmpfs", c"/new/dev", none)?;
    make_filesystem(c"proc", c"/new/proc", none)?;
    make_filesystem(c"sysfs", c"/new/sys", none)?;
    mount::chdir(c"/new")?;
    mount::mount_classic(c".", c"/", c"", libc::MS_MOVE, c"")?;
    // SAFETY: the path is NUL-terminated.
    if unsafe { libc::chroot(c".".as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    mount::chdir(c"/")?;
    // A kernel that does not report free memory has no such file.
    let _ = fs::write(REPORT_ORDER, REPORTED_PAGES_ORDER);
    let groups = mount::Filesystem::open(c"cgroup2")?;
    // Processes enter groups far more often here than they fork; a kernel before 6.0 knows no such choice.
    let _ = groups.set_flag(c"favordynmods");
    mount::attach_at(groups.mount(none)?.as_fd(), c"/sys/fs/cgroup")
}

/// The kernel's first root is left behind; what may be needed later comes along.
fn keep_later_modules() -> io::Result<()> {
    let Ok(entries) = fs::read_dir(LATER) else {
        return Ok(());
    };
    fs::create_dir("/new/later")?;
    for entry in entries.flatten() {
        fs::copy(
            entry.path(),
            Path::new("/new/later").join(entry.file_name()),
        )?;
        fs::remove_file(entry.path())?;
    }
    Ok(())
}

fn make_filesystem(
    kind: &std::ffi::CStr,
    place: &std::ffi::CStr,
    attributes: mount::Attributes,
) -> io::Result<()> {
    let fs = mount::Filesystem::open(kind)?;
    mount::attach_at(fs.mount(attributes)?.as_fd(), place)
}

/// Puts one module in; that it is there already, or has no device, is fine.
fn put_module(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: an open descriptor, an empty NUL-terminated string, no flags.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EEXIST | libc::ENODEV) => Ok(()),
        _ => {
            // One that the kernel does not take may still not be needed.
            eprintln!("hull-agent: module {}: {error}", path.display());
            Ok(())
        }
    }
}

fn open_port() -> io::Result<OwnedFd> {
    let until = Instant::now() + DEVICE_WAIT;
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports")
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == PORT_NAME {
                let path = format!("/dev/{}", entry.file_name().to_string_lossy());
                let path = crate::c_string(path)?;
                let flags = libc::O_RDWR | libc::O_NONBLOCK;
                if let Ok(port) = process::open(mount::cwd(), &path, flags, 0) {
                    return Ok(port);
                }
            }
        }
        if Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(DEVICE_PAUSE);
    }
}

/// A question of a program in the guest that the host has not answered.
#[derive(Debug)]
struct Question {
    from: SocketAddr,
    id: [u8; 2],
}

struct Agent {
    channel: Channel,
    signals: OwnedFd,
    /// To the shim inside; none before it runs and after it ended.
    shim: Option<OwnedFd>,
    /// One process at our end of the streams.
    streams: Vec<Stream>,
    names: Option<UdpSocket>,
    /// For questions whose answers are long.
    long_names: Option<TcpListener>,
    /// Those that came there.
    dialed: Vec<Stream>,
    next_dialed: u32,
    questions: BTreeMap<u16, Question>,
    next_question: u16,
    was_started: bool,
    is_done: bool,
    /// The first process of the container; 0: none runs.
    init: u32,
    /// Servers of files, which end with it.
    servers: Vec<OwnedFd>,
    /// What such a server makes its view by, in a guest that is there for its files only.
    view: Option<Vec<u8>>,
}

impl Agent {
    fn new(port: OwnedFd) -> io::Result<Agent> {
        process::ignore_signal(libc::SIGPIPE);
        let signals = SignalSet::of(&[libc::SIGCHLD]);
        signals.block_exactly()?;
        let mut channel = Channel::new(port, TO_GUEST_BYTES_MAX);
        channel.send(Kind::Hello, 0, &VERSION.to_le_bytes());
        Ok(Agent {
            channel,
            signals: signals.descriptor()?,
            shim: None,
            streams: Vec::new(),
            names: None,
            long_names: None,
            dialed: Vec::new(),
            next_dialed: 0,
            questions: BTreeMap::new(),
            next_question: 0,
            was_started: false,
            is_done: false,
            init: 0,
            servers: Vec::new(),
            view: None,
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut buffer = vec![0u8; READ_BYTES.max(message::MESSAGE_BYTES_MAX)];
        let mut fds = Vec::new();
        loop {
            fds.clear();
            fds.push(PollFd::readable(self.signals.as_fd()));
            fds.extend(self.channel.interest());
            fds.extend(self.shim.iter().map(|fd| PollFd::readable(fd.as_fd())));
            fds.extend(self.names.iter().map(|fd| PollFd::readable(fd.as_fd())));
            let long = self.long_names.iter();
            fds.extend(long.map(|fd| PollFd::readable(fd.as_fd())));
            for stream in self.streams.iter().chain(&self.dialed) {
                stream.interests(&mut fds, self.channel.is_behind());
            }
            process::poll(&mut fds, None)?;
            self.reap(&mut buffer);
            if self.channel.is_ready(&fds) {
                self.channel.flush();
                self.channel.receive(&mut buffer);
                while let Some(frame) = self.channel.take() {
                    self.hear(&frame);
                }
            }
            for stream in self.streams.iter_mut().chain(&mut self.dialed) {
                stream.turn(&fds, &mut self.channel, &mut buffer);
            }
            self.streams.retain(|stream| !stream.is_over());
            self.dialed.retain(|stream| !stream.is_over());
            self.hear_shim(&fds, &mut buffer);
            self.ask_names(&fds, &mut buffer);
            self.dial_names(&fds);
            self.channel.flush();
            self.finish();
            self.channel.flush();
        }
    }

    fn reap(&mut self, buffer: &mut [u8]) {
        while process::read(self.signals.as_fd(), &mut buffer[..128]).is_ok() {}
        while let Ok(Some(_)) = process::try_wait_any() {}
    }

    fn hear(&mut self, frame: &Frame) {
        match frame.kind {
            Kind::Start if !self.was_started => {
                self.was_started = true;
                if let Err(failure) = self.start(&frame.payload) {
                    self.tell(&Event::StartFailed(wire(&failure)));
                    self.streams.clear();
                    self.shim = None;
                    self.end_streams(0);
                }
            }
            Kind::Request => self.request(&frame.payload),
            Kind::Exec => self.exec(frame),
            Kind::Files => {
                if let Err(error) = self.serve_files(frame.stream) {
                    eprintln!("hull-agent: serve files: {error}");
                    self.channel.send(Kind::End, stream(frame.stream, 1), &[]);
                }
            }
            Kind::Name => self.answer_name(&frame.payload),
            Kind::Data | Kind::End | Kind::Credit => {
                let channel = &mut self.channel;
                let _ = self
                    .streams
                    .iter_mut()
                    .chain(&mut self.dialed)
                    .any(|stream| stream.hear(frame, channel));
            }
            _ => {}
        }
    }

    fn tell(&mut self, event: &Event) {
        let mut writer = Writer::default();
        event.encode(&mut writer);
        self.channel.send(Kind::Event, 0, &writer.finish());
    }

    fn end_streams(&mut self, number: u32) {
        for which in [1, 2] {
            self.channel.send(Kind::End, stream(number, which), &[]);
        }
    }

    fn start(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let failed = |step: &'static str| {
            move |cause: io::Error| {
                Failure::system("guest", &format!("{step} in the guest"), &cause)
            }
        };
        let malformed = || Failure::plain("guest", "malformed start".to_owned());
        let (time, rest) = payload.split_first_chunk::<8>().ok_or_else(malformed)?;
        let (seed, rest) = rest.split_at_checked(SEED_BYTES).ok_or_else(malformed)?;
        let guest = Guest::decode(rest).map_err(|_| malformed())?;
        set_clock(i64::from_le_bytes(*time));
        let _ = fs::write("/dev/urandom", seed);
        mount_disks(guest.layers).map_err(failed("mount the disks"))?;
        mount_shares(guest.shares).map_err(failed("mount shared directories"))?;
        for (name, contents) in &guest.files {
            let path = Path::new(FILES).join(name.to_string_lossy().as_ref());
            fs::write(path, contents).map_err(failed("write files"))?;
        }
        for links in &guest.links {
            netlink::Socket::route(NETLINK_TIMEOUT)
                .map_err(failed("set up networking"))?
                .execute(links)
                .map_err(|error| {
                    Failure::plain(
                        "network",
                        format!("set up networking in the guest: {error}"),
                    )
                })?;
        }
        if guest.resolver {
            self.open_names().map_err(failed("open the name server"))?;
        }
        if guest.files_only {
            self.view = Some(guest.plan.to_vec());
            let (pid, at_ns) = (std::process::id(), process::now_ns());
            self.tell(&Event::Started { pid, at_ns });
            return Ok(());
        }
        self.spawn(guest.plan).map_err(failed("start the shim"))
    }

    fn open_names(&mut self) -> io::Result<()> {
        if self.names.is_none() {
            let names = UdpSocket::bind(NAME_SERVER)?;
            names.set_nonblocking(true)?;
            self.names = Some(names);
            let long = TcpListener::bind(NAME_SERVER)?;
            long.set_nonblocking(true)?;
            self.long_names = Some(long);
        }
        Ok(())
    }

    /// Spawns the shim inside, which gets what a daemon would give it.
    fn spawn(&mut self, plan: &[u8]) -> io::Result<()> {
        let dir = Path::new("/run/s");
        fs::create_dir_all(dir)?;
        let dir: OwnedFd = File::open(dir)?.into();
        let listener = socket::listen(dir.as_fd(), "shim.sock")?;
        let (ours, theirs) = socket::message_pair()?;
        process::set_nonblocking(ours.as_fd())?;
        let plan = process::sealed_copy(c"hull-plan", plan, false)?;
        let (out, out_theirs) = socket::stream_pair()?;
        let (error, error_theirs) = socket::stream_pair()?;
        let program: OwnedFd = File::open("/proc/self/exe")?.into();
        let null = process::open(mount::cwd(), c"/dev/null", libc::O_RDWR, 0)?;
        spawn::spawn(&Spawn {
            program: Program::Descriptor(program.as_fd()),
            args: &[c"hull-shim"],
            env: &[],
            stdio: [null.as_fd(); 3],
            descriptors: &[
                plan.as_fd(),
                listener.as_fd(),
                theirs.as_fd(),
                dir.as_fd(),
                out_theirs.as_fd(),
                error_theirs.as_fd(),
            ],
        })?;
        self.shim = Some(ours);
        self.add_streams(0, out, error)
    }

    /// Our ends of a process's streams: one carries standard input and output, the other errors.
    fn add_streams(&mut self, number: u32, out: OwnedFd, error: OwnedFd) -> io::Result<()> {
        let of = |which| stream(number, which);
        self.streams.push(Stream::new(
            Some(out.try_clone()?),
            of(1),
            Some(out),
            of(0),
        )?);
        self.streams
            .push(Stream::new(Some(error), of(2), None, of(3))?);
        Ok(())
    }

    fn exec(&mut self, frame: &Frame) {
        let Some((id, steps)) = frame.payload.split_first_chunk::<32>() else {
            return;
        };
        if let Err(cause) = self.try_exec(frame.stream, id, steps) {
            let failure = wire(&Failure::system("exec", "start an added process", &cause));
            self.tell(&Event::ExecFailed { id: *id, failure });
            self.end_streams(frame.stream);
        }
    }

    fn try_exec(&mut self, number: u32, id: &[u8; 32], steps: &[u8]) -> io::Result<()> {
        let process = Process::parse(steps)?;
        let mut writer = Writer::default();
        ProcessStep::AllProcessors.encode(&mut writer);
        if process.stdin() != Stdin::Closed {
            // The first one counts: our end of the stream is closed when the client's is.
            ProcessStep::Stdin(Stdin::Once).encode(&mut writer);
        }
        let mut bytes = writer.finish();
        bytes.extend_from_slice(steps);
        let sealed = process::sealed_copy(c"hull-exec", &bytes, false)?;
        let (out, out_theirs) = socket::stream_pair()?;
        let (error, error_theirs) = socket::stream_pair()?;
        let clients = vec![streams::STDIN | streams::STDOUT, streams::STDERR];
        let request = Request::Exec { id: *id, clients };
        let descriptors = [sealed.as_fd(), out_theirs.as_fd(), error_theirs.as_fd()];
        self.send_shim(&request, &descriptors)?;
        self.add_streams(number, out, error)
    }

    fn send_shim(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let shim = self.shim.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        socket::send(shim.as_fd(), &request.encode(), descriptors).map(drop)
    }

    fn request(&mut self, bytes: &[u8]) {
        let Ok(request) = Request::decode(bytes) else {
            return;
        };
        if let Request::ChangeLinks { number, requests } = &request {
            let failure = crate::container::change_links(requests)
                .err()
                .unwrap_or_default();
            let failure = message::text(&failure);
            return self.tell(&Event::LinksChanged {
                number: *number,
                failure,
            });
        }
        match &request {
            Request::Freeze { frozen } => return freeze(*frozen),
            Request::Limit { number, limits } => {
                let failure = limit(limits).err().map(|error| error.to_string());
                return self.tell(&Event::LinksChanged {
                    number: *number,
                    failure: message::text(&failure.unwrap_or_default()),
                });
            }
            Request::WriteFile { name, contents } => {
                let path = Path::new(FILES).join(name.to_string_lossy().as_ref());
                // In place: it is mounted in the container.
                if let Err(error) = fs::write(&path, contents) {
                    eprintln!("hull-agent: write {}: {error}", path.display());
                }
                return;
            }
            _ => {}
        }
        if self.view.is_some() {
            // Whatever the signal is: nobody is there who could take it otherwise.
            return self.end_view();
        }
        let _ = self.send_shim(&request, &[]);
    }

    /// The guest was there for its files, and is not any more.
    fn end_view(&mut self) {
        if self.view.take().is_some() {
            self.end_servers();
            self.tell(&Event::Exited(Exit {
                code: 0,
                oom_killed: false,
                at_ns: process::now_ns(),
            }));
            self.end_streams(0);
        }
    }

    fn end_servers(&mut self) {
        for server in self.servers.drain(..) {
            let _ = process::pidfd_send_signal(server.as_fd(), libc::SIGKILL);
        }
    }

    /// Starts a server for the files of the container, on the streams of this number.
    fn serve_files(&mut self, number: u32) -> io::Result<()> {
        let (ours, theirs) = socket::stream_pair()?;
        let (how, source) = match &self.view {
            Some(plan) => (c"view", process::sealed_copy(c"hull-plan", plan, false)?),
            None if self.init != 0 => (c"join", namespace::open(self.init, "mnt")?),
            None => return Err(io::ErrorKind::NotConnected.into()),
        };
        let program: OwnedFd = File::open("/proc/self/exe")?.into();
        let null = process::open(mount::cwd(), c"/dev/null", libc::O_RDWR, 0)?;
        let console = process::open(mount::cwd(), c"/dev/console", libc::O_WRONLY, 0)?;
        let child = spawn::spawn(&Spawn {
            program: Program::Descriptor(program.as_fd()),
            args: &[c"hull-files", how],
            env: &[],
            stdio: [null.as_fd(), null.as_fd(), console.as_fd()],
            descriptors: &[theirs.as_fd(), source.as_fd()],
        })?;
        self.servers
            .retain(|server| process::pidfd_send_signal(server.as_fd(), 0).is_ok());
        self.servers.push(child.pidfd);
        let of = |which| stream(number, which);
        let ends = Stream::new(Some(ours.try_clone()?), of(1), Some(ours), of(0))?;
        self.streams.push(ends);
        Ok(())
    }

    /// Passes on what the shim inside says.
    fn hear_shim(&mut self, fds: &[PollFd], buffer: &mut [u8]) {
        let Some(shim) = &self.shim else { return };
        let number = shim.as_raw_fd();
        if !fds
            .iter()
            .any(|e| e.descriptor() == number && e.ready() != 0)
        {
            return;
        }
        loop {
            let Some(shim) = &self.shim else { return };
            match socket::receive(shim.as_fd(), buffer) {
                Ok((length, _)) if length > 0 => {
                    for event in Event::decode_all(&buffer[..length]).unwrap_or_default() {
                        if let Event::Started { pid, .. } = event {
                            self.init = pid;
                        }
                    }
                    self.channel.send(Kind::Event, 0, &buffer[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => {
                    self.shim = None;
                    self.init = 0;
                    self.end_servers();
                }
            }
        }
    }

    fn ask_names(&mut self, fds: &[PollFd], buffer: &mut [u8]) {
        let Some(names) = &self.names else { return };
        let number = names.as_raw_fd();
        if !fds
            .iter()
            .any(|e| e.descriptor() == number && e.ready() != 0)
        {
            return;
        }
        while let Ok((length, from)) = names.recv_from(&mut buffer[..4096]) {
            if length < 12 || self.channel.is_behind() {
                continue;
            }
            if self.questions.len() >= QUESTIONS_MAX {
                self.questions.pop_first();
            }
            let id = [buffer[0], buffer[1]];
            self.next_question = self.next_question.wrapping_add(1);
            self.questions
                .insert(self.next_question, Question { from, id });
            buffer[..2].copy_from_slice(&self.next_question.to_be_bytes());
            self.channel.send(Kind::Name, 0, &buffer[..length]);
        }
    }

    /// A question that comes as a stream is passed on as one.
    fn dial_names(&mut self, fds: &[PollFd]) {
        let Some(listener) = &self.long_names else {
            return;
        };
        let number = listener.as_raw_fd();
        if !fds
            .iter()
            .any(|e| e.descriptor() == number && e.ready() != 0)
        {
            return;
        }
        while let Ok((client, _)) = listener.accept() {
            if self.dialed.len() >= DIALED_MAX || self.channel.is_behind() {
                continue;
            }
            let number = DIALED_MIN + self.next_dialed;
            self.next_dialed = (self.next_dialed + 1) % DIALED_COUNT;
            let of = |which| stream(number, which);
            let client = OwnedFd::from(client);
            let ends = client
                .try_clone()
                .and_then(|clone| Stream::new(Some(clone), of(1), Some(client), of(0)));
            if let Ok(ends) = ends {
                self.channel.send(Kind::Dial, number, &[]);
                self.dialed.push(ends);
            }
        }
    }

    fn answer_name(&mut self, answer: &[u8]) {
        if answer.is_empty() {
            // There are names from now on.
            if let Err(error) = self.open_names() {
                eprintln!("hull-agent: open the name server: {error}");
            }
            return;
        }
        let Some(id) = answer.first_chunk::<2>() else {
            return;
        };
        let (Some(names), Some(question)) =
            (&self.names, self.questions.remove(&u16::from_be_bytes(*id)))
        else {
            return;
        };
        let mut answer = answer.to_vec();
        answer[..2].copy_from_slice(&question.id);
        let _ = names.send_to(&answer, question.from);
    }

    /// When the shim inside has ended and all is said: the disk is completed.
    fn finish(&mut self) {
        let is_over = self.was_started
            && self.shim.is_none()
            && self.view.is_none()
            && self.streams.iter().all(Stream::has_sent_end)
            && self.channel.is_empty();
        if !is_over || self.is_done {
            return;
        }
        self.is_done = true;
        // SAFETY: no arguments; a NUL-terminated path.
        unsafe {
            libc::umount2(c"/u".as_ptr(), 0);
            libc::sync();
        }
        self.channel.send(Kind::Done, 0, &[]);
    }
}

/// Changes limits of the container.
fn limit(limits: &[u8]) -> io::Result<()> {
    let limits = Limits::decode(limits).map_err(io::Error::other)?;
    let group = Path::new(GUEST_CGROUP).file_name().unwrap_or_default();
    Hierarchies::parse(&HIERARCHIES.to_string_lossy())?
        .open_group(&group.to_string_lossy())
        .update(&limits)
}

/// Stops or wakes the processes of the container; they stand still when this comes back.
fn freeze(frozen: bool) {
    let group = Path::new(GUEST_CGROUP);
    let _ = fs::write(group.join("cgroup.freeze"), if frozen { "1" } else { "0" });
    let until = Instant::now() + FREEZE_WAIT;
    while frozen && Instant::now() < until {
        let events = fs::read_to_string(group.join("cgroup.events")).unwrap_or_default();
        if events.lines().any(|line| line == "frozen 1") {
            return;
        }
        std::thread::sleep(DEVICE_PAUSE);
    }
}

fn set_clock(now_ns: i64) {
    let time = libc::timespec {
        tv_sec: now_ns / 1_000_000_000,
        tv_nsec: now_ns % 1_000_000_000,
    };
    // SAFETY: the time is valid for reads. That it cannot be set is no reason not to run.
    unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) };
}

/// Puts in what is needed only for more disks than there are slots.
fn put_later_modules() -> io::Result<()> {
    let mut modules: Vec<_> = fs::read_dir(LATER)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    modules.sort();
    modules.iter().try_for_each(|path| put_module(path))
}

/// Mounts the layers and the disk that takes changes; disks are told apart by their serials.
fn mount_disks(layers: u32) -> io::Result<()> {
    let devices = fs::read_dir("/sys/block")?.flatten();
    let is_own = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("vd");
    let found = devices.filter(|disk| is_own(&disk.file_name())).count();
    if found <= layers as usize {
        // Built in, or too late to appear: the disk that is missing says so.
        let _ = put_later_modules();
    }
    let readonly = mount::Attributes::READONLY;
    let mut disks = Disks::default();
    for number in 0..layers {
        let place = format!("{LAYERS}/{number}");
        fs::create_dir_all(&place)?;
        let fs = mount::Filesystem::open(c"erofs")?;
        fs.set(c"source", &disks.device(number)?)?;
        // The disk refuses to be opened for writing.
        fs.set_flag(c"ro")?;
        mount::attach_at(fs.mount(readonly)?.as_fd(), &crate::c_string(place)?)?;
    }
    let fs = mount::Filesystem::open(c"ext4")?;
    fs.set(c"source", &disks.device(layers)?)?;
    let upper = crate::c_string(UPPER.to_owned())?;
    mount::attach_at(fs.mount(mount::Attributes::none())?.as_fd(), &upper)?;
    for directory in ["upper", "work"] {
        fs::create_dir_all(Path::new(UPPER).join(directory))?;
    }
    Ok(())
}

/// Mounts directories of the host.
fn mount_shares(count: u32) -> io::Result<()> {
    for number in 0..count {
        let place = format!("{SHARES}/{number}");
        fs::create_dir_all(&place)?;
        let fs = mount::Filesystem::open(c"virtiofs")?;
        fs.set(c"source", &crate::c_string(format!("s{number}"))?)?;
        let mounted = fs.mount(mount::Attributes::none())?;
        mount::attach_at(mounted.as_fd(), &crate::c_string(place)?)?;
    }
    Ok(())
}

/// Devices of disks by the serials that they were given. Asking for one is a request to the disk, so each
/// is asked once.
#[derive(Default)]
struct Disks {
    serials: BTreeMap<String, std::ffi::OsString>,
    seen: std::collections::BTreeSet<std::ffi::OsString>,
}

impl Disks {
    /// The device of a disk by its number; waits until it is there.
    fn device(&mut self, number: u32) -> io::Result<CString> {
        let wanted = format!("hull{number}");
        let until = Instant::now() + DEVICE_WAIT;
        loop {
            if let Some(name) = self.serials.get(&wanted) {
                return crate::c_string(format!("/dev/{}", name.to_string_lossy()));
            }
            if Instant::now() > until {
                return Err(io::Error::other(format!("disk {number} did not appear")));
            }
            let before = self.serials.len();
            for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
                self.look(&entry);
            }
            if self.serials.len() == before {
                std::thread::sleep(DEVICE_PAUSE);
            }
        }
    }

    fn look(&mut self, entry: &fs::DirEntry) {
        if self.seen.contains(&entry.file_name()) {
            return;
        }
        let own = fs::read(entry.path().join("serial"));
        // Of a disk on SCSI: behind four bytes.
        let page = || fs::read(entry.path().join("device/vpd_pg80"));
        let page = || page().map(|page| page.get(4..).unwrap_or_default().to_vec());
        let Ok(serial) = own.or_else(|_| page()) else {
            return;
        };
        let serial = String::from_utf8_lossy(&serial).into_owned();
        let serial = serial.trim_matches(['\0', ' ', '\n']).to_owned();
        if !serial.is_empty() {
            self.seen.insert(entry.file_name());
            self.serials.insert(serial, entry.file_name());
        }
    }
}
