//! Pure plans: what a shim does for one endpoint, and what our table holds for all networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hull_model::SandboxId;
use hull_os::netlink::{
    Batch, Ipvlan, IpvlanMode, IpvlanReach, LinkChange, Macvlan, MacvlanMode, Veth, is_link_local,
};
use hull_os::nft::{BaseChain, Family, Hook, Key, Place, Rule, Transaction, Verdict, link_key};

use crate::egress::{self, Counts, Guards};
use crate::forwarding::Both;
use crate::network::{Endpoint, Network};
use crate::publish::{self, Published, Reach};

/// What a shim sends for a sandbox's endpoint: requests for two network namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkSteps {
    /// For a socket in the host's namespace.
    pub host: Vec<u8>,
    /// For a socket in the sandbox's namespace, after those of the host.
    pub inside: Vec<u8>,
    /// Where in `host` a descriptor of the sandbox's namespace has to be put (four bytes, byte
    /// order of the host) before sending.
    pub netns_fd_offset: Option<u32>,
}

/// Name of the link that stays on the host for an endpoint of a sandbox.
pub fn host_link(sandbox: &SandboxId, number: u8) -> String {
    let suffix = if number == 0 {
        String::new()
    } else {
        number.to_string()
    };
    format!("hv{}{suffix}", sandbox.short())
}

/// Name of the link of an endpoint inside.
pub fn inner_link(number: u8) -> String {
    format!("eth{number}")
}

/// Requests for a namespace that has nothing but its loopback.
pub fn plan_loopback() -> LinkSteps {
    let mut inside = Batch::new();
    inside.set_link(
        "lo",
        &LinkChange {
            up: Some(true),
            ..LinkChange::default()
        },
    );
    LinkSteps {
        inside: inside.into_bytes(),
        ..LinkSteps::default()
    }
}

/// Requests that give a sandbox an endpoint on a network, whose bridge has the number
/// `bridge_index`; `tag` begins the alias by which the link is found again.
pub fn plan_endpoint(
    network: &Network,
    endpoint: &Endpoint,
    bridge_index: u32,
    tag: &str,
) -> LinkSteps {
    let name = host_link(&endpoint.sandbox, endpoint.number);
    let mut host = Batch::new();
    // A tap is there already: whoever opened it has its other end.
    let netns_fd_offset = (!endpoint.is_tap).then(|| {
        host.create_veth(&Veth {
            name: &name,
            peer_name: &endpoint.link,
            peer_mac: endpoint.mac().0,
            mtu: network.mtu,
        })
    });
    host.set_link(
        &name,
        &LinkChange {
            alias: Some(&alias(tag, &endpoint.sandbox)),
            master: Some(bridge_index),
            up: Some(true),
            // A port of a bridge talks for others only.
            link_local: Some(false),
            mtu: endpoint.is_tap.then_some(network.mtu),
            mac: None,
        },
    );
    // Frames between ports never come to the table's rules, unless the host passes bridged frames
    // to them; the bridge itself has to keep such ports apart. Where the host does, it also leads
    // an endpoint that asks for its own published port straight back to it.
    host.set_port(&name, !network.icc, true);
    LinkSteps {
        host: host.into_bytes(),
        inside: plan_inside(network, endpoint),
        netns_fd_offset,
    }
}

/// The same for a link on top of `parent_index`, a link of the host. It has no end on the host: it
/// goes with the sandbox's namespace, or by [`plan_removal`].
pub(crate) fn plan_macvlan(
    network: &Network,
    endpoint: &Endpoint,
    parent_index: u32,
    mode: MacvlanMode,
) -> LinkSteps {
    let mut host = Batch::new();
    let netns_fd_offset = host.create_macvlan(&Macvlan {
        name: &endpoint.link,
        parent: parent_index,
        mac: endpoint.mac().0,
        mtu: network.mtu,
        mode,
    });
    LinkSteps {
        host: host.into_bytes(),
        inside: plan_inside(network, endpoint),
        netns_fd_offset: Some(netns_fd_offset),
    }
}

