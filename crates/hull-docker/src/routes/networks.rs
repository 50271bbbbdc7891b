//! Networks: create, list, inspect, connect, disconnect, remove, and what is installed for them.

use std::collections::BTreeMap;

use http::StatusCode;
use hull_engine::EngineError;
use hull_engine::api::{Member, Network, NetworkPool, NetworkRequest, PoolRequest};
use hull_model::spec::EndpointSpec;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::body::{empty, json, json_with, no_content};
use crate::errors::ApiError;
use crate::filter::Filters;
use crate::request::Call;
use crate::router::Answer;
use crate::time::{self, rfc3339};
use crate::wire::network::{EndpointRequest, WireEgress};
use crate::wire::{OrZero, TextMap, from_text_map, is_zero};

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
    ipam: Ipam,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: BTreeMap<&'static str, String>,
    config_only: bool,
    containers: BTreeMap<String, Resource>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    /// Ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<WireEgress>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    driver: &'static str,
    options: Option<BTreeMap<String, String>>,
    config: Vec<ShownPool>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownPool {
    subnet: String,
    #[serde(rename = "IPRange", skip_serializing_if = "is_zero")]
    ip_range: String,
    gateway: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    auxiliary_addresses: BTreeMap<String, String>,
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
    ipv6_address: String,
}

impl Shown {
    /// The list leaves out the containers, as Docker's does.
    fn of(network: &Network, members: Vec<Member>) -> Self {
        let spec = &network.spec;
        Self {
            name: spec.name.clone(),
            id: network.id.to_string(),
            created: rfc3339(network.created_ns),
            scope: "local",
            driver: spec.driver.word(),
            enable_ipv4: spec.ipv4,
            enable_ipv6: spec.ipv6,
            ipam: Ipam {
                driver: "default",
                // Some clients send an empty one, some none, and read what they sent.
                options: spec.ipam_options.clone(),
                config: spec.pools.iter().map(ShownPool::of).collect(),
            },
            internal: spec.internal,
            attachable: spec.attachable,
            ingress: false,
            config_from: BTreeMap::from([("Network", spec.config_from.clone())]),
            config_only: spec.config_only,
            containers: members.into_iter().map(Resource::of).collect(),
            options: spec.options.clone(),
            labels: spec.labels.clone(),
            egress: None,
        }
    }
}

impl ShownPool {
    fn of(pool: &NetworkPool) -> Self {
        let auxiliary = pool.auxiliary.iter();
        Self {
            subnet: pool.subnet.to_string(),
            ip_range: pool.range.map(String::from).unwrap_or_default(),
            gateway: pool.gateway.to_string(),
            auxiliary_addresses: auxiliary
                .map(|(name, address)| (name.clone(), address.to_string()))
                .collect(),
        }
    }
}

impl Resource {
    fn of(member: Member) -> (String, Self) {
        let endpoint = member.endpoint;
        let v4 = endpoint.address.map(|a| format!("{a}/{}", endpoint.prefix));
        let v6 = endpoint
            .address6
            .map(|a| format!("{a}/{}", endpoint.prefix6));
        let resource = Self {
            name: member.name,
            endpoint_id: endpoint.endpoint_id,
            mac_address: endpoint.mac,
            ipv4_address: v4.unwrap_or_default(),
            ipv6_address: v6.unwrap_or_default(),
        };
        (member.container.to_string(), resource)
    }
}

pub(super) async fn list(call: Call) -> Answer {
    let filters = Filters::parse(call.query.get("filters"), &FILTERS)?;
    let kinds = filters.get("type").iter();
    if let Some(other) = kinds
        .into_iter()
        .find(|kind| !["builtin", "custom"].contains(&kind.as_str()))
    {
        return Err(ApiError::invalid(format!(
            "invalid filter: 'type'='{other}'"
        )));
    }
    let dangling = filters.switch("dangling")?;
    let networks = call.engine().networks();
    let unused = |network: &Network| !network.predefined && networks.members(network.id).is_empty();
    let shown: Vec<Shown> = networks
        .list()
        .iter()
        .filter(|network| {
            let kind = if network.predefined {
                "builtin"
            } else {
                "custom"
            };
            let id = network.id.to_string();
            filters.fuzzy("name", &network.spec.name)
                && filters.any("id", |wanted| id.starts_with(wanted))
                && filters.exact("driver", network.spec.driver.word())
                && filters.exact("scope", "local")
                && filters.exact("type", kind)
                && filters.labels("label", &network.spec.labels)
                && dangling.is_none_or(|dangling| dangling == unused(network))
        })
        .map(|network| Shown::of(network, Vec::new()))
        .collect();
    json(&shown)
}

