//! Messages between daemon and shim: one record each, on a socket that keeps messages apart.
//!
//! The first message of a connection is [`Request::Hello`], answered by [`Event::Status`]; the
//! connection that a shim was born with needs none. Events go to every connection. A request that
//! is not understood is answered by [`Event::Refused`] and changes nothing.

use std::ffi::{CStr, CString};

use crate::FailureKind;
use crate::codec::{Malformed, Reader, Writer};

/// Bytes of one message.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Execs of one sandbox at the same time; bounds the status message too.
pub const EXECS_MAX: usize = 1000;
/// Key of a kept socket that is a name server's, for datagrams.
pub const KEY_RESOLVER_UDP: u32 = u32::MAX;
/// Likewise for streams.
pub const KEY_RESOLVER_TCP: u32 = u32::MAX - 1;
/// Kept sockets of one message; with room for descriptors of other kinds.
pub const KEYS_MAX: usize = 200;
/// Bytes of the text of a failure; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 4096;

/// Which process a request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The container's first process.
    Init,
    /// An exec.
    Exec([u8; 32]),
}

/// What a daemon asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Who speaks; answered by the status.
    Hello {
        /// [`crate::VERSION`] of the daemon.
        version: u32,
    },
    /// Start an added process. With the descriptors of its sealed process steps and of each client.
    Exec {
        /// What it is called.
        id: [u8; 32],
        /// Bits of [`crate::plan::streams`] of each client.
        clients: Vec<u32>,
    },
    /// Add a client. With its descriptor.
    Attach {
        /// At which process.
        target: Target,
        /// Bits of [`crate::plan::streams`].
        streams: u32,
    },
    /// Change the size of a terminal.
    Resize {
        /// Of which process.
        target: Target,
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Close standard input.
    CloseStdin {
        /// Of which process.
        target: Target,
    },
    /// Keep more sockets open. With their descriptors.
    Keep {
        /// What the daemon calls each.
        keys: Vec<u32>,
    },
    /// Close sockets that were kept open.
    Release {
        /// Which.
        keys: Vec<u32>,
    },
    /// Carry out requests in the container's network namespace; answered by [`Event::LinksChanged`].
    ChangeLinks {
        /// Comes back in the answer.
        number: u32,
        /// rtnetlink requests, ready-made.
        requests: Vec<u8>,
    },
    /// Open the sockets of a name server inside, as [`crate::Step::Resolver`]; they are kept, and
    /// told by [`Event::Kept`].
    OpenResolver {
        /// The port of both.
        port: u16,
        /// Requests of nf_tables, ready-made.
        rules: Vec<u8>,
    },
    /// Send a signal to an exec.
    SignalExec {
        /// Which exec.
        id: [u8; 32],
        /// The signal.
        signal: i32,
    },
    /// Serve the files of a guest. With the stream that requests of FUSE come on.
    Files,
    /// Stop or wake all processes of a guest, which itself goes on.
    Freeze {
        /// Stop.
        frozen: bool,
    },
    /// Change limits of a guest; answered by [`Event::LinksChanged`].
    Limit {
        /// Comes back in the answer.
        number: u32,
        /// In the form of `hull_os::cgroup`; what is zero stays.
        limits: Vec<u8>,
    },
    /// Write a small file of a guest anew, that it was given at its start.
    WriteFile {
        /// Its name.
        name: CString,
        /// What is in it.
        contents: Vec<u8>,
    },
    /// Send a signal to the first process of a guest, which has no descriptor outside.
    Signal {
        /// The signal.
        signal: i32,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// Whether the kernel killed something in the cgroup for lack of memory.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch.
    pub at_ns: i64,
}

/// Why a process could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    /// The failed step.
    pub step: CString,
    /// The system's error number; 0: none.
    pub errno: i32,
    /// The text for a client.
    pub text: CString,
    /// What exit codes 126 and 127 depend on.
    pub kind: FailureKind,
}

