//! nf_tables over netlink: what one program wants, applied as one transaction.
//!
//! ```text
//!   Transaction: add_table, add_chain, add_set, add_elements, add_rule(Rule), ...   pure bytes
//!     v
//!   Nftables::commit    all of it or nothing; packets see the old rules or the new ones
//!   Nftables::chains / rules / elements    what there is, of every program on the host
//! ```
//!
//! Rules carry a comment that `nft list ruleset` and `iptables -S` show, which is also how their
//! owner finds them again.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::netlink::{
    Answer, Batch, Message, NetlinkError, Socket, answer, attribute, attributes, be32, messages,
    text,
};

mod expression;

pub use expression::{Ends, Rule, Verdict};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const GET_CHAIN: u16 = (SUBSYSTEM << 8) | 4;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
const GET_RULE: u16 = (SUBSYSTEM << 8) | 7;
const DELETE_CHAIN: u16 = (SUBSYSTEM << 8) | 5;
const DELETE_RULE: u16 = (SUBSYSTEM << 8) | 8;
const NEW_SET: u16 = (SUBSYSTEM << 8) | 9;
const NEW_ELEMENT: u16 = (SUBSYSTEM << 8) | 12;
const GET_ELEMENT: u16 = (SUBSYSTEM << 8) | 13;
const DELETE_ELEMENT: u16 = (SUBSYSTEM << 8) | 14;

// Attributes; each kind of object counts its own from 1.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_HANDLE: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_LINK: u16 = 3;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_POSITION: u16 = 6;
const RULE_USERDATA: u16 = 7;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_BYTES: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_BYTES: u16 = 7;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const LIST_ITEM: u16 = 1;

const SET_FLAG_MAP: u32 = 8;
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
/// Type of a comment in the user data of a rule, as nft and iptables write it.
const USERDATA_COMMENT: u8 = 0;
/// User data of a set that lets `nft` show texts as texts and not as large numbers: item 0, four
/// bytes, 1 for the byte order of the host.
const KEY_IN_HOST_ORDER: [u8; 6] = {
    let [a, b, c, d] = 1u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};
/// The same for keys and data (item 1) as they are in packets.
const KEY_AND_DATA_IN_NETWORK_ORDER: [u8; 12] = {
    let [a, b, c, d] = 2u32.to_ne_bytes();
    [0, 4, a, b, c, d, 1, 4, a, b, c, d]
};
/// Bytes of a comment, with its terminating zero: nft shows no more.
pub const COMMENT_BYTES_MAX: usize = 128;
/// Bytes that a link's name takes in a set's key.
const LINK_NAME_BYTES: usize = 16;

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4 only; where iptables has its tables.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Whatever comes in over one link, before connections are looked up.
    Link,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
            Self::Link => 5,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Inet, Self::Ipv4, Self::Ipv6]
            .into_iter()
            .find(|family| family.number() == number)
    }

    /// The word of `nft` for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
            Self::Link => "netdev",
        }
    }
}

/// Where in a packet's way a base chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before the routing decision.
    Prerouting = 0,
    /// On the way to a local socket.
    Input = 1,
    /// On the way from one link to another.
    Forward = 2,
    /// From a local socket.
    Output = 3,
    /// After the routing decision, last.
    Postrouting = 4,
}

/// A chain that the kernel calls by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
    /// Its name.
    pub name: &'static str,
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// Where it stands.
    pub hook: Hook,
    /// Order among the chains of one hook; lower comes first.
    pub priority: i32,
}

/// What the key of a set is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A link's name.
    Link,
    /// The names of two links: where a packet came from, where it goes to.
    LinkPair,
    /// Transport protocol and port that a packet goes to.
    Port,
    /// Address of the family, transport protocol and port that a packet goes to.
    AddressPort(Family),
    /// The name of the link that a packet came from, and its source address of the family.
    LinkSource(Family),
    /// Source and destination address of the family, transport protocol and port that a packet
    /// goes to.
    Flow(Family),
}

/// What a map of addresses and ports gives is as long as this, after the address.
const PORT_BYTES: usize = 4;

/// The numbers are nft's own (it shows sets by them; the kernel only stores them).
mod shown_as {
    pub(super) const IPV4: u32 = 7;
    pub(super) const IPV6: u32 = 8;
    pub(super) const PROTOCOL: u32 = 12;
    pub(super) const SERVICE: u32 = 13;
    pub(super) const IFNAME: u32 = 41;
}

impl Family {
    fn address_bytes(self) -> usize {
        if self == Self::Ipv6 { 16 } else { 4 }
    }

    fn address_family(self) -> u8 {
        if self == Self::Ipv6 {
            libc::AF_INET6 as u8
        } else {
            libc::AF_INET as u8
        }
    }

    fn address_shown_as(self) -> u32 {
        if self == Self::Ipv6 {
            shown_as::IPV6
        } else {
            shown_as::IPV4
        }
    }
}

