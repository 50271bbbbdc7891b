//! Names: who is found by a container, and by which name.
//!
//! ```text
//!  program inside ──▶ 127.0.0.11:53 ──▶ sockets of its shim ──▶ server.rs ──▶ zone of its networks
//!                                                                   └───────▶ forward.rs, outside
//! ```
//!
//! The socket is the identity: it lies in one network namespace, and its answers come from the
//! networks of the container that owns that, never from others. On the default bridge nobody is
//! found by name, as in Docker. A zone is made of snapshots when somebody asks, and made again
//! after any container has changed; it is never stored.

mod forward;
mod server;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hull_model::SandboxId;
use hull_model::egress::Egress;
use hull_model::spec::ContainerSpec;
use hull_net::{Holder, files};
use hull_sandbox::{KEY_RESOLVER_TCP, KEY_RESOLVER_UDP, KeptSocket, Resolver};

pub(crate) use server::NameServer;

use crate::api::{Container, Endpoint};
use crate::clock::random_bytes;
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::network::{self, DEFAULT_NETWORK};

/// The host, as containers call it.
const HOST_NAME: &str = "host.docker.internal";
/// Lowest port of a name server's sockets; above it are 2^14 more.
const RESOLVER_PORT_MIN: u16 = 32_768;

/// How often any container has changed: what was made of snapshots before is old.
#[derive(Debug, Default)]
pub(crate) struct Changes(AtomicU64);

impl Changes {
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Everybody whom one container finds.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    by_name: HashMap<String, Vec<IpAddr>>,
    by_address: HashMap<IpAddr, String>,
    /// What the container may reach outside; empty: everything.
    policies: Vec<(Holder, Egress)>,
    endpoints: Vec<Endpoint>,
}

impl Zone {
    fn add(&mut self, name: &str, network: &str, addresses: &[IpAddr]) {
        let name = name.to_ascii_lowercase();
        let qualified = format!("{name}.{}", network.to_ascii_lowercase());
        for name in [name, qualified] {
            let known = self.by_name.entry(name).or_default();
            let new = addresses.iter().filter(|address| !known.contains(address));
            let new: Vec<_> = new.copied().collect();
            known.extend(new);
        }
    }

    fn add_member(&mut self, member: &crate::api::Member, network: &str) {
        let addresses: Vec<IpAddr> = member.endpoint.addresses().collect();
        for name in &member.names {
            self.add(name, network, &addresses);
        }
        for address in addresses {
            let name = format!("{}.{network}", member.name);
            self.by_address.entry(address).or_insert(name);
        }
    }

    /// The addresses of a name in lower case, from a turn on, so that each of several comes first
    /// once; none: the name is not ours.
    pub(crate) fn find(&self, name: &str, turn: u64) -> Option<Vec<IpAddr>> {
        let mut addresses = self.by_name.get(name)?.clone();
        let count = u64::try_from(addresses.len()).unwrap_or(1).max(1);
        addresses.rotate_left(usize::try_from(turn % count).unwrap_or_default());
        Some(addresses)
    }

    /// Whether a name may be asked for outside.
    pub(crate) fn may_ask(&self, name: &str) -> bool {
        self.policies.iter().all(|(_, egress)| egress.may_ask(name))
    }

    /// Whether policies list a name, so that its addresses have to be allowed before they are told.
    pub(crate) fn lists(&self, name: &str) -> bool {
        let listed = |(_, egress): &(Holder, Egress)| egress.ports_of(name).next().is_some();
        self.policies.iter().any(listed)
    }

    /// Allows the addresses of a name that policies list. Blocks.
    pub(crate) fn allow(&self, core: &Core, name: &str, addresses: &[IpAddr]) -> Result<()> {
        core.network
            .allow(&self.policies, &self.endpoints, name, addresses)
    }

    /// The name of an address.
    pub(crate) fn name_of(&self, address: &IpAddr) -> Option<String> {
        self.by_address.get(address).cloned()
    }
}

/// The zone of a container as it was last made.
#[derive(Debug, Default)]
pub(crate) struct Zones(Mutex<(u64, Arc<Zone>)>);

impl Zones {
    /// The zone as it is now.
    pub(crate) fn of(&self, core: &Core, id: SandboxId) -> Arc<Zone> {
        // Read before the snapshots: what changes after it is seen at the next question.
        let now = core.name_changes.now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != now {
            *known = (now, Arc::new(zone_of(core, id)));
        }
        known.1.clone()
    }
}

fn snapshot(core: &Core, id: SandboxId) -> Option<Arc<Container>> {
    let handle = core.containers.handle(id).ok()?;
    let container = handle.snapshot.borrow().clone();
    Some(container)
}

