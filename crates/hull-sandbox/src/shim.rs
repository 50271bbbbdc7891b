//! The connection to one shim: requests out, events in.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hull_model::SandboxId;
use hull_os::{process, socket};
use hull_plan::message::{self, MESSAGE_BYTES_MAX, Request};

use crate::driver::{SIGKILL, wait_readable};
use crate::encode::{encode_process, stream_bits};
use crate::error::Error;
use crate::spec::{Attachment, ExecId, ExecSpec, KeptSocket, Limits, Resolver};
use crate::{Exit, FailureKind};

/// A connection to a shim. Its descriptor is readable when [`Shim::try_event`] has something.
#[derive(Debug)]
pub struct Shim {
    id: SandboxId,
    socket: OwnedFd,
    /// Of the shim itself.
    pidfd: OwnedFd,
    /// Of the container's first process, once it started.
    init: Option<OwnedFd>,
    /// Sockets that the shim keeps and sent us copies of.
    kept: Vec<KeptSocket>,
    /// Events of one message that were not taken yet.
    waiting: VecDeque<message::Event>,
    gone: bool,
    /// Its first process is a machine; signals go to what runs in its guest.
    has_guest: bool,
}

/// What a shim has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The container's program runs.
    Started {
        /// Its process id on the host.
        pid: u32,
        /// Nanoseconds since the epoch.
        started_at_ns: i64,
    },
    /// It could not be started; the shim has cleaned up and ends.
    StartFailed(StartFailure),
    /// The first process ended, all its output is in the log, the exit record is written.
    Exited(Exit),
    /// An exec's program runs.
    ExecStarted {
        /// Which exec.
        id: ExecId,
        /// Its process id on the host.
        pid: u32,
    },
    /// An exec could not be started.
    ExecFailed {
        /// Which exec.
        id: ExecId,
        /// Why.
        failure: StartFailure,
    },
    /// An exec ended, its record is written.
    ExecExited {
        /// Which exec.
        id: ExecId,
        /// How.
        exit: Exit,
    },
    /// Lines that could not be written to the log, since the last such event.
    LogDropped {
        /// How many.
        lines: u64,
    },
    /// Requests in the network namespace were carried out, or not.
    LinksChanged {
        /// As in the request.
        number: u32,
        /// Why not; empty: they were.
        failure: String,
    },
    /// A file of the log is full and has a number behind its name now.
    LogRotated,
    /// The kernel killed something in the cgroup for lack of memory; the container may go on.
    OutOfMemory,
    /// A request was not understood or could not be carried out.
    Refused {
        /// Why.
        text: String,
    },
    /// Copies of sockets that the shim keeps are there, to be taken.
    Kept,
    /// The connection ended: the shim is gone or about to go. Nothing follows.
    Gone,
}

/// Why a process could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    /// The failed step, as in `mount`, `user`, `exec`.
    pub step: String,
    /// The system's error number; 0: none.
    pub errno: i32,
    /// The text for a client, in the words of Docker's runtime where there are such.
    pub text: String,
    /// What Docker's exit codes 127 and 126 depend on.
    pub kind: FailureKind,
}

/// Which process of a sandbox a request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The container's first process.
    Init,
    /// An exec.
    Exec(ExecId),
}

impl Shim {
    /// Takes over a connection.
    pub(crate) fn new(id: SandboxId, socket: OwnedFd, pidfd: OwnedFd, has_guest: bool) -> Shim {
        Shim {
            id,
            socket,
            pidfd,
            init: None,
            kept: Vec::new(),
            waiting: VecDeque::new(),
            gone: false,
            has_guest,
        }
    }

