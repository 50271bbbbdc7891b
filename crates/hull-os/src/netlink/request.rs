//! Requests that change links, addresses and routes, as methods of [`Batch`].
//!
//! Requests name links by name wherever the kernel allows it: names are chosen by us before the
//! link exists, numbers by the kernel after.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::message::{Batch, HEADER_BYTES, Message, attribute, messages, text, u32_at};

/// Stands in a batch for the descriptor of a network namespace that does not exist yet: whoever
/// executes the batch writes the real one over it.
pub const NETNS_FD_UNKNOWN: u32 = u32::MAX;

const ACK: u16 = libc::NLM_F_ACK as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
const REPLACE: u16 = libc::NLM_F_REPLACE as u16;

const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
/// Offset in a message of the link's number, the same for links and addresses.
const LINK_INDEX_AT: usize = HEADER_BYTES + 4;
/// Offset in a route's message of the link's number, when that is its first attribute.
const ROUTE_LINK_AT: usize = HEADER_BYTES + 12 + 4;
/// Bytes of `struct ifinfomsg`, which comes before a link's attributes.
pub(super) const LINK_BYTES: usize = 16;

/// A pair of connected links: one end stays, the other is born in another network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth<'a> {
    /// The end that stays in the namespace of the socket.
    pub name: &'a str,
    /// The end that is born elsewhere, with its final name.
    pub peer_name: &'a str,
    /// Address of the peer.
    pub peer_mac: [u8; 6],
    /// Largest packet of both ends.
    pub mtu: u32,
}

/// A link on top of another one, with a hardware address of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Macvlan<'a> {
    /// Its name in the other namespace.
    pub name: &'a str,
    /// Number of the link that it is on top of, in the namespace of the socket.
    pub parent: u32,
    /// Its own address.
    pub mac: [u8; 6],
    /// Largest packet.
    pub mtu: u32,
    /// Whom it reaches on the same parent.
    pub mode: MacvlanMode,
}

/// Whom a macvlan reaches on the same parent; the kernel's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Nobody.
    Private = 1,
    /// Others over a switch outside that sends back.
    Vepa = 2,
    /// The others.
    #[default]
    Bridge = 4,
    /// It is alone, and has the parent's address.
    Passthru = 8,
}

/// A link on top of another one that shares its hardware address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipvlan<'a> {
    /// Its name in the other namespace.
    pub name: &'a str,
    /// Number of the link that it is on top of, in the namespace of the socket.
    pub parent: u32,
    /// Largest packet.
    pub mtu: u32,
    /// At which layer packets are told apart.
    pub mode: IpvlanMode,
    /// Whom it reaches on the same parent.
    pub reach: IpvlanReach,
}

/// At which layer an ipvlan's packets are told apart; the kernel's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IpvlanMode {
    /// As on one segment with the parent, with address resolution.
    #[default]
    L2 = 0,
    /// Routed by the parent's namespace, without broadcasts.
    L3 = 1,
    /// The same, seen by the parent's connection tracking.
    L3s = 2,
}

/// Whom an ipvlan reaches on the same parent; the kernel's flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IpvlanReach {
    /// The others.
    #[default]
    Bridge = 0,
    /// Nobody.
    Private = 1,
    /// Others over a switch outside that sends back.
    Vepa = 2,
}

/// A bridge as we make it: no spanning tree, no multicast snooping, no IPv6 of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge<'a> {
    /// Name of the link.
    pub name: &'a str,
    /// Fixed, because otherwise it changes whenever a port comes or goes.
    pub mac: [u8; 6],
    /// Largest packet.
    pub mtu: u32,
}

/// What to change on a link; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkChange<'a> {
    /// Whether it is up.
    pub up: Option<bool>,
    /// Number of the bridge of which it is a port.
    pub master: Option<u32>,
    /// The free text that people and we find it by.
    pub alias: Option<&'a str>,
    /// Largest packet.
    pub mtu: Option<u32>,
    /// Whether it gets a link-local IPv6 address when it comes up.
    pub link_local: Option<bool>,
    /// Its hardware address.
    pub mac: Option<[u8; 6]>,
}

