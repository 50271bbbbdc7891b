//! Pure: the rules of all networks as iptables has them, of one family.
//!
//! ```text
//!   raw     PREROUTING ─▶ raw       the host's loopback is not for containers
//!   mangle  PREROUTING ─▶ egress    who may reach what outside (only where there is a policy)
//!   filter  FORWARD ────▶ forward ─▶ into ─▶ apart     walls between links
//!   nat     PREROUTING ─▶ in  ─┐
//!           OUTPUT ─────▶ out ─┴▶ ports ─▶ ports-any   one rule per published port
//!           POSTROUTING ▶ post      who leaves as the host
//! ```
//!
//! Every chain drops what must not be and returns for the rest: what others decide about our
//! packets stays theirs, and where a policy drops them `firewall.rs` adds its accept rules. iptables
//! has no sets of links, so walls cost a rule per network and ports a rule per port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hull_model::port::Protocol;

use crate::egress::{self, Allowed, Flow, Guards, Holder, pass_comment};
use crate::forwarding::{Family, Forwarding};
use crate::network::{Network, Subnet};
use crate::publish::{Published, Reach};

/// What is wanted, of both families.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) tag: &'a str,
    pub(super) networks: &'a [Network],
    pub(super) reach: Reach,
    pub(super) guards: &'a Guards,
    pub(super) published: &'a Published,
}

/// One rule: what it says after its chain's name, without the comment by which it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) options: String,
    pub(super) comment: String,
}

/// A chain of ours in one of the tables of iptables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) table: &'static str,
    pub(super) name: String,
    /// The chain of the kernel whose first rule leads here.
    pub(super) from: Option<&'static str>,
    pub(super) lines: Vec<Line>,
}

/// Our tables in the order in which they are written: first what forbids.
pub(super) const TABLES: [&str; 4] = ["raw", "mangle", "filter", "nat"];
/// Chains that are there once; the others belong to one policy each.
const SINGLE: [&str; 11] = [
    "raw",
    "egress",
    "forward",
    "opened",
    "into",
    "apart",
    "in",
    "out",
    "post",
    "ports",
    "ports-any",
];
/// The table of policies: after connection tracking, before published ports.
pub(super) const POLICIES: &str = "mangle";
const OF_ENDPOINT: &str = "e-";
const OF_NETWORK: &str = "n-";

/// Whether a chain of that name is one of ours.
pub(super) fn is_ours(tag: &str, chain: &str) -> bool {
    let rest = chain.strip_prefix(tag).and_then(|r| r.strip_prefix('-'));
    rest.is_some_and(|rest| {
        SINGLE.contains(&rest) || rest.starts_with(OF_ENDPOINT) || rest.starts_with(OF_NETWORK)
    })
}

/// Comment of a rule that leads from a chain of the kernel to one of ours. Not that of a rule of
/// ours in a foreign chain, which begins with the tag and a colon.
pub(super) fn entry_comment(tag: &str) -> String {
    format!("{tag} rules")
}

/// All chains of a family; none where no network speaks it.
pub(super) fn chains(wanted: &Wanted<'_>, family: Family, forwarding: &Forwarding) -> Vec<Chain> {
    let v6 = family == Family::V6;
    let mut pools = wanted.networks.iter().flat_map(|network| &network.pools);
    if wanted.networks.is_empty() || (v6 && !pools.any(|pool| pool.gateway.is_ipv6())) {
        return Vec::new();
    }
    let plan = Plan { wanted, v6 };
    let mut all = Vec::new();
    if !v6 {
        all.push(plan.raw());
    }
    all.extend(plan.egress());
    all.extend(plan.forward(forwarding));
    all.extend(plan.ports());
    all.push(plan.post());
    all
}

struct Plan<'a> {
    wanted: &'a Wanted<'a>,
    v6: bool,
}