impl Key {
    fn type_number(self) -> u32 {
        let port = (shown_as::PROTOCOL << 6) | shown_as::SERVICE;
        match self {
            Self::Link => shown_as::IFNAME,
            Self::LinkPair => (shown_as::IFNAME << 6) | shown_as::IFNAME,
            Self::Port => port,
            Self::AddressPort(family) => (family.address_shown_as() << 12) | port,
            Self::LinkSource(family) => (shown_as::IFNAME << 6) | family.address_shown_as(),
            Self::Flow(family) => {
                let address = family.address_shown_as();
                (address << 18) | (address << 12) | port
            }
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Link => LINK_NAME_BYTES,
            Self::LinkPair => 2 * LINK_NAME_BYTES,
            Self::Port => 2 * PORT_BYTES,
            Self::AddressPort(family) => family.address_bytes() + 2 * PORT_BYTES,
            Self::LinkSource(family) => LINK_NAME_BYTES + family.address_bytes(),
            Self::Flow(family) => 2 * family.address_bytes() + 2 * PORT_BYTES,
        }
    }

    fn userdata(self) -> &'static [u8] {
        match self {
            Self::Link | Self::LinkPair | Self::LinkSource(_) => &KEY_IN_HOST_ORDER,
            _ => &KEY_AND_DATA_IN_NETWORK_ORDER,
        }
    }
}

/// A set's key for a transport protocol and port, at addresses where the key has such.
pub fn port_key(addresses: &[IpAddr], protocol: u8, port: u16) -> Vec<u8> {
    let mut key = Vec::new();
    for address in addresses {
        put_address(&mut key, *address);
    }
    key.extend([protocol, 0, 0, 0]);
    key.extend(port.to_be_bytes());
    key.extend([0; 2]);
    key
}

/// What a map from ports gives: where packets go instead.
pub fn port_target(to: SocketAddr) -> Vec<u8> {
    let mut target = Vec::new();
    put_address(&mut target, to.ip());
    target.extend(to.port().to_be_bytes());
    target.extend([0; 2]);
    target
}

fn put_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => bytes.extend(v4.octets()),
        IpAddr::V6(v6) => bytes.extend(v6.octets()),
    }
}

/// A set's key for a link and an address from which packets come there.
pub fn link_source_key(link: &str, source: IpAddr) -> Vec<u8> {
    let mut key = link_key(&[link]);
    put_address(&mut key, source);
    key
}

/// A set's key for some links, one after the other.
pub fn link_key(names: &[&str]) -> Vec<u8> {
    let mut key = vec![0; names.len() * LINK_NAME_BYTES];
    for (place, name) in key.chunks_exact_mut(LINK_NAME_BYTES).zip(names) {
        let length = name.len().min(LINK_NAME_BYTES - 1);
        place[..length].copy_from_slice(&name.as_bytes()[..length]);
    }
    key
}

/// Where in its chain a rule goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// After all others.
    End,
    /// Before the rule of this handle.
    Before(u64),
}

/// Changes that take effect together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    batch: Batch,
    /// What each request does, for errors.
    labels: Vec<String>,
    sets: u32,
}

impl Transaction {
    /// No change yet.
    pub fn new() -> Self {
        let mut transaction = Self::default();
        transaction.border(BATCH_BEGIN);
        transaction
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.labels.len() <= 1
    }

