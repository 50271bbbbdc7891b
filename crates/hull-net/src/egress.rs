//! What endpoints may reach beyond their networks.
//!
//! ```text
//!   from a bridge ─▶ prerouting, before any port is led elsewhere
//!        new connection ─▶ map: link and source ──▶ chain of the endpoint's policy ─┐ dropped,
//!                          map: link ─────────────▶ chain of the network's policy ──┤ counted
//!                                                                                   └▶ or returns
//! ```
//!
//! Two maps, so that whoever has no policy pays for two look-ups per new connection, however many
//! policies there are. A chain lets pass what stays in the networks (but not the host itself),
//! what its ranges say, and flows to addresses that were answered for its names; those lie in one
//! set per family. The link is the bridge, so a machine's tap is held as a container's veth is.
//!
//! It knows no names: who is meant by one is the caller's, who gives addresses before the answer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{MutexGuard, PoisonError};

use hull_os::nft::{
    BaseChain, Counted, Family, Hook, Key, Nftables, Rule, Transaction, Verdict, link_key,
    link_source_key, port_key,
};

use crate::Error;
use crate::apply::Networks;
use crate::iptables::Backend;
use crate::network::{Network, Subnet};

/// Flows to addresses of names that one policy remembers; the oldest goes first.
const FLOWS_MAX: usize = 1024;

/// TCP and UDP, which a port without a protocol means.
pub(crate) const TCP_AND_UDP: [u8; 2] = [6, 17];

/// Addresses that may be reached whatever they are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Which addresses.
    pub subnet: Subnet,
    /// At which port; none: at all, by every protocol.
    pub port: Option<u16>,
    /// Number of the transport protocol; none: TCP and UDP.
    pub protocol: Option<u8>,
}

/// The policy of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Its endpoints: bridge and address.
    pub sources: Vec<(String, IpAddr)>,
    /// Subnets of its networks.
    pub inside: Vec<Subnet>,
    /// What it may reach outside.
    pub allowed: Vec<Allowed>,
}

/// One who reaches for an address: source, destination, transport protocol and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// An endpoint's address.
    pub from: IpAddr,
    /// An address outside, of the same family.
    pub to: IpAddr,
    /// Number of the transport protocol.
    pub protocol: u8,
    /// The port outside.
    pub port: u16,
}

/// Whose policy allows a flow: both have to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// The endpoint's.
    Endpoint = 0,
    /// Its network's.
    Network = 1,
}

/// What a policy has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EgressCount {
    /// Connections that it let out.
    pub connections: u64,
    /// Packets that it dropped.
    pub blocked: Counted,
}

/// All policies of sandboxes, and the flows that names allow.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guards {
    pub(crate) of: BTreeMap<String, Guard>,
    flows: BTreeMap<Holder, VecDeque<Flow>>,
}

const CHAIN: BaseChain = BaseChain {
    name: "egress",
    kind: "filter",
    hook: Hook::Prerouting,
    // After connection tracking, before published ports.
    priority: -150,
};
/// What is asked of new connections.
const NEW: &str = "egress_new";
const BY_LINK: &str = "egress_by_link";
/// The map by source, and the sets of flows by whose policy allows them, of one family.
const FAMILIES: [(Family, &str, [&str; 2]); 2] = [
    (
        Family::Ipv4,
        "egress_by_source4",
        ["egress_names4", "egress_net_names4"],
    ),
    (
        Family::Ipv6,
        "egress_by_source6",
        ["egress_names6", "egress_net_names6"],
    ),
];

fn by_source(address: IpAddr) -> &'static str {
    FAMILIES[usize::from(address.is_ipv6())].1
}

fn flows_set(holder: Holder, flow: &Flow) -> &'static str {
    FAMILIES[usize::from(flow.to.is_ipv6())].2[holder as usize]
}

impl Flow {
    fn key(&self) -> Vec<u8> {
        port_key(&[self.from, self.to], self.protocol, self.port)
    }

