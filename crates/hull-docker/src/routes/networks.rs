//! Networks: list and inspect of what the engine has.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use hull_engine::api::{Container, Network};
use serde::Serialize;
use serde_json::{Value, json};

use crate::body::json;
use crate::errors::ApiError;
use crate::filter::Filters;
use crate::request::Call;
use crate::router::Answer;
use crate::time::rfc3339;

const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

/// A network as Docker shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    name: String,
    id: String,
    created: String,
    scope: &'static str,
    driver: &'static str,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Value,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: Value,
    config_only: bool,
    containers: BTreeMap<String, Resource>,
    options: BTreeMap<&'static str, String>,
    labels: BTreeMap<String, String>,
}

/// A container on a network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Resource {
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    mac_address: String,
    #[serde(rename = "IPv4Address")]
    ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    ipv6_address: &'static str,
}

impl Shown {
    /// The list leaves out the containers, as Docker's does.
    fn of(network: &Network, containers: &[Arc<Container>]) -> Self {
        let pools: Vec<Value> = network
            .subnet
            .iter()
            .map(|(address, prefix)| {
                let subnet = format!("{address}/{prefix}");
                match network.gateway {
                    Some(gateway) => json!({"Subnet": subnet, "Gateway": gateway}),
                    None => json!({"Subnet": subnet}),
                }
            })
            .collect();
        let attached = containers.iter().filter_map(|container| {
            let endpoint = container
                .endpoint
                .as_ref()
                .filter(|e| e.network_id == network.id)?;
            let resource = Resource {
                name: container.spec.name.clone(),
                endpoint_id: endpoint.endpoint_id.clone(),
                mac_address: endpoint.mac.clone(),
                ipv4_address: format!("{}/{}", endpoint.address, endpoint.prefix),
                ipv6_address: "",
            };
            Some((container.id.to_string(), resource))
        });
        Self {
            name: network.name.clone(),
            id: network.id.clone(),
            created: rfc3339(network.created_ns),
            scope: "local",
            driver: network.driver,
            enable_ipv4: true,
            enable_ipv6: false,
            ipam: json!({"Driver": "default", "Options": null, "Config": pools}),
            internal: false,
            attachable: false,
            ingress: false,
            config_from: json!({"Network": ""}),
            config_only: false,
            containers: attached.collect(),
            options: options(network),
            labels: BTreeMap::new(),
        }
    }
}

/// The options by which clients find the link of a bridge.
fn options(network: &Network) -> BTreeMap<&'static str, String> {
    if network.link.is_empty() {
        return BTreeMap::new();
    }
    BTreeMap::from([
        (
            "com.docker.network.bridge.default_bridge",
            "true".to_owned(),
        ),
        ("com.docker.network.bridge.enable_icc", "true".to_owned()),
        (
            "com.docker.network.bridge.enable_ip_masquerade",
            "true".to_owned(),
        ),
        (
            "com.docker.network.bridge.host_binding_ipv4",
            "0.0.0.0".to_owned(),
        ),
        ("com.docker.network.bridge.name", network.link.clone()),
        ("com.docker.network.driver.mtu", network.mtu.to_string()),
    ])
}

pub(super) async fn list(call: Call) -> Answer {
    let filters = Filters::parse(call.query.get("filters"), &FILTERS)?;
    let no_labels = BTreeMap::new();
    let networks = call.engine().networks();
    let shown: Vec<Shown> = networks
        .iter()
        .filter(|network| {
            filters.fuzzy("name", &network.name)
                && filters.any("id", |id| network.id.starts_with(id))
                && filters.exact("driver", network.driver)
                && filters.exact("scope", "local")
                && filters.exact("type", "builtin")
                && filters.labels("label", &no_labels)
        })
        .map(|network| Shown::of(network, &[]))
        .collect();
    json(&shown)
}

fn find(call: &Call) -> Result<Network, ApiError> {
    let wanted = call.name();
    let networks = call.engine().networks();
    let exact = networks.iter().find(|n| n.name == wanted || n.id == wanted);
    let found = exact.or_else(|| networks.iter().find(|n| n.id.starts_with(wanted)));
    found
        .cloned()
        .ok_or_else(|| ApiError::not_found(format!("network {wanted} not found")))
}

pub(super) async fn inspect(call: Call) -> Answer {
    let network = find(&call)?;
    json(&Shown::of(&network, &call.engine().containers().list()))
}

pub(super) async fn remove(call: Call) -> Answer {
    let name = find(&call)?.name;
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        format!("{name} is a pre-defined network and cannot be removed"),
    ))
}