    /// The requests, for [`Nftables::commit_bytes`] in another network namespace.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.border(BATCH_END);
        let mut bytes = self.batch.into_bytes();
        acknowledge_last_change(&mut bytes);
        bytes
    }

    fn border(&mut self, kind: u16) {
        let subsystem = SUBSYSTEM.to_be_bytes();
        self.batch
            .begin(kind, 0, &[0, 0, subsystem[0], subsystem[1]]);
        self.labels.push("border of the transaction".to_owned());
    }

    fn begin(&mut self, kind: u16, flags: i32, family: Family, label: String) -> &mut Batch {
        self.labels.push(label);
        self.batch
            .begin(kind, flags as u16, &[family.number(), 0, 0, 0])
    }

    /// Adds a table; one that is there already stays.
    pub fn add_table(&mut self, family: Family, table: &str) {
        let label = format!("add table {} {table}", family.word());
        self.begin(NEW_TABLE, libc::NLM_F_CREATE, family, label)
            .attribute_text(TABLE_NAME, table);
    }

    /// Removes a table with all that is in it. It has to be there: add it before.
    pub fn delete_table(&mut self, family: Family, table: &str) {
        let label = format!("delete table {} {table}", family.word());
        self.begin(DELETE_TABLE, 0, family, label)
            .attribute_text(TABLE_NAME, table);
    }

    /// Adds a base chain that accepts what no rule of it decides.
    pub fn add_base_chain(&mut self, family: Family, table: &str, chain: BaseChain) {
        const POLICY_ACCEPT: u32 = 1;
        let label = format!("add chain {}", chain.name);
        self.begin(NEW_CHAIN, libc::NLM_F_CREATE, family, label)
            .attribute_text(CHAIN_TABLE, table)
            .attribute_text(CHAIN_NAME, chain.name)
            .nested(CHAIN_HOOK, |hook| {
                hook.attribute_be32(HOOK_NUMBER, chain.hook as u32)
                    .attribute_be32(HOOK_PRIORITY, chain.priority as u32);
            })
            .attribute_be32(CHAIN_POLICY, POLICY_ACCEPT)
            .attribute_text(CHAIN_TYPE, chain.kind);
    }

    /// Adds a base chain for what comes in over `link` to a table of [`Family::Link`]. It accepts
    /// what no rule of it decides.
    pub fn add_ingress_chain(&mut self, table: &str, chain: &str, link: &str) {
        const INGRESS: u32 = 0;
        let label = format!("add chain {chain} of {link}");
        self.begin(NEW_CHAIN, libc::NLM_F_CREATE, Family::Link, label)
            .attribute_text(CHAIN_TABLE, table)
            .attribute_text(CHAIN_NAME, chain)
            .nested(CHAIN_HOOK, |hook| {
                hook.attribute_be32(HOOK_NUMBER, INGRESS)
                    .attribute_be32(HOOK_PRIORITY, 0)
                    .attribute_text(HOOK_LINK, link);
            })
            .attribute_text(CHAIN_TYPE, "filter");
    }

    /// Adds a chain that is called by other rules.
    pub fn add_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.begin(
            NEW_CHAIN,
            libc::NLM_F_CREATE,
            family,
            format!("add chain {chain}"),
        )
        .attribute_text(CHAIN_TABLE, table)
        .attribute_text(CHAIN_NAME, chain);
    }

    /// Removes a chain that is empty and that nothing leads to any more.
    pub fn delete_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.begin(DELETE_CHAIN, 0, family, format!("delete chain {chain}"))
            .attribute_text(CHAIN_TABLE, table)
            .attribute_text(CHAIN_NAME, chain);
    }

    /// Adds a set of keys.
    pub fn add_set(&mut self, family: Family, table: &str, set: &str, key: Key) {
        self.set_head(family, table, set, key, 0);
    }

    /// Adds a map from keys to verdicts.
    pub fn add_verdict_map(&mut self, family: Family, table: &str, map: &str, key: Key) {
        // The kernel wants 0 bytes named for a verdict and counts them itself.
        self.set_head(family, table, map, key, SET_FLAG_MAP)
            .attribute_be32(SET_DATA_TYPE, DATA_TYPE_VERDICT)
            .attribute_be32(SET_DATA_BYTES, 0);
    }

    fn set_head(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        key: Key,
        flags: u32,
    ) -> &mut Batch {
        self.sets += 1;
        let id = self.sets;
        self.begin(
            NEW_SET,
            libc::NLM_F_CREATE,
            family,
            format!("add set {set}"),
        )
        .attribute_text(SET_TABLE, table)
        .attribute_text(SET_NAME, set)
        .attribute_be32(SET_FLAGS, flags)
        .attribute_be32(SET_KEY_TYPE, key.type_number())
        .attribute_be32(SET_KEY_BYTES, key.bytes() as u32)
        .attribute_be32(SET_ID, id)
        .attribute(SET_USERDATA, key.userdata())
    }

    /// Adds a map from ports to where packets go instead: address and port of a family.
    pub fn add_port_map(&mut self, family: Family, table: &str, map: &str, ports: (Key, Family)) {
        let (key, to) = ports;
        let data = (to.address_shown_as() << 6) | shown_as::SERVICE;
        self.set_head(family, table, map, key, SET_FLAG_MAP)
            .attribute_be32(SET_DATA_TYPE, data)
            .attribute_be32(SET_DATA_BYTES, (to.address_bytes() + PORT_BYTES) as u32);
    }

    /// Adds elements to a map of ports.
    pub fn add_port_elements(
        &mut self,
        family: Family,
        table: &str,
        map: &str,
        elements: &[(Vec<u8>, Vec<u8>)],
    ) {
        for part in elements.chunks(ELEMENTS_PER_REQUEST_MAX) {
            let label = format!("add elements to {map}");
            let request = self.begin(NEW_ELEMENT, libc::NLM_F_CREATE, family, label);
            let parts = part.iter().map(|(key, data)| (key, Some(data)));
            put_all_elements(request, (table, map), parts, |element, data| {
                element.nested(ELEMENT_DATA, |value| {
                    value.attribute(DATA_VALUE, data);
                });
            });
        }
    }

    /// Adds elements to a set (no verdict) or to a verdict map.
    pub fn add_elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        elements: &[(Vec<u8>, Option<Verdict>)],
    ) {
        if elements.is_empty() {
            return;
        }
        let label = format!("add elements to {set}");
        let request = self.begin(NEW_ELEMENT, libc::NLM_F_CREATE, family, label);
        put_elements(request, table, set, elements);
    }

    /// Takes elements out of a set or map. They have to be there.
    pub fn delete_elements(&mut self, family: Family, table: &str, set: &str, keys: &[Vec<u8>]) {
        for part in keys.chunks(ELEMENTS_PER_REQUEST_MAX) {
            let elements: Vec<_> = part.iter().map(|key| (key.clone(), None)).collect();
            let label = format!("delete elements of {set}");
            let request = self.begin(DELETE_ELEMENT, 0, family, label);
            put_elements(request, table, set, &elements);
        }
    }

    /// Empties a set or map.
    pub fn flush_elements(&mut self, family: Family, table: &str, set: &str) {
        self.begin(DELETE_ELEMENT, 0, family, format!("flush set {set}"))
            .attribute_text(ELEMENTS_TABLE, table)
            .attribute_text(ELEMENTS_SET, set);
    }

    /// Adds a rule.
    pub fn add_rule(&mut self, family: Family, table: &str, rule: &Rule, place: Place) {
        let label = format!("add rule {:?} to {table} {}", rule.comment(), rule.chain());
        let append = if place == Place::End {
            libc::NLM_F_APPEND
        } else {
            0
        };
        let request = self.begin(NEW_RULE, libc::NLM_F_CREATE | append, family, label);
        request
            .attribute_text(RULE_TABLE, table)
            .attribute_text(RULE_CHAIN, rule.chain())
            .nested(RULE_EXPRESSIONS, |list| rule.put(list));
        if let Place::Before(handle) = place {
            request.attribute(RULE_POSITION, &handle.to_be_bytes());
        }
        if !rule.comment().is_empty() {
            request.attribute(RULE_USERDATA, &comment_userdata(rule.comment()));
        }
    }

    /// Removes one rule.
    pub fn delete_rule(&mut self, family: Family, table: &str, chain: &str, handle: u64) {
        let label = format!("delete rule {handle} of {table} {chain}");
        self.begin(DELETE_RULE, 0, family, label)
            .attribute_text(RULE_TABLE, table)
            .attribute_text(RULE_CHAIN, chain)
            .attribute(RULE_HANDLE, &handle.to_be_bytes());
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.begin(DELETE_RULE, 0, family, format!("flush chain {chain}"))
            .attribute_text(RULE_TABLE, table)
            .attribute_text(RULE_CHAIN, chain);
    }
}

