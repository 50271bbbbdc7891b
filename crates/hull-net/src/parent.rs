//! Links of the host that networks of the kinds macvlan and ipvlan are on top of.
//!
//! Mostly they are there. Two sorts are made here, carry our mark like bridges do, and go with their
//! network: `LINK.NUMBER`, a VLAN of LINK; and for a network that leads nowhere a pair of links whose
//! other end nobody uses, in the place of Docker's dummy link, which not every kernel has. (A bridge
//! without ports would not do: it has no carrier, and so has nothing on top of it.)

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use hull_os::netlink::{Batch, LinkChange, NetlinkError, Socket, Veth, fill_netns};

use crate::Error;
use crate::apply::{EEXIST, EOPNOTSUPP, Networks};
use crate::network::{Kind, Mac, Network};

/// The largest number of a VLAN; 0 and 4095 mean something else in frames.
const VLAN_MAX: u16 = 4094;

/// How the name of the unused end of a pair begins; that of the other is as long.
const END_PREFIX: &str = "de-";

impl Networks {
    /// Makes the link that a network is on top of, where it is one that we make and that is not
    /// there. Nothing for networks that are bridges.
    pub(crate) fn ensure_parent(
        &self,
        socket: &mut Socket,
        network: &Network,
    ) -> Result<(), Error> {
        let name = network.bridge.as_str();
        if network.kind == Kind::Bridge || socket.link(name).map_err(list)?.is_some() {
            return Ok(());
        }
        // Open until the requests are sent, which name it.
        let own = File::open("/proc/thread-self/ns/net").map_err(list)?;
        let requests = match network.internal {
            true => self.plan_pair(network, own.as_fd()),
            false => self.plan_vlan(socket, network)?,
        };
        match socket.execute(&requests) {
            // Another container of the network began at the same time.
            Err(error) if (error.errno(), error.index) == (EEXIST, 0) => Ok(()),
            Err(cause) => Err(self.refused(socket, network, cause)),
            Ok(()) => Ok(()),
        }
    }

    fn plan_vlan(&self, socket: &mut Socket, network: &Network) -> Result<Vec<u8>, Error> {
        let name = network.bridge.as_str();
        let no_parent = |link: &str| Error::NoParent {
            network: network.name.clone(),
            link: link.to_owned(),
        };
        let (below, vlan) = vlan_of(name).ok_or_else(|| no_parent(name))?;
        let found = socket.link(below).map_err(list)?;
        let mut batch = Batch::new();
        batch.create_vlan(name, found.ok_or_else(|| no_parent(below))?.index, vlan);
        batch.set_link(name, &marked(&self.alias_of(network)));
        Ok(batch.into_bytes())
    }

    /// Both ends in the namespace that they are made from.
    fn plan_pair(&self, network: &Network, namespace: BorrowedFd<'_>) -> Vec<u8> {
        let name = network.bridge.as_str();
        let end = format!(
            "{END_PREFIX}{}",
            name.get(END_PREFIX.len()..).unwrap_or(name)
        );
        let gateway = network.pools.first().map(|pool| pool.gateway);
        let mut batch = Batch::new();
        let offset = batch.create_veth(&Veth {
            name,
            peer_name: &end,
            peer_mac: Mac::of_address(gateway.unwrap_or([0, 0, 0, 1].into())).0,
            mtu: network.mtu,
        });
        // Whoever finds one without the mark would take it for the host's.
        batch.set_link(name, &marked(&self.alias_of(network)));
        batch.set_link(
            &end,
            &LinkChange {
                up: Some(true),
                link_local: Some(false),
                ..LinkChange::default()
            },
        );
        let mut requests = batch.into_bytes();
        fill_netns(&mut requests, offset, namespace);
        requests
    }

    /// Nothing stays of a link that could not be made whole.
    fn refused(&self, socket: &mut Socket, network: &Network, cause: NetlinkError) -> Error {
        let link = network.bridge.clone();
        if cause.index == 0 {
            let unknown = !network.internal && cause.errno() == EOPNOTSUPP;
            return match unknown {
                true => Error::NoVlans { link },
                false => Error::Parent { link, cause },
            };
        }
        if let Err(error) = socket.delete_link(&link) {
            return Error::RemoveLink { link, cause: error };
        }
        Error::Parent { link, cause }
    }
}

/// Up, and found again by its alias.
fn marked(alias: &str) -> LinkChange<'_> {
    LinkChange {
        alias: Some(alias),
        up: Some(true),
        link_local: Some(false),
        ..LinkChange::default()
    }
}

fn list(cause: std::io::Error) -> Error {
    Error::List {
        what: "links",
        cause,
    }
}

/// The link below and the number of a VLAN's link, by its name.
fn vlan_of(name: &str) -> Option<(&str, u16)> {
    let (below, number) = name.split_once('.')?;
    let number = number.parse().ok()?;
    let fits = !below.is_empty() && (1..=VLAN_MAX).contains(&number);
    fits.then_some((below, number))
}

#[cfg(test)]
mod tests {
    use super::vlan_of;

    #[test]
    fn a_vlan_is_named_by_its_link_and_number() {
        for (name, expected) in [
            ("eth0.50", Some(("eth0", 50))),
            ("eth0.4094", Some(("eth0", 4094))),
            ("eth0.4095", None),
            ("eth0.0", None),
            ("eth0", None),
            (".5", None),
            ("eth0.1.2", None),
            ("eth0.x", None),
        ] {
            assert_eq!(vlan_of(name), expected, "{name}");
        }
    }
}
