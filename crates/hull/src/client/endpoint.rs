//! Where the engine is: the addresses that `-H` and the environment may give.

use std::path::{Path, PathBuf};

use hull_registry::Trust;

use super::context::{Contexts, DEFAULT};

/// The engine's socket when nobody names another.
pub(crate) const DEFAULT_SOCKET: &str = "/run/hull/hull.sock";

/// Port of an engine that listens on TCP without TLS, and with it.
const TCP_PORT_DEFAULT: u16 = 2375;
const TLS_PORT_DEFAULT: u16 = 2376;

/// An address at which an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// A host and a port.
    Tcp {
        /// Name or address, IPv6 addresses without brackets.
        host: String,
        /// Port number.
        port: u16,
        /// With TLS, and whom we take it for then.
        tls: Option<Trust>,
    },
    /// Another host that is reached by the ssh program of this one.
    Ssh {
        /// Login name there; empty: what ssh's own settings say.
        user: String,
        /// Name or address.
        host: String,
        /// Port number, where it is not what ssh's own settings say.
        port: Option<u16>,
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
    #[error("unable to resolve docker endpoint: context {name:?}: context not found: {cause}")]
    NoContext {
        /// Its name.
        name: String,
        /// What the file system says.
        cause: String,
    },
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
            Some(("ssh", address)) => parse_ssh(address).ok_or_else(invalid),
            Some((scheme @ ("npipe" | "fd" | "https"), _)) => {
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
        Endpoint::choose_secured(option, context, config_dir, None)
    }

    /// The same; who names an address says by options and environment how it is encrypted, a
    /// context says it for itself.
    ///
    /// # Errors
    /// As [`Endpoint::choose`].
    pub(crate) fn choose_secured(
        option: Option<&str>,
        context: Option<&str>,
        config_dir: &Path,
        tls: Option<Trust>,
    ) -> Result<Endpoint, EndpointError> {
        if let Some(host) = option {
            return Ok(Endpoint::parse(host)?.secured(host, tls));
        }
        if let Some(name) = context {
            return context_endpoint(name, config_dir);
        }
        for variable in ["HULL_HOST", "DOCKER_HOST"] {
            if let Some(host) = environment(variable) {
                return Ok(Endpoint::parse(&host)?.secured(&host, tls));
            }
        }
        let chosen = environment("DOCKER_CONTEXT").or_else(|| Contexts::of(config_dir).current());
        match chosen.as_deref() {
            Some(name) => context_endpoint(name, config_dir),
            None => Ok(Endpoint::default()),
        }
    }

    /// With TLS, where it is an address for that; `text` is as it was given.
    fn secured(self, text: &str, trust: Option<Trust>) -> Endpoint {
        match (self, trust) {
            (Endpoint::Tcp { host, port, .. }, Some(trust)) => Endpoint::Tcp {
                host,
                port: match port {
                    TCP_PORT_DEFAULT if !text.contains(":2375") => TLS_PORT_DEFAULT,
                    port => port,
                },
                tls: Some(trust),
            },
            (endpoint, _) => endpoint,
        }
    }

    /// What the `Host` header of a request says.
    pub(crate) fn host_header(&self) -> String {
        match self {
            // What Docker's client sends over a unix socket.
            Endpoint::Unix(_) | Endpoint::Ssh { .. } => "api.moby.localhost".to_owned(),
            Endpoint::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp { host, port, .. } => format!("{host}:{port}"),
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
            Endpoint::Ssh { user, host, port } => {
                let at = if user.is_empty() { "" } else { "@" };
                write!(f, "ssh://{user}{at}{host}")?;
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
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
        tls: None,
    })
}

/// `[user@]host[:port]`, as in Docker without a path behind it.
fn parse_ssh(address: &str) -> Option<Endpoint> {
    let address = address.strip_suffix('/').unwrap_or(address);
    let (user, place) = address.rsplit_once('@').unwrap_or(("", address));
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => (host, Some(port.parse().ok()?)),
        _ => (place, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // What begins with a dash would be an option of ssh.
    let plain = |text: &str| !text.starts_with('-') && !text.contains(['/', ' ', '\t']);
    (!host.is_empty() && plain(host) && plain(user)).then(|| Endpoint::Ssh {
        user: user.to_owned(),
        host: host.to_owned(),
        port,
    })
}

fn context_endpoint(name: &str, config_dir: &Path) -> Result<Endpoint, EndpointError> {
    if name == DEFAULT {
        return Ok(Endpoint::default());
    }
    let contexts = Contexts::of(config_dir);
    match contexts.find(name) {
        Ok(context) => {
            let endpoint = Endpoint::parse(&context.host)?;
            Ok(endpoint.secured(&context.host, contexts.trust(&context)))
        }
        Err(cause) => Err(EndpointError::NoContext {
            name: name.to_owned(),
            cause: not_found(&contexts.meta_path(name), &cause),
        }),
    }
}

/// A failure to open a file in the words of Go.
pub(crate) fn not_found(path: &Path, cause: &std::io::Error) -> String {
    match cause.kind() {
        std::io::ErrorKind::NotFound => {
            format!("open {}: no such file or directory", path.display())
        }
        _ => format!("open {}: {cause}", path.display()),
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
        check("ssh://me@far:22", "ssh://me@far:22");
        check("ssh://far", "ssh://far");
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
            Endpoint::parse("npipe://host"),
            Err(EndpointError::Scheme(_))
        ));
        assert!(Endpoint::parse("ssh://-oProxyCommand=x").is_err());
        assert!(Endpoint::parse("ssh://me@host/path").is_err());
    }
}