fn put_elements(
    request: &mut Batch,
    table: &str,
    set: &str,
    elements: &[(Vec<u8>, Option<Verdict>)],
) {
    let parts = elements
        .iter()
        .map(|(key, verdict)| (key, verdict.as_ref()));
    put_all_elements(request, (table, set), parts, |element, verdict| {
        element.nested(ELEMENT_DATA, |data| verdict.put(data));
    });
}

fn put_all_elements<'a, D: 'a>(
    request: &mut Batch,
    (table, set): (&str, &str),
    elements: impl Iterator<Item = (&'a Vec<u8>, Option<&'a D>)>,
    put_data: impl Fn(&mut Batch, &D),
) {
    request
        .attribute_text(ELEMENTS_TABLE, table)
        .attribute_text(ELEMENTS_SET, set)
        .nested(ELEMENTS, |list| {
            for (key, data) in elements {
                list.nested(LIST_ITEM, |element| {
                    element.nested(ELEMENT_KEY, |value| {
                        value.attribute(DATA_VALUE, key);
                    });
                    if let Some(data) = data {
                        put_data(element, data);
                    }
                });
            }
        });
}

fn comment_userdata(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(COMMENT_BYTES_MAX - 1);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let mut userdata = vec![USERDATA_COMMENT, (end + 1) as u8];
    userdata.extend_from_slice(&comment.as_bytes()[..end]);
    userdata.push(0);
    userdata
}

fn comment_of(userdata: &[u8]) -> Option<String> {
    let mut rest = userdata;
    while let [kind, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *kind == USERDATA_COMMENT {
            return Some(text(value));
        }
        rest = &tail[usize::from(*length)..];
    }
    None
}

/// A chain as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Family of its table.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The kernel's number.
    pub handle: u64,
    /// Hook number and priority, where the kernel calls it by itself.
    pub hook: Option<(u32, i32)>,
    /// Whether it drops what no rule decides.
    pub policy_drops: bool,
}

impl Chain {
    /// Whether it decides about packets on the way from one link to another.
    pub fn is_forward(&self) -> bool {
        self.hook
            .is_some_and(|(hook, _)| hook == Hook::Forward as u32)
    }
}

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledRule {
    /// The kernel's number.
    pub handle: u64,
    /// Chain that it is in.
    pub chain: String,
    /// Its comment; empty where there is none.
    pub comment: String,
    /// Where every packet that comes to it ends; `None` for rules with a condition and rules
    /// that decide nothing.
    pub ends: Option<Ends>,
    /// Packets and bytes that it counted, where it counts.
    pub counted: Option<Counted>,
}

/// Packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// nf_tables of one network namespace.
#[derive(Debug)]
pub struct Nftables {
    socket: Socket,
}

