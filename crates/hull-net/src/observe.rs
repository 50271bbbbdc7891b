//! Looking at what the kernel has of our networks, without changing any of it.

use hull_os::netlink::{Address, Link, Route};
use hull_os::nft::{Family as TableFamily, Rule};

use crate::Error;
use crate::apply::{Networks, bridged};
use crate::egress;
use crate::forwarding::{self, Both, Family, Forwarding, routed_by_others};
use crate::ipam::{AddressPool, choose_subnet};
use crate::iptables::Backend;
use crate::network::{Network, Subnet};
use crate::plan;
use crate::publish;

/// Largest packet where no link of the host tells another.
const MTU_DEFAULT: u32 = 1500;

/// A link on the host that carries our tag and belongs to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointLink {
    /// Its name.
    pub link: String,
    /// First 12 digits of the sandbox's id.
    pub sandbox: String,
    /// Bridge of which it is a port, by name.
    pub bridge: Option<String>,
}

impl Networks {
    /// Every link of ours that belongs to a sandbox.
    pub fn endpoints(&self) -> Result<Vec<EndpointLink>, Error> {
        let links = self.links(&mut self.socket()?)?;
        let name_of = |index: u32| {
            links
                .iter()
                .find(|l| l.index == index)
                .map(|l| l.name.clone())
        };
        Ok(links
            .iter()
            .filter_map(|link| {
                Some(EndpointLink {
                    link: link.name.clone(),
                    sandbox: self.sandbox_of(link)?,
                    bridge: link.master.and_then(name_of),
                })
            })
            .collect())
    }

    /// What differs between what was ensured and what the kernel has, one line each. Changes
    /// nothing.
    pub fn verify(&self) -> Result<Vec<String>, Error> {
        let all = self.wanted().clone();
        let wanted = bridged(&all);
        let links = self.links(&mut self.socket()?)?;
        let mut differences = Vec::new();
        for network in wanted.iter() {
            match links.iter().find(|link| link.name == network.bridge) {
                None => differences.push(format!("bridge {} is missing", network.bridge)),
                Some(link) if !link.up => {
                    differences.push(format!("bridge {} is down", network.bridge));
                }
                Some(_) => {}
            }
        }
        for link in links.iter().filter(|link| self.is_our_bridge(link)) {
            if !all.iter().any(|network| network.bridge == link.name) {
                differences.push(format!("bridge {} belongs to no network", link.name));
            }
        }
        let forwarding = self.forwarding(&wanted, &links)?;
        for (family, of_family) in [(Family::V4, &forwarding.v4), (Family::V6, &forwarding.v6)] {
            let closed = |link: &&String| !forwarding::forwards(family, link);
            for link in of_family.opened.iter().filter(closed) {
                differences.push(format!("link {link} no longer forwards"));
            }
        }
        differences.extend(self.verify_table(&wanted, &forwarding)?);
        Ok(differences)
    }

    /// What the kernel should have of links that forward, as recorded.
    fn forwarding(&self, wanted: &[Network], links: &[Link]) -> Result<Both, Error> {
        let of_family = |family| -> Result<Forwarding, Error> {
            let opened = self.opened(family).read()?;
            Ok(Forwarding {
                routed: routed_by_others(family, wanted, links, &opened),
                opened,
            })
        };
        Ok(Both {
            v4: of_family(Family::V4)?,
            v6: of_family(Family::V6)?,
        })
    }

    pub(crate) fn verify_table(
        &self,
        wanted: &[Network],
        forwarding: &Both,
    ) -> Result<Vec<String>, Error> {
        if self.settings.backend == Backend::Iptables {
            return self.verify_iptables(wanted, forwarding);
        }
        let list = |cause| Error::List {
            what: "rules of our table",
            cause,
        };
        let mut nft = self.nftables()?;
        let tag = &self.settings.tag;
        let has = nft.rules(TableFamily::Inet, tag).map_err(list)?;
        if wanted.is_empty() {
            let left = (!has.is_empty()).then(|| format!("table inet {tag} belongs to no network"));
            return Ok(left.into_iter().collect());
        }
        let guards = self.guards();
        let reach = self.settings.reach;
        let table = plan::table(tag, wanted, forwarding, reach, &guards);
        let mut differences = Vec::new();
        let policies = egress::verify(&mut nft, tag, wanted, &guards);
        differences.extend(policies.map_err(list)?);
        drop(guards);
        let same = |rule: &Rule, chain: &str, comment: &str| {
            rule.chain() == chain && rule.comment() == comment
        };
        for rule in &table.rules {
            if !has
                .iter()
                .any(|found| same(rule, &found.chain, &found.comment))
            {
                differences.push(format!("rule {:?} is missing", rule.comment()));
            }
        }
        for found in &has {
            if !table
                .rules
                .iter()
                .any(|rule| same(rule, &found.chain, &found.comment))
            {
                differences.push(format!("rule {:?} is not ours", found.comment));
            }
        }
        for (set, mut keys) in table.sets() {
            let mut found = nft
                .link_elements(TableFamily::Inet, tag, set)
                .map_err(list)?;
            found.sort();
            keys.sort();
            if found != keys {
                differences.push(format!("set {set} has {found:?} instead of {keys:?}"));
            }
        }
        let ports = publish::verify(&mut nft, tag, &self.published());
        differences.extend(ports.map_err(list)?);
        Ok(differences)
    }

