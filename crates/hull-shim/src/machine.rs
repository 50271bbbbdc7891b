//! The shim of a machine: its first process is QEMU, and what was asked for runs in the guest.
//!
//! ```text
//!  clients, log ── Stdio ──pipes── Stream ──┐
//!  requests, events ────────────────────────┼── channel ══ agent ── shim inside ── process
//!  name server's socket ────────────────────┘
//! ```
//!
//! Everything above is as for a container: the same log, clients, records and events. The guest says when its
//! process ended; the end of QEMU without such a word is the end of the process too. A guest that
//! says what it may not is ended.

use std::io;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use hull_os::process::{self, Ended, PollFd};
use hull_os::socket;
use hull_plan::frame::{
    self, DIALED_COUNT, DIALED_MAX, DIALED_MIN, FROM_GUEST_BYTES_MAX, Frame, Kind, SEED_BYTES,
};
use hull_plan::message::{Event, Request, StartFailure, Target};
use hull_plan::process::Stdin;
use hull_plan::{Failure, Process};

use crate::container::wire;
use crate::relay::{Channel, Stream};
use crate::serve::Task;
use crate::stdio::{self, Stdio};

/// How long the guest may take to complete its disk after its process ended.
const SETTLE_MS_MAX: u64 = 8_000;
/// Bytes of the console and of QEMU's complaints that are kept for a message.
const CONSOLE_BYTES_MAX: usize = 2048;
/// Where names are asked for in the network namespace of QEMU, as in any container's: whoever asks the
/// socket itself gets answers that seem to come from here.
const NAME_SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
/// How long it may take to accept a connection: it is a process of this host.
const DIAL_WAIT: Duration = Duration::from_millis(200);
/// How long it is left alone when it accepted none: a guest that asks on and on must not hold us up.
const DIAL_PAUSE: Duration = Duration::from_secs(2);
/// Bytes of a question to it or of an answer.
const NAME_BYTES_MAX: usize = 4096;
/// Exit code of a machine that ended without a word about its process.
const EXIT_MACHINE: i32 = 255;

/// A machine and the way to its guest.
#[derive(Debug)]
pub(crate) struct Machine {
    /// QEMU.
    pub(crate) process: Task,
    channel: Channel,
    /// What the agent gets at its start; nothing once it has.
    start: Vec<u8>,
    streams: Vec<(Target, Stream)>,
    /// Streams to the name server.
    dialed: Vec<Stream>,
    /// When it may be asked for the next one.
    dial_from: Instant,
    /// Processes by the numbers of their streams.
    next_number: u32,
    names: Option<UdpSocket>,
    console: Vec<u8>,
    outputs: Vec<OwnedFd>,
    /// By when the disk must be complete, once the process ended.
    settled_by: Option<Instant>,
    /// It is there for its files only, and for the daemon that reads them.
    files_only: bool,
    is_done: bool,
    is_up: bool,
    /// Changes of links that the guest was asked for and has not answered.
    links_asked: u32,
}

/// What the guest said, for the one who keeps the tasks.
#[derive(Debug)]
pub(crate) enum Said {
    /// As a shim's own events.
    Event(Event),
    /// Everything that ran in it has ended, whether or not it said so of each.
    Done,
    /// It will say nothing more.
    Gone,
}

/// Makes the ends of a process in the guest: ours for clients and log, and those of the channel.
pub(crate) fn make_streams(
    steps: &Process<'_>,
    number: u32,
    target: Target,
) -> io::Result<(Stdio, Vec<(Target, Stream)>)> {
    let (mut stdio, ends) = stdio::make(steps)?;
    let of = |which| frame::stream(number, which);
    if steps.terminal().is_some() {
        let (ours, theirs) = socket::stream_pair()?;
        stdio.set_terminal(ours)?;
        let stream = Stream::new(Some(theirs.try_clone()?), of(0), Some(theirs), of(1))?;
        return Ok((stdio, vec![(target, stream)]));
    }
    let [input, output, error] = ends.into_ends();
    let input = (steps.stdin() != Stdin::Closed).then_some(input);
    let streams = vec![
        (target, Stream::new(input, of(0), Some(output), of(1))?),
        (target, Stream::new(None, of(3), Some(error), of(2))?),
    ];
    Ok((stdio, streams))
}

