//! The default bridge, as the daemon's flags want it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hull_net::{AddressPool, Networks, Subnet};

use super::table::DEFAULT_NETWORK;
use super::{failed, id_of, request};
use crate::BridgeConfig;
use crate::api::{self, NetworkPool, NetworkSpec};
use crate::clock::now_ns;
use crate::error::{EngineError, Result};

/// Length of the prefix of its IPv6 subnet where nobody chose one.
const IPV6_PREFIX_LENGTH: u8 = 64;

/// The default bridge; `pools` are where subnets come from that nobody chose, and the begin of
/// this engine's own IPv6 addresses.
pub(super) fn bridge(
    config: &BridgeConfig,
    tag: &str,
    networks: &Networks,
    pools: (&[AddressPool], Subnet),
    taken: &[Subnet],
) -> Result<api::Network> {
    let link = match (config.name.as_str(), tag) {
        ("", "hull") => "hull0".to_owned(),
        ("", tag) => format!("hl{}", tag.trim_start_matches("hull-")),
        (name, _) => name.to_owned(),
    };
    let choose = |pools: &[AddressPool]| {
        networks
            .choose_subnet(&link, pools, taken)
            .map_err(failed("choose a subnet"))
    };
    let v4 = match pool("--bip", &config.address, "--fixed-cidr", &config.range)? {
        Some(pool) => pool,
        None => pool_of(choose(pools.0)?),
    };
    let mut all = vec![v4];
    if config.ipv6 || !config.address6.is_empty() || !config.range6.is_empty() {
        let chosen = pool(
            "--bip6",
            &config.address6,
            "--fixed-cidr-v6",
            &config.range6,
        )?;
        // The first of this engine's own that no network of users has.
        let mut own = (0..=u16::MAX).map(|number| nth(pools.1, number));
        let free = own.find(|subnet| !taken.iter().any(|other| other.overlaps(subnet)));
        all.push(chosen.unwrap_or(pool_of(free.unwrap_or(nth(pools.1, 0)))));
    }
    let mtu = if config.mtu == 0 {
        request::MTU_DEFAULT
    } else {
        config.mtu
    };
    let host_ip = config.default_ip.unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let option = |key: &str, value: &str| (format!("com.docker.network.{key}"), value.to_owned());
    let flag = |on: bool| if on { "true" } else { "false" };
    let options = BTreeMap::from([
        option("bridge.default_bridge", "true"),
        option("bridge.enable_icc", flag(!config.no_icc)),
        option("bridge.enable_ip_masquerade", flag(!config.no_masquerade)),
        option("bridge.host_binding_ipv4", &host_ip.to_string()),
        option("bridge.name", &link),
        option("driver.mtu", &mtu.to_string()),
    ]);
    Ok(api::Network {
        id: id_of(&format!("{tag}/{link}")),
        spec: Arc::new(NetworkSpec {
            name: DEFAULT_NETWORK.to_owned(),
            ipv4: true,
            ipv6: all.len() > 1,
            pools: all,
            options,
            ..NetworkSpec::default()
        }),
        created_ns: now_ns(),
        predefined: true,
        link,
    })
}

/// The n-th subnet of the engine's own.
fn nth(own: Subnet, number: u16) -> Subnet {
    let offset = u128::from(number) << (128 - u32::from(IPV6_PREFIX_LENGTH));
    Subnet::containing(own.at(offset), IPV6_PREFIX_LENGTH)
}

fn pool_of(subnet: Subnet) -> NetworkPool {
    NetworkPool {
        subnet,
        gateway: subnet.at(1),
        range: None,
        auxiliary: BTreeMap::new(),
        chosen: false,
    }
}

/// The pool of a gateway with its prefix, or of a subnet to take addresses from, or of the one
/// inside the other; none of none.
fn pool(
    address_flag: &str,
    address: &str,
    range_flag: &str,
    range: &str,
) -> Result<Option<NetworkPool>> {
    let range = match range {
        "" => None,
        text => Some(
            text.parse::<Subnet>()
                .map_err(|error| EngineError::Invalid(format!("{range_flag}: {error}")))?,
        ),
    };
    if address.is_empty() {
        return Ok(range.map(pool_of));
    }
    let (subnet, gateway) = gateway_of(address_flag, address)?;
    if let Some(range) = range
        && !(subnet.contains(range.address()) && range.prefix_length() >= subnet.prefix_length())
    {
        return Err(EngineError::Invalid(format!(
            "{range_flag} {range} is no part of {address_flag} {address}"
        )));
    }
    Ok(Some(NetworkPool {
        gateway,
        range,
        ..pool_of(subnet)
    }))
}

/// Reads `172.17.0.1/16`: the gateway with the length of the prefix.
fn gateway_of(flag: &str, text: &str) -> Result<(Subnet, IpAddr)> {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        Some((address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?))
    });
    let Some((gateway, length)) = parsed else {
        return Err(EngineError::Invalid(format!(
            "{flag}: {text:?} is not an address with a prefix, such as 172.17.0.1/16"
        )));
    };
    Ok((Subnet::containing(gateway, length), gateway))
}

#[cfg(test)]
mod tests {
    use super::pool;

    fn check(address: &str, range: &str, expected: &str) {
        let shown = match pool("--bip", address, "--fixed-cidr", range) {
            Ok(None) => String::new(),
            Ok(Some(pool)) => {
                let range = pool.range.map(String::from).unwrap_or_default();
                format!("{} {} {range}", pool.subnet, pool.gateway)
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(shown.trim(), expected, "{address} {range}");
    }

    #[test]
    fn flags_make_a_pool() {
        check("", "", "");
        check("10.1.0.9/24", "", "10.1.0.0/24 10.1.0.9");
        check(
            "10.1.0.1/24",
            "10.1.0.128/25",
            "10.1.0.0/24 10.1.0.1 10.1.0.128/25",
        );
        check("", "10.1.0.0/25", "10.1.0.0/25 10.1.0.1");
        check("fd01::1/64", "", "fd01::/64 fd01::1");
        check(
            "10.1.0.1/24",
            "10.2.0.0/25",
            "--fixed-cidr 10.2.0.0/25 is no part of --bip 10.1.0.1/24",
        );
        check(
            "x",
            "",
            "--bip: \"x\" is not an address with a prefix, such as 172.17.0.1/16",
        );
        check(
            "",
            "10.1.0.1/25",
            "--fixed-cidr: 10.1.0.1/25 has bits beyond its prefix",
        );
    }
}
