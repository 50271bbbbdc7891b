//! What a container may reach beyond its networks: a list of names and address ranges with ports.
//!
//! ```text
//!   api.example.org:443   *.example.org:443   10.1.0.0/16:5432/tcp   [fd00::/8]:53/udp   10.0.0.9:*
//! ```
//!
//! A port without a protocol is that of TCP and of UDP; `*` is every port and every protocol, for
//! addresses only. An empty list allows nothing. It is written as a label, so that every client
//! can say it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::port::Protocol;

/// Label of a container, and label or driver option of a network, that holds the list.
pub const EGRESS_LABEL: &str = "hull.egress";
/// Entries of one list.
pub const EGRESS_ENTRIES_MAX: usize = 256;
/// Bytes of a name in the DNS.
const NAME_BYTES_MAX: usize = 253;
/// Bytes of one of its labels.
const LABEL_BYTES_MAX: usize = 63;
/// The list that allows nothing, as a word.
const NOTHING: &str = "none";

/// A list of what may be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress(pub Vec<EgressEntry>);

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressEntry {
    /// Who may be reached.
    pub target: EgressTarget,
    /// At which ports.
    pub ports: EgressPorts,
}

/// Who may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EgressTarget {
    /// Whoever has this name, in lower case; `*.` at its beginning: whoever is below the rest.
    Name(String),
    /// An address with the length of its prefix.
    Range(IpAddr, u8),
}

/// At which ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EgressPorts {
    /// All, of every protocol.
    All,
    /// One, of TCP and UDP or of one protocol.
    One(u16, Option<Protocol>),
}

/// Why a list cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEgress {
    /// An entry is not a target, a colon and a port.
    #[error(
        "{0:?} is not NAME:PORT or ADDRESS/PREFIX:PORT, such as example.org:443 or 10.0.0.0/8:*"
    )]
    Entry(String),
    /// Addresses of a name are learnt while it is asked for, port by port.
    #[error("{0:?} needs a port: a name cannot be allowed with all ports")]
    NameWithoutPort(String),
    /// There are too many.
    #[error("an egress policy has at most {EGRESS_ENTRIES_MAX} entries")]
    TooMany,
}

impl Egress {
    /// Whether any entry is a name.
    pub fn has_names(&self) -> bool {
        let name = |entry: &EgressEntry| matches!(entry.target, EgressTarget::Name(_));
        self.0.iter().any(name)
    }

    /// Whether a name may be asked for: with names alone only those, since a question carries data
    /// outside too; with ranges any, since what they hold may have any name.
    pub fn may_ask(&self, name: &str) -> bool {
        let ranges = || {
            self.0
                .iter()
                .any(|e| matches!(e.target, EgressTarget::Range(..)))
        };
        ranges() || self.ports_of(name).next().is_some()
    }

    /// The ports at which whoever has this name (lower case, no last dot) may be reached.
    pub fn ports_of<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (u16, Option<Protocol>)> + 'a {
        let of_entry = move |entry: &EgressEntry| match (&entry.target, entry.ports) {
            (EgressTarget::Name(pattern), EgressPorts::One(port, protocol))
                if fits(pattern, name) =>
            {
                Some((port, protocol))
            }
            _ => None,
        };
        self.0.iter().filter_map(of_entry)
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(rest) => name.len() > rest.len() && name.ends_with(rest),
        None => pattern == name,
    }
}

impl FromStr for Egress {
    type Err = InvalidEgress;

    fn from_str(text: &str) -> Result<Self, InvalidEgress> {
        let plain = text.trim().trim_start_matches('[');
        let is_list =
            text.trim().starts_with('[') && text.trim().ends_with(']') && !plain.contains("]:");
        let text = if is_list {
            plain.trim_end_matches(']')
        } else {
            text
        };
        let words = text.split([',', ' ', '\n']).map(str::trim);
        let entries: Vec<EgressEntry> = words
            .filter(|word| !word.is_empty() && *word != NOTHING)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        match entries.len() > EGRESS_ENTRIES_MAX {
            true => Err(InvalidEgress::TooMany),
            false => Ok(Self(entries)),
        }
    }
}

impl FromStr for EgressEntry {
    type Err = InvalidEgress;