impl Nftables {
    /// Opens those of the calling thread's network namespace.
    pub fn open(timeout: Duration) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::netfilter(timeout)?,
        })
    }

    /// Applies all changes or none.
    pub fn commit(&mut self, mut transaction: Transaction) -> Result<(), NetlinkError> {
        if transaction.is_empty() {
            return Ok(());
        }
        let labels = std::mem::take(&mut transaction.labels);
        self.send(transaction.into_bytes(), &labels)
    }

    /// Applies all changes of [`Transaction::into_bytes`] or none.
    pub fn commit_bytes(&mut self, bytes: &[u8]) -> Result<(), NetlinkError> {
        self.send(bytes.to_vec(), &[])
    }

    fn send(&mut self, mut bytes: Vec<u8>, labels: &[String]) -> Result<(), NetlinkError> {
        let fail = |index: usize, detail: String, cause: io::Error| NetlinkError {
            index,
            what: labels.get(index).cloned().unwrap_or_default(),
            detail,
            cause,
        };
        self.drop_old_answers();
        let (first, count) = self.socket.number(&mut bytes);
        self.socket
            .reserve_send(2 * bytes.len())
            .and_then(|()| self.socket.send(&bytes))
            .map_err(|cause| fail(0, String::new(), cause))?;
        // Answers are complete when `send` returns: refusals in the order of the requests, and
        // the acknowledgement of the last change.
        let mut buffer = vec![0u8; ANSWER_BYTES_MAX];
        loop {
            let length = self
                .socket
                .receive(&mut buffer, 0)
                .map_err(|cause| fail(0, String::new(), cause))?;
            for message in messages(&buffer[..length]) {
                let index = message.sequence.wrapping_sub(first) as usize;
                match answer(&message) {
                    Answer::Refused(cause, detail) if index < count => {
                        return Err(fail(index, detail, cause));
                    }
                    Answer::Done if index + 2 == count => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    /// Of a refused transaction only the first answer was read; the rest must not fill the socket.
    fn drop_old_answers(&self) {
        let cut_or_ok = |result: &io::Result<usize>| match result {
            Ok(_) => true,
            Err(error) => error.raw_os_error() == Some(libc::EMSGSIZE),
        };
        while cut_or_ok(&self.socket.receive(&mut [0; 64], libc::MSG_DONTWAIT)) {}
    }

    /// Every chain of every table of the families that we know.
    pub fn chains(&mut self) -> io::Result<Vec<Chain>> {
        let mut request = Batch::new();
        request.begin(GET_CHAIN, libc::NLM_F_DUMP as u16, &[0; 4]);
        self.socket.dump(&request, chain)
    }

    /// The rules of a table in their order; chain by chain.
    pub fn rules(&mut self, family: Family, table: &str) -> io::Result<Vec<InstalledRule>> {
        let mut request = Batch::new();
        request
            .begin(
                GET_RULE,
                libc::NLM_F_DUMP as u16,
                &[family.number(), 0, 0, 0],
            )
            .attribute_text(RULE_TABLE, table);
        none_where_missing(self.socket.dump(&request, rule))
    }

    /// The keys of a set or map of links, as names.
    pub fn link_elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
    ) -> io::Result<Vec<Vec<String>>> {
        let keys = self.elements(family, table, set)?;
        let names = |key: &Vec<u8>| key.chunks(LINK_NAME_BYTES).map(text).collect();
        Ok(keys.iter().map(|(key, _)| names(key)).collect())
    }

    /// Keys and data of a set or map as bytes; the data are empty in a set and for verdicts.
    pub fn elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
    ) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut request = Batch::new();
        request
            .begin(
                GET_ELEMENT,
                libc::NLM_F_DUMP as u16,
                &[family.number(), 0, 0, 0],
            )
            .attribute_text(ELEMENTS_TABLE, table)
            .attribute_text(ELEMENTS_SET, set);
        let parts = none_where_missing(self.socket.dump(&request, elements))?;
        Ok(parts.into_iter().flatten().collect())
    }
}

/// Elements of one request: the length of their list is a number of 16 bits.
const ELEMENTS_PER_REQUEST_MAX: usize = 500;
/// Bytes of one part of the answers to a transaction.
const ANSWER_BYTES_MAX: usize = 8 << 10;

/// A table that is not there has nothing in it.
fn none_where_missing<T>(dump: io::Result<Vec<T>>) -> io::Result<Vec<T>> {
    match dump {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        other => other,
    }
}

/// Without an error the kernel answers only to requests that ask for it, and older ones never to
/// the end of a transaction; so the last change asks.
fn acknowledge_last_change(bytes: &mut [u8]) {
    const FLAGS_AT: usize = 6;
    let mut at = 0;
    let mut last_two = [0; 2];
    for message in messages(bytes) {
        last_two = [last_two[1], at];
        at += (crate::netlink::HEADER_BYTES + message.body.len()).next_multiple_of(4);
    }
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let place = &mut bytes[last_two[0] + FLAGS_AT..last_two[0] + FLAGS_AT + 2];
    let old = u16::from_ne_bytes([place[0], place[1]]);
    place.copy_from_slice(&(old | flags).to_ne_bytes());
}

fn be64(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*value.first_chunk()?))
}

fn chain(message: &Message<'_>) -> Option<Chain> {
    let family = Family::from_number(*message.body.first()?)?;
    let all = message.body.get(4..)?;
    let hook = attribute(all, CHAIN_HOOK).and_then(|hook| {
        let number = attribute(hook, HOOK_NUMBER).and_then(be32)?;
        Some((
            number,
            attribute(hook, HOOK_PRIORITY).and_then(be32)? as i32,
        ))
    });
    Some(Chain {
        family,
        table: attribute(all, CHAIN_TABLE).map(text)?,
        name: attribute(all, CHAIN_NAME).map(text)?,
        handle: attribute(all, CHAIN_HANDLE).and_then(be64)?,
        hook,
        policy_drops: attribute(all, CHAIN_POLICY).and_then(be32) == Some(0),
    })
}

