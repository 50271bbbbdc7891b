//! Networks and endpoints.

use std::collections::BTreeMap;

use hull_engine::api::{Container, EgressReport, Endpoint};
use hull_model::spec::{EndpointSpec, NetworkMode};
use serde::{Deserialize, Serialize};

use crate::wire::host_config::{WirePortBinding, network_word};
use crate::wire::{OrZero, TextMap, from_text_map, is_zero, null_if_empty, to_text_map};

/// What a client asks for on one network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct EndpointRequest {
    #[serde(rename = "IPAMConfig")]
    ipam_config: Option<IpamConfig>,
    links: Option<Vec<String>>,
    aliases: Option<Vec<String>>,
    mac_address: OrZero<String>,
    driver_opts: Option<TextMap>,
    gw_priority: OrZero<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct IpamConfig {
    #[serde(rename = "IPv4Address", skip_serializing_if = "is_zero")]
    ipv4_address: OrZero<String>,
    #[serde(rename = "IPv6Address", skip_serializing_if = "is_zero")]
    ipv6_address: OrZero<String>,
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Option::is_none")]
    link_local_ips: Option<Vec<String>>,
}

impl EndpointRequest {
    /// As from a client whose version of the API has no priorities.
    pub(super) fn forget_gateway_priority(&mut self) {
        self.gw_priority = OrZero::default();
    }
}

impl From<EndpointRequest> for EndpointSpec {
    fn from(wire: EndpointRequest) -> Self {
        let addresses = wire.ipam_config.unwrap_or_default();
        Self {
            ipv4_address: addresses.ipv4_address.0,
            ipv6_address: addresses.ipv6_address.0,
            link_local_ips: addresses.link_local_ips.unwrap_or_default(),
            mac_address: wire.mac_address.0,
            aliases: wire.aliases.unwrap_or_default(),
            links: wire.links.unwrap_or_default(),
            driver_opts: from_text_map(wire.driver_opts),
            gateway_priority: wire.gw_priority.0,
        }
    }
}

/// One network of a container, as `inspect` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EndpointSettings {
    #[serde(rename = "IPAMConfig")]
    ipam_config: Option<IpamConfig>,
    links: Option<Vec<String>>,
    aliases: Option<Vec<String>>,
    mac_address: String,
    driver_opts: Option<TextMap>,
    gw_priority: i64,
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    gateway: String,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "DNSNames")]
    dns_names: Option<Vec<String>>,
}

impl EndpointSettings {
    fn show(asked: &EndpointSpec, live: Option<&Endpoint>, dns_names: Option<Vec<String>>) -> Self {
        let addresses = IpamConfig {
            ipv4_address: OrZero(asked.ipv4_address.clone()),
            ipv6_address: OrZero(asked.ipv6_address.clone()),
            link_local_ips: null_if_empty(&asked.link_local_ips),
        };
        Self {
            ipam_config: Some(addresses).filter(|config| *config != IpamConfig::default()),
            links: null_if_empty(&asked.links),
            aliases: null_if_empty(&asked.aliases),
            mac_address: live.map_or_else(|| asked.mac_address.clone(), |e| e.mac.clone()),
            driver_opts: (!asked.driver_opts.is_empty()).then(|| to_text_map(&asked.driver_opts)),
            gw_priority: asked.gateway_priority,
            network_id: live.map(|e| e.network_id.clone()).unwrap_or_default(),
            endpoint_id: live.map(|e| e.endpoint_id.clone()).unwrap_or_default(),
            gateway: text(live.and_then(|e| e.gateway)),
            ip_address: text(live.and_then(|e| e.address)),
            ip_prefix_len: live.map_or(0, |e| e.prefix),
            ipv6_gateway: text(live.and_then(|e| e.gateway6)),
            global_ipv6_address: text(live.and_then(|e| e.address6)),
            global_ipv6_prefix_len: live.map_or(0, |e| e.prefix6),
            dns_names,
        }
    }
}

fn text(address: Option<impl ToString>) -> String {
    address
        .map(|address| address.to_string())
        .unwrap_or_default()
}

