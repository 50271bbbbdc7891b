//! Which networks there are, and who has which address on them. In memory; the records of
//! networks and of running containers are the truth, from which it is made again at start-up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hull_model::spec::EndpointSpec;
use hull_model::{NetworkId, SandboxId};
use hull_net::{Ipam, Mac, Subnet};

use crate::api::{Endpoint, Network, NetworkDriver, NetworkPool};
use crate::error::{EngineError, Result};

/// Name of the default network, as clients know it.
pub(crate) const DEFAULT_NETWORK: &str = "bridge";

/// One network, and the addresses that it gave.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) network: Arc<Network>,
    /// One per pool of the network.
    ipams: Vec<Ipam>,
    /// Containers that have an endpoint on it.
    pub(super) members: BTreeSet<SandboxId>,
    /// On its way out: nobody finds it any more, its subnets are still taken.
    pub(super) leaving: bool,
}

impl Entry {
    pub(super) fn new(network: Network) -> Self {
        let ipams = network.spec.pools.iter().map(ipam).collect();
        Self {
            network: Arc::new(network),
            ipams,
            members: BTreeSet::new(),
            leaving: false,
        }
    }

    /// Takes the addresses for one endpoint: those asked for, else the next free ones.
    pub(super) fn lease(
        &mut self,
        container: SandboxId,
        asked: &EndpointSpec,
        number: u8,
    ) -> Result<Endpoint> {
        let network = self.network.clone();
        if self.members.contains(&container) {
            return Err(EngineError::Denied(format!(
                "endpoint with name {} already exists in network {}",
                container.short(),
                network.spec.name
            )));
        }
        if network.spec.config_only {
            return Err(EngineError::Denied(format!(
                "network {} only configures others; nothing can be connected to it",
                network.spec.name
            )));
        }
        refuse_options(asked)?;
        let fixed = fixed_addresses(&network, asked)?;
        let link_local = link_local_addresses(asked)?;
        let mut taken: Vec<IpAddr> = Vec::new();
        for (at, pool) in network.spec.pools.iter().enumerate() {
            let wanted = fixed.iter().find(|address| pool.subnet.contains(**address));
            let ipam = &mut self.ipams[at];
            let leased = match wanted {
                Some(address) => ipam.reserve(*address).map(|()| *address),
                None => ipam.allocate(),
            };
            match leased {
                Ok(address) => taken.push(address),
                Err(error) => {
                    self.give_back(&taken);
                    return Err(refusal(&network, &error));
                }
            }
        }
        let mac = match asked.mac_address.as_str() {
            "" => Mac::of_address(taken.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]))),
            text => match text.parse() {
                Ok(mac) => mac,
                Err(error) => {
                    self.give_back(&taken);
                    return Err(EngineError::Invalid(format!("{error}")));
                }
            },
        };
        self.members.insert(container);
        let mut endpoint = endpoint(&network, container, &taken, mac, (asked, number));
        endpoint.link_local = link_local;
        Ok(endpoint)
    }

    /// Takes the addresses of an endpoint that a former daemon gave.
    pub(super) fn reserve(&mut self, container: SandboxId, endpoint: &Endpoint) {
        self.members.insert(container);
        for address in endpoint.addresses() {
            let Some(ipam) = self.ipams.iter_mut().find(|i| i.subnet().contains(address)) else {
                // Of another boot and another subnet: the next start gives a new one.
                tracing::debug!(%address, "a recorded address is not one of its network's");
                continue;
            };
            if let Err(error) = ipam.reserve(address) {
                tracing::warn!(%address, %error, container = %container.short(), "a recorded address");
            }
        }
    }

    pub(super) fn release(&mut self, container: SandboxId, endpoint: &Endpoint) {
        if self.members.remove(&container) {
            let addresses: Vec<IpAddr> = endpoint.addresses().collect();
            self.give_back(&addresses);
        }
    }

    fn give_back(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            for ipam in &mut self.ipams {
                ipam.release(*address);
            }
        }
    }
}

fn ipam(pool: &NetworkPool) -> Ipam {
    let whole = hull_net::Pool {
        subnet: pool.subnet,
        gateway: pool.gateway,
    };
    let mut ipam = Ipam::within(&whole, pool.range.as_ref().unwrap_or(&pool.subnet));
    for address in pool.auxiliary.values() {
        // Given twice by name, or the gateway: taken is taken.
        drop(ipam.reserve(*address));
    }
    ipam
}

fn refusal(network: &Network, error: &hull_net::Error) -> EngineError {
    match error {
        hull_net::Error::AddressInUse { .. } => {
            EngineError::Denied("Address already in use".to_owned())
        }
        hull_net::Error::Exhausted { .. } => EngineError::Unavailable(format!(
            "no available IPv4 addresses on this network's address pools: {} ({})",
            network.spec.name, network.id
        )),
        other => EngineError::Invalid(other.to_string()),
    }
}

/// Options of Docker's endpoints that would otherwise do nothing without a word.
fn refuse_options(asked: &EndpointSpec) -> Result<()> {
    const NOT_THERE: [&str; 2] = [
        "com.docker.network.endpoint.sysctls",
        "com.docker.network.endpoint.ifname",
    ];
    let found = NOT_THERE
        .iter()
        .find(|key| asked.driver_opts.contains_key(**key));
    found.map_or(Ok(()), |key| {
        Err(EngineError::Unsupported(format!(
            "option {key} of an endpoint is not there yet in hull"
        )))
    })
}

