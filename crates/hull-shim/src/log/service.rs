//! A log service of the host: the systemd journal or a syslog.
//!
//! The shim sends by itself, so a daemon that is killed costs no line. What the service does not
//! take at once waits here; when more waits than a bound, the container's output is not read, or,
//! with `mode=non-blocking`, new lines are dropped. A service that went away is looked for again;
//! lines of the time between are dropped, as Docker's drivers do.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use hull_os::namespace::{self, Kinds};
use hull_os::{process, socket};
use hull_plan::plan::{self, LogForm};

use super::Line;
use crate::stdio::Stream;

/// Bytes that may wait before the container's output is not read any more.
const WAITING_BYTES_MAX: usize = 64 << 10;
/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// How long a service that went away is left alone before it is looked for again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Severities of syslog, which the journal has too.
const SEVERITY_ERROR: u32 = 3;
const SEVERITY_INFORMATION: u32 = 6;

/// The connection and what waits for it.
#[derive(Debug)]
pub(super) struct Service {
    address: Vec<u8>,
    datagrams: bool,
    form: LogForm,
    facility: u32,
    host: String,
    tag: String,
    fields: Vec<u8>,
    /// Bytes that may wait; none: the container waits instead.
    buffer_max: Option<usize>,
    /// The network namespace of the host, where an address of the internet means something.
    home: Option<OwnedFd>,
    socket: Option<OwnedFd>,
    retry_at: Instant,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    /// Bytes of the first one that are sent already, on a stream.
    sent: usize,
}

