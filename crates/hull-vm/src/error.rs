//! What can fail while a machine is made.

use std::io;
use std::path::PathBuf;

use hull_model::ErrorKind;

/// A failed step, with the cause as source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no kernel to boot.
    #[error(
        "no guest kernel is imported: `hull vm kernel import debian` takes Debian's, \
         `hull vm kernel import FILE.deb` one that is there already"
    )]
    NoKernel,
    /// No such kernel in the store.
    #[error("no kernel {0:?} in the store (see `hull vm kernel ls`)")]
    UnknownKernel(String),
    /// The kernel that new machines boot is not removed.
    #[error("kernel {0} is the one in use: `hull vm kernel use` another one first")]
    KernelInUse(String),
    /// What was given is no kernel that can be booted.
    #[error("{what}: {why}")]
    Unusable {
        /// Which file.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A program of the host is missing.
    #[error("no {program} on this host: install the package {package}")]
    MissingProgram {
        /// Its name.
        program: &'static str,
        /// Debian's package that has it.
        package: &'static str,
    },
    /// A step of the system failed.
    #[error("{step} {}", path.display())]
    Step {
        /// What was attempted.
        step: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
}

impl Error {
    /// What sort of failure this is for a client.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NoKernel | Error::MissingProgram { .. } => ErrorKind::Unsupported,
            Error::UnknownKernel(_) => ErrorKind::NotFound,
            Error::KernelInUse(_) => ErrorKind::WrongState,
            Error::Unusable { .. } => ErrorKind::InvalidArgument,
            Error::Step { cause, .. } => ErrorKind::of_io(cause),
        }
    }

    /// Names the step and the file of a system's error.
    pub(crate) fn at(
        step: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |cause| Error::Step { step, path, cause }
    }
}

/// A complaint about a file.
pub(crate) fn unusable(what: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Unusable {
        what: what.into(),
        why: why.into(),
    }
}
