//! What can go wrong between this program and the engine.

use std::error::Error;

use http::StatusCode;
use hull_model::ErrorKind;

use super::endpoint::Endpoint;

/// Why a call failed. The texts are Docker's where scripts parse them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens there.
    #[error(
        "Cannot connect to the Docker daemon at {endpoint}. Is the docker daemon running?{}",
        hint(endpoint)
    )]
    Connect {
        /// Where we looked.
        endpoint: Endpoint,
        /// What the kernel said.
        #[source]
        cause: std::io::Error,
    },
    /// The socket is there, but not for us.
    #[error("permission denied while trying to connect to the Docker daemon socket at {endpoint}")]
    Denied {
        /// Where we looked.
        endpoint: Endpoint,
        /// What the kernel said.
        #[source]
        cause: std::io::Error,
    },
    /// The engine answered that it does not do this.
    #[error("Error response from daemon: {message}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The engine's words.
        message: String,
    },
    /// The connection broke, or what came over it is not HTTP.
    #[error("error during connect: {path}: {cause}")]
    Exchange {
        /// What was asked for.
        path: String,
        /// What the HTTP library says.
        cause: Box<dyn Error + Send + Sync>,
    },
    /// An answer that is not what the API promises.
    #[error("the answer to {path} is not what the API promises: {cause}")]
    Answer {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        cause: Box<dyn Error + Send + Sync>,
    },
    /// The server's API lacks what was asked for.
    #[error("\"{what}\" requires API version {needed}, but the Docker daemon API version is {has}")]
    Version {
        /// The option that needs it.
        what: &'static str,
        /// First version that has it.
        needed: super::ApiVersion,
        /// Version of the server.
        has: super::ApiVersion,
    },
}

impl ClientError {
    /// Makes the conversion for an error of the HTTP library while asking for `path`.
    pub(super) fn exchange<E: Into<Box<dyn Error + Send + Sync>>>(
        path: &str,
    ) -> impl FnOnce(E) -> ClientError + use<'_, E> {
        move |cause| ClientError::Exchange {
            path: path.to_owned(),
            cause: cause.into(),
        }
    }

    /// What sort of failure this is.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            ClientError::Connect { .. } | ClientError::Exchange { .. } => ErrorKind::Unavailable,
            ClientError::Denied { .. } => ErrorKind::Denied,
            ClientError::Answer { .. } => ErrorKind::Internal,
            ClientError::Version { .. } => ErrorKind::Unsupported,
            ClientError::Refused { status, .. } => match *status {
                StatusCode::BAD_REQUEST => ErrorKind::InvalidArgument,
                StatusCode::UNAUTHORIZED => ErrorKind::Unauthenticated,
                StatusCode::FORBIDDEN => ErrorKind::Denied,
                StatusCode::NOT_FOUND => ErrorKind::NotFound,
                StatusCode::CONFLICT => ErrorKind::WrongState,
                StatusCode::NOT_IMPLEMENTED => ErrorKind::Unsupported,
                StatusCode::SERVICE_UNAVAILABLE => ErrorKind::Unavailable,
                StatusCode::GATEWAY_TIMEOUT => ErrorKind::Deadline,
                StatusCode::INSUFFICIENT_STORAGE => ErrorKind::LimitReached,
                _ => ErrorKind::Internal,
            },
        }
    }

    /// Whether the engine says that the named thing does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }
}

/// The way out for whoever has our engine and has not started it.
fn hint(endpoint: &Endpoint) -> &'static str {
    if *endpoint == Endpoint::default() {
        "\n  hint: start it with \"systemctl start hull\" or \"hull daemon\", \
         or name another with -H or HULL_HOST"
    } else {
        ""
    }
}