    /// Takes the next event, without waiting; none: nothing is there now. [`Event::Gone`] is the
    /// last one and is given again when asked again.
    ///
    /// # Errors
    /// When the shim sent what cannot be understood.
    pub fn try_event(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                match event_of(event) {
                    Some(event) => return Ok(Some(event)),
                    None => continue,
                }
            }
            if self.gone {
                return Ok(Some(Event::Gone));
            }
            if !self.receive()? {
                return Ok(None);
            }
        }
    }

    /// Takes the next message, as it is; whether there was one.
    pub(crate) fn receive(&mut self) -> Result<bool, Error> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let (length, descriptors) = match socket::receive(self.socket.as_fd(), &mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // Killed with something unread: the same as closed.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => (0, Vec::new()),
            Err(cause) => return Err(self.failed("receive", cause)),
        };
        if length == 0 {
            self.gone = true;
            return Ok(true);
        }
        let events =
            message::Event::decode_all(&buffer[..length]).map_err(|malformed| Error::Protocol {
                id: self.id.short(),
                what: malformed.to_string(),
            })?;
        if let Some(message::Event::Kept { keys }) = events.first() {
            let named = keys.iter().zip(descriptors);
            self.kept
                .extend(named.map(|(&key, socket)| KeptSocket { key, socket }));
        } else if let Some(init) = descriptors.into_iter().next() {
            self.init = Some(init);
        }
        self.waiting.extend(events);
        Ok(true)
    }

    /// As the shim's status says.
    pub(crate) fn set_guest(&mut self, has_guest: bool) {
        self.has_guest = has_guest;
    }

    /// Takes the events received so far in the shim's own form.
    pub(crate) fn take_waiting(&mut self) -> VecDeque<message::Event> {
        std::mem::take(&mut self.waiting)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    pub(crate) fn failed(&self, step: &'static str, cause: io::Error) -> Error {
        Error::Step {
            step,
            id: self.id.short(),
            cause,
        }
    }

    /// Starts an added process. [`Event::ExecStarted`] or [`Event::ExecFailed`] follows.
    ///
    /// # Errors
    /// When the request cannot be encoded or sent.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the shim has copies; ours must be closed"
    )]
    pub fn exec(&mut self, spec: &ExecSpec, attach: Vec<Attachment>) -> Result<(), Error> {
        let steps = encode_process(&spec.process)?;
        let steps = process::sealed_copy(c"hull-exec", &steps, false)
            .map_err(|cause| self.failed("copy the process steps", cause))?;
        let clients = attach.iter().map(stream_bits).collect();
        let mut descriptors = vec![steps.as_fd()];
        descriptors.extend(attach.iter().map(|attachment| attachment.stream.as_fd()));
        self.send(
            &Request::Exec {
                id: *spec.id.as_bytes(),
                clients,
            },
            &descriptors,
        )
    }

    /// Adds a client at the streams of a process.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn attach(&mut self, target: Target, attachment: Attachment) -> Result<(), Error> {
        let request = Request::Attach {
            target: target.wire(),
            streams: stream_bits(&attachment),
        };
        let sent = self.send(&request, &[attachment.stream.as_fd()]);
        drop(attachment);
        sent
    }

    /// Changes the size of a terminal.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn resize(&mut self, target: Target, rows: u16, cols: u16) -> Result<(), Error> {
        self.send(
            &Request::Resize {
                target: target.wire(),
                rows,
                cols,
            },
            &[],
        )
    }

    /// Closes standard input of a process, after what attached clients have sent.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn close_stdin(&mut self, target: Target) -> Result<(), Error> {
        self.send(
            &Request::CloseStdin {
                target: target.wire(),
            },
            &[],
        )
    }

    /// Sends a signal to the container's first process, without a hop through the shim.
    ///
    /// # Errors
    /// [`Error::NotRunning`] before [`Event::Started`] was taken and after the process ended.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        let not_running = || Error::NotRunning {
            id: self.id.short(),
        };
        // Also SIGKILL: what the process has written is completed on its disk before its machine ends.
        if self.has_guest {
            return self.send(&Request::Signal { signal }, &[]);
        }
        let init = self.init.as_ref().ok_or_else(not_running)?;
        match process::pidfd_send_signal(init.as_fd(), signal) {
            Ok(()) => Ok(()),
            Err(cause) if cause.raw_os_error() == Some(ESRCH) => Err(not_running()),
            Err(cause) => Err(self.failed("signal", cause)),
        }
    }

    /// Takes copies of the sockets that the shim keeps, after [`Event::Kept`].
    pub fn take_kept(&mut self) -> Vec<KeptSocket> {
        std::mem::take(&mut self.kept)
    }

    /// Has the shim keep more sockets open.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn keep(&mut self, sockets: &[KeptSocket]) -> Result<(), Error> {
        for part in sockets.chunks(message::KEYS_MAX) {
            let keys = part.iter().map(|kept| kept.key).collect();
            let descriptors: Vec<_> = part.iter().map(|kept| kept.socket.as_fd()).collect();
            self.send(&Request::Keep { keys }, &descriptors)?;
        }
        Ok(())
    }

    /// Has the shim open a name server's sockets inside, if they are not; [`Event::Kept`] follows.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn open_resolver(&mut self, resolver: &Resolver) -> Result<(), Error> {
        let request = Request::OpenResolver {
            port: resolver.port,
            rules: resolver.rules.clone(),
        };
        self.send(&request, &[])
    }

    /// Has the shim close sockets that it keeps.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn release(&mut self, keys: &[u32]) -> Result<(), Error> {
        for part in keys.chunks(message::KEYS_MAX) {
            let keys = part.to_vec();
            self.send(&Request::Release { keys }, &[])?;
        }
        Ok(())
    }

    /// Carries out ready-made rtnetlink requests in the network namespace of a sandbox that was
    /// started with link steps. [`Event::LinksChanged`] with this number follows.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn change_links(&self, number: u32, requests: Vec<u8>) -> Result<(), Error> {
        self.send(&Request::ChangeLinks { number, requests }, &[])
    }

    /// Has the guest of a machine serve its files, on a stream that a view is made of.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn serve_files(&self, stream: BorrowedFd<'_>) -> Result<(), Error> {
        self.send(&Request::Files, &[stream])
    }

    /// Stops or wakes the processes in the guest of a machine.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn freeze_guest(&self, frozen: bool) -> Result<(), Error> {
        self.send(&Request::Freeze { frozen }, &[])
    }

    /// Changes limits in the guest of a machine. [`Event::LinksChanged`] with this number follows.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn limit_guest(&self, number: u32, limits: &Limits) -> Result<(), Error> {
        let limits = limits.encode();
        self.send(&Request::Limit { number, limits }, &[])
    }

    /// Writes a small file anew that the guest of a machine was given.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn write_file(&self, name: &str, contents: Vec<u8>) -> Result<(), Error> {
        let name = message::text(name);
        self.send(&Request::WriteFile { name, contents }, &[])
    }

    /// Waits for the program to run.
    ///
    /// # Errors
    /// Why it does not.
    pub fn wait_started(&mut self, patience: Duration) -> Result<(), Error> {
        self.wait(patience, |event| matches!(event, Event::Started { .. }))
    }

    /// Ends the first process and waits until everything of it has ended.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn end(&mut self, patience: Duration) -> Result<(), Error> {
        self.signal(SIGKILL)?;
        self.wait(patience, |event| matches!(event, Event::Exited(_)))
    }

    fn wait(&mut self, patience: Duration, wanted: impl Fn(&Event) -> bool) -> Result<(), Error> {
        let until = Instant::now() + patience;
        loop {
            match self.try_event()? {
                Some(event) if wanted(&event) => return Ok(()),
                Some(Event::StartFailed(failure)) => {
                    return Err(self.failed("start", io::Error::other(failure.text)));
                }
                Some(Event::Gone) => {
                    return Err(self.failed("wait", io::ErrorKind::UnexpectedEof.into()));
                }
                Some(_) => {}
                None if Instant::now() >= until => {
                    return Err(self.failed("wait", io::ErrorKind::TimedOut.into()));
                }
                None => wait_readable(self.as_fd(), until),
            }
        }
    }

    /// Sends a signal to an exec.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn signal_exec(&mut self, id: ExecId, signal: i32) -> Result<(), Error> {
        self.send(
            &Request::SignalExec {
                id: *id.as_bytes(),
                signal,
            },
            &[],
        )
    }

    pub(crate) fn send(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        match socket::send(self.socket.as_fd(), &request.encode(), descriptors) {
            Ok(_) => Ok(()),
            Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Err(Error::NotRunning {
                id: self.id.short(),
            }),
            Err(cause) => Err(self.failed("send a request to the shim", cause)),
        }
    }

    /// Of the shim itself: readable when it has ended, which is awaited before the same id starts
    /// again.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Of the container's first process, once it started.
    pub fn init_pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.init.as_ref().map(AsFd::as_fd)
    }

    /// Whether the shim has ended; reaps it where it is our child.
    pub fn has_ended(&self) -> bool {
        match process::try_wait(self.pidfd.as_fd()) {
            Ok(ended) => ended.is_some(),
            // Not our child, or taken before: then the signal tells.
            Err(_) => process::pidfd_send_signal(self.pidfd.as_fd(), 0).is_err(),
        }
    }

    /// Of which sandbox.
    pub fn id(&self) -> &SandboxId {
        &self.id
    }
}

