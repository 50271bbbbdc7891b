//! Volumes: list and inspect of those that containers have.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use hull_engine::api::Container;
use serde_json::json;

use crate::body::json;
use crate::errors::ApiError;
use crate::filter::Filters;
use crate::request::Call;
use crate::router::Answer;
use crate::wire::container::Volume;

const FILTERS: [&str; 4] = ["dangling", "driver", "label", "name"];

/// The volumes that containers have, by name.
pub(super) fn volumes(containers: &[Arc<Container>]) -> Vec<Volume> {
    let mounts = containers.iter().flat_map(|container| &container.mounts);
    let by_name: BTreeMap<&str, Volume> = mounts
        .filter(|mount| mount.kind == "volume" && !mount.name.is_empty())
        .map(|mount| {
            let volume = Volume {
                driver: "local",
                labels: None,
                mountpoint: mount.source.clone(),
                name: mount.name.clone(),
                options: None,
                scope: "local",
            };
            (mount.name.as_str(), volume)
        })
        .collect();
    by_name.into_values().collect()
}

pub(super) async fn list(call: Call) -> Answer {
    let filters = Filters::parse(call.query.get("filters"), &FILTERS)?;
    let no_labels = BTreeMap::new();
    let dangling = filters.switch("dangling")?;
    let shown: Vec<Volume> = volumes(&call.engine().containers().list())
        .into_iter()
        .filter(|volume| {
            dangling != Some(true)
                && filters.fuzzy("name", &volume.name)
                && filters.exact("driver", volume.driver)
                && filters.labels("label", &no_labels)
        })
        .collect();
    json(&json!({"Volumes": shown, "Warnings": null}))
}

fn find(call: &Call) -> Result<Volume, ApiError> {
    let found = volumes(&call.engine().containers().list());
    found
        .into_iter()
        .find(|volume| volume.name == call.name())
        .ok_or_else(|| ApiError::not_found(format!("get {}: no such volume", call.name())))
}

pub(super) async fn inspect(call: Call) -> Answer {
    json(&find(&call)?)
}

/// Every volume that is known is known by its containers, so none can go.
pub(super) async fn remove(call: Call) -> Answer {
    let name = find(&call)?.name;
    let containers = call.engine().containers().list();
    let users: Vec<String> = containers
        .iter()
        .filter(|container| container.mounts.iter().any(|mount| mount.name == name))
        .map(|container| container.id.to_string())
        .collect();
    Err(ApiError::new(
        StatusCode::CONFLICT,
        format!("remove {name}: volume is in use - [{}]", users.join(", ")),
    ))
}
