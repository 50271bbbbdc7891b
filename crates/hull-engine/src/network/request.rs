//! From what a client asks of a network to what it is: names, pools, options, in Docker's words
//! where something cannot be. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hull_model::NetworkId;
use hull_net::{IpvlanMode, IpvlanReach, Kind, MacvlanMode, Subnet};

use super::egress;
use crate::api::{Network, NetworkDriver, NetworkPool, NetworkRequest, NetworkSpec, PoolRequest};
use crate::error::{EngineError, Result};

/// Names that networks of users cannot have.
const PREDEFINED: [&str; 4] = ["bridge", "host", "none", "default"];
/// Bytes of a name: it is part of comments and messages.
const NAME_BYTES_MAX: usize = 255;
/// Largest packet where nobody says otherwise.
pub(super) const MTU_DEFAULT: u32 = 1500;

const OPTION_BRIDGE: &str = "com.docker.network.bridge.name";
const OPTION_ICC: &str = "com.docker.network.bridge.enable_icc";
const OPTION_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const OPTION_MTU: &str = "com.docker.network.driver.mtu";
const OPTION_PARENT: &str = "parent";
const OPTION_MODE: &str = "macvlan_mode";
const OPTION_IPVLAN_MODE: &str = "ipvlan_mode";
const OPTION_IPVLAN_FLAG: &str = "ipvlan_flag";

/// What Docker's bridges can be told and ours not yet, and the value that means the usual.
const NOT_THERE: [(&str, &str); 5] = [
    ("com.docker.network.bridge.gateway_mode_ipv4", "nat"),
    ("com.docker.network.bridge.gateway_mode_ipv6", "nat"),
    ("com.docker.network.bridge.inhibit_ipv4", "false"),
    ("com.docker.network.bridge.trusted_host_interfaces", ""),
    ("com.docker.network.container_iface_prefix", "eth"),
];

fn invalid<T>(text: impl Into<String>) -> Result<T> {
    Err(EngineError::Invalid(text.into()))
}

/// Takes the configuration of another network, which must be there for that.
pub(super) fn take_configuration(
    request: &mut NetworkRequest,
    find: impl Fn(&str) -> Result<Arc<Network>>,
) -> Result<()> {
    let denied = |text: &str| Err(EngineError::Denied(text.to_owned()));
    if request.config_from.is_empty() {
        return Ok(());
    }
    if request.config_only {
        return denied("a configuration network cannot depend on another configuration network");
    }
    let is_empty = request.pools.is_empty()
        && request.labels.is_empty()
        && request
            .ipam_options
            .as_ref()
            .is_none_or(std::collections::BTreeMap::is_empty)
        && !request.ipv6;
    if !is_empty {
        return denied(
            "user specified configurations are not supported if the network depends on a \
             configuration network",
        );
    }
    if !request.options.is_empty() {
        return denied(
            "network driver options are not supported if the network depends on a configuration \
             network",
        );
    }
    let from = find(&request.config_from)?;
    if !from.spec.config_only {
        let name = &from.spec.name;
        return denied(&format!("{name} is not a configuration network"));
    }
    let spec = (*from.spec).clone();
    (request.ipv4, request.ipv6) = (spec.ipv4, spec.ipv6);
    request.options = spec.options;
    request.labels = spec.labels;
    request.ipam_options = spec.ipam_options;
    let pool = |pool: NetworkPool| PoolRequest {
        subnet: pool.subnet.to_string(),
        gateway: pool.gateway.to_string(),
        range: pool.range.map(String::from).unwrap_or_default(),
        auxiliary: (pool.auxiliary.into_iter())
            .map(|(name, address)| (name, address.to_string()))
            .collect(),
    };
    request.pools = spec.pools.into_iter().map(pool).collect();
    Ok(())
}

