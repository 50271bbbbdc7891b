//! Links, addresses and routes of the kernel, as typed requests over netlink.
//!
//! ```text
//!   Batch (pure bytes; made anywhere, e.g. in the daemon)
//!     |  create_veth, create_bridge, set_link, add_address, add_route, ...     request.rs
//!     v
//!   Socket::execute   one send, all acknowledgements; used by daemon and shim
//!   Socket::links / addresses / routes                                        dump.rs
//!   Events            what others change                                      events.rs
//! ```
//!
//! A socket belongs to the network namespace in which it was opened, for good. That is how the
//! shim works on two namespaces without going to and fro.
//!
//! Everything blocks, at most for the timeout that was given at opening.

mod dump;
mod events;
mod message;
mod request;
pub mod sysctl;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

pub use dump::{Address, Link, Route};
pub use events::Events;
pub use message::Batch;
pub use request::{
    Bridge, Ipvlan, IpvlanMode, IpvlanReach, LinkChange, Macvlan, MacvlanMode, NETNS_FD_UNKNOWN,
    Veth, fill_netns, is_link_local,
};

pub(crate) use message::{
    HEADER_BYTES, Message, attribute, attributes, be32, messages, text, u16_at, u32_at,
};

/// Requests sent at once. Their acknowledgements wait in the socket's receive buffer, which by
/// default holds about 200 of them.
const REQUESTS_PER_SEND_MAX: usize = 64;
/// Bytes of one answer to a batch: an acknowledgement or one link with all its attributes.
const ANSWER_BYTES_MAX: usize = 8 << 10;
/// Bytes of one part of a dump: the kernel makes them at most this large.
const DUMP_PART_BYTES_MAX: usize = 32 << 10;
/// A dump is begun again when the kernel says that it changed meanwhile, at most this often.
const DUMP_TRIES_MAX: usize = 8;

const SOL_NETLINK: i32 = 270;
const NETLINK_ADD_MEMBERSHIP: i32 = 1;
const NETLINK_CAP_ACK: i32 = 10;
const NETLINK_EXT_ACK: i32 = 11;
const NETLINK_GET_STRICT_CHK: i32 = 12;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A request that the kernel refused, or a socket that failed under it.
#[derive(Debug, thiserror::Error)]
#[error("netlink request {index} ({what}{})", detail_of(.detail))]
pub struct NetlinkError {
    /// Which request of the batch, from 0.
    pub index: usize,
    /// What it asked for, with the name of the link where it has one.
    pub what: String,
    /// What the kernel says about it beyond the number; may be empty.
    pub detail: String,
    /// The kernel's answer.
    #[source]
    pub cause: io::Error,
}

impl NetlinkError {
    /// The number behind the error; 0 where the kernel gave none.
    pub fn errno(&self) -> i32 {
        self.cause.raw_os_error().unwrap_or(0)
    }
}

fn detail_of(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(": {detail}")
    }
}

