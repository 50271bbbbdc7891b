//! Which servers stand for a domain, and how each is to be reached.
//!
//! ```text
//!  options    --registry-mirror (Docker Hub only), --insecure-registry, proxies
//!  certs.d/<host[:port]>/   *.crt: further authorities   NAME.cert + NAME.key: who we are
//!                           hosts.toml: containerd's file, which then decides alone
//! ```
//!
//! Loopback is insecure by nature, as in Docker: plain HTTP is tried where TLS does not answer. Files
//! are read when they are needed, so that a change needs no restart.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::url::{Origin, Url, split_port};

/// Where Docker Hub's registry lives.
const HUB_REGISTRY: &str = "registry-1.docker.io";
const HUB_DOMAIN: &str = "docker.io";
/// Bytes of a `hosts.toml`.
const HOSTS_TOML_BYTES_MAX: u64 = 1 << 20;
/// Mirrors of one domain.
const MIRRORS_MAX: usize = 32;

/// An option that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} {value:?}: {problem}")]
pub struct HostsError {
    /// Which.
    pub option: &'static str,
    /// As given.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// How the outside is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For plain HTTP.
    pub http: Option<String>,
    /// For TLS.
    pub https: Option<String>,
    /// What is reached without: names, `.suffixes`, addresses, networks, `*`; commas between.
    pub exceptions: String,
}

impl Proxies {
    /// From `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, in capitals or not.
    pub fn from_environment() -> Self {
        let variable = |name: &str| {
            let value = std::env::var(name).or_else(|_| std::env::var(name.to_lowercase()));
            value.ok().filter(|value| !value.is_empty())
        };
        Self {
            http: variable("HTTP_PROXY"),
            https: variable("HTTPS_PROXY"),
            exceptions: variable("NO_PROXY").unwrap_or_default(),
        }
    }

    /// The proxy for a server; none: directly.
    pub(crate) fn for_origin(&self, origin: &Origin) -> Option<&str> {
        let proxy = if origin.tls { &self.https } else { &self.http };
        let proxy = proxy.as_deref()?;
        let excepted = is_loopback(&origin.host)
            || self
                .exceptions
                .split(',')
                .any(|rule| except(rule.trim(), origin));
        (!excepted).then_some(proxy)
    }
}

fn except(rule: &str, origin: &Origin) -> bool {
    if rule == "*" {
        return true;
    }
    if let (Some(network), Ok(address)) = (Network::parse(rule), origin.host.parse()) {
        return network.contains(address);
    }
    let Some((name, port)) = split_port(rule) else {
        return false;
    };
    let bare = name
        .strip_prefix("*.")
        .or(name.strip_prefix('.'))
        .unwrap_or(&name);
    let below = origin
        .host
        .strip_suffix(bare)
        .is_some_and(|rest| rest.ends_with('.'));
    port.is_none_or(|port| port == origin.port)
        && (below || (!name.starts_with(['.', '*']) && origin.host == name))
}

/// An address range.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Network> {
        let (address, bits) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let bits = bits.parse().ok()?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        (bits <= all).then_some(Network { address, bits })
    }

    fn contains(&self, address: IpAddr) -> bool {
        let number = |address: IpAddr| match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
            IpAddr::V6(v6) => (v6.to_bits(), false),
        };
        let ((ours, v4), (theirs, also_v4)) = (number(self.address), number(address));
        let differs = ours ^ theirs;
        v4 == also_v4 && (self.bits == 0 || differs >> (128 - self.bits) == 0)
    }
}

pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// What the daemon's options say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Asked before Docker Hub.
    pub mirrors: Vec<String>,
    /// `host[:port]` or networks, reached without TLS or without trust.
    pub insecure: Vec<String>,
    /// How the outside is reached.
    pub proxies: Proxies,
    /// Folders with one folder per host, the first that has it counts; empty: those of Hull, Docker
    /// and containerd.
    pub certs_dirs: Vec<PathBuf>,
}

/// Which servers stand for a domain.
#[derive(Debug, Clone)]
pub struct Hosts {
    mirrors: Vec<Url>,
    insecure: Vec<String>,
    insecure_networks: Vec<Network>,
    certs_dirs: Vec<PathBuf>,
    pub(crate) proxies: Proxies,
}