/// The same for a link that shares the hardware address of its parent.
pub(crate) fn plan_ipvlan(
    network: &Network,
    endpoint: &Endpoint,
    parent_index: u32,
    (mode, reach): (IpvlanMode, IpvlanReach),
) -> LinkSteps {
    let mut host = Batch::new();
    let netns_fd_offset = host.create_ipvlan(&Ipvlan {
        name: &endpoint.link,
        parent: parent_index,
        mtu: network.mtu,
        mode,
        reach,
    });
    LinkSteps {
        host: host.into_bytes(),
        inside: plan_inside(network, endpoint),
        netns_fd_offset: Some(netns_fd_offset),
    }
}

fn plan_inside(network: &Network, endpoint: &Endpoint) -> Vec<u8> {
    let mut inside = Batch::new();
    if endpoint.number == 0 {
        inside.set_link(
            "lo",
            &LinkChange {
                up: Some(true),
                ..LinkChange::default()
            },
        );
    }
    // Without an IPv6 address of ours it gets none at all: a link-local one would cost a second
    // of duplicate detection and reach services of the host that listen on IPv6.
    let link_local = endpoint.addresses.iter().any(IpAddr::is_ipv6);
    let up = LinkChange {
        up: Some(true),
        link_local: Some(link_local),
        mtu: endpoint.is_tap.then_some(network.mtu),
        ..LinkChange::default()
    };
    inside.find_link(&endpoint.link);
    for address in &endpoint.addresses {
        if let Some(pool) = network.pool_of(*address) {
            inside.add_address(0, *address, pool.subnet.prefix_length());
        }
    }
    for address in &endpoint.link_local {
        let prefix_length = if address.is_ipv4() { 16 } else { 64 };
        inside.add_address(0, *address, prefix_length);
    }
    inside.set_link(&endpoint.link, &up);
    for gateway in &endpoint.gateways {
        inside.set_default_route(*gateway);
    }
    inside.into_bytes()
}

/// Requests for a sandbox's namespace that move its default routes, each over its link.
pub fn plan_routes(gateways: &[(String, IpAddr)]) -> Vec<u8> {
    let mut inside = Batch::new();
    for (link, gateway) in gateways {
        if is_link_local(gateway) {
            inside.find_link(link);
        }
        inside.set_default_route(*gateway);
    }
    inside.into_bytes()
}

/// Requests for a guest that give a card which nobody uses the address of its endpoint.
pub fn plan_card(link: &str, mac: crate::network::Mac) -> Vec<u8> {
    let mut inside = Batch::new();
    inside.set_link(
        link,
        &LinkChange {
            up: Some(false),
            mac: Some(mac.0),
            ..LinkChange::default()
        },
    );
    inside.into_bytes()
}

/// Requests for the host and for a guest that leave a card without a network.
pub(crate) fn plan_idle_card(
    network: &Network,
    sandbox: &SandboxId,
    number: u8,
    addresses: &[IpAddr],
) -> (Vec<u8>, Vec<u8>) {
    let down = LinkChange {
        up: Some(false),
        ..LinkChange::default()
    };
    let mut host = Batch::new();
    host.set_link(
        &host_link(sandbox, number),
        &LinkChange {
            master: Some(0),
            // Not ours to clean up: it goes with its machine.
            alias: Some(""),
            ..down.clone()
        },
    );
    let mut inside = Batch::new();
    let link = inner_link(number);
    inside.find_link(&link);
    for address in addresses {
        if let Some(pool) = network.pool_of(*address) {
            inside.delete_address(0, *address, pool.subnet.prefix_length());
        }
    }
    inside.set_link(&link, &down);
    (host.into_bytes(), inside.into_bytes())
}

/// Requests for a sandbox's namespace that take a link away which has no end on the host.
pub fn plan_removal(link: &str) -> Vec<u8> {
    let mut inside = Batch::new();
    inside.delete_link(link);
    inside.into_bytes()
}

/// Alias of a sandbox's links on the host.
pub(crate) fn alias(tag: &str, sandbox: &SandboxId) -> String {
    format!("{tag}:{}", sandbox.short())
}

/// Links of all bridges.
const BRIDGES: &str = "bridges";
/// Bridges of internal networks.
const INTERNAL: &str = "internal";
/// Links of the host that forward only because we let them.
const OPENED: &str = "opened";
/// Links that forward because somebody else wants it.
const ROUTED: &str = "routed";
/// The same for IPv6.
const OPENED6: &str = "opened6";
/// The same for IPv6.
const ROUTED6: &str = "routed6";
/// Verdict for traffic that leaves over the bridge that it came from.
const SAME_BRIDGE: &str = "same_bridge";