pub(super) async fn inspect(call: Call) -> Answer {
    let scope = call.query.get("scope");
    if !matches!(scope, "" | "local") {
        return Err(ApiError::not_found(format!(
            "network {} not found",
            call.name()
        )));
    }
    let networks = call.engine().networks();
    let network = networks.find(call.name())?;
    let members = networks.members(network.id);
    let mut shown = Shown::of(&network, members);
    shown.egress = networks.egress(&network).await.map(WireEgress::from);
    json(&shown)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CreateBody {
    name: OrZero<String>,
    driver: OrZero<String>,
    scope: OrZero<String>,
    internal: OrZero<bool>,
    attachable: OrZero<bool>,
    ingress: OrZero<bool>,
    config_only: OrZero<bool>,
    config_from: Option<ConfigFrom>,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<IpamBody>,
    options: Option<TextMap>,
    labels: Option<TextMap>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigFrom {
    network: OrZero<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct IpamBody {
    driver: OrZero<String>,
    options: Option<TextMap>,
    config: Option<Vec<PoolBody>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PoolBody {
    subnet: OrZero<String>,
    #[serde(rename = "IPRange")]
    ip_range: OrZero<String>,
    gateway: OrZero<String>,
    #[serde(alias = "AuxAddress")]
    auxiliary_addresses: Option<TextMap>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CreateAnswer {
    id: String,
    warning: &'static str,
}

pub(super) async fn create(mut call: Call) -> Answer {
    let body: CreateBody = call.json().await?;
    if body.ingress.0 {
        return Err(ApiError::not_there("an ingress network"));
    }
    if !matches!(body.scope.0.as_str(), "" | "local") {
        return Err(EngineError::Unavailable(super::NO_SWARM.to_owned()).into());
    }
    let ipam = body.ipam.unwrap_or_default();
    let pool = |pool: PoolBody| PoolRequest {
        subnet: pool.subnet.0,
        gateway: pool.gateway.0,
        range: pool.ip_range.0,
        auxiliary: from_text_map(pool.auxiliary_addresses),
    };
    let request = NetworkRequest {
        name: body.name.0,
        driver: body.driver.0,
        internal: body.internal.0,
        attachable: body.attachable.0,
        ipv4: body.enable_ipv4.unwrap_or(true),
        ipv6: body.enable_ipv6.unwrap_or(false),
        ipam_driver: ipam.driver.0,
        ipam_options: ipam.options.map(|options| from_text_map(Some(options))),
        pools: ipam
            .config
            .unwrap_or_default()
            .into_iter()
            .map(pool)
            .collect(),
        options: from_text_map(body.options),
        labels: from_text_map(body.labels),
        config_only: body.config_only.0,
        config_from: body
            .config_from
            .map(|from| from.network.0)
            .unwrap_or_default(),
    };
    let id = call.engine().networks().create(request).await?.to_string();
    json_with(StatusCode::CREATED, &CreateAnswer { id, warning: "" })
}

pub(super) async fn remove(call: Call) -> Answer {
    call.engine().networks().remove(call.name()).await?;
    Ok(no_content())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConnectBody {
    container: OrZero<String>,
    endpoint_config: Option<EndpointRequest>,
}

pub(super) async fn connect(mut call: Call) -> Answer {
    let body: ConnectBody = call.json().await?;
    let asked: EndpointSpec = body.endpoint_config.unwrap_or_default().into();
    let networks = call.engine().networks();
    networks
        .connect(call.name(), &body.container.0, asked)
        .await?;
    Ok(empty(StatusCode::OK))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DisconnectBody {
    container: OrZero<String>,
    force: OrZero<bool>,
}

pub(super) async fn disconnect(mut call: Call) -> Answer {
    let body: DisconnectBody = call.json().await?;
    let networks = call.engine().networks();
    let (container, force) = (&body.container.0, body.force.0);
    networks.disconnect(call.name(), container, force).await?;
    Ok(empty(StatusCode::OK))
}

pub(super) async fn prune(call: Call) -> Answer {
    let filters = Filters::parse(call.query.get("filters"), &["label", "label!", "until"])?;
    let until = filters.until_ns(time::now_ns())?;
    let keep = move |network: &Network| {
        let labels = &network.spec.labels;
        until.is_some_and(|until| network.created_ns > until)
            || !filters.labels("label", labels)
            || !filters.no_labels("label!", labels)
    };
    let gone = call.engine().networks().prune(keep).await;
    json(&json!({ "NetworksDeleted": (!gone.is_empty()).then_some(gone) }))
}

/// Ours: what is installed in the kernel and why.
pub(super) async fn rules(call: Call) -> Answer {
    json(&json!({ "rules": call.engine().networks().rules().await? }))
}