/// How a server proves who it is, and we.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Any certificate will do.
    pub skip_verify: bool,
    /// Authorities beside the system's, as PEM files.
    pub authorities: Vec<PathBuf>,
    /// The system's authorities do not count.
    pub no_system: bool,
    /// Our certificate and its key, as PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// One server that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The base, `…/v2`; further ones are tried where the one before does not answer.
    pub(crate) bases: Vec<Url>,
    pub(crate) trust: Trust,
    /// Not the registry itself: gets no credential, and a failure of it is no failure.
    pub(crate) mirror: bool,
    /// Whether it may say what a tag means.
    pub(crate) resolves: bool,
    pub(crate) takes_pushes: bool,
    pub(crate) headers: Vec<(String, String)>,
}

impl Hosts {
    /// Reads options.
    ///
    /// # Errors
    /// Which option cannot be used, and why.
    pub fn new(options: RegistryOptions) -> Result<Hosts, HostsError> {
        let mut mirrors = Vec::new();
        for value in options.mirrors {
            let problem = "not an address like https://mirror.example";
            let Some(url) = Url::parse(&value).filter(|url| !url.target.contains('?')) else {
                return Err(HostsError {
                    option: "--registry-mirror",
                    value,
                    problem,
                });
            };
            mirrors.push(url);
        }
        let (mut insecure, mut insecure_networks) = (Vec::new(), Vec::new());
        for value in options.insecure {
            let bare = value
                .trim_start_matches("http://")
                .trim_start_matches("https://");
            let bare = bare.trim_end_matches('/');
            match Network::parse(bare) {
                Some(network) => insecure_networks.push(network),
                None if split_port(bare).is_some() => insecure.push(bare.to_ascii_lowercase()),
                None => {
                    let problem = "neither HOST[:PORT] nor a network";
                    return Err(HostsError {
                        option: "--insecure-registry",
                        value,
                        problem,
                    });
                }
            }
        }
        let certs_dirs = match options.certs_dirs.is_empty() {
            true => [
                "/etc/hull/certs.d",
                "/etc/docker/certs.d",
                "/etc/containerd/certs.d",
            ]
            .iter()
            .map(PathBuf::from)
            .collect(),
            false => options.certs_dirs,
        };
        let proxies = options.proxies;
        Ok(Hosts {
            mirrors,
            insecure,
            insecure_networks,
            certs_dirs,
            proxies,
        })
    }

    /// Whether a server is reached without TLS or trust where need be.
    fn is_insecure(&self, host: &str, authority: &str) -> bool {
        let in_network = |address: IpAddr| {
            self.insecure_networks
                .iter()
                .any(|network| network.contains(address))
        };
        is_loopback(host)
            || self
                .insecure
                .iter()
                .any(|known| known == host || known == authority)
            || host.parse().is_ok_and(in_network)
    }

