//! The standard streams of this process, used without ever blocking the one thread we have.
//!
//! Their flags are shared with other processes, so they are never made non-blocking. A stream is
//! used only after `poll` said that it would not wait, in pieces that a pipe takes whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use hull_os::pty;
use tokio::io::unix::AsyncFd;

/// A pipe that polls writable takes this many bytes at once (`PIPE_BUF` of Linux).
const WRITE_BYTES_MAX: usize = 4096;

/// Bytes asked for in one read.
const READ_BYTES_MAX: usize = 32 * 1024;

/// One standard stream.
#[derive(Debug)]
pub(crate) struct Stdio {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Something that can be waited for: a pipe, a socket, a terminal.
    Pollable(AsyncFd<File>),
    /// A file or `/dev/null`, which never makes anybody wait.
    Plain(File),
}

impl Stdio {
    /// The standard input.
    pub(crate) fn input() -> io::Result<Stdio> {
        Self::of(io::stdin().as_fd(), tokio::io::Interest::READABLE)
    }

    /// The standard output.
    pub(crate) fn output() -> io::Result<Stdio> {
        Self::of(io::stdout().as_fd(), tokio::io::Interest::WRITABLE)
    }

    /// The standard error.
    pub(crate) fn error() -> io::Result<Stdio> {
        Self::of(io::stderr().as_fd(), tokio::io::Interest::WRITABLE)
    }

    #[expect(
        deprecated,
        reason = "its replacement is unsafe for types that may give another descriptor each \
                  time; a file owns one and gives that"
    )]
    fn of(fd: BorrowedFd<'_>, interest: tokio::io::Interest) -> io::Result<Stdio> {
        let file = File::from(fd.try_clone_to_owned()?);
        let plain = file.try_clone()?;
        let kind = match AsyncFd::with_interest(file, interest) {
            Ok(pollable) => Kind::Pollable(pollable),
            // EPERM: this file has no notion of readiness.
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => Kind::Plain(plain),
            Err(cause) => return Err(cause),
        };
        Ok(Stdio { kind })
    }

    /// Reads what there is, waiting for the first of it; empty at the end.
    pub(crate) async fn read(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; READ_BYTES_MAX];
        let length = match &self.kind {
            Kind::Plain(file) => (&*file).read(&mut buffer)?,
            Kind::Pollable(stream) => loop {
                let mut guard = stream.readable().await?;
                if !pty::readable_now(stream.get_ref().as_fd()) {
                    guard.clear_ready();
                    continue;
                }
                match stream.get_ref().read(&mut buffer) {
                    Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                    Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                    // A terminal that went away has nothing more to say.
                    Err(cause) if cause.raw_os_error() == Some(5) => break 0,
                    other => break other?,
                }
            },
        };
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let stream = match &self.kind {
            Kind::Plain(file) => return (&*file).write_all(bytes),
            Kind::Pollable(stream) => stream,
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut guard = stream.writable().await?;
            if !pty::writable_now(stream.get_ref().as_fd()) {
                guard.clear_ready();
                continue;
            }
            let piece = &rest[..rest.len().min(WRITE_BYTES_MAX)];
            match stream.get_ref().write(piece) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                other => rest = &rest[other?..],
            }
        }
        Ok(())
    }
}