/// What a shim says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The answer to Hello; followed by an `ExecStarted` for each running exec, in the same message.
    /// With the descriptor of the first process where it runs.
    Status {
        /// [`crate::VERSION`] of the shim.
        version: u32,
        /// Process id and start of the first process; 0 and 0: it is still starting.
        started: (u32, i64),
        /// How the first process ended, if it has.
        exit: Option<Exit>,
        /// Its first process is a machine, whose guest takes signals by [`Request::Signal`].
        has_guest: bool,
    },
    /// The first process runs. With its descriptor.
    Started {
        /// Its process id.
        pid: u32,
        /// Nanoseconds since the epoch.
        at_ns: i64,
    },
    /// The first process could not be started.
    StartFailed(StartFailure),
    /// The first process ended.
    Exited(Exit),
    /// An exec runs.
    ExecStarted {
        /// Which exec.
        id: [u8; 32],
        /// Its process id.
        pid: u32,
    },
    /// An exec could not be started.
    ExecFailed {
        /// Which exec.
        id: [u8; 32],
        /// Why.
        failure: StartFailure,
    },
    /// An exec ended.
    ExecExited {
        /// Which exec.
        id: [u8; 32],
        /// How.
        exit: Exit,
    },
    /// Lines that could not be written to the log since the last such event.
    LogDropped {
        /// How many.
        lines: u64,
    },
    /// Sockets that are kept open: all of them after [`Event::Status`], as many messages as that
    /// takes. With their descriptors.
    Kept {
        /// What the daemon calls each.
        keys: Vec<u32>,
    },
    /// Requests in the container's network namespace were carried out, or limits of a guest changed, or
    /// not.
    LinksChanged {
        /// As in the request.
        number: u32,
        /// Why not; empty: they were.
        failure: CString,
    },
    /// A file of the log is full and has a number behind its name now.
    LogRotated,
    /// The kernel killed something in the cgroup for lack of memory; the container may go on.
    OutOfMemory,
    /// A request was not understood.
    Refused {
        /// Why.
        text: CString,
    },
}

mod tag {
    pub(super) const HELLO: u16 = 1;
    pub(super) const EXEC: u16 = 2;
    pub(super) const ATTACH: u16 = 3;
    pub(super) const RESIZE: u16 = 4;
    pub(super) const CLOSE_STDIN: u16 = 5;
    pub(super) const SIGNAL_EXEC: u16 = 6;
    pub(super) const KEEP: u16 = 7;
    pub(super) const RELEASE: u16 = 8;
    pub(super) const CHANGE_LINKS: u16 = 9;
    pub(super) const OPEN_RESOLVER: u16 = 10;
    pub(super) const SIGNAL: u16 = 11;
    pub(super) const FILES: u16 = 12;
    pub(super) const FREEZE: u16 = 13;
    pub(super) const LIMIT: u16 = 14;
    pub(super) const WRITE_FILE: u16 = 15;
    pub(super) const STATUS: u16 = 101;
    pub(super) const STARTED: u16 = 102;
    pub(super) const START_FAILED: u16 = 103;
    pub(super) const EXITED: u16 = 104;
    pub(super) const EXEC_STARTED: u16 = 105;
    pub(super) const EXEC_FAILED: u16 = 106;
    pub(super) const EXEC_EXITED: u16 = 107;
    pub(super) const LOG_DROPPED: u16 = 108;
    pub(super) const REFUSED: u16 = 109;
    pub(super) const KEPT: u16 = 110;
    pub(super) const LINKS_CHANGED: u16 = 111;
    pub(super) const LOG_ROTATED: u16 = 112;
    pub(super) const OUT_OF_MEMORY: u16 = 113;
}

/// Makes a text of a message: without a NUL inside, not too long.
pub fn text(words: &str) -> CString {
    let mut end = words.len().min(TEXT_BYTES_MAX);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    CString::new(words[..end].replace('\0', "?")).unwrap_or_default()
}

fn put_keys(w: &mut Writer, keys: &[u32]) {
    w.u32(u32::try_from(keys.len()).unwrap_or(u32::MAX));
    keys.iter().for_each(|&key| w.u32(key));
}

fn keys(r: &mut Reader<'_>) -> Result<Vec<u32>, Malformed> {
    let count = r.u32()? as usize;
    if count > KEYS_MAX {
        return Err(Malformed { what: "keys" });
    }
    (0..count).map(|_| r.u32()).collect()
}