const FORWARD: BaseChain = BaseChain {
    name: "forward",
    kind: "filter",
    hook: Hook::Forward,
    priority: 0,
};
/// Before connection tracking, where packets to the host's loopback must already be gone.
const PREROUTING: BaseChain = BaseChain {
    name: "prerouting",
    kind: "filter",
    hook: Hook::Prerouting,
    priority: -300,
};
pub(crate) const POSTROUTING: BaseChain = BaseChain {
    name: "postrouting",
    kind: "nat",
    hook: Hook::Postrouting,
    priority: 100,
};

/// What our table is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    bridges: Vec<String>,
    internal: Vec<String>,
    forwarding: Both,
    /// Bridge, and whether its endpoints reach each other.
    same_bridge: Vec<(String, bool)>,
    pub(crate) rules: Vec<Rule>,
}

/// The table for all networks; `forwarding` are the links of the host that forward.
pub(crate) fn table(
    name: &str,
    networks: &[Network],
    forwarding: &Both,
    reach: Reach,
    guards: &Guards,
) -> Table {
    let bridges = |which: fn(&Network) -> bool| -> Vec<String> {
        networks
            .iter()
            .filter(|n| which(n))
            .map(|n| n.bridge.clone())
            .collect()
    };
    let mut rules = forward_rules(name);
    let loopback = Ipv4Addr::new(127, 0, 0, 0).into();
    rules.push(
        Rule::new(
            "prerouting",
            &format!("{name}: the host's loopback is not for containers"),
        )
        // The cheaper question first: every packet of the host is asked.
        .to_network(loopback, 8)
        .from_link_in(BRIDGES)
        .counted()
        .verdict(Verdict::Drop),
    );
    rules.extend(egress::rules(name, networks, BRIDGES, guards));
    rules.extend(publish::rules(name, networks, BRIDGES, reach));
    for network in networks
        .iter()
        .filter(|network| network.masquerade && !network.internal)
    {
        for pool in &network.pools {
            let why = format!(
                "{name}: {} {} leaves as the host",
                network.bridge, pool.subnet
            );
            rules.push(
                Rule::new("postrouting", &why)
                    .from_network(pool.subnet.address(), pool.subnet.prefix_length())
                    .not_to_link(&network.bridge)
                    .counted()
                    .masquerade(),
            );
        }
    }
    Table {
        name: name.to_owned(),
        bridges: bridges(|_| true),
        internal: bridges(|network| network.internal),
        forwarding: forwarding.clone(),
        same_bridge: networks.iter().map(|n| (n.bridge.clone(), n.icc)).collect(),
        rules,
    }
}

/// Traffic from one link to another. Sets and a map keep its cost the same for any number of
/// networks.
fn forward_rules(tag: &str) -> Vec<Rule> {
    let rule = |why: &str| Rule::new(FORWARD.name, &format!("{tag}: {why}"));
    vec![
        rule("replies")
            .to_link_in(BRIDGES)
            .of_known_connection()
            .verdict(Verdict::Accept),
        // Before the walls between networks: a published port is for all that reach the host.
        rule("published ports")
            .from_link_not_in(INTERNAL)
            .to_link_in(BRIDGES)
            .of_published_port()
            .verdict(Verdict::Accept),
        rule("between endpoints of one network").verdict_by_links(SAME_BRIDGE),
        rule("networks are kept apart")
            .from_link_in(BRIDGES)
            .to_link_in(BRIDGES)
            .counted()
            .verdict(Verdict::Drop),
        rule("no way out of internal networks")
            .from_link_in(INTERNAL)
            .counted()
            .verdict(Verdict::Drop),
        rule("no way into internal networks")
            .to_link_in(INTERNAL)
            .counted()
            .verdict(Verdict::Drop),
        rule("nobody asked for it")
            .to_link_in(BRIDGES)
            .counted()
            .verdict(Verdict::Drop),
        rule("forwards for our networks only")
            .from_network(Ipv4Addr::UNSPECIFIED.into(), 0)
            .from_link_in(OPENED)
            .to_link_not_in(ROUTED)
            .counted()
            .verdict(Verdict::Drop),
        rule("forwards for our networks only (IPv6)")
            .from_network(Ipv6Addr::UNSPECIFIED.into(), 0)
            .from_link_in(OPENED6)
            .to_link_not_in(ROUTED6)
            .counted()
            .verdict(Verdict::Drop),
    ]
}

