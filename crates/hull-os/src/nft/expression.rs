//! Rules: a chain of conditions and what happens to a packet for which all hold.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::{Counted, DATA_VALUE, DATA_VERDICT, Family, LIST_ITEM, be64, link_key, network_bytes};
use crate::netlink::{Batch, attribute, attributes, be32, text};

const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

const REGISTER_VERDICT: u32 = 0;
/// The registers of 16 bytes, side by side: a pair of link names fills both.
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;

/// The registers of 4 bytes, of which the ones above are made: a key of several parts lies in them
/// one after the other, and so does what a map gives.
const REGISTER_SMALL: u32 = 8;
const REGISTER_SMALL_BYTES: u32 = 4;

const META_PROTOCOL: u32 = 1;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
/// Where a transport header has its ports; the same for all protocols that have such.
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;
const PORT_BYTES: u32 = 2;

/// State of the connection that a packet belongs to: replies and what else follows from it.
const STATE_ESTABLISHED_OR_RELATED: u32 = 2 | 4;
/// The first packets of connections, and what belongs to none. Neighbour discovery is neither.
const STATE_NEW_OR_INVALID: u32 = 8 | 1;
/// The connection's destination was rewritten by a rule.
const STATUS_DNAT: u32 = 1 << 5;

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This base chain has nothing against it; others may.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the calling chain.
    Return,
    /// On in another chain of the table.
    Jump(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
        }
    }
}

impl Verdict {
    fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Return => -5,
        }
    }

    pub(super) fn put(&self, data: &mut Batch) {
        data.nested(DATA_VERDICT, |verdict| {
            verdict.attribute_be32(VERDICT_CODE, self.code() as u32);
            if let Self::Jump(chain) = self {
                verdict.attribute_text(VERDICT_CHAIN, chain);
            }
        });
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    Meta {
        key: u32,
        register: u32,
    },
    Conntrack {
        key: u32,
    },
    Payload {
        base: u32,
        offset: u32,
        bytes: u32,
        register: u32,
    },
    AddressType,
    Mask(Vec<u8>),
    Compare {
        equal: bool,
        value: Vec<u8>,
    },
    Lookup {
        set: String,
        inverted: bool,
        verdict: bool,
    },
    Load(Vec<u8>, u32),
    Counter(Counted),
    Verdict(Verdict),
    Masquerade,
    /// The value in the first register becomes a port of the packet.
    SetPort {
        protocol: u8,
        offset: u32,
    },
    /// Looks the small registers up in a map, whose data replace them.
    Map(String),
    /// A new destination: address in the small registers, port in the one after it.
    DnatTo(Family),
}

/// A rule under construction: conditions in the order in which they are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    chain: String,
    comment: String,
    expressions: Vec<Expression>,
    /// The same in the words of `nft`, for people.
    words: Vec<String>,
}

impl Rule {
    /// A rule of `chain` that holds for every packet. The comment says whose it is and why.
    pub fn new(chain: &str, comment: &str) -> Self {
        Self {
            chain: chain.to_owned(),
            comment: comment.to_owned(),
            expressions: Vec::new(),
            words: Vec::new(),
        }
    }