impl Plan<'_> {
    fn chain(&self, table: &'static str, name: &str, from: Option<&'static str>) -> Chain {
        Chain {
            table,
            name: self.name(name),
            from,
            lines: Vec::new(),
        }
    }

    fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.wanted.tag)
    }

    fn is_of(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.v6
    }

    fn bridges(&self) -> impl Iterator<Item = &str> {
        self.wanted.networks.iter().map(|n| n.bridge.as_str())
    }

    fn internal(&self) -> impl Iterator<Item = &str> {
        let internal = self.wanted.networks.iter().filter(|n| n.internal);
        internal.map(|network| network.bridge.as_str())
    }

    fn loopback(&self) -> Subnet {
        match self.v6 {
            true => Subnet::containing(Ipv6Addr::LOCALHOST.into(), 128),
            false => Subnet::containing(Ipv4Addr::LOCALHOST.into(), 8),
        }
    }

    fn add(&self, chain: &mut Chain, options: String, why: &str) {
        chain.lines.push(Line {
            options,
            comment: format!("{}: {why}", self.wanted.tag),
        });
    }

    fn raw(&self) -> Chain {
        let mut raw = self.chain("raw", "raw", Some("PREROUTING"));
        for bridge in self.bridges() {
            let options = format!("-i {bridge} -d {} -j DROP", self.loopback());
            let why = format!("the loopback of the host is not for containers of {bridge}");
            self.add(&mut raw, options, &why);
        }
        raw
    }

    fn forward(&self, forwarding: &Forwarding) -> Vec<Chain> {
        let mut forward = self.chain("filter", "forward", Some("FORWARD"));
        let [into, apart, opened] = ["into", "apart", "opened"].map(|name| self.name(name));
        for bridge in self.bridges() {
            let why = format!("what comes to {bridge}");
            self.add(&mut forward, format!("-o {bridge} -g {into}"), &why);
        }
        for bridge in self.internal() {
            let why = format!("no way out of {bridge}");
            self.add(&mut forward, format!("-i {bridge} -j DROP"), &why);
        }
        for link in &forwarding.opened {
            let why = format!("{link} forwards for our networks only");
            self.add(&mut forward, format!("-i {link} -g {opened}"), &why);
        }
        let mut into = self.chain("filter", "into", None);
        let replies = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN";
        self.add(&mut into, replies.to_owned(), "replies");
        // Before the walls between networks: a published port is for all that reach the host.
        for bridge in self.internal() {
            let why = format!("no published ports for {bridge}");
            self.add(&mut into, format!("-i {bridge} -g {apart}"), &why);
        }
        let ports = "-m conntrack --ctstate DNAT -j RETURN";
        self.add(&mut into, ports.to_owned(), "published ports");
        let rest = format!("-j {apart}");
        self.add(&mut into, rest, "the rest");
        vec![forward, self.apart(), self.opened(forwarding), into]
    }

    fn apart(&self) -> Chain {
        let mut apart = self.chain("filter", "apart", None);
        for network in self.wanted.networks {
            let bridge = &network.bridge;
            let verdict = if network.icc { "RETURN" } else { "DROP" };
            let options = format!("-i {bridge} -o {bridge} -j {verdict}");
            let why = format!("between endpoints of {bridge}: {verdict}");
            self.add(&mut apart, options, &why);
        }
        self.add(
            &mut apart,
            "-j DROP".to_owned(),
            "networks are kept apart, and nobody comes in unasked",
        );
        apart
    }

    fn opened(&self, forwarding: &Forwarding) -> Chain {
        let mut opened = self.chain("filter", "opened", None);
        if forwarding.opened.is_empty() {
            return opened;
        }
        for link in &forwarding.routed {
            let why = format!("{link} forwards for others");
            self.add(&mut opened, format!("-o {link} -j RETURN"), &why);
        }
        self.add(&mut opened, "-j DROP".to_owned(), "it is not a router");
        opened
    }

    fn ports(&self) -> Vec<Chain> {
        let mut inward = self.chain("nat", "in", Some("PREROUTING"));
        let mut outward = self.chain("nat", "out", Some("OUTPUT"));
        let mut ports = self.chain("nat", "ports", None);
        let mut any = self.chain("nat", "ports-any", None);
        // From outside nothing goes to the loopback, whatever the sender claims; and what the host
        // sends to ::1 cannot leave it, so a socket of ours takes that.
        let [loopback, to] = [self.loopback().to_string(), ports.name.clone()];
        let inside = format!("! -d {loopback} -j {to}");
        match self.wanted.reach {
            Reach::All => self.add(&mut inward, inside.clone(), "published ports"),
            Reach::Inside => {
                for bridge in self.bridges() {
                    let why = format!("published ports from {bridge}");
                    self.add(&mut inward, format!("-i {bridge} {inside}"), &why);
                }
            }
        }
        let from_host = if self.v6 { inside } else { format!("-j {to}") };
        self.add(&mut outward, from_host, "published ports");
        let published = self.wanted.published.iter();
        for ((protocol, host, port), target) in published.filter(|((_, h, _), _)| self.is_of(*h)) {
            let (chain, address) = match host.is_unspecified() {
                true => (&mut any, String::new()),
                false => (&mut ports, format!("-d {host} ")),
            };
            let options = format!(
                "{address}-p {protocol} -m {protocol} --dport {port} -j DNAT --to-destination {target}"
            );
            let why = port_words(*protocol, SocketAddr::new(*host, *port), *target);
            self.add(chain, options, &why);
        }
        let local = format!("-m addrtype --dst-type LOCAL -j {}", any.name);
        self.add(&mut ports, local, "ports at every address of the host");
        vec![any, ports, inward, outward]
    }

    fn post(&self) -> Chain {
        let mut post = self.chain("nat", "post", Some("POSTROUTING"));
        for bridge in self.bridges().filter(|_| !self.v6) {
            let options = format!("-s {} -o {bridge} -j MASQUERADE", self.loopback());
            let why = format!("the loopback of the host to a port of {bridge}");
            self.add(&mut post, options, &why);
        }
        for network in self.wanted.networks.iter().filter(|n| !n.internal) {
            let bridge = &network.bridge;
            let pools = network.pools.iter().map(|pool| pool.subnet);
            for subnet in pools.filter(|subnet| self.is_of(subnet.address())) {
                let own =
                    format!("-s {subnet} -o {bridge} -m conntrack --ctstate DNAT -j MASQUERADE");
                self.add(
                    &mut post,
                    own,
                    &format!("{bridge} {subnet} to its own port"),
                );
                if network.masquerade {
                    let out = format!("-s {subnet} ! -o {bridge} -j MASQUERADE");
                    self.add(
                        &mut post,
                        out,
                        &format!("{bridge} {subnet} leaves as the host"),
                    );
                }
            }
        }
        post
    }

    fn egress(&self) -> Vec<Chain> {
        let mut entry = self.chain(POLICIES, "egress", Some("PREROUTING"));
        // Not "what is established": neighbors are asked for by packets that nobody tracks.
        let known = "-m conntrack ! --ctstate INVALID,NEW -j RETURN";
        self.add(&mut entry, known.to_owned(), "known connections");
        let mut all = Vec::new();
        for (key, guard) in &self.wanted.guards.of {
            let name = self.name(&format!("{OF_ENDPOINT}{key}"));
            for (bridge, source) in guard.sources.iter().filter(|(_, s)| self.is_of(*s)) {
                let options = format!("-i {bridge} -s {source} -j {name}");
                let why = format!("the policy of {key} for {source} on {bridge}");
                self.add(&mut entry, options, &why);
            }
            let of = Policy {
                name,
                key: egress::chain_of(key),
                holder: Holder::Endpoint,
                inside: guard.inside.clone(),
                allowed: &guard.allowed,
            };
            let mine = |flow: &Flow| guard.sources.iter().any(|(_, s)| *s == flow.from);
            all.push(self.policy(of, mine));
        }
        for (number, network) in self.wanted.networks.iter().enumerate() {
            let Some(allowed) = &network.egress else {
                continue;
            };
            let name = self.name(&format!("{OF_NETWORK}{number}"));
            let options = format!("-i {} -j {name}", network.bridge);
            let why = format!("the policy of {}", network.bridge);
            self.add(&mut entry, options, &why);
            let inside: Vec<Subnet> = network.pools.iter().map(|pool| pool.subnet).collect();
            let of = Policy {
                name,
                key: egress::chain_on(&network.bridge),
                holder: Holder::Network,
                inside: inside.clone(),
                allowed,
            };
            let mine = |flow: &Flow| inside.iter().any(|subnet| subnet.contains(flow.from));
            all.push(self.policy(of, mine));
        }
        if all.is_empty() {
            return Vec::new();
        }
        all.push(entry);
        all
    }

    fn policy(&self, of: Policy<'_>, mine: impl Fn(&Flow) -> bool) -> Chain {
        let tag = self.wanted.tag;
        let mut chain = Chain {
            table: POLICIES,
            name: of.name,
            from: None,
            lines: Vec::new(),
        };
        for subnet in of.inside.iter().filter(|s| self.is_of(s.address())) {
            let options = format!("-d {subnet} -m addrtype ! --dst-type LOCAL -j RETURN");
            self.add(&mut chain, options, &format!("{subnet} is its own network"));
        }
        let flows = self.wanted.guards.flows_of(of.holder);
        for flow in flows.filter(|flow| self.is_of(flow.to) && mine(flow)) {
            let Flow {
                from,
                to,
                protocol,
                port,
            } = flow;
            let matches = transport(Some(*protocol), Some(*port));
            let options = format!("-s {from} -d {to}{} -j RETURN", matches.concat());
            chain.lines.push(Line {
                options,
                comment: format!(
                    "{} {}",
                    pass_comment(tag, &of.key),
                    flow_words(of.holder, flow)
                ),
            });
        }
        for Allowed {
            subnet,
            port,
            protocol,
        } in of.allowed
        {
            if !self.is_of(subnet.address()) {
                continue;
            }
            for matches in transport(*protocol, *port) {
                chain.lines.push(Line {
                    options: format!("-d {subnet}{matches} -j RETURN"),
                    comment: format!("{} to {subnet}{matches}", pass_comment(tag, &of.key)),
                });
            }
        }
        chain.lines.push(Line {
            options: "-j DROP".to_owned(),
            comment: egress::drop_comment(tag, &of.key),
        });
        chain
    }
}