    fn read(v6: bool, key: &[u8]) -> Option<Self> {
        let address = |bytes: &[u8]| -> Option<IpAddr> {
            Some(match v6 {
                true => IpAddr::from(*bytes.first_chunk::<16>()?),
                false => IpAddr::from(*bytes.first_chunk::<4>()?),
            })
        };
        let width = if v6 { 16 } else { 4 };
        let rest = key.get(2 * width..)?;
        let [protocol, _, _, _, high, low, ..] = rest else {
            return None;
        };
        Some(Self {
            from: address(key)?,
            to: address(key.get(width..)?)?,
            protocol: *protocol,
            port: u16::from_be_bytes([*high, *low]),
        })
    }
}

/// Name of the chain of a sandbox's policy.
pub(crate) fn chain_of(key: &str) -> String {
    format!("egress_of_{key}")
}

/// Name of the chain of a network's policy.
pub(crate) fn chain_on(bridge: &str) -> String {
    format!("egress_on_{bridge}")
}

/// How the rule is called that drops the rest.
pub(crate) fn drop_comment(tag: &str, chain: &str) -> String {
    format!("{tag}: {chain} blocks the rest")
}

pub(crate) fn pass_comment(tag: &str, chain: &str) -> String {
    format!("{tag}: {chain} allows it")
}

/// The rules of one policy's chain.
fn policy_rules(
    tag: &str,
    chain: &str,
    holder: Holder,
    inside: &[Subnet],
    allowed: &[Allowed],
) -> Vec<Rule> {
    let rule = |why: String| Rule::new(chain, &why);
    let mut rules = Vec::new();
    for subnet in inside {
        let why = format!("{tag}: {subnet} is its own network");
        rules.push(
            rule(why)
                .to_network(subnet.address(), subnet.prefix_length())
                .not_to_local_address()
                .verdict(Verdict::Return),
        );
    }
    let pass = || rule(pass_comment(tag, chain));
    for (family, _, sets) in FAMILIES {
        let set = sets[holder as usize];
        rules.push(
            pass()
                .of_flow_in(set, family)
                .counted()
                .verdict(Verdict::Return),
        );
    }
    for Allowed {
        subnet,
        port,
        protocol,
    } in allowed
    {
        let to = || pass().to_network(subnet.address(), subnet.prefix_length());
        let ended = |rule: Rule| rule.counted().verdict(Verdict::Return);
        match (port, protocol) {
            (None, None) => rules.push(ended(to())),
            (None, Some(protocol)) => rules.push(ended(to().of_protocol(*protocol))),
            (Some(port), Some(protocol)) => rules.push(ended(to().to_port(*protocol, *port))),
            (Some(port), None) => {
                rules.extend(TCP_AND_UDP.map(|number| ended(to().to_port(number, *port))));
            }
        }
    }
    rules.push(
        rule(drop_comment(tag, chain))
            .counted()
            .verdict(Verdict::Drop),
    );
    rules
}

fn guard_rules(tag: &str, key: &str, guard: &Guard) -> Vec<Rule> {
    let chain = chain_of(key);
    policy_rules(tag, &chain, Holder::Endpoint, &guard.inside, &guard.allowed)
}

/// Chain, rules and link of each network with a policy.
fn network_rules(tag: &str, networks: &[Network]) -> Vec<(String, String, Vec<Rule>)> {
    let of = |network: &Network| {
        let allowed = network.egress.as_ref()?;
        let chain = chain_on(&network.bridge);
        let inside: Vec<Subnet> = network.pools.iter().map(|pool| pool.subnet).collect();
        let rules = policy_rules(tag, &chain, Holder::Network, &inside, allowed);
        Some((network.bridge.clone(), chain, rules))
    };
    networks.iter().filter_map(of).collect()
}

/// All rules of the table for policies.
pub(crate) fn rules(tag: &str, networks: &[Network], bridges: &str, guards: &Guards) -> Vec<Rule> {
    let rule = |chain: &str, why: &str| Rule::new(chain, &format!("{tag}: {why}"));
    let mut rules = vec![
        rule(CHAIN.name, "who may reach what outside")
            .of_new_connection()
            .from_link_in(bridges)
            .verdict(Verdict::Jump(NEW.to_owned())),
    ];
    for (family, map, _) in FAMILIES {
        rules.push(rule(NEW, "policies of endpoints").verdict_by_link_source(map, family));
    }
    rules.push(rule(NEW, "policies of networks").verdict_by_link(BY_LINK));
    for (key, guard) in &guards.of {
        rules.extend(guard_rules(tag, key, guard));
    }
    for (_, _, of_network) in network_rules(tag, networks) {
        rules.extend(of_network);
    }
    rules
}

