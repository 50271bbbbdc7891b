//! Foreign chains that would drop our bridges' traffic.
//!
//! Beside Docker, ufw or firewalld, the chains that see forwarded packets often drop what they do
//! not know, and an accept in our own table changes nothing about that: every chain must agree.
//! With `cooperate` such a chain, and only such a chain, gets accept rules tagged with our comment,
//! just before what drops: to each of our bridges (our own table still decides what may pass), and
//! from each to the uplinks of the host, so that networks of other engines stay closed to ours.
//! They are taken out again when the chain no longer drops or the network is gone.
//! With `hands-off` nothing is added; the chain is named instead.
//!
//! Three ways in, one decision ([`first_block`]):
//! nf_tables directly (also for iptables-nft and ip6tables-nft, whose tables are ordinary ones),
//! the programs `iptables-legacy` and `ip6tables-legacy` where the old tables are in use, and `firewall-cmd` for firewalld, which
//! forgets what others add to its table.

use std::collections::{BTreeSet, HashMap};
use std::{fmt, io};

use hull_os::nft::{
    Chain, Ends, Family, InstalledRule, Nftables, Place, Rule, Transaction, Verdict,
};

use crate::Error;
use crate::apply::Report;
use crate::network::Network;

/// How deep chains may call each other before we stop following.
const JUMPS_MAX: usize = 16;
/// How long another program may hold the lock of the old tables, in seconds.
const LEGACY_LOCK_S: &str = "5";
const FORWARD: &str = "FORWARD";
const FIREWALLD: &str = "firewalld";

/// What to do about foreign chains that drop our traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Firewall {
    /// Add tagged accept rules for our bridges, where needed and as long as needed.
    #[default]
    Cooperate,
    /// Change nothing, name the chain.
    HandsOff,
}

/// What a program said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// Starts a program found on the path and waits for it. The caller decides how: the daemon never
/// forks.
pub type Run = dyn Fn(&[&str]) -> io::Result<Output> + Send + Sync;

/// Traffic of ours that a foreign chain is told to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Passage {
    /// Whatever comes to a bridge; what may, our own table says.
    To { bridge: String },
    /// From a bridge to an uplink.
    Out { bridge: String, uplink: String },
}

/// What has to pass for these networks.
fn passages(networks: &[Network], uplinks: &[String]) -> Vec<Passage> {
    let of = |network: &Network| {
        let bridge = network.bridge.clone();
        let uplinks = if network.internal { &[] } else { uplinks };
        let out = uplinks.iter().map(|uplink| Passage::Out {
            bridge: bridge.clone(),
            uplink: uplink.clone(),
        });
        let mut all: Vec<_> = out.collect();
        all.push(Passage::To { bridge });
        all
    };
    networks.iter().flat_map(of).collect()
}

/// What has to pass a chain of a family: `wanted` are those of IPv4 and of IPv6.
fn of_chain(family: Family, [v4, v6]: &[Vec<Passage>; 2]) -> Vec<Passage> {
    match family {
        Family::Ipv4 => v4.clone(),
        Family::Ipv6 => v6.clone(),
        Family::Inet => {
            let more = v6.iter().filter(|passage| !v4.contains(passage));
            v4.iter().chain(more).cloned().collect()
        }
        // What comes in over one link is not on its way to another yet.
        Family::Link => Vec::new(),
    }
}

impl Passage {
    /// Tells one from the other, as long as links keep their names.
    fn comment(&self, tag: &str) -> String {
        match self {
            Self::To { bridge } => format!("{tag}:{bridge}"),
            Self::Out { bridge, uplink } => format!("{tag}:{bridge} to {uplink}"),
        }
    }

    fn rule(&self, chain: &str, tag: &str) -> Rule {
        let rule = Rule::new(chain, &self.comment(tag));
        let rule = match self {
            Self::To { bridge } => rule.to_link(bridge),
            Self::Out { bridge, uplink } => rule.from_link(bridge).to_link(uplink),
        };
        rule.counted().verdict(Verdict::Accept)
    }

