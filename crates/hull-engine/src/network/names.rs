//! Names: the files by which a container finds others, and who is found by which name.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use hull_model::spec::{ContainerSpec, EndpointSpec, NetworkMode};
use hull_net::files::{self, Hosts, ResolverOverrides};

use super::{Linked, Network};
use crate::api::{Endpoint, Member};
use crate::core::Core;
use crate::names;

impl Network {
    /// `/etc/hosts` of a container.
    pub(crate) fn hosts_file(
        &self,
        spec: &ContainerSpec,
        hostname: &str,
        endpoints: &[Endpoint],
        linked: &Linked,
    ) -> io::Result<String> {
        if spec.host.network == NetworkMode::Host {
            let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            for (name, address) in self.extra_hosts(spec) {
                text.push_str(&format!("{address}\t{name}\n"));
            }
            return Ok(text);
        }
        let addresses: Vec<IpAddr> = endpoints.iter().flat_map(Endpoint::addresses).collect();
        let mut extra = self.extra_hosts(spec);
        extra.extend(linked.hosts.iter().cloned());
        Ok(files::hosts(&Hosts {
            hostname,
            domain: &spec.config.domainname,
            addresses: &addresses,
            extra: &extra,
        }))
    }

    /// `--add-host` by name; `host-gateway` is the bridge's own address.
    fn extra_hosts(&self, spec: &ContainerSpec) -> Vec<(String, IpAddr)> {
        let gateway = self.host_gateway();
        let parse = |entry: &String| {
            let (name, address) = entry.split_once(':')?;
            let address = match address {
                "host-gateway" => gateway?,
                text => text.trim_matches(['[', ']']).parse().ok()?,
            };
            Some((name.to_owned(), address))
        };
        spec.host.extra_hosts.iter().filter_map(parse).collect()
    }

    /// `/etc/resolv.conf` of a container.
    pub(crate) fn resolv_conf(&self, spec: &ContainerSpec, endpoints: &[Endpoint]) -> String {
        let mut host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let path = files::resolvers_path(&host);
        if let Ok(real) = std::fs::read_to_string(path) {
            host = real;
        }
        let servers: Vec<IpAddr> = spec
            .host
            .dns
            .iter()
            .filter_map(|server| server.parse().ok())
            .collect();
        let overrides = ResolverOverrides {
            servers: &servers,
            search: &spec.host.dns_search,
            options: &spec.host.dns_options,
        };
        match spec.host.network {
            _ if names::are_served(spec, endpoints) => {
                files::resolv_conf_of_resolver(&host, &overrides)
            }
            NetworkMode::Host => files::resolv_conf_of_host(&host, &overrides),
            _ => files::resolv_conf(&host, &overrides),
        }
    }
}

/// The running containers on a network, with all their names there.
pub(crate) fn members(core: &Core, network_id: &str) -> Vec<Member> {
    let mut members = Vec::new();
    for container in core.containers.snapshots() {
        let on = container
            .endpoints
            .iter()
            .find(|e| e.network_id == network_id);
        let Some(endpoint) = on.filter(|_| container.state.is_live()) else {
            continue;
        };
        let asked = container.spec.endpoints.get(&endpoint.network);
        let pair = |link: &String| {
            let (target, alias) = link.split_once(':').unwrap_or((link, link));
            (alias.to_owned(), target.to_owned())
        };
        members.push(Member {
            container: container.id,
            name: container.spec.name.clone(),
            endpoint: endpoint.clone(),
            names: container.dns_names(asked.unwrap_or(&EndpointSpec::default())),
            links: asked
                .iter()
                .flat_map(|asked| asked.links.iter().map(pair))
                .collect(),
        });
    }
    members
}

/// Adds and takes away addresses of the container itself in its `/etc/hosts`. Written in place:
/// the file is mounted in the container.
pub(crate) fn change_hosts(
    path: &Path,
    (hostname, domain): (&str, &str),
    added: &[IpAddr],
    removed: &[IpAddr],
) -> io::Result<()> {
    let text = fs::read_to_string(path)?;
    let own = |line: &&str| {
        let mut words = line.split_whitespace();
        let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        !address.is_some_and(|address| removed.contains(&address))
    };
    let mut text: String = text
        .lines()
        .filter(own)
        .map(|line| format!("{line}\n"))
        .collect();
    for address in added {
        text.push_str(&files::own_line(*address, hostname, domain));
    }
    fs::write(path, text)
}