impl Table {
    /// Replaces whatever our table holds: packets see the old one or the new one, never a part.
    /// Counters go on from `counts`.
    pub(crate) fn replace(
        &self,
        published: &Published,
        (networks, guards): (&[Network], &Guards),
        mut counts: Counts,
    ) -> Transaction {
        let (family, name) = (Family::Inet, self.name.as_str());
        let mut all = remove(name);
        all.add_table(family, name);
        for chain in [PREROUTING, FORWARD, POSTROUTING] {
            all.add_base_chain(family, name, chain);
        }
        for (set, links) in [
            (BRIDGES, &self.bridges),
            (INTERNAL, &self.internal),
            (OPENED, &self.forwarding.v4.opened),
            (ROUTED, &self.forwarding.v4.routed),
            (OPENED6, &self.forwarding.v6.opened),
            (ROUTED6, &self.forwarding.v6.routed),
        ] {
            all.add_set(family, name, set, Key::Link);
            let elements: Vec<_> = links.iter().map(|link| (link_key(&[link]), None)).collect();
            all.add_elements(family, name, set, &elements);
        }
        all.add_verdict_map(family, name, SAME_BRIDGE, Key::LinkPair);
        let verdicts: Vec<_> = self
            .same_bridge
            .iter()
            .map(|(bridge, icc)| {
                let verdict = if *icc { Verdict::Accept } else { Verdict::Drop };
                (link_key(&[bridge, bridge]), Some(verdict))
            })
            .collect();
        all.add_elements(family, name, SAME_BRIDGE, &verdicts);
        egress::add_to(&mut all, name, networks, guards);
        publish::add_to(&mut all, name, published);
        for rule in &self.rules {
            let place = (rule.chain().to_owned(), rule.comment().to_owned());
            let counted = counts.get_mut(&place).and_then(|all| all.pop_front());
            let rule = rule.clone().count_on_from(counted.unwrap_or_default());
            all.add_rule(family, name, &rule, Place::End);
        }
        all
    }

    /// Sets with the keys that they are to have, for a comparison with the kernel's.
    pub(crate) fn sets(&self) -> Vec<(&'static str, Vec<Vec<String>>)> {
        let single = |links: &[String]| links.iter().map(|link| vec![link.clone()]).collect();
        let pairs = |(bridge, _): &(String, bool)| vec![bridge.clone(), bridge.clone()];
        vec![
            (BRIDGES, single(&self.bridges)),
            (INTERNAL, single(&self.internal)),
            (OPENED, single(&self.forwarding.v4.opened)),
            (ROUTED, single(&self.forwarding.v4.routed)),
            (OPENED6, single(&self.forwarding.v6.opened)),
            (ROUTED6, single(&self.forwarding.v6.routed)),
            (SAME_BRIDGE, self.same_bridge.iter().map(pairs).collect()),
        ]
    }
}

/// Removes our table, also when it is not there.
pub(crate) fn remove(name: &str) -> Transaction {
    let mut all = Transaction::new();
    all.add_table(Family::Inet, name);
    all.delete_table(Family::Inet, name);
    all
}

#[cfg(test)]
mod tests {
    use hull_model::SandboxId;
    use hull_os::netlink::NETNS_FD_UNKNOWN;

    use super::{Endpoint, Network, host_link, plan_endpoint};

    #[test]
    fn the_offset_points_at_the_placeholder() {
        let sandbox = SandboxId::from_bytes([0xab; 32]);
        let network = Network::default_bridge("172.17.0.0/16".parse().unwrap(), 1400);
        let endpoint = Endpoint::only(sandbox, vec![[172, 17, 0, 2].into()], &network);
        let steps = plan_endpoint(&network, &endpoint, 7, "hull");
        let at = steps.netns_fd_offset.unwrap() as usize;
        assert_eq!(steps.host[at..at + 4], NETNS_FD_UNKNOWN.to_ne_bytes());
        assert_eq!(
            steps,
            plan_endpoint(&network, &endpoint, 7, "hull"),
            "the same every time"
        );
    }

    #[test]
    fn names_of_host_links_fit() {
        let sandbox = SandboxId::from_bytes([0xab; 32]);
        assert_eq!(host_link(&sandbox, 0), "hvabababababab");
        assert_eq!(host_link(&sandbox, 9).len(), 15);
    }
}
