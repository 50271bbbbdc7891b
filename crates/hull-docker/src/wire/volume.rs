//! Volumes, as requests name them and as answers show them.

use std::collections::BTreeMap;
use std::path::Path;

use hull_engine::api::{self, VolumeRequest};
use hull_model::spec::VolumeSpec;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::time;
use crate::wire::{OrZero, TextMap, from_text_map};

/// The body of a create.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct CreateBody {
    name: OrZero<String>,
    driver: OrZero<String>,
    driver_opts: Option<TextMap>,
    labels: Option<TextMap>,
}

impl From<CreateBody> for VolumeRequest {
    fn from(body: CreateBody) -> Self {
        Self {
            name: body.name.0,
            spec: VolumeSpec {
                driver: body.driver.0,
                options: body.driver_opts.map(|map| from_text_map(Some(map))),
                labels: body.labels.map(|map| from_text_map(Some(map))),
            },
        }
    }
}

/// A volume.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Volume<'a> {
    created_at: String,
    driver: &'static str,
    labels: Option<&'a BTreeMap<String, String>>,
    mountpoint: &'a Path,
    name: &'a str,
    options: Option<&'a BTreeMap<String, String>>,
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_data: Option<UsageData>,
}

/// What a volume takes; only where it was asked for, since it is counted file by file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct UsageData {
    ref_count: usize,
    size: u64,
}

impl<'a> Volume<'a> {
    pub(crate) fn show(volume: &'a api::Volume, bytes: Option<u64>) -> Self {
        Self {
            created_at: time::rfc3339(time::seconds(volume.created_ns) * 1_000_000_000),
            driver: "local",
            labels: volume.labels.as_ref(),
            mountpoint: &volume.mountpoint,
            name: &volume.name,
            options: volume.options.as_ref(),
            scope: "local",
            status: status(volume),
            usage_data: bytes.map(|size| UsageData {
                ref_count: volume.users.len(),
                size,
            }),
        }
    }
}

/// What Docker has no field for.
fn status(volume: &api::Volume) -> Option<Value> {
    let mut status = serde_json::Map::new();
    if let Some(source) = &volume.snapshot_of {
        status.insert("SnapshotOf".to_owned(), json!(source));
    }
    let writers: Vec<&str> = volume
        .users
        .iter()
        .filter(|user| user.writes)
        .map(|user| user.name.as_str())
        .collect();
    if writers.len() > 1 {
        let warning = format!(
            "{} running containers can write to this volume at the same time",
            writers.len()
        );
        status.insert("Warning".to_owned(), json!(warning));
        status.insert("Writers".to_owned(), json!(writers));
    }
    (!status.is_empty()).then_some(Value::Object(status))
}