impl Target {
    fn encode(self, w: &mut Writer) {
        match self {
            Target::Init => {
                w.bool(false);
                w.id(&[0; 32]);
            }
            Target::Exec(id) => {
                w.bool(true);
                w.id(&id);
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Target, Malformed> {
        let (is_exec, id) = (r.bool()?, r.id()?);
        Ok(if is_exec {
            Target::Exec(id)
        } else {
            Target::Init
        })
    }
}

impl Exit {
    fn encode(self, w: &mut Writer) {
        w.i32(self.code);
        w.bool(self.oom_killed);
        w.i64(self.at_ns);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Exit, Malformed> {
        Ok(Exit {
            code: r.i32()?,
            oom_killed: r.bool()?,
            at_ns: r.i64()?,
        })
    }
}

impl StartFailure {
    fn encode(&self, w: &mut Writer) {
        w.text(&self.step);
        w.i32(self.errno);
        w.text(&self.text);
        w.u32(match self.kind {
            FailureKind::Other => 0,
            FailureKind::NotFound => 1,
            FailureKind::NotExecutable => 2,
        });
    }

    fn decode(r: &mut Reader<'_>) -> Result<StartFailure, Malformed> {
        let own = CStr::to_owned;
        Ok(StartFailure {
            step: own(r.text()?),
            errno: r.i32()?,
            text: own(r.text()?),
            kind: match r.u32()? {
                1 => FailureKind::NotFound,
                2 => FailureKind::NotExecutable,
                _ => FailureKind::Other,
            },
        })
    }
}

impl Request {
    /// The process that has to be there for it.
    pub fn target(&self) -> Option<Target> {
        match self {
            Request::Hello { .. }
            | Request::Exec { .. }
            | Request::ChangeLinks { .. }
            | Request::Keep { .. }
            | Request::Release { .. }
            | Request::OpenResolver { .. }
            | Request::Files
            | Request::Freeze { .. }
            | Request::Limit { .. }
            | Request::WriteFile { .. }
            | Request::Signal { .. } => None,
            Request::Attach { target, .. }
            | Request::Resize { target, .. }
            | Request::CloseStdin { target } => Some(*target),
            Request::SignalExec { id, .. } => Some(Target::Exec(*id)),
        }
    }

    /// The bytes of a message.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Request::Hello { version } => w.record(tag::HELLO, |w| w.u32(*version)),
            Request::Exec { id, clients } => w.record(tag::EXEC, |w| {
                w.id(id);
                w.u32(u32::try_from(clients.len()).unwrap_or(u32::MAX));
                clients.iter().for_each(|&streams| w.u32(streams));
            }),
            Request::Attach { target, streams } => w.record(tag::ATTACH, |w| {
                target.encode(w);
                w.u32(*streams);
            }),
            Request::Resize { target, rows, cols } => w.record(tag::RESIZE, |w| {
                target.encode(w);
                w.u32((*rows).into());
                w.u32((*cols).into());
            }),
            Request::CloseStdin { target } => w.record(tag::CLOSE_STDIN, |w| target.encode(w)),
            Request::Keep { keys } => w.record(tag::KEEP, |w| put_keys(w, keys)),
            Request::Release { keys } => w.record(tag::RELEASE, |w| put_keys(w, keys)),
            Request::ChangeLinks { number, requests } => w.record(tag::CHANGE_LINKS, |w| {
                w.u32(*number);
                w.blob(requests);
            }),
            Request::OpenResolver { port, rules } => w.record(tag::OPEN_RESOLVER, |w| {
                w.u32((*port).into());
                w.blob(rules);
            }),
            Request::Files => w.record(tag::FILES, |_| ()),
            Request::Freeze { frozen } => w.record(tag::FREEZE, |w| w.bool(*frozen)),
            Request::Limit { number, limits } => w.record(tag::LIMIT, |w| {
                w.u32(*number);
                w.blob(limits);
            }),
            Request::WriteFile { name, contents } => w.record(tag::WRITE_FILE, |w| {
                w.text(name);
                w.blob(contents);
            }),
            Request::Signal { signal } => w.record(tag::SIGNAL, |w| w.i32(*signal)),
            Request::SignalExec { id, signal } => w.record(tag::SIGNAL_EXEC, |w| {
                w.id(id);
                w.i32(*signal);
            }),
        }
        w.finish()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When it is no request that we know.
    pub fn decode(bytes: &[u8]) -> Result<Request, Malformed> {
        const WHAT: &str = "request";
        let malformed = Malformed { what: WHAT };
        let short = |value: u32| u16::try_from(value).map_err(|_| malformed);
        let (tag, mut r) = Reader::new(bytes, WHAT).record()?.ok_or(malformed)?;
        Ok(match tag {
            tag::HELLO => Request::Hello { version: r.u32()? },
            tag::EXEC => {
                let (id, count) = (r.id()?, r.u32()? as usize);
                if count > hull_os::socket::DESCRIPTORS_MAX {
                    return Err(malformed);
                }
                let clients = (0..count).map(|_| r.u32()).collect::<Result<_, _>>()?;
                Request::Exec { id, clients }
            }
            tag::ATTACH => Request::Attach {
                target: Target::decode(&mut r)?,
                streams: r.u32()?,
            },
            tag::RESIZE => Request::Resize {
                target: Target::decode(&mut r)?,
                rows: short(r.u32()?)?,
                cols: short(r.u32()?)?,
            },
            tag::CLOSE_STDIN => Request::CloseStdin {
                target: Target::decode(&mut r)?,
            },
            tag::CHANGE_LINKS => Request::ChangeLinks {
                number: r.u32()?,
                requests: r.blob()?.to_vec(),
            },
            tag::FILES => Request::Files,
            tag::FREEZE => Request::Freeze { frozen: r.bool()? },
            tag::LIMIT => Request::Limit {
                number: r.u32()?,
                limits: r.blob()?.to_vec(),
            },
            tag::WRITE_FILE => Request::WriteFile {
                name: r.text()?.to_owned(),
                contents: r.blob()?.to_vec(),
            },
            tag::SIGNAL => Request::Signal { signal: r.i32()? },
            tag::SIGNAL_EXEC => Request::SignalExec {
                id: r.id()?,
                signal: r.i32()?,
            },
            tag::OPEN_RESOLVER => Request::OpenResolver {
                port: short(r.u32()?)?,
                rules: r.blob()?.to_vec(),
            },
            tag::KEEP => Request::Keep {
                keys: keys(&mut r)?,
            },
            tag::RELEASE => Request::Release {
                keys: keys(&mut r)?,
            },
            _ => return Err(malformed),
        })
    }
}

impl Event {
    /// Writes the event, behind others where the message has several.
    pub fn encode(&self, w: &mut Writer) {
        match self {
            Event::Status {
                version,
                started,
                exit,
                has_guest,
            } => w.record(tag::STATUS, |w| {
                w.u32(*version);
                w.u32(started.0);
                w.i64(started.1);
                w.bool(exit.is_some());
                if let Some(exit) = exit {
                    exit.encode(w);
                }
                w.bool(*has_guest);
            }),
            Event::Started { pid, at_ns } => w.record(tag::STARTED, |w| {
                w.u32(*pid);
                w.i64(*at_ns);
            }),
            Event::StartFailed(failure) => w.record(tag::START_FAILED, |w| failure.encode(w)),
            Event::Exited(exit) => w.record(tag::EXITED, |w| exit.encode(w)),
            Event::ExecStarted { id, pid } => w.record(tag::EXEC_STARTED, |w| {
                w.id(id);
                w.u32(*pid);
            }),
            Event::ExecFailed { id, failure } => w.record(tag::EXEC_FAILED, |w| {
                w.id(id);
                failure.encode(w);
            }),
            Event::ExecExited { id, exit } => w.record(tag::EXEC_EXITED, |w| {
                w.id(id);
                exit.encode(w);
            }),
            Event::LogDropped { lines } => w.record(tag::LOG_DROPPED, |w| w.u64(*lines)),
            Event::LogRotated => w.record(tag::LOG_ROTATED, |_| ()),
            Event::OutOfMemory => w.record(tag::OUT_OF_MEMORY, |_| ()),
            Event::Refused { text } => w.record(tag::REFUSED, |w| w.text(text)),
            Event::Kept { keys } => w.record(tag::KEPT, |w| put_keys(w, keys)),
            Event::LinksChanged { number, failure } => w.record(tag::LINKS_CHANGED, |w| {
                w.u32(*number);
                w.text(failure);
            }),
        }
    }

    /// Reads all events of a message.
    ///
    /// # Errors
    /// When one is not well-formed. Events that we do not know are left out: a newer shim may say
    /// more than we understand.
    pub fn decode_all(bytes: &[u8]) -> Result<Vec<Event>, Malformed> {
        let mut records = Reader::new(bytes, "event");
        let mut events = Vec::new();
        while let Some((tag, mut fields)) = records.record()? {
            events.extend(Event::decode(tag, &mut fields)?);
        }
        Ok(events)
    }

    fn decode(tag: u16, r: &mut Reader<'_>) -> Result<Option<Event>, Malformed> {
        Ok(Some(match tag {
            tag::STATUS => {
                let (version, started) = (r.u32()?, (r.u32()?, r.i64()?));
                let exit = if r.bool()? {
                    Some(Exit::decode(r)?)
                } else {
                    None
                };
                Event::Status {
                    version,
                    started,
                    exit,
                    // Shims from before there were machines do not say.
                    has_guest: r.bool().unwrap_or(false),
                }
            }
            tag::STARTED => Event::Started {
                pid: r.u32()?,
                at_ns: r.i64()?,
            },
            tag::START_FAILED => Event::StartFailed(StartFailure::decode(r)?),
            tag::EXITED => Event::Exited(Exit::decode(r)?),
            tag::EXEC_STARTED => Event::ExecStarted {
                id: r.id()?,
                pid: r.u32()?,
            },
            tag::EXEC_FAILED => Event::ExecFailed {
                id: r.id()?,
                failure: StartFailure::decode(r)?,
            },
            tag::EXEC_EXITED => Event::ExecExited {
                id: r.id()?,
                exit: Exit::decode(r)?,
            },
            tag::LOG_DROPPED => Event::LogDropped { lines: r.u64()? },
            tag::KEPT => Event::Kept { keys: keys(r)? },
            tag::LOG_ROTATED => Event::LogRotated,
            tag::OUT_OF_MEMORY => Event::OutOfMemory,
            tag::REFUSED => Event::Refused {
                text: r.text()?.to_owned(),
            },
            tag::LINKS_CHANGED => Event::LinksChanged {
                number: r.u32()?,
                failure: r.text()?.to_owned(),
            },
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back_as_they_were() {
        let id = [7; 32];
        for request in [
            Request::Hello { version: 1 },
            Request::Exec {
                id,
                clients: vec![1, 14],
            },
            Request::Attach {
                target: Target::Init,
                streams: 6,
            },
            Request::Resize {
                target: Target::Exec(id),
                rows: 24,
                cols: 80,
            },
            Request::CloseStdin {
                target: Target::Init,
            },
            Request::SignalExec { id, signal: 15 },
            Request::Signal { signal: 10 },
            Request::Files,
            Request::Freeze { frozen: true },
            Request::Limit {
                number: 4,
                limits: vec![1],
            },
            Request::WriteFile {
                name: text("hosts"),
                contents: vec![2],
            },
            Request::Keep { keys: vec![1, 2] },
            Request::Release { keys: vec![3] },
            Request::ChangeLinks {
                number: 3,
                requests: vec![1, 2, 3, 4],
            },
            Request::OpenResolver {
                port: 5353,
                rules: vec![1, 2],
            },
        ] {
            let bytes = request.encode();
            assert_eq!(Request::decode(&bytes), Ok(request));
            for length in 0..bytes.len() {
                assert!(Request::decode(&bytes[..length]).is_err());
            }
        }
        assert!(Request::decode(&[255; 40]).is_err());
    }

    #[test]
    fn events_come_back_as_they_were_and_unknown_ones_are_left_out() {
        let id = [9; 32];
        let exit = Exit {
            code: 137,
            oom_killed: true,
            at_ns: 5,
        };
        let failure = StartFailure {
            step: text("exec"),
            errno: 2,
            text: text("not\0there"),
            kind: FailureKind::NotFound,
        };
        let events = vec![
            Event::Status {
                version: 1,
                started: (7, 8),
                exit: Some(exit),
                has_guest: true,
            },
            Event::Started { pid: 1, at_ns: 2 },
            Event::StartFailed(failure.clone()),
            Event::Exited(exit),
            Event::ExecStarted { id, pid: 3 },
            Event::ExecFailed { id, failure },
            Event::ExecExited { id, exit },
            Event::LogDropped { lines: 4 },
            Event::LogRotated,
            Event::OutOfMemory,
            Event::Refused { text: text("why") },
            Event::Kept { keys: vec![5, 6] },
            Event::LinksChanged {
                number: 3,
                failure: text(""),
            },
        ];
        let mut w = Writer::default();
        w.record(999, |w| w.u32(1));
        events.iter().for_each(|event| event.encode(&mut w));
        assert_eq!(Event::decode_all(&w.finish()), Ok(events));
    }

    #[test]
    fn every_message_of_the_corpus_comes_back_as_it_was() {
        let checkout = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        if !checkout.exists() {
            println!("skip every_message_of_the_corpus_comes_back_as_it_was: no checkout here");
            return;
        }
        let corpus = checkout.join("../../fuzz/corpus/messages");
        let mut replayed = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            for length in 0..=bytes.len() {
                let part = &bytes[..length];
                if let Ok(request) = Request::decode(part) {
                    assert_eq!(Request::decode(&request.encode()), Ok(request));
                }
                if let Ok(events) = Event::decode_all(part) {
                    let mut writer = Writer::default();
                    events.iter().for_each(|event| event.encode(&mut writer));
                    assert_eq!(Event::decode_all(&writer.finish()), Ok(events));
                }
                if let Ok(plan) = crate::Plan::parse(part) {
                    plan.steps().for_each(drop);
                }
            }
            replayed += 1;
        }
        assert!(replayed > 0, "the corpus is empty");
    }
}
