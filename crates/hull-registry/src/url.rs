//! Addresses of HTTP resources, as far as registries use them.

use std::fmt;

/// Bytes of an address that a server may send us to.
pub(crate) const URL_BYTES_MAX: usize = 16 << 10;

/// Which server: what decides whether a credential may go there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) tls: bool,
    /// Name or address, without brackets, in lower case.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// For the `Host` header and for people: the port is left out where it is the usual one.
    pub(crate) fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            _ => format!("{host}:{}", self.port),
        }
    }

    /// With the port, always.
    pub(crate) fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// An absolute address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) origin: Origin,
    /// Path and query; starts with a slash.
    pub(crate) target: String,
}

impl Url {
    /// Reads `http://…` or `https://…`; anything else is none.
    pub(crate) fn parse(text: &str) -> Option<Url> {
        let (scheme, rest) = text.split_once("://")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let text = rest.split('#').next().unwrap_or(rest);
        let at = text.find(['/', '?']).unwrap_or(text.len());
        let (authority, target) = text.split_at(at);
        // `user:password@` would be a credential of somebody's choice.
        if authority.contains('@') || !is_visible(text) || text.len() > URL_BYTES_MAX {
            return None;
        }
        let (host, port) = split_port(authority)?;
        let target = match target.starts_with('/') {
            true => target.to_owned(),
            false => format!("/{target}"),
        };
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        Some(Url {
            origin: Origin { tls, host, port },
            target,
        })
    }

    /// The address that a `Location` on this one means.
    pub(crate) fn join(&self, location: &str) -> Option<Url> {
        if location.contains("://") {
            return Url::parse(location);
        }
        if !is_visible(location) || location.len() > URL_BYTES_MAX {
            return None;
        }
        let scheme = if self.origin.tls { "https" } else { "http" };
        if location.starts_with("//") {
            return Url::parse(&format!("{scheme}:{location}"));
        }
        let target = match location.starts_with('/') {
            true => location.to_owned(),
            false => {
                let path = self.target.split('?').next().unwrap_or("/");
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("{folder}/{location}")
            }
        };
        Some(Url {
            origin: self.origin.clone(),
            target,
        })
    }

    /// The same with `name=value` in its query.
    pub(crate) fn with_query(&self, name: &str, value: &str) -> Url {
        let mut target = self.target.clone();
        target.push(if target.contains('?') { '&' } else { '?' });
        target.push_str(name);
        target.push('=');
        percent_encode(value, &mut target);
        Url {
            origin: self.origin.clone(),
            target,
        }
    }
}

/// Without the query: what people may see.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or("/");
        write!(f, "{}{path}", self.origin)
    }
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// Splits `host`, `host:port`, `[v6]`, `[v6]:port`.
pub(crate) fn split_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (
                host,
                rest.strip_prefix(':')
                    .or((!rest.is_empty()).then_some(rest)),
            )
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return None;
    }
    let port = port
        .map(|port| port.parse().ok())
        .map_or(Some(None), |p| p.map(Some))?;
    Some((host.to_ascii_lowercase(), port))
}

pub(crate) fn percent_encode(text: &str, to: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                to.push(char::from(byte));
            }
            _ => {
                let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0');
                to.push('%');
                to.push(digit(byte >> 4).to_ascii_uppercase());
                to.push(digit(byte & 15).to_ascii_uppercase());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_without_their_query() {
        let check = |text: &str, expected: Option<&str>| {
            let shown = Url::parse(text).map(|url| url.to_string());
            assert_eq!(shown.as_deref(), expected, "{text}");
        };
        check("https://h.io/v2/?a=b#c", Some("https://h.io/v2/"));
        check("HTTP://H.io:80", Some("http://h.io/"));
        check("https://h.io:5000?x=y", Some("https://h.io:5000/"));
        check("http://[fd00::1]:5000/a", Some("http://[fd00::1]:5000/a"));
        check("https://u:p@h.io/", None);
        check("ftp://h.io/", None);
        check("https://h.io:x/", None);
        check("https:///x", None);
        check("https://h.io/a b", None);
        check("http://[fd00::1]x/a", None);
    }

    #[test]
    fn locations_are_absolute_or_relative() {
        let base = Url::parse("https://h.io/v2/a/blobs/uploads/?x=1").expect("valid");
        let check = |location: &str, expected: &str| {
            let joined = base.join(location).expect(location);
            assert_eq!(format!("{}{}", joined.origin, joined.target), expected);
        };
        check("http://o.io/p?q=r", "http://o.io/p?q=r");
        check("/p?q=r", "https://h.io/p?q=r");
        check("//o.io:1/p", "https://o.io:1/p");
        check("u1?s=t", "https://h.io/v2/a/blobs/uploads/u1?s=t");
        assert_eq!(base.join("/a\r\nX: y"), None);
    }

    #[test]
    fn queries_are_encoded() {
        let base = Url::parse("https://h.io/v2/?x=1").expect("valid");
        let url = base.with_query("digest", "sha256:ab/c");
        assert_eq!(url.target, "/v2/?x=1&digest=sha256%3Aab%2Fc");
    }
}