    /// The same for iptables, in the order in which it lists them.
    fn options(&self) -> Vec<&str> {
        match self {
            Self::To { bridge } => vec!["-o", bridge],
            Self::Out { bridge, uplink } => vec!["-i", bridge, "-o", uplink],
        }
    }
}

/// A chain that would drop, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocker {
    way: Way,
    /// What drops: the rule before which ours have to stand; `None`: the policy.
    before: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Nft {
        family: Family,
        table: String,
        chain: String,
    },
    Legacy(OldTables),
    Firewalld,
}

impl Way {
    fn of(chain: &Chain) -> Self {
        if chain.table == FIREWALLD {
            return Self::Firewalld;
        }
        let Chain {
            family,
            table,
            name,
            ..
        } = chain.clone();
        Self::Nft {
            family,
            table,
            chain: name,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nft {
                family,
                table,
                chain,
            } => {
                write!(f, "nftables {} {table} {chain}", family.word())
            }
            Self::Legacy(old) => write!(f, "{} {FORWARD}", old.program),
            Self::Firewalld => f.write_str("firewalld"),
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.before {
            None => write!(f, "{} (its policy)", self.way),
            Some(_) => write!(f, "{} (a rule for all packets)", self.way),
        }
    }
}

/// Rules of a chain in their order: where each is, and where it ends every packet.
type Chains = HashMap<String, Vec<(u64, Option<Ends>)>>;

#[derive(Debug, PartialEq, Eq)]
enum Walk {
    /// Packets are dropped at this rule.
    Blocks(u64),
    Accepts,
    /// Packets come back to the caller, or to the policy.
    Falls,
}

/// What a chain does with a packet that none of its conditional rules knows.
fn first_block(chains: &Chains, chain: &str, depth: usize) -> Walk {
    let rules = chains.get(chain).map(Vec::as_slice).unwrap_or_default();
    for (at, ends) in rules {
        match ends {
            None => {}
            Some(Ends::Accept) => return Walk::Accepts,
            Some(Ends::Drop) => return Walk::Blocks(*at),
            Some(Ends::Return) => return Walk::Falls,
            Some(Ends::In(next, _)) if depth == JUMPS_MAX => {
                debug_assert!(!next.is_empty(), "a jump has a target");
            }
            Some(Ends::In(next, for_good)) => match first_block(chains, next, depth + 1) {
                Walk::Blocks(_) => return Walk::Blocks(*at),
                Walk::Accepts => return Walk::Accepts,
                Walk::Falls if *for_good => return Walk::Falls,
                Walk::Falls => {}
            },
        }
    }
    Walk::Falls
}

/// The foreign firewalls of the calling thread's network namespace.
pub(crate) struct Foreign<'a> {
    /// None: the kernel has no nftables.
    nft: Option<Nftables>,
    run: &'a Run,
    /// Name of our table, and what comments of ours begin with.
    tag: &'a str,
}

/// A foreign table of nftables with a chain that sees forwarded packets.
struct ForeignTable {
    chain: Chain,
    rules: Vec<InstalledRule>,
}

impl<'a> Foreign<'a> {
    pub(crate) fn new(nft: Option<Nftables>, run: &'a Run, tag: &'a str) -> Self {
        Self { nft, run, tag }
    }