impl Machine {
    /// Takes over QEMU, which is starting, and our end of the agent's channel.
    pub(crate) fn new(
        process: Task,
        outputs: Vec<OwnedFd>,
        agent: OwnedFd,
        guest: &[u8],
        streams: Vec<(Target, Stream)>,
    ) -> io::Result<Machine> {
        process::set_nonblocking(agent.as_fd())?;
        Ok(Machine {
            process,
            channel: Channel::new(agent, FROM_GUEST_BYTES_MAX),
            start: guest.to_vec(),
            streams,
            dialed: Vec::new(),
            dial_from: Instant::now(),
            next_number: 1,
            names: None,
            console: Vec::new(),
            outputs,
            settled_by: None,
            files_only: frame::Guest::decode(guest).is_ok_and(|guest| guest.files_only),
            is_done: false,
            is_up: false,
            links_asked: 0,
        })
    }

    /// Asks the name server of this network namespace what the guest asks.
    pub(crate) fn open_names(&mut self) -> io::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(NAME_SERVER)?;
        socket.set_nonblocking(true)?;
        self.names = Some(socket);
        Ok(())
    }

    /// As [`Machine::open_names`], for a guest that did not ask for names before.
    pub(crate) fn begin_names(&mut self) -> io::Result<()> {
        if self.names.is_none() {
            self.open_names()?;
            self.channel.send(Kind::Name, 0, &[]);
        }
        Ok(())
    }

    pub(crate) fn interests(&self, fds: &mut Vec<PollFd>, held_up: bool) {
        fds.extend(self.channel.interest());
        let is_behind = self.channel.is_behind();
        // What came before the guest knows of the stream would be lost.
        for (_, stream) in self.streams.iter().filter(|_| self.is_up) {
            stream.interests(fds, is_behind || held_up);
        }
        for stream in &self.dialed {
            stream.interests(fds, is_behind);
        }
        let names = self
            .names
            .iter()
            .map(|names| PollFd::readable(names.as_fd()));
        fds.extend(names);
        fds.extend(self.outputs.iter().map(|fd| PollFd::readable(fd.as_fd())));
    }

    /// When something has to be done without anything happening.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.settled_by.filter(|_| !self.is_done)
    }

    /// Does what can be done after a wait; what the guest said is added to `said`.
    pub(crate) fn turn(&mut self, fds: &[PollFd], buffer: &mut [u8], said: &mut Vec<Said>) {
        let was_broken = self.channel.is_broken;
        self.read_console(fds, buffer);
        if self.channel.is_ready(fds) {
            self.channel.flush();
            self.channel.receive(buffer);
            while let Some(frame) = self.channel.take() {
                self.hear(&frame, said);
            }
        }
        for (_, stream) in &mut self.streams {
            stream.turn(fds, &mut self.channel, buffer);
        }
        self.streams.retain(|(_, stream)| !stream.is_over());
        for stream in &mut self.dialed {
            stream.turn(fds, &mut self.channel, buffer);
        }
        self.dialed.retain(|stream| !stream.is_over());
        self.answer_names(fds, buffer);
        self.channel.flush();
        if self.channel.is_broken && !was_broken {
            // Nothing that follows could be understood, and nothing is known of what it does.
            self.kill();
            said.push(Said::Gone);
        }
    }

    fn hear(&mut self, frame: &Frame, said: &mut Vec<Said>) {
        match frame.kind {
            Kind::Hello if !self.is_up => {
                self.is_up = true;
                let mut start = process::now_ns().to_le_bytes().to_vec();
                let mut seed = [0u8; SEED_BYTES];
                let _ = std::fs::File::open("/dev/urandom")
                    .and_then(|mut random| io::Read::read_exact(&mut random, &mut seed));
                start.extend_from_slice(&seed);
                start.append(&mut self.start);
                self.channel.send(Kind::Start, 0, &start);
                self.start = Vec::new();
            }
            Kind::Event => match Event::decode_all(&frame.payload) {
                Ok(events) => said.extend(events.into_iter().map(Said::Event)),
                Err(_) => self.channel.is_broken = true,
            },
            Kind::Data | Kind::End | Kind::Credit => {
                let channel = &mut self.channel;
                // One that is not known any more is late, not wrong.
                let _ = self
                    .streams
                    .iter_mut()
                    .map(|(_, stream)| stream)
                    .chain(&mut self.dialed)
                    .any(|stream| stream.hear(frame, channel));
            }
            Kind::Dial => self.dial(frame.stream),
            Kind::Name => {
                if let Some(names) = &self.names
                    && frame.payload.len() <= NAME_BYTES_MAX
                {
                    let _ = names.send(&frame.payload);
                }
            }
            Kind::Done => {
                self.is_done = true;
                for (_, stream) in &mut self.streams {
                    stream.end_there(&mut self.channel);
                }
                said.push(Said::Done);
            }
            _ => self.channel.is_broken = true,
        }
    }

    /// Connects streams of the guest to the name server; they end at once where that cannot be.
    fn dial(&mut self, number: u32) {
        if !(DIALED_MIN..DIALED_MIN + DIALED_COUNT).contains(&number) {
            self.channel.is_broken = true;
            return;
        }
        let of = |which| frame::stream(number, which);
        let dialed = match self.dialed.len() < DIALED_MAX && self.dial_from <= Instant::now() {
            true => self.connect_names(),
            false => None,
        };
        match dialed
            .and_then(|(source, sink)| Stream::new(Some(source), of(0), Some(sink), of(1)).ok())
        {
            Some(stream) => self.dialed.push(stream),
            None => self.channel.send(Kind::End, of(0), &[]),
        }
    }

    /// A connection to the name server, twice.
    fn connect_names(&mut self) -> Option<(OwnedFd, OwnedFd)> {
        let address = self.names.as_ref()?.peer_addr().ok()?;
        let Ok(server) = TcpStream::connect_timeout(&address, DIAL_WAIT) else {
            self.dial_from = Instant::now() + DIAL_PAUSE;
            return None;
        };
        let server = OwnedFd::from(server);
        Some((server.try_clone().ok()?, server))
    }

    fn answer_names(&mut self, fds: &[PollFd], buffer: &mut [u8]) {
        let Some(names) = &self.names else { return };
        let is_ready =
            |entry: &PollFd| entry.descriptor() == names.as_raw_fd() && entry.ready() != 0;
        if !fds.iter().any(is_ready) {
            return;
        }
        while !self.channel.is_behind()
            && let Ok(length) = names.recv(&mut buffer[..NAME_BYTES_MAX])
        {
            self.channel.send(Kind::Name, 0, &buffer[..length]);
        }
    }

    fn read_console(&mut self, fds: &[PollFd], buffer: &mut [u8]) {
        let is_ready = |fd: &OwnedFd| {
            fds.iter()
                .any(|entry| entry.descriptor() == fd.as_raw_fd() && entry.ready() != 0)
        };
        let console = &mut self.console;
        self.outputs.retain(|output| {
            if !is_ready(output) {
                return true;
            }
            match process::read(output.as_fd(), buffer) {
                Ok(0) => false,
                Ok(length) => {
                    console.extend_from_slice(&buffer[..length]);
                    let extra = console.len().saturating_sub(CONSOLE_BYTES_MAX);
                    console.drain(..extra);
                    true
                }
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            }
        });
    }

    /// The last words of console and QEMU.
    fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.console);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
        lines[lines.len().saturating_sub(4)..].join("; ")
    }

    /// Why nothing runs in a machine that ended.
    pub(crate) fn failure(&self) -> StartFailure {
        let when = match self.is_up {
            true => "before its program could run",
            false => "before its guest was up",
        };
        let text = format!("the machine ended {when}: {}", self.last_words());
        wire(&Failure::plain("machine", text))
    }

    /// How the process ended in a machine that ended without a word about it.
    pub(crate) fn end_of_machine(ended: Ended) -> Ended {
        match ended {
            Ended::Code(_) => Ended::Code(EXIT_MACHINE),
            signal => signal,
        }
    }

    /// Starts an added process; the streams are those of [`make_streams`] with [`Machine::number`].
    pub(crate) fn exec(&mut self, id: &[u8; 32], steps: &[u8], streams: Vec<(Target, Stream)>) {
        let mut payload = id.to_vec();
        payload.extend_from_slice(steps);
        self.channel.send(Kind::Exec, self.next_number, &payload);
        self.next_number += 1;
        self.streams.extend(streams);
    }

    /// Has the guest serve its files on a stream.
    pub(crate) fn serve_files(&mut self, stream: OwnedFd) -> io::Result<()> {
        let of = |which| frame::stream(self.next_number, which);
        let ends = Stream::new(Some(stream.try_clone()?), of(0), Some(stream), of(1))?;
        self.channel.send(Kind::Files, self.next_number, &[]);
        self.next_number += 1;
        self.streams.push((Target::Init, ends));
        Ok(())
    }

    /// A guest that is there for the daemon's sake goes with it.
    pub(crate) fn leave_without(&mut self, has_daemon: bool) {
        if self.files_only && !has_daemon && self.settled_by.is_none() {
            self.pass(&Request::Signal {
                signal: libc::SIGKILL,
            });
        }
    }

    /// The number of the next added process.
    pub(crate) fn number(&self) -> u32 {
        self.next_number
    }

    /// Whether a request is for the guest, as it is.
    pub(crate) fn takes(request: &Request) -> bool {
        matches!(
            request,
            Request::Resize { .. }
                | Request::Signal { .. }
                | Request::SignalExec { .. }
                | Request::ChangeLinks { .. }
                | Request::Freeze { .. }
                | Request::Limit { .. }
                | Request::WriteFile { .. }
        )
    }

    /// Passes a request on. A guest that does not let its process be killed is ended.
    pub(crate) fn pass(&mut self, request: &Request) {
        if let Request::Signal {
            signal: libc::SIGKILL,
        } = request
        {
            if !self.is_up {
                return self.kill();
            }
            self.begin_to_settle();
        }
        let is_asked = matches!(request, Request::ChangeLinks { .. } | Request::Limit { .. });
        self.links_asked += u32::from(is_asked);
        self.channel.send(Kind::Request, 0, &request.encode());
    }

    /// Whether an answer about links is one, and not a guest that talks to the daemon unasked.
    pub(crate) fn was_asked_for_links(&mut self) -> bool {
        let was_asked = self.links_asked > 0;
        self.links_asked = self.links_asked.saturating_sub(1);
        was_asked
    }

    /// The process ended, or is to: from now on only its disk is waited for.
    pub(crate) fn begin_to_settle(&mut self) {
        self.settled_by
            .get_or_insert_with(|| Instant::now() + Duration::from_millis(SETTLE_MS_MAX));
    }

    /// Whether the disk is complete, or was waited for long enough.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_done
            || self.channel.is_broken
            || self.settled_by.is_some_and(|by| by <= Instant::now())
    }

    /// Ends what is left of all streams.
    pub(crate) fn break_streams(&mut self) {
        for (_, stream) in &mut self.streams {
            stream.break_off();
        }
        self.streams.clear();
        self.dialed.clear();
    }

    /// Ends QEMU where its time is over.
    pub(crate) fn end_in_time(&self) {
        let is_late = |by: &Instant| *by <= Instant::now();
        if self.settled_by.as_ref().is_some_and(is_late) && !self.is_done {
            self.kill();
        }
    }

    /// Ends QEMU.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }
}
