//! The place where containers find their name server: 127.0.0.11, as on Docker's networks.
//!
//! The sockets behind it are bound to another port, so that a container can have port 53 itself;
//! a table in its own network namespace leads questions there. Without nftables they are bound to
//! port 53 of that address, which a container that wants every address for itself meets.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;

use hull_model::port::Protocol;
use hull_os::nft::{BaseChain, Family, Hook, Place, Rule, Transaction};

use crate::iptables::has_nftables;

/// Where containers ask.
pub const RESOLVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const DNS_PORT: u16 = 53;
/// Our table in the namespace of a container.
const TABLE: &str = "hull_names";
const OUTPUT: BaseChain = BaseChain {
    name: "output",
    kind: "nat",
    hook: Hook::Output,
    priority: -100,
};

/// The port of the sockets, and requests that lead questions of a network namespace there: the port
/// that is offered, or where questions go by themselves.
pub fn plan_resolver(port: u16) -> (u16, Vec<u8>) {
    static HAS_NFTABLES: OnceLock<bool> = OnceLock::new();
    match HAS_NFTABLES.get_or_init(has_nftables) {
        true => (port, redirection(port)),
        false => (DNS_PORT, Vec::new()),
    }
}

fn redirection(port: u16) -> Vec<u8> {
    let mut all = Transaction::new();
    all.add_table(Family::Ipv4, TABLE);
    all.add_base_chain(Family::Ipv4, TABLE, OUTPUT);
    let address = IpAddr::V4(RESOLVER_ADDRESS);
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let rule = Rule::new(OUTPUT.name, "questions about names")
            .to_network(address, 32)
            .to_port(protocol.number(), DNS_PORT)
            .dnat(address, Some(port));
        all.add_rule(Family::Ipv4, TABLE, &rule, Place::End);
    }
    all.into_bytes()
}