    /// The chain that it is for.
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// Its comment.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    fn say(mut self, words: impl Into<String>) -> Self {
        self.words.push(words.into());
        self
    }

    fn then(mut self, expressions: impl IntoIterator<Item = Expression>) -> Self {
        self.expressions.extend(expressions);
        self
    }

    fn meta(self, key: u32) -> Self {
        self.then([Expression::Meta {
            key,
            register: REGISTER_1,
        }])
    }

    fn compare(self, equal: bool, value: &[u8]) -> Self {
        self.then([Expression::Compare {
            equal,
            value: value.to_vec(),
        }])
    }

    fn lookup(self, set: &str, inverted: bool, verdict: bool) -> Self {
        self.then([Expression::Lookup {
            set: set.to_owned(),
            inverted,
            verdict,
        }])
    }

    /// It came in over this link.
    pub fn from_link(self, name: &str) -> Self {
        self.say(format!("iifname {name}"))
            .meta(META_IIFNAME)
            .compare(true, &link_key(&[name]))
    }

    /// It goes out over this link.
    pub fn to_link(self, name: &str) -> Self {
        self.say(format!("oifname {name}"))
            .meta(META_OIFNAME)
            .compare(true, &link_key(&[name]))
    }

    /// It goes out over any other link.
    pub fn not_to_link(self, name: &str) -> Self {
        self.say(format!("oifname != {name}"))
            .meta(META_OIFNAME)
            .compare(false, &link_key(&[name]))
    }

    /// It came in over a link of the set.
    pub fn from_link_in(self, set: &str) -> Self {
        self.say(format!("iifname @{set}"))
            .meta(META_IIFNAME)
            .lookup(set, false, false)
    }

    /// It came in over a link that is not in the set.
    pub fn from_link_not_in(self, set: &str) -> Self {
        self.say(format!("iifname != @{set}"))
            .meta(META_IIFNAME)
            .lookup(set, true, false)
    }

    /// It goes out over a link of the set.
    pub fn to_link_in(self, set: &str) -> Self {
        self.say(format!("oifname @{set}"))
            .meta(META_OIFNAME)
            .lookup(set, false, false)
    }

    /// It goes out over a link that is not in the set.
    pub fn to_link_not_in(self, set: &str) -> Self {
        self.say(format!("oifname != @{set}"))
            .meta(META_OIFNAME)
            .lookup(set, true, false)
    }

    /// The verdict that the map has for the pair of links that it comes from and goes to.
    pub fn verdict_by_links(self, map: &str) -> Self {
        self.say(format!("iifname . oifname vmap @{map}"))
            .meta(META_IIFNAME)
            .then([Expression::Meta {
                key: META_OIFNAME,
                register: REGISTER_2,
            }])
            .lookup(map, false, true)
    }

    fn address(self, address: IpAddr, prefix_length: u8, source: bool, equal: bool) -> Self {
        let (family, offset) = match (address, source) {
            (IpAddr::V4(_), true) => (libc::AF_INET, 12),
            (IpAddr::V4(_), false) => (libc::AF_INET, 16),
            (IpAddr::V6(_), true) => (libc::AF_INET6, 8),
            (IpAddr::V6(_), false) => (libc::AF_INET6, 24),
        };
        let (network, mask) = network_bytes(address, prefix_length);
        let bytes = network.len() as u32;
        self.meta(META_NFPROTO)
            .compare(true, &[family as u8])
            .then([
                Expression::Payload {
                    base: BASE_NETWORK,
                    offset,
                    bytes,
                    register: REGISTER_1,
                },
                Expression::Mask(mask),
            ])
            .compare(equal, &network)
    }

    /// Its source is in this network.
    pub fn from_network(self, address: IpAddr, prefix_length: u8) -> Self {
        self.say(format!("saddr {address}/{prefix_length}"))
            .address(address, prefix_length, true, true)
    }

    /// Its destination is in this network.
    pub fn to_network(self, address: IpAddr, prefix_length: u8) -> Self {
        self.say(format!("daddr {address}/{prefix_length}"))
            .address(address, prefix_length, false, true)
    }

    /// It is of this network's family and goes elsewhere.
    pub fn not_to_network(self, address: IpAddr, prefix_length: u8) -> Self {
        self.say(format!("daddr != {address}/{prefix_length}"))
            .address(address, prefix_length, false, false)
    }

    /// It is of this transport protocol (6 is TCP, 17 is UDP) and goes to this port.
    pub fn to_port(self, protocol: u8, port: u16) -> Self {
        self.say(format!("meta l4proto {protocol} th dport {port}"))
            .port(protocol, DESTINATION_PORT, port)
    }

    /// It is of this transport protocol and comes from this port.
    pub fn from_port(self, protocol: u8, port: u16) -> Self {
        self.say(format!("meta l4proto {protocol} th sport {port}"))
            .port(protocol, SOURCE_PORT, port)
    }

    fn port(self, protocol: u8, offset: u32, port: u16) -> Self {
        self.meta(META_L4PROTO)
            .compare(true, &[protocol])
            .then([Expression::Payload {
                base: BASE_TRANSPORT,
                offset,
                bytes: PORT_BYTES,
                register: REGISTER_1,
            }])
            .compare(true, &port.to_be_bytes())
    }

    /// For a chain of a link: an IPv4 packet to this address.
    pub fn frame_to(self, address: Ipv4Addr) -> Self {
        self.say(format!("ip daddr {address}"))
            .frame_address(16, address)
    }

    /// For a chain of a link: an IPv4 packet from this address.
    pub fn frame_from(self, address: Ipv4Addr) -> Self {
        self.say(format!("ip saddr {address}"))
            .frame_address(12, address)
    }

    fn frame_address(self, offset: u32, address: Ipv4Addr) -> Self {
        self.meta(META_PROTOCOL)
            .compare(true, &(libc::ETH_P_IP as u16).to_be_bytes())
            .then([Expression::Payload {
                base: BASE_NETWORK,
                offset,
                bytes: 4,
                register: REGISTER_1,
            }])
            .compare(true, &address.octets())
    }

    /// Writes another port into a packet of this transport protocol, TCP or UDP, where it goes to.
    /// Nothing remembers it: answers need a rule of their own.
    pub fn set_destination_port(self, protocol: u8, port: u16) -> Self {
        self.say(format!("th dport set {port}"))
            .set_port(protocol, DESTINATION_PORT, port)
    }

    /// The same where it comes from.
    pub fn set_source_port(self, protocol: u8, port: u16) -> Self {
        self.say(format!("th sport set {port}"))
            .set_port(protocol, SOURCE_PORT, port)
    }

    fn set_port(self, protocol: u8, offset: u32, port: u16) -> Self {
        self.then([
            Expression::Load(port.to_be_bytes().to_vec(), REGISTER_1),
            Expression::SetPort { protocol, offset },
        ])
    }

    /// Its destination is an address of this host.
    pub fn to_local_address(self) -> Self {
        self.say("fib daddr type local")
            .then([Expression::AddressType])
            .compare(true, &u32::from(libc::RTN_LOCAL).to_ne_bytes())
    }

    /// Its destination is no address of this host.
    pub fn not_to_local_address(self) -> Self {
        self.say("fib daddr type != local")
            .then([Expression::AddressType])
            .compare(false, &u32::from(libc::RTN_LOCAL).to_ne_bytes())
    }

    /// It is of this transport protocol.
    pub fn of_protocol(self, protocol: u8) -> Self {
        self.say(format!("meta l4proto {protocol}"))
            .meta(META_L4PROTO)
            .compare(true, &[protocol])
    }

    /// The verdict that the map has for the link that it came from.
    pub fn verdict_by_link(self, map: &str) -> Self {
        self.say(format!("iifname vmap @{map}"))
            .meta(META_IIFNAME)
            .lookup(map, false, true)
    }

    /// The verdict that the map has for the link that it came from and its source.
    pub fn verdict_by_link_source(self, map: &str, family: Family) -> Self {
        let word = family.word();
        self.say(format!("iifname . {word} saddr vmap @{map}"))
            .meta(META_NFPROTO)
            .compare(true, &[family.address_family()])
            .meta(META_IIFNAME)
            .part_address(family, true, REGISTER_2)
            .lookup(map, false, true)
    }

    /// Its source, destination, protocol and port are in the set.
    pub fn of_flow_in(self, set: &str, family: Family) -> Self {
        let word = family.word();
        let destination = REGISTER_SMALL + family.address_bytes() as u32 / REGISTER_SMALL_BYTES;
        let port = destination + family.address_bytes() as u32 / REGISTER_SMALL_BYTES;
        self.say(format!("{word} saddr . {word} daddr . port @{set}"))
            .meta(META_NFPROTO)
            .compare(true, &[family.address_family()])
            .part_address(family, true, REGISTER_SMALL)
            .part_address(family, false, destination)
            .part_port(port)
            .lookup(set, false, false)
    }

    fn conntrack(self, key: u32, bits: u32) -> Self {
        self.then([
            Expression::Conntrack { key },
            Expression::Mask(bits.to_ne_bytes().to_vec()),
        ])
        .compare(false, &0u32.to_ne_bytes())
    }

    /// It answers to, or follows from, a connection that was let through before.
    pub fn of_known_connection(self) -> Self {
        self.say("ct state established,related")
            .conntrack(CT_STATE, STATE_ESTABLISHED_OR_RELATED)
    }

    /// It begins a connection, or belongs to none.
    pub fn of_new_connection(self) -> Self {
        self.say("ct state invalid,new")
            .conntrack(CT_STATE, STATE_NEW_OR_INVALID)
    }

    /// A rule of the host (a published port) chose its destination.
    pub fn of_published_port(self) -> Self {
        self.say("ct status dnat").conntrack(CT_STATUS, STATUS_DNAT)
    }

    /// Counts the packets that come this far.
    pub fn counted(self) -> Self {
        self.say("counter")
            .then([Expression::Counter(Counted::default())])
    }

    /// Has its counter, if it has one, go on from here.
    pub fn count_on_from(mut self, from: Counted) -> Self {
        for expression in &mut self.expressions {
            if let Expression::Counter(counted) = expression {
                *counted = from;
            }
        }
        self
    }

    /// What then happens.
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.say(verdict.to_string())
            .then([Expression::Verdict(verdict)])
    }

    /// Gives it the address of the link that it goes out over as its source.
    pub fn masquerade(self) -> Self {
        self.say("masquerade").then([Expression::Masquerade])
    }

    /// Gives it the destination that the map has for its port, or for its address and port.
    pub fn dnat_by_port(self, map: &str, family: Family, with_address: bool) -> Self {
        let words = if with_address { "daddr . " } else { "" };
        let mut rule = self
            .say(format!("{} dnat to {words}port map @{map}", family.word()))
            .meta(META_NFPROTO)
            .compare(true, &[family.address_family()]);
        let mut register = REGISTER_SMALL;
        if with_address {
            rule = rule.part_address(family, false, register);
            register += family.address_bytes() as u32 / REGISTER_SMALL_BYTES;
        }
        rule.part_port(register)
            .then([Expression::Map(map.to_owned()), Expression::DnatTo(family)])
    }

    fn part_address(self, family: Family, source: bool, register: u32) -> Self {
        let bytes = family.address_bytes() as u32;
        let first = if family == Family::Ipv6 { 8 } else { 12 };
        let offset = if source { first } else { first + bytes };
        self.then([Expression::Payload {
            base: BASE_NETWORK,
            offset,
            bytes,
            register,
        }])
    }

    /// The transport protocol, and in the next register the port that it goes to.
    fn part_port(self, register: u32) -> Self {
        self.then([
            Expression::Meta {
                key: META_L4PROTO,
                register,
            },
            Expression::Payload {
                base: BASE_TRANSPORT,
                offset: 2,
                bytes: 2,
                register: register + 1,
            },
        ])
    }

    pub(super) fn put(&self, list: &mut Batch) {
        for expression in &self.expressions {
            list.nested(LIST_ITEM, |item| {
                item.attribute_text(EXPRESSION_NAME, expression.name())
                    .nested(EXPRESSION_DATA, |data| expression.put(data));
            });
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

impl Expression {
    fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } => "meta",
            Self::Conntrack { .. } => "ct",
            Self::Payload { .. } | Self::SetPort { .. } => "payload",
            Self::AddressType => "fib",
            Self::Mask(_) => "bitwise",
            Self::Compare { .. } => "cmp",
            Self::Lookup { .. } | Self::Map(_) => "lookup",
            Self::Load(..) | Self::Verdict(_) => "immediate",
            Self::Counter(_) => "counter",
            Self::Masquerade => "masq",
            Self::DnatTo(_) => "nat",
        }
    }

    /// The numbers of the attributes are those of the kernel's `nf_tables.h`, per expression.
    fn put(&self, data: &mut Batch) {
        let value = |data: &mut Batch, kind: u16, bytes: &[u8]| {
            data.nested(kind, |nest| {
                nest.attribute(DATA_VALUE, bytes);
            });
        };
        match self {
            Self::Meta { key, register } => {
                data.attribute_be32(2, *key).attribute_be32(1, *register);
            }
            Self::Conntrack { key } => {
                data.attribute_be32(2, *key).attribute_be32(1, REGISTER_1);
            }
            Self::Payload {
                base,
                offset,
                bytes,
                register,
            } => {
                data.attribute_be32(1, *register)
                    .attribute_be32(2, *base)
                    .attribute_be32(3, *offset)
                    .attribute_be32(4, *bytes);
            }
            Self::AddressType => {
                const RESULT_ADDRESS_TYPE: u32 = 3;
                const FLAG_DESTINATION: u32 = 2;
                data.attribute_be32(3, FLAG_DESTINATION)
                    .attribute_be32(2, RESULT_ADDRESS_TYPE)
                    .attribute_be32(1, REGISTER_1);
            }
            Self::Mask(mask) => {
                data.attribute_be32(1, REGISTER_1)
                    .attribute_be32(2, REGISTER_1)
                    .attribute_be32(3, mask.len() as u32);
                value(data, 4, mask);
                value(data, 5, &vec![0; mask.len()]);
            }
            Self::Compare {
                equal,
                value: bytes,
            } => {
                data.attribute_be32(1, REGISTER_1)
                    .attribute_be32(2, u32::from(!equal));
                value(data, 3, bytes);
            }
            Self::Lookup {
                set,
                inverted,
                verdict,
            } => put_lookup(data, set, *inverted, *verdict),
            Self::Load(bytes, register) => {
                data.attribute_be32(1, *register);
                value(data, 2, bytes);
            }
            Self::Counter(from) => {
                data.attribute(1, &from.bytes.to_be_bytes())
                    .attribute(2, &from.packets.to_be_bytes());
            }
            Self::Masquerade => {}
            Self::Verdict(verdict) => {
                data.attribute_be32(1, REGISTER_VERDICT)
                    .nested(2, |nest| verdict.put(nest));
            }
            Self::Map(map) => {
                data.attribute_text(1, map)
                    .attribute_be32(2, REGISTER_SMALL)
                    .attribute_be32(3, REGISTER_SMALL);
            }
            Self::DnatTo(family) => put_dnat(data, *family),
            Self::SetPort { protocol, offset } => put_set_port(data, *protocol, *offset),
        }
    }
}