/// Adds chains, maps and sets to a new table; rules follow by themselves.
pub(crate) fn add_to(all: &mut Transaction, table: &str, networks: &[Network], guards: &Guards) {
    let inet = Family::Inet;
    all.add_base_chain(inet, table, CHAIN);
    all.add_chain(inet, table, NEW);
    all.add_verdict_map(inet, table, BY_LINK, Key::Link);
    for (family, map, sets) in FAMILIES {
        all.add_verdict_map(inet, table, map, Key::LinkSource(family));
        for set in sets {
            all.add_set(inet, table, set, Key::Flow(family));
        }
    }
    for (key, guard) in &guards.of {
        all.add_chain(inet, table, &chain_of(key));
        add_sources(all, table, key, guard);
    }
    for (bridge, chain, _) in network_rules("", networks) {
        all.add_chain(inet, table, &chain);
        let jump = Some(Verdict::Jump(chain));
        all.add_elements(inet, table, BY_LINK, &[(link_key(&[&bridge]), jump)]);
    }
    for (holder, flows) in &guards.flows {
        for flow in flows {
            let element = (flow.key(), None);
            all.add_elements(inet, table, flows_set(*holder, flow), &[element]);
        }
    }
}

fn add_sources(all: &mut Transaction, table: &str, key: &str, guard: &Guard) {
    for (bridge, source) in &guard.sources {
        let jump = Some(Verdict::Jump(chain_of(key)));
        let element = (link_source_key(bridge, *source), jump);
        all.add_elements(Family::Inet, table, by_source(*source), &[element]);
    }
}

fn remove_guard(all: &mut Transaction, table: &str, key: &str, guard: &Guard) {
    for (bridge, source) in &guard.sources {
        let element = link_source_key(bridge, *source);
        all.delete_elements(Family::Inet, table, by_source(*source), &[element]);
    }
    all.flush_chain(Family::Inet, table, &chain_of(key));
    all.delete_chain(Family::Inet, table, &chain_of(key));
}

/// Flows that a daemon before us allowed.
pub(crate) fn found(nft: &mut Nftables, table: &str) -> std::io::Result<Vec<(Holder, Flow)>> {
    let mut all = Vec::new();
    for (family, _, sets) in FAMILIES {
        for (holder, set) in [Holder::Endpoint, Holder::Network].into_iter().zip(sets) {
            let v6 = family == Family::Ipv6;
            let elements = nft.elements(Family::Inet, table, set)?;
            let flows = elements.iter().filter_map(|(key, _)| Flow::read(v6, key));
            all.extend(flows.map(|flow| (holder, flow)));
        }
    }
    Ok(all)
}

/// Differences of maps and sets from what they should have.
pub(crate) fn verify(
    nft: &mut Nftables,
    table: &str,
    networks: &[Network],
    guards: &Guards,
) -> std::io::Result<Vec<String>> {
    let mut wanted: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::new();
    for (bridge, source) in guards.of.values().flat_map(|guard| &guard.sources) {
        let key = link_source_key(bridge, *source);
        wanted.entry(by_source(*source)).or_default().push(key);
    }
    for (bridge, _, _) in network_rules("", networks) {
        wanted
            .entry(BY_LINK)
            .or_default()
            .push(link_key(&[&bridge]));
    }
    for (holder, flow) in guards
        .flows
        .iter()
        .flat_map(|(h, all)| all.iter().map(|f| (*h, f)))
    {
        wanted
            .entry(flows_set(holder, flow))
            .or_default()
            .push(flow.key());
    }
    let names = FAMILIES
        .iter()
        .flat_map(|(_, map, sets)| [*map, sets[0], sets[1]]);
    let mut differences = Vec::new();
    for name in names.chain([BY_LINK]) {
        let elements = nft.elements(Family::Inet, table, name)?;
        let mut found: Vec<Vec<u8>> = elements.into_iter().map(|(key, _)| key).collect();
        let mut wanted = wanted.remove(name).unwrap_or_default();
        found.sort();
        wanted.sort();
        if found != wanted {
            let (has, needs) = (found.len(), wanted.len());
            differences.push(format!(
                "{name} has {has} elements, not the {needs} of our policies"
            ));
        }
    }
    Ok(differences)
}

