//! Starts shims, finds them again, removes what is left of them.
//!
//! ```text
//! <run>/s/<short id>/shim.sock   a daemon connects here
//!                    status      process ids and start times, from Started on
//!                    exit        how the container ended
//!                    e.<id>      how an exec ended
//! ```

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hull_model::SandboxId;

use crate::Exit;
use crate::error::Error;
use crate::record::ExecExit;
use crate::shim::Shim;
use crate::spec::{Attachment, ExecId, Spec};

/// One per daemon.
#[derive(Debug)]
pub struct Driver {
    run_dir: PathBuf,
    program: OwnedFd,
}

/// What was found of a sandbox after a restart of the daemon.
#[derive(Debug)]
pub enum Found {
    /// Its shim answers.
    Alive(Shim, Status),
    /// It ended, with a record.
    Exited(Exit),
    /// Neither shim nor record: it never started, or its shim was killed.
    Nothing,
    /// Its shim is there and does not answer: nobody knows.
    NoAnswer(String),
}

/// What a shim says of itself when a daemon connects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Process id on the host and start (ns since the epoch) of the first process; none while it is starting.
    pub started: Option<(u32, i64)>,
    /// Running execs and their process ids.
    pub execs: Vec<(ExecId, u32)>,
}

impl Driver {
    /// Prepares the run directory and one sealed copy of the shim program for all spawns.
    ///
    /// # Errors
    /// When either cannot be made.
    pub fn open(_run_dir: &Path, _shim_program: &'static [u8]) -> Result<Driver, Error> {
        Err(Error::Open {
            step: "open",
            cause: std::io::ErrorKind::Unsupported.into(),
        })
    }

    /// Spawns the shim of a new sandbox and returns at once: [`crate::Event::Started`] or
    /// [`crate::Event::StartFailed`] follows.
    ///
    /// # Errors
    /// When the plan cannot be encoded or the shim not be spawned; nothing is left then.
    pub fn start(&self, _spec: &Spec, _attach: Vec<Attachment>) -> Result<Shim, Error> {
        Err(Error::Open {
            step: "open",
            cause: std::io::ErrorKind::Unsupported.into(),
        })
    }

    /// Finds a sandbox again.
    ///
    /// # Errors
    /// When its run directory cannot be read.
    pub fn reattach(&self, _id: &SandboxId) -> Result<Found, Error> {
        Ok(Found::Nothing)
    }

    /// Exit records of execs, also of those that ended while no daemon was there.
    ///
    /// # Errors
    /// When the run directory cannot be read.
    pub fn exec_exits(&self, _id: &SandboxId) -> Result<Vec<ExecExit>, Error> {
        Ok(Vec::new())
    }

    /// Removes the record of an exec that the caller has taken over.
    ///
    /// # Errors
    /// When it cannot be removed; that it is not there is fine.
    pub fn forget_exec(&self, _id: &SandboxId, _exec: &ExecId) -> Result<(), Error> {
        Ok(())
    }

    /// Removes all that is left of a sandbox: kills what is in its cgroup and sees it empty, then
    /// removes cgroup and run directory. Idempotent.
    ///
    /// # Errors
    /// [`Error::Deadline`] when something is still alive; calling again continues.
    pub fn discard(
        &self,
        _id: &SandboxId,
        _cgroup: &str,
        _deadline: Duration,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// Short ids of all sandboxes that have a run directory.
    ///
    /// # Errors
    /// When the run directory cannot be read.
    pub fn list(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }
}