impl Service {
    pub(super) fn connect(service: &plan::LogService<'_>) -> io::Result<Service> {
        let home = match socket::is_unix_address(service.address) {
            true => None,
            false => Some(namespace::open_own("net")?),
        };
        let buffer_max = usize::try_from(service.buffer_max).unwrap_or(usize::MAX);
        let mut service = Service {
            address: service.address.to_vec(),
            datagrams: service.datagrams,
            form: service.form,
            facility: service.facility,
            host: crate::shown(service.host).into_owned(),
            tag: crate::shown(service.tag).into_owned(),
            fields: service.fields.to_vec(),
            buffer_max: (buffer_max > 0).then_some(buffer_max),
            home,
            socket: None,
            retry_at: Instant::now(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sent: 0,
        };
        service.reconnect()?;
        Ok(service)
    }

    /// The socket, where something waits for it.
    pub(super) fn behind(&self) -> Option<&OwnedFd> {
        self.socket.as_ref().filter(|_| !self.waiting.is_empty())
    }

    pub(super) fn holds_up(&self) -> bool {
        self.buffer_max.is_none() && self.waiting_bytes > WAITING_BYTES_MAX
    }

    /// Takes a line; returns how many were dropped.
    pub(super) fn line(&mut self, line: Line<'_>) -> u64 {
        let message = self.message(line);
        let mut dropped = 0;
        if self.has_no_room_for(&message) {
            dropped += self.flush();
            if self.has_no_room_for(&message) {
                return dropped + 1;
            }
        }
        self.waiting_bytes += message.len();
        self.waiting.push_back(message);
        if self.waiting_bytes > WAITING_BYTES_MAX {
            dropped += self.flush();
        }
        dropped
    }

    /// One that is larger than the whole buffer still goes, alone.
    fn has_no_room_for(&self, message: &[u8]) -> bool {
        let full = |max| self.waiting_bytes + message.len() > max;
        !self.waiting.is_empty() && self.buffer_max.is_some_and(full)
    }

    /// Sends what is taken now; returns how many lines were dropped.
    pub(super) fn flush(&mut self) -> u64 {
        // A service that was started anew is found at the second try.
        let mut tries = 2;
        while let Some(message) = self.waiting.front() {
            let Some(socket) = &self.socket else {
                if tries == 0 || Instant::now() < self.retry_at || self.reconnect().is_err() {
                    return self.drop_waiting();
                }
                continue;
            };
            match self.send(socket, &message[self.sent..]) {
                Ok(sent) if !self.datagrams && self.sent + sent < message.len() => {
                    self.sent += sent;
                }
                Ok(_) => {
                    self.waiting_bytes -= message.len();
                    self.waiting.pop_front();
                    self.sent = 0;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    tries -= 1;
                    self.socket = None;
                    // The whole message again: half of one means nothing.
                    self.sent = 0;
                    self.retry_at = Instant::now();
                }
            }
        }
        self.waiting.shrink_to(0);
        0
    }

    /// Gives up what waits; returns how many lines that were.
    pub(super) fn drop_waiting(&mut self) -> u64 {
        if Instant::now() >= self.retry_at {
            self.retry_at = Instant::now() + RETRY_PAUSE;
        }
        let dropped = self.waiting.len() as u64;
        self.waiting = VecDeque::new();
        (self.waiting_bytes, self.sent) = (0, 0);
        dropped
    }

    fn send(&self, socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
        match socket::send(socket.as_fd(), bytes, &[]) {
            // Larger than a message may be: the journal takes it as a file in memory.
            Err(error)
                if self.form == LogForm::Journal
                    && error.raw_os_error() == Some(libc::EMSGSIZE) =>
            {
                let file = process::sealed_copy(c"journal", bytes, false)?;
                socket::send(socket.as_fd(), &[], &[file.as_fd()])
            }
            result => result,
        }
    }

    fn reconnect(&mut self) -> io::Result<()> {
        let connect = || socket::connect_to(&self.address, self.datagrams, CONNECT_PATIENCE);
        let socket = match &self.home {
            None => connect(),
            Some(home) => {
                // We live in the container's network by then.
                let own = namespace::open_own("net")?;
                namespace::join(home.as_fd(), Kinds::NETWORK)?;
                let connected = connect();
                namespace::join(own.as_fd(), Kinds::NETWORK)?;
                connected
            }
        };
        self.socket = Some(socket?);
        Ok(())
    }

    fn message(&self, line: Line<'_>) -> Vec<u8> {
        let severity = match line.stream {
            Stream::Stdout => SEVERITY_INFORMATION,
            Stream::Stderr => SEVERITY_ERROR,
        };
        let text = line.bytes.strip_suffix(b"\n").unwrap_or(line.bytes);
        if self.form == LogForm::Journal {
            let is_part = text.len() == line.bytes.len();
            return journal_entry(&self.fields, severity, text, is_part);
        }
        let now = LocalTime::now();
        let (priority, pid) = (self.facility | severity, std::process::id());
        let Service { host, tag, .. } = self;
        let head = match self.form {
            LogForm::SyslogUnix => format!("<{priority}>{} {tag}[{pid}]: ", now.stamp()),
            LogForm::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", now.stamp()),
            LogForm::Rfc5424 => format!(
                "<{priority}>1 {} {host} {tag} {pid} {tag} - ",
                now.rfc3339(false)
            ),
            LogForm::Rfc5424Micro | LogForm::Journal => format!(
                "<{priority}>1 {} {host} {tag} {pid} {tag} - ",
                now.rfc3339(true)
            ),
        };
        [head.as_bytes(), text, b"\n"].concat()
    }
}

/// An entry in the journal's own form: `NAME=value`, or the length before a value with line ends.
fn journal_entry(fields: &[u8], severity: u32, text: &[u8], is_part: bool) -> Vec<u8> {
    let mut entry = fields.to_vec();
    entry.extend_from_slice(format!("PRIORITY={severity}\n").as_bytes());
    if is_part {
        entry.extend_from_slice(b"CONTAINER_PARTIAL_MESSAGE=true\n");
    }
    entry.extend_from_slice(b"MESSAGE\n");
    entry.extend_from_slice(&(text.len() as u64).to_le_bytes());
    entry.extend_from_slice(text);
    entry.push(b'\n');
    entry
}

/// A time on the clocks of this host.
struct LocalTime {
    fields: libc::tm,
    micros: u32,
}

impl LocalTime {
    fn now() -> LocalTime {
        let now_ns = process::now_ns();
        let seconds: libc::time_t = now_ns.div_euclid(1_000_000_000);
        let micros = u32::try_from(now_ns.rem_euclid(1_000_000_000) / 1000).unwrap_or(0);
        // SAFETY: all-zero is a valid value of this structure.
        let mut fields: libc::tm = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are valid for the call. We have one thread.
        unsafe { libc::localtime_r(&raw const seconds, &raw mut fields) };
        LocalTime { fields, micros }
    }

    fn text(&self, form: &CStr) -> String {
        let mut buffer = [0u8; 64];
        let (pointer, room) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the buffer has that room, the form ends with a NUL, the fields are set.
        let length =
            unsafe { libc::strftime(pointer, room, form.as_ptr(), &raw const self.fields) };
        String::from_utf8_lossy(&buffer[..length.min(room)]).into_owned()
    }

    /// `Jan  2 15:04:05`.
    fn stamp(&self) -> String {
        self.text(c"%b %e %H:%M:%S")
    }

    fn rfc3339(&self, micros: bool) -> String {
        let fraction = match micros {
            true => format!(".{:06}", self.micros),
            false => String::new(),
        };
        let minutes = self.fields.tm_gmtoff / 60;
        let zone = match minutes {
            0 => "Z".to_owned(),
            _ => {
                let sign = if minutes < 0 { '-' } else { '+' };
                let minutes = minutes.abs();
                format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        };
        format!("{}{fraction}{zone}", self.text(c"%Y-%m-%dT%H:%M:%S"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_the_journal_carries_any_bytes() {
        let entry = journal_entry(b"A=b\n", 6, b"x\ny", true);
        let expected = [
            &b"A=b\nPRIORITY=6\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE\n"[..],
            &[3, 0, 0, 0, 0, 0, 0, 0],
            b"x\ny\n",
        ];
        assert_eq!(entry, expected.concat());
    }
}
