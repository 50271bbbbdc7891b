//! Standard streams of one process and the clients at them.
//!
//! ```text
//!  process ──stdout, stderr──▶ Stdio ──▶ log
//!     ▲                         │ ▲
//!     └──────────stdin──────────┘ └──▶ clients (sockets)
//! ```
//!
//! Nothing is lost for a client that reads slowly: while one has bytes waiting, the stream is not
//! read, so the process waits as it would for any slow reader. A client that is gone is forgotten.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;

use hull_os::process::PollFd;
use hull_os::{process, socket};
use hull_plan::plan::streams;
use hull_plan::process::{Process, Stdin};

use crate::log::Log;

/// Bytes read from a stream at once.
pub(crate) const READ_BYTES: usize = 32 << 10;
/// Bytes read from a client at once, and kept while standard input is full.
const STDIN_BYTES: usize = 16 << 10;
/// Docker's header of a framed piece.
const FRAME_HEADER_BYTES: usize = 8;

/// A stream that the process writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout = 0,
    Stderr = 1,
}

impl Stream {
    const ALL: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }

    fn bit(self) -> u32 {
        match self {
            Stream::Stdout => streams::STDOUT,
            Stream::Stderr => streams::STDERR,
        }
    }

    /// Number in Docker's header.
    fn number(self) -> u8 {
        self as u8 + 1
    }
}

/// The process's ends.
#[derive(Debug)]
pub(crate) struct ChildStreams {
    /// Standard input, output, error; with a terminal all are /dev/null until it is there.
    ends: [OwnedFd; 3],
}

impl ChildStreams {
    pub(crate) fn descriptors(&self) -> [RawFd; 3] {
        [
            self.ends[0].as_raw_fd(),
            self.ends[1].as_raw_fd(),
            self.ends[2].as_raw_fd(),
        ]
    }

    /// The ends themselves.
    pub(crate) fn into_ends(self) -> [OwnedFd; 3] {
        self.ends
    }

    /// Those that are pipes, and nobody else's.
    pub(crate) fn pipes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let is_pipe = |end: &&OwnedFd| {
            let file = end.try_clone().map(std::fs::File::from);
            let metadata = file.and_then(|file| file.metadata());
            metadata.is_ok_and(|metadata| FileTypeExt::is_fifo(&metadata.file_type()))
        };
        self.ends.iter().filter(is_pipe).map(AsFd::as_fd)
    }

    /// Makes them the standard streams of this process.
    pub(crate) fn place(&self) -> io::Result<()> {
        (0..)
            .zip(&self.ends)
            .try_for_each(|(to, end)| process::duplicate_to(end.as_fd(), to))
    }
}

/// Our ends of one process's streams, and its clients.
#[derive(Debug)]
pub(crate) struct Stdio {
    stdin: Option<OwnedFd>,
    stdin_kind: Stdin,
    /// Bytes of clients that the process has not taken yet.
    stdin_waiting: Vec<u8>,
    /// Close standard input as soon as nothing waits.
    stdin_closing: bool,
    outputs: [Option<OwnedFd>; 2],
    clients: Vec<Client>,
    has_terminal: bool,
    /// The terminal is still to come, so that there are no streams does not mean that they ended.
    is_waiting_for_terminal: bool,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    streams: u32,
    /// It may still send.
    sending: bool,
    /// It cannot be written any more.
    gone: bool,
    /// Bytes that it has not taken yet.
    waiting: Vec<u8>,
}

