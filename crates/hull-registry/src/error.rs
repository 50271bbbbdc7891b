//! Why an exchange with a registry failed.

use std::io;

use hull_model::{Digest, ErrorKind};

/// What functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One entry of the `errors` of a registry's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reason {
    /// `MANIFEST_UNKNOWN`, `DENIED` and their like.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Why an exchange with a registry failed. Methods are written as Go writes them (`Get`), because
/// the sentences of Docker begin with them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or a broken one.
    #[error("{method} {url:?}")]
    Exchange {
        /// `Get`, `Head`, …
        method: &'static str,
        /// Of what; without a query, which may hold secrets.
        url: String,
        /// Why.
        #[source]
        cause: ConnectionError,
    },
    /// The registry wants a credential and there is none.
    #[error("{method} {url:?}: no basic auth credentials")]
    NoCredential {
        /// `Get`, `Head`, …
        method: &'static str,
        /// Of what.
        url: String,
    },
    /// The registry answered, and said no.
    #[error("{}", refusal(.status, .reason))]
    Refused {
        /// Of what.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The first reason that it gave; empty when it gave none.
        reason: Reason,
    },
    /// The answer is not what the protocol says.
    #[error("{what} from {url:?}: {problem}")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// From where.
        url: String,
        /// What came.
        problem: String,
    },
    /// More than a named limit.
    #[error("{what} is larger than {limit} {unit}")]
    Limit {
        /// What.
        what: &'static str,
        /// How much.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The bytes are not those that were asked for.
    #[error("{what} has the digest {actual}, expected {expected}")]
    WrongDigest {
        /// What.
        what: &'static str,
        /// The one asked for.
        expected: Digest,
        /// That of the bytes.
        actual: Digest,
    },
    /// A file of the configuration cannot be used.
    #[error("{what}")]
    Configuration {
        /// Which, and what is wrong with it.
        what: String,
        /// Why.
        #[source]
        cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Neither the registry nor a mirror can do this.
    #[error("{0}")]
    Unsupported(String),
    /// What was to be sent could not be read.
    #[error("read what is to be sent")]
    Source(#[source] io::Error),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The name has no address.
    #[error("dial tcp: lookup {host}: {}", go_text(.cause))]
    Lookup {
        /// Which.
        host: String,
        /// Why.
        cause: io::Error,
    },
    /// No address answers.
    #[error("dial tcp {address}: connect: {}", go_text(.cause))]
    Connect {
        /// The last one tried.
        address: String,
        /// Why.
        cause: io::Error,
    },
    /// No agreement on encryption, or a certificate that nobody vouches for.
    #[error("tls: {}", go_text(.0))]
    Tls(io::Error),
    /// A proxy that does not let us through.
    #[error("proxy {proxy}: {problem}")]
    Proxy {
        /// Which.
        proxy: String,
        /// Why.
        problem: String,
    },
    /// The other side went away in the middle.
    #[error("{}", innermost(.0))]
    Broken(hyper::Error),
    /// Nothing, or next to nothing, came for too long.
    #[error("nothing came for {seconds} seconds")]
    Stalled {
        /// How long.
        seconds: u64,
    },
    /// Too many bytes, or too few.
    #[error("{0}")]
    Protocol(&'static str),
}

/// An error of the system in Go's words: no number behind it, no capital before it.
fn go_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

/// The last of a chain of causes; those before it only say that there was one.
fn innermost(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = cause.to_string();
        next = cause.source();
    }
    text
}

fn refusal(status: &u16, reason: &Reason) -> String {
    if reason.code.is_empty() {
        let name = http::StatusCode::from_u16(*status).ok();
        let name = name.and_then(|s| s.canonical_reason()).unwrap_or_default();
        let text = format!("received unexpected HTTP status: {status} {name}");
        return text.trim_end().to_owned();
    }
    let code = reason.code.to_lowercase().replace('_', " ");
    match code.as_str() {
        "denied" if reason.message.is_empty() => "denied: access to the resource is denied".into(),
        _ => format!("{code}: {}", reason.message),
    }
}

impl Error {
    /// How an edge answers.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Exchange { .. } => ErrorKind::Unavailable,
            Self::NoCredential { .. } => ErrorKind::Unauthenticated,
            Self::Refused { status, reason, .. } => refused_kind(*status, &reason.code),
            Self::Malformed { .. } | Self::WrongDigest { .. } => ErrorKind::InvalidArgument,
            Self::Limit { .. } => ErrorKind::LimitReached,
            Self::Configuration { .. } => ErrorKind::InvalidArgument,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::Source(cause) => ErrorKind::of_io(cause),
        }
    }

    /// Whether asking the same again, elsewhere or later, may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Exchange { cause, .. } => matches!(
                cause,
                ConnectionError::Broken(_)
                    | ConnectionError::Stalled { .. }
                    | ConnectionError::Protocol(_)
            ),
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

fn refused_kind(status: u16, code: &str) -> ErrorKind {
    match (code, status) {
        ("UNAUTHORIZED", _) | (_, 401) => ErrorKind::Unauthenticated,
        ("MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "BLOB_UNKNOWN", _) | (_, 404) => ErrorKind::NotFound,
        ("DENIED", _) | (_, 403) => ErrorKind::Denied,
        (_, 429 | 500..) => ErrorKind::Unavailable,
        _ => ErrorKind::InvalidArgument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_worded_as_docker_words_them() {
        let check = |status, code: &str, message: &str, expected: &str| {
            let error = Error::Refused {
                url: String::new(),
                status,
                reason: Reason {
                    code: code.to_owned(),
                    message: message.to_owned(),
                },
            };
            assert_eq!(error.to_string(), expected);
        };
        check(
            404,
            "MANIFEST_UNKNOWN",
            "manifest unknown",
            "manifest unknown: manifest unknown",
        );
        check(
            500,
            "",
            "",
            "received unexpected HTTP status: 500 Internal Server Error",
        );
        check(
            403,
            "DENIED",
            "",
            "denied: access to the resource is denied",
        );
    }

    #[test]
    fn errors_of_the_system_read_as_in_go() {
        let cause = io::Error::from_raw_os_error(111);
        assert_eq!(go_text(&cause), "connection refused");
    }
}
