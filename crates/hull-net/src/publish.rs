//! Published ports: which port of the host leads to which endpoint.
//!
//! ```text
//!   from outside   prerouting ──┐   map by address and port, then map by port alone
//!                               ├──▶ new destination ──▶ routing ──▶ bridge
//!   from the host  output ──────┘
//! ```
//!
//! Four maps in our table, two per family; their look-up costs the same for one port and for
//! thousands. Only the first packet of a connection comes by here. The client's address stays,
//! but for a client on the target's own bridge, which would be answered past us, and for one on
//! the host's loopback, whose address is no other host's: these two are seen as the bridge.
//!
//! It knows no sockets: that a port is free, and that nobody else takes it, is the engine's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use hull_model::port::Protocol;
use hull_os::conntrack::{Conntrack, Tracked};
use hull_os::netlink::NetlinkError;
use hull_os::nft::{
    BaseChain, Family, Hook, Key, Nftables, Rule, Transaction, port_key, port_target,
};

use crate::Error;
use crate::apply::{KERNEL_ANSWER_MS_MAX, Networks};
use crate::iptables::Backend;
use crate::network::Network;
use crate::plan;

/// A port of the host and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// Of both.
    pub protocol: Protocol,
    /// Address of the host; unspecified: all of its family.
    pub host: IpAddr,
    /// Port of the host.
    pub port: u16,
    /// The endpoint's address, of the same family, and port.
    pub to: SocketAddr,
}

/// Which packets to published ports are led to endpoints by the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// All: fastest, and the client's address stays; the host's own rules for what comes in do not
    /// see them, as with Docker.
    #[default]
    All,
    /// Those of the host itself and of containers. What comes from outside is left to the host's
    /// sockets, and so to its firewall.
    Inside,
}

/// Number of UDP.
const UDP: u8 = 17;

/// What is published, as our table has it.
pub(crate) type Published = BTreeMap<(Protocol, IpAddr, u16), SocketAddr>;

const PORTS_IN: BaseChain = BaseChain {
    name: "ports_in",
    kind: "nat",
    hook: Hook::Prerouting,
    priority: -100,
};
const PORTS_OUT: BaseChain = BaseChain {
    name: "ports_out",
    kind: "nat",
    hook: Hook::Output,
    priority: -100,
};

/// The maps: name, family, and whether an address is part of the key.
const MAPS: [(&str, Family, bool); 4] = [
    ("ports4_at", Family::Ipv4, true),
    ("ports4", Family::Ipv4, false),
    ("ports6_at", Family::Ipv6, true),
    ("ports6", Family::Ipv6, false),
];

impl Forward {
    fn key(&self) -> (Protocol, IpAddr, u16) {
        (self.protocol, self.host, self.port)
    }
}

type Element = (Vec<u8>, Vec<u8>);

/// Map and element of one published port.
fn element((protocol, host, port): (Protocol, IpAddr, u16), to: SocketAddr) -> (usize, Element) {
    let map = match host {
        IpAddr::V4(v4) => usize::from(v4.is_unspecified()),
        IpAddr::V6(v6) => 2 + usize::from(v6.is_unspecified()),
    };
    let addresses: &[IpAddr] = if MAPS[map].2 { &[host] } else { &[] };
    let key = port_key(addresses, protocol.number(), port);
    (map, (key, port_target(to)))
}

/// What each map is to hold.
fn elements(published: &Published) -> [Vec<Element>; 4] {
    let mut all: [Vec<Element>; 4] = Default::default();
    for (key, to) in published {
        let (map, element) = element(*key, *to);
        all[map].push(element);
    }
    all
}

/// What our chains for ports do; `bridges` is the set of our bridges.
pub(crate) fn rules(tag: &str, networks: &[Network], bridges: &str, reach: Reach) -> Vec<Rule> {
    let mut rules = Vec::new();
    for chain in [PORTS_IN.name, PORTS_OUT.name] {
        for (map, family, with_address) in MAPS {
            let inside = chain == PORTS_IN.name;
            let mut rule = Rule::new(chain, &format!("{tag}: published ports"));
            if inside && reach == Reach::Inside {
                rule = rule.from_link_in(bridges);
            }
            // From outside nothing goes to the loopback, whatever the sender claims; and what the
            // host sends to ::1 cannot leave it, so a socket of ours takes that.
            let loopback: (IpAddr, u8) = match family {
                Family::Ipv6 => (Ipv6Addr::LOCALHOST.into(), 128),
                _ => (Ipv4Addr::new(127, 0, 0, 0).into(), 8),
            };
            if inside || family == Family::Ipv6 {
                rule = rule.not_to_network(loopback.0, loopback.1);
            }
            if !with_address {
                rule = rule.to_local_address();
            }
            rules.push(rule.dnat_by_port(map, family, with_address));
        }
    }
    rules.extend(source_rules(tag, networks, bridges));
    rules
}

