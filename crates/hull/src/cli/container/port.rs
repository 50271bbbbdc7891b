//! `--publish` and `--expose`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::wire::{Empty, PortBinding};

/// Ports of the container by number and protocol (`80/tcp`), with where they are published.
pub(crate) type PortBindings = BTreeMap<String, Vec<PortBinding>>;

/// Adds what one `--publish` says: `[[address:]host port:]container port[/protocol]`, or the long
/// form with `target=`.
///
/// # Errors
/// The words of Docker's client.
pub(crate) fn publish(text: &str, bindings: &mut PortBindings) -> Result<(), String> {
    let text = &short_form(text)?;
    let (ip, host, container) = split(text);
    let (container, protocol) = split_protocol(container);
    let ip = address(ip)?;
    if container.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    let inside =
        parse_range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let outside = match host {
        "" => None,
        host => Some(parse_range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
    };
    let length = |range: (u16, u16)| range.1 - range.0;
    if let Some(outside) = outside
        && length(outside) != length(inside)
        && length(inside) != 0
    {
        return Err(format!(
            "invalid ranges specified for container and host Ports: {container} and {host}"
        ));
    }
    let protocol = check_protocol(protocol)?;
    for offset in 0..=length(inside) {
        let host_port = match outside {
            None => String::new(),
            // One port inside and many outside: the engine takes any that is free.
            Some((first, last)) if length(inside) == 0 && first != last => {
                format!("{first}-{last}")
            }
            Some((first, _)) => (first + offset).to_string(),
        };
        let binding = PortBinding {
            host_ip: ip.clone(),
            host_port,
        };
        bindings
            .entry(format!("{}/{protocol}", inside.0 + offset))
            .or_default()
            .push(binding);
    }
    Ok(())
}

/// Adds what one `--expose` says: `port[-port][/protocol]`.
///
/// # Errors
/// The words of Docker's client.
pub(super) fn expose(text: &str, ports: &mut BTreeMap<String, Empty>) -> Result<(), String> {
    if text.contains(':') {
        return Err(format!("invalid port format for --expose: {text}"));
    }
    let (range, protocol) = split_protocol(text);
    let invalid = || {
        let part = range.split('-').find(|part| part.parse::<u16>().is_err());
        let part = part.unwrap_or_default();
        format!(
            "invalid range format for --expose: {range}, error: strconv.ParseUint: parsing \
             {part:?}: invalid syntax"
        )
    };
    let (first, last) = parse_range(range).ok_or_else(invalid)?;
    let protocol = check_protocol(protocol)?;
    for port in first..=last {
        ports.insert(format!("{port}/{protocol}"), Empty {});
    }
    Ok(())
}

/// Turns `published=80,target=8080,protocol=udp` into `80:8080/udp`.
fn short_form(text: &str) -> Result<String, String> {
    if !text.contains('=') {
        return Ok(text.to_owned());
    }
    let (mut published, mut target, mut protocol) = ("", "", "tcp");
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("published", value)) => published = value,
            Some(("target", value)) => target = value,
            Some(("protocol", value)) => protocol = value,
            Some((key, _)) if !key.is_empty() => {}
            _ => {
                return Err(format!(
                    "invalid publish opts format (should be name=value but got '{field}')"
                ));
            }
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

/// Address, host port and container port; the address may have colons of its own.
fn split(text: &str) -> (&str, &str, &str) {
    let Some((before, container)) = text.rsplit_once(':') else {
        return ("", "", text);
    };
    match before.rsplit_once(':') {
        Some((ip, host)) => (ip, host, container),
        None => ("", before, container),
    }
}

fn split_protocol(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((port, protocol)) if !protocol.is_empty() => (port, protocol),
        Some((port, _)) => (port, "tcp"),
        None => (text, "tcp"),
    }
}

fn check_protocol(protocol: &str) -> Result<String, String> {
    let lower = protocol.to_lowercase();
    match lower.as_str() {
        "tcp" | "udp" | "sctp" => Ok(lower),
        _ => Err(format!("invalid proto: {protocol}")),
    }
}

fn address(text: &str) -> Result<String, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {text}"));
    }
    Ok(bare.to_owned())
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str, &str)]) {
        let mut bindings = PortBindings::new();
        publish(text, &mut bindings).unwrap();
        let found: Vec<(&str, &str, &str)> = bindings
            .iter()
            .flat_map(|(port, bindings)| {
                bindings
                    .iter()
                    .map(|b| (port.as_str(), b.host_ip.as_str(), b.host_port.as_str()))
            })
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn ports_are_published_as_docker_does() {
        check("80", &[("80/tcp", "", "")]);
        check("8080:80", &[("80/tcp", "", "8080")]);
        check("127.0.0.1:8080:80/udp", &[("80/udp", "127.0.0.1", "8080")]);
        check("127.0.0.1::80", &[("80/tcp", "127.0.0.1", "")]);
        check("[::1]:8080:80", &[("80/tcp", "::1", "8080")]);
        check("1-2:3-4", &[("3/tcp", "", "1"), ("4/tcp", "", "2")]);
        check("8000-8010:80", &[("80/tcp", "", "8000-8010")]);
        check("published=1,target=2,protocol=sctp", &[("2/sctp", "", "1")]);
    }

    #[test]
    fn ports_that_make_no_sense_are_refused() {
        let error = |text| publish(text, &mut PortBindings::new()).unwrap_err();
        assert_eq!(
            error("1-2:3-5"),
            "invalid ranges specified for container and host Ports: 3-5 and 1-2"
        );
        assert_eq!(error("x:80"), "invalid hostPort: x");
        assert_eq!(error("80/foo"), "invalid proto: foo");
        assert_eq!(error("host:1:80"), "invalid IP address: host");
        assert_eq!(error("8080:"), "no port specified: 8080:<empty>");
    }
}