    /// Makes foreign chains let our bridges' traffic pass, as far as they need to (or, hands off,
    /// takes out what we may have added before); `gone` are bridges that were ours. A chain that
    /// refuses does not keep the others from it.
    pub(crate) fn settle(
        &mut self,
        firewall: Firewall,
        networks: &[Network],
        uplinks: [&[String]; 2],
        gone: &[String],
    ) -> Result<Report, Error> {
        let bridges: Vec<_> = networks
            .iter()
            .map(|network| network.bridge.clone())
            .collect();
        let ours = |v6: bool| -> Vec<Network> {
            let is_of = |network: &&Network| {
                let mut pools = network.pools.iter();
                pools.any(|pool| pool.gateway.is_ipv6() == v6)
            };
            networks.iter().filter(is_of).cloned().collect()
        };
        let of_family = [ours(false), ours(true)];
        let (wanted, trusted) = match firewall {
            Firewall::Cooperate => {
                let [v4, v6] = [0, 1].map(|at| passages(&of_family[at], uplinks[at]));
                ([v4, v6], bridges.as_slice())
            }
            Firewall::HandsOff => ([Vec::new(), Vec::new()], &[][..]),
        };
        let mut settled = Vec::new();
        for table in self.forward_tables()? {
            let block = nft_block(&table);
            let way = Way::of(&table.chain);
            let result = match way {
                Way::Firewalld => {
                    let trusted = if block.is_some() { trusted } else { &[] };
                    self.settle_firewalld(trusted, bridges.iter().chain(gone))
                }
                _ => {
                    let wanted = of_chain(table.chain.family, &wanted);
                    self.settle_nft(&table, block, &wanted, &way)
                }
            };
            // A chain for IPv6 alone blocks nobody who has none.
            let concerns = table.chain.family != Family::Ipv6 || !of_family[1].is_empty();
            let block = block.filter(|_| concerns);
            settled.push(result.map(|()| block.map(|before| Blocker { way, before })));
        }
        for (old, wanted) in OLD_TABLES.into_iter().zip(&wanted) {
            settled.push(self.settle_legacy(old, wanted));
        }
        let mut report = Report::default();
        for result in settled {
            match result {
                Ok(Some(blocker)) if !bridges.is_empty() => {
                    report.blocked_by.push(blocker.to_string());
                }
                Ok(_) => {}
                Err(error) => report.not_settled.push(with_causes(&error)),
            }
        }
        Ok(report)
    }

    fn forward_tables(&mut self) -> Result<Vec<ForeignTable>, Error> {
        let list = |cause| Error::List {
            what: "chains of nftables",
            cause,
        };
        let Some(nft) = &mut self.nft else {
            return Ok(Vec::new());
        };
        let chains = nft.chains().map_err(list)?;
        chains
            .into_iter()
            .filter(Chain::is_forward)
            .filter(|chain| (chain.family, chain.table.as_str()) != (Family::Inet, self.tag))
            .map(|chain| {
                let rules = nft.rules(chain.family, &chain.table).map_err(list)?;
                Ok(ForeignTable { chain, rules })
            })
            .collect()
    }

    /// One transaction brings a foreign chain from what it has of ours to what it should have.
    fn settle_nft(
        &mut self,
        table: &ForeignTable,
        block: Option<Option<u64>>,
        passages: &[Passage],
        way: &Way,
    ) -> Result<(), Error> {
        let chain = &table.chain;
        let wanted: Vec<Rule> = match block {
            None => Vec::new(),
            Some(_) => passages
                .iter()
                .map(|passage| passage.rule(&chain.name, self.tag))
                .collect(),
        };
        let mine = |rule: &&InstalledRule| {
            rule.chain == chain.name && rule.comment.starts_with(&format!("{}:", self.tag))
        };
        let installed: Vec<_> = table.rules.iter().filter(mine).collect();
        let in_order = |handle: u64| table.rules.iter().position(|rule| rule.handle == handle);
        let before = block.flatten();
        let all_before_block = before.is_none_or(|drop| {
            installed
                .iter()
                .all(|rule| in_order(rule.handle) < in_order(drop))
        });
        let comments = |rules: Vec<&str>| rules.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let have = comments(installed.iter().map(|rule| rule.comment.as_str()).collect());
        let want = comments(wanted.iter().map(Rule::comment).collect());
        if have == want && all_before_block {
            return Ok(());
        }
        let mut change = Transaction::new();
        for rule in &installed {
            change.delete_rule(chain.family, &chain.table, &chain.name, rule.handle);
        }
        for rule in &wanted {
            let place = before.map_or(Place::End, Place::Before);
            change.add_rule(chain.family, &chain.table, rule, place);
        }
        let Some(nft) = &mut self.nft else {
            return Ok(());
        };
        nft.commit(change).map_err(|error| Error::Cooperate {
            chain: way.to_string(),
            cause: io::Error::other(error),
        })
    }