fn fixed_addresses(network: &Network, asked: &EndpointSpec) -> Result<Vec<IpAddr>> {
    let texts = [&asked.ipv4_address, &asked.ipv6_address];
    let mut addresses = Vec::new();
    for text in texts.into_iter().filter(|text| !text.is_empty()) {
        let Ok(address) = text.parse::<IpAddr>() else {
            return Err(EngineError::Invalid(format!(
                "invalid endpoint settings:\ninvalid IP address: {text}"
            )));
        };
        if network.predefined {
            return Err(EngineError::Invalid(
                "user specified IP address is supported on user defined networks only".to_owned(),
            ));
        }
        let pool = network
            .spec
            .pools
            .iter()
            .find(|pool| pool.subnet.contains(address));
        match pool {
            Some(pool) if pool.chosen => addresses.push(address),
            Some(_) => {
                return Err(EngineError::Invalid(
                    "invalid endpoint settings:\nuser specified IP address is supported only when \
                     connecting to networks with user configured subnets"
                        .to_owned(),
                ));
            }
            None => {
                return Err(EngineError::Invalid(format!(
                    "invalid endpoint settings:\nno configured subnet or ip-range contain the IP \
                     address {address}"
                )));
            }
        }
    }
    Ok(addresses)
}

fn link_local_addresses(asked: &EndpointSpec) -> Result<Vec<IpAddr>> {
    let parse = |text: &String| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) if v4.is_link_local() => Ok(IpAddr::V4(v4)),
        Ok(IpAddr::V6(v6)) if v6.is_unicast_link_local() => Ok(IpAddr::V6(v6)),
        _ => Err(EngineError::Invalid(format!(
            "invalid endpoint settings:\ninvalid link-local IP address: {text}"
        ))),
    };
    asked.link_local_ips.iter().map(parse).collect()
}

fn endpoint(
    network: &Network,
    container: SandboxId,
    addresses: &[IpAddr],
    mac: Mac,
    (asked, number): (&EndpointSpec, u8),
) -> Endpoint {
    let place = |v6: bool| {
        let address = addresses.iter().find(|address| address.is_ipv6() == v6)?;
        let pool = network
            .spec
            .pools
            .iter()
            .find(|p| p.subnet.contains(*address))?;
        let gateway = (!network.spec.internal).then_some(pool.gateway);
        Some((*address, pool.subnet.prefix_length(), gateway))
    };
    let (v4, v6) = (place(false), place(true));
    let only_v4 = |address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let only_v6 = |address| match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    };
    Endpoint {
        network: network.spec.name.clone(),
        network_id: network.id.to_string(),
        endpoint_id: super::digest_of(&format!("{container}/{}", network.id)),
        number,
        address: v4.and_then(|(address, ..)| only_v4(address)),
        prefix: v4.map_or(0, |(_, prefix, _)| prefix),
        gateway: v4.and_then(|(.., gateway)| gateway).and_then(only_v4),
        address6: v6.and_then(|(address, ..)| only_v6(address)),
        prefix6: v6.map_or(0, |(_, prefix, _)| prefix),
        gateway6: v6.and_then(|(.., gateway)| gateway).and_then(only_v6),
        mac: mac.to_string(),
        gateway_priority: asked.gateway_priority,
        link_local: Vec::new(),
    }
}

/// All networks by id.
#[derive(Debug, Default)]
pub(super) struct Table(pub(super) BTreeMap<NetworkId, Entry>);

impl Table {
    /// Finds by name, by id, then by unique id prefix, as Docker does.
    pub(super) fn find(&self, text: &str) -> Result<&Entry> {
        let missing = || EngineError::NoSuchNetwork(text.to_owned());
        let there = || self.0.values().filter(|entry| !entry.leaving);
        let exact = |entry: &&Entry| {
            let network = &entry.network;
            network.spec.name == text || network.id.to_string() == text
        };
        if let Some(entry) = there().find(exact) {
            return Ok(entry);
        }
        if text.is_empty() {
            return Err(missing());
        }
        let mut found = there().filter(|entry| entry.network.id.to_string().starts_with(text));
        match (found.next(), found.next()) {
            (Some(entry), None) => Ok(entry),
            (Some(_), Some(_)) => Err(EngineError::Invalid(format!(
                "network {text} is ambiguous (more than one match found as ID prefix)"
            ))),
            (None, _) => Err(missing()),
        }
    }

    pub(super) fn find_mut(&mut self, text: &str) -> Result<&mut Entry> {
        let id = self.find(text)?.network.id;
        self.0
            .get_mut(&id)
            .ok_or_else(|| EngineError::NoSuchNetwork(text.to_owned()))
    }

    /// By the id as text.
    pub(super) fn entry(&mut self, id: &str) -> Option<&mut Entry> {
        self.0.get_mut(&id.parse::<NetworkId>().ok()?)
    }

    /// Subnets of all networks, also of those on their way out.
    pub(super) fn subnets(&self) -> Vec<Subnet> {
        let bridges = self
            .0
            .values()
            .filter(|entry| entry.network.spec.driver == NetworkDriver::Bridge);
        bridges
            .flat_map(|entry| entry.network.spec.pools.iter().map(|pool| pool.subnet))
            .collect()
    }
}