/// Makes the streams of a process; those of a terminal follow with [`Stdio::set_terminal`].
pub(crate) fn make(process: &Process<'_>) -> io::Result<(Stdio, ChildStreams)> {
    let mut stdio = Stdio {
        stdin: None,
        stdin_kind: process.stdin(),
        stdin_waiting: Vec::new(),
        stdin_closing: false,
        outputs: [None, None],
        clients: Vec::new(),
        has_terminal: process.terminal().is_some(),
        is_waiting_for_terminal: process.terminal().is_some(),
    };
    let null = || process::open(hull_os::mount::cwd(), c"/dev/null", libc::O_RDWR, 0);
    if stdio.has_terminal {
        return Ok((
            stdio,
            ChildStreams {
                ends: [null()?, null()?, null()?],
            },
        ));
    }
    let stdin = match stdio.stdin_kind {
        Stdin::Closed => null()?,
        Stdin::Open | Stdin::Once => {
            let (reader, writer) = process::pipe()?;
            process::set_nonblocking(writer.as_fd())?;
            stdio.stdin = Some(writer);
            reader
        }
    };
    let mut output = |stream: Stream| -> io::Result<OwnedFd> {
        let (reader, writer) = process::pipe()?;
        process::set_nonblocking(reader.as_fd())?;
        stdio.outputs[stream as usize] = Some(reader);
        Ok(writer)
    };
    let ends = [stdin, output(Stream::Stdout)?, output(Stream::Stderr)?];
    Ok((stdio, ChildStreams { ends }))
}

impl Stdio {
    /// Takes the ends that are read: somebody else reads them from now on.
    pub(crate) fn take_outputs(&mut self) -> Vec<OwnedFd> {
        self.outputs.iter_mut().filter_map(Option::take).collect()
    }

    /// Takes the master of the process's terminal.
    pub(crate) fn set_terminal(&mut self, master: OwnedFd) -> io::Result<()> {
        process::set_nonblocking(master.as_fd())?;
        self.stdin = Some(master.try_clone()?);
        self.outputs[Stream::Stdout as usize] = Some(master);
        self.is_waiting_for_terminal = false;
        // What was typed before the terminal was there.
        self.flush_stdin();
        Ok(())
    }

    /// Adds a client.
    pub(crate) fn attach(&mut self, socket: OwnedFd, streams: u32) -> io::Result<()> {
        process::set_nonblocking(socket.as_fd())?;
        let sending = streams & streams::STDIN != 0;
        self.clients.push(Client {
            socket,
            streams,
            sending,
            gone: false,
            waiting: Vec::new(),
        });
        Ok(())
    }