impl Guards {
    /// Flows that policies of a kind allow.
    pub(crate) fn flows_of(&self, holder: Holder) -> impl Iterator<Item = &Flow> {
        self.flows.get(&holder).into_iter().flatten()
    }

    fn has(&self, holder: Holder, flow: &Flow) -> bool {
        self.flows
            .get(&holder)
            .is_some_and(|all| all.contains(flow))
    }

    /// Takes flows of these sources out; gives them.
    fn forget(&mut self, sources: &[(String, IpAddr)]) -> Vec<(Holder, Flow)> {
        let is_gone = |flow: &Flow| sources.iter().any(|(_, source)| *source == flow.from);
        let mut gone = Vec::new();
        for (holder, flows) in &mut self.flows {
            gone.extend(
                flows
                    .iter()
                    .filter(|flow| is_gone(flow))
                    .map(|flow| (*holder, *flow)),
            );
            flows.retain(|flow| !is_gone(flow));
        }
        gone
    }
}

impl Networks {
    /// Tells of policies before the first [`Networks::ensure`], so that no packet meets a table
    /// without them.
    pub fn expect_guards(&self, guards: impl IntoIterator<Item = (String, Guard)>) {
        self.guards().of = guards.into_iter().collect();
    }

    /// Takes over the flows that a daemon before us allowed.
    pub(crate) fn adopt_flows(&self, found: Vec<(Holder, Flow)>) {
        let mut guards = self.guards();
        for (holder, flow) in found {
            guards.flows.entry(holder).or_default().push_back(flow);
        }
    }

    /// Holds a sandbox to a policy from now on, before its links are there.
    pub fn guard(&self, key: &str, guard: &Guard) -> Result<(), Error> {
        self.change_guards(|guards, change, table| {
            let before = guards.of.insert(key.to_owned(), guard.clone());
            let gone: Vec<_> = before
                .iter()
                .flat_map(|before| before.sources.clone())
                .filter(|source| !guard.sources.contains(source))
                .collect();
            let flows = guards.forget(&gone);
            delete_flows(change, table, &flows);
            if let Some(before) = &before {
                remove_guard(change, table, key, before);
            }
            change.add_chain(Family::Inet, table, &chain_of(key));
            for rule in guard_rules(table, key, guard) {
                change.add_rule(Family::Inet, table, &rule, hull_os::nft::Place::End);
            }
            add_sources(change, table, key, guard);
        })
    }

    /// Forgets flows from these addresses, and the policy of the sandbox that is named.
    pub fn unguard(&self, key: Option<&str>, addresses: &[IpAddr]) -> Result<(), Error> {
        let known = {
            let guards = self.guards();
            let from_here = |flow: &Flow| addresses.contains(&flow.from);
            key.is_some_and(|key| guards.of.contains_key(key))
                || guards.flows.values().flatten().any(from_here)
        };
        if !known {
            return Ok(());
        }
        self.change_guards(|guards, change, table| {
            let sources: Vec<_> = addresses.iter().map(|a| (String::new(), *a)).collect();
            let flows = guards.forget(&sources);
            delete_flows(change, table, &flows);
            if let Some(key) = key
                && let Some(guard) = guards.of.remove(key)
            {
                remove_guard(change, table, key, &guard);
            }
        })
    }

