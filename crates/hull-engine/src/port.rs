//! Published ports: which container has which port of the host, and the sockets that keep it.
//!
//! ```text
//!  asked for (asked.rs) ──▶ reserve: a socket per port, bound ──▶ shim keeps it, daemon has a copy
//!                               │                                     │
//!                               ▼                                     ▼
//!                           publish: a map in the kernel          relay.rs: whoever comes to the
//!                           leads nearly all there                socket all the same
//! ```
//!
//! The socket is the reservation: no other program takes the port, also while no daemon runs, and
//! after the daemon it tells what is published. The kernel's map carries the traffic; what it does
//! not know (IPv6 to a container without, the host's own `::1`) comes to the socket.

mod asked;
mod relay;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hull_model::SandboxId;
use hull_model::port::{Protocol, PublishedPort};
use hull_model::spec::Isolation;
use hull_net::{Forward, Networks};
use hull_os::port::Holder;
use hull_sandbox::KeptSocket;

pub(crate) use asked::{Asked, asked, parse_binding};
pub(crate) use relay::OpenPorts;

use crate::error::{EngineError, Result};

/// Ports of one container: a shim's keys have 14 bits to tell them apart.
pub(crate) const PORTS_MAX: usize = 1 << KEY_INDEX_BITS;
const KEY_INDEX_BITS: u32 = 14;
/// Where free ports are looked for when the host does not say.
const EPHEMERAL_DEFAULT: (u16, u16) = (32_768, 60_999);
/// How long the shim of a container that just ended may hold its ports.
const FORMER_SHIM_WAIT: Duration = Duration::from_secs(2);
/// Pause between two tries to take a port from it.
const FORMER_SHIM_PAUSE: Duration = Duration::from_millis(2);
/// Name of our helper process beside each container.
const SHIM_NAME: &str = "hull-shim";

/// A port that is taken on the host; the socket is missing for a protocol that the kernel knows
/// how to forward but not how to speak.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) port: PublishedPort,
    pub(crate) socket: Option<OwnedFd>,
}

/// For whom ports are taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claimant<'a> {
    pub(crate) id: SandboxId,
    pub(crate) name: &'a str,
    pub(crate) isolation: Isolation,
    pub(crate) endpoint_id: &'a str,
}

/// Addresses of the endpoint that ports lead to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

impl Target {
    /// Where a connection from this family goes.
    fn for_host(&self, host: IpAddr) -> Option<IpAddr> {
        let (v4, v6) = (self.v4.map(IpAddr::V4), self.v6.map(IpAddr::V6));
        if host.is_ipv4() { v4 } else { v6.or(v4) }
    }
}

#[derive(Debug)]
struct Taken {
    ip: IpAddr,
    by: SandboxId,
    /// In the words of a refusal.
    holder: String,
}

#[derive(Debug, Default)]
struct Table {
    taken: BTreeMap<(Protocol, u16), Vec<Taken>>,
    /// Where the last free port was found.
    last: u16,
}

/// The ports of the host, as far as containers have them.
#[derive(Debug)]
pub(crate) struct Ports {
    networks: Arc<Networks>,
    table: Mutex<Table>,
    /// Address of bindings that name none.
    default_ip: IpAddr,
    ephemeral: (u16, u16),
}

