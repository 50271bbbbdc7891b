//! Addresses: which subnet a network gets, and which address an endpoint.
//!
//! Allocation lives in memory. The caller keeps the truth in its records and rebuilds the
//! allocator from them with [`Ipam::reserve`] after a start.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::Error;
use crate::network::{Pool, Subnet};

/// Where subnets come from that nobody chose, in order: a range, and the prefix length of its
/// parts. The same as Docker's.
const POOLS: [([u8; 4], u8, u8); 6] = [
    ([172, 17, 0, 0], 16, 16),
    ([172, 18, 0, 0], 16, 16),
    ([172, 19, 0, 0], 16, 16),
    ([172, 20, 0, 0], 14, 16),
    ([172, 24, 0, 0], 13, 16),
    ([192, 168, 0, 0], 16, 20),
];
/// Parts of one range that are looked at: a range of IPv6 has more than anybody can count.
const PARTS_MAX: u128 = 1 << 20;

/// A range from which subnets of one size are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPool {
    /// All addresses.
    pub range: Subnet,
    /// Length of the prefix of each subnet, at least that of the range.
    pub prefix_length: u8,
}

impl AddressPool {
    /// Those that are used when nobody chose others.
    pub fn defaults() -> Vec<AddressPool> {
        let pool = |(start, length, prefix_length): ([u8; 4], u8, u8)| AddressPool {
            range: Subnet::containing(start.into(), length),
            prefix_length,
        };
        POOLS.map(pool).to_vec()
    }

    fn parts(&self) -> impl Iterator<Item = Subnet> + use<> {
        let Self {
            range,
            prefix_length,
        } = *self;
        let width = if range.address().is_ipv4() { 32 } else { 128 };
        let bits = u32::from(prefix_length.saturating_sub(range.prefix_length()));
        let parts = 1u128.checked_shl(bits).unwrap_or(PARTS_MAX).min(PARTS_MAX);
        let step = 1u128
            .checked_shl(u32::from(width - prefix_length.min(width)))
            .unwrap_or(0);
        (0..parts).map(move |part| Subnet::containing(range.at(part * step), prefix_length))
    }
}

/// The first subnet of the pools that overlaps with none of `taken`.
pub fn choose_subnet(pools: &[AddressPool], taken: &[Subnet]) -> Result<Subnet, Error> {
    pools
        .iter()
        .flat_map(AddressPool::parts)
        .find(|candidate| !taken.iter().any(|other| other.overlaps(candidate)))
        .ok_or_else(|| Error::Exhausted {
            subnet: "the default address pools".to_owned(),
        })
}

/// Addresses of one subnet: never given twice, and a returned one only after all others had
/// their turn, so that connections of its last owner time out first.
#[derive(Debug, Clone)]
pub struct Ipam {
    subnet: Subnet,
    /// Offsets that may be given when nobody chose.
    first: u128,
    last: u128,
    taken: BTreeSet<u128>,
    next: u128,
}

impl Ipam {
    /// All of a pool is free but the gateway, and in IPv4 the first and last address.
    pub fn new(pool: &Pool) -> Self {
        Self::within(pool, &pool.subnet)
    }

    /// Gives only addresses of `range`, a part of the pool; others can still be reserved.
    pub fn within(pool: &Pool, range: &Subnet) -> Self {
        let subnet = pool.subnet;
        let start = subnet.offset(range.address()).unwrap_or(0);
        let end = start
            .saturating_add(range.last_offset())
            .min(subnet.last_offset());
        let usable_last = usable_last(&subnet);
        Self {
            subnet,
            first: start.max(1),
            last: end.min(usable_last),
            taken: subnet.offset(pool.gateway).into_iter().collect(),
            next: start.max(1),
        }
    }

    /// The subnet that it gives from.
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Takes a certain address.
    pub fn reserve(&mut self, address: IpAddr) -> Result<(), Error> {
        let offset = self
            .subnet
            .offset(address)
            .filter(|offset| (1..=usable_last(&self.subnet)).contains(offset))
            .ok_or(Error::AddressOutside {
                address,
                subnet: self.subnet,
            })?;
        if self.taken.insert(offset) {
            Ok(())
        } else {
            Err(Error::AddressInUse { address })
        }
    }

    /// Takes the next free address.
    pub fn allocate(&mut self) -> Result<IpAddr, Error> {
        let offset = self
            .free_from(self.next)
            .or_else(|| self.free_from(self.first))
            .ok_or_else(|| Error::Exhausted {
                subnet: self.subnet.to_string(),
            })?;
        let new = self.taken.insert(offset);
        debug_assert!(new, "an address is never given twice");
        self.next = offset + 1;
        Ok(self.subnet.at(offset))
    }

    /// Gives an address back; says whether it was taken.
    pub fn release(&mut self, address: IpAddr) -> bool {
        self.subnet
            .offset(address)
            .is_some_and(|offset| self.taken.remove(&offset))
    }

    /// The lowest free offset from `start` on.
    fn free_from(&self, start: u128) -> Option<u128> {
        if start > self.last {
            return None;
        }
        let mut candidate = start;
        for taken in self.taken.range(start..=self.last) {
            if *taken != candidate {
                break;
            }
            candidate += 1;
        }
        (candidate <= self.last).then_some(candidate)
    }
}