/// A policy of an endpoint or of a network.
struct Policy<'a> {
    name: String,
    /// What the same chain is called in nftables, by which its counters are found.
    key: String,
    holder: Holder,
    inside: Vec<Subnet>,
    allowed: &'a [Allowed],
}

/// Matches for a transport protocol and a port, one per protocol that is meant.
fn transport(protocol: Option<u8>, port: Option<u16>) -> Vec<String> {
    let word = |number: u8| {
        let known = Protocol::ALL.into_iter().find(|p| p.number() == number);
        known.map_or_else(|| number.to_string(), |known| known.word().to_owned())
    };
    match (protocol, port) {
        (None, None) => vec![String::new()],
        (Some(protocol), None) => vec![format!(" -p {}", word(protocol))],
        (Some(protocol), Some(port)) => {
            let word = word(protocol);
            vec![format!(" -p {word} -m {word} --dport {port}")]
        }
        (None, Some(port)) => egress::TCP_AND_UDP
            .into_iter()
            .flat_map(|protocol| transport(Some(protocol), Some(port)))
            .collect(),
    }
}

fn port_words(protocol: Protocol, host: SocketAddr, to: SocketAddr) -> String {
    format!("port {protocol} {host} to {to}")
}

/// A published port that a rule's comment tells of.
pub(super) fn read_port(tag: &str, comment: &str) -> Option<((Protocol, IpAddr, u16), SocketAddr)> {
    let rest = comment.strip_prefix(tag)?.strip_prefix(": port ")?;
    let mut words = rest.split(' ');
    let protocol: Protocol = words.next()?.parse().ok()?;
    let host: SocketAddr = words.next()?.parse().ok()?;
    let to: SocketAddr = words.nth(1)?.parse().ok()?;
    Some(((protocol, host.ip(), host.port()), to))
}