    /// What certs.d says of a server.
    pub(crate) fn trust(&self, host: &str, authority: &str) -> Result<Trust> {
        let mut trust = Trust {
            skip_verify: self.is_insecure(host, authority),
            ..Trust::default()
        };
        let Some(folder) = self.folder(authority) else {
            return Ok(trust);
        };
        let mut names: Vec<PathBuf> = fs::read_dir(&folder)
            .map_err(|cause| unreadable(&folder, cause))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        names.sort();
        for path in names {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => trust.authorities.push(path),
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !key.exists() {
                        let name = path.display();
                        let what = format!(
                            "missing key {} for client certificate {name}",
                            key.display()
                        );
                        return Err(Error::Configuration { what, cause: None });
                    }
                    trust.identity = Some((path, key));
                }
                _ => {}
            }
        }
        Ok(trust)
    }

    /// The folder of a server, in the first of the trees that has one.
    fn folder(&self, authority: &str) -> Option<PathBuf> {
        // A name with a slash was no domain; `..` is none either.
        if authority.contains('/') || authority.starts_with('.') {
            return None;
        }
        let other = authority
            .rsplit_once(':')
            .map(|(host, port)| format!("{host}_{port}_"));
        let names = [Some(authority.to_owned()), other];
        let names = names.iter().flatten();
        let folders =
            names.flat_map(|name| self.certs_dirs.iter().map(move |tree| tree.join(name)));
        folders.into_iter().find(|folder| folder.is_dir())
    }

    /// The servers to ask for a domain, in order; the last one is the registry itself.
    pub(crate) fn endpoints(&self, domain: &str) -> Result<Vec<Endpoint>> {
        let default = || {
            let tree = self.certs_dirs.iter().map(|tree| tree.join("_default"));
            tree.into_iter()
                .find(|folder| folder.join("hosts.toml").is_file())
        };
        let with_file = self
            .folder(domain)
            .filter(|folder| folder.join("hosts.toml").is_file());
        if let Some(folder) = with_file.or_else(default) {
            return self.read_file(&folder, domain);
        }
        let mut endpoints = Vec::new();
        if domain == HUB_DOMAIN {
            for mirror in &self.mirrors {
                endpoints.push(self.mirror(mirror)?);
            }
        }
        endpoints.push(self.itself(domain)?);
        Ok(endpoints)
    }

    fn mirror(&self, base: &Url) -> Result<Endpoint> {
        let authority = base.origin.authority();
        let path = base.target.trim_end_matches('/');
        let base = Url {
            origin: base.origin.clone(),
            target: format!("{path}/v2"),
        };
        Ok(Endpoint {
            trust: self.trust(&base.origin.host, &authority)?,
            bases: vec![base],
            mirror: true,
            resolves: true,
            takes_pushes: false,
            headers: Vec::new(),
        })
    }

    /// The registry that the domain names.
    fn itself(&self, domain: &str) -> Result<Endpoint> {
        let server = if domain == HUB_DOMAIN {
            HUB_REGISTRY
        } else {
            domain
        };
        let Some((host, port)) = split_port(server) else {
            let what = format!("{domain:?} is not the name of a registry");
            return Err(Error::Configuration { what, cause: None });
        };
        let base = |tls: bool| Url {
            origin: Origin {
                tls,
                host: host.clone(),
                port: port.unwrap_or(if tls { 443 } else { 80 }),
            },
            target: "/v2".to_owned(),
        };
        let trust = self.trust(&host, &server.to_ascii_lowercase())?;
        let mut bases = vec![base(true)];
        if trust.skip_verify {
            bases.push(base(false));
        }
        Ok(Endpoint {
            bases,
            trust,
            mirror: false,
            resolves: true,
            takes_pushes: true,
            headers: Vec::new(),
        })
    }

    /// What containerd's `hosts.toml` says.
    fn read_file(&self, folder: &Path, domain: &str) -> Result<Vec<Endpoint>> {
        let path = folder.join("hosts.toml");
        let size = fs::metadata(&path)
            .map_err(|cause| unreadable(&path, cause))?
            .len();
        if size > HOSTS_TOML_BYTES_MAX {
            return Err(Error::Limit {
                what: "hosts.toml",
                limit: HOSTS_TOML_BYTES_MAX,
                unit: "bytes",
            });
        }
        let text = fs::read_to_string(&path).map_err(|cause| unreadable(&path, cause))?;
        let file: HostsFile = toml::from_str(&text).map_err(|cause| unreadable(&path, cause))?;
        let mut endpoints = Vec::new();
        for (name, host) in file.host.0.iter().take(MIRRORS_MAX) {
            endpoints.push(self.endpoint_of(folder, name, host)?);
        }
        let last = match &file.server {
            Some(server) => Endpoint {
                mirror: false,
                takes_pushes: true,
                ..self.endpoint_of(folder, server, &file.itself)?
            },
            None => self.itself(domain)?,
        };
        endpoints.push(last);
        Ok(endpoints)
    }

    fn endpoint_of(&self, folder: &Path, name: &str, entry: &HostEntry) -> Result<Endpoint> {
        let full = match name.contains("://") {
            true => name.to_owned(),
            false => format!("https://{name}"),
        };
        let Some(url) = Url::parse(&full) else {
            let what = format!(
                "{}: {name:?} is no address",
                folder.join("hosts.toml").display()
            );
            return Err(Error::Configuration { what, cause: None });
        };
        let path = url.target.trim_end_matches('/');
        let target = match entry.override_path || path.ends_with("/v2") {
            true => path.to_owned(),
            false => format!("{path}/v2"),
        };
        let authority = url.origin.authority();
        let mut trust = self.trust(&url.origin.host, &authority)?;
        trust.skip_verify |= entry.skip_verify;
        let files = entry.ca.iter().flat_map(OneOrMany::all);
        trust
            .authorities
            .extend(files.map(|file| folder.join(file)));
        if let Some(identity) = entry.client.as_ref().and_then(Clients::first) {
            trust.identity = Some((folder.join(identity.0), folder.join(identity.1)));
        }
        let can = |what: &str| {
            let given = entry.capabilities.as_ref();
            given.is_none_or(|list| list.iter().any(|capability| capability == what))
        };
        Ok(Endpoint {
            bases: vec![Url {
                origin: url.origin,
                target,
            }],
            trust,
            mirror: true,
            resolves: can("resolve"),
            takes_pushes: false,
            headers: entry.headers(),
        })
    }
}

