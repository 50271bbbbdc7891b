//! What a container asks for: Docker's port bindings, read into ranges of the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hull_model::port::Protocol;
use hull_model::spec::{ContainerSpec, NetworkMode, PortBinding};

use super::PORTS_MAX;
use crate::error::{EngineError, Result};

/// One binding that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) protocol: Protocol,
    pub(crate) container_port: u16,
    /// None: the network's default, which for "every address" has both families.
    pub(crate) ip: Option<IpAddr>,
    /// None: any that is free.
    pub(crate) range: Option<(u16, u16)>,
}

impl Asked {
    pub(super) fn exact_port(&self) -> Option<u16> {
        self.range
            .and_then(|(first, last)| (first == last).then_some(first))
    }

    pub(super) fn is_exact(&self) -> bool {
        self.exact_port().is_some()
    }

    /// Where on the host: all of them get the same port.
    pub(super) fn addresses(&self, default_ip: IpAddr) -> Vec<IpAddr> {
        match self.ip {
            Some(ip) => vec![ip],
            None if default_ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED) => {
                vec![default_ip, Ipv6Addr::UNSPECIFIED.into()]
            }
            None => vec![default_ip],
        }
    }
}

fn invalid_port(text: &str) -> EngineError {
    EngineError::Invalid(format!("invalid port specification: \"{text}\""))
}

/// Reads `80/tcp`.
fn container_port(text: &str) -> Result<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol
        .parse()
        .map_err(|error: hull_model::port::InvalidProtocol| {
            EngineError::Invalid(error.to_string())
        })?;
    let number = port.parse().ok().filter(|&number| number != 0);
    Ok((number.ok_or_else(|| invalid_port(text))?, protocol))
}

/// Reads `8080`, `8000-8010` or nothing.
fn host_range(text: &str) -> Result<Option<(u16, u16)>> {
    let parse = |text: &str| text.parse::<u16>().ok();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (text, parse(first), parse(last)) {
        ("" | "0", ..) => Ok(None),
        (_, Some(first), Some(last)) if first != 0 && first <= last => Ok(Some((first, last))),
        _ => Err(invalid_port(text)),
    }
}

/// One binding as clients write it.
pub(crate) fn parse_binding(port: &str, binding: &PortBinding) -> Result<Asked> {
    let (container_port, protocol) = container_port(port)?;
    let ip = match binding.host_ip.as_str() {
        "" => None,
        text => Some(
            text.trim_matches(['[', ']'])
                .parse()
                .map_err(|_| EngineError::Invalid(format!("invalid IP address: {text}")))?,
        ),
    };
    Ok(Asked {
        protocol,
        container_port,
        ip,
        range: host_range(&binding.host_port)?,
    })
}

/// All that a container asks for: its bindings, and with `-P` a free port for each exposed port
/// that has none. Nothing where it has no network of its own.
pub(crate) fn asked(spec: &ContainerSpec) -> Result<Vec<Asked>> {
    if matches!(
        spec.host.network,
        NetworkMode::Host | NetworkMode::None | NetworkMode::Container(_)
    ) {
        return Ok(Vec::new());
    }
    let bindings = &spec.host.port_bindings;
    let any = [PortBinding::default()];
    let mut all = Vec::new();
    for (port, given) in bindings {
        let given = if given.is_empty() { &any } else { &given[..] };
        for binding in given {
            all.push(parse_binding(port, binding)?);
        }
    }
    if spec.host.publish_all_ports {
        let exposed = spec.config.exposed().into_iter();
        for port in exposed.filter(|port| !bindings.contains_key(port)) {
            all.push(parse_binding(&port, &PortBinding::default())?);
        }
    }
    if all.len() * 2 > PORTS_MAX {
        let most = PORTS_MAX / 2;
        return Err(EngineError::Invalid(format!(
            "a container can publish {most} ports, not {}",
            all.len()
        )));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(port: &str, ip: &str, host: &str, expected: Option<&Asked>) {
        let binding = PortBinding {
            host_ip: ip.to_owned(),
            host_port: host.to_owned(),
        };
        assert_eq!(
            parse_binding(port, &binding).ok().as_ref(),
            expected,
            "{port} {ip} {host}"
        );
    }

    #[test]
    fn bindings_are_read_as_docker_reads_them() {
        let asked = |protocol, ip: Option<&str>, range| Asked {
            protocol,
            container_port: 80,
            ip: ip.map(|ip| ip.parse().unwrap()),
            range,
        };
        check(
            "80/tcp",
            "",
            "8080",
            Some(&asked(Protocol::Tcp, None, Some((8080, 8080)))),
        );
        check("80", "", "", Some(&asked(Protocol::Tcp, None, None)));
        check(
            "80/udp",
            "::1",
            "0",
            Some(&asked(Protocol::Udp, Some("::1"), None)),
        );
        check(
            "80/sctp",
            "[::1]",
            "5-9",
            Some(&asked(Protocol::Sctp, Some("::1"), Some((5, 9)))),
        );
        check("0/tcp", "", "", None);
        check("x/tcp", "", "", None);
        check("80/icmp", "", "", None);
        check("80/tcp", "10.0.0", "", None);
        check("80/tcp", "", "9-5", None);
        check("80/tcp", "", "65536", None);
    }
}