/// The networks of a container: those that it was asked to be on, running or not.
pub(crate) fn show_endpoints(container: &Container) -> BTreeMap<String, EndpointSettings> {
    let spec = &container.spec;
    let live = |name: &str| container.endpoints.iter().find(|e| e.network == name);
    let mut shown: BTreeMap<_, _> = spec
        .endpoints
        .iter()
        .map(|(name, asked)| {
            let names = (name != "bridge").then(|| container.dns_names(asked));
            (
                name.clone(),
                EndpointSettings::show(asked, live(name), names),
            )
        })
        .collect();
    if matches!(spec.host.network, NetworkMode::Host | NetworkMode::None) {
        let settings = EndpointSettings::show(&EndpointSpec::default(), None, None);
        shown.insert(network_word(&spec.host.network), settings);
    }
    shown
}

/// `NetworkSettings` of `inspect`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NetworkSettings {
    bridge: &'static str,
    #[serde(rename = "SandboxID")]
    sandbox_id: String,
    sandbox_key: String,
    ports: BTreeMap<String, Option<Vec<WirePortBinding>>>,
    hairpin_mode: bool,
    #[serde(rename = "LinkLocalIPv6Address")]
    link_local_ipv6_address: &'static str,
    #[serde(rename = "LinkLocalIPv6PrefixLen")]
    link_local_ipv6_prefix_len: u8,
    #[serde(rename = "SecondaryIPAddresses")]
    secondary_ip_addresses: Option<Vec<String>>,
    #[serde(rename = "SecondaryIPv6Addresses")]
    secondary_ipv6_addresses: Option<Vec<String>>,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: String,
    mac_address: String,
    networks: BTreeMap<String, EndpointSettings>,
    /// Ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<WireEgress>,
}

/// What an egress policy says and has done; ours.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WireEgress {
    allowed: Vec<String>,
    connections: u64,
    blocked_packets: u64,
    blocked_bytes: u64,
}

impl From<EgressReport> for WireEgress {
    fn from(report: EgressReport) -> Self {
        Self {
            allowed: report.allowed,
            connections: report.connections,
            blocked_packets: report.blocked_packets,
            blocked_bytes: report.blocked_bytes,
        }
    }
}

impl NetworkSettings {
    /// Up to API 1.44 aliases named the container itself too: its short id and host name.
    pub(crate) fn with_own_aliases(mut self, own: &[String]) -> Self {
        let of_users = |name: &str| !matches!(name, "bridge" | "host" | "none");
        for (_, settings) in self.networks.iter_mut().filter(|(name, _)| of_users(name)) {
            let aliases = settings.aliases.get_or_insert_default();
            for name in own {
                if !name.is_empty() && !aliases.contains(name) {
                    aliases.push(name.clone());
                }
            }
        }
        self
    }

    pub(crate) fn show(container: &Container, egress: Option<EgressReport>) -> Self {
        // The flat fields repeat the default bridge's, for old clients.
        let live = container.endpoints.iter().find(|e| e.network == "bridge");
        let runs = container.pid != 0;
        let mut ports = BTreeMap::new();
        if runs {
            let exposed = container.spec.config.exposed().into_iter();
            ports = exposed.map(|port| (port, None)).collect();
            for port in &container.ports {
                let key = format!("{}/{}", port.container_port, port.protocol);
                let bindings: &mut Option<Vec<WirePortBinding>> = ports.entry(key).or_default();
                bindings.get_or_insert_default().push(port.into());
            }
        }
        Self {
            bridge: "",
            sandbox_id: if runs {
                container.id.to_string()
            } else {
                String::new()
            },
            // The namespace has no name in the file system: the process is its handle.
            sandbox_key: if runs {
                format!("/proc/{}/ns/net", container.pid)
            } else {
                String::new()
            },
            ports,
            hairpin_mode: false,
            link_local_ipv6_address: "",
            link_local_ipv6_prefix_len: 0,
            secondary_ip_addresses: None,
            secondary_ipv6_addresses: None,
            endpoint_id: live.map(|e| e.endpoint_id.clone()).unwrap_or_default(),
            gateway: text(live.and_then(|e| e.gateway)),
            global_ipv6_address: text(live.and_then(|e| e.address6)),
            global_ipv6_prefix_len: live.map_or(0, |e| e.prefix6),
            ip_address: text(live.and_then(|e| e.address)),
            ip_prefix_len: live.map_or(0, |e| e.prefix),
            ipv6_gateway: text(live.and_then(|e| e.gateway6)),
            mac_address: live.map(|e| e.mac.clone()).unwrap_or_default(),
            networks: show_endpoints(container),
            egress: egress.map(WireEgress::from),
        }
    }
}
