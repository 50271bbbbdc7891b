//! The closed list of error kinds.
//!
//! Every public error of every crate answers `kind()`. An edge maps kinds to its own codes in one
//! `match` without a wildcard arm, so a new kind does not compile until every edge answers.

/// What sort of failure happened, as far as a client can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is malformed or asks for something that cannot be.
    InvalidArgument,
    /// The caller has to prove who they are.
    Unauthenticated,
    /// The caller may not do this, or the host forbids it to us.
    Denied,
    /// The named object does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The object exists, but is in a state in which this cannot be done.
    WrongState,
    /// The object is in use by another.
    Busy,
    /// The disk or a named limit is exhausted.
    LimitReached,
    /// We do not have this (yet), or this kernel does not.
    Unsupported,
    /// The time given by the request is over.
    Deadline,
    /// The caller went away.
    Cancelled,
    /// Not now: a queue is full, a peer does not answer; asking again later may help.
    Unavailable,
    /// A defect of ours or damage on disk.
    Internal,
}

impl ErrorKind {
    /// Every kind, for tests that walk the edges' tables.
    pub const ALL: [ErrorKind; 13] = [
        ErrorKind::InvalidArgument,
        ErrorKind::Unauthenticated,
        ErrorKind::Denied,
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::WrongState,
        ErrorKind::Busy,
        ErrorKind::LimitReached,
        ErrorKind::Unsupported,
        ErrorKind::Deadline,
        ErrorKind::Cancelled,
        ErrorKind::Unavailable,
        ErrorKind::Internal,
    ];

    /// The kind of an I/O error that nobody classified better.
    pub fn of_io(error: &std::io::Error) -> ErrorKind {
        use std::io::ErrorKind as Io;
        match error.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::PermissionDenied => ErrorKind::Denied,
            Io::AlreadyExists => ErrorKind::AlreadyExists,
            Io::InvalidInput => ErrorKind::InvalidArgument,
            Io::TimedOut => ErrorKind::Deadline,
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::LimitReached,
            Io::Unsupported => ErrorKind::Unsupported,
            Io::ResourceBusy => ErrorKind::Busy,
            _ => ErrorKind::Internal,
        }
    }
}