    /// Only where the old tables are in use: merely asking the program would create them.
    fn settle_legacy(
        &self,
        tables: OldTables,
        passages: &[Passage],
    ) -> Result<Option<Blocker>, Error> {
        if !tables.in_use() {
            return Ok(None);
        }
        let text = self.legacy(tables, &["-S"])?;
        let old = LegacyTable::parse(&text, self.tag);
        let walk = first_block(&old.chains, FORWARD, 0);
        let (block, place) = match walk {
            Walk::Blocks(at) => (true, Some(at)),
            Walk::Falls => (old.policy_drops, None),
            Walk::Accepts => (false, None),
        };
        let wanted = if block { passages } else { &[] };
        let want: Vec<String> = wanted
            .iter()
            .map(|passage| passage.options().join(" "))
            .collect();
        let settled = old.mine.iter().map(|(_, rule)| rule).eq(&want)
            && old
                .mine
                .iter()
                .all(|(at, _)| place.is_none_or(|drop| *at < drop));
        if !settled {
            self.replace_legacy(tables, &old, wanted, place)?;
        }
        Ok(block.then_some(Blocker {
            way: Way::Legacy(tables),
            before: place,
        }))
    }

    /// Adds the new rules first, so that no packet meets a chain without them.
    fn replace_legacy(
        &self,
        tables: OldTables,
        old: &LegacyTable,
        wanted: &[Passage],
        place: Option<u64>,
    ) -> Result<(), Error> {
        for (added, passage) in wanted.iter().enumerate() {
            let comment = passage.comment(self.tag);
            let number = place.map(|at| (at + added as u64).to_string());
            let mut arguments = match &number {
                Some(number) => vec!["-I", FORWARD, number.as_str()],
                None => vec!["-A", FORWARD],
            };
            arguments.extend(passage.options());
            arguments.extend(["-m", "comment", "--comment", &comment, "-j", "ACCEPT"]);
            self.legacy(tables, &arguments)?;
        }
        // Highest number first: removing one moves those after it. What was inserted before an
        // old rule moved that one too.
        for (at, _) in old.mine.iter().rev() {
            let moved = place
                .filter(|place| at >= place)
                .map_or(0, |_| wanted.len() as u64);
            self.legacy(tables, &["-D", FORWARD, &(at + moved).to_string()])?;
        }
        Ok(())
    }

    fn legacy(&self, tables: OldTables, arguments: &[&str]) -> Result<String, Error> {
        let mut command = vec![tables.program, "-w", LEGACY_LOCK_S];
        command.extend(arguments);
        match self.program(&command, &Way::Legacy(tables)) {
            // Where there never was anything but the old tables, their program has the plain name.
            Err(Error::Cooperate { cause, .. })
                if cause.kind() == io::ErrorKind::NotFound && self.nft.is_none() =>
            {
                command[0] = tables.program.trim_end_matches("-legacy");
                self.program(&command, &Way::Legacy(tables))
            }
            said => said,
        }
    }

