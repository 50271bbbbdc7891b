//! Client of the Docker Engine API.
//!
//! ```text
//!   Endpoint (where) ──> Client ──> Call (method, path, query, body) ──> Reply or Hijacked
//! ```
//!
//! One HTTP/1.1 connection is opened when the first call needs one, and used again while nothing
//! is being read from it. The version of the API is agreed with the server by one `HEAD /_ping`
//! before the first call. Nothing here knows a command or prints.

mod call;
mod connection;
mod context;
mod endpoint;
mod error;

pub(crate) use call::{Call, Reply};
pub(crate) use connection::Hijacked;
pub(crate) use context::{Context, Contexts, DEFAULT as DEFAULT_CONTEXT};
pub(crate) use endpoint::{Endpoint, EndpointError, not_found};
pub(crate) use error::ClientError;

use std::cell::RefCell;

use http::Method;
use tokio::sync::OnceCell;

use connection::Connection;

/// Newest version of the API that this client speaks.
pub(crate) const API_VERSION_MAX: ApiVersion = ApiVersion {
    major: 1,
    minor: 48,
};

/// Version of the API where a server does not tell its own.
const API_VERSION_UNKNOWN: ApiVersion = ApiVersion {
    major: 1,
    minor: 41,
};

/// A version of the Docker Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion {
    major: u16,
    minor: u16,
}

impl ApiVersion {
    /// Version 1.`minor`: there has never been another major version.
    pub(crate) const fn minor(minor: u16) -> ApiVersion {
        ApiVersion { major: 1, minor }
    }

    /// Parses `1.41`.
    pub(crate) fn parse(text: &str) -> Option<ApiVersion> {
        let (major, minor) = text.split_once('.')?;
        Some(ApiVersion {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl std::fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A client of one engine.
#[derive(Debug)]
pub(crate) struct Client {
    endpoint: Endpoint,
    version: OnceCell<ApiVersion>,
    idle: RefCell<Vec<Connection>>,
}

impl Client {
    /// Makes a client; nothing is opened yet.
    pub(crate) fn new(endpoint: Endpoint) -> Client {
        Client {
            endpoint,
            version: OnceCell::new(),
            idle: RefCell::default(),
        }
    }

    /// The version of the API spoken with this server, agreed with it if that was not done yet.
    pub(crate) async fn version(&self) -> Result<ApiVersion, ClientError> {
        self.version
            .get_or_try_init(|| self.negotiate())
            .await
            .copied()
    }

    async fn negotiate(&self) -> Result<ApiVersion, ClientError> {
        let forced = std::env::var("DOCKER_API_VERSION").ok();
        if let Some(version) = forced.as_deref().and_then(ApiVersion::parse) {
            return Ok(version);
        }
        let ask = |method| self.send_unversioned(self.call(method, "/_ping"));
        let reply = match ask(Method::HEAD).await {
            // What answers to HEAD cannot say why.
            Err(ClientError::Refused { .. }) => ask(Method::GET).await?,
            reply => reply?,
        };
        let theirs = reply.header("api-version").and_then(ApiVersion::parse);
        Ok(theirs.unwrap_or(API_VERSION_UNKNOWN).min(API_VERSION_MAX))
    }

    /// Starts a call of `method` on `path` (which starts with a slash and has no version).
    pub(crate) fn call(&self, method: Method, path: impl Into<String>) -> Call<'_> {
        Call::new(self, method, path.into())
    }

    /// Starts a GET of `path`.
    pub(crate) fn get(&self, path: impl Into<String>) -> Call<'_> {
        self.call(Method::GET, path)
    }

    /// Starts a POST to `path`.
    pub(crate) fn post(&self, path: impl Into<String>) -> Call<'_> {
        self.call(Method::POST, path)
    }

    /// Starts a DELETE of `path`.
    pub(crate) fn delete(&self, path: impl Into<String>) -> Call<'_> {
        self.call(Method::DELETE, path)
    }

    async fn send(&self, call: Call<'_>) -> Result<Reply, ClientError> {
        let version = self.version().await?;
        self.exchange(call, Some(version)).await
    }

    async fn send_unversioned(&self, call: Call<'_>) -> Result<Reply, ClientError> {
        self.exchange(call, None).await
    }

    async fn exchange(
        &self,
        call: Call<'_>,
        version: Option<ApiVersion>,
    ) -> Result<Reply, ClientError> {
        let host = self.endpoint.host_header();
        let (request, path) = call.into_request(version, &host)?;
        let mut connection = self.connection().await?;
        let response = connection
            .send(request)
            .await
            .map_err(ClientError::exchange(&path))?;
        // A connection whose reply is still being read is not chosen again until it is idle.
        self.idle.borrow_mut().push(connection);
        Reply::check(response, path).await
    }

    async fn hijack(&self, call: Call<'_>) -> Result<Hijacked, ClientError> {
        let version = self.version().await?;
        let host = self.endpoint.host_header();
        let (request, path) = call.into_request(Some(version), &host)?;
        let mut connection = self.connection().await?;
        let response = connection
            .send(request)
            .await
            .map_err(ClientError::exchange(&path))?;
        let reply = Reply::check(response, path).await?;
        reply.upgrade().await
    }

    async fn connection(&self) -> Result<Connection, ClientError> {
        let found = {
            let mut idle = self.idle.borrow_mut();
            let position = idle.iter().position(Connection::is_idle);
            position.map(|position| idle.swap_remove(position))
        };
        match found {
            Some(connection) => Ok(connection),
            None => Connection::open(&self.endpoint).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number_and_not_by_text() {
        assert!(ApiVersion::minor(9) < ApiVersion::minor(41));
        assert_eq!(ApiVersion::parse("1.41").unwrap().to_string(), "1.41");
        assert_eq!(ApiVersion::parse("latest"), None);
    }
}