fn link_fixed(flags: u32, change: u32) -> [u8; LINK_BYTES] {
    let mut fixed = [0; LINK_BYTES];
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

fn family(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

impl Batch {
    /// Makes a pair of links. Gives the offset in the batch at which four bytes in the host's
    /// byte order hold [`NETNS_FD_UNKNOWN`]: to be replaced by a descriptor of the peer's
    /// network namespace, valid in the process that sends the batch.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> u32 {
        // One queue each: without a word the kernel makes as many as there may be processors, each
        // with entries of its own in sysfs, and that is a third of the time of a creation.
        let mut netns_fd_at = 0;
        self.begin(
            libc::RTM_NEWLINK,
            ACK | CREATE | EXCLUSIVE,
            &link_fixed(0, 0),
        )
        .attribute_text(libc::IFLA_IFNAME, veth.name)
        .attribute_u32(libc::IFLA_MTU, veth.mtu)
        .attribute_u32(libc::IFLA_NUM_TX_QUEUES, 1)
        .attribute_u32(libc::IFLA_NUM_RX_QUEUES, 1)
        .nested(libc::IFLA_LINKINFO, |info| {
            info.attribute_text(libc::IFLA_INFO_KIND, "veth").nested(
                libc::IFLA_INFO_DATA,
                |data| {
                    data.nested(VETH_INFO_PEER, |peer| {
                        peer.put(&link_fixed(0, 0));
                        peer.attribute_text(libc::IFLA_IFNAME, veth.peer_name)
                            .attribute(libc::IFLA_ADDRESS, &veth.peer_mac)
                            .attribute_u32(libc::IFLA_MTU, veth.mtu)
                            .attribute_u32(libc::IFLA_NUM_TX_QUEUES, 1)
                            .attribute_u32(libc::IFLA_NUM_RX_QUEUES, 1)
                            .attribute_u32(libc::IFLA_NET_NS_FD, NETNS_FD_UNKNOWN);
                        netns_fd_at = peer.len() - 4;
                    });
                },
            );
        });
        netns_fd_at as u32
    }

    /// Makes a link with a hardware address of its own on top of another one, in another network
    /// namespace; returns where its descriptor belongs, as [`Batch::create_veth`] does.
    pub fn create_macvlan(&mut self, macvlan: &Macvlan<'_>) -> u32 {
        self.begin(
            libc::RTM_NEWLINK,
            ACK | CREATE | EXCLUSIVE,
            &link_fixed(0, 0),
        )
        .attribute_text(libc::IFLA_IFNAME, macvlan.name)
        .attribute_u32(libc::IFLA_LINK, macvlan.parent)
        .attribute(libc::IFLA_ADDRESS, &macvlan.mac)
        .attribute_u32(libc::IFLA_MTU, macvlan.mtu)
        .nested(libc::IFLA_LINKINFO, |info| {
            info.attribute_text(libc::IFLA_INFO_KIND, "macvlan").nested(
                libc::IFLA_INFO_DATA,
                |data| {
                    data.attribute_u32(IFLA_MACVLAN_MODE, macvlan.mode as u32);
                },
            );
        })
        .attribute_u32(libc::IFLA_NET_NS_FD, NETNS_FD_UNKNOWN);
        self.len() as u32 - 4
    }

    /// Makes a link on top of another one that shares its hardware address, in another network
    /// namespace; returns where its descriptor belongs, as [`Batch::create_veth`] does.
    pub fn create_ipvlan(&mut self, ipvlan: &Ipvlan<'_>) -> u32 {
        self.begin(
            libc::RTM_NEWLINK,
            ACK | CREATE | EXCLUSIVE,
            &link_fixed(0, 0),
        )
        .attribute_text(libc::IFLA_IFNAME, ipvlan.name)
        .attribute_u32(libc::IFLA_LINK, ipvlan.parent)
        .attribute_u32(libc::IFLA_MTU, ipvlan.mtu)
        .nested(libc::IFLA_LINKINFO, |info| {
            info.attribute_text(libc::IFLA_INFO_KIND, "ipvlan").nested(
                libc::IFLA_INFO_DATA,
                |data| {
                    data.attribute(IFLA_IPVLAN_MODE, &(ipvlan.mode as u16).to_ne_bytes())
                        .attribute(IFLA_IPVLAN_FLAGS, &(ipvlan.reach as u16).to_ne_bytes());
                },
            );
        })
        .attribute_u32(libc::IFLA_NET_NS_FD, NETNS_FD_UNKNOWN);
        self.len() as u32 - 4
    }

    /// Asks for a link of a kind without what each such link needs: refused in any case, as not
    /// supported only where the kernel does not know the kind.
    pub fn ask_for_kind(&mut self, kind: &str) -> &mut Self {
        self.begin(
            libc::RTM_NEWLINK,
            ACK | CREATE | EXCLUSIVE,
            &link_fixed(0, 0),
        )
        .nested(libc::IFLA_LINKINFO, |info| {
            info.attribute_text(libc::IFLA_INFO_KIND, kind);
        })
    }

    /// Makes a bridge.
    pub fn create_bridge(&mut self, bridge: &Bridge<'_>) -> &mut Self {
        self.begin(
            libc::RTM_NEWLINK,
            ACK | CREATE | EXCLUSIVE,
            &link_fixed(0, 0),
        )
        .attribute_text(libc::IFLA_IFNAME, bridge.name)
        .attribute(libc::IFLA_ADDRESS, &bridge.mac)
        .attribute_u32(libc::IFLA_MTU, bridge.mtu)
        .nested(libc::IFLA_LINKINFO, |info| {
            info.attribute_text(libc::IFLA_INFO_KIND, "bridge").nested(
                libc::IFLA_INFO_DATA,
                |data| {
                    data.attribute_u32(IFLA_BR_FORWARD_DELAY, 0)
                        .attribute_u32(IFLA_BR_STP_STATE, 0)
                        .attribute_u8(IFLA_BR_MCAST_SNOOPING, 0);
                },
            );
        })
    }

    /// Makes a link for the frames of one VLAN of the link of this number.
    pub fn create_vlan(&mut self, name: &str, below: u32, vlan: u16) -> &mut Self {
        self.begin(
            libc::RTM_NEWLINK,
            ACK | CREATE | EXCLUSIVE,
            &link_fixed(0, 0),
        )
        .attribute_text(libc::IFLA_IFNAME, name)
        .attribute_u32(libc::IFLA_LINK, below)
        .nested(libc::IFLA_LINKINFO, |info| {
            info.attribute_text(libc::IFLA_INFO_KIND, "vlan").nested(
                libc::IFLA_INFO_DATA,
                |data| {
                    data.attribute(IFLA_VLAN_ID, &vlan.to_ne_bytes());
                },
            );
        })
    }

    /// Changes a link.
    pub fn set_link(&mut self, name: &str, change: &LinkChange<'_>) -> &mut Self {
        if let Some(link_local) = change.link_local {
            self.set_link_local(name, link_local);
        }
        let up = libc::IFF_UP as u32;
        let fixed = match change.up {
            None => link_fixed(0, 0),
            Some(true) => link_fixed(up, up),
            Some(false) => link_fixed(0, up),
        };
        self.begin(libc::RTM_NEWLINK, ACK, &fixed)
            .attribute_text(libc::IFLA_IFNAME, name);
        if let Some(master) = change.master {
            self.attribute_u32(libc::IFLA_MASTER, master);
        }
        if let Some(alias) = change.alias {
            self.attribute(libc::IFLA_IFALIAS, alias.as_bytes());
        }
        if let Some(mtu) = change.mtu {
            self.attribute_u32(libc::IFLA_MTU, mtu);
        }
        if let Some(mac) = change.mac {
            self.attribute(libc::IFLA_ADDRESS, &mac);
        }
        self
    }

    /// A request of its own, because a link may have no IPv6 at all: see [`asks_for_ipv6`].
    fn set_link_local(&mut self, name: &str, link_local: bool) {
        let mode = if link_local { 0 } else { ADDR_GEN_MODE_NONE };
        self.begin(libc::RTM_NEWLINK, ACK, &link_fixed(0, 0))
            .attribute_text(libc::IFLA_IFNAME, name)
            .nested(libc::IFLA_AF_SPEC, |spec| {
                spec.nested(libc::AF_INET6 as u16, |inet6| {
                    inet6.attribute_u8(IFLA_INET6_ADDR_GEN_MODE, mode);
                });
            });
    }

    /// Settings of a port of a bridge: an isolated one does not reach other isolated ones; one in
    /// hairpin mode may be sent what came from it.
    pub fn set_port(&mut self, name: &str, isolated: bool, hairpin: bool) -> &mut Self {
        self.begin(libc::RTM_NEWLINK, ACK, &link_fixed(0, 0))
            .attribute_text(libc::IFLA_IFNAME, name)
            .nested(libc::IFLA_LINKINFO, |info| {
                info.attribute_text(IFLA_INFO_SLAVE_KIND, "bridge").nested(
                    IFLA_INFO_SLAVE_DATA,
                    |port| {
                        port.attribute_u8(IFLA_BRPORT_MODE, u8::from(hairpin))
                            .attribute_u8(IFLA_BRPORT_ISOLATED, u8::from(isolated));
                    },
                );
            })
    }

    /// Removes a link, and its peer where it has one.
    pub fn delete_link(&mut self, name: &str) -> &mut Self {
        self.begin(libc::RTM_DELLINK, ACK, &link_fixed(0, 0))
            .attribute_text(libc::IFLA_IFNAME, name)
    }

    /// Finds a link: address requests for link 0 that follow in this batch are meant for it.
    pub fn find_link(&mut self, name: &str) -> &mut Self {
        self.begin(libc::RTM_GETLINK, ACK, &link_fixed(0, 0))
            .attribute_text(libc::IFLA_IFNAME, name)
            .attribute_u32(libc::IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    }

    /// Gives a link an address with the length of its subnet's prefix. `index` 0 means the link
    /// of the last [`Batch::find_link`].
    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix_length: u8) -> &mut Self {
        // Duplicate detection would keep a v6 address unusable for a second; we know that it is
        // ours alone.
        let flags = if address.is_ipv6() {
            libc::IFA_F_NODAD as u8
        } else {
            0
        };
        let mut fixed = [family(&address), prefix_length, flags, 0, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&index.to_ne_bytes());
        let value = octets(&address);
        self.begin(libc::RTM_NEWADDR, ACK | CREATE | REPLACE, &fixed)
            .attribute(libc::IFA_LOCAL, &value)
            .attribute(libc::IFA_ADDRESS, &value);
        if let (IpAddr::V4(v4), 1..=30) = (address, prefix_length) {
            let broadcast = u32::from(v4) | (u32::MAX >> prefix_length);
            self.attribute_be32(libc::IFA_BROADCAST, broadcast);
        }
        self
    }

    /// Takes an address off a link.
    pub fn delete_address(&mut self, index: u32, address: IpAddr, prefix_length: u8) -> &mut Self {
        let mut fixed = [family(&address), prefix_length, 0, 0, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&index.to_ne_bytes());
        self.begin(libc::RTM_DELADDR, ACK, &fixed)
            .attribute(libc::IFA_LOCAL, &octets(&address))
    }

    /// Adds a route over a gateway; the link follows from the gateway. `None` is the default
    /// route of the gateway's family.
    pub fn add_route(&mut self, destination: Option<(IpAddr, u8)>, gateway: IpAddr) -> &mut Self {
        self.route(destination, gateway, EXCLUSIVE)
    }

    /// Makes a gateway that of the default route of its family, whichever it was before. One that is
    /// known on its link only is over the link of the last [`Batch::find_link`].
    pub fn set_default_route(&mut self, gateway: IpAddr) -> &mut Self {
        self.route(None, gateway, REPLACE)
    }

    fn route(
        &mut self,
        destination: Option<(IpAddr, u8)>,
        gateway: IpAddr,
        flag: u16,
    ) -> &mut Self {
        let fixed = [
            family(&gateway),
            destination.map_or(0, |(_, prefix_length)| prefix_length),
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_BOOT,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        self.begin(libc::RTM_NEWROUTE, ACK | CREATE | flag, &fixed);
        if is_link_local(&gateway) {
            // First, where `fill_link` looks for it.
            self.attribute_u32(libc::RTA_OIF, 0);
        }
        if let Some((address, _)) = destination {
            self.attribute(libc::RTA_DST, &octets(&address));
        }
        self.attribute(libc::RTA_GATEWAY, &octets(&gateway))
    }
}

/// Puts the descriptor of a network namespace where a batch names one (see
/// [`Batch::create_veth`]); an offset outside of the batch: nowhere.
pub fn fill_netns(batch: &mut [u8], offset: u32, namespace: BorrowedFd<'_>) {
    let place = batch
        .get_mut(offset as usize..)
        .and_then(|rest| rest.first_chunk_mut());
    if let Some(place) = place {
        *place = namespace.as_raw_fd().to_ne_bytes();
    }
}

/// How much of a batch can be sent at once: at most `requests_max` requests, and nothing after a
/// find request, whose answer the rest needs. Gives bytes and requests.
pub(super) fn send_part(batch: &[u8], requests_max: usize) -> (usize, usize) {
    let mut end = 0;
    let mut count = 0;
    for message in messages(batch).take(requests_max) {
        end += (HEADER_BYTES + message.body.len()).next_multiple_of(4);
        count += 1;
        if message.kind == libc::RTM_GETLINK {
            break;
        }
    }
    // Bytes that are no message are left to the sender to refuse.
    if count == 0 {
        (batch.len(), 1)
    } else {
        (end, count)
    }
}

/// Whether an address says nothing without its link.
pub fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Writes the number of the found link into the address and route requests that have none.
pub(super) fn fill_link(part: &mut [u8], index: u32) {
    let mut at = 0;
    while let Some(length) = u32_at(part, at).filter(|l| *l as usize > LINK_INDEX_AT) {
        let place = match super::u16_at(part, at + 4) {
            Some(libc::RTM_NEWADDR | libc::RTM_DELADDR) => Some(at + LINK_INDEX_AT),
            Some(libc::RTM_NEWROUTE)
                if super::u16_at(part, at + ROUTE_LINK_AT - 2) == Some(libc::RTA_OIF) =>
            {
                Some(at + ROUTE_LINK_AT)
            }
            _ => None,
        };
        if let Some(place) = place.filter(|place| u32_at(part, *place) == Some(0)) {
            part[place..place + 4].copy_from_slice(&index.to_ne_bytes());
        }
        at += (length as usize).next_multiple_of(4);
    }
}

/// Whether a request is about IPv6 alone, so that a refusal for want of it is no failure: the host
/// has it switched off, or the link's packets are too small for it.
pub(super) fn asks_for_ipv6(message: &Message<'_>) -> bool {
    message.kind == libc::RTM_NEWLINK
        && message
            .body
            .get(LINK_BYTES..)
            .is_some_and(|attributes| attribute(attributes, libc::IFLA_AF_SPEC).is_some())
}

/// What a request asks for, in words for an error.
pub(super) fn describe(message: &Message<'_>) -> String {
    let create = message.flags & CREATE != 0;
    let verb = match message.kind {
        libc::RTM_NEWLINK if create => "create link",
        libc::RTM_NEWLINK => "change link",
        libc::RTM_DELLINK => "remove link",
        libc::RTM_GETLINK => "find link",
        libc::RTM_NEWADDR => "add address",
        libc::RTM_DELADDR => "remove address",
        libc::RTM_NEWROUTE => "add route",
        _ => "unknown request",
    };
    let subject = match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK | libc::RTM_GETLINK => {
            let attributes = message.body.get(LINK_BYTES..).unwrap_or_default();
            attribute(attributes, libc::IFLA_IFNAME).map(text)
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            let attributes = message.body.get(8..).unwrap_or_default();
            attribute(attributes, libc::IFA_LOCAL)
                .and_then(super::dump::ip)
                .map(|a| a.to_string())
        }
        libc::RTM_NEWROUTE => {
            let attributes = message.body.get(12..).unwrap_or_default();
            attribute(attributes, libc::RTA_GATEWAY)
                .and_then(super::dump::ip)
                .map(|gateway| format!("over {gateway}"))
        }
        _ => None,
    };
    subject.map_or_else(|| verb.to_owned(), |subject| format!("{verb} {subject}"))
}