/// Networks on which a container finds others by name.
fn named_endpoints(endpoints: &[Endpoint]) -> impl Iterator<Item = &Endpoint> {
    endpoints
        .iter()
        .filter(|endpoint| endpoint.network != DEFAULT_NETWORK)
}

fn zone_of(core: &Core, id: SandboxId) -> Zone {
    let mut zone = Zone::default();
    let Some(container) = snapshot(core, id) else {
        return zone;
    };
    for endpoint in named_endpoints(&container.endpoints) {
        let members = network::members(core, &endpoint.network_id);
        for member in &members {
            zone.add_member(member, &endpoint.network);
        }
        let own = members.iter().find(|member| member.container == id);
        for (alias, target) in own.iter().flat_map(|own| &own.links) {
            let meant = members.iter().find(|member| member.names.contains(target));
            if let Some(meant) = meant {
                let addresses: Vec<IpAddr> = meant.endpoint.addresses().collect();
                zone.add(alias, &endpoint.network, &addresses);
            }
        }
    }
    zone.policies = core.network.policies(&container);
    zone.endpoints.clone_from(&container.endpoints);
    if let Some(gateway) = core.network.host_gateway() {
        zone.by_name.insert(HOST_NAME.to_owned(), vec![gateway]);
    }
    zone
}

/// Who is asked about the world outside: the container's own servers, or the host's. Nobody where
/// nothing leads out.
fn servers_of(core: &Core, id: SandboxId) -> Vec<IpAddr> {
    let Some(container) = snapshot(core, id) else {
        return Vec::new();
    };
    let leads_out = |e: &Endpoint| e.gateway.is_some() || e.gateway6.is_some();
    if !container.endpoints.iter().any(leads_out) {
        return Vec::new();
    }
    let own = &container.spec.host.dns;
    if !own.is_empty() {
        return own.iter().filter_map(|text| text.parse().ok()).collect();
    }
    // From the host itself its loopback resolvers are reached too.
    let host = fs::read_to_string(files::RESOLV_PATH).unwrap_or_default();
    files::servers(&host)
}

/// Whether a container on these networks asks us for names.
pub(crate) fn are_served(spec: &ContainerSpec, endpoints: &[Endpoint]) -> bool {
    let follows_names = || !endpoints.is_empty() && network::follows_names(spec);
    named_endpoints(endpoints).next().is_some() || follows_names()
}

/// What a shim needs to open a name server's sockets. Their port is drawn, so that programs inside
/// meet it as seldom as can be.
pub(crate) fn resolver() -> Result<Resolver> {
    let bytes = random_bytes().map_err(|e| EngineError::io("draw a port", e))?;
    let port = RESOLVER_PORT_MIN + (u16::from_le_bytes([bytes[0], bytes[1]]) & 0x3fff);
    let (port, rules) = hull_net::plan_resolver(port);
    Ok(Resolver { port, rules })
}

/// The name servers of a container that runs; they end with this value.
#[derive(Debug, Default)]
pub(crate) struct NameServers(BTreeMap<u32, NameServer>);

impl NameServers {
    /// Whether there is one.
    pub(crate) fn is_open(&self) -> bool {
        !self.0.is_empty()
    }

    /// Serves a socket that the shim keeps, if it is a name server's. Needs the runtime.
    pub(crate) fn add(&mut self, core: &Arc<Core>, id: SandboxId, kept: KeptSocket) {
        let KeptSocket { key, socket } = kept;
        let server = match key {
            KEY_RESOLVER_UDP => tokio::net::UdpSocket::from_std(socket.into())
                .map(|socket| NameServer::datagrams(core, id, socket)),
            KEY_RESOLVER_TCP => tokio::net::TcpListener::from_std(socket.into())
                .map(|listener| NameServer::streams(core, id, listener)),
            _ => return,
        };
        match server {
            Ok(server) => drop(self.0.insert(key, server)),
            Err(error) => {
                tracing::warn!(container = %id.short(), %error, "names are not served");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Zone;
    use std::net::IpAddr;

    #[test]
    fn a_name_of_several_gives_each_its_turn() {
        let mut zone = Zone::default();
        let addresses: Vec<IpAddr> = vec![[10, 0, 0, 2].into(), [10, 0, 0, 3].into()];
        zone.add("Web", "Net", &addresses[..1]);
        zone.add("web", "net", &addresses);
        assert_eq!(zone.find("web", 0), Some(addresses.clone()));
        let turned: Vec<_> = addresses.iter().rev().copied().collect();
        assert_eq!(zone.find("web.net", 3), Some(turned));
        assert_eq!(zone.find("other", 0), None);
    }
}
