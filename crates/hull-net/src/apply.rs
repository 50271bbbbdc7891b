//! The few functions that bring networks into the kernel.
//!
//! Every change is idempotent and named by what the caller chose before, so a change that was cut
//! off is finished by asking for it again. Order of `ensure`: first what forbids (the table), then
//! what allows (forwarding, links), last what others must let pass.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hull_os::netlink::sysctl::LinkSetting;
use hull_os::netlink::{Batch, Bridge, Events, Link, LinkChange, NetlinkError, Socket, fill_netns};
use hull_os::nft::Nftables;

use crate::Error;
use crate::egress::{self, Counts, Guards};
use crate::firewall::{Firewall, Foreign, Run};
use crate::forwarding::{self, Both, Family, Opened};
use crate::iptables::{Backend, Iptables, has_nftables};
use crate::network::{Endpoint, Kind, Mac, Network, Subnet};
use crate::plan::{self, LinkSteps, plan_endpoint, plan_ipvlan, plan_macvlan};
use crate::publish::{self, Published, Reach};

/// How long the kernel may take for one answer. Its lock for links is one for the whole host, and
/// the end of many namespaces at once can hold it for seconds.
pub(crate) const KERNEL_ANSWER_MS_MAX: u64 = 10_000;
/// How long it must be quiet after a change before we look at it, in milliseconds.
const CHANGE_QUIET_MS: u64 = 50;
/// How often we wait for quiet before we look all the same.
const CHANGE_WAITS_MAX: usize = 20;

/// "File exists".
pub(crate) const EEXIST: i32 = 17;
/// "Operation not supported".
pub(crate) const EOPNOTSUPP: i32 = 95;

/// In the alias of every bridge of ours, between the tag and the name of the network.
const BRIDGE_MARK: &str = ":network:";

/// Characters of a network's name in an alias, of which the kernel takes 255 bytes.
const ALIAS_NAME_CHARS_MAX: usize = 40;

/// What all networks of one daemon have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Folder for what is gone after a reboot.
    pub run: PathBuf,
    /// Name of our table and begin of every alias and comment. Two daemons on one host need two.
    pub tag: String,
    /// What to do about foreign chains.
    pub firewall: Firewall,
    /// Who reaches published ports through the kernel.
    pub reach: Reach,
    /// What enforces our rules.
    pub backend: Backend,
}

/// What a change of networks came upon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Foreign chains that drop what they do not know. With `cooperate` our bridges are accepted
    /// there now; with `hands-off` their traffic is lost.
    pub blocked_by: Vec<String>,
    /// Foreign chains that should have accept rules for our bridges (or no longer have them) and
    /// could not be changed, and why. Their traffic may be lost.
    pub not_settled: Vec<String>,
    /// Bridges of ours that no network wants but that still have ports.
    pub bridges_in_use: Vec<String>,
}

/// The networks of one daemon.
pub struct Networks {
    pub(crate) settings: Settings,
    pub(crate) run: Box<Run>,
    /// What was last ensured; also keeps changes one after the other.
    wanted: Mutex<Vec<Network>>,
    /// Taken after `wanted` where both are; held over each change of the table's maps.
    pub(crate) published: Mutex<Published>,
    /// Taken last; held over each change of policies.
    pub(crate) guards: Mutex<Guards>,
    pub(crate) iptables: Iptables,
}