/// Clients whose address the endpoint must not see, or its answers would not come by here.
fn source_rules(tag: &str, networks: &[Network], bridges: &str) -> Vec<Rule> {
    let chain = plan::POSTROUTING.name;
    let loopback = Rule::new(chain, &format!("{tag}: the host's loopback to a port"))
        .to_link_in(bridges)
        .from_network(Ipv4Addr::new(127, 0, 0, 0).into(), 8)
        .counted()
        .masquerade();
    let hairpin = networks.iter().filter(|n| !n.internal).flat_map(|network| {
        network.pools.iter().map(|pool| {
            let why = format!("{tag}: {} {} to its own port", network.bridge, pool.subnet);
            Rule::new(chain, &why)
                .from_network(pool.subnet.address(), pool.subnet.prefix_length())
                .to_link(&network.bridge)
                .of_published_port()
                .counted()
                .masquerade()
        })
    });
    std::iter::once(loopback).chain(hairpin).collect()
}

/// Adds chains and maps with what is published to a new table.
pub(crate) fn add_to(all: &mut Transaction, table: &str, published: &Published) {
    for chain in [PORTS_IN, PORTS_OUT] {
        all.add_base_chain(Family::Inet, table, chain);
    }
    for ((map, family, with_address), elements) in MAPS.into_iter().zip(elements(published)) {
        let key = if with_address {
            Key::AddressPort(family)
        } else {
            Key::Port
        };
        all.add_port_map(Family::Inet, table, map, (key, family));
        all.add_port_elements(Family::Inet, table, map, &elements);
    }
}

/// Maps that differ from what is published.
pub(crate) fn verify(
    nft: &mut Nftables,
    table: &str,
    published: &Published,
) -> std::io::Result<Vec<String>> {
    let mut differences = Vec::new();
    for ((map, _, _), mut wanted) in MAPS.into_iter().zip(elements(published)) {
        let mut found = nft.elements(Family::Inet, table, map)?;
        found.sort();
        wanted.sort();
        if found != wanted {
            let (has, needs) = (found.len(), wanted.len());
            differences.push(format!(
                "map {map} has {has} ports, not the {needs} published ones"
            ));
        }
    }
    Ok(differences)
}

/// What our table has from a daemon before us.
pub(crate) fn found(nft: &mut Nftables, table: &str) -> std::io::Result<Published> {
    let mut published = Published::new();
    for (map, family, with_address) in MAPS {
        for (key, data) in nft.elements(Family::Inet, table, map)? {
            published.extend(read_element(family, with_address, &key, &data));
        }
    }
    Ok(published)
}

type PublishedEntry = ((Protocol, IpAddr, u16), SocketAddr);