impl Ports {
    pub(crate) fn new(networks: Arc<Networks>, default_ip: Option<IpAddr>) -> Self {
        Self {
            networks,
            table: Mutex::default(),
            default_ip: default_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            ephemeral: ephemeral_range(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all ports that are asked for, or none. `default_ip` is the network's own, if it has.
    pub(crate) fn reserve(
        &self,
        claimant: Claimant<'_>,
        asked: &[Asked],
        default_ip: Option<IpAddr>,
    ) -> Result<Vec<Reservation>> {
        let default_ip = default_ip.unwrap_or(self.default_ip);
        let mut reservations = Vec::new();
        // What leaves no choice first, so that no free choice takes it.
        let exact = asked.iter().filter(|asked| asked.is_exact());
        for asked in exact.chain(asked.iter().filter(|asked| !asked.is_exact())) {
            match self.reserve_one(claimant, asked, default_ip) {
                Ok(mut taken) => reservations.append(&mut taken),
                Err(text) => {
                    self.release(claimant.id, &ports_of(&reservations));
                    return Err(EngineError::PortsFailed {
                        name: claimant.name.to_owned(),
                        endpoint_id: claimant.endpoint_id.to_owned(),
                        text,
                    });
                }
            }
        }
        reservations.sort_by_key(|reservation| reservation.port);
        Ok(reservations)
    }

    fn reserve_one(
        &self,
        claimant: Claimant<'_>,
        asked: &Asked,
        default_ip: IpAddr,
    ) -> Result<Vec<Reservation>, String> {
        let addresses = asked.addresses(default_ip);
        if let Some(port) = asked.exact_port() {
            return self.take_all(claimant, asked, &addresses, port);
        }
        let (first, last) = asked.range.unwrap_or(self.ephemeral);
        let count = u32::from(last - first) + 1;
        let start = match asked.range {
            Some(_) => 0,
            None => u32::from(self.table().last.saturating_sub(first)) + 1,
        };
        for step in 0..count {
            let offset = u16::try_from((start + step) % count).unwrap_or_default();
            let port = first + offset;
            let is_taken = |ip: &IpAddr| self.clash(asked.protocol, *ip, port).is_some();
            if addresses.iter().any(is_taken) {
                continue;
            }
            match take_sockets(asked, &addresses, port) {
                Ok(sockets) => {
                    if asked.range.is_none() {
                        self.table().last = port;
                    }
                    return Ok(self.enter(claimant, asked, port, sockets));
                }
                Err((_, error)) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err((ip, error)) => return Err(refused(asked, SocketAddr::new(ip, port), &error)),
            }
        }
        let ip = addresses.first().copied().unwrap_or(default_ip);
        Err(match asked.range {
            Some((first, last)) => format!(
                "Bind for {ip}:{first}-{last} failed: all ports are allocated; stop a container \
                 that has one, or name a wider range"
            ),
            None => format!("Bind for {ip}:0 failed: all ports are allocated"),
        })
    }

    /// Takes one port at all addresses.
    fn take_all(
        &self,
        claimant: Claimant<'_>,
        asked: &Asked,
        addresses: &[IpAddr],
        port: u16,
    ) -> Result<Vec<Reservation>, String> {
        for ip in addresses {
            if let Some(holder) = self.clash(asked.protocol, *ip, port) {
                let host = SocketAddr::new(*ip, port);
                return Err(format!(
                    "Bind for {host} failed: port is already allocated (by {holder}: \
                     stop it, or publish another port)"
                ));
            }
        }
        let deadline = Instant::now() + FORMER_SHIM_WAIT;
        loop {
            match take_sockets(asked, addresses, port) {
                Ok(sockets) => return Ok(self.enter(claimant, asked, port, sockets)),
                Err((ip, error)) => {
                    let host = SocketAddr::new(ip, port);
                    let ends = error.kind() == io::ErrorKind::AddrInUse && is_ours(asked, host);
                    if !ends || Instant::now() >= deadline {
                        return Err(refused(asked, host, &error));
                    }
                    std::thread::sleep(FORMER_SHIM_PAUSE);
                }
            }
        }
    }

    /// Who has a port at an address that stands in the way of this one.
    fn clash(&self, protocol: Protocol, ip: IpAddr, port: u16) -> Option<String> {
        let table = self.table();
        let same = |taken: &&Taken| {
            let same_family = taken.ip.is_ipv4() == ip.is_ipv4();
            same_family && (taken.ip.is_unspecified() || ip.is_unspecified() || taken.ip == ip)
        };
        let taken = table.taken.get(&(protocol, port))?.iter().find(same)?;
        Some(taken.holder.clone())
    }

    fn enter(
        &self,
        claimant: Claimant<'_>,
        asked: &Asked,
        port: u16,
        sockets: Vec<(IpAddr, Option<OwnedFd>)>,
    ) -> Vec<Reservation> {
        let reservations: Vec<_> = sockets
            .into_iter()
            .map(|(host_ip, socket)| Reservation {
                port: PublishedPort {
                    protocol: asked.protocol,
                    container_port: asked.container_port,
                    host_ip,
                    host_port: port,
                },
                socket,
            })
            .collect();
        let Claimant {
            id,
            name,
            isolation,
            ..
        } = claimant;
        self.adopt(id, (name, isolation), &ports_of(&reservations));
        reservations
    }

    /// Notes ports that a container has already.
    pub(crate) fn adopt(
        &self,
        by: SandboxId,
        (name, isolation): (&str, Isolation),
        ports: &[PublishedPort],
    ) {
        let what = match isolation {
            Isolation::Container => "container",
            Isolation::Vm => "machine",
        };
        let holder = format!("{what} {name}, {}", by.short());
        let mut table = self.table();
        for port in ports {
            let all = table
                .taken
                .entry((port.protocol, port.host_port))
                .or_default();
            if !all.iter().any(|t| t.by == by && t.ip == port.host_ip) {
                all.push(Taken {
                    ip: port.host_ip,
                    by,
                    holder: holder.clone(),
                });
            }
        }
    }

    /// Forgets ports of a container; their sockets are its shim's to close.
    pub(crate) fn release(&self, by: SandboxId, ports: &[PublishedPort]) {
        let mut table = self.table();
        for port in ports {
            let key = (port.protocol, port.host_port);
            if let Some(all) = table.taken.get_mut(&key) {
                all.retain(|taken| taken.by != by || taken.ip != port.host_ip);
                if all.is_empty() {
                    table.taken.remove(&key);
                }
            }
        }
    }

    /// Has the kernel lead ports to an endpoint.
    pub(crate) fn publish(&self, ports: &[PublishedPort], target: Target) -> Result<()> {
        self.networks
            .publish(&forwards(ports, target))
            .map_err(|e| EngineError::step("publish the ports", e.kind(), e))
    }

    /// Has the kernel lead them there no more.
    pub(crate) fn unpublish(&self, ports: &[PublishedPort], target: Target) -> Result<()> {
        self.networks
            .unpublish(&forwards(ports, target))
            .map_err(|e| EngineError::step("take the ports back", e.kind(), e))
    }

    /// Takes back what the kernel has and none of these containers.
    pub(crate) fn keep_only(&self, live: &[(Vec<PublishedPort>, Target)]) {
        let kept: Vec<_> = live
            .iter()
            .flat_map(|(ports, target)| forwards(ports, *target))
            .collect();
        if let Err(error) = self.networks.keep_published(&kept) {
            tracing::warn!(%error, "ports of containers that are gone");
        }
    }
}

/// What the kernel can lead to an endpoint: its own address families.
fn forwards(ports: &[PublishedPort], target: Target) -> Vec<Forward> {
    let forward = |port: &PublishedPort| {
        let to = target.for_host(port.host_ip)?;
        (to.is_ipv4() == port.host_ip.is_ipv4()).then(|| Forward {
            protocol: port.protocol,
            host: port.host_ip,
            port: port.host_port,
            to: SocketAddr::new(to, port.container_port),
        })
    };
    ports.iter().filter_map(forward).collect()
}

pub(crate) fn ports_of(reservations: &[Reservation]) -> Vec<PublishedPort> {
    reservations.iter().map(|held| held.port).collect()
}

/// A socket at each address; all or none.
#[expect(
    clippy::type_complexity,
    reason = "an address with its socket, and an address with why there is none"
)]
fn take_sockets(
    asked: &Asked,
    addresses: &[IpAddr],
    port: u16,
) -> Result<Vec<(IpAddr, Option<OwnedFd>)>, (IpAddr, io::Error)> {
    let take = |ip: &IpAddr| {
        let address = SocketAddr::new(*ip, port);
        match hull_os::port::take(asked.protocol.number(), address) {
            Ok(socket) => Ok(Some((*ip, Some(socket)))),
            // The kernel forwards SCTP also where it cannot speak it.
            Err(e) if e.raw_os_error() == Some(EPROTONOSUPPORT) => Ok(Some((*ip, None))),
            // Without IPv6 on the host, "every address" means those of IPv4.
            Err(e) if e.raw_os_error() == Some(EAFNOSUPPORT) && asked.ip.is_none() => Ok(None),
            Err(error) => Err((*ip, error)),
        }
    };
    let all: Result<Vec<_>, _> = addresses.iter().map(take).collect();
    Ok(all?.into_iter().flatten().collect())
}

const EPROTONOSUPPORT: i32 = 93;
const EAFNOSUPPORT: i32 = 97;

/// Whether a port is only held by us: by a container that has ended and whose shim is about to.
fn is_ours(asked: &Asked, host: SocketAddr) -> bool {
    let holders = hull_os::port::holders(asked.protocol.number(), host);
    let us = |holder: &Holder| holder.pid == std::process::id() || holder.name == SHIM_NAME;
    holders.iter().all(us)
}

/// Docker's words, then who has it and what to do.
fn refused(asked: &Asked, host: SocketAddr, error: &io::Error) -> String {
    let Asked {
        container_port,
        protocol,
        ..
    } = asked;
    let what = format!("failed to bind host port {host} for port {container_port}/{protocol}");
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let holders = hull_os::port::holders(protocol.number(), host);
            let who: Vec<_> = holders
                .iter()
                .map(|Holder { pid, name }| format!("{name}, process {pid}"))
                .collect();
            let who = if who.is_empty() {
                "by a process that cannot be seen from here".to_owned()
            } else {
                format!("by {}", who.join(" and "))
            };
            format!("{what}: address already in use ({who}: end it, or publish another port)")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{what}: cannot assign requested address (no link of the host has it)")
        }
        _ => format!("{what}: {error}"),
    }
}