/// In IPv4 the last address of a subnet means all of it.
fn usable_last(subnet: &Subnet) -> u128 {
    let last = subnet.last_offset();
    if subnet.address().is_ipv4() {
        last.saturating_sub(1)
    } else {
        last
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::IpAddr;

    use super::{AddressPool, Ipam, Pool, Subnet, choose_subnet};
    use crate::Error;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn ipam(text: &str) -> Ipam {
        Ipam::new(&Pool::of(subnet(text)))
    }

    #[test]
    fn addresses_come_round_robin_and_start_after_the_gateway() {
        let mut ipam = ipam("172.17.0.0/29");
        let given: Vec<_> = (0..5)
            .map(|_| ipam.allocate().unwrap().to_string())
            .collect();
        let expected = [
            "172.17.0.2",
            "172.17.0.3",
            "172.17.0.4",
            "172.17.0.5",
            "172.17.0.6",
        ];
        assert_eq!(given, expected);
        assert!(matches!(ipam.allocate(), Err(Error::Exhausted { .. })));
        assert!(ipam.release([172, 17, 0, 3].into()));
        assert!(!ipam.release([172, 17, 0, 3].into()));
        assert_eq!(ipam.allocate().unwrap().to_string(), "172.17.0.3");
    }

    #[test]
    fn a_returned_address_waits_for_its_turn() {
        let mut ipam = ipam("10.0.0.0/24");
        let first = ipam.allocate().unwrap();
        ipam.release(first);
        assert_ne!(ipam.allocate().unwrap(), first);
    }

    #[test]
    fn what_cannot_be_an_endpoint_is_refused() {
        let mut ipam = ipam("172.17.0.0/16");
        for outside in ["172.17.0.0", "172.17.255.255", "172.18.0.2", "fd00::1"] {
            let refused = ipam.reserve(outside.parse().unwrap());
            assert!(
                matches!(refused, Err(Error::AddressOutside { .. })),
                "{outside}"
            );
        }
        let gateway = ipam.reserve("172.17.0.1".parse().unwrap());
        assert!(matches!(gateway, Err(Error::AddressInUse { .. })));
    }

    #[test]
    fn a_range_limits_what_is_given_but_not_what_is_chosen() {
        let pool = Pool::of(subnet("10.0.0.0/16"));
        let mut ipam = Ipam::within(&pool, &subnet("10.0.5.0/30"));
        let given: Vec<_> = std::iter::from_fn(|| ipam.allocate().ok()).collect();
        assert_eq!(given.len(), 4);
        assert_eq!(given[0].to_string(), "10.0.5.0");
        assert!(ipam.reserve("10.0.9.9".parse().unwrap()).is_ok());
    }

    #[test]
    fn ipv6_works_the_same() {
        let mut ipam = ipam("fd00::/64");
        assert_eq!(ipam.allocate().unwrap().to_string(), "fd00::2");
        assert!(
            ipam.reserve("fd00::ffff:ffff:ffff:ffff".parse().unwrap())
                .is_ok()
        );
    }

    /// A small generator, so that a failing seed can be run again.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % bound
        }
    }

    #[test]
    fn no_address_is_ever_given_twice() {
        for seed in 1..=200u64 {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let subnet = subnet(["10.0.0.0/28", "10.0.0.0/30", "10.0.0.0/24"][seed as usize % 3]);
            let mut ipam = Ipam::new(&Pool::of(subnet));
            let mut held: HashSet<IpAddr> = HashSet::from([subnet.at(1)]);
            for _ in 0..500 {
                let any = subnet.at(u128::from(random.below(260)));
                match random.below(4) {
                    0 if any != subnet.at(1) => assert_eq!(ipam.release(any), held.remove(&any)),
                    1 => {
                        if ipam.reserve(any).is_ok() {
                            assert!(held.insert(any), "seed {seed}: {any} reserved twice");
                        }
                    }
                    _ => match ipam.allocate() {
                        Ok(given) => assert!(held.insert(given), "seed {seed}: {given} twice"),
                        Err(_) => {
                            assert_eq!(held.len() as u128, subnet.last_offset() - 1, "seed {seed}");
                        }
                    },
                }
            }
        }
    }

    #[test]
    fn subnets_that_the_host_uses_are_skipped() {
        let check = |taken: &[&str], expected: &str| {
            let taken: Vec<_> = taken.iter().map(|text| subnet(text)).collect();
            assert_eq!(
                choose_subnet(&AddressPool::defaults(), &taken)
                    .unwrap()
                    .to_string(),
                expected,
                "{taken:?}"
            );
        };
        check(&[], "172.17.0.0/16");
        check(&["172.17.5.0/24"], "172.18.0.0/16");
        check(&["172.16.0.0/12"], "192.168.0.0/20");
        check(
            &["172.16.0.0/12", "192.168.0.0/24", "192.168.20.1/32"],
            "192.168.32.0/20",
        );
        check(
            &["172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16"],
            "172.20.0.0/16",
        );
        assert!(choose_subnet(&AddressPool::defaults(), &[subnet("0.0.0.0/0")]).is_err());
    }
}
