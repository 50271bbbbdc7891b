//! What is wanted: networks, their subnets, and endpoints of sandboxes on them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hull_model::SandboxId;
use hull_os::netlink::{IpvlanMode, IpvlanReach, MacvlanMode};

use crate::egress::Allowed;

/// Bytes of a link's name without the terminating zero.
const LINK_NAME_BYTES_MAX: usize = 15;
/// Smallest packet size that IPv4 demands of every link.
const MTU_MIN: u32 = 68;
/// Largest packet size of a veth.
const MTU_MAX: u32 = 65_535;

/// Why a network cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// Not an address, a slash and the length of a prefix.
    #[error("{text:?} is not a subnet")]
    Subnet {
        /// What was given.
        text: String,
    },
    /// Bits are set beyond the prefix.
    #[error("{text} has bits beyond its prefix")]
    HostBits {
        /// What was given.
        text: String,
    },
    /// Not six pairs of hex digits.
    #[error("{text:?} is not a hardware address")]
    Mac {
        /// What was given.
        text: String,
    },
    /// The gateway is no usable address of the subnet.
    #[error("gateway {gateway} is not an address of {subnet}")]
    Gateway {
        /// The gateway.
        gateway: IpAddr,
        /// The subnet.
        subnet: Subnet,
    },
    /// A link cannot have this name.
    #[error("{name:?} cannot be the name of a link")]
    LinkName {
        /// The name.
        name: String,
    },
    /// A link cannot have packets of this size.
    #[error("mtu {mtu} is not between {MTU_MIN} and {MTU_MAX}")]
    Mtu {
        /// The size.
        mtu: u32,
    },
}

/// A range of addresses with a common prefix.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    address: IpAddr,
    prefix_length: u8,
}

impl Subnet {
    /// The subnet that `address` is in, whatever its host bits.
    pub fn containing(address: IpAddr, prefix_length: u8) -> Self {
        let width = width(address);
        let prefix_length = prefix_length.min(width);
        let hosts = mask_hosts(width, prefix_length);
        Self {
            address: from_bits(bits(address) & !hosts, address),
            prefix_length,
        }
    }

    /// Its first address, which names it.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Length of the common prefix in bits.
    pub fn prefix_length(&self) -> u8 {
        self.prefix_length
    }

    /// The address at an offset from the first.
    pub fn at(&self, offset: u128) -> IpAddr {
        from_bits(bits(self.address).wrapping_add(offset), self.address)
    }

    /// How far an address is from the first; `None` for one that is outside.
    pub fn offset(&self, address: IpAddr) -> Option<u128> {
        self.contains(address)
            .then(|| bits(address) - bits(self.address))
    }

    /// Offset of the last address.
    pub fn last_offset(&self) -> u128 {
        mask_hosts(width(self.address), self.prefix_length)
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::containing(address, self.prefix_length).address == self.address
    }