fn put_lookup(data: &mut Batch, set: &str, inverted: bool, verdict: bool) {
    data.attribute_text(1, set).attribute_be32(2, REGISTER_1);
    if verdict {
        data.attribute_be32(3, REGISTER_VERDICT);
    } else {
        data.attribute_be32(5, u32::from(inverted));
    }
}

/// A new destination: address in the small registers, port in the one after it.
fn put_dnat(data: &mut Batch, family: Family) {
    const TYPE_DNAT: u32 = 1;
    let parts = family.address_bytes() as u32 / REGISTER_SMALL_BYTES;
    data.attribute_be32(1, TYPE_DNAT)
        .attribute_be32(2, family.address_family().into())
        .attribute_be32(3, REGISTER_SMALL)
        .attribute_be32(5, REGISTER_SMALL + parts);
}

/// The first register into the packet, whose checksum follows.
fn put_set_port(data: &mut Batch, protocol: u8, offset: u32) {
    const CHECKSUM_OF_INTERNET: u32 = 1;
    let checksum_at = if libc::c_int::from(protocol) == libc::IPPROTO_TCP {
        16
    } else {
        6
    };
    data.attribute_be32(5, REGISTER_1)
        .attribute_be32(2, BASE_TRANSPORT)
        .attribute_be32(3, offset)
        .attribute_be32(4, PORT_BYTES)
        .attribute_be32(6, CHECKSUM_OF_INTERNET)
        .attribute_be32(7, checksum_at);
}

