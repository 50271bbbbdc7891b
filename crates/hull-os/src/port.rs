//! Ports of the host: taking one, and finding out who has it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::process::{check, own};

/// Connections that may wait to be accepted; the host's own bound is lower or the same.
const BACKLOG: i32 = 4096;
/// State of a TCP socket that listens, in `/proc/net/tcp`.
const TCP_LISTENS: &str = "0A";

/// A process that has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name, as `ps` shows it.
    pub name: String,
}

/// Takes a port: a socket of this transport protocol (6 is TCP, 17 is UDP, 132 is SCTP) that is
/// bound, listens where the protocol has that, and does not block. An IPv6 one is for IPv6 alone.
///
/// # Errors
/// `AddrInUse` when somebody has it, `AddrNotAvailable` when the address is not the host's,
/// `EPROTONOSUPPORT` when the kernel lacks the protocol.
pub fn take(protocol: u8, address: SocketAddr) -> io::Result<OwnedFd> {
    let listens = i32::from(protocol) != libc::IPPROTO_UDP;
    let kind = if listens {
        libc::SOCK_STREAM
    } else {
        libc::SOCK_DGRAM
    };
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: three integers.
    let socket = own(unsafe { libc::socket(family, kind | flags, i32::from(protocol)) }.into())?;
    if address.is_ipv6() {
        switch_on(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)?;
    }
    if listens {
        // Connections of a former listener that are still closing do not keep the port.
        switch_on(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    }
    bind(&socket, address)?;
    if listens {
        // SAFETY: two integers.
        check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) }.into())?;
    }
    Ok(socket)
}

fn switch_on(socket: &OwnedFd, level: i32, option: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is valid for reads of its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result.into()).map(drop)
}

fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let result = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            let length = size_of_val(&raw) as libc::socklen_t;
            // SAFETY: the address is valid for reads of its length.
            unsafe { libc::bind(fd, (&raw const raw).cast(), length) }
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            let length = size_of_val(&raw) as libc::socklen_t;
            // SAFETY: the address is valid for reads of its length.
            unsafe { libc::bind(fd, (&raw const raw).cast(), length) }
        }
    };
    check(result.into()).map(drop)
}

/// The processes that have a port of a protocol (6 or 17), at an address that clashes with this
/// one; those that we may not look into are left out. Reads all of `/proc`: for messages.
pub fn holders(protocol: u8, address: SocketAddr) -> Vec<Holder> {
    let word = if i32::from(protocol) == libc::IPPROTO_UDP {
        "udp"
    } else {
        "tcp"
    };
    let mut inodes = HashSet::new();
    for suffix in ["", "6"] {
        let table = fs::read_to_string(format!("/proc/net/{word}{suffix}")).unwrap_or_default();
        inodes.extend(parse_sockets(&table, word, address));
    }
    if inodes.is_empty() {
        return Vec::new();
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(|pid| holder(pid, &inodes)).collect()
}

fn holder(pid: u32, inodes: &HashSet<u64>) -> Option<Holder> {
    let held = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?;
        inode.strip_suffix(']')?.parse().ok()
    };
    let mut open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    open.any(|entry| held(entry).is_some_and(|inode: u64| inodes.contains(&inode)))
        .then(|| Holder {
            pid,
            name: fs::read_to_string(format!("/proc/{pid}/comm"))
                .map(|name| name.trim_end().to_owned())
                .unwrap_or_default(),
        })
}

/// Inodes of the sockets in a table of `/proc/net` that stand in the way of an address.
fn parse_sockets(table: &str, protocol: &str, wanted: SocketAddr) -> Vec<u64> {
    let clashes = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (address, port) = words.get(1)?.split_once(':')?;
        let listens = protocol != "tcp" || *words.get(3)? == TCP_LISTENS;
        let same_port = u16::from_str_radix(port, 16).ok()? == wanted.port();
        let has = parse_address(address)?;
        let same = has.is_unspecified() || wanted.ip().is_unspecified() || has == wanted.ip();
        let fits = listens && same_port && same;
        fits.then(|| words.get(9)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(clashes).collect()
}

/// Words of 32 bits in the byte order of the host, as hex digits.
fn parse_address(text: &str) -> Option<IpAddr> {
    let words: Vec<[u8; 4]> = (0..text.len())
        .step_by(8)
        .map(|at| u32::from_str_radix(text.get(at..at + 8)?, 16).ok())
        .map(|word| word.map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    match words.as_slice() {
        [v4] => Some(IpAddr::from(*v4)),
        words => {
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(IpAddr::from(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_once_and_its_holder_is_found() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        for protocol in [6, 17] {
            let first = take(protocol, any).unwrap();
            let address = std::net::UdpSocket::from(first.try_clone().unwrap())
                .local_addr()
                .unwrap();
            let error = take(protocol, address).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            let all = SocketAddr::new([0, 0, 0, 0].into(), address.port());
            for clashing in [address, all] {
                let found = holders(protocol, clashing);
                assert_eq!(found.len(), 1, "{found:?}");
                assert_eq!(found[0].pid, std::process::id());
            }
            let other = SocketAddr::new([127, 0, 0, 2].into(), address.port());
            assert_eq!(holders(protocol, other), []);
            drop(first);
            take(protocol, address).unwrap();
        }
    }

    #[test]
    fn both_families_take_the_same_port() {
        let first = take(6, "0.0.0.0:0".parse().unwrap()).unwrap();
        let port = std::net::TcpListener::from(first)
            .local_addr()
            .unwrap()
            .port();
        let _v4 = take(6, ([0, 0, 0, 0], port).into()).unwrap();
        match take(6, ([0u16; 8], port).into()) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                println!("skip both_families_take_the_same_port: no IPv6 here");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
