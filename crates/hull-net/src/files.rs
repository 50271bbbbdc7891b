//! Contents of `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.
//!
//! Lines, order and separators are those of Docker, because images parse them.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::resolver::RESOLVER_ADDRESS;

/// Where systemd-resolved keeps the servers behind its own loopback resolver.
pub const RESOLVED_PATH: &str = "/run/systemd/resolve/resolv.conf";
/// Where the host's resolvers are.
pub const RESOLV_PATH: &str = "/etc/resolv.conf";
/// Used when no resolver of the host can be reached from a network of its own, as in Docker.
const FALLBACK_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// What `/etc/hosts` is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts<'a> {
    /// The container's name for itself.
    pub hostname: &'a str,
    /// Its domain; may be empty.
    pub domain: &'a str,
    /// Its addresses.
    pub addresses: &'a [IpAddr],
    /// Further names with their addresses (`--add-host`).
    pub extra: &'a [(String, IpAddr)],
}

/// Contents of `/etc/hosts`.
pub fn hosts(hosts: &Hosts<'_>) -> String {
    let mut text = "127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::\tip6-localnet\n\
                    ff00::\tip6-mcastprefix\n\
                    ff02::1\tip6-allnodes\n\
                    ff02::2\tip6-allrouters\n"
        .to_owned();
    for (name, address) in hosts.extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    let Hosts {
        hostname, domain, ..
    } = hosts;
    for address in hosts.addresses {
        text.push_str(&own_line(*address, hostname, domain));
    }
    text
}

/// The line of `/etc/hosts` by which a container finds itself.
pub fn own_line(address: IpAddr, hostname: &str, domain: &str) -> String {
    match domain.is_empty() {
        true => format!("{address}\t{hostname}\n"),
        false => format!("{address}\t{hostname}.{domain} {hostname}\n"),
    }
}

/// Contents of `/etc/hostname`.
pub fn hostname(hostname: &str) -> String {
    format!("{hostname}\n")
}

/// What was asked for instead of the host's settings; an empty list: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolverOverrides<'a> {
    /// Name servers (`--dns`).
    pub servers: &'a [IpAddr],
    /// Search domains (`--dns-search`); a single `.` means none.
    pub search: &'a [String],
    /// Options (`--dns-option`).
    pub options: &'a [String],
}

/// The file that tells the host's resolvers, given the content of [`RESOLV_PATH`]: a host whose
/// only server is systemd-resolved's own keeps the real ones elsewhere.
pub fn resolvers_path(resolv: &str) -> &'static str {
    match ResolvConf::parse(resolv).servers.as_slice() {
        ["127.0.0.53"] => RESOLVED_PATH,
        _ => RESOLV_PATH,
    }
}

/// Contents of `/etc/resolv.conf` for a container with a network of its own: the host's, without
/// the servers that only the host itself can reach.
pub fn resolv_conf(host: &str, overrides: &ResolverOverrides<'_>) -> String {
    let mut conf = ResolvConf::parse(host);
    conf.servers.retain(|server| is_reachable(server));
    let given: Vec<String> = overrides.servers.iter().map(IpAddr::to_string).collect();
    if !given.is_empty() {
        conf.servers = given.iter().map(String::as_str).collect();
    } else if conf.servers.is_empty() {
        conf.servers = FALLBACK_SERVERS.to_vec();
    }
    conf.overridden(overrides).to_text()
}

/// Contents of `/etc/resolv.conf` for a container on the host's network: the host's as it is,
/// unless something else was asked for.
pub fn resolv_conf_of_host(host: &str, overrides: &ResolverOverrides<'_>) -> String {
    if *overrides == ResolverOverrides::default() {
        return host.to_owned();
    }
    let given: Vec<String> = overrides.servers.iter().map(IpAddr::to_string).collect();
    let mut conf = ResolvConf::parse(host);
    if !given.is_empty() {
        conf.servers = given.iter().map(String::as_str).collect();
    }
    conf.overridden(overrides).to_text()
}

/// Contents of `/etc/resolv.conf` for a container that asks our name server: the host's search
/// domains and options, and names without a dot are asked for as they are.
pub fn resolv_conf_of_resolver(host: &str, overrides: &ResolverOverrides<'_>) -> String {
    let server = RESOLVER_ADDRESS.to_string();
    let mut conf = ResolvConf::parse(host).overridden(overrides);
    conf.servers = vec![&server];
    if !conf
        .options
        .iter()
        .any(|option| option.starts_with("ndots:"))
    {
        conf.options.push("ndots:0");
    }
    conf.to_text()
}

/// The name servers of a `resolv.conf`.
pub fn servers(text: &str) -> Vec<IpAddr> {
    let conf = ResolvConf::parse(text);
    let parse = |server: &&str| server.parse().ok();
    conf.servers.iter().filter_map(parse).collect()
}

/// Loopback servers and link-local ones (whose zone is a link of the host) stay with the host.
fn is_reachable(server: &str) -> bool {
    match server.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => !v4.is_loopback() && !v4.is_unspecified(),
        // A network without IPv6 reaches no IPv6 server.
        Ok(IpAddr::V6(_)) | Err(_) => false,
    }
}