/// A netlink socket of one family in one network namespace.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens a socket for links, addresses and routes in the calling thread's network namespace.
    pub fn route(timeout: Duration) -> io::Result<Self> {
        Self::open(libc::NETLINK_ROUTE, timeout)
    }

    /// Opens a socket for nf_tables in the calling thread's network namespace.
    pub(crate) fn netfilter(timeout: Duration) -> io::Result<Self> {
        Self::open(libc::NETLINK_NETFILTER, timeout)
    }

    fn open(protocol: i32, timeout: Duration) -> io::Result<Self> {
        // SAFETY: three integers; the result is checked below.
        let fd = check(unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                protocol,
            )
        })?;
        // SAFETY: the kernel just gave us this descriptor and nobody else holds it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self { fd, sequence: 0 };
        socket.set_timeout(timeout)?;
        // Short acknowledgements with the kernel's words, and no guessing about dump filters.
        for option in [NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK] {
            socket.set_option(SOL_NETLINK, option, &1i32)?;
        }
        Ok(socket)
    }

    /// Changes how long one answer may take.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        let time = libc::timeval {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_usec: timeout.subsec_micros() as libc::suseconds_t,
        };
        self.set_option(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &time)
    }

    /// Lets one send be as large as `bytes`; the host's limit does not count for root.
    pub(crate) fn reserve_send(&self, bytes: usize) -> io::Result<()> {
        let bytes = i32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.set_option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes)
    }

    /// Receives what the kernel tells everybody in these groups.
    fn join(&self, groups: &[i32]) -> io::Result<()> {
        // A socket without an address has the kernel's own number 0, and nobody hears what he
        // himself says.
        // SAFETY: all-zero is a valid address of this plain structure.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        // SAFETY: `address` is live and its size is given; the kernel only reads.
        check(unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        })?;
        groups
            .iter()
            .try_for_each(|group| self.set_option(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group))
    }

    fn set_option<T: Copy>(&self, level: i32, option: i32, value: &T) -> io::Result<()> {
        // SAFETY: `value` is a live plain value and the length is its size; the kernel only reads.
        check(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        })
        .map(drop)
    }

    /// Carries out a batch made with [`Batch`]; stops at the first request that fails.
    ///
    /// Requests after the failed one may have been carried out too: the kernel gets many at once.
    /// An address request for link 0 is meant for the link that the last get request found (see
    /// [`Batch::find_link`]), so that a batch can be made before its links exist.
    pub fn execute(&mut self, batch: &[u8]) -> Result<(), NetlinkError> {
        let mut bytes = batch.to_vec();
        let mut found_link = 0;
        let mut begin = 0;
        let mut index = 0;
        while begin < bytes.len() {
            let (end, count) = request::send_part(&bytes[begin..], REQUESTS_PER_SEND_MAX);
            let part = &mut bytes[begin..begin + end];
            request::fill_link(part, found_link);
            if let Some(link) = self.execute_part(part, index)? {
                found_link = link;
            }
            begin += end;
            index += count;
        }
        Ok(())
    }

    /// Sends a part, reads all its acknowledgements; gives the link that a get request found.
    fn execute_part(&mut self, part: &mut [u8], index: usize) -> Result<Option<u32>, NetlinkError> {
        let (first, count) = self.number(part);
        let fail = |at: usize, detail: String, cause: io::Error| NetlinkError {
            index: index + at,
            what: messages(part)
                .nth(at)
                .map_or_else(String::new, |m| request::describe(&m)),
            detail,
            cause,
        };
        if messages(part).next().is_none() {
            return Err(fail(0, String::new(), io::ErrorKind::InvalidInput.into()));
        }
        self.send(part)
            .map_err(|cause| fail(0, String::new(), cause))?;
        let mut buffer = [0u8; ANSWER_BYTES_MAX];
        let mut link = None;
        let mut refused: Option<NetlinkError> = None;
        let mut acknowledged = 0;
        while acknowledged < count {
            let length = self
                .receive(&mut buffer, 0)
                .map_err(|cause| fail(acknowledged, String::new(), cause))?;
            for message in messages(&buffer[..length]) {
                // What an earlier, given-up batch left behind has another number.
                let at = message.sequence.wrapping_sub(first) as usize;
                if at >= count {
                    continue;
                }
                match answer(&message) {
                    Answer::Done => acknowledged += 1,
                    Answer::Refused(cause, detail) => {
                        acknowledged += 1;
                        if cause.raw_os_error() == Some(libc::EAFNOSUPPORT)
                            && messages(part)
                                .nth(at)
                                .is_some_and(|m| request::asks_for_ipv6(&m))
                        {
                            continue;
                        }
                        refused.get_or_insert_with(|| fail(at, detail, cause));
                    }
                    Answer::Content => link = u32_at(message.body, 4).or(link),
                }
            }
        }
        refused.map_or(Ok(link), Err)
    }

    /// Gives each message of `part` its number; returns the first and how many there are.
    pub(crate) fn number(&mut self, part: &mut [u8]) -> (u32, usize) {
        let first = self.sequence.wrapping_add(1);
        let mut at = 0;
        let mut count = 0;
        while let Some(length) = u32_at(part, at).filter(|l| *l as usize >= HEADER_BYTES) {
            self.sequence = self.sequence.wrapping_add(1);
            part[at + 8..at + 12].copy_from_slice(&self.sequence.to_ne_bytes());
            at += (length as usize).next_multiple_of(4);
            count += 1;
        }
        (first, count)
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of one live slice; the kernel only reads.
        let sent = unsafe {
            libc::send(
                self.fd.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_NOSIGNAL,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Receives one datagram; one that does not fit is an error, never cut.
    pub(crate) fn receive(&self, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
        loop {
            // SAFETY: pointer and length are those of one live, exclusively borrowed slice.
            let length = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    flags | libc::MSG_TRUNC,
                )
            };
            if length < 0 {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EAGAIN) if flags & libc::MSG_DONTWAIT == 0 => {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    _ => return Err(error),
                }
            }
            let length = length as usize;
            if length > buffer.len() {
                return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
            }
            return Ok(length);
        }
    }

    /// Sends one dump request and gives every message of the answer to `each`.
    ///
    /// `each` must be able to begin again: `restart` is called before every try.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Batch,
        mut each: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut buffer = vec![0u8; DUMP_PART_BYTES_MAX];
        for _ in 0..DUMP_TRIES_MAX {
            let mut bytes = request.as_bytes().to_vec();
            let (sequence, _) = self.number(&mut bytes);
            self.send(&bytes)?;
            let mut all = Vec::new();
            if self.dump_once(sequence, &mut buffer, |message| all.extend(each(message)))? {
                return Ok(all);
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Reads one dump to its end; `false` when the kernel says that it is not consistent.
    fn dump_once(
        &self,
        sequence: u32,
        buffer: &mut [u8],
        mut each: impl FnMut(&Message<'_>),
    ) -> io::Result<bool> {
        let mut consistent = true;
        loop {
            let length = self.receive(buffer, 0)?;
            for message in messages(&buffer[..length]).filter(|m| m.sequence == sequence) {
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match answer(&message) {
                    Answer::Content => each(&message),
                    Answer::Done => return Ok(consistent),
                    Answer::Refused(cause, _) if cause.raw_os_error() == Some(libc::EINTR) => {
                        return Ok(false);
                    }
                    Answer::Refused(cause, _) => return Err(cause),
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Socket {
    /// Takes a netlink socket that another process opened in its network namespace.
    fn from(fd: OwnedFd) -> Self {
        Self { fd, sequence: 0 }
    }
}

pub(crate) enum Answer {
    Done,
    Refused(io::Error, String),
    Content,
}

pub(crate) fn answer(message: &Message<'_>) -> Answer {
    if message.kind != libc::NLMSG_ERROR as u16 && message.kind != libc::NLMSG_DONE as u16 {
        return Answer::Content;
    }
    match u32_at(message.body, 0).map_or(0, |errno| errno as i32) {
        errno if errno < 0 => Answer::Refused(io::Error::from_raw_os_error(-errno), words(message)),
        _ => Answer::Done,
    }
}

/// The kernel's own words about a refusal, which follow the request's header (and, where the
/// kernel does not cap it, the whole request).
fn words(message: &Message<'_>) -> String {
    if message.flags & NLM_F_ACK_TLVS == 0 {
        return String::new();
    }
    let request_bytes = if message.flags & NLM_F_CAPPED != 0 {
        HEADER_BYTES
    } else {
        u32_at(message.body, 4).map_or(HEADER_BYTES, |length| length as usize)
    };
    let rest = message
        .body
        .get(4 + request_bytes.next_multiple_of(4)..)
        .unwrap_or_default();
    attribute(rest, NLMSGERR_ATTR_MSG)
        .map(text)
        .unwrap_or_default()
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::IpAddr;
    use std::os::fd::AsRawFd as _;
    use std::time::Duration;

    use super::{Batch, Bridge, LinkChange, NETNS_FD_UNKNOWN, Socket, Veth};

    const TIMEOUT: Duration = Duration::from_secs(5);

    /// Runs a test on a thread with a network namespace of its own, which ends with it.
    pub(crate) fn in_own_netns(test: impl FnOnce() + Send + 'static) {
        let ran = std::thread::spawn(|| {
            // SAFETY: one integer; this thread alone gets another network namespace.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                eprintln!("skipped: network namespaces need root");
                return;
            }
            test();
        });
        ran.join().unwrap();
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn links_addresses_and_routes_read_back() {
        in_own_netns(|| {
            let mut socket = Socket::route(TIMEOUT).unwrap();
            let mut batch = Batch::new();
            let mac = [2, 0x42, 10, 0, 0, 1];
            batch.create_bridge(&Bridge {
                name: "br0",
                mac,
                mtu: 1400,
            });
            let up = LinkChange {
                up: Some(true),
                alias: Some("of a test"),
                ..Default::default()
            };
            batch.set_link("br0", &up).find_link("br0");
            batch
                .add_address(0, ip("10.0.0.1"), 24)
                .add_address(0, ip("fd00::1"), 64);
            batch.add_route(None, ip("10.0.0.2"));
            batch.add_route(Some((ip("10.9.0.0"), 16)), ip("10.0.0.3"));
            // Known on its link only: the kernel refuses it without.
            batch.set_default_route(ip("fe80::1001:1"));
            socket.execute(batch.as_bytes()).unwrap();

            let link = socket.link("br0").unwrap().unwrap();
            assert_eq!(
                (link.kind.as_str(), link.mtu, link.up),
                ("bridge", 1400, true)
            );
            assert_eq!(
                (link.alias.as_str(), link.mac.as_slice()),
                ("of a test", &mac[..])
            );
            assert_eq!(socket.links().unwrap().len(), 2, "loopback and bridge");
            assert_eq!(socket.link("absent").unwrap(), None);
            let addresses = socket.addresses().unwrap();
            let of_bridge = |text| {
                addresses
                    .iter()
                    .any(|a| a.address == ip(text) && a.index == link.index)
            };
            assert!(
                of_bridge("10.0.0.1") && of_bridge("fd00::1"),
                "{addresses:?}"
            );
            let routes = socket.routes().unwrap();
            let over = |gateway| {
                routes
                    .iter()
                    .find(|r| r.gateway == Some(ip(gateway)))
                    .unwrap()
            };
            assert!(over("10.0.0.2").is_default());
            assert_eq!(over("10.0.0.3").destination, ip("10.9.0.0"));

            socket.delete_link("br0").unwrap();
            socket.delete_link("br0").unwrap();
            assert_eq!(socket.link("br0").unwrap(), None);
        });
    }

    #[test]
    fn a_veth_peer_is_born_in_the_other_namespace() {
        in_own_netns(|| {
            let mut host = Socket::route(TIMEOUT).unwrap();
            let (sent, received) = std::sync::mpsc::channel();
            in_own_netns(move || {
                let netns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
                sent.send((netns, Socket::route(TIMEOUT).unwrap())).unwrap();
            });
            let (netns, mut inside) = received.recv().unwrap();
            let mut batch = Batch::new();
            let peer_mac = [2, 0x42, 10, 0, 0, 2];
            let at = batch.create_veth(&Veth {
                name: "outer",
                peer_name: "eth0",
                peer_mac,
                mtu: 1300,
            }) as usize;
            let mut bytes = batch.into_bytes();
            assert_eq!(bytes[at..at + 4], NETNS_FD_UNKNOWN.to_ne_bytes());
            bytes[at..at + 4].copy_from_slice(&netns.as_raw_fd().to_ne_bytes());
            host.execute(&bytes).unwrap();
            let eth0 = inside.link("eth0").unwrap().unwrap();
            assert_eq!((eth0.mtu, eth0.mac.as_slice()), (1300, &peer_mac[..]));
            assert_eq!(host.link("eth0").unwrap(), None);
            assert_eq!(host.link("outer").unwrap().unwrap().mtu, 1300);
        });
    }

    #[test]
    fn a_link_too_small_for_ipv6_works_without() {
        in_own_netns(|| {
            let mut socket = Socket::route(TIMEOUT).unwrap();
            let mut batch = Batch::new();
            batch.create_bridge(&Bridge {
                name: "br0",
                mac: [2, 0, 0, 0, 0, 1],
                mtu: 1000,
            });
            let up = LinkChange {
                up: Some(true),
                link_local: Some(false),
                ..Default::default()
            };
            batch.set_link("br0", &up);
            socket.execute(batch.as_bytes()).unwrap();
            assert!(socket.link("br0").unwrap().unwrap().up);
        });
    }

    #[test]
    fn an_error_says_which_request_failed_and_why() {
        in_own_netns(|| {
            let mut socket = Socket::route(TIMEOUT).unwrap();
            let mut batch = Batch::new();
            let up = LinkChange {
                up: Some(true),
                ..Default::default()
            };
            batch
                .set_link("lo", &up)
                .set_link("absent", &up)
                .set_link("lo", &up);
            let error = socket.execute(batch.as_bytes()).unwrap_err();
            assert_eq!((error.index, error.errno()), (1, libc::ENODEV));
            assert_eq!(error.to_string(), "netlink request 1 (change link absent)");

            let mut batch = Batch::new();
            batch.set_link("lo", &up).find_link("lo");
            batch
                .add_address(0, ip("10.0.0.1"), 24)
                .add_route(None, ip("10.7.0.1"));
            let error = socket.execute(batch.as_bytes()).unwrap_err();
            assert_eq!(
                (error.index, error.errno()),
                (3, libc::ENETUNREACH),
                "{error}"
            );
            assert!(
                error
                    .to_string()
                    .starts_with("netlink request 3 (add route over 10.7.0.1: ")
            );
            socket
                .execute(Batch::new().set_link("lo", &up).as_bytes())
                .unwrap();
        });
    }

    #[test]
    fn a_batch_larger_than_one_send_goes_through() {
        in_own_netns(|| {
            let mut socket = Socket::route(TIMEOUT).unwrap();
            let mut batch = Batch::new();
            for low in 0..=255u8 {
                batch.add_address(1, [127, 1, 0, low].into(), 32);
            }
            socket.execute(batch.as_bytes()).unwrap();
            assert_eq!(socket.addresses().unwrap().len(), 256);
        });
    }

    #[test]
    fn bytes_that_are_no_request_are_refused() {
        in_own_netns(|| {
            let mut socket = Socket::route(Duration::from_millis(200)).unwrap();
            for bytes in [&[1u8, 2, 3][..], &[0; 40], &[255; 40]] {
                assert!(socket.execute(bytes).is_err(), "{bytes:?}");
            }
        });
    }
}
