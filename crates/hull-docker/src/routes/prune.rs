//! Prune: what nobody uses goes.

use hull_engine::api::{Container, ImagePrune};
use serde::Serialize;
use serde_json::json;

use super::images::{RemovalRow, removal_rows};
use crate::body::json;
use crate::filter::Filters;
use crate::request::Call;
use crate::router::Answer;
use crate::time;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ContainersAnswer {
    containers_deleted: Option<Vec<String>>,
    space_reclaimed: u64,
}

pub(super) async fn containers(call: Call) -> Answer {
    let filters = Filters::parse(call.query.get("filters"), &["label", "label!", "until"])?;
    let until = filters.until_ns(time::now_ns())?;
    let keep = move |container: &Container| {
        let labels = &container.spec.config.labels;
        until.is_some_and(|until| container.created_ns > until)
            || !filters.labels("label", labels)
            || !filters.no_labels("label!", labels)
    };
    let (removed, space_reclaimed) = call.engine().containers().prune(keep).await?;
    let ids: Vec<String> = removed.iter().map(ToString::to_string).collect();
    json(&ContainersAnswer {
        containers_deleted: (!ids.is_empty()).then_some(ids),
        space_reclaimed,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImagesAnswer {
    images_deleted: Option<Vec<RemovalRow>>,
    space_reclaimed: u64,
}

pub(super) async fn images(call: Call) -> Answer {
    let filters = Filters::parse(
        call.query.get("filters"),
        &["dangling", "label", "label!", "until"],
    )?;
    let pairs = |name: &str| {
        let values = filters.get(name).iter();
        values
            .map(|wanted| match wanted.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (wanted.clone(), None),
            })
            .collect()
    };
    let which = ImagePrune {
        all: filters.switch("dangling")? == Some(false),
        until_ns: filters.until_ns(time::now_ns())?,
        labels: pairs("label"),
        no_labels: pairs("label!"),
    };
    let (removed, space_reclaimed) = call.engine().images().prune(&which).await?;
    let rows = removal_rows(removed);
    json(&ImagesAnswer {
        images_deleted: (!rows.is_empty()).then_some(rows),
        space_reclaimed,
    })
}

/// There is no builder yet, so its cache is empty; `docker system prune` asks for it last.
pub(super) async fn build_cache(_: Call) -> Answer {
    json(&json!({ "CachesDeleted": null, "SpaceReclaimed": 0 }))
}