    /// Whether any address is in both.
    pub fn overlaps(&self, other: &Subnet) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask_hosts(width: u8, prefix_length: u8) -> u128 {
    let hosts = u32::from(width - prefix_length);
    if hosts == 128 {
        u128::MAX
    } else {
        (1u128 << hosts) - 1
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn from_bits(bits: u128, family_of: IpAddr) -> IpAddr {
    match family_of {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(bits as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(bits)),
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_length)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet {
    type Error = InvalidNetwork;

    fn try_from(text: String) -> Result<Self, InvalidNetwork> {
        text.parse()
    }
}

impl FromStr for Subnet {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let parsed = text
            .split_once('/')
            .and_then(|(address, length)| Some((address.parse().ok()?, length.parse().ok()?)))
            .filter(|(address, length): &(IpAddr, u8)| *length <= width(*address));
        let Some((address, prefix_length)) = parsed else {
            return Err(InvalidNetwork::Subnet {
                text: text.to_owned(),
            });
        };
        let subnet = Self::containing(address, prefix_length);
        if subnet.address != address {
            return Err(InvalidNetwork::HostBits {
                text: text.to_owned(),
            });
        }
        Ok(subnet)
    }
}

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Derives one from an endpoint's address, as Docker does: the same address has always the
    /// same hardware address, so neighbours that remember the old owner reach the new one.
    pub fn of_address(address: IpAddr) -> Self {
        let tail = bits(address) as u32;
        let [a, b, c, d] = tail.to_be_bytes();
        Self([0x02, 0x42, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = || InvalidNetwork::Mac {
            text: text.to_owned(),
        };
        let parts: Vec<u8> = text
            .split([':', '-'])
            .map(|part| match part.len() {
                2 => u8::from_str_radix(part, 16).map_err(|_| invalid()),
                _ => Err(invalid()),
            })
            .collect::<Result<_, _>>()?;
        let bytes: [u8; 6] = parts.try_into().map_err(|_| invalid())?;
        // The lowest bit of the first byte marks a group: no link can have it as its own.
        if bytes[0] & 1 == 1 {
            Err(invalid())
        } else {
            Ok(Self(bytes))
        }
    }
}

/// Addresses of a network in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// All of them.
    pub subnet: Subnet,
    /// The bridge's own.
    pub gateway: IpAddr,
}

impl Pool {
    /// A subnet with its first address as the gateway.
    pub fn of(subnet: Subnet) -> Self {
        Self {
            subnet,
            gateway: subnet.at(1),
        }
    }
}

/// How endpoints are connected with each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// By a bridge of ours; each has a port there.
    #[default]
    Bridge,
    /// By a link of the host that leads to a network outside; each has a link on top of it.
    Macvlan(MacvlanMode),
    /// The same, where all have the hardware address of that link.
    Ipvlan(IpvlanMode, IpvlanReach),
}

/// A network: one bridge, and what its endpoints may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// What people call it.
    pub name: String,
    /// What connects its endpoints.
    pub kind: Kind,
    /// Name of its bridge, or of the link that its endpoints are on top of.
    pub bridge: String,
    /// Its addresses, one pool per family.
    pub pools: Vec<Pool>,
    /// Largest packet of all its links.
    pub mtu: u32,
    /// Whether nothing leads in or out.
    pub internal: bool,
    /// Whether endpoints are seen outside under the host's address.
    pub masquerade: bool,
    /// Whether endpoints reach each other ("inter-container connectivity").
    pub icc: bool,
    /// What may be reached outside; none: everything.
    pub egress: Option<Vec<Allowed>>,
}

impl Network {
    /// The network of containers that name none.
    pub fn default_bridge(subnet: Subnet, mtu: u32) -> Self {
        Self {
            name: "bridge".to_owned(),
            kind: Kind::Bridge,
            bridge: "hull0".to_owned(),
            pools: vec![Pool::of(subnet)],
            mtu,
            internal: false,
            masquerade: true,
            icc: true,
            egress: None,
        }
    }

    /// Checks what the kernel or other networks would choke on.
    pub fn validate(&self) -> Result<(), InvalidNetwork> {
        let name = &self.bridge;
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"/:%\"\\".contains(&byte);
        if name.is_empty()
            || name.len() > LINK_NAME_BYTES_MAX
            || name.starts_with('.')
            // All links that begin so, to iptables.
            || name.ends_with('+')
            || !name.bytes().all(plain)
        {
            return Err(InvalidNetwork::LinkName { name: name.clone() });
        }
        if !(MTU_MIN..=MTU_MAX).contains(&self.mtu) {
            return Err(InvalidNetwork::Mtu { mtu: self.mtu });
        }
        for Pool { subnet, gateway } in &self.pools {
            let usable = subnet.offset(*gateway).is_some_and(|offset| {
                offset != 0 && (offset != subnet.last_offset() || gateway.is_ipv6())
            });
            if !usable {
                return Err(InvalidNetwork::Gateway {
                    gateway: *gateway,
                    subnet: *subnet,
                });
            }
        }
        Ok(())
    }