    /// Allows flows to addresses that a name has now; to be called before the answer is given.
    pub fn allow(&self, holder: Holder, flows: &[Flow]) -> Result<(), Error> {
        let new: Vec<Flow> = {
            let guards = self.guards();
            let new = |flow: &&Flow| !guards.has(holder, flow);
            flows.iter().filter(new).copied().collect()
        };
        if new.is_empty() {
            return Ok(());
        }
        self.change_guards(|guards, change, table| {
            for flow in &new {
                if guards.has(holder, flow) {
                    continue;
                }
                let all = guards.flows.entry(holder).or_default();
                let mine = |other: &Flow| other.from == flow.from;
                if all.iter().filter(|other| mine(other)).count() >= FLOWS_MAX
                    && let Some(at) = all.iter().position(mine)
                    && let Some(oldest) = all.remove(at)
                {
                    delete_flows(change, table, &[(holder, oldest)]);
                }
                all.push_back(*flow);
                let element = (flow.key(), None);
                change.add_elements(Family::Inet, table, flows_set(holder, flow), &[element]);
            }
        })
    }

    /// What the policy of a sandbox has done.
    pub fn egress_of(&self, key: &str) -> Result<EgressCount, Error> {
        self.egress_count(&chain_of(key))
    }

    /// What the policy of a network has done.
    pub fn egress_on(&self, bridge: &str) -> Result<EgressCount, Error> {
        self.egress_count(&chain_on(bridge))
    }

    fn egress_count(&self, chain: &str) -> Result<EgressCount, Error> {
        if self.settings.backend == Backend::Iptables {
            return self.count_iptables(chain);
        }
        let tag = &self.settings.tag;
        let rules = self.nftables()?.rules(Family::Inet, tag);
        let rules = rules.map_err(|cause| Error::List {
            what: "rules of our table",
            cause,
        })?;
        let mut count = EgressCount::default();
        for rule in rules.iter().filter(|rule| rule.chain == chain) {
            let counted = rule.counted.unwrap_or_default();
            if rule.comment == drop_comment(tag, chain) {
                count.blocked = counted;
            } else {
                count.connections += counted.packets;
            }
        }
        Ok(count)
    }

    fn change_guards(
        &self,
        change: impl FnOnce(&mut Guards, &mut Transaction, &str),
    ) -> Result<(), Error> {
        let published = self.published();
        let mut guards = self.guards();
        let mut wanted = guards.clone();
        let mut transaction = Transaction::new();
        change(&mut wanted, &mut transaction, &self.settings.tag);
        if self.settings.backend == Backend::Iptables {
            self.change_iptables(&published, &wanted)?;
            *guards = wanted;
            return Ok(());
        }
        drop(published);
        match self.nftables()?.commit(transaction) {
            Ok(()) => {
                *guards = wanted;
                Ok(())
            }
            // Somebody flushed the rules: they come back whole, with the policies.
            Err(error) if error.errno() == crate::publish::ENOENT => {
                *guards = wanted;
                drop(guards);
                self.restore()
            }
            Err(cause) => Err(Error::Table {
                table: self.settings.tag.clone(),
                cause,
            }),
        }
    }

    pub(crate) fn guards(&self) -> MutexGuard<'_, Guards> {
        // Replaced as a whole, so a panic elsewhere cannot have left a part.
        self.guards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn delete_flows(all: &mut Transaction, table: &str, flows: &[(Holder, Flow)]) {
    for (holder, flow) in flows {
        let set = flows_set(*holder, flow);
        all.delete_elements(Family::Inet, table, set, &[flow.key()]);
    }
}

/// What the rules of a table have counted, by chain and comment, in their order: rules of one
/// policy may share a comment.
pub(crate) type Counts = HashMap<(String, String), VecDeque<Counted>>;

#[cfg(test)]
mod tests {
    use super::Flow;

    #[test]
    fn flows_read_back_as_they_were_written() {
        for (from, to) in [("10.0.0.2", "192.0.2.1"), ("fd00::2", "2001:db8::1")] {
            let flow = Flow {
                from: from.parse().unwrap(),
                to: to.parse().unwrap(),
                protocol: 17,
                port: 443,
            };
            assert_eq!(Flow::read(flow.to.is_ipv6(), &flow.key()), Some(flow));
        }
    }
}
