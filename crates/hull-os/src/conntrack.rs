//! Tracked connections: reading those of one transport protocol, and forgetting some.
//!
//! A tracked flow keeps the destination that its first packet was given, for as long as packets
//! come. Datagrams have no end that would tell, so whoever moves a destination forgets the flows.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::netlink::{Batch, Message, NetlinkError, Socket, attribute};

/// The kernel's number of connection tracking among parts of netfilter.
const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const NESTED: u16 = 1 << 15;
/// Bytes of the header of a netfilter message.
const HEADER_BYTES: usize = 4;

/// A tracked flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    /// Where its first packet was sent.
    pub to: SocketAddr,
    /// Who answers: somebody else where a rule chose another destination.
    pub answered_by: SocketAddr,
    /// Its original direction, as the kernel told it.
    original: Vec<u8>,
    family: u8,
}

/// Connection tracking of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens that of the calling thread's network namespace.
    pub fn open(timeout: Duration) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::netfilter(timeout)?,
        })
    }

    /// All tracked flows of a transport protocol (17 is UDP).
    pub fn flows(&mut self, protocol: u8) -> io::Result<Vec<Tracked>> {
        let mut request = Batch::new();
        request.begin(GET, libc::NLM_F_DUMP as u16, &[0; HEADER_BYTES]);
        self.socket
            .dump(&request, |message| tracked(message, protocol))
    }

    /// Forgets a flow; one that is gone is fine. Its next packet is a first one again.
    pub fn forget(&mut self, flow: &Tracked) -> Result<(), NetlinkError> {
        let mut request = Batch::new();
        request
            .begin(DELETE, libc::NLM_F_ACK as u16, &[flow.family, 0, 0, 0])
            .attribute(TUPLE_ORIGINAL | NESTED, &flow.original);
        match self.socket.execute(request.as_bytes()) {
            Err(error) if error.errno() == libc::ENOENT => Ok(()),
            other => other,
        }
    }
}

fn tracked(message: &Message<'_>, protocol: u8) -> Option<Tracked> {
    let family = *message.body.first()?;
    let all = message.body.get(HEADER_BYTES..)?;
    let original = attribute(all, TUPLE_ORIGINAL)?;
    let reply = attribute(all, TUPLE_REPLY)?;
    let ports = attribute(original, TUPLE_PROTOCOL)?;
    if attribute(ports, PROTOCOL_NUMBER)?.first() != Some(&protocol) {
        return None;
    }
    Some(Tracked {
        to: end(original, DESTINATION, DESTINATION_PORT)?,
        answered_by: end(reply, SOURCE, SOURCE_PORT)?,
        original: original.to_vec(),
        family,
    })
}

/// Attributes of an address, of IPv4 and of IPv6.
const SOURCE: [u16; 2] = [1, 3];
const DESTINATION: [u16; 2] = [2, 4];

/// One end of a direction.
fn end(tuple: &[u8], address: [u16; 2], port: u16) -> Option<SocketAddr> {
    let addresses = attribute(tuple, TUPLE_ADDRESSES)?;
    let v4 = || {
        Some(IpAddr::from(
            *attribute(addresses, address[0])?.first_chunk::<4>()?,
        ))
    };
    let v6 = || {
        Some(IpAddr::from(
            *attribute(addresses, address[1])?.first_chunk::<16>()?,
        ))
    };
    let port = attribute(attribute(tuple, TUPLE_PROTOCOL)?, port)?;
    let port = u16::from_be_bytes(*port.first_chunk()?);
    Some(SocketAddr::new(v4().or_else(v6)?, port))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::Conntrack;
    use crate::netlink::tests::in_own_netns;
    use crate::netlink::{Batch, LinkChange, Socket};
    use crate::nft::{BaseChain, Family, Hook, Nftables, Place, Rule, Transaction, Verdict};

    #[test]
    fn a_flow_is_found_and_forgotten() {
        in_own_netns(|| {
            let time = Duration::from_secs(5);
            let mut up = Batch::new();
            let change = LinkChange {
                up: Some(true),
                ..LinkChange::default()
            };
            up.set_link("lo", &change);
            Socket::route(time).unwrap().execute(up.as_bytes()).unwrap();
            // Flows are tracked where a rule asks for their state.
            let mut all = Transaction::new();
            all.add_table(Family::Inet, "t");
            let chain = BaseChain {
                name: "c",
                kind: "filter",
                hook: Hook::Output,
                priority: 0,
            };
            all.add_base_chain(Family::Inet, "t", chain);
            let rule = Rule::new("c", "").of_known_connection();
            all.add_rule(
                Family::Inet,
                "t",
                &rule.verdict(Verdict::Accept),
                Place::End,
            );
            Nftables::open(time).unwrap().commit(all).unwrap();
            let server = UdpSocket::bind("127.0.0.1:0").unwrap();
            let to = server.local_addr().unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"x", to).unwrap();
            let mut conntrack = Conntrack::open(time).unwrap();
            let flows = conntrack.flows(17).unwrap();
            let flow = flows.iter().find(|flow| flow.to == to).unwrap();
            assert_eq!(flow.answered_by, to);
            assert!(conntrack.flows(6).unwrap().is_empty());
            conntrack.forget(flow).unwrap();
            conntrack.forget(flow).unwrap();
            assert!(conntrack.flows(17).unwrap().iter().all(|f| f.to != to));
        });
    }
}