    /// Changes the size of the terminal.
    pub(crate) fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        let master = self.outputs[0].as_ref().filter(|_| self.has_terminal);
        terminal::resize(
            master.ok_or(io::ErrorKind::InvalidInput)?.as_fd(),
            (rows, cols),
        )
    }

    /// Closes standard input behind what waits.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin_closing = true;
        if self.stdin_waiting.is_empty() && !self.has_terminal {
            self.stdin = None;
        }
    }

    /// Whether both streams have ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.outputs.iter().all(Option::is_none) && !self.is_waiting_for_terminal
    }

    /// What to wait for: appended to `fds`. Output that is held up is left alone.
    pub(crate) fn interests(&self, fds: &mut Vec<PollFd>, held_up: bool) {
        let mut add = |fd: &OwnedFd, events: i16| {
            fds.push(PollFd::new(fd.as_fd(), events));
        };
        for stream in Stream::ALL {
            if let Some(output) = &self.outputs[stream as usize]
                && !held_up
                && !self.is_held(stream)
            {
                add(output, PollFd::READ);
            }
        }
        if let Some(stdin) = &self.stdin
            && !self.stdin_waiting.is_empty()
        {
            add(stdin, PollFd::WRITE);
        }
        for client in &self.clients {
            let mut events = 0;
            if client.sending && self.stdin_waiting.is_empty() {
                events |= PollFd::READ;
            }
            if !client.waiting.is_empty() {
                events |= PollFd::WRITE;
            }
            // One that sends while standard input is full is left alone: its hanging up must not
            // be seen before its last bytes.
            if events != 0 || !client.sending {
                add(&client.socket, events);
            }
        }
    }

    /// Whether a client of the stream has bytes waiting.
    fn is_held(&self, stream: Stream) -> bool {
        let wants = |client: &Client| client.streams & stream.bit() != 0;
        self.clients
            .iter()
            .any(|client| wants(client) && !client.waiting.is_empty())
    }

    /// Does what can be done now. `fds` are those of [`Stdio::interests`], after the wait.
    pub(crate) fn turn(&mut self, fds: &[PollFd], buffer: &mut [u8], mut log: Option<&mut Log>) {
        let ready = |fd: RawFd| {
            fds.iter()
                .find(|entry| entry.descriptor() == fd)
                .map_or(0, PollFd::ready)
        };
        for client in &mut self.clients {
            let events = ready(client.socket.as_raw_fd());
            if events & PollFd::WRITE != 0 {
                client.flush();
            }
            if events & PollFd::HANG_UP != 0 && events & PollFd::READ == 0 {
                client.gone = true;
            }
        }
        let events = self.stdin.as_ref().map_or(0, |fd| ready(fd.as_raw_fd()));
        if events != 0 {
            self.flush_stdin();
            // A terminal that every process has closed takes no more, but says no error either:
            // its hanging up would be told at once by each wait to come.
            if events & PollFd::HANG_UP != 0 && events & PollFd::WRITE == 0 {
                self.stdin = None;
                self.stdin_waiting = Vec::new();
            }
        }
        self.read_clients(&ready, buffer);
        for stream in Stream::ALL {
            let Some(output) = &self.outputs[stream as usize] else {
                continue;
            };
            if ready(output.as_raw_fd()) != 0 {
                self.read_output(stream, buffer, log.as_deref_mut());
            }
        }
        self.forget_gone();
    }

    /// Reads a stream once; says whether there was anything.
    fn read_output(
        &mut self,
        stream: Stream,
        buffer: &mut [u8],
        mut log: Option<&mut Log>,
    ) -> bool {
        let Some(output) = &self.outputs[stream as usize] else {
            return false;
        };
        match process::read(output.as_fd(), buffer) {
            Ok(0) => {}
            Ok(length) => {
                let bytes = &buffer[..length];
                if let Some(log) = &mut log {
                    log.write(stream, bytes);
                }
                for client in &mut self.clients {
                    client.send(stream, bytes);
                }
                return true;
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return false;
            }
            // A terminal whose last user is gone says EIO.
            Err(_) => {}
        }
        self.outputs[stream as usize] = None;
        if let Some(log) = log {
            log.end(stream);
        }
        false
    }

    /// Takes all that the process has written, however slow its clients are: a pipe holds no more
    /// than the kernel's bound.
    pub(crate) fn drain(&mut self, buffer: &mut [u8], mut log: Option<&mut Log>) {
        for stream in Stream::ALL {
            while self.read_output(stream, buffer, log.as_deref_mut()) {}
        }
        self.forget_gone();
    }

    /// Puts what clients still have to get into the sockets' own buffers, as far as these may grow.
    pub(crate) fn flush_to_sockets(&mut self) {
        for client in self
            .clients
            .iter_mut()
            .filter(|client| !client.waiting.is_empty())
        {
            // The kernel counts more than the bytes themselves.
            let _ = socket::set_send_buffer(client.socket.as_fd(), 4 * client.waiting.len());
            client.flush();
        }
    }

    /// Whether no client has bytes waiting.
    pub(crate) fn is_flushed(&self) -> bool {
        self.clients.iter().all(|client| client.waiting.is_empty())
    }

    fn read_clients(&mut self, ready: &impl Fn(RawFd) -> i16, buffer: &mut [u8]) {
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            let events = ready(client.socket.as_raw_fd());
            if !client.sending || events & (PollFd::READ | PollFd::HANG_UP) == 0 {
                continue;
            }
            if !self.stdin_waiting.is_empty() {
                break;
            }
            let room = buffer.len().min(STDIN_BYTES);
            match process::read(client.socket.as_fd(), &mut buffer[..room]) {
                Ok(length) if length > 0 => {
                    self.stdin_waiting.extend_from_slice(&buffer[..length]);
                    self.flush_stdin();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => {
                    client.sending = false;
                    if self.stdin_kind == Stdin::Once {
                        self.close_stdin();
                    }
                }
            }
        }
    }

    fn flush_stdin(&mut self) {
        if self.is_waiting_for_terminal {
            return;
        }
        let Some(stdin) = &self.stdin else {
            self.stdin_waiting = Vec::new();
            return;
        };
        if self.stdin_waiting.is_empty() {
            return;
        }
        match process::write(stdin.as_fd(), &self.stdin_waiting) {
            Ok(written) => {
                self.stdin_waiting.drain(..written);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The process does not read any more.
            Err(_) => {
                self.stdin = None;
                self.stdin_waiting = Vec::new();
            }
        }
        if self.stdin_waiting.is_empty() {
            self.stdin_waiting = Vec::new();
            if self.stdin_closing && !self.has_terminal {
                self.stdin = None;
            }
        }
    }

    /// Drops clients that hung up. The others stay to the end of the process, not only to that of
    /// its output: when a client sees the end, the exit has been told.
    fn forget_gone(&mut self) {
        let before = self.clients.len();
        let mut stdin_left = false;
        self.clients.retain(|client| {
            stdin_left |= client.gone && client.sending;
            !client.gone
        });
        if before != self.clients.len() && stdin_left && self.stdin_kind == Stdin::Once {
            self.close_stdin();
        }
    }
}