fn ephemeral_range() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u16>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first <= last => (first, last),
        _ => EPHEMERAL_DEFAULT,
    }
}

/// What the shim calls the socket of a port, so that the port is known by it.
fn key(port: &PublishedPort, index: usize) -> u32 {
    let protocol = match port.protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2u32,
    };
    let index = u32::try_from(index).unwrap_or_default() & ((1 << KEY_INDEX_BITS) - 1);
    (u32::from(port.container_port) << 16) | (protocol << KEY_INDEX_BITS) | index
}

/// What tells the keys of one container's ports apart.
fn index_of(key: u32) -> usize {
    (key & ((1 << KEY_INDEX_BITS) - 1)) as usize
}

/// What a kept socket reserves; none for sockets of another use.
pub(crate) fn port_of(kept: &KeptSocket) -> Option<PublishedPort> {
    let protocol = match (kept.key >> KEY_INDEX_BITS) & 3 {
        0 => Protocol::Tcp,
        1 => Protocol::Udp,
        2 => Protocol::Sctp,
        _ => return None,
    };
    // Which kind of socket makes no difference to the question.
    let socket = std::net::UdpSocket::from(kept.socket.try_clone().ok()?);
    let address = socket.local_addr().ok()?;
    Some(PublishedPort {
        protocol,
        container_port: u16::try_from(kept.key >> 16).ok()?,
        host_ip: address.ip(),
        host_port: address.port(),
    })
}

/// The socket of a port, as the shim calls it.
pub(crate) fn kept(
    port: &PublishedPort,
    socket: Option<OwnedFd>,
    index: usize,
) -> Option<KeptSocket> {
    let key = key(port, index);
    socket.map(|socket| KeptSocket { key, socket })
}

/// What the shim is to keep: copies of the sockets, under keys from `first` on.
pub(crate) fn to_keep(reservations: &[Reservation], first: usize) -> Result<Vec<KeptSocket>> {
    let mut kept_all = Vec::new();
    for (index, held) in reservations.iter().enumerate() {
        let copy = held.socket.as_ref().map(OwnedFd::try_clone).transpose();
        let copy = copy.map_err(|e| EngineError::io("copy the socket of a port", e))?;
        kept_all.extend(kept(&held.port, copy, first + index));
    }
    Ok(kept_all)
}