fn flow_words(holder: Holder, flow: &Flow) -> String {
    let Flow {
        from,
        to,
        protocol,
        port,
    } = flow;
    format!("flow {} {from} to {to} {protocol} {port}", holder as u8)
}

/// A flow that a rule's comment tells of.
pub(super) fn read_flow(comment: &str) -> Option<(Holder, Flow)> {
    let (_, rest) = comment.split_once(" flow ")?;
    let words: Vec<&str> = rest.split(' ').collect();
    let [holder, from, "to", to, protocol, port] = words[..] else {
        return None;
    };
    let holder = match holder {
        "0" => Holder::Endpoint,
        "1" => Holder::Network,
        _ => return None,
    };
    let flow = Flow {
        from: from.parse().ok()?,
        to: to.parse().ok()?,
        protocol: protocol.parse().ok()?,
        port: port.parse().ok()?,
    };
    Some((holder, flow))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{flow_words, is_ours, port_words, read_flow, read_port};
    use crate::egress::{Flow, Holder};
    use hull_model::port::Protocol;

    #[test]
    fn comments_read_back_as_they_were_written() {
        for (host, to) in [
            ("0.0.0.0:80", "172.17.0.2:8080"),
            ("[::]:80", "[fd00::2]:81"),
        ] {
            let [host, to]: [SocketAddr; 2] = [host, to].map(|text| text.parse().unwrap());
            let comment = format!("hull: {}", port_words(Protocol::Sctp, host, to));
            let read = read_port("hull", &comment);
            assert_eq!(read, Some(((Protocol::Sctp, host.ip(), host.port()), to)));
        }
        let flow = Flow {
            from: [10, 0, 0, 2].into(),
            to: [192, 0, 2, 1].into(),
            protocol: 17,
            port: 53,
        };
        let comment = format!("hull: x allows it {}", flow_words(Holder::Network, &flow));
        assert_eq!(read_flow(&comment), Some((Holder::Network, flow)));
    }

    #[test]
    fn chains_of_another_daemon_are_not_ours() {
        for (tag, chain, ours) in [
            ("hull", "hull-forward", true),
            ("hull", "hull-e-abababababab", true),
            ("hull", "hull-0123abcd-forward", false),
            ("hull-0123abcd", "hull-0123abcd-n-12", true),
            ("hull-0123abcd", "hull-forward", false),
            ("hull", "DOCKER", false),
        ] {
            assert_eq!(is_ours(tag, chain), ours, "{chain} of {tag}");
        }
    }
}