impl Client {
    fn send(&mut self, stream: Stream, bytes: &[u8]) {
        if self.streams & stream.bit() == 0 || self.gone {
            return;
        }
        if self.streams & streams::FRAMED != 0 {
            let mut header = [0u8; FRAME_HEADER_BYTES];
            header[0] = stream.number();
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            header[4..].copy_from_slice(&length.to_be_bytes());
            self.waiting.extend_from_slice(&header);
        }
        if !self.waiting.is_empty() {
            self.waiting.extend_from_slice(bytes);
            return self.flush();
        }
        // Most often all of it goes at once, without a copy.
        match socket::send(self.socket.as_fd(), bytes, &[]) {
            Ok(sent) => self.waiting.extend_from_slice(&bytes[sent..]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.waiting.extend_from_slice(bytes);
            }
            Err(_) => self.gone = true,
        }
    }

    fn flush(&mut self) {
        match socket::send(self.socket.as_fd(), &self.waiting, &[]) {
            Ok(sent) => {
                self.waiting.drain(..sent);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.gone = true,
        }
        if self.waiting.is_empty() || self.gone {
            self.waiting = Vec::new();
        }
    }
}

/// Terminals of the container's own devpts.
pub(crate) mod terminal {
    use super::{AsFd, AsRawFd, BorrowedFd, OwnedFd, io, process, socket};
    use crate::inside::report;
    use hull_os::mount;
    use hull_os::pty::{Pty, WindowSize, set_window_size};

    /// Opens a terminal in `/dev/pts` of this root, sends its master to the shim and returns the
    /// slave.
    pub(crate) fn open(sync: BorrowedFd<'_>, size: (u16, u16)) -> io::Result<OwnedFd> {
        let devpts = mount::open_directory(c"/dev/pts")?;
        let Pty { master, peer, .. } = Pty::open(devpts.as_fd())?;
        if size != (0, 0) {
            resize(master.as_fd(), size)?;
        }
        socket::send(sync, &[report::TERMINAL], &[master.as_fd()])?;
        Ok(peer)
    }

    pub(crate) fn resize(terminal: BorrowedFd<'_>, size: (u16, u16)) -> io::Result<()> {
        let (rows, columns) = size;
        set_window_size(terminal, WindowSize { rows, columns })
    }

    /// Shows the terminal as `/dev/console`.
    pub(crate) fn show_as_console(slave: BorrowedFd<'_>) -> io::Result<()> {
        let root = mount::open_directory(c"/")?;
        let target = crate::root::ordinary_target(root.as_fd(), "dev/console", false)?;
        let clone = mount::clone_tree(slave, c"", false)?;
        mount::attach(clone.as_fd(), target.as_fd())
    }

    /// Makes the terminal the controlling one of its session and its standard streams.
    pub(crate) fn take(slave: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: integers only.
        if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        (0..3).try_for_each(|to| process::duplicate_to(slave, to))
    }
}