    /// What we installed and why, for people: our own table, then what foreign chains have of us.
    pub fn rules(&self) -> Result<String, Error> {
        let wanted = bridged(&self.wanted());
        let mut lines = Vec::new();
        if !wanted.is_empty() {
            let links = self.links(&mut self.socket()?)?;
            let forwarding = self.forwarding(&wanted, &links)?;
            if self.settings.backend == Backend::Iptables {
                lines.extend(self.list_iptables(&wanted, &forwarding));
            } else {
                lines.extend(self.list_table(&wanted, &forwarding));
            }
        }
        lines.extend(self.foreign()?.list(&wanted)?);
        Ok(lines.into_iter().map(|line| line + "\n").collect())
    }

    fn list_table(&self, wanted: &[Network], forwarding: &Both) -> Vec<String> {
        let tag = &self.settings.tag;
        let mut lines = Vec::new();
        let reach = self.settings.reach;
        let table = plan::table(tag, wanted, forwarding, reach, &self.guards());
        for (set, keys) in table.sets() {
            let keys: Vec<_> = keys.iter().map(|key| key.join(" . ")).collect();
            lines.push(format!("inet {tag} @{set} = {{ {} }}", keys.join(", ")));
        }
        for ((protocol, host, port), to) in self.published().iter() {
            let host = std::net::SocketAddr::new(*host, *port);
            lines.push(format!("inet {tag} published {protocol} {host} : {to}"));
        }
        for rule in &table.rules {
            lines.push(format!(
                "inet {tag} {}: {rule}  # {}",
                rule.chain(),
                rule.comment()
            ));
        }
        lines
    }

    /// A subnet of the pools that neither the host nor `taken` uses, for `bridge`. One
    /// that the bridge has already stays: containers of a former daemon may live in it.
    pub fn choose_subnet(
        &self,
        bridge: &str,
        pools: &[AddressPool],
        taken: &[Subnet],
    ) -> Result<Subnet, Error> {
        let mut socket = self.socket()?;
        let links = self.links(&mut socket)?;
        let list = |what| move |cause| Error::List { what, cause };
        let routes = socket.routes().map_err(list("routes"))?;
        let addresses = socket.addresses().map_err(list("addresses"))?;
        let own = links
            .iter()
            .find(|link| link.name == bridge && self.is_our_bridge(link));
        let kept = addresses
            .iter()
            .filter(|address| address.address.is_ipv4())
            .find(|address| own.is_some_and(|own| own.index == address.index))
            .map(|address| Subnet::containing(address.address, address.prefix_length))
            .filter(|kept| !taken.iter().any(|other| other.overlaps(kept)));
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let of_route = |route: &Route| Subnet::containing(route.destination, route.prefix_length);
        let of_address =
            |address: &Address| Subnet::containing(address.address, address.prefix_length);
        let used: Vec<_> = routes
            .iter()
            .filter(|route| !route.is_default())
            .map(of_route)
            .chain(addresses.iter().map(of_address))
            .chain(taken.iter().copied())
            .collect();
        choose_subnet(pools, &used)
    }

    /// Largest packet that leaves the host whole: that of the link of the default route.
    pub fn uplink_mtu(&self) -> Result<u32, Error> {
        let mut socket = self.socket()?;
        let routes = socket.routes().map_err(|cause| Error::List {
            what: "routes",
            cause,
        })?;
        let uplink = routes
            .iter()
            .find(|r| r.is_default() && r.destination.is_ipv4());
        let links = self.links(&mut socket)?;
        let link = links
            .iter()
            .find(|link| Some(link.index) == uplink.and_then(|r| r.link));
        Ok(link.map_or(MTU_DEFAULT, |link| link.mtu))
    }
}
