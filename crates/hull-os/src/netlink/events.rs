//! Waiting for others to change what networks depend on: routes, forwarding, nftables.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use super::message::{attribute, messages};
use super::{Socket, check};

const GROUP_IPV4_ROUTE: i32 = 7;
const GROUP_IPV4_NETCONF: i32 = 24;
const GROUP_NFTABLES: i32 = 7;
/// Elements of sets and the number of a commit, as nf_tables tells of them.
const NFT_SET_ELEMENTS: [u16; 3] = [0x0a0c, 0x0a0e, 0x0a0f];
const NETCONF_FORWARDING: u16 = 2;
const NETCONF_RP_FILTER: u16 = 3;
/// Bytes of `struct netconfmsg` with its padding, which come before its attributes.
const NETCONF_BYTES: usize = 4;
/// Bytes of one notification.
const EVENT_BYTES_MAX: usize = 32 << 10;

/// Notifications of one network namespace, from opening on.
#[derive(Debug)]
pub struct Events {
    route: Socket,
    nftables: Socket,
    buffer: Vec<u8>,
}

impl Events {
    /// Begins to listen in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let route = Socket::route(Duration::ZERO)?;
        route.join(&[GROUP_IPV4_ROUTE, GROUP_IPV4_NETCONF])?;
        let nftables = Socket::netfilter(Duration::ZERO)?;
        nftables.join(&[GROUP_NFTABLES])?;
        Ok(Self {
            route,
            nftables,
            buffer: vec![0; EVENT_BYTES_MAX],
        })
    }

    /// Waits until an IPv4 route, the forwarding of a link or rules of nftables changed; `false` when
    /// nothing did in the time given. Without a time it waits for good.
    pub fn wait(&mut self, time: Option<Duration>) -> io::Result<bool> {
        let deadline = time.map(|time| Instant::now() + time);
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if !self.poll(left)? {
                return Ok(false);
            }
            if self.read_all()? {
                return Ok(true);
            }
        }
    }

    fn poll(&self, time: Option<Duration>) -> io::Result<bool> {
        let entry = |socket: &Socket| libc::pollfd {
            fd: socket.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut entries = [entry(&self.route), entry(&self.nftables)];
        // Rounded up, or a wait of less than a millisecond would spin.
        let milliseconds = time.map_or(-1, |time| {
            i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        // SAFETY: pointer and count are those of one live array, which the kernel fills.
        let ready = check(unsafe { libc::poll(entries.as_mut_ptr(), 2, milliseconds) });
        match ready {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
            Ok(count) => Ok(count > 0),
        }
    }

    /// Reads what is there; says whether any of it matters.
    fn read_all(&mut self) -> io::Result<bool> {
        let mut matters = false;
        for socket in [&self.route, &self.nftables] {
            loop {
                match socket.receive(&mut self.buffer, libc::MSG_DONTWAIT) {
                    Ok(length) => {
                        matters |= messages(&self.buffer[..length]).any(|message| {
                            match message.kind {
                                libc::RTM_NEWNETCONF | libc::RTM_DELNETCONF => {
                                    is_forwarding_change(message.body)
                                }
                                // Published ports come and go with containers.
                                kind => !NFT_SET_ELEMENTS.contains(&kind),
                            }
                        });
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // More came than fits (or one larger than any we know): something changed.
                    Err(error)
                        if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EMSGSIZE)) =>
                    {
                        matters = true;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(matters)
    }
}

/// A new link is announced with all its settings: that is each container's, and no news.
fn is_forwarding_change(body: &[u8]) -> bool {
    let attributes = body.get(NETCONF_BYTES..).unwrap_or_default();
    attribute(attributes, NETCONF_FORWARDING).is_some()
        && attribute(attributes, NETCONF_RP_FILTER).is_none()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Events;
    use crate::netlink::sysctl::LinkSetting;
    use crate::netlink::tests::in_own_netns;
    use crate::netlink::{Batch, Bridge, LinkChange, Socket};

    #[test]
    fn forwarding_and_routes_wake_but_new_links_do_not() {
        in_own_netns(|| {
            let mut events = Events::open().unwrap();
            let short = Some(Duration::from_millis(50));
            let long = Some(Duration::from_secs(5));
            assert!(!events.wait(short).unwrap(), "nothing happened");
            let mut socket = Socket::route(Duration::from_secs(5)).unwrap();
            let bridge = Bridge {
                name: "br0",
                mac: [2, 0, 0, 0, 0, 1],
                mtu: 1500,
            };
            socket
                .execute(Batch::new().create_bridge(&bridge).as_bytes())
                .unwrap();
            assert!(!events.wait(short).unwrap(), "a new link is no news");
            let setting = LinkSetting::ipv4("br0", "forwarding");
            // A new namespace begins with the settings of the host.
            assert!(setting.write(1 - setting.read().unwrap().unwrap()).unwrap());
            assert!(events.wait(long).unwrap(), "forwarding");
            let mut batch = Batch::new();
            let up = LinkChange {
                up: Some(true),
                ..Default::default()
            };
            batch.set_link("br0", &up).find_link("br0");
            batch.add_address(0, [10, 0, 0, 1].into(), 24);
            socket.execute(batch.as_bytes()).unwrap();
            assert!(events.wait(long).unwrap(), "route");
            assert!(!events.wait(short).unwrap());
            socket.delete_link("br0").unwrap();
        });
    }
}
