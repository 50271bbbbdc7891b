//! Egress policies: from labels of containers and networks to what the kernel lets out, and to the
//! names that may be asked for.
//!
//! A policy is in the kernel before the container's links are, and stays there until its addresses
//! are free again; a daemon that starts puts those of recorded containers into its first table.

use std::net::IpAddr;
use std::sync::Arc;

use hull_model::SandboxId;
use hull_model::egress::{EGRESS_LABEL, Egress, EgressEntry, EgressPorts, EgressTarget};
use hull_model::port::Protocol;
use hull_model::spec::{ContainerSpec, NetworkMode};
use hull_net::{Allowed, EgressCount, Flow, Guard, Holder, Subnet};

use super::table::Table;
use super::{Network, failed, has_networks};
use crate::api::{self, Container, EgressReport, Endpoint, NetworkDriver, NetworkSpec};
use crate::error::{EngineError, Result};
use crate::recover::recorded_endpoints;
use crate::store::Contents;

/// The transport protocols that a port without one means.
const TCP_AND_UDP: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn parse(text: &str) -> Result<Egress> {
    text.parse()
        .map_err(|error: hull_model::egress::InvalidEgress| {
            EngineError::Invalid(format!("invalid {EGRESS_LABEL}: {error}"))
        })
}

/// The policy of a container; none: it may reach everything.
pub(crate) fn of_container(spec: &ContainerSpec) -> Result<Option<Egress>> {
    let Some(text) = spec.config.labels.get(EGRESS_LABEL) else {
        return Ok(None);
    };
    if !has_networks(&spec.host.network) && spec.host.network != NetworkMode::None {
        return Err(EngineError::Invalid(format!(
            "{EGRESS_LABEL} needs a network namespace of the container's own: on the host's network, or on \
             that of another container, it would hold others too"
        )));
    }
    parse(text).map(Some)
}

/// The policy of a network: a driver option, or a label.
pub(super) fn of_network(spec: &NetworkSpec) -> Result<Option<Egress>> {
    let option = spec.options.get(EGRESS_LABEL);
    let Some(text) = option.or_else(|| spec.labels.get(EGRESS_LABEL)) else {
        return Ok(None);
    };
    if spec.driver != NetworkDriver::Bridge {
        return Err(EngineError::Invalid(format!(
            "{EGRESS_LABEL} needs a bridge: packets of a {} network do not pass by the host",
            spec.driver.word()
        )));
    }
    parse(text).map(Some)
}

/// Whether a container has to ask us for names, so that their addresses can be allowed.
pub(crate) fn follows_names(spec: &ContainerSpec) -> bool {
    matches!(of_container(spec), Ok(Some(egress)) if egress.has_names())
}

/// The ranges of a policy, as the kernel's side takes them.
pub(super) fn ranges(egress: &Egress) -> Vec<Allowed> {
    let range = |entry: &EgressEntry| match entry.target {
        EgressTarget::Name(_) => None,
        EgressTarget::Range(address, length) => {
            let (port, protocol) = match entry.ports {
                EgressPorts::All => (None, None),
                EgressPorts::One(port, protocol) => (Some(port), protocol),
            };
            Some(Allowed {
                subnet: Subnet::containing(address, length),
                port,
                protocol: protocol.map(Protocol::number),
            })
        }
    };
    egress.0.iter().filter_map(range).collect()
}

fn report(egress: &Egress, count: EgressCount) -> EgressReport {
    EgressReport {
        allowed: egress.0.iter().map(EgressEntry::to_string).collect(),
        connections: count.connections,
        blocked_packets: count.blocked.packets,
        blocked_bytes: count.blocked.bytes,
    }
}

/// What the kernel is to hold of a container's policy.
fn guard_of(
    spec: &ContainerSpec,
    endpoints: &[Endpoint],
    find: impl Fn(&str) -> Result<Arc<api::Network>>,
) -> Result<Option<Guard>> {
    let Some(egress) = of_container(spec)? else {
        return Ok(None);
    };
    let mut guard = Guard {
        sources: Vec::new(),
        inside: Vec::new(),
        allowed: ranges(&egress),
    };
    for endpoint in endpoints {
        let network = find(&endpoint.network_id)?;
        if network.spec.driver != NetworkDriver::Bridge {
            return Err(EngineError::Invalid(format!(
                "container {} has an egress policy, which a {} network such as {} cannot hold",
                spec.name,
                network.spec.driver.word(),
                network.spec.name
            )));
        }
        let bridge = &network.link;
        let sources = endpoint.addresses().map(|a| (bridge.clone(), a));
        guard.sources.extend(sources);
        let inside = network.spec.pools.iter().map(|pool| pool.subnet);
        guard.inside.extend(inside);
    }
    Ok(Some(guard))
}