    /// firewalld's trusted zone, until the next start of firewalld or of the daemon.
    fn settle_firewalld<'b>(
        &self,
        wanted: &[String],
        bridges: impl Iterator<Item = &'b String>,
    ) -> Result<(), Error> {
        for bridge in bridges {
            let is_in = self.firewalld("query", bridge)?.code == Some(0);
            let done = match (wanted.contains(bridge), is_in) {
                (true, false) => self.firewalld("change", bridge)?,
                (false, true) => self.firewalld("remove", bridge)?,
                _ => continue,
            };
            if done.code != Some(0) {
                let cause = io::Error::other(done.stderr.trim().to_owned());
                return Err(Error::Cooperate {
                    chain: Way::Firewalld.to_string(),
                    cause,
                });
            }
        }
        Ok(())
    }

    fn firewalld(&self, verb: &str, bridge: &str) -> Result<Output, Error> {
        let option = format!("--{verb}-interface={bridge}");
        (self.run)(&["firewall-cmd", "--zone=trusted", &option]).map_err(|cause| Error::Cooperate {
            chain: Way::Firewalld.to_string(),
            cause,
        })
    }

    fn program(&self, command: &[&str], way: &Way) -> Result<String, Error> {
        let fail = |cause| Error::Cooperate {
            chain: way.to_string(),
            cause,
        };
        let output = (self.run)(command).map_err(fail)?;
        if output.code != Some(0) {
            let said = format!("{}: {}", command.join(" "), output.stderr.trim());
            return Err(fail(io::Error::other(said)));
        }
        Ok(output.stdout)
    }

    /// Rules of ours in foreign chains, one line each.
    pub(crate) fn list(&mut self, bridges: &[Network]) -> Result<Vec<String>, Error> {
        let mut lines = Vec::new();
        for table in self.forward_tables()? {
            if table.chain.table == FIREWALLD {
                for Network { bridge, .. } in bridges {
                    if self.firewalld("query", bridge)?.code == Some(0) {
                        lines.push(format!("firewalld zone trusted: {bridge}"));
                    }
                }
                continue;
            }
            let Chain {
                family,
                table: name,
                ..
            } = &table.chain;
            let mine = |rule: &&InstalledRule| rule.comment.starts_with(&format!("{}:", self.tag));
            lines.extend(table.rules.iter().filter(mine).map(|rule| {
                format!(
                    "nftables {} {name} {}: accept  # {}",
                    family.word(),
                    rule.chain,
                    rule.comment
                )
            }));
        }
        for tables in OLD_TABLES.into_iter().filter(OldTables::in_use) {
            let old = LegacyTable::parse(&self.legacy(tables, &["-S"])?, self.tag);
            for (_, rule) in &old.mine {
                lines.push(format!("{} {FORWARD}: {rule} accept", tables.program));
            }
        }
        Ok(lines)
    }
}

fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Where a chain of nftables drops what it does not know: outer `None`, nowhere; inner `None`, by
/// its policy.
fn nft_block(table: &ForeignTable) -> Option<Option<u64>> {
    let mut chains = Chains::new();
    for rule in &table.rules {
        chains
            .entry(rule.chain.clone())
            .or_default()
            .push((rule.handle, rule.ends.clone()));
    }
    match first_block(&chains, &table.chain.name, 0) {
        Walk::Blocks(at) => Some(Some(at)),
        Walk::Falls if table.chain.policy_drops => Some(None),
        Walk::Falls | Walk::Accepts => None,
    }
}

/// The tables of one family that were there before nftables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OldTables {
    program: &'static str,
    /// Which tables there are.
    names: &'static str,
}

/// IPv4 and IPv6.
const OLD_TABLES: [OldTables; 2] = [
    OldTables {
        program: "iptables-legacy",
        names: "/proc/thread-self/net/ip_tables_names",
    },
    OldTables {
        program: "ip6tables-legacy",
        names: "/proc/thread-self/net/ip6_tables_names",
    },
];

impl OldTables {
    /// Whether the filter table exists in the calling thread's network namespace.
    fn in_use(&self) -> bool {
        std::fs::read_to_string(self.names)
            .is_ok_and(|names| names.lines().any(|name| name == "filter"))
    }
}

/// What `iptables-legacy -S` says.
#[derive(Debug, Default)]
struct LegacyTable {
    policy_drops: bool,
    /// Rules by their number, from 1.
    chains: Chains,
    /// Rules of ours in FORWARD: number, and direction with bridge.
    mine: Vec<(u64, String)>,
}

