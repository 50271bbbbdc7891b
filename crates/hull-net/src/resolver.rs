//! The place where containers find their name server: 127.0.0.11, as on Docker's networks.
//!
//! The sockets behind it are bound to another port, so that a container can have port 53 itself;
//! a chain of its loopback writes the one port for the other, both ways. It remembers nothing, and no
//! packet of another link comes by: rewriting by connection (NAT), as Docker does, costs every
//! connection of the container a tenth. Without such chains they are bound to port 53 of that
//! address, which a container that wants every address for itself meets.

use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::time::Duration;

use hull_model::port::Protocol;
use hull_os::nft::{Family, Nftables, Place, Rule, Transaction};

use crate::apply::KERNEL_ANSWER_MS_MAX;

/// Where containers ask.
pub const RESOLVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const DNS_PORT: u16 = 53;
/// Our table in the namespace of a container.
const TABLE: &str = "hull_names";
/// Its chain, of packets on the loopback.
const CHAIN: &str = "names";

/// The port of the sockets, and requests that lead questions of a network namespace there: the port
/// that is offered, or where questions go by themselves.
pub fn plan_resolver(port: u16) -> (u16, Vec<u8>) {
    static LINKS_HAVE_CHAINS: OnceLock<bool> = OnceLock::new();
    match LINKS_HAVE_CHAINS.get_or_init(links_have_chains) {
        true => (port, redirection(port)),
        false => (DNS_PORT, Vec::new()),
    }
}

/// Whether the kernel has tables for links; a table that goes in the transaction in which it came
/// is seen by nobody.
fn links_have_chains() -> bool {
    let mut all = Transaction::new();
    all.add_table(Family::Link, TABLE);
    all.delete_table(Family::Link, TABLE);
    Nftables::open(Duration::from_millis(KERNEL_ANSWER_MS_MAX))
        .is_ok_and(|mut nft| nft.commit(all).is_ok())
}

fn redirection(port: u16) -> Vec<u8> {
    let mut all = Transaction::new();
    all.add_table(Family::Link, TABLE);
    all.add_ingress_chain(TABLE, CHAIN, "lo");
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let number = protocol.number();
        for rule in [
            Rule::new(CHAIN, "questions about names")
                .frame_to(RESOLVER_ADDRESS)
                .to_port(number, DNS_PORT)
                .set_destination_port(number, port),
            Rule::new(CHAIN, "answers about names")
                .frame_from(RESOLVER_ADDRESS)
                .from_port(number, port)
                .set_source_port(number, DNS_PORT),
        ] {
            all.add_rule(Family::Link, TABLE, &rule, Place::End);
        }
    }
    all.into_bytes()
}