/// Policies of the containers that a daemon before us ran, by the names of their chains.
pub(super) fn recorded(table: &Table, contents: &Contents) -> Vec<(String, Guard)> {
    let mut guards = Vec::new();
    for (id, spec, endpoints) in recorded_endpoints(contents) {
        let find = |text: &str| table.find(text).map(|entry| entry.network.clone());
        match guard_of(&spec, &endpoints, find) {
            Ok(Some(guard)) => guards.push((id.short(), guard)),
            Ok(None) => {}
            Err(error) => {
                let error = error.chain();
                tracing::error!(container = %id.short(), error, "its egress policy is not in force");
            }
        }
    }
    guards
}

impl Network {
    /// Holds a container to its policy, if it has one. To be called before its links are made.
    pub(crate) fn guard(
        &self,
        id: SandboxId,
        spec: &ContainerSpec,
        endpoints: &[Endpoint],
    ) -> Result<()> {
        match guard_of(spec, endpoints, |text| self.find(text))? {
            Some(guard) => self
                .networks
                .guard(&id.short(), &guard)
                .map_err(failed("apply the egress policy")),
            None => Ok(()),
        }
    }

    /// Forgets a container's policy and what names allowed it.
    pub(crate) fn unguard(&self, id: SandboxId, endpoints: &[Endpoint]) {
        let addresses: Vec<IpAddr> = endpoints.iter().flat_map(Endpoint::addresses).collect();
        if let Err(error) = self.networks.unguard(Some(&id.short()), &addresses) {
            tracing::warn!(container = %id.short(), %error, "its egress policy is left");
        }
    }

    /// Holds a container to its policy after it left a network. Blocks.
    pub(crate) fn guard_rest(
        &self,
        id: SandboxId,
        spec: &ContainerSpec,
        rest: &[Endpoint],
        gone: &Endpoint,
    ) {
        let addresses: Vec<IpAddr> = gone.addresses().collect();
        let forgotten = self
            .networks
            .unguard(None, &addresses)
            .map_err(failed("forget the addresses of names"));
        if let Err(error) = forgotten.and_then(|()| self.guard(id, spec, rest)) {
            let error = error.chain();
            tracing::warn!(container = %id.short(), error, "its egress policy is as before");
        }
    }

    /// Allows what a name stands for now, as far as policies list it, to a container. Blocks.
    pub(crate) fn allow(
        &self,
        policies: &[(Holder, Egress)],
        endpoints: &[Endpoint],
        name: &str,
        addresses: &[IpAddr],
    ) -> Result<()> {
        let own: Vec<IpAddr> = endpoints.iter().flat_map(Endpoint::addresses).collect();
        for (holder, egress) in policies {
            let mut flows = Vec::new();
            for (port, protocol) in egress.ports_of(name) {
                let protocols = protocol
                    .as_ref()
                    .map_or(&TCP_AND_UDP[..], std::slice::from_ref);
                for (to, from) in addresses
                    .iter()
                    .flat_map(|to| own.iter().map(move |from| (to, from)))
                {
                    if to.is_ipv4() == from.is_ipv4() {
                        flows.extend(protocols.iter().map(|protocol| Flow {
                            from: *from,
                            to: *to,
                            protocol: protocol.number(),
                            port,
                        }));
                    }
                }
            }
            self.networks
                .allow(*holder, &flows)
                .map_err(failed("allow the addresses of a name"))?;
        }
        Ok(())
    }

    /// All policies that a container is under: its own and those of its networks.
    pub(crate) fn policies(&self, container: &Container) -> Vec<(Holder, Egress)> {
        let own = of_container(&container.spec).ok().flatten();
        let of_networks = container.endpoints.iter().filter_map(|endpoint| {
            let network = self.find(&endpoint.network_id).ok()?;
            of_network(&network.spec).ok().flatten()
        });
        let own = own.into_iter().map(|egress| (Holder::Endpoint, egress));
        own.chain(of_networks.map(|egress| (Holder::Network, egress)))
            .collect()
    }

    /// What a container's policy says and has done. Blocks.
    pub(crate) fn egress_of(&self, container: &Container) -> Option<EgressReport> {
        let egress = of_container(&container.spec).ok()??;
        let count = self.networks.egress_of(&container.id.short());
        Some(report(&egress, count.unwrap_or_default()))
    }

    /// What a network's policy says and has done. Blocks.
    pub(crate) fn egress_on(&self, network: &api::Network) -> Option<EgressReport> {
        let egress = of_network(&network.spec).ok()??;
        let count = self.networks.egress_on(&network.link);
        Some(report(&egress, count.unwrap_or_default()))
    }
}