impl LegacyTable {
    fn parse(text: &str, tag: &str) -> Self {
        let own: BTreeSet<&str> = text.lines().filter_map(|l| l.strip_prefix("-N ")).collect();
        let mut table = Self::default();
        for line in text.lines() {
            if line == format!("-P {FORWARD} DROP") {
                table.policy_drops = true;
            }
            let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|r| r.split_once(' '))
            else {
                continue;
            };
            let rules = table.chains.entry(chain.to_owned()).or_default();
            let number = rules.len() as u64 + 1;
            rules.push((number, legacy_end(rule, &own)));
            let tagged = [format!("--comment \"{tag}:"), format!("--comment {tag}:")];
            if chain == FORWARD && tagged.iter().any(|comment| rule.contains(comment)) {
                let options = rule.split(" -m comment").next().unwrap_or_default();
                table.mine.push((number, options.to_owned()));
            }
        }
        table
    }
}

/// Where a rule of iptables ends every packet. Whatever comes before `-j` is a condition, but for
/// a comment.
fn legacy_end(rule: &str, own: &BTreeSet<&str>) -> Option<Ends> {
    let mut rest = rule;
    if let Some(comment) = rest.strip_prefix("-m comment --comment ") {
        rest = match comment.strip_prefix('"') {
            Some(quoted) => quoted.split_once("\" ")?.1,
            None => comment.split_once(' ')?.1,
        };
    }
    let (option, target) = rest.split_once(' ')?;
    let target = target.split(' ').next().unwrap_or_default();
    match (option, target) {
        ("-j", "DROP" | "REJECT") => Some(Ends::Drop),
        ("-j", "ACCEPT") => Some(Ends::Accept),
        ("-j", "RETURN") => Some(Ends::Return),
        ("-j" | "-g", chain) if own.contains(chain) => {
            Some(Ends::In(chain.to_owned(), option == "-g"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{FORWARD, LegacyTable, first_block};

    fn check(rules: &str, expected: &str) {
        let table = LegacyTable::parse(rules, "hull");
        let walk = first_block(&table.chains, FORWARD, 0);
        let mine: Vec<_> = table
            .mine
            .iter()
            .map(|(at, rule)| format!("{at}:{rule}"))
            .collect();
        assert_eq!(
            format!("{walk:?} {} {mine:?}", table.policy_drops),
            expected,
            "{rules}"
        );
    }

    #[test]
    fn a_policy_of_drop_blocks() {
        check("-P FORWARD DROP", "Falls true []");
        check("-P FORWARD ACCEPT", "Falls false []");
    }

    #[test]
    fn a_rule_for_all_packets_blocks_also_in_another_chain() {
        check(
            "-P FORWARD ACCEPT\n-A FORWARD -i x -j ACCEPT\n-A FORWARD -j DROP",
            "Blocks(2) false []",
        );
        check(
            "-N a\n-A FORWARD -j a\n-A a -s 10.0.0.1/32 -j DROP",
            "Falls false []",
        );
        check(
            "-N a\n-A FORWARD -j a\n-A a -j REJECT --reject-with icmp-port",
            "Blocks(1) false []",
        );
        check(
            "-N a\n-A FORWARD -j a\n-A a -j RETURN\n-A a -j DROP",
            "Falls false []",
        );
        check(
            "-A FORWARD -m comment --comment \"a b\" -j DROP",
            "Blocks(1) false []",
        );
        check(
            "-A FORWARD -j ACCEPT\n-A FORWARD -j DROP",
            "Accepts false []",
        );
    }

    #[test]
    fn chains_that_call_each_other_end() {
        check(
            "-N a\n-N b\n-A FORWARD -j a\n-A a -j b\n-A b -j a",
            "Falls false []",
        );
    }

    #[test]
    fn our_own_rules_are_found_by_their_comment() {
        check(
            "-P FORWARD DROP\n-A FORWARD -j ACCEPT -m x\n\
             -A FORWARD -i hull0 -m comment --comment \"hull:hull0\" -j ACCEPT\n\
             -A FORWARD -o hull0 -m comment --comment hull:hull0 -j ACCEPT",
            "Accepts true [\"2:-i hull0\", \"3:-o hull0\"]",
        );
    }
}