/// Checks everything that needs no look at the host. Families that have no pool yet get one later.
pub(super) fn parse(request: NetworkRequest) -> Result<NetworkSpec> {
    let name = request.name;
    if name.trim().is_empty() {
        return invalid("invalid name: name is empty");
    }
    if name.len() > NAME_BYTES_MAX {
        return invalid(format!(
            "a network's name has at most {NAME_BYTES_MAX} bytes"
        ));
    }
    if PREDEFINED.contains(&name.as_str()) {
        return Err(EngineError::Denied(format!(
            "operation is not permitted on predefined {name} network "
        )));
    }
    // What a configuration is for is said by the networks that take it.
    let driver = match request.config_only {
        true => NetworkDriver::Null,
        false => driver(&request.driver)?,
    };
    if request.config_only && (request.internal || request.attachable) {
        return Err(EngineError::Denied(
            "configuration network can only contain network specific fields. Network operator fields \
             like [ ingress | internal | attachable | scope ] are not supported."
                .to_owned(),
        ));
    }
    if !matches!(request.ipam_driver.as_str(), "" | "default") {
        return Err(EngineError::NoSuchPlugin(request.ipam_driver));
    }
    let pools: Vec<NetworkPool> = request
        .pools
        .iter()
        .filter(|pool| !pool.subnet.is_empty() || !pool.auxiliary.is_empty())
        .map(pool)
        .collect::<Result<_>>()?;
    check_pools(driver, &pools)?;
    for (option, usual) in NOT_THERE {
        let asked = request.options.get(option);
        if let Some(value) = asked.filter(|value| !value.is_empty() && *value != usual) {
            return Err(EngineError::Unsupported(format!(
                "option {option}={value} of a network is not there yet in hull"
            )));
        }
    }
    let has = |v6: bool| {
        pools
            .iter()
            .any(|pool| pool.subnet.address().is_ipv6() == v6)
    };
    let spec = NetworkSpec {
        name,
        driver,
        internal: request.internal,
        attachable: request.attachable,
        ipv4: request.ipv4 || has(false),
        ipv6: request.ipv6 || has(true),
        pools,
        ipam_options: request.ipam_options,
        options: request.options,
        labels: request.labels,
        config_only: request.config_only,
        config_from: request.config_from,
    };
    if !spec.ipv4 && !spec.ipv6 {
        return invalid("IPv4 or IPv6 must be enabled");
    }
    // Options are read once here, so that a wrong one is told now and not at the next start.
    if !spec.config_only {
        plan(NetworkId::from_bytes([0; 32]), &spec)?;
    }
    Ok(spec)
}

fn driver(word: &str) -> Result<NetworkDriver> {
    match word {
        "" | "bridge" => Ok(NetworkDriver::Bridge),
        "macvlan" => Ok(NetworkDriver::Macvlan),
        "ipvlan" => Ok(NetworkDriver::Ipvlan),
        "host" | "null" => Err(EngineError::Denied(format!(
            "only one instance of \"{word}\" network is allowed"
        ))),
        "overlay" => Err(EngineError::Unavailable(
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" \
             to connect this node to swarm and try again."
                .to_owned(),
        )),
        other => Err(EngineError::NoSuchPlugin(other.to_owned())),
    }
}