/// "No such process".
const ESRCH: i32 = 3;

impl Target {
    fn wire(self) -> message::Target {
        match self {
            Target::Init => message::Target::Init,
            Target::Exec(id) => message::Target::Exec(*id.as_bytes()),
        }
    }
}

/// How a process ended, in the words of the engine.
pub(crate) fn exit_of(exit: message::Exit) -> Exit {
    Exit {
        code: exit.code,
        oom_killed: exit.oom_killed,
        at_ns: exit.at_ns,
    }
}

fn failure_of(failure: &message::StartFailure) -> StartFailure {
    StartFailure {
        step: failure.step.to_string_lossy().into_owned(),
        errno: failure.errno,
        text: failure.text.to_string_lossy().into_owned(),
        kind: failure.kind,
    }
}

/// An event in the words of the engine; none for the answer to Hello, which nobody asked for here.
fn event_of(event: message::Event) -> Option<Event> {
    let exec = ExecId::from_bytes;
    Some(match event {
        message::Event::Status { .. } => return None,
        message::Event::Started { pid, at_ns } => Event::Started {
            pid,
            started_at_ns: at_ns,
        },
        message::Event::StartFailed(failure) => Event::StartFailed(failure_of(&failure)),
        message::Event::Exited(exit) => Event::Exited(exit_of(exit)),
        message::Event::ExecStarted { id, pid } => Event::ExecStarted { id: exec(id), pid },
        message::Event::ExecFailed { id, failure } => Event::ExecFailed {
            id: exec(id),
            failure: failure_of(&failure),
        },
        message::Event::ExecExited { id, exit } => Event::ExecExited {
            id: exec(id),
            exit: exit_of(exit),
        },
        message::Event::LogDropped { lines } => Event::LogDropped { lines },
        message::Event::Kept { .. } => Event::Kept,
        message::Event::LinksChanged { number, failure } => Event::LinksChanged {
            number,
            failure: failure.to_string_lossy().into_owned(),
        },
        message::Event::LogRotated => Event::LogRotated,
        message::Event::OutOfMemory => Event::OutOfMemory,
        message::Event::Refused { text } => Event::Refused {
            text: text.to_string_lossy().into_owned(),
        },
    })
}

impl AsFd for Shim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
