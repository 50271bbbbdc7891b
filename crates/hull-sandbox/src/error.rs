//! What can fail between the daemon and a shim.

use std::io;

use hull_model::ErrorKind;

/// A failed step, with the cause as source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The specification cannot be written as a plan.
    #[error("{what} of the sandbox: {why}")]
    Invalid {
        /// Which field.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A step on the daemon's side failed.
    #[error("{step} of sandbox {id}")]
    Step {
        /// What was attempted.
        step: &'static str,
        /// Short id.
        id: String,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
    /// The driver could not be opened.
    #[error("{step}")]
    Open {
        /// What was attempted.
        step: &'static str,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
    /// The sandbox has no process yet, or none any more.
    #[error("sandbox {id} is not running")]
    NotRunning {
        /// Short id.
        id: String,
    },
    /// The shim speaks a form that we do not understand.
    #[error("shim of sandbox {id} sent {what}")]
    Protocol {
        /// Short id.
        id: String,
        /// What was wrong.
        what: String,
    },
    /// Something of the sandbox is still there at the deadline.
    #[error("sandbox {id} still has {what} after {waited_ms} ms")]
    Deadline {
        /// Short id.
        id: String,
        /// What is left.
        what: String,
        /// How long it was waited for.
        waited_ms: u64,
    },
}

impl Error {
    /// What sort of failure this is for a client.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Invalid { .. } => ErrorKind::InvalidArgument,
            Error::Step { cause, .. } | Error::Open { cause, .. } => ErrorKind::of_io(cause),
            Error::NotRunning { .. } => ErrorKind::WrongState,
            Error::Protocol { .. } => ErrorKind::Internal,
            Error::Deadline { .. } => ErrorKind::Deadline,
        }
    }
}