fn pool(asked: &PoolRequest) -> Result<NetworkPool> {
    let text = &asked.subnet;
    let subnet = subnet(text, "subnet")?;
    let within = |what: &str, address: &str| -> Result<IpAddr> {
        // Some clients send a gateway with the length of the prefix.
        let plain = address.split('/').next().unwrap_or_default();
        match plain.parse() {
            Err(_) => invalid(format!(
                "invalid network config:\ninvalid {what} {address}: invalid address"
            )),
            Ok(address) if !subnet.contains(address) => invalid(format!(
                "invalid network config:\ninvalid {what} {address}: parent subnet {subnet} doesn't \
                 contain this address"
            )),
            Ok(address) => Ok(address),
        }
    };
    let range = match asked.range.as_str() {
        "" => None,
        range => Some(ip_range(range, &subnet)?),
    };
    let auxiliary = asked
        .auxiliary
        .iter()
        .map(|(name, address)| Ok((name.clone(), within("auxiliary address", address)?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    let gateway = match asked.gateway.as_str() {
        "" => first_free(&subnet, range.as_ref(), &auxiliary),
        gateway => within("gateway", gateway)?,
    };
    Ok(NetworkPool {
        subnet,
        gateway,
        range,
        auxiliary,
        chosen: true,
    })
}

/// The gateway that nobody chose: the first address of the range, as in Docker.
fn first_free(
    subnet: &Subnet,
    range: Option<&Subnet>,
    auxiliary: &BTreeMap<String, IpAddr>,
) -> IpAddr {
    let start = range
        .and_then(|range| subnet.offset(range.address()))
        .unwrap_or(0)
        .max(1);
    (start..=subnet.last_offset())
        .take(auxiliary.len() + 1)
        .map(|offset| subnet.at(offset))
        .find(|address| !auxiliary.values().any(|taken| taken == address))
        .unwrap_or(subnet.at(1))
}

fn subnet(text: &str, what: &str) -> Result<Subnet> {
    let error = match text.parse::<Subnet>() {
        Ok(subnet) => return Ok(subnet),
        Err(error) => error,
    };
    let reason = match error {
        hull_net::InvalidNetwork::HostBits { .. } => {
            let whole = text.split_once('/').and_then(|(address, length)| {
                Some(Subnet::containing(
                    address.parse().ok()?,
                    length.parse().ok()?,
                ))
            });
            format!(
                "it should be {}",
                whole.map(String::from).unwrap_or_default()
            )
        }
        _ => "invalid CIDR block notation".to_owned(),
    };
    invalid(format!(
        "invalid network config:\ninvalid {what} {text}: {reason}"
    ))
}

fn ip_range(text: &str, parent: &Subnet) -> Result<Subnet> {
    let range = subnet(text, "ip-range")?;
    let reason = if !parent.overlaps(&range) {
        format!("parent subnet {parent} doesn't contain ip-range")
    } else if range.prefix_length() < parent.prefix_length() {
        format!("CIDR block is bigger than its parent subnet {parent}")
    } else {
        return Ok(range);
    };
    invalid(format!(
        "invalid network config:\ninvalid ip-range {text}: {reason}"
    ))
}

fn check_pools(driver: NetworkDriver, pools: &[NetworkPool]) -> Result<()> {
    for (index, pool) in pools.iter().enumerate() {
        let others = &pools[index + 1..];
        if others
            .iter()
            .any(|other| other.subnet.overlaps(&pool.subnet))
        {
            return Err(overlapping());
        }
        let same_family = |other: &NetworkPool| {
            other.subnet.address().is_ipv4() == pool.subnet.address().is_ipv4()
        };
        if others.iter().any(same_family) {
            return invalid(format!(
                "{} driver doesn't support multiple subnets",
                driver.word()
            ));
        }
    }
    Ok(())
}

pub(super) fn overlapping() -> EngineError {
    EngineError::Denied(
        "invalid pool request: Pool overlaps with other one on this address space".to_owned(),
    )
}

/// Name of the link of a bridge, as Docker names it, unless an option does.
pub(super) fn link(id: NetworkId, spec: &NetworkSpec) -> String {
    match spec.driver {
        NetworkDriver::Bridge => match spec.options.get(OPTION_BRIDGE) {
            Some(name) if !name.is_empty() => name.clone(),
            _ => format!("br-{}", id.short()),
        },
        // As Docker names the link of its own that leads nowhere.
        NetworkDriver::Macvlan | NetworkDriver::Ipvlan => match spec.options.get(OPTION_PARENT) {
            Some(name) if has_parent(spec) => name.clone(),
            _ => format!("dm-{}", id.short()),
        },
        NetworkDriver::Host | NetworkDriver::Null => String::new(),
    }
}

/// Whether a link of the host is below a network of a driver that is on top of one.
fn has_parent(spec: &NetworkSpec) -> bool {
    spec.options
        .get(OPTION_PARENT)
        .is_some_and(|name| !name.is_empty())
        && !spec.internal
}

/// What is to be in the kernel for a network.
pub(super) fn plan(id: NetworkId, spec: &NetworkSpec) -> Result<hull_net::Network> {
    let flag = |key: &str, default: bool| match spec.options.get(key).map(String::as_str) {
        None => Ok(default),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => invalid(format!("invalid value {other:?} of option {key}")),
    };
    let mtu = match spec.options.get(OPTION_MTU) {
        None => MTU_DEFAULT,
        Some(text) => match text.parse::<u32>() {
            Ok(0) => MTU_DEFAULT,
            Ok(mtu) => mtu,
            Err(_) => return invalid(format!("invalid value {text:?} of option {OPTION_MTU}")),
        },
    };
    let kind = match spec.driver {
        NetworkDriver::Macvlan => Kind::Macvlan(macvlan_mode(spec)?),
        NetworkDriver::Ipvlan => ipvlan_kind(spec)?,
        _ => Kind::Bridge,
    };
    let network = hull_net::Network {
        name: spec.name.clone(),
        kind,
        bridge: link(id, spec),
        pools: spec
            .pools
            .iter()
            .map(|pool| hull_net::Pool {
                subnet: pool.subnet,
                gateway: pool.gateway,
            })
            .collect(),
        mtu,
        internal: spec.internal || (spec.driver.is_on_top() && !has_parent(spec)),
        masquerade: flag(OPTION_MASQUERADE, true)?,
        icc: flag(OPTION_ICC, true)?,
        egress: egress::of_network(spec)?.map(|egress| egress::ranges(&egress)),
    };
    network
        .validate()
        .map_err(|error| EngineError::Invalid(error.to_string()))?;
    Ok(network)
}

fn macvlan_mode(spec: &NetworkSpec) -> Result<MacvlanMode> {
    match spec.options.get(OPTION_MODE).map_or("", String::as_str) {
        "" | "bridge" => Ok(MacvlanMode::Bridge),
        "private" => Ok(MacvlanMode::Private),
        "vepa" => Ok(MacvlanMode::Vepa),
        "passthru" => Ok(MacvlanMode::Passthru),
        other => invalid(format!("requested macvlan mode '{other}' is not valid")),
    }
}

fn ipvlan_kind(spec: &NetworkSpec) -> Result<Kind> {
    let option = |key: &str| spec.options.get(key).map_or("", String::as_str);
    let mode = match option(OPTION_IPVLAN_MODE) {
        "" | "l2" => IpvlanMode::L2,
        "l3" => IpvlanMode::L3,
        "l3s" => IpvlanMode::L3s,
        other => return invalid(format!("requested ipvlan mode '{other}' is not valid")),
    };
    let reach = match option(OPTION_IPVLAN_FLAG) {
        "" | "bridge" => IpvlanReach::Bridge,
        "private" => IpvlanReach::Private,
        "vepa" => IpvlanReach::Vepa,
        other => return invalid(format!("requested ipvlan flag '{other}' is not valid")),
    };
    Ok(Kind::Ipvlan(mode, reach))
}

#[cfg(test)]
mod tests {
    use super::{NetworkRequest, PoolRequest, parse};

    fn check(pools: &[(&str, &str, &str)], expected: &str) {
        let pools = pools.iter().map(|(subnet, gateway, range)| PoolRequest {
            subnet: (*subnet).to_owned(),
            gateway: (*gateway).to_owned(),
            range: (*range).to_owned(),
            ..PoolRequest::default()
        });
        let request = NetworkRequest {
            name: "web".to_owned(),
            ipv4: true,
            pools: pools.collect(),
            ..NetworkRequest::default()
        };
        let shown = match parse(request) {
            Ok(spec) => {
                let pools = spec.pools.iter();
                let pools: Vec<_> = pools
                    .map(|p| format!("{} {}", p.subnet, p.gateway))
                    .collect();
                pools.join(", ")
            }
            Err(error) => error.to_string().replace('\n', " "),
        };
        assert_eq!(shown, expected, "{pools:?}", pools = "");
    }

    #[test]
    fn pools_are_checked_in_docker_s_words() {
        check(&[], "");
        check(&[("10.1.0.0/24", "", "")], "10.1.0.0/24 10.1.0.1");
        check(
            &[("10.1.0.0/24", "10.1.0.254", "")],
            "10.1.0.0/24 10.1.0.254",
        );
        check(
            &[("10.1.0.0/24", "", "10.1.0.128/25")],
            "10.1.0.0/24 10.1.0.128",
        );
        check(
            &[("10.1.0.0/24", "", ""), ("fd01::/64", "", "")],
            "10.1.0.0/24 10.1.0.1, fd01::/64 fd01::1",
        );
        check(
            &[("10.1.0.1/24", "", "")],
            "invalid network config: invalid subnet 10.1.0.1/24: it should be 10.1.0.0/24",
        );
        check(
            &[("10.1.0.0", "", "")],
            "invalid network config: invalid subnet 10.1.0.0: invalid CIDR block notation",
        );
        check(
            &[("10.1.0.0/24", "10.2.0.1", "")],
            "invalid network config: invalid gateway 10.2.0.1: parent subnet 10.1.0.0/24 doesn't \
             contain this address",
        );
        check(
            &[("10.1.0.0/24", "", "10.0.0.0/8")],
            "invalid network config: invalid ip-range 10.0.0.0/8: CIDR block is bigger than its \
             parent subnet 10.1.0.0/24",
        );
        check(
            &[("10.1.0.0/24", "", ""), ("10.2.0.0/24", "", "")],
            "bridge driver doesn't support multiple subnets",
        );
    }

    #[test]
    fn names_and_drivers_that_cannot_be_are_refused() {
        for (name, driver) in [("", ""), ("bridge", ""), ("x", "host"), ("x", "weird")] {
            let request = NetworkRequest {
                name: name.to_owned(),
                driver: driver.to_owned(),
                ipv4: true,
                ..NetworkRequest::default()
            };
            assert!(parse(request).is_err(), "{name} {driver}");
        }
    }
}
