//! The connection to one shim: requests out, events in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hull_model::SandboxId;

use crate::error::Error;
use crate::spec::{Attachment, ExecId, ExecSpec};
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
    /// A request was not understood or could not be carried out.
    Refused {
        /// Why.
        text: String,
    },
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
    /// Takes the next event, without waiting; none: nothing is there now.
    ///
    /// # Errors
    /// When the shim sent what cannot be understood.
    pub fn try_event(&mut self) -> Result<Option<Event>, Error> {
        Ok(None)
    }

    /// Starts an added process. [`Event::ExecStarted`] or [`Event::ExecFailed`] follows.
    ///
    /// # Errors
    /// When the request cannot be encoded or sent.
    pub fn exec(&mut self, _spec: &ExecSpec, _attach: Vec<Attachment>) -> Result<(), Error> {
        Ok(())
    }

    /// Adds a client at the streams of a process.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn attach(&mut self, _target: Target, _attachment: Attachment) -> Result<(), Error> {
        Ok(())
    }

    /// Changes the size of a terminal.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn resize(&mut self, _target: Target, _rows: u16, _cols: u16) -> Result<(), Error> {
        Ok(())
    }

    /// Closes standard input of a process, after what attached clients have sent.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn close_stdin(&mut self, _target: Target) -> Result<(), Error> {
        Ok(())
    }

    /// Sends a signal to the container's first process, without a hop through the shim.
    ///
    /// # Errors
    /// [`Error::NotRunning`] before [`Event::Started`] was taken and after the process ended.
    pub fn signal(&self, _signal: i32) -> Result<(), Error> {
        Ok(())
    }

    /// Sends a signal to an exec.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn signal_exec(&mut self, _id: ExecId, _signal: i32) -> Result<(), Error> {
        Ok(())
    }

    /// Of the shim itself: readable when it has ended, which is awaited before the same id starts
    /// again.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether the shim has ended; reaps it where it is our child.
    pub fn has_ended(&self) -> bool {
        false
    }

    /// Of which sandbox.
    pub fn id(&self) -> &SandboxId {
        &self.id
    }
}

impl AsFd for Shim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
