//! Volumes: create, list, inspect, remove, prune; and ours beside Docker's: rename, clone, snapshot,
//! export, import.

use std::collections::BTreeMap;

use http::StatusCode;
use hull_engine::EngineError;
use hull_engine::api::{Volume, VolumeCopy, VolumeRequest};
use hull_model::spec::VolumeSpec;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::body::{json, json_with, no_content};
use crate::download::download;
use crate::errors::ApiError;
use crate::filter::Filters;
use crate::request::{ApiMinor, Call};
use crate::router::Answer;
use crate::wire::volume::{CreateBody, Volume as Shown};
use crate::wire::{OrZero, TextMap, from_text_map};

const FILTERS: [&str; 4] = ["dangling", "driver", "label", "name"];
/// First version whose prune leaves named volumes alone unless `all` is asked for.
const MINOR_PRUNE_ALL: ApiMinor = 42;

fn labels(volume: &Volume) -> BTreeMap<String, String> {
    volume.labels.clone().unwrap_or_default()
}

pub(super) async fn list(call: Call) -> Answer {
    let filters = Filters::parse(call.query.get("filters"), &FILTERS)?;
    let dangling = filters.switch("dangling")?;
    let volumes = call.engine().volumes().list();
    let shown = volumes.iter().filter(|volume| {
        dangling.is_none_or(|wanted| wanted == volume.users.is_empty())
            && filters.fuzzy("name", &volume.name)
            && filters.exact("driver", "local")
            && filters.labels("label", &labels(volume))
    });
    let rows: Vec<_> = shown.map(|volume| Shown::show(volume, None)).collect();
    json(&json!({"Volumes": rows, "Warnings": null}))
}

pub(super) async fn create(mut call: Call) -> Answer {
    let body: CreateBody = call.json().await?;
    let volume = call.engine().volumes().create(body.into()).await?;
    json_with(StatusCode::CREATED, &Shown::show(&volume, None))
}

pub(super) async fn inspect(call: Call) -> Answer {
    let volume = call.engine().volumes().inspect(call.name())?;
    json(&Shown::show(&volume, None))
}

pub(super) async fn remove(call: Call) -> Answer {
    match call.engine().volumes().remove(call.name()).await {
        Err(EngineError::NoSuchVolume(_)) if call.query.flag("force") => Ok(no_content()),
        done => done.map(|()| no_content()).map_err(ApiError::from),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Pruned {
    volumes_deleted: Vec<String>,
    space_reclaimed: u64,
}

pub(super) async fn prune(call: Call) -> Answer {
    let filters = Filters::parse(call.query.get("filters"), &["all", "label", "label!"])?;
    let all = filters
        .switch("all")?
        .unwrap_or(call.minor < MINOR_PRUNE_ALL);
    let keep = move |volume: &Volume| {
        !(all || volume.anonymous)
            || !filters.labels("label", &labels(volume))
            || !filters.no_labels("label!", &labels(volume))
    };
    let (volumes_deleted, space_reclaimed) = call.engine().volumes().prune(keep).await?;
    json(&Pruned {
        volumes_deleted,
        space_reclaimed,
    })
}

/// Ours: a volume as an archive.
pub(super) async fn export(call: Call) -> Answer {
    let name = call.name().to_owned();
    let engine = call.engine().clone();
    download(|output| async move { engine.volumes().export(&name, output).await }).await
}

/// Ours: a new volume of an archive; labels and options are in the query, `key=value` each.
pub(super) async fn import(call: Call) -> Answer {
    let pairs = |name: &str| {
        let given = call.query.all(name);
        let pair = |text: &str| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            (key.to_owned(), value.to_owned())
        };
        let pairs: BTreeMap<_, _> = given.map(pair).collect();
        (!pairs.is_empty()).then_some(pairs)
    };
    let request = VolumeRequest {
        name: call.name().to_owned(),
        spec: VolumeSpec {
            driver: String::new(),
            options: pairs("opt"),
            labels: pairs("label"),
        },
    };
    let engine = call.engine().clone();
    let upload = Box::new(call.into_upload());
    let volume = engine.volumes().import(request, upload).await?;
    json_with(StatusCode::CREATED, &Shown::show(&volume, None))
}

/// The body of a rename, a clone and a snapshot.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Target {
    name: OrZero<String>,
    labels: Option<TextMap>,
    /// Writers go on while the copy is made.
    no_pause: OrZero<bool>,
}

/// Ours: gives a volume that no container has another name.
pub(super) async fn rename(mut call: Call) -> Answer {
    let target: Target = call.json().await?;
    let volumes = call.engine().volumes();
    volumes.rename(call.name(), &target.name.0).await?;
    Ok(no_content())
}

/// Ours: a new volume with the same contents.
pub(super) async fn clone(call: Call) -> Answer {
    copy(call, false).await
}

/// Ours: a new volume with the same contents that can only be read.
pub(super) async fn snapshot(call: Call) -> Answer {
    copy(call, true).await
}

async fn copy(mut call: Call, snapshot: bool) -> Answer {
    let target: Target = call.json().await?;
    let request = VolumeCopy {
        from: call.name().to_owned(),
        to: target.name.0,
        snapshot,
        pause: !target.no_pause.0,
        labels: target.labels.map(|map| from_text_map(Some(map))),
    };
    let volume = call.engine().volumes().copy(request).await?;
    json_with(StatusCode::CREATED, &Shown::show(&volume, None))
}