#[derive(Debug, Default)]
struct ResolvConf<'a> {
    servers: Vec<&'a str>,
    search: Vec<&'a str>,
    options: Vec<&'a str>,
    /// Lines that we do not know, e.g. `sortlist`.
    other: Vec<&'a str>,
}

impl<'a> ResolvConf<'a> {
    fn parse(text: &'a str) -> Self {
        let mut conf = Self::default();
        for line in text.lines().map(str::trim) {
            let mut words = line.split_whitespace();
            match words.next() {
                None => {}
                Some(word) if word.starts_with(['#', ';']) => {}
                Some("nameserver") => conf.servers.extend(words.next()),
                // The last one counts, says resolv.conf(5).
                Some("search") => conf.search = words.collect(),
                Some("domain") => conf.search = words.take(1).collect(),
                Some("options") => conf.options.extend(words),
                Some(_) => conf.other.push(line),
            }
        }
        conf
    }

    fn overridden(mut self, overrides: &ResolverOverrides<'a>) -> Self {
        if !overrides.search.is_empty() {
            self.search = overrides.search.iter().map(String::as_str).collect();
        }
        if self.search == ["."] {
            self.search.clear();
        }
        if !overrides.options.is_empty() {
            self.options = overrides.options.iter().map(String::as_str).collect();
        }
        self
    }

    fn to_text(&self) -> String {
        let mut text = "# Made by Hull from the host's file; edit it as you like.\n\n".to_owned();
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        for (word, values) in [("search", &self.search), ("options", &self.options)] {
            if !values.is_empty() {
                let _ = writeln!(text, "{word} {}", values.join(" "));
            }
        }
        for line in &self.other {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Hosts, ResolverOverrides, hosts, resolv_conf, resolv_conf_of_host, resolvers_path, servers,
    };

    #[test]
    fn hosts_has_further_names_before_its_own() {
        let text = hosts(&Hosts {
            hostname: "web",
            domain: "corp",
            addresses: &[[172, 17, 0, 2].into()],
            extra: &[("db".to_owned(), [10, 0, 0, 1].into())],
        });
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost"));
        assert!(
            text.ends_with("\n10.0.0.1\tdb\n172.17.0.2\tweb.corp web\n"),
            "{text}"
        );
    }

    fn check(host: &str, overrides: &ResolverOverrides<'_>, expected: &str) {
        let text = resolv_conf(host, overrides);
        let (_comment, lines) = text.split_once("\n\n").unwrap();
        assert_eq!(lines, expected, "{host}");
    }

    #[test]
    fn servers_that_only_the_host_reaches_are_left_out() {
        let none = ResolverOverrides::default();
        check(
            "# x\nnameserver 127.0.0.1\nnameserver 10.0.0.1\nsearch a b\noptions ndots:2\n",
            &none,
            "nameserver 10.0.0.1\nsearch a b\noptions ndots:2\n",
        );
        check(
            "nameserver ::1\nnameserver fe80::1%eth0",
            &none,
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\n",
        );
        check(
            "nameserver 1.1.1.1\ndomain x\nsortlist 1/2",
            &none,
            "nameserver 1.1.1.1\nsearch x\nsortlist 1/2\n",
        );
    }

    #[test]
    fn what_was_asked_for_wins() {
        let search = [".".to_owned()];
        let options = ["ndots:1".to_owned()];
        let servers = ["127.0.0.2".parse().unwrap()];
        let all = ResolverOverrides {
            servers: &servers,
            search: &search,
            options: &options,
        };
        check(
            "nameserver 10.0.0.1\nsearch a",
            &all,
            "nameserver 127.0.0.2\noptions ndots:1\n",
        );
    }

    #[test]
    fn the_host_network_has_the_file_of_the_host() {
        let host = "# mine\nnameserver 127.0.0.53\n";
        assert_eq!(
            resolv_conf_of_host(host, &ResolverOverrides::default()),
            host
        );
        assert_eq!(resolvers_path(host), super::RESOLVED_PATH);
        assert_eq!(
            resolvers_path("nameserver 127.0.0.53\nnameserver 1.1.1.1"),
            super::RESOLV_PATH
        );
    }

    #[test]
    fn every_input_of_the_corpus_is_options_or_an_error() {
        let checkout = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        if !checkout.exists() {
            println!("skip every_input_of_the_corpus_is_options_or_an_error: no checkout here");
            return;
        }
        let corpus = checkout.join("../../fuzz/corpus/network_options");
        let mut replayed = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            for line in text.lines() {
                if let Ok(subnet) = line.parse::<crate::Subnet>() {
                    assert_eq!(subnet.to_string().parse(), Ok(subnet), "{line}");
                    let last = subnet.at(subnet.last_offset());
                    assert_eq!(subnet.offset(last), Some(subnet.last_offset()), "{line}");
                }
            }
            let inside = resolv_conf(&text, &ResolverOverrides::default());
            let inside = servers(&inside);
            assert!(!inside.iter().any(std::net::IpAddr::is_loopback), "{text}");
            replayed += 1;
        }
        assert!(replayed > 0, "the corpus is empty");
    }
}