    /// The pool that an address belongs to.
    pub fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.subnet.contains(address))
    }
}

/// A sandbox's place on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whose it is.
    pub sandbox: SandboxId,
    /// Which of the sandbox's endpoints, from 0.
    pub number: u8,
    /// Name of the link inside.
    pub link: String,
    /// Its addresses, at most one per pool of the network.
    pub addresses: Vec<IpAddr>,
    /// Further addresses that reach no further than the link.
    pub link_local: Vec<IpAddr>,
    /// Its hardware address; without one it is derived from the first address.
    pub mac: Option<Mac>,
    /// Gateways, at most one per family, over which leaves what no other route covers.
    pub gateways: Vec<IpAddr>,
    /// Its link on the host is a tap that is there already, its other end is in a machine.
    pub is_tap: bool,
}

impl Endpoint {
    /// The only endpoint of a sandbox, with the way out over a network.
    pub fn only(sandbox: SandboxId, addresses: Vec<IpAddr>, network: &Network) -> Self {
        let pools = addresses.iter().filter_map(|a| network.pool_of(*a));
        let gateways = match network.internal {
            true => Vec::new(),
            false => pools.map(|pool| pool.gateway).collect(),
        };
        Self {
            sandbox,
            number: 0,
            link: "eth0".to_owned(),
            addresses,
            link_local: Vec::new(),
            mac: None,
            gateways,
            is_tap: false,
        }
    }

    /// The hardware address that it gets.
    pub fn mac(&self) -> Mac {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        self.mac
            .unwrap_or_else(|| Mac::of_address(self.addresses.first().copied().unwrap_or(any)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Mac, Network, Subnet};

    fn check(text: &str, expected: &str) {
        let shown = match text.parse::<Subnet>() {
            Ok(subnet) => format!("{subnet} last {}", subnet.at(subnet.last_offset())),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn subnets_read_back_and_know_their_last_address() {
        check("172.17.0.0/16", "172.17.0.0/16 last 172.17.255.255");
        check("10.0.0.0/32", "10.0.0.0/32 last 10.0.0.0");
        check("0.0.0.0/0", "0.0.0.0/0 last 255.255.255.255");
        check("fd00::/64", "fd00::/64 last fd00::ffff:ffff:ffff:ffff");
        check("::/0", "::/0 last ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        check("172.17.0.1/16", "172.17.0.1/16 has bits beyond its prefix");
        check("172.17.0.0/33", "\"172.17.0.0/33\" is not a subnet");
        check("172.17.0.0", "\"172.17.0.0\" is not a subnet");
    }

    #[test]
    fn a_hardware_address_is_derived_as_docker_does() {
        assert_eq!(
            Mac::of_address([172, 17, 0, 2].into()).to_string(),
            "02:42:ac:11:00:02"
        );
        assert_eq!(
            "02:42:AC:11:00:02".parse(),
            Ok(Mac([2, 0x42, 0xac, 0x11, 0, 2]))
        );
        for wrong in ["", "02:42:ac:11:00", "01:00:5e:00:00:01", "2:42:ac:11:0:2"] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_network_that_cannot_be_is_refused() {
        let good = Network::default_bridge("172.17.0.0/16".parse().unwrap(), 1500);
        assert_eq!(good.validate(), Ok(()));
        for bridge in ["", "a-name-too-long-", "a/b", "..", "a b", "a:b", "a+"] {
            let bad = Network {
                bridge: bridge.to_owned(),
                ..good.clone()
            };
            assert!(bad.validate().is_err(), "{bridge}");
        }
        assert!(
            Network {
                mtu: 60,
                ..good.clone()
            }
            .validate()
            .is_err()
        );
        let mut bad = good;
        bad.pools[0].gateway = [172, 18, 0, 1].into();
        assert!(bad.validate().is_err());
    }
}