/// Where every packet ends that comes to an installed rule without conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ends {
    /// Accepted.
    Accept,
    /// Dropped or rejected.
    Drop,
    /// Back in the calling chain.
    Return,
    /// In another chain; `true` when it never comes back (a goto).
    In(String, bool),
}

impl Ends {
    /// Reads the expressions of an installed rule, also of those that iptables made.
    pub(super) fn of(list: &[u8]) -> Option<Self> {
        let mut end = None;
        for (_, item) in attributes(list) {
            let data = attribute(item, EXPRESSION_DATA).unwrap_or_default();
            match attribute(item, EXPRESSION_NAME).map(text)?.as_str() {
                "counter" | "log" => {}
                "reject" => end = Some(Self::Drop),
                "immediate" => end = Some(Self::of_immediate(data)?),
                // An extension of iptables; its name is the first attribute.
                "target" => match attribute(data, 1).map(text)?.as_str() {
                    "REJECT" | "DROP" => end = Some(Self::Drop),
                    _ => {}
                },
                _ => return None,
            }
        }
        end
    }

    fn of_immediate(data: &[u8]) -> Option<Self> {
        const GOTO: i32 = -4;
        let verdict = attribute(attribute(data, 2)?, DATA_VERDICT)?;
        let code = attribute(verdict, VERDICT_CODE).and_then(be32)? as i32;
        let chain = attribute(verdict, VERDICT_CHAIN).map(text);
        match code {
            0 => Some(Self::Drop),
            1 => Some(Self::Accept),
            -5 => Some(Self::Return),
            -3 | GOTO => Some(Self::In(chain?, code == GOTO)),
            _ => None,
        }
    }
}

impl Counted {
    /// What the counter among the expressions of an installed rule says.
    pub(super) fn of(list: &[u8]) -> Option<Self> {
        let counter = attributes(list).map(|(_, item)| item).find(|item| {
            attribute(item, EXPRESSION_NAME).map(text).as_deref() == Some("counter")
        })?;
        let data = attribute(counter, EXPRESSION_DATA)?;
        Some(Self {
            bytes: attribute(data, 1).and_then(be64)?,
            packets: attribute(data, 2).and_then(be64)?,
        })
    }
}
