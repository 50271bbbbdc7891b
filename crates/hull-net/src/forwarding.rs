//! Which links of the host forward packets.
//!
//! The kernel asks the link over which a packet *came*: the bridge for what a container sends,
//! the host's own links for the replies. Both need it, and neither more than these: on a host that
//! does not route by itself, links that we open are closed by a rule of our table for everything
//! that is not for our bridges or for a link that somebody else made a forwarding one, and closed
//! again when no network needs them.
//!
//! In IPv6 forwarding for all links would make the host forget the default route that its router
//! announces, so links are opened one by one with `force_forwarding` (Linux 6.17 and newer). On an
//! older kernel IPv6 leaves the host only where its administrator made a router of it.
//!
//! The list of opened links is a file in the run directory. It is written before the kernel is
//! told, and like the kernel's settings it is gone after a reboot.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hull_os::netlink::sysctl::LinkSetting;
use hull_os::netlink::{Link, Route};

use crate::Error;
use crate::network::Network;

/// Which protocol's forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// What lets packets that come over a link be forwarded.
    pub(crate) fn setting(self, link: &str) -> LinkSetting<'_> {
        match self {
            Self::V4 => LinkSetting::ipv4(link, "forwarding"),
            Self::V6 => LinkSetting::ipv6(link, "force_forwarding"),
        }
    }

    fn of_host(self) -> LinkSetting<'static> {
        match self {
            Self::V4 => LinkSetting::ipv4("all", "forwarding"),
            Self::V6 => LinkSetting::ipv6("all", "forwarding"),
        }
    }

    fn is_of(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }

    /// Whether endpoints of a network leave the host by it.
    pub(crate) fn leaves(self, network: &Network) -> bool {
        !network.internal && network.pools.iter().any(|pool| self.is_of(pool.gateway))
    }
}

/// The record of opened links.
#[derive(Debug)]
pub(crate) struct Opened {
    family: Family,
    path: PathBuf,
}

impl Opened {
    pub(crate) fn new(run: &Path, family: Family) -> Self {
        let name = match family {
            Family::V4 => "forwarding-links",
            Family::V6 => "forwarding-links-v6",
        };
        Self {
            family,
            path: run.join(name),
        }
    }

    pub(crate) fn read(&self) -> Result<Vec<String>, Error> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(cause) => Err(Error::Record {
                path: self.path.clone(),
                cause,
            }),
        }
    }

    fn write(&self, links: &[String]) -> Result<(), Error> {
        let result = match links {
            [] => match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
            links => std::fs::write(&self.path, links.join("\n") + "\n"),
        };
        result.map_err(|cause| Error::Record {
            path: self.path.clone(),
            cause,
        })
    }

    /// Decides which links have to be open, closes those that no longer have to, and writes the
    /// new list down. The caller puts it into the table before it calls [`open`].
    pub(crate) fn plan(
        &self,
        networks: &[Network],
        links: &[Link],
        uplinks: &[String],
    ) -> Result<Forwarding, Error> {
        let before = self.read()?;
        let family = self.family;
        let host_forwards = host_forwards(family)?;
        let opened: Vec<String> = if host_forwards {
            // The administrator's word now: not ours to take back, nor to restrict.
            Vec::new()
        } else {
            let needs_us = |link: &&String| before.contains(link) || !forwards(family, link);
            uplinks.iter().filter(needs_us).cloned().collect()
        };
        if !host_forwards {
            for link in before.iter().filter(|link| !opened.contains(link)) {
                set(family, link, 0)?;
            }
        }
        if opened != before {
            self.write(&opened)?;
        }
        Ok(Forwarding {
            routed: routed_by_others(family, networks, links, &opened),
            opened,
        })
    }
}

/// Links of the host that forward.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Forwarding {
    /// Because we let them, for our networks only.
    pub(crate) opened: Vec<String>,
    /// Because somebody else wants it.
    pub(crate) routed: Vec<String>,
}

/// Of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Both {
    pub(crate) v4: Forwarding,
    pub(crate) v6: Forwarding,
}

pub(crate) fn routed_by_others(
    family: Family,
    networks: &[Network],
    links: &[Link],
    opened: &[String],
) -> Vec<String> {
    if opened.is_empty() {
        // Nothing is closed, so nothing needs an exception.
        return Vec::new();
    }
    links
        .iter()
        .filter(|link| !opened.contains(&link.name) && !is_bridge_of(networks, link))
        .filter(|link| forwards(family, &link.name))
        .map(|link| link.name.clone())
        .collect()
}

fn is_bridge_of(networks: &[Network], link: &Link) -> bool {
    networks.iter().any(|network| network.bridge == link.name)
}

/// Lets links forward. A link that vanished meanwhile needs it no more.
pub(crate) fn open(family: Family, links: &[String]) -> Result<(), Error> {
    links.iter().try_for_each(|link| set(family, link, 1))
}

/// Whether the administrator made a router of this host.
fn host_forwards(family: Family) -> Result<bool, Error> {
    let value = family.of_host().read().map_err(|cause| Error::Setting {
        link: "all".to_owned(),
        setting: "forwarding",
        cause,
    })?;
    Ok(value == Some(1))
}

pub(crate) fn forwards(family: Family, link: &str) -> bool {
    matches!(family.setting(link).read(), Ok(Some(1)))
}

fn set(family: Family, link: &str, value: i64) -> Result<(), Error> {
    let setting = family.setting(link);
    let result = match setting.read() {
        Ok(None) => Ok(false),
        Ok(Some(_)) => setting.write(value),
        Err(error) => Err(error),
    };
    result.map(drop).map_err(|cause| Error::Setting {
        link: link.to_owned(),
        setting: "forwarding",
        cause,
    })
}

/// Kinds of links by which engines connect containers and machines of their own.
const INNER_KINDS: [&str; 4] = ["bridge", "veth", "tun", "macvtap"];

/// Links over which containers reach the world and get its replies: every one with a route of the
/// family that leads further than the link itself does by nature, but the loopback, our bridges,
/// and what other engines made for their own. A bridge or veth is taken for one of theirs unless a
/// gateway is behind it.
pub(crate) fn uplinks(
    family: Family,
    networks: &[Network],
    links: &[Link],
    routes: &[Route],
) -> Vec<String> {
    if !networks.iter().any(|network| family.leaves(network)) {
        return Vec::new();
    }
    let leads_out = |link: &&Link| {
        let inner = INNER_KINDS.contains(&link.kind.as_str());
        routes
            .iter()
            .filter(|route| family.is_of(route.destination) && route.link == Some(link.index))
            .filter(|route| !is_link_local(route.destination))
            .any(|route| !inner || route.gateway.is_some())
    };
    let foreign = |link: &&Link| link.name != "lo" && !is_bridge_of(networks, link);
    links
        .iter()
        .filter(leads_out)
        .filter(foreign)
        .map(|link| link.name.clone())
        .collect()
}

/// Every link with IPv6 has such a route, and multicast ones.
fn is_link_local(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    }
}
