//! What links, addresses and routes there are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::{Batch, Message, attribute, text, u32_at};
use super::request::LINK_BYTES;
use super::{NetlinkError, Socket};

const DUMP: u16 = libc::NLM_F_DUMP as u16;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
/// Bytes of `struct ifaddrmsg`, which comes before an address's attributes.
const ADDRESS_BYTES: usize = 8;
/// Bytes of `struct rtmsg`, which comes before a route's attributes.
const ROUTE_BYTES: usize = 12;

/// A link as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number; a later link never has it again in practice.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The free text given to it; empty where there is none.
    pub alias: String,
    /// What made it: `bridge`, `veth`, ...; empty for hardware.
    pub kind: String,
    /// Its hardware address.
    pub mac: Vec<u8>,
    /// Largest packet.
    pub mtu: u32,
    /// Whether it is set to be up.
    pub up: bool,
    /// Number of the bridge of which it is a port.
    pub master: Option<u32>,
}

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The link that has it.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its subnet's prefix.
    pub prefix_length: u8,
}

/// A unicast route of any table but the local one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; the unspecified address for a default route.
    pub destination: IpAddr,
    /// Length of the destination's prefix; 0 for a default route.
    pub prefix_length: u8,
    /// Over whom.
    pub gateway: Option<IpAddr>,
    /// Number of the link; `None` for routes over several.
    pub link: Option<u32>,
}

impl Route {
    /// Whether it is used for what no other route covers.
    pub fn is_default(&self) -> bool {
        self.prefix_length == 0
    }
}

impl Socket {
    /// Every link of the namespace.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut request = Batch::new();
        request
            .begin(libc::RTM_GETLINK, DUMP, &[0; LINK_BYTES])
            .attribute_u32(libc::IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        self.dump(&request, link)
    }

    /// The link of a name, if there is one.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut request = Batch::new();
        request.find_link(name);
        match self.dump_one(&request, link) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            other => other,
        }
    }

    /// Every address of the namespace.
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let mut request = Batch::new();
        request.begin(libc::RTM_GETADDR, DUMP, &[0; ADDRESS_BYTES]);
        self.dump(&request, address)
    }

    /// Every unicast route of the namespace, of both families.
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut request = Batch::new();
        request.begin(libc::RTM_GETROUTE, DUMP, &[0; ROUTE_BYTES]);
        self.dump(&request, route)
    }

    /// Removes a link; one that is not there is fine.
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        batch.delete_link(name);
        match self.execute(batch.as_bytes()) {
            Err(error) if error.errno() == libc::ENODEV => Ok(()),
            other => other,
        }
    }

    /// A get request that has one answer and an acknowledgement reads like a dump of one.
    fn dump_one<T>(
        &mut self,
        request: &Batch,
        each: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> io::Result<Option<T>> {
        Ok(self.dump(request, each)?.pop())
    }
}

fn link(message: &Message<'_>) -> Option<Link> {
    let attributes = message.body.get(LINK_BYTES..)?;
    let info = attribute(attributes, libc::IFLA_LINKINFO).unwrap_or_default();
    Some(Link {
        index: u32_at(message.body, 4)?,
        name: attribute(attributes, libc::IFLA_IFNAME).map(text)?,
        alias: attribute(attributes, libc::IFLA_IFALIAS)
            .map(text)
            .unwrap_or_default(),
        kind: attribute(info, libc::IFLA_INFO_KIND)
            .map(text)
            .unwrap_or_default(),
        mac: attribute(attributes, libc::IFLA_ADDRESS)
            .unwrap_or_default()
            .to_vec(),
        mtu: attribute(attributes, libc::IFLA_MTU).and_then(|mtu| u32_at(mtu, 0))?,
        up: u32_at(message.body, 8)? & libc::IFF_UP as u32 != 0,
        master: attribute(attributes, libc::IFLA_MASTER).and_then(|master| u32_at(master, 0)),
    })
}

fn address(message: &Message<'_>) -> Option<Address> {
    let attributes = message.body.get(ADDRESS_BYTES..)?;
    // A point-to-point link has its own address in one and its peer's in the other.
    let value = attribute(attributes, libc::IFA_LOCAL)
        .or_else(|| attribute(attributes, libc::IFA_ADDRESS))?;
    Some(Address {
        index: u32_at(message.body, 4)?,
        address: ip(value)?,
        prefix_length: *message.body.get(1)?,
    })
}

fn route(message: &Message<'_>) -> Option<Route> {
    let [family, prefix_length, _, _, table, _, _, kind] = *message.body.first_chunk()?;
    if kind != libc::RTN_UNICAST || table == libc::RT_TABLE_LOCAL {
        return None;
    }
    let unspecified = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let attributes = message.body.get(ROUTE_BYTES..)?;
    Some(Route {
        destination: attribute(attributes, libc::RTA_DST)
            .and_then(ip)
            .unwrap_or(unspecified),
        prefix_length,
        gateway: attribute(attributes, libc::RTA_GATEWAY).and_then(ip),
        link: attribute(attributes, libc::RTA_OIF).and_then(|link| u32_at(link, 0)),
    })
}

/// An address from its bytes; their number tells the family.
pub(super) fn ip(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}
