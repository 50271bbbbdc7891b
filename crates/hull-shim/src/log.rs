//! The log: output cut into lines, given to a file of ours and to a service of the host.
//!
//! ```text
//!  output ──▶ lines of at most 16 KiB ──┬──▶ file.rs     `json-file`, byte for byte as Docker's
//!                                       └──▶ service.rs  the journal or a syslog
//! ```
//!
//! Nothing here ends a container: what a full disk or a dead service does not take is counted and
//! dropped. A service that is only slow holds the container up, unless it was asked not to.

mod file;
mod service;

use std::io;
use std::os::fd::AsFd;

use hull_os::process::{self, PollFd};
use hull_plan::plan;

use crate::stdio::Stream;
use file::File;
use service::Service;

/// Bytes of a line after which it is written in parts.
const LINE_BYTES_MAX: usize = 16 << 10;

/// An open log, or none.
#[derive(Debug, Default)]
pub(crate) struct Log {
    file: Option<File>,
    service: Option<Service>,
    /// What each stream has written of a line without its end.
    begun: [Begun; 2],
    /// Lines that could not be written since the last report.
    dropped: u64,
}

/// The beginning of a line that has no end yet.
#[derive(Debug, Default)]
struct Begun {
    bytes: Vec<u8>,
    /// When the first part of it was written, if it is that long: all parts have its time.
    since_ns: Option<i64>,
}

/// One line, or a part of a long one.
#[derive(Clone, Copy)]
struct Line<'a> {
    stream: Stream,
    /// With its line end, if it has one.
    bytes: &'a [u8],
    at_ns: i64,
}

impl Log {
    /// Opens the files that the plan names, for appending.
    pub(crate) fn open_file(&mut self, log: &plan::Log<'_>) -> io::Result<()> {
        self.file = Some(File::open(log)?);
        Ok(())
    }

    /// Connects to the service that the plan names.
    pub(crate) fn open_service(&mut self, service: &plan::LogService<'_>) -> io::Result<()> {
        self.service = Some(Service::connect(service)?);
        Ok(())
    }

    /// Takes output of a stream.
    pub(crate) fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        if self.file.is_none() && self.service.is_none() {
            return;
        }
        let now_ns = process::now_ns();
        while !bytes.is_empty() {
            let begun = &mut self.begun[stream as usize];
            let room = LINE_BYTES_MAX - begun.bytes.len();
            let window = &bytes[..bytes.len().min(room)];
            let end = find(window, |byte| byte == b'\n').map(|at| at + 1);
            let (piece, rest) = bytes.split_at(end.unwrap_or(window.len()));
            bytes = rest;
            if end.is_none() && begun.bytes.len() + piece.len() < LINE_BYTES_MAX {
                begun.bytes.extend_from_slice(piece);
                continue;
            }
            let at_ns = begun.since_ns.unwrap_or(now_ns);
            begun.since_ns = end.is_none().then_some(at_ns);
            let whole = std::mem::take(&mut begun.bytes);
            if whole.is_empty() {
                self.line(stream, piece, at_ns);
            } else {
                self.line(stream, &[&whole, piece].concat(), at_ns);
            }
        }
        self.flush();
    }

    /// Writes what has no end yet; the stream has ended.
    pub(crate) fn end(&mut self, stream: Stream) {
        let Begun { bytes, since_ns } = std::mem::take(&mut self.begun[stream as usize]);
        if !bytes.is_empty() {
            self.line(stream, &bytes, since_ns.unwrap_or_else(process::now_ns));
            self.flush();
        }
    }

    /// Writes what has no end yet of either stream.
    pub(crate) fn end_all(&mut self) {
        self.end(Stream::Stdout);
        self.end(Stream::Stderr);
    }

    fn line(&mut self, stream: Stream, bytes: &[u8], at_ns: i64) {
        let line = Line {
            stream,
            bytes,
            at_ns,
        };
        if let Some(file) = &mut self.file {
            self.dropped += file.line(line);
        }
        if let Some(service) = &mut self.service {
            self.dropped += service.line(line);
        }
    }

    fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            self.dropped += file.flush();
        }
        self.flush_service();
    }

    /// Sends what the service takes now.
    pub(crate) fn flush_service(&mut self) {
        if let Some(service) = &mut self.service {
            self.dropped += service.flush();
        }
    }

    /// Counts what the service has not taken as dropped.
    pub(crate) fn give_up_service(&mut self) {
        if let Some(service) = &mut self.service {
            self.dropped += service.drop_waiting();
        }
    }

    /// What to wait for, where the service is behind.
    pub(crate) fn interest(&self) -> Option<PollFd> {
        let socket = self.service.as_ref()?.behind()?;
        Some(PollFd::new(socket.as_fd(), PollFd::WRITE))
    }

    /// Whether no more output may be read before the service has taken some.
    pub(crate) fn holds_up(&self) -> bool {
        self.service.as_ref().is_some_and(Service::holds_up)
    }

    /// Whether lines were dropped since the last report.
    pub(crate) fn has_dropped(&self) -> bool {
        self.dropped > 0
    }

    /// Lines dropped since this was asked the last time.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Whether a file was rotated since this was asked the last time.
    pub(crate) fn take_rotated(&mut self) -> bool {
        self.file.as_mut().is_some_and(File::take_rotated)
    }
}

/// The first byte for which something is so. The fixed piece makes it one comparison for many
/// bytes.
fn find(bytes: &[u8], is: impl Fn(u8) -> bool) -> Option<usize> {
    const PIECE: usize = 16;
    let mut at = 0;
    for piece in bytes.as_chunks::<PIECE>().0 {
        if piece.iter().fold(false, |any, &byte| any | is(byte)) {
            break;
        }
        at += PIECE;
    }
    let rest = bytes[at..].iter().position(|&byte| is(byte))?;
    Some(at + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_many_is_found() {
        let mut bytes = [b'a'; 50];
        assert_eq!(find(&bytes, |byte| byte == b'\n'), None);
        for at in [49, 48, 33, 32, 31, 16, 15, 0] {
            bytes[at] = b'\n';
            assert_eq!(find(&bytes, |byte| byte == b'\n'), Some(at));
        }
    }
}