fn read_element(
    family: Family,
    with_address: bool,
    key: &[u8],
    data: &[u8],
) -> Option<PublishedEntry> {
    let any: IpAddr = match family {
        Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let (host, rest) = if with_address {
        read_address(family, key)?
    } else {
        (any, key)
    };
    let [number, _, _, _, high, low, ..] = rest else {
        return None;
    };
    let protocol = Protocol::ALL.into_iter().find(|p| p.number() == *number)?;
    let (to, rest) = read_address(family, data)?;
    let target = SocketAddr::new(to, u16::from_be_bytes(*rest.first_chunk()?));
    Some(((protocol, host, u16::from_be_bytes([*high, *low])), target))
}

fn read_address(family: Family, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    Some(if family == Family::Ipv6 {
        let (address, rest) = bytes.split_first_chunk::<16>()?;
        (Ipv6Addr::from(*address).into(), rest)
    } else {
        let (address, rest) = bytes.split_first_chunk::<4>()?;
        (Ipv4Addr::from(*address).into(), rest)
    })
}

impl Networks {
    /// Leads ports of the host to endpoints, all of them or none. One that led elsewhere leads
    /// there no more.
    pub fn publish(&self, forwards: &[Forward]) -> Result<(), Error> {
        self.change_ports(|published| {
            forwards.iter().for_each(|forward| {
                published.insert(forward.key(), forward.to);
            });
        })
    }

    /// Takes ports back, as far as they still lead where these do.
    pub fn unpublish(&self, forwards: &[Forward]) -> Result<(), Error> {
        self.change_ports(|published| {
            for forward in forwards {
                if published.get(&forward.key()) == Some(&forward.to) {
                    published.remove(&forward.key());
                }
            }
        })
    }

    /// Takes back every port but these: what a former daemon published for containers that are
    /// gone.
    pub fn keep_published(&self, forwards: &[Forward]) -> Result<(), Error> {
        self.change_ports(|published| {
            let kept = |key: &(Protocol, IpAddr, u16), to: &mut SocketAddr| {
                forwards.iter().any(|f| f.key() == *key && f.to == *to)
            };
            published.retain(kept);
        })
    }

    fn change_ports(&self, change: impl FnOnce(&mut Published)) -> Result<(), Error> {
        let mut published = self.published();
        let mut wanted = published.clone();
        change(&mut wanted);
        if *published == wanted {
            return Ok(());
        }
        let result = match self.settings.backend {
            Backend::Iptables => {
                self.change_iptables(&wanted, &self.guards())?;
                Ok(())
            }
            Backend::Nftables => {
                let change = difference(&self.settings.tag, &published, &wanted);
                self.nftables()?.commit(change)
            }
        };
        match result {
            Ok(()) => {
                let moved = moved_datagrams(&published, &wanted);
                *published = wanted;
                drop(published);
                self.forget_flows(&moved);
                Ok(())
            }
            // Somebody flushed the rules: they come back whole, with the ports.
            Err(NetlinkError { cause, .. }) if cause.raw_os_error() == Some(ENOENT) => {
                *published = wanted;
                drop(published);
                self.restore()
            }
            Err(cause) => Err(Error::Table {
                table: self.settings.tag.clone(),
                cause,
            }),
        }
    }

    /// Flows of datagrams that still go where ports led before, or to the host where none did: their
    /// clients would never find the new place. What is not ours stays.
    fn forget_flows(&self, moved: &[Moved]) {
        if moved.is_empty() {
            return;
        }
        let forget = || -> Option<()> {
            let timeout = Duration::from_millis(KERNEL_ANSWER_MS_MAX);
            let mut conntrack = Conntrack::open(timeout).ok()?;
            let mut socket = self.socket().ok()?;
            let own = socket.addresses().ok()?;
            let is_own = |address: IpAddr| {
                address.is_loopback() || own.iter().any(|own| own.address == address)
            };
            for flow in conntrack.flows(UDP).ok()? {
                if moved.iter().any(|moved| moved.is_meant(&flow, is_own)) {
                    conntrack.forget(&flow).ok()?;
                }
            }
            Some(())
        };
        // Without it they end by themselves, once their clients are quiet for a while; no reason to
        // refuse a port that leads where it should for everybody else.
        forget().unwrap_or_default();
    }

    pub(crate) fn published(&self) -> MutexGuard<'_, Published> {
        // Replaced as a whole, so a panic elsewhere cannot have left a part.
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// "No such file or directory".
pub(crate) const ENOENT: i32 = 2;

/// A published port of datagrams that leads elsewhere now.
#[derive(Debug, Clone, Copy)]
struct Moved {
    host: IpAddr,
    port: u16,
    /// Where it led; none: to the host.
    before: Option<SocketAddr>,
}

impl Moved {
    fn is_meant(&self, flow: &Tracked, is_own: impl Fn(IpAddr) -> bool) -> bool {
        let same_port = flow.to.port() == self.port;
        let at_host = same_port
            && (self.host.is_unspecified() || self.host == flow.to.ip())
            && self.host.is_ipv4() == flow.to.is_ipv4()
            && is_own(flow.to.ip());
        at_host && flow.answered_by == self.before.unwrap_or(flow.to)
    }
}

fn moved_datagrams(before: &Published, after: &Published) -> Vec<Moved> {
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let moved = keys
        .into_iter()
        .filter(|key| key.0 == Protocol::Udp && before.get(key) != after.get(key));
    moved
        .map(|key| Moved {
            host: key.1,
            port: key.2,
            before: before.get(key).copied(),
        })
        .collect()
}

/// From what is published to what is to be, in one transaction.
fn difference(table: &str, before: &Published, after: &Published) -> Transaction {
    let mut change = Transaction::new();
    let mut gone: [Vec<Vec<u8>>; 4] = Default::default();
    let mut new: [Vec<Element>; 4] = Default::default();
    for (key, to) in before.iter().filter(|(key, to)| after.get(key) != Some(to)) {
        let (map, element) = element(*key, *to);
        gone[map].push(element.0);
    }
    for (key, to) in after.iter().filter(|(key, to)| before.get(key) != Some(to)) {
        let (map, element) = element(*key, *to);
        new[map].push(element);
    }
    for (at, (map, _, _)) in MAPS.into_iter().enumerate() {
        if !gone[at].is_empty() {
            change.delete_elements(Family::Inet, table, map, &gone[at]);
        }
        change.add_port_elements(Family::Inet, table, map, &new[at]);
    }
    change
}

#[cfg(test)]
mod tests {
    use super::{MAPS, element, read_element};
    use hull_model::port::Protocol;
    use std::net::{IpAddr, SocketAddr};

    #[test]
    fn elements_read_back_as_they_were_written() {
        for (host, to) in [
            ("0.0.0.0", "172.17.0.2:80"),
            ("127.0.0.1", "172.17.0.2:80"),
            ("::", "[fd00::2]:80"),
            ("fd00::1", "[fd00::2]:443"),
        ] {
            let host: IpAddr = host.parse().unwrap();
            let to: SocketAddr = to.parse().unwrap();
            let key = (Protocol::Udp, host, 8080);
            let (map, (bytes, data)) = element(key, to);
            let (_, family, with_address) = MAPS[map];
            let read = read_element(family, with_address, &bytes, &data);
            assert_eq!(read, Some((key, to)));
        }
    }
}