fn unreadable(path: &Path, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    let what = format!("read {}", path.display());
    Error::Configuration {
        what,
        cause: Some(Box::new(cause)),
    }
}

/// containerd's `hosts.toml`.
#[derive(Debug, Deserialize)]
struct HostsFile {
    server: Option<String>,
    #[serde(default)]
    host: InOrder,
    #[serde(flatten)]
    itself: HostEntry,
}

/// Hosts in the order of the file: that is the order in which they are asked.
#[derive(Debug, Default)]
struct InOrder(Vec<(String, HostEntry)>);

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = InOrder;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table of hosts")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<InOrder, A::Error> {
                let mut hosts = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    hosts.push(entry);
                }
                Ok(InOrder(hosts))
            }
        }
        from.deserialize_map(Visitor)
    }
}

#[derive(Debug, Default, Deserialize)]
struct HostEntry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Clients>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany>,
}

impl HostEntry {
    fn headers(&self) -> Vec<(String, String)> {
        let each = |(name, values): (&String, &OneOrMany)| {
            values
                .all()
                .map(|value| (name.clone(), value.clone()))
                .collect::<Vec<_>>()
        };
        self.header.iter().flat_map(each).collect()
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(&self) -> impl Iterator<Item = &String> {
        match self {
            OneOrMany::One(one) => std::slice::from_ref(one).iter(),
            OneOrMany::Many(many) => many.iter(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Clients {
    /// One file with both.
    One(String),
    /// Files with both, or pairs.
    Many(Vec<ClientFiles>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ClientFiles {
    Both(String),
    Pair(String, String),
}

impl Clients {
    fn first(&self) -> Option<(&str, &str)> {
        match self {
            Clients::One(both) => Some((both, both)),
            Clients::Many(many) => many.first().map(|files| match files {
                ClientFiles::Both(both) => (both.as_str(), both.as_str()),
                ClientFiles::Pair(certificate, key) => (certificate.as_str(), key.as_str()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Url::parse(text).expect("an address").origin
    }

    #[test]
    fn a_proxy_is_used_unless_an_exception_names_the_server() {
        let proxies = Proxies {
            http: Some("http://p:1".into()),
            https: Some("http://p:2".into()),
            exceptions: "a.io, .b.io,10.0.0.0/8,c.io:5000,*.d.io".into(),
        };
        let check = |url: &str, expected: Option<&str>| {
            assert_eq!(proxies.for_origin(&origin(url)), expected, "{url}");
        };
        check("http://x.io/", Some("http://p:1"));
        check("https://x.io/", Some("http://p:2"));
        check("https://a.io/", None);
        check("https://x.a.io/", None);
        check("https://xa.io/", Some("http://p:2"));
        check("https://b.io/", Some("http://p:2"));
        check("https://x.b.io/", None);
        check("https://x.d.io/", None);
        check("https://10.1.2.3/", None);
        check("https://11.1.2.3/", Some("http://p:2"));
        check("https://c.io:5000/", None);
        check("https://c.io/", Some("http://p:2"));
        check("http://127.0.0.1:5000/", None);
        check("http://localhost/", None);
    }

    #[test]
    fn insecure_servers_are_tried_without_tls_too() {
        let options = RegistryOptions {
            insecure: vec![
                "r.io:5000".into(),
                "10.0.0.0/8".into(),
                "http://s.io/".into(),
            ],
            certs_dirs: vec![PathBuf::from("/nonexistent")],
            ..RegistryOptions::default()
        };
        let hosts = Hosts::new(options).expect("valid");
        let check = |domain: &str, expected: &[&str]| {
            let endpoints = hosts.endpoints(domain).expect("valid");
            let shown: Vec<String> = endpoints[0].bases.iter().map(ToString::to_string).collect();
            assert_eq!(shown, expected, "{domain}");
        };
        check("r.io", &["https://r.io/v2"]);
        check(
            "r.io:5000",
            &["https://r.io:5000/v2", "http://r.io:5000/v2"],
        );
        check("10.9.9.9", &["https://10.9.9.9/v2", "http://10.9.9.9/v2"]);
        check("s.io", &["https://s.io/v2", "http://s.io/v2"]);
        check(
            "localhost:5000",
            &["https://localhost:5000/v2", "http://localhost:5000/v2"],
        );
        check("docker.io", &["https://registry-1.docker.io/v2"]);
    }

    #[test]
    fn mirrors_are_asked_before_docker_hub_only() {
        let options = RegistryOptions {
            mirrors: vec!["https://m.io/sub/".into()],
            certs_dirs: vec![PathBuf::from("/nonexistent")],
            ..RegistryOptions::default()
        };
        let hosts = Hosts::new(options).expect("valid");
        let bases = |domain: &str| -> Vec<(String, bool)> {
            let endpoints = hosts.endpoints(domain).expect("valid");
            endpoints
                .iter()
                .map(|e| (e.bases[0].to_string(), e.mirror))
                .collect()
        };
        let hub = ("https://registry-1.docker.io/v2".to_owned(), false);
        assert_eq!(
            bases("docker.io"),
            [("https://m.io/sub/v2".to_owned(), true), hub]
        );
        assert_eq!(bases("r.io"), [("https://r.io/v2".to_owned(), false)]);
        let options = RegistryOptions {
            mirrors: vec!["m.io".into()],
            ..RegistryOptions::default()
        };
        assert!(Hosts::new(options).is_err());
    }

    #[test]
    fn containerds_file_decides_alone_and_in_its_order() {
        let tree = std::env::temp_dir().join(format!("hull-hosts-{}", std::process::id()));
        let folder = tree.join("r.io");
        fs::create_dir_all(&folder).expect("make");
        let text = r#"
            server = "https://real.io"
            [host."http://z.io:1"]
              capabilities = ["pull"]
            [host."a.io/x/v2"]
              override_path = true
              skip_verify = true
              ca = "ca.crt"
              client = [["c.cert", "c.key"]]
              [host."a.io/x/v2".header]
                x-a = "b"
        "#;
        fs::write(folder.join("hosts.toml"), text).expect("write");
        let certs_dirs = vec![tree.clone()];
        let hosts = Hosts::new(RegistryOptions {
            certs_dirs,
            ..RegistryOptions::default()
        });
        let endpoints = hosts.expect("valid").endpoints("r.io").expect("valid");
        fs::remove_dir_all(&tree).expect("remove");
        let bases: Vec<String> = endpoints.iter().map(|e| e.bases[0].to_string()).collect();
        assert_eq!(
            bases,
            [
                "http://z.io:1/v2",
                "https://a.io/x/v2",
                "https://real.io/v2"
            ]
        );
        assert!(!endpoints[0].resolves && endpoints[1].resolves && endpoints[2].takes_pushes);
        let trust = &endpoints[1].trust;
        assert!(trust.skip_verify && trust.authorities == [folder.join("ca.crt")]);
        assert_eq!(
            trust.identity,
            Some((folder.join("c.cert"), folder.join("c.key")))
        );
        assert_eq!(endpoints[1].headers, [("x-a".to_owned(), "b".to_owned())]);
    }
}