impl std::fmt::Debug for Networks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Networks")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Networks {
    /// Nothing is touched before [`Networks::ensure`]. `run` starts the programs of iptables and
    /// `firewall-cmd`, on hosts that use them.
    pub fn open(settings: Settings, run: Box<Run>) -> Self {
        Self {
            settings,
            run,
            wanted: Mutex::new(Vec::new()),
            published: Mutex::default(),
            guards: Mutex::default(),
            iptables: Iptables::default(),
        }
    }

    /// Makes the kernel have exactly these networks. Bridges of ours that are not among them are
    /// removed, unless something still uses them.
    pub fn ensure(&self, networks: &[Network]) -> Result<Report, Error> {
        let mut wanted = self.wanted();
        let first = wanted.is_empty();
        if first {
            self.adopt_ports()?;
        }
        let report = self.apply(networks, &wanted)?;
        if first {
            self.leave_other_backend()?;
        }
        *wanted = networks.to_vec();
        Ok(report)
    }

    /// Ports that a former daemon published stay while the rules are made anew, and addresses of
    /// names that it allowed, also where that daemon had them in the other place.
    fn adopt_ports(&self) -> Result<(), Error> {
        let list = |what| move |cause| Error::List { what, cause };
        let (mut published, mut flows) = self.found_in_iptables()?;
        if self.settings.backend == Backend::Nftables || has_nftables() {
            let (mut nft, tag) = (self.nftables()?, &self.settings.tag);
            let found = publish::found(&mut nft, tag);
            published.extend(found.map_err(list("published ports"))?);
            let found = egress::found(&mut nft, tag);
            flows.extend(found.map_err(list("allowed flows"))?);
        }
        *self.published() = published;
        self.adopt_flows(flows);
        Ok(())
    }

    /// Takes away what a daemon before us had in the other place; ours is in force already.
    fn leave_other_backend(&self) -> Result<(), Error> {
        match self.settings.backend {
            Backend::Nftables => self.leave_iptables(),
            Backend::Iptables if has_nftables() => {
                let tag = &self.settings.tag;
                let mut nft = self.nftables()?;
                let ours = nft.rules(hull_os::nft::Family::Inet, tag);
                let ours = ours.map_err(|cause| Error::List {
                    what: "rules of our table",
                    cause,
                })?;
                if ours.is_empty() {
                    return Ok(());
                }
                nft.commit(plan::remove(tag)).map_err(|cause| Error::Table {
                    table: tag.clone(),
                    cause,
                })
            }
            Backend::Iptables => Ok(()),
        }
    }

    /// Makes the kernel have the networks again.
    pub(crate) fn restore(&self) -> Result<(), Error> {
        let wanted = self.wanted();
        self.apply(&wanted, &wanted).map(drop)
    }

    /// Adds a network, or changes the one of that name.
    pub fn add(&self, network: Network) -> Result<Report, Error> {
        let mut wanted = self.wanted();
        let mut all: Vec<_> = wanted
            .iter()
            .filter(|n| n.name != network.name)
            .cloned()
            .collect();
        self.ensure_parent(&mut self.socket()?, &network)?;
        all.push(network);
        let report = self.apply(&all, &wanted)?;
        *wanted = all;
        Ok(report)
    }

    /// Begins to listen for what others change; see [`Networks::settle_next`].
    pub fn watch(&self) -> Result<Events, Error> {
        Events::open().map_err(|cause| Error::List {
            what: "changes",
            cause,
        })
    }

    /// Waits until others changed routes, forwarding or nftables, then makes the kernel have the
    /// networks again. For a thread that does nothing else: an uplink that comes later, a firewall
    /// that is loaded anew and an administrator who turns forwarding on or off all come by here.
    pub fn settle_next(&self, events: &mut Events) -> Result<Report, Error> {
        let wait = |events: &mut Events, time| {
            events.wait(time).map_err(|cause| Error::List {
                what: "changes",
                cause,
            })
        };
        wait(events, None)?;
        // One change of a firewall is many events; what matters is how it is left.
        for _ in 0..CHANGE_WAITS_MAX {
            if !wait(events, Some(Duration::from_millis(CHANGE_QUIET_MS)))? {
                break;
            }
        }
        let wanted = self.wanted();
        self.apply(&wanted, &wanted)
    }

    /// Removes a network that no endpoint uses.
    pub fn remove(&self, name: &str) -> Result<Report, Error> {
        let mut wanted = self.wanted();
        let network = find(&wanted, name)?;
        let links = self.links(&mut self.socket()?)?;
        let bridge = links.iter().find(|link| link.name == network.bridge);
        if let Some(bridge) = bridge.filter(|_| network.kind == Kind::Bridge) {
            let ports = ports(&links, bridge).count();
            if ports > 0 {
                return Err(Error::InUse {
                    bridge: bridge.name.clone(),
                    ports,
                });
            }
        }
        let rest: Vec<_> = wanted.iter().filter(|n| n.name != name).cloned().collect();
        let report = self.apply(&rest, &wanted)?;
        *wanted = rest;
        Ok(report)
    }

    /// The requests by which a shim attaches its sandbox to a network. Changes nothing, unless the
    /// network is on top of a link of ours that went with the host's last boot.
    pub fn attach(&self, network: &str, endpoint: &Endpoint) -> Result<LinkSteps, Error> {
        let network = find(&self.wanted(), network)?.clone();
        for address in &endpoint.addresses {
            if network.pool_of(*address).is_none() {
                let subnet = network.pools.first().map(|pool| pool.subnet);
                let any = Subnet::containing(*address, 0);
                return Err(Error::AddressOutside {
                    address: *address,
                    subnet: subnet.unwrap_or(any),
                });
            }
        }
        let mut socket = self.socket()?;
        self.ensure_parent(&mut socket, &network)?;
        let link = socket
            .link(&network.bridge)
            .map_err(|cause| Error::List {
                what: "links",
                cause,
            })?
            .ok_or_else(|| Error::NoNetwork {
                network: network.name.clone(),
            })?;
        Ok(match network.kind {
            Kind::Bridge => plan_endpoint(&network, endpoint, link.index, &self.settings.tag),
            Kind::Macvlan(mode) => plan_macvlan(&network, endpoint, link.index, mode),
            Kind::Ipvlan(mode, reach) => plan_ipvlan(&network, endpoint, link.index, (mode, reach)),
        })
    }

    /// Makes the link of an endpoint of a sandbox that runs, whose network namespace `namespace`
    /// is; one that is there already is left to the requests that follow inside.
    pub fn connect(&self, steps: &LinkSteps, namespace: BorrowedFd<'_>) -> Result<(), Error> {
        let mut host = steps.host.clone();
        if let Some(offset) = steps.netns_fd_offset {
            fill_netns(&mut host, offset, namespace);
        }
        match self.socket()?.execute(&host) {
            Err(cause) if cause.errno() == EEXIST && cause.index == 0 => Ok(()),
            other => other.map_err(|cause| Error::Connect { cause }),
        }
    }

    /// Takes a card of a machine that runs off its network; returns the requests that its guest has to carry
    /// out.
    pub fn idle_card(
        &self,
        sandbox: &hull_model::SandboxId,
        number: u8,
        network: &str,
        addresses: &[std::net::IpAddr],
    ) -> Result<Vec<u8>, Error> {
        let network = find(&self.wanted(), network).cloned()?;
        let (host, inside) = plan::plan_idle_card(&network, sandbox, number, addresses);
        self.socket()?
            .execute(&host)
            .map_err(|cause| Error::Connect { cause })?;
        Ok(inside)
    }

    /// Makes a link of ours a port of a bridge.
    pub fn make_port(&self, link: &str, bridge: &str) -> Result<(), Error> {
        let mut socket = self.socket()?;
        let found = socket.link(bridge).map_err(|cause| Error::List {
            what: "links",
            cause,
        })?;
        let master = found.map(|found| found.index);
        let change = LinkChange {
            master,
            ..LinkChange::default()
        };
        let mut batch = Batch::new();
        batch.set_link(link, &change);
        socket
            .execute(batch.as_bytes())
            .map_err(|cause| Error::Connect { cause })
    }

    /// Whether the kernel makes links of a kind, `ipvlan`.
    pub fn has_link_kind(&self, kind: &str) -> Result<bool, Error> {
        let mut batch = Batch::new();
        batch.ask_for_kind(kind);
        let refused = self.socket()?.execute(batch.as_bytes());
        Ok(refused.is_err_and(|error| error.errno() != EOPNOTSUPP))
    }

    /// What enforces the rules.
    pub fn backend(&self) -> Backend {
        self.settings.backend
    }

    /// A network that was ensured or added.
    pub fn network(&self, name: &str) -> Option<Network> {
        find(&self.wanted(), name).ok().cloned()
    }

    /// Removes the link of an endpoint; one that is gone is fine. The end of a sandbox's network
    /// namespace removes its links too and nobody waits; this waits for the kernel (16 ms
    /// measured), so it is for endpoints that a running sandbox gives up.
    pub fn detach(&self, sandbox: &hull_model::SandboxId, number: u8) -> Result<(), Error> {
        self.remove_link(&plan::host_link(sandbox, number))
    }

    /// Removes a link; one that is gone is fine.
    pub fn remove_link(&self, link: &str) -> Result<(), Error> {
        self.socket()?
            .delete_link(link)
            .map_err(|cause| Error::RemoveLink {
                link: link.to_owned(),
                cause,
            })
    }

    /// Removes links of sandboxes that are not among the known ones. Gives their names. Goes on after a failure, and reports the first.
    pub fn leftovers(&self, known: &HashSet<String>) -> Result<Vec<String>, Error> {
        let mut socket = self.socket()?;
        let mut removed = Vec::new();
        let mut first_failure = None;
        for endpoint in self.endpoints()? {
            if known.contains(&endpoint.link) {
                continue;
            }
            match socket.delete_link(&endpoint.link) {
                Ok(()) => removed.push(endpoint.link),
                Err(cause) => {
                    let failure = Error::RemoveLink {
                        link: endpoint.link,
                        cause,
                    };
                    first_failure.get_or_insert(failure);
                }
            }
        }
        first_failure.map_or(Ok(removed), Err)
    }

    /// Brings the kernel to what is wanted. What is right already is not touched, so that watching
    /// for changes does not see its own.
    fn apply(&self, networks: &[Network], known: &[Network]) -> Result<Report, Error> {
        for network in networks {
            network.validate().map_err(|reason| Error::Invalid {
                network: network.name.clone(),
                reason,
            })?;
        }
        // Also those that networks are on top of.
        let bridges: Vec<_> = networks.iter().map(|n| n.bridge.clone()).collect();
        let (networks, known) = (&bridged(networks), &bridged(known));
        let mut socket = self.socket()?;
        let links = self.links(&mut socket)?;
        let routes = socket.routes().map_err(|cause| Error::List {
            what: "routes",
            cause,
        })?;
        let uplinks_of = |family| forwarding::uplinks(family, networks, &links, &routes);
        let (uplinks, uplinks6) = (uplinks_of(Family::V4), uplinks_of(Family::V6));
        let forwarding = Both {
            v4: self.opened(Family::V4).plan(networks, &links, &uplinks)?,
            v6: self.opened(Family::V6).plan(networks, &links, &uplinks6)?,
        };
        let unchanged = networks == known && self.verify_table(networks, &forwarding)?.is_empty();
        if !unchanged {
            self.apply_table(networks, &forwarding)?;
        }
        for network in networks {
            self.ensure_bridge(&mut socket, network)?;
        }
        forwarding::open(Family::V4, &forwarding.v4.opened)?;
        forwarding::open(Family::V6, &forwarding.v6.opened)?;
        let ours = links.iter().filter(|link| self.is_our_bridge(link));
        let gone: Vec<_> = ours
            .map(|link| link.name.clone())
            .filter(|name| !bridges.contains(name))
            .collect();
        let mut report = self.foreign()?.settle(
            self.settings.firewall,
            networks,
            [&uplinks, &uplinks6],
            &gone,
        )?;
        report.bridges_in_use = self.remove_bridges(&mut socket, &bridges)?;
        Ok(report)
    }

    fn apply_table(&self, networks: &[Network], forwarding: &Both) -> Result<(), Error> {
        if self.settings.backend == Backend::Iptables {
            return self.apply_iptables(networks, forwarding);
        }
        let tag = &self.settings.tag;
        let published = self.published();
        let guards = self.guards();
        let mut nft = self.nftables()?;
        let transaction = match networks {
            [] => plan::remove(tag),
            networks => {
                let mut counts = Counts::new();
                let rules = nft.rules(hull_os::nft::Family::Inet, tag);
                for rule in rules.unwrap_or_default() {
                    let all = counts.entry((rule.chain, rule.comment)).or_default();
                    all.push_back(rule.counted.unwrap_or_default());
                }
                plan::table(tag, networks, forwarding, self.settings.reach, &guards).replace(
                    &published,
                    (networks, &guards),
                    counts,
                )
            }
        };
        nft.commit(transaction).map_err(|cause| Error::Table {
            table: tag.clone(),
            cause,
        })
    }

    fn ensure_bridge(&self, socket: &mut Socket, network: &Network) -> Result<(), Error> {
        let name = network.bridge.as_str();
        let list = |cause| Error::List {
            what: "links",
            cause,
        };
        let fail = |cause: NetlinkError| Error::Bridge {
            bridge: name.to_owned(),
            cause,
        };
        let found = socket.link(name).map_err(list)?;
        if found.as_ref().is_some_and(|link| link.kind != "bridge") {
            return Err(Error::NoBridge {
                link: name.to_owned(),
            });
        }
        let alias = self.alias_of(network);
        let mut change = LinkChange {
            up: Some(true),
            ..LinkChange::default()
        };
        let mut batch = Batch::new();
        match &found {
            None => {
                let mac = network
                    .pools
                    .first()
                    .map(|pool| Mac::of_address(pool.gateway));
                let mac = mac
                    .unwrap_or_else(|| Mac::of_address([0, 0, 0, 1].into()))
                    .0;
                batch.create_bridge(&Bridge {
                    name,
                    mac,
                    mtu: network.mtu,
                });
                change.alias = Some(&alias);
                change.link_local = Some(network.pools.iter().any(|pool| pool.gateway.is_ipv6()));
            }
            // A bridge that somebody else made stays as it is, apart from the gateway's address.
            Some(link) if self.is_our_bridge(link) && link.mtu != network.mtu => {
                change.mtu = Some(network.mtu);
            }
            Some(_) => {}
        }
        batch.set_link(name, &change);
        socket.execute(batch.as_bytes()).map_err(fail)?;
        let missing = || Error::NoNetwork {
            network: network.name.clone(),
        };
        let link = socket.link(name).map_err(list)?.ok_or_else(missing)?;
        self.ensure_addresses(socket, network, &link)?;
        // A network without a way out has nothing to forward, except between its own ports on
        // hosts that pass bridged frames to the rules; that needs no setting. Published ports of
        // the host's loopback need its packets on the bridge; the table drops what a container
        // sends there by itself.
        let leads_out = i64::from(!network.internal);
        for (setting, value) in [
            ("forwarding", leads_out),
            ("route_localnet", leads_out),
            ("send_redirects", 0),
        ] {
            LinkSetting::ipv4(name, setting)
                .write(value)
                .map_err(|cause| Error::Setting {
                    link: name.to_owned(),
                    setting,
                    cause,
                })?;
        }
        set_ipv6(network)
    }

    fn ensure_addresses(
        &self,
        socket: &mut Socket,
        network: &Network,
        link: &Link,
    ) -> Result<(), Error> {
        let addresses = socket.addresses().map_err(|cause| Error::List {
            what: "addresses",
            cause,
        })?;
        let mut batch = Batch::new();
        for pool in &network.pools {
            let (gateway, prefix_length) = (pool.gateway, pool.subnet.prefix_length());
            let there = addresses.iter().any(|a| {
                (a.index, a.address, a.prefix_length) == (link.index, gateway, prefix_length)
            });
            if !there {
                batch.add_address(link.index, gateway, prefix_length);
            }
        }
        let wanted = |address: &hull_os::netlink::Address| {
            network.pools.iter().any(|pool| {
                (pool.gateway, pool.subnet.prefix_length())
                    == (address.address, address.prefix_length)
            })
        };
        if self.is_our_bridge(link) {
            for old in addresses
                .iter()
                .filter(|a| a.index == link.index && !wanted(a))
            {
                batch.delete_address(link.index, old.address, old.prefix_length);
            }
        }
        socket
            .execute(batch.as_bytes())
            .map_err(|cause| Error::Bridge {
                bridge: network.bridge.clone(),
                cause,
            })
    }

    /// Removes bridges of ours that no network wants; gives those that have ports.
    fn remove_bridges(&self, socket: &mut Socket, wanted: &[String]) -> Result<Vec<String>, Error> {
        let links = self.links(socket)?;
        let mut in_use = Vec::new();
        for bridge in links.iter().filter(|link| self.is_our_bridge(link)) {
            if wanted.contains(&bridge.name) {
                continue;
            }
            if ports(&links, bridge).next().is_some() {
                in_use.push(bridge.name.clone());
                continue;
            }
            socket
                .delete_link(&bridge.name)
                .map_err(|cause| Error::RemoveLink {
                    link: bridge.name.clone(),
                    cause,
                })?;
        }
        Ok(in_use)
    }

    /// Alias of the link that is made for a network.
    pub(crate) fn alias_of(&self, network: &Network) -> String {
        let name: String = network.name.chars().take(ALIAS_NAME_CHARS_MAX).collect();
        format!("{}{BRIDGE_MARK}{name}", self.settings.tag)
    }

    /// A bridge that we made, or a link below a network.
    pub(crate) fn is_our_bridge(&self, link: &Link) -> bool {
        let rest = link.alias.strip_prefix(&self.settings.tag);
        matches!(link.kind.as_str(), "bridge" | "vlan" | "veth")
            && rest.is_some_and(|rest| rest.starts_with(BRIDGE_MARK))
    }

    /// The sandbox of a link with our alias.
    pub(crate) fn sandbox_of(&self, link: &Link) -> Option<String> {
        let sandbox = link
            .alias
            .strip_prefix(&self.settings.tag)?
            .strip_prefix(':')?;
        (link.kind == "veth" && !sandbox.contains(':')).then(|| sandbox.to_owned())
    }

    pub(crate) fn wanted(&self) -> MutexGuard<'_, Vec<Network>> {
        // Replaced as a whole after success only, so a panic elsewhere cannot have left a part.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn opened(&self, family: Family) -> Opened {
        Opened::new(&self.settings.run, family)
    }

    pub(crate) fn links(&self, socket: &mut Socket) -> Result<Vec<Link>, Error> {
        socket.links().map_err(|cause| Error::List {
            what: "links",
            cause,
        })
    }

    pub(crate) fn socket(&self) -> Result<Socket, Error> {
        Socket::route(Duration::from_millis(KERNEL_ANSWER_MS_MAX)).map_err(|cause| Error::List {
            what: "links",
            cause,
        })
    }

    pub(crate) fn nftables(&self) -> Result<Nftables, Error> {
        Nftables::open(Duration::from_millis(KERNEL_ANSWER_MS_MAX)).map_err(|cause| Error::List {
            what: "tables of nftables",
            cause,
        })
    }

    pub(crate) fn foreign(&self) -> Result<Foreign<'_>, Error> {
        let nft = match self.settings.backend {
            Backend::Iptables if !has_nftables() => None,
            _ => Some(self.nftables()?),
        };
        Ok(Foreign::new(nft, &*self.run, &self.settings.tag))
    }
}

