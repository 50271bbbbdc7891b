//! Where the engine is: the addresses that `-H` and the environment may give.

use std::path::{Path, PathBuf};

/// The engine's socket when nobody names another.
pub(crate) const DEFAULT_SOCKET: &str = "/run/hull/hull.sock";

/// Port of an engine that listens on TCP without TLS.
const TCP_PORT_DEFAULT: u16 = 2375;

/// An address at which an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// A host and a port, without encryption.
    Tcp {
        /// Name or address, IPv6 addresses without brackets.
        host: String,
        /// Port number.
        port: u16,
    },
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    /// Not an address.
    #[error("unable to resolve docker endpoint: invalid bind address format: {0}")]
    Format(String),
    /// An address of a kind that this client does not speak.
    #[error("unable to resolve docker endpoint: {0}:// addresses are not supported yet")]
    Scheme(String),
    /// A named context that is not there.
    #[error("unable to resolve docker endpoint: context {0:?}: context not found: no such context")]
    NoContext(String),
}

impl Endpoint {
    /// Parses `unix:///path`, `tcp://host:port`, a bare path or a bare `host:port`.
    ///
    /// # Errors
    /// Where it is neither.
    pub(crate) fn parse(text: &str) -> Result<Endpoint, EndpointError> {
        let text = text.trim();
        let invalid = || EndpointError::Format(text.to_owned());
        match text.split_once("://") {
            Some(("unix", "")) => Ok(Endpoint::default()),
            Some(("unix", path)) => Ok(Endpoint::Unix(PathBuf::from(path))),
            Some(("tcp" | "http", address)) => parse_tcp(address).ok_or_else(invalid),
            Some((scheme @ ("ssh" | "npipe" | "fd" | "https"), _)) => {
                Err(EndpointError::Scheme(scheme.to_owned()))
            }
            Some(_) => Err(invalid()),
            None if text.starts_with('/') => Ok(Endpoint::Unix(PathBuf::from(text))),
            None => parse_tcp(text).ok_or_else(invalid),
        }
    }

    /// Chooses the engine as the documentation promises: `-H`, `HULL_HOST`, `DOCKER_HOST`, the
    /// chosen Docker context, our own socket.
    ///
    /// # Errors
    /// Where the first of these that is given is not usable.
    pub(crate) fn choose(
        option: Option<&str>,
        context: Option<&str>,
        config_dir: &Path,
    ) -> Result<Endpoint, EndpointError> {
        if let Some(host) = option {
            return Endpoint::parse(host);
        }
        if let Some(name) = context {
            return context_endpoint(name, config_dir);
        }
        for variable in ["HULL_HOST", "DOCKER_HOST"] {
            if let Some(host) = environment(variable) {
                return Endpoint::parse(&host);
            }
        }
        let chosen = environment("DOCKER_CONTEXT").or_else(|| current_context(config_dir));
        match chosen.as_deref() {
            Some(name) => context_endpoint(name, config_dir),
            None => Ok(Endpoint::default()),
        }
    }

    /// What the `Host` header of a request says.
    pub(crate) fn host_header(&self) -> String {
        match self {
            // What Docker's client sends over a unix socket.
            Endpoint::Unix(_) => "api.moby.localhost".to_owned(),
            Endpoint::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        }
    }
}

impl Default for Endpoint {
    fn default() -> Endpoint {
        Endpoint::Unix(PathBuf::from(DEFAULT_SOCKET))
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp { .. } => write!(f, "tcp://{}", self.host_header()),
        }
    }
}

fn environment(variable: &str) -> Option<String> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
}

fn parse_tcp(address: &str) -> Option<Endpoint> {
    let address = address.split('/').next()?;
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => (host, port.parse().ok()?),
        _ => (address, TCP_PORT_DEFAULT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    Some(Endpoint::Tcp {
        host: host.to_owned(),
        port,
    })
}

/// The context that `docker context use` chose, as `~/.docker/config.json` keeps it.
fn current_context(config_dir: &Path) -> Option<String> {
    let text = std::fs::read(config_dir.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let name = config.get("currentContext")?.as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn context_endpoint(name: &str, config_dir: &Path) -> Result<Endpoint, EndpointError> {
    if name == "default" {
        return Ok(Endpoint::default());
    }
    let folders = std::fs::read_dir(config_dir.join("contexts/meta"));
    let host = folders.into_iter().flatten().flatten().find_map(|folder| {
        let text = std::fs::read(folder.path().join("meta.json")).ok()?;
        let meta: serde_json::Value = serde_json::from_slice(&text).ok()?;
        (meta.get("Name")?.as_str()? == name).then(|| {
            meta.pointer("/Endpoints/docker/Host")?
                .as_str()
                .map(str::to_owned)
        })?
    });
    match host {
        Some(host) => Endpoint::parse(&host),
        None => Err(EndpointError::NoContext(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(Endpoint::parse(text).unwrap().to_string(), expected);
    }

    #[test]
    fn addresses_are_parsed_as_docker_does() {
        check("unix:///run/x.sock", "unix:///run/x.sock");
        check("/run/x.sock", "unix:///run/x.sock");
        check("tcp://localhost:2376", "tcp://localhost:2376");
        check("tcp://localhost", "tcp://localhost:2375");
        check("tcp://[::1]:99", "tcp://[::1]:99");
        check(":99", "tcp://127.0.0.1:99");
        check("unix://", "unix:///run/hull/hull.sock");
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        let error = Endpoint::parse("foo://x").unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("invalid bind address format: foo://x")
        );
        assert!(matches!(
            Endpoint::parse("ssh://host"),
            Err(EndpointError::Scheme(_))
        ));
    }
}
