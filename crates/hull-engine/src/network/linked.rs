//! Links of the old kind (`--link db:alias`) on the default bridge: a line of `/etc/hosts` and
//! variables of the environment, made at the start of the container that has them.
//!
//! On networks of users a link is a name that only its container knows: see
//! [`Member::links`](crate::api::Member).

use std::collections::BTreeSet;
use std::net::IpAddr;

use hull_model::spec::{ContainerSpec, NetworkMode};

use super::DEFAULT_NETWORK;
use crate::core::Core;
use crate::error::{EngineError, Result};

/// Variables of a linked container that mean the program there and nothing to others.
const OWN_VARIABLES: [&str; 2] = ["HOME", "PATH"];

/// What a container gets from those it is linked to.
#[derive(Debug, Default)]
pub(crate) struct Linked {
    /// Names for `/etc/hosts`, with the address.
    pub(crate) hosts: Vec<(String, IpAddr)>,
    /// `NAME=value`.
    pub(crate) env: Vec<String>,
}

/// `name[:alias]`.
pub(crate) fn parse(link: &str) -> (&str, &str) {
    let (name, alias) = link.split_once(':').unwrap_or((link, link));
    // Docker's own form of an inspected link is `/name:/container/alias`.
    let alias = alias.rsplit('/').next().unwrap_or(alias);
    (name.trim_start_matches('/'), alias.trim_start_matches('/'))
}

/// Looks the linked containers up; they have to run.
pub(crate) fn find(core: &Core, spec: &ContainerSpec) -> Result<Linked> {
    let mut linked = Linked::default();
    if spec.host.network != NetworkMode::Default {
        return Ok(linked);
    }
    for link in &spec.host.links {
        let (name, alias) = parse(link);
        let id = core.containers.resolve(name)?;
        let other = core.containers.handle(id)?.snapshot.borrow().clone();
        let on_bridge = other
            .endpoints
            .iter()
            .find(|e| e.network == DEFAULT_NETWORK);
        let address = on_bridge.and_then(|endpoint| endpoint.address);
        let Some(address) = address.filter(|_| other.state.is_live()) else {
            return Err(EngineError::Invalid(format!(
                "Cannot link to a non running container: /{} AS /{}/{alias}",
                other.spec.name, spec.name
            )));
        };
        let other_name = &other.spec.name;
        let names = match alias == other_name {
            true => format!("{alias} {}", id.short()),
            false => format!("{alias} {} {other_name}", id.short()),
        };
        linked.hosts.push((names, address.into()));
        let owner = format!("/{}/{alias}", spec.name);
        linked
            .env
            .extend(variables(alias, &owner, address.into(), &other.spec));
    }
    Ok(linked)
}

fn variables(alias: &str, owner: &str, address: IpAddr, other: &ContainerSpec) -> Vec<String> {
    let prefix = alias.to_uppercase().replace('-', "_");
    let ports: BTreeSet<(u16, &str)> = other
        .config
        .exposed_ports
        .iter()
        .filter_map(|port| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            Some((number.parse().ok()?, protocol))
        })
        .collect();
    let mut env = Vec::new();
    if let Some((port, protocol)) = ports.first() {
        env.push(format!("{prefix}_PORT={protocol}://{address}:{port}"));
    }
    for (port, protocol) in &ports {
        let name = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
        env.push(format!("{name}={protocol}://{address}:{port}"));
        env.push(format!("{name}_ADDR={address}"));
        env.push(format!("{name}_PORT={port}"));
        env.push(format!("{name}_PROTO={protocol}"));
    }
    env.push(format!("{prefix}_NAME={owner}"));
    let own = |variable: &&String| {
        let name = variable.split('=').next().unwrap_or_default();
        !OWN_VARIABLES.contains(&name)
    };
    env.extend(
        other
            .config
            .env
            .iter()
            .filter(own)
            .map(|variable| format!("{prefix}_ENV_{variable}")),
    );
    env
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn links_are_read_in_all_their_forms() {
        assert_eq!(parse("db"), ("db", "db"));
        assert_eq!(parse("db:store"), ("db", "store"));
        assert_eq!(parse("/db:/web/store"), ("db", "store"));
    }
}