/// Settings of a bridge in IPv6; where that is switched off, or the kernel does not know one, it
/// stays as it is.
fn set_ipv6(network: &Network) -> Result<(), Error> {
    let name = network.bridge.as_str();
    let leads_out = i64::from(Family::V6.leaves(network));
    // A container does not tell the host where its routers are.
    for (setting, value) in [("accept_ra", 0), ("force_forwarding", leads_out)] {
        let of_link = LinkSetting::ipv6(name, setting);
        let written = match of_link.read() {
            Ok(Some(_)) => of_link.write(value).map(drop),
            other => other.map(drop),
        };
        written.map_err(|cause| Error::Setting {
            link: name.to_owned(),
            setting,
            cause,
        })?;
    }
    Ok(())
}

/// The networks that are bridges: only those are ours to make and to guard.
pub(crate) fn bridged(networks: &[Network]) -> Vec<Network> {
    let bridge = |network: &&Network| network.kind == Kind::Bridge;
    networks.iter().filter(bridge).cloned().collect()
}

fn find<'a>(networks: &'a [Network], name: &str) -> Result<&'a Network, Error> {
    networks
        .iter()
        .find(|network| network.name == name)
        .ok_or_else(|| Error::NoNetwork {
            network: name.to_owned(),
        })
}

fn ports<'a>(links: &'a [Link], bridge: &Link) -> impl Iterator<Item = &'a Link> {
    let index = bridge.index;
    links.iter().filter(move |link| link.master == Some(index))
}
