//! A container's published ports: opened by its start, kept by its shim, closed by its end, and
//! changed while it runs.

use std::sync::Arc;

use hull_model::SandboxId;
use hull_model::port::PublishedPort;
use hull_model::spec::{ContainerSpec, PortBinding};
use hull_model::state::State;
use hull_sandbox::KEY_RESOLVER_TCP;

use crate::api::{Endpoint, PublishRequest};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::network;
use crate::object::container::{Owner, StateRecord, to_json};
use crate::port::{
    self, Claimant, Reservation, Target, asked, parse_binding, port_of, ports_of, to_keep,
};
use crate::store::{Change as Write, Key};

/// Where ports lead: to the endpoints that have the way out.
pub(crate) fn target_of(endpoints: &[Endpoint]) -> Target {
    let (v4, v6) = network::with_way_out(endpoints);
    Target {
        v4: v4.and_then(|endpoint| endpoint.address),
        v6: v6.and_then(|endpoint| endpoint.address6),
    }
}

/// The endpoint by which ports are known.
fn published_on(endpoints: &[Endpoint]) -> Option<&Endpoint> {
    let (v4, v6) = network::with_way_out(endpoints);
    v4.or(v6)
}

/// Where ports of a recorded life lead.
pub(crate) fn target(life: &StateRecord) -> Target {
    target_of(&life.endpoints)
}

/// Takes the ports that a container asks for; none where nothing leads in. Blocks.
pub(crate) fn reserve(
    core: &Core,
    id: SandboxId,
    spec: &ContainerSpec,
    endpoints: &[Endpoint],
) -> Result<Vec<Reservation>> {
    let Some(endpoint) = published_on(endpoints) else {
        return Ok(Vec::new());
    };
    let claimant = Claimant {
        id,
        name: &spec.name,
        isolation: spec.host.isolation,
        endpoint_id: &endpoint.endpoint_id,
    };
    let default_ip = core.network.host_binding(endpoint);
    core.ports.reserve(claimant, &asked(spec)?, default_ip)
}

/// Ports that nobody has any more but the kernel's map.
#[derive(Debug)]
pub(crate) struct ClosedPorts {
    id: SandboxId,
    ports: Vec<PublishedPort>,
    target: Target,
}

impl ClosedPorts {
    pub(crate) fn new(id: SandboxId, ports: Vec<PublishedPort>, target: Target) -> Self {
        Self { id, ports, target }
    }

    /// Takes them out of table and map. Blocks.
    pub(crate) fn take_back(&self, core: &Core) {
        core.ports.release(self.id, &self.ports);
        if self.ports.is_empty() {
            return;
        }
        if let Err(error) = core.ports.unpublish(&self.ports, self.target) {
            tracing::warn!(container = %self.id.short(), error = %error.chain(), "ports are left");
        }
    }
}

impl Owner {
    /// Takes over the ports of a start.
    pub(super) fn open_ports(&mut self, reservations: Vec<Reservation>) {
        self.life.ports = ports_of(&reservations);
        self.relay(reservations, 0);
    }

    fn relay(&mut self, reservations: Vec<Reservation>, first: usize) {
        let target = target(&self.life);
        for (index, held) in reservations.into_iter().enumerate() {
            if let Some(kept) = port::kept(&held.port, held.socket, first + index) {
                self.open_ports.add(held.port, kept, target);
            }
        }
    }

    /// Lets go of the ports of a life that is over; the kernel's map is the caller's to change.
    pub(super) fn close_ports(&mut self) -> ClosedPorts {
        self.open_ports = Default::default();
        self.name_servers = Default::default();
        let closed = ClosedPorts {
            id: self.id,
            ports: std::mem::take(&mut self.life.ports),
            target: target(&self.life),
        };
        // At once: whoever hears of the end may want one.
        self.core.ports.release(self.id, &closed.ports);
        closed
    }

    /// Has the kernel lead the ports here again, if it no longer does.
    pub(super) async fn republish(&mut self) {
        let (ports, target) = (self.life.ports.clone(), target(&self.life));
        if ports.is_empty() {
            return;
        }
        let core = self.core.clone();
        let done = self
            .core
            .jobs
            .run_own(Pool::Kernel, move || core.ports.publish(&ports, target));
        if let Err(error) = done.await.and_then(|result| result) {
            tracing::error!(container = %self.id.short(), error = %error.chain(), "ports are not published");
        }
    }

    /// Leads the ports to where the way out is now, after a change of the container's networks.
    pub(super) async fn move_ports(&mut self, before: Target) {
        if self.life.ports.is_empty() || before == target(&self.life) {
            return;
        }
        let (core, ports) = (self.core.clone(), self.life.ports.clone());
        let undone = self
            .core
            .jobs
            .run(Pool::Kernel, move || core.ports.unpublish(&ports, before));
        if let Err(error) = undone.await.and_then(|result| result) {
            tracing::error!(container = %self.id.short(), error = %error.chain(), "ports are left");
        }
        self.open_ports.lead_to(target(&self.life));
        self.republish().await;
    }

    /// Takes the sockets that the shim kept for us: of a start before a crash, they also tell what
    /// had been published.
    pub(super) async fn take_kept(&mut self) {
        let Some(shim) = &mut self.shim else {
            return;
        };
        let target = target(&self.life);
        let mut unknown = Vec::new();
        let kept = shim.get_mut().take_kept();
        if self.life.state == State::Starting && kept.iter().any(|k| k.key >= KEY_RESOLVER_TCP) {
            // Its program may ask before its start is told, and who asks is known by the snapshot.
            self.publish();
        }
        for kept in kept {
            if kept.key >= KEY_RESOLVER_TCP {
                self.name_servers.add(&self.core, self.id, kept);
            } else if let Some(port) = port_of(&kept) {
                if !self.life.ports.contains(&port) {
                    unknown.push(port);
                }
                self.open_ports.add(port, kept, target);
            }
        }
        if unknown.is_empty() {
            return;
        }
        let own = (self.spec.name.as_str(), self.spec.host.isolation);
        self.core.ports.adopt(self.id, own, &unknown);
        self.life.ports.append(&mut unknown);
        self.life.ports.sort();
        self.republish().await;
        self.record_state();
        self.publish();
    }