    fn from_str(text: &str) -> Result<Self, InvalidEgress> {
        let invalid = || InvalidEgress::Entry(text.to_owned());
        let (target, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let target = target_of(target).ok_or_else(invalid)?;
        let ports = ports_of(port).ok_or_else(invalid)?;
        if matches!(target, EgressTarget::Name(_)) && ports == EgressPorts::All {
            return Err(InvalidEgress::NameWithoutPort(text.to_owned()));
        }
        Ok(Self { target, ports })
    }
}

fn ports_of(text: &str) -> Option<EgressPorts> {
    let (port, protocol) = match text.split_once('/') {
        Some((port, protocol)) => (port, Some(protocol.parse().ok()?)),
        None => (text, None),
    };
    match port {
        "*" if protocol.is_none() => Some(EgressPorts::All),
        port => Some(EgressPorts::One(
            port.parse().ok().filter(|&p| p != 0)?,
            protocol,
        )),
    }
}

fn target_of(text: &str) -> Option<EgressTarget> {
    let plain = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let bare = plain.unwrap_or(text);
    let (address, length) = bare
        .split_once('/')
        .map_or((bare, None), |(a, l)| (a, Some(l)));
    if let Ok(address) = address.parse::<IpAddr>() {
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Some(width), |text| text.parse().ok())?;
        // Without brackets the last group of an IPv6 address would pass for a port.
        let told_apart = address.is_ipv4() || plain.is_some();
        return (length <= width && told_apart).then_some(EgressTarget::Range(address, length));
    }
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let labels = name.strip_prefix("*.").unwrap_or(&name).split('.');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let good = |label: &str| {
        !label.is_empty() && label.len() <= LABEL_BYTES_MAX && label.bytes().all(plain)
    };
    (name.len() <= NAME_BYTES_MAX && labels.into_iter().all(good))
        .then_some(EgressTarget::Name(name))
}

impl fmt::Display for EgressEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            EgressTarget::Name(name) => f.write_str(name)?,
            EgressTarget::Range(address @ IpAddr::V4(_), length) => {
                write!(f, "{address}/{length}")?
            }
            EgressTarget::Range(address, length) => write!(f, "[{address}/{length}]")?,
        }
        match self.ports {
            EgressPorts::All => f.write_str(":*"),
            EgressPorts::One(port, None) => write!(f, ":{port}"),
            EgressPorts::One(port, Some(protocol)) => write!(f, ":{port}/{protocol}"),
        }
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<String> = self.0.iter().map(EgressEntry::to_string).collect();
        f.write_str(&entries.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::Egress;

    fn check(text: &str, expected: &str) {
        let shown = match text.parse::<Egress>() {
            Ok(egress) => egress.to_string(),
            Err(error) => error.to_string(),
        };
        assert!(shown.starts_with(expected), "{text}: {shown}");
    }

    #[test]
    fn lists_are_read() {
        check("", "");
        check("none", "");
        check("API.example.org.:443", "api.example.org:443");
        check("a:1, b:2/udp\n10.0.0.0/8:*", "a:1,b:2/udp,10.0.0.0/8:*");
        check("[a:1,10.0.0.9:53]", "a:1,10.0.0.9/32:53");
        check("[fd00::/8]:53/udp", "[fd00::/8]:53/udp");
        check("[fd00::1]:*,a:1", "[fd00::1/128]:*,a:1");
        check("*.example.org:443", "*.example.org:443");
        for wrong in [
            "a",
            "a:",
            "a:0",
            "a:70000",
            "a:1/icmp",
            "10.0.0.0/33:1",
            "fd00::1:1",
            "a..b:1",
            "*:1x",
            ":1",
        ] {
            check(wrong, &format!("{wrong:?} is not"));
        }
        check("a:*", "\"a:*\" needs a port");
    }

    #[test]
    fn names_are_found_and_ranges_let_every_name_be_asked() {
        let egress: Egress = "a.org:443,*.b.org:80/tcp".parse().unwrap();
        assert_eq!(egress.ports_of("a.org").count(), 1);
        assert_eq!(egress.ports_of("x.b.org").count(), 1);
        assert_eq!(egress.ports_of("b.org").count(), 0);
        assert!(!egress.may_ask("c.org") && egress.may_ask("y.x.b.org"));
        let ranges: Egress = "10.0.0.0/8:*".parse().unwrap();
        assert!(ranges.may_ask("c.org") && !ranges.has_names());
    }
}