fn rule(message: &Message<'_>) -> Option<InstalledRule> {
    let all = message.body.get(4..)?;
    Some(InstalledRule {
        handle: attribute(all, RULE_HANDLE).and_then(be64)?,
        chain: attribute(all, RULE_CHAIN).map(text)?,
        comment: attribute(all, RULE_USERDATA)
            .and_then(comment_of)
            .unwrap_or_default(),
        ends: attribute(all, RULE_EXPRESSIONS).and_then(Ends::of),
        counted: attribute(all, RULE_EXPRESSIONS).and_then(Counted::of),
    })
}

fn elements(message: &Message<'_>) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let list = attribute(message.body.get(4..)?, ELEMENTS)?;
    let pairs = attributes(list).filter_map(|(_, element)| {
        let value = |kind| attribute(attribute(element, kind)?, DATA_VALUE);
        let data = value(ELEMENT_DATA).unwrap_or_default();
        Some((value(ELEMENT_KEY)?.to_vec(), data.to_vec()))
    });
    Some(pairs.collect())
}

/// The network of an address: what a rule compares, and the mask before.
fn network_bytes(address: IpAddr, prefix_length: u8) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mut mask = vec![0u8; bytes.len()];
    for (place, byte) in mask.iter_mut().enumerate() {
        let bits = usize::from(prefix_length).saturating_sub(place * 8).min(8);
        *byte = !(0xffu16 >> bits) as u8;
    }
    bytes
        .iter_mut()
        .zip(&mask)
        .for_each(|(byte, mask)| *byte &= mask);
    (bytes, mask)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        BaseChain, Counted, Ends, Family, Hook, Key, Nftables, Place, Rule, Transaction, Verdict,
        link_key, link_source_key, port_key, port_target,
    };
    use crate::netlink::tests::in_own_netns;

    const FORWARD: BaseChain = BaseChain {
        name: "forward",
        kind: "filter",
        hook: Hook::Forward,
        priority: 0,
    };

    #[expect(
        clippy::disallowed_methods,
        reason = "nft is the judge of what we wrote"
    )]
    fn nft(arguments: &[&str]) -> String {
        let output = std::process::Command::new("nft")
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn open() -> Nftables {
        Nftables::open(Duration::from_secs(5)).unwrap()
    }

    fn table() -> Transaction {
        let mut all = Transaction::new();
        all.add_table(Family::Inet, "t");
        all.add_base_chain(Family::Inet, "t", FORWARD);
        all
    }

    /// What `nft` shows of a rule.
    fn check(rule: Rule, expected: &str) {
        let expected = expected.to_owned();
        in_own_netns(move || {
            let mut all = table();
            all.add_set(Family::Inet, "t", "s", Key::Link);
            all.add_chain(Family::Inet, "t", "other");
            let nat = BaseChain {
                name: "nat",
                kind: "nat",
                hook: Hook::Prerouting,
                priority: -100,
            };
            all.add_base_chain(Family::Inet, "t", nat);
            all.add_rule(Family::Inet, "t", &rule, Place::End);
            open().commit(all).unwrap();
            let shown = nft(&["list", "chain", "inet", "t", rule.chain()]);
            let line = shown.lines().nth(3).unwrap().trim();
            assert_eq!(line, expected);
        });
    }

    #[test]
    fn rules_read_as_nft_writes_them() {
        let rule = || Rule::new("forward", "");
        check(
            rule().from_link("a").to_link("b").verdict(Verdict::Drop),
            "iifname \"a\" oifname \"b\" drop",
        );
        check(
            rule().not_to_link("b").counted(),
            "oifname != \"b\" counter packets 0 bytes 0",
        );
        check(
            rule().to_link_not_in("s").verdict(Verdict::Return),
            "oifname != @s return",
        );
        check(
            rule()
                .from_network([10, 1, 2, 0].into(), 23)
                .verdict(Verdict::Accept),
            "ip saddr 10.1.2.0/23 accept",
        );
        check(
            rule()
                .to_network("fd00::".parse().unwrap(), 64)
                .verdict(Verdict::Accept),
            "ip6 daddr fd00::/64 accept",
        );
        check(
            rule()
                .to_port(6, 443)
                .verdict(Verdict::Jump("other".to_owned())),
            "tcp dport 443 jump other",
        );
        check(
            rule().of_known_connection().verdict(Verdict::Accept),
            "ct state established,related accept",
        );
        check(
            rule().of_published_port().verdict(Verdict::Accept),
            "ct status dnat accept",
        );
        check(
            rule()
                .not_to_network([127, 0, 0, 0].into(), 8)
                .verdict(Verdict::Drop),
            "ip daddr != 127.0.0.0/8 drop",
        );
    }

    #[test]
    fn a_link_has_a_chain_that_rewrites_ports() {
        in_own_netns(|| {
            let mut all = Transaction::new();
            all.add_table(Family::Link, "t");
            all.add_ingress_chain("t", "in", "lo");
            let address = [127, 0, 0, 11].into();
            for rule in [
                Rule::new("in", "there")
                    .frame_to(address)
                    .to_port(17, 53)
                    .set_destination_port(17, 5353),
                Rule::new("in", "back")
                    .frame_from(address)
                    .from_port(6, 5353)
                    .set_source_port(6, 53),
            ] {
                all.add_rule(Family::Link, "t", &rule, Place::End);
            }
            open().commit(all).unwrap();
            let shown = nft(&["list", "ruleset"]);
            let rules: Vec<&str> = shown.lines().skip(3).take(2).map(str::trim).collect();
            let expected = [
                "ip daddr 127.0.0.11 udp dport 53 udp dport set 5353 comment \"there\"",
                "ip saddr 127.0.0.11 tcp sport 5353 tcp sport set 53 comment \"back\"",
            ];
            assert_eq!(rules, expected);
        });
    }

    #[test]
    fn a_refused_transaction_changes_nothing_and_names_the_request() {
        in_own_netns(|| {
            let mut nft_tables = open();
            let mut all = table();
            all.add_rule(Family::Inet, "t", &Rule::new("absent", "why"), Place::End);
            let error = nft_tables.commit(all).unwrap_err();
            assert_eq!((error.errno(), error.index), (libc::ENOENT, 3), "{error}");
            assert!(error.what.contains("absent"), "{error}");
            assert_eq!(nft(&["list", "ruleset"]), "");
            nft_tables.commit(table()).unwrap();
            assert_eq!(nft_tables.chains().unwrap().len(), 1);
        });
    }

    #[test]
    fn elements_come_and_go() {
        in_own_netns(|| {
            let (mut nft_tables, inet) = (open(), Family::Inet);
            let mut all = table();
            all.add_set(inet, "t", "s", Key::Link);
            let keys = |names: &[&str]| -> Vec<_> {
                names.iter().map(|name| (link_key(&[name]), None)).collect()
            };
            all.add_elements(inet, "t", "s", &keys(&["a", "b", "c"]));
            nft_tables.commit(all).unwrap();
            let mut change = Transaction::new();
            change.delete_elements(inet, "t", "s", &[link_key(&["b"])]);
            nft_tables.commit(change).unwrap();
            let mut left = nft_tables.link_elements(inet, "t", "s").unwrap();
            left.sort();
            assert_eq!(left, [["a"], ["c"]]);
            let mut change = Transaction::new();
            change.flush_elements(inet, "t", "s");
            nft_tables.commit(change).unwrap();
            assert_eq!(nft_tables.link_elements(inet, "t", "s").unwrap().len(), 0);
            assert_eq!(
                nft_tables.link_elements(inet, "absent", "s").unwrap().len(),
                0
            );
        });
    }

    #[test]
    fn rules_of_others_tell_where_packets_end() {
        in_own_netns(|| {
            nft(&[
                "add table inet f; add chain inet f c { type filter hook forward priority 5; policy drop; }; add chain inet f d;",
            ]);
            for rule in [
                "ip saddr 10.0.0.1 drop",
                "counter drop",
                "reject",
                "jump d",
                "goto d",
                "accept",
                "counter",
                "return",
            ] {
                nft(&["add", "rule", "inet", "f", "c", rule]);
            }
            let mut nft_tables = open();
            let chains = nft_tables.chains().unwrap();
            let chain = chains.iter().find(|chain| chain.name == "c").unwrap();
            assert!(chain.is_forward() && chain.policy_drops, "{chain:?}");
            let rules = nft_tables.rules(Family::Inet, "f").unwrap();
            let ends: Vec<_> = rules.iter().map(|rule| rule.ends.clone()).collect();
            let to = |for_good| Some(Ends::In("d".to_owned(), for_good));
            let drop = || Some(Ends::Drop);
            let expected = [
                None,
                drop(),
                drop(),
                to(false),
                to(true),
                Some(Ends::Accept),
                None,
                Some(Ends::Return),
            ];
            assert_eq!(ends, expected);
        });
    }

    /// Ports in maps cost the same however many there are; `nft` reads them as we mean them.
    #[test]
    fn ports_are_redirected_by_maps() {
        in_own_netns(|| {
            let inet = Family::Inet;
            let mut all = table();
            let nat = BaseChain {
                name: "nat",
                kind: "nat",
                hook: Hook::Prerouting,
                priority: -100,
            };
            all.add_base_chain(inet, "t", nat);
            let v6: std::net::IpAddr = "fd00::1".parse().unwrap();
            for (family, address) in [(Family::Ipv4, [10, 0, 0, 1].into()), (Family::Ipv6, v6)] {
                let word = family.word();
                let (any, at) = (format!("{word}_any"), format!("{word}_at"));
                all.add_port_map(inet, "t", &any, (Key::Port, family));
                all.add_port_map(inet, "t", &at, (Key::AddressPort(family), family));
                let to = port_target((address, 80).into());
                all.add_port_elements(inet, "t", &any, &[(port_key(&[], 6, 8080), to.clone())]);
                all.add_port_elements(inet, "t", &at, &[(port_key(&[address], 17, 53), to)]);
                let rule = || Rule::new("nat", "");
                let at = rule().dnat_by_port(&at, family, true);
                let any = rule().dnat_by_port(&any, family, false);
                all.add_rule(inet, "t", &at, Place::End);
                all.add_rule(inet, "t", &any, Place::End);
            }
            let mut nft_tables = open();
            nft_tables.commit(all).unwrap();
            let shown = nft(&["list", "table", "inet", "t"]);
            for part in [
                "type inet_proto . inet_service : ipv4_addr . inet_service",
                "tcp . 8080 : 10.0.0.1 . 80",
                "10.0.0.1 . udp . 53 : 10.0.0.1 . 80",
                "fd00::1 . udp . 53 : fd00::1 . 80",
                "dnat ip to ip daddr . meta l4proto . th dport map @ip_at",
                "dnat ip6 to meta l4proto . th dport map @ip6_any",
            ] {
                assert!(shown.contains(part), "no {part:?} in {shown}");
            }
            let found = nft_tables.elements(inet, "t", "ip6_at").unwrap();
            let expected = (port_key(&[v6], 17, 53), port_target((v6, 80).into()));
            assert_eq!(found, [expected]);
        });
    }

    /// Who may reach what: by link and source to a chain of its own, there by flows; a counter goes
    /// on where it was.
    #[test]
    fn flows_are_looked_up_and_counters_go_on() {
        in_own_netns(|| {
            let inet = Family::Inet;
            let mut all = table();
            all.add_chain(inet, "t", "one");
            for (family, address) in [(Family::Ipv4, "10.0.0.2"), (Family::Ipv6, "fd00::2")] {
                let word = family.word();
                let (from, flows) = (format!("from_{word}"), format!("flows_{word}"));
                let address = address.parse().unwrap();
                all.add_verdict_map(inet, "t", &from, Key::LinkSource(family));
                all.add_set(inet, "t", &flows, Key::Flow(family));
                let jump = Some(Verdict::Jump("one".to_owned()));
                all.add_elements(inet, "t", &from, &[(link_source_key("br", address), jump)]);
                let flow = port_key(&[address, address], 6, 443);
                all.add_elements(inet, "t", &flows, &[(flow, None)]);
                let by_source = Rule::new("forward", "").verdict_by_link_source(&from, family);
                let by_flow = Rule::new("one", "")
                    .of_flow_in(&flows, family)
                    .verdict(Verdict::Return);
                all.add_rule(inet, "t", &by_source, Place::End);
                all.add_rule(inet, "t", &by_flow, Place::End);
            }
            let count = Counted {
                packets: 7,
                bytes: 420,
            };
            let drop = Rule::new("one", "rest").counted().count_on_from(count);
            all.add_rule(inet, "t", &drop.verdict(Verdict::Drop), Place::End);
            let mut nft_tables = open();
            nft_tables.commit(all).unwrap();
            let shown = nft(&["list", "table", "inet", "t"]);
            for part in [
                "\"br\" . 10.0.0.2 : jump one",
                "\"br\" . fd00::2 : jump one",
                "10.0.0.2 . 10.0.0.2 . tcp . 443",
                "fd00::2 . fd00::2 . tcp . 443",
                "iifname . ip saddr vmap @from_ip",
                "ip6 saddr . ip6 daddr . meta l4proto . th dport @flows_ip6 return",
                "counter packets 7 bytes 420 drop",
            ] {
                assert!(shown.contains(part), "no {part:?} in {shown}");
            }
            let rules = nft_tables.rules(inet, "t").unwrap();
            let counts: Vec<_> = rules.iter().filter_map(|rule| rule.counted).collect();
            assert_eq!(counts, [count]);
            let mut gone = Transaction::new();
            for (map, address) in [("from_ip", "10.0.0.2"), ("from_ip6", "fd00::2")] {
                let key = link_source_key("br", address.parse().unwrap());
                gone.delete_elements(inet, "t", map, &[key]);
            }
            gone.flush_chain(inet, "t", "one");
            gone.delete_chain(inet, "t", "one");
            // Away and there again at once.
            gone.add_chain(inet, "t", "one");
            nft_tables.commit(gone).unwrap();
            assert!(nft(&["list", "chain", "inet", "t", "one"]).contains("chain one"));
        });
    }

    #[test]
    fn a_large_transaction_goes_through() {
        in_own_netns(|| {
            let mut all = table();
            all.add_set(Family::Inet, "t", "s", Key::Link);
            let names: Vec<_> = (0..5_000).map(|number| format!("link{number}")).collect();
            for part in names.chunks(500) {
                let elements: Vec<_> = part.iter().map(|n| (link_key(&[n]), None)).collect();
                all.add_elements(Family::Inet, "t", "s", &elements);
            }
            let mut nft_tables = open();
            nft_tables.commit(all).unwrap();
            let found = nft_tables.link_elements(Family::Inet, "t", "s").unwrap();
            assert_eq!(found.len(), 5_000);
        });
    }
}