    /// Publishes more and takes back, now and for later starts; all of it or nothing.
    pub(super) async fn change_ports(&mut self, change: PublishRequest) -> Result<()> {
        let mut spec = self.record.spec.clone();
        let removed = remove_bindings(&mut spec, &change.remove)?;
        let mut wanted = Vec::new();
        for (port, binding) in change.add {
            wanted.push(parse_binding(&port, &binding)?);
            let (number, protocol) = port.split_once('/').unwrap_or((&port, "tcp"));
            let bindings = &mut spec.host.port_bindings;
            let all = bindings.entry(format!("{number}/{protocol}")).or_default();
            if !all.contains(&binding) {
                all.push(binding);
            }
        }
        asked(&spec)?;
        if published_on(&self.life.endpoints).is_some() && self.shim.is_some() {
            self.change_open_ports(wanted, &removed).await?;
        }
        self.record.spec = spec;
        let write = Write::put(Key::Container(*self.id.as_bytes()), to_json(&self.record));
        self.spec = Arc::new(self.record.spec.clone());
        self.publish();
        self.core.store.commit(vec![write]).await?;
        self.record_state();
        self.event("update", []);
        Ok(())
    }

    async fn change_open_ports(
        &mut self,
        wanted: Vec<port::Asked>,
        removed: &[(String, PortBinding)],
    ) -> Result<()> {
        let gone: Vec<PublishedPort> = (self.life.ports.iter())
            .filter(|port| {
                removed
                    .iter()
                    .any(|(key, binding)| is_meant(port, key, binding))
            })
            .copied()
            .collect();
        let (core, id, name) = (self.core.clone(), self.id, self.spec.name.clone());
        let isolation = self.spec.host.isolation;
        let endpoint = published_on(&self.life.endpoints).cloned();
        let target = target(&self.life);
        let first = self.open_ports.next_index();
        let opened = self.core.jobs.run(Pool::Kernel, move || {
            let claimant = Claimant {
                id,
                name: &name,
                isolation,
                endpoint_id: endpoint.as_ref().map_or("", |e| e.endpoint_id.as_str()),
            };
            let default_ip = endpoint.as_ref().and_then(|e| core.network.host_binding(e));
            let reservations = core.ports.reserve(claimant, &wanted, default_ip)?;
            let new = ports_of(&reservations);
            let published = core.ports.publish(&new, target);
            if let Err(error) = published.and_then(|()| core.ports.unpublish(&gone, target)) {
                ClosedPorts::new(id, new, target).take_back(&core);
                return Err(error);
            }
            let kept = to_keep(&reservations, first)?;
            Ok((reservations, kept, gone))
        });
        let (reservations, kept, gone) = opened.await??;
        let keys = self.open_ports.end(&gone);
        self.core.ports.release(self.id, &gone);
        if let Some(shim) = &mut self.shim {
            let shim = shim.get_mut();
            shim.keep(&kept)
                .and_then(|()| shim.release(&keys))
                .map_err(|e| EngineError::step("tell the shim of the ports", e.kind(), e))?;
        }
        self.life.ports.retain(|port| !gone.contains(port));
        self.life.ports.extend(ports_of(&reservations));
        self.life.ports.sort();
        self.relay(reservations, first);
        Ok(())
    }
}

/// Whether a published port is one that a removal names.
fn is_meant(port: &PublishedPort, key: &str, binding: &PortBinding) -> bool {
    let same_key = key == format!("{}/{}", port.container_port, port.protocol);
    let same_ip = binding.host_ip.is_empty() || binding.host_ip == port.host_ip.to_string();
    let same_port = binding.host_port.is_empty() || binding.host_port == port.host_port.to_string();
    same_key && same_ip && same_port
}

/// Takes bindings out of a specification; gives what is to be taken back of the open ports.
fn remove_bindings(
    spec: &mut ContainerSpec,
    remove: &[(String, PortBinding)],
) -> Result<Vec<(String, PortBinding)>> {
    let mut removed = Vec::new();
    for (port, wanted) in remove {
        parse_binding(port, wanted)?;
        let key = match port.contains('/') {
            true => port.clone(),
            false => format!("{port}/tcp"),
        };
        let fits = |asked: &str, has: &str| asked.is_empty() || asked == has;
        let bindings = spec.host.port_bindings.get_mut(&key);
        let before = bindings.as_ref().map_or(0, |all| all.len());
        if let Some(all) = bindings {
            all.retain(|binding| {
                !(fits(&wanted.host_ip, &binding.host_ip)
                    && fits(&wanted.host_port, &binding.host_port))
            });
            if all.is_empty() {
                spec.host.port_bindings.remove(&key);
            } else if all.len() == before {
                return Err(not_published(&key, wanted));
            }
        } else {
            return Err(not_published(&key, wanted));
        }
        removed.push((key, wanted.clone()));
    }
    Ok(removed)
}

fn not_published(key: &str, wanted: &PortBinding) -> EngineError {
    let PortBinding { host_ip, host_port } = wanted;
    let at = match (host_ip.as_str(), host_port.as_str()) {
        ("", "") => String::new(),
        ("", port) => format!(" at port {port}"),
        (ip, port) => format!(" at {ip}:{port}"),
    };
    EngineError::Invalid(format!("port {key} is not published{at}"))
}
